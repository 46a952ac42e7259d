"""What is said of certificates and keys; OpenSSL has made them and reads them, too."""

import base64
import json
import os
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.certificates import EC_KEY, RSA_KEY, WEAK_RSA_KEY, Certificates
from yaim.dcs.etcd.access import EtcdAccess, read_secrets
from yaim.dcs.etcd.certificates import (
    MAX_BYTES,
    Certificate,
    TlsFileError,
    certificates_in,
    check_secrets,
    client_context,
    expiries,
    faults,
    read_certificates,
)

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SYSTEM_CA_FILE = Path("/etc/ssl/certs/ca-certificates.crt")
CERTIFICATE = "expected certificates in PEM form (-----BEGIN CERTIFICATE-----), found none"
WHOLE = "expected certificates that are whole: one of them is damaged"


@pytest.fixture
def access(certificates: Certificates) -> EtcdAccess:
    return EtcdAccess(
        ("https://127.0.0.1:2379",),
        ca_file=certificates.ca,
        cert_file=certificates.leaf,
        key_file=certificates.key,
    )


def told(access: EtcdAccess) -> list[str]:
    found = [str(fault) for fault in faults(access, read_secrets(access))]
    if found:
        with pytest.raises(TlsFileError) as caught:
            check_secrets(access, read_secrets(access))
        assert str(caught.value) == found[0]
    else:
        client_context(access, read_secrets(access))
    return found


def damaged(pem: Path) -> bytes:
    """Base64 still, but cut short."""
    begin, middle, *_, end = pem.read_bytes().splitlines()
    return b"\n".join((begin, middle, end, b""))


# --- whether the files can be used ---------------------------------------------------------------


def test_nothing_is_wrong_with_files_that_belong_together(access: EtcdAccess) -> None:
    assert told(access) == []


def test_nothing_is_wrong_with_no_files(access: EtcdAccess) -> None:
    assert told(EtcdAccess(access.endpoints)) == []


@pytest.mark.parametrize(
    ("made", "key"),
    [(-10, EC_KEY), (10, EC_KEY), (0, WEAK_RSA_KEY)],
    ids=["expired", "not valid yet", "weak"],
)
def test_files_can_be_used_together_whatever_etcd_may_say_of_them(
    made: int, key: tuple[str, ...], access: EtcdAccess, certificates: Certificates
) -> None:
    """gRPC takes weak keys that Debian's OpenSSL is set to refuse."""
    pair = certificates.make_leaf("any", in_days=made, new_key=key)
    assert told(replace(access, cert_file=pair[0], key_file=pair[1])) == []


def test_texts_around_certificates_are_no_fault(access: EtcdAccess, tmp_path: Path) -> None:
    ca, cert = tmp_path / "ca.pem", tmp_path / "cert.pem"
    for file, origin in ((ca, access.ca_file), (cert, access.cert_file)):
        assert origin is not None
        file.write_bytes("# Für etcd\r\n".encode() + origin.read_bytes().replace(b"\n", b"\r\n"))
    assert told(replace(access, ca_file=ca, cert_file=cert)) == []


