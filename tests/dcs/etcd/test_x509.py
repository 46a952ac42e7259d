"""What is read of a certificate, whatever its bytes are."""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import EC_KEY, Certificates
from yaim.dcs.etcd.x509 import read


@pytest.mark.filterwarnings("ignore:Parsed a")
def test_what_is_no_certificate_is_none_however_it_is_broken(certificates: Certificates) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.leaf.read_text())
    assert subject_of(der) == "yaim test leaf"
    changes: list[Callable[[int], bytes]] = [
        lambda at: der[:at],
        lambda at: der[:at] + b"\xff" + der[at + 1 :],
        lambda at: der[:at] + b"\x80" + der[at + 1 :],
        lambda at: der[:at] + b"\0" + der[at + 1 :],
    ]
    for change in changes:
        for position in range(len(der)):
            read(change(position))


def test_a_name_that_cannot_be_printed_does_no_harm(certificates: Certificates) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.leaf.read_text())
    assert subject_of(der.replace(b"yaim test leaf", b"yaim\x1b[2J\nleaf.")) == "yaim?[2J?leaf."


def test_a_name_that_is_not_utf_8_is_told_as_such_and_the_rest_read(
    certificates: Certificates,
) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.leaf.read_text())
    told, whole = read(der.replace(b"yaim test leaf", b"yaim test \xff\xfe\xfd\xfc")), read(der)
    assert told is not None and whole is not None
    assert told == {**whole, "subject": "a name that cannot be read"}


def test_hosts_that_are_no_text_are_told_as_such(certificates: Certificates) -> None:
    leaf, _ = certificates.make_leaf("hosts", hosts="DNS:etcd1.example")
    der = ssl.PEM_cert_to_DER_cert(leaf.read_text())
    told = read(der.replace(b"etcd1.example", b"etcd1.exampl\xff"))
    assert told is not None
    assert told["hosts"] == ["a name that cannot be read"]
    assert told["subject"] == "yaim test hosts"


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("/O=Example/OU=Databases", "Example, Databases"),
        ("/O=Example/CN=first/CN=second", "second"),
        ("/", "no name"),
    ],
)
def test_without_a_common_name_all_of_the_name_is_told(
    subject: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "named.pem"
    command = ("openssl", "req", "-x509", "-nodes", "-subj", subject, "-out", str(file))
    subprocess.run(
        (*command, *EC_KEY, "-keyout", str(tmp_path / "key")), check=True, capture_output=True
    )
    assert subject_of(ssl.PEM_cert_to_DER_cert(file.read_text())) == told


def subject_of(der: bytes) -> object:
    told = read(der)
    return told and told["subject"]
