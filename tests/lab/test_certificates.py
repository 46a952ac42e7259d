"""What the lab's etcd and its clients show each other."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from yaim.dcs.etcd.x509 import read
from yaim.lab.certificates import Authority
from yaim.lab.namespaces import LabError


def test_a_certificate_is_trusted_by_its_authority_alone_for_its_addresses(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    issued = ours.issue("etcd1", ["198.51.100.1", "2001:db8::1"])
    read_back = read(ssl.PEM_cert_to_DER_cert(issued.cert.read_text()))
    assert read_back is not None
    assert read_back["subject"] == "yaim lab etcd1"
    assert read_back["hosts"] == ["198.51.100.1", "2001:db8::1"]
    for purpose in ("sslserver", "sslclient"):
        for authority, status in ((ours, 0), (other, 2)):
            command = ("openssl", "verify", "-purpose", purpose, "-CAfile", str(authority.cert))
            done = subprocess.run((*command, str(issued.cert)), capture_output=True)
            assert done.returncode == status, done.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)


def test_the_same_name_again_replaces_the_files(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first = authority.issue("n1", ["127.0.0.1"])
    before = first.cert.read_bytes()
    assert authority.issue("n1", ["127.0.0.1"]) == first
    assert first.cert.read_bytes() != before


def test_without_the_library_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(LabError, match="needs trustme: apt-get install python3-trustme"):
        Authority(tmp_path)