def test_certificate_and_key_may_be_one_file(access: EtcdAccess, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    assert access.cert_file is not None and access.key_file is not None
    both.write_bytes(access.key_file.read_bytes() + access.cert_file.read_bytes())
    assert told(replace(access, cert_file=both, key_file=both)) == []


@pytest.mark.parametrize("key", ["ca", "cert"])
@pytest.mark.parametrize("content", [b"", b"\0\xff", b"text"], ids=["empty", "DER", "text"])
def test_a_file_without_a_certificate_is_named(
    key: str, content: bytes, access: EtcdAccess, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    wrong = replace(access, ca_file=file) if key == "ca" else replace(access, cert_file=file)
    assert told(wrong) == [f"etcd-{key}-file {file}: {CERTIFICATE}"]


@pytest.mark.parametrize("key", ["ca", "cert"])
def test_a_damaged_certificate_is_named(key: str, access: EtcdAccess, tmp_path: Path) -> None:
    assert access.ca_file is not None
    file = tmp_path / "file"
    file.write_bytes(damaged(access.ca_file))
    wrong = replace(access, ca_file=file) if key == "ca" else replace(access, cert_file=file)
    assert told(wrong) == [f"etcd-{key}-file {file}: {WHOLE}"]


def test_a_damaged_certificate_behind_a_good_one_is_named(
    access: EtcdAccess, tmp_path: Path
) -> None:
    assert access.ca_file is not None
    file = tmp_path / "file"
    file.write_bytes(access.ca_file.read_bytes() + damaged(access.ca_file))
    assert told(replace(access, ca_file=file)) == [f"etcd-ca-file {file}: {WHOLE}"]


@pytest.mark.parametrize("new_key", [EC_KEY, RSA_KEY], ids=["same kind", "other kind"])
def test_a_key_of_another_certificate_is_named(
    new_key: tuple[str, ...], access: EtcdAccess, certificates: Certificates
) -> None:
    """It happens in the middle of a rotation."""
    _, key = certificates.make_leaf("renewed", new_key=new_key)
    assert told(replace(access, key_file=key)) == [
        f"etcd-key-file {key}: expected the key of the certificate in etcd-cert-file"
        f" {access.cert_file}, found that of another (is one of the two just being replaced?)"
    ]


def test_a_file_without_a_key_is_named(access: EtcdAccess) -> None:
    assert told(replace(access, key_file=access.cert_file)) == [
        f"etcd-key-file {access.cert_file}: expected a private key in PEM form"
        " (-----BEGIN PRIVATE KEY-----), found none"
    ]


def test_a_damaged_key_is_named(access: EtcdAccess, tmp_path: Path) -> None:
    assert access.key_file is not None
    key = tmp_path / "key"
    key.write_bytes(damaged(access.key_file))
    assert told(replace(access, key_file=key)) == [
        f"etcd-key-file {key}: expected a private key that is whole: it is damaged"
    ]


@pytest.mark.parametrize("form", [(), ("-traditional",)], ids=["PKCS #8", "traditional"])
def test_a_key_with_a_password_is_named(
    form: tuple[str, ...], access: EtcdAccess, certificates: Certificates
) -> None:
    key = certificates.encrypted_key(*form)
    assert told(replace(access, key_file=key)) == [
        f"etcd-key-file {key}: expected a private key without a password: there is nobody to ask"
        " for it"
    ]


def test_everything_that_is_wrong_is_told(access: EtcdAccess, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    wrong = EtcdAccess(access.endpoints, ca_file=empty, cert_file=empty, key_file=empty)
    found = list(faults(wrong, read_secrets(wrong)))
    assert [each.key for each in found] == ["etcd-ca-file", "etcd-cert-file", "etcd-key-file"]
    assert {each.path for each in found} == {empty}


def test_what_counts_is_what_was_read(access: EtcdAccess, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    assert access.ca_file is not None
    ca.write_bytes(access.ca_file.read_bytes())
    access = replace(access, ca_file=ca)
    secrets = read_secrets(access)
    ca.write_bytes(b"")
    assert list(faults(access, secrets)) == []


def test_no_file_descriptor_stays_open(access: EtcdAccess) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    client_context(access, read_secrets(access))
    assert count() == before


# --- until when ----------------------------------------------------------------------------------


def test_the_end_of_every_ca_and_of_the_own_certificate_is_told(
    access: EtcdAccess, certificates: Certificates, tmp_path: Path
) -> None:
    old, _ = certificates.make_ca("old", in_days=-10)
    both, chain = tmp_path / "both.pem", tmp_path / "chain.pem"
    both.write_bytes(old.read_bytes() + certificates.ca.read_bytes())
    chain.write_bytes(certificates.leaf.read_bytes() + certificates.ca.read_bytes())
    access = replace(access, ca_file=both, cert_file=chain)
    found = expiries(access, read_secrets(access))
    assert [(each.what, each.subject) for each in found] == [
        (f"etcd-ca-file {both}", "yaim test old"),
        (f"etcd-ca-file {both}", "yaim test ca"),
        (f"etcd-cert-file {chain}", "yaim test leaf"),
    ]
    now = datetime.now(UTC)
    assert [each.days_left(now) for each in found] == [-9, 1, 1]


def test_without_files_nothing_ends(access: EtcdAccess) -> None:
    plain = EtcdAccess(access.endpoints)
    assert expiries(plain, read_secrets(plain)) == ()


# --- reading certificates ------------------------------------------------------------------------


def test_names_and_dates_are_as_openssl_was_told(certificates: Certificates) -> None:
    hosts = "DNS:etcd1.example,DNS:*.example,IP:192.0.2.1,IP:2001:db8::1,email:x@example"
    leaf, _ = certificates.make_leaf("many", hosts=hosts, in_days=-10)
    (found,) = certificates_in(leaf.read_bytes())
    assert found == Certificate(
        "yaim test many",
        "yaim test ca",
        found.not_before,
        found.not_before + timedelta(days=2),
        ("etcd1.example", "*.example", "192.0.2.1", "2001:db8::1"),
    )
    began = datetime.now(UTC) - found.not_before - timedelta(days=10)
    assert timedelta(0) <= began < timedelta(minutes=1)


@pytest.mark.skipif(not SYSTEM_CA_FILE.exists(), reason="ca-certificates is not installed")
def test_of_the_hosts_own_ca_certificates_all_are_read_as_openssl_reads_them() -> None:
    pem = SYSTEM_CA_FILE.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    theirs = [
        tuple(ssl.cert_time_to_seconds(str(each[end])) for end in ("notBefore", "notAfter"))
        for each in context.get_ca_certs()
    ]
    ours = [
        (each.not_before.timestamp(), each.not_after.timestamp()) for each in certificates_in(pem)
    ]
    assert sorted(ours) == sorted(theirs)


def test_validity_is_told_in_words() -> None:
    day = timedelta(days=1)
    certificate = Certificate("a", "b", NOW, NOW + day, ())
    assert certificate.why_not_valid(NOW) is None
    assert certificate.why_not_valid(NOW + 2 * day) == "has expired on 2026-11-23"
    early = "is not valid before 2026-11-22 (here it is 2026-11-21)"
    assert certificate.why_not_valid(NOW - day) == early


# --- the process that reads them -----------------------------------------------------------------


def test_what_is_no_certificate_is_left_out_and_the_others_stay_in_order(
    certificates: Certificates,
) -> None:
    """Whoever sends it."""
    leaf, ca = (
        ssl.PEM_cert_to_DER_cert(each.read_text()) for each in (certificates.leaf, certificates.ca)
    )
    found = read_certificates([b"", leaf, b"\x30\x82", leaf[:-1], leaf + b"\0", ca])
    assert [each and each.subject for each in found] == [
        *(None, "yaim test leaf", None, None, None, "yaim test ca"),
    ]


def test_without_certificates_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert read_certificates([]) == []


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("exec sleep 60", "their reader has not answered within 0.5 s"),
        ("sleep 60 & sleep 60", "their reader has not answered within 0.5 s"),
        ("exec yes", "their reader has written more than 1000000 bytes"),
        ("head -c 200000 /dev/zero | tr '\\0' '['; echo ]", "recursion"),
        ("exit 1", "their reader has ended"),
        (
            """echo '[{"subject": "", "issuer": "", "hosts": [], "not_before": "2020-01-01","""
            """ "not_after": "2020-01-01"}]'""",
            "a date without a time zone",
        ),
        ("echo 'ImportError: no library' >&2; exit 1", "ImportError: no library"),
        ("echo '{'", "{"),
        ("echo '{]'", "Expecting property name"),
        ("echo '[1]'", "not subscriptable"),
        ("echo '[{}]'", "'not_before'"),
        ("echo '[null, null]'", "1 were asked for, 2 answered"),
    ],
)
def test_a_process_that_fails_reads_none_and_that_is_told(
    program: str,
    why: str,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    instead = tmp_path / "python"
    instead.write_text(f"#!/bin/sh\n{program}\n")
    instead.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(instead))
    monkeypatch.setattr("yaim.dcs.etcd.certificates.READ_WITHIN_S", 0.5)
    monkeypatch.setattr("yaim.dcs.etcd.certificates.MOST_ANSWERED", 1_000_000)
    assert certificates_in(certificates.leaf.read_bytes()) == []
    (told,) = caplog.messages
    assert told.startswith("certificates are not read: ")
    assert why in told


def test_more_bytes_than_a_bound_are_not_read_and_that_is_told(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    leaf = ssl.PEM_cert_to_DER_cert(certificates.leaf.read_text())
    assert read_certificates([leaf, bytes(MAX_BYTES)]) == [None, None]
    assert caplog.messages == [f"certificates are not read: there are more than {MAX_BYTES} bytes"]


def test_a_reader_has_the_lower_of_its_limits_and_those_that_there_are(
    certificates: Certificates,
) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.leaf.read_text())
    reader = f"{sys.executable} -I -m yaim.dcs.etcd.x509"
    done = subprocess.run(
        ("sh", "-c", f"ulimit -v 900000; ulimit -t 5; exec setpriv --bounding-set=-all {reader}"),
        input=json.dumps([base64.b64encode(der).decode()]),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["subject"] == "yaim test leaf"


def test_beginnings_without_an_end_take_no_time() -> None:
    """8000 of them took 13 s."""
    began = time.process_time()
    assert certificates_in(b"-----BEGIN CERTIFICATE-----\n" * 100_000) == []
    assert time.process_time() - began < 5.0
