"""What the log tells of endpoints and certificates before they are needed."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.dcs.etcd.conftest import PATIENT_S, EtcdServer
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.survey import Survey
from yaim.lab.wait import wait_until

Told = Callable[[str], int]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    """How often a text has been told."""
    caplog.set_level(logging.INFO)
    yield lambda text: sum(text in record.getMessage() for record in caplog.records)


def test_an_endpoint_that_is_down_is_told_once_and_when_it_is_back(
    etcd: EtcdServer, tmp_path: Path, told: Told
) -> None:
    """Although the other one does all the work."""
    (tmp_path / "other").mkdir()
    other = EtcdServer(tmp_path / "other", address="127.0.0.5")
    client = EtcdClient(EtcdAccess((etcd.url, other.url)), PATIENT_S)
    client.put(b"a", b"")
    survey = Survey(client, at_most_every_s=0.2)
    down = f"etcd endpoint {other.url}: 127.0.0.5 refuses the connection"
    wait_until(lambda: told(down) > 0, 60.0, "the first look")
    try:
        other.start()
        stranger = f"etcd endpoint {other.url}: is of another etcd cluster"
        wait_until(lambda: told(stranger) > 0, 60.0, "a look at the wrong one")
    finally:
        other.close()
    wait_until(lambda: told(down) > 1, 60.0, "a look at nobody")
    etcd.stop()
    survey.soon()
    wait_until(lambda: told(f"etcd endpoint {etcd.url}: ") > 0, 60.0, "a look")
    etcd.start()
    again = f"etcd endpoint {etcd.url} answers again"
    wait_until(lambda: told(again) > 0, 60.0, "the endpoint to answer again")
    assert (told(down), told(stranger), told(again)) == (2, 1, 1)
    client.close()


def test_certificates_that_end_soon_are_told(
    tmp_path: Path, certificates: Certificates, told: Told
) -> None:
    """Both sides': these last for two days."""
    server = EtcdServer(tmp_path, certificates)
    try:
        server.start()
        client = EtcdClient(server.access, PATIENT_S)
        Survey(client, at_most_every_s=0.2)
        for what in (
            f"etcd-ca-file {certificates.ca} (yaim test ca): expires in 1 day",
            f"etcd-cert-file {certificates.leaf} (yaim test leaf): expires in 1 day",
            f"{server.url} (yaim test leaf): expires in 1 day",
        ):
            wait_until(lambda what=what: told(what) == 1, 60.0, what)  # type: ignore[misc]
        client.close()
    finally:
        server.close()


def test_a_certificate_that_etcd_wants_and_does_not_get_is_told(
    tmp_path: Path, certificates: Certificates, told: Told
) -> None:
    server = EtcdServer(tmp_path, certificates)
    try:
        server.start()
        client = EtcdClient(replace(server.access, cert_file=None, key_file=None), PATIENT_S)
        Survey(client, at_most_every_s=0.2)
        what = f"etcd endpoint {server.url}: etcd wants a client certificate"
        wait_until(lambda: told(what) == 1, 60.0, what)
        client.close()
    finally:
        server.close()
