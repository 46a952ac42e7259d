"""Calls to a real etcd, and to none."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import etcd3.etcdrpc as rpc
import grpc
import pytest

from tests.certificates import Certificates
from tests.dcs.etcd.conftest import BY_DEFAULT, PATIENT_S, EtcdServer
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import EtcdLeaseNotFound
from yaim.dcs.etcd.keys import KeyValue

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def silent() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_what_is_written_is_read_with_its_revisions(client: EtcdClient) -> None:
    client.put(b"a/1", b"one")
    client.put(b"a/2", b"two")
    client.put(b"a/1", b"uno")
    client.put(b"b/1", b"other")
    pairs, revision = client.read_all(b"a/", b"a0")
    assert pairs == {b"a/1": KeyValue(b"uno", 0, 2, 4, 2), b"a/2": KeyValue(b"two", 0, 3, 3)}
    assert revision == 5


def test_a_lease_is_granted_kept_and_revoked(client: EtcdClient) -> None:
    lease, ttl_s = client.grant(5).id, 5
    assert ttl_s == 5
    assert client.keep(lease).ttl_s == 5
    client.revoke(lease)
    with pytest.raises(EtcdLeaseNotFound):
        client.keep(lease)
    with pytest.raises(EtcdLeaseNotFound):
        client.revoke(lease)


def test_etcd_grants_no_ttl_below_its_minimum(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path, None, *BY_DEFAULT)
    try:
        server.start()
        client = EtcdClient(server.access, PATIENT_S)
        assert client.grant(1).ttl_s == 2
        client.close()
    finally:
        server.close()


def test_a_watch_tells_changes_in_order(client: EtcdClient) -> None:
    seen: SimpleQueue[tuple[bytes, int]] = SimpleQueue()

    def watch() -> None:
        try:
            for answer in client.watch(b"a/", b"a0", 2):
                for event in answer.events:
                    seen.put((event.kv.key, event.kv.mod_revision))
        except EtcdError:
            pass

    client.put(b"a/1", b"")
    threading.Thread(target=watch, daemon=True).start()
    client.put(b"a/2", b"")
    client.put(b"b", b"")
    client.delete(b"a/1")
    got = [seen.get(timeout=PATIENT_S) for _ in range(3)]
    assert got == [(b"a/1", 2), (b"a/2", 3), (b"a/1", 5)]


def test_a_compacted_watch_ends_with_an_error(etcd: EtcdServer, client: EtcdClient) -> None:
    for _ in range(5):
        client.put(b"a", b"")
    etcd.ctl("compact", "4")
    with pytest.raises(EtcdError, match="compacted"):
        for _ in client.watch(b"a", b"b", 2):
            pass


def test_a_watch_ends_when_etcd_does(etcd: EtcdServer, client: EtcdClient) -> None:
    watch = client.watch(b"a", b"b", 1)
    next(watch)
    etcd.stop()
    with pytest.raises(EtcdError):
        next(watch)


def test_a_watch_that_is_ended_without_an_error_ends_with_one() -> None:
    """A proxy that is shut down gently may do that."""

    status = rpc.StatusResponse().SerializeToString()
    answers_status = grpc.unary_unary_rpc_method_handler(lambda request, context: status)
    ends = grpc.stream_stream_rpc_method_handler(lambda requests, context: iter(()))
    handlers = (
        grpc.method_handlers_generic_handler(
            "etcdserverpb.Maintenance", {"Status": answers_status}
        ),
        grpc.method_handlers_generic_handler("etcdserverpb.Watch", {"Watch": ends}),
    )
    server = grpc.server(ThreadPoolExecutor(2), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = EtcdClient(EtcdAccess((f"http://127.0.0.1:{port}",)), PATIENT_S)
    with pytest.raises(EtcdError, match="the watch was ended"):
        list(client.watch(b"a", b"b", 1))
    client.close()
    server.stop(None)


def test_nobody_at_the_endpoint_is_told_with_its_name() -> None:
    client = EtcdClient(EtcdAccess((NOWHERE,)), 1.0)
    with pytest.raises(EtcdError, match=r"http://127\.0\.0\.1:9: .*"):
        client.read_all(b"a", b"b")


def test_a_silent_endpoint_is_given_up_in_time(silent: str) -> None:
    client = EtcdClient(EtcdAccess((silent,)), 0.5)
    started = time.monotonic()
    with pytest.raises(EtcdError):
        client.read_all(b"a", b"b")
    assert time.monotonic() - started < 2.0


def test_after_a_failure_the_next_endpoint_is_used(etcd: EtcdServer, silent: str) -> None:
    client = EtcdClient(EtcdAccess((NOWHERE, silent, etcd.url)), PATIENT_S)
    for _ in range(3):
        try:
            client.grant(5)
            break
        except EtcdError:
            continue
    else:
        pytest.fail("the good endpoint was never tried")
    client.grant(5)
    client.close()


def test_a_status_is_read_from_whichever_endpoint_answers(etcd: EtcdServer) -> None:
    client = EtcdClient(EtcdAccess((NOWHERE, etcd.url, "http://127.0.0.1:10")), PATIENT_S)
    assert client.read_all(b"a", b"b")[0] == {}
    client.close()


def test_a_restarted_etcd_is_used_again(etcd: EtcdServer, client: EtcdClient) -> None:
    client.put(b"a", b"1")
    etcd.stop()
    with pytest.raises(EtcdError):
        client.put(b"a", b"2")
    etcd.start()
    client.read_all(b"a", b"b")


def test_proxies_of_the_environment_are_not_used(
    client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", NOWHERE)
    monkeypatch.setenv("https_proxy", NOWHERE)
    client.close()
    client.put(b"a", b"1")


def test_user_and_password_work_without_tls_and_survive_a_restart_of_etcd(
    etcd: EtcdServer,
) -> None:
    etcd.ctl("user", "add", "root:r")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("role", "add", "yaim")
    etcd.ctl("role", "grant-permission", "--prefix=true", "yaim", "readwrite", "/service/yaim/")
    etcd.ctl("user", "add", "db1:secret")
    etcd.ctl("user", "grant-role", "db1", "yaim")
    etcd.ctl("auth", "enable")
    client = EtcdClient(EtcdAccess((etcd.url,), user="db1", password="secret"), PATIENT_S)
    client.put(b"/service/yaim/ips/192.0.2.10", b"")
    with pytest.raises(EtcdError, match="permission denied"):
        client.put(b"/other", b"")
    etcd.stop()
    etcd.start()
    try:
        client.put(b"/service/yaim/ips/192.0.2.11", b"")
    except EtcdError:  # the connection was found dead; the next try makes a new one
        client.put(b"/service/yaim/ips/192.0.2.11", b"")
    assert len(client.read_all(b"/service/yaim/", b"/service/yaim0")[0]) == 2
    client.close()


def test_a_wrong_password_is_told(etcd: EtcdServer) -> None:
    etcd.ctl("user", "add", "root:r")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("auth", "enable")
    client = EtcdClient(EtcdAccess((etcd.url,), user="root", password="wrong"), PATIENT_S)
    with pytest.raises(EtcdError, match="authentication failed"):
        client.read_all(b"a", b"b")
    client.close()


def test_a_certificate_file_that_cannot_be_read_is_named() -> None:
    access = EtcdAccess(("https://127.0.0.1:2379",), ca_file=Path("/nonexistent/ca.pem"))
    with pytest.raises(EtcdError, match=r"/nonexistent/ca\.pem: No such file"):
        EtcdClient(access, 1.0).read_all(b"a", b"b")


def test_tls_with_certificates_on_both_sides(tmp_path: Path, certificates: Certificates) -> None:
    """And with none that the other side should take."""
    server = EtcdServer(tmp_path, certificates)
    try:
        server.start()
        client = EtcdClient(server.access, PATIENT_S)
        client.put(b"a", b"one")
        assert client.read_all(b"a", b"b")[0][b"a"].value == b"one"
        assert client.keep(client.grant(5).id).ttl_s == 5
        seen = client.watch(b"a", b"b", 2)
        assert next(answer for answer in seen if answer.events).events[0].kv.value == b"one"
        client.close()
        for wrong in (
            replace(server.access, ca_file=certificates.stranger),
            replace(server.access, ca_file=None),
            replace(server.access, cert_file=None, key_file=None),
        ):
            stranger = EtcdClient(wrong, 1.0)
            with pytest.raises(EtcdError, match=r"https://127\.0\.0\.1:2379"):
                stranger.read_all(b"a", b"b")
            stranger.close()
    finally:
        server.close()


def test_several_ranges_are_read_as_of_one_revision(
    client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever changes in between, and into how many pages a range is split."""
    for number in range(40):
        client.put(f"a/{number:02}".encode(), b"x" * 100)
    client.put(b"b/1", b"one")
    asked: list[int] = []
    read_page = client._read_page

    def read_and_change(range_: tuple[bytes, bytes], most: int, revision: int) -> object:
        answer = read_page(range_, most, revision)
        asked.append(len(answer.kvs))
        client.put(b"a/39", b"changed")
        client.put(b"b/1", b"changed")
        return answer

    monkeypatch.setattr(client, "_read_page", read_and_change)
    for is_wary, pages in ((False, [16, 24, 1]), (False, [40, 1]), (True, [16, 16, 8, 1])):
        client.put(b"a/39", b"x" * 100)
        client.put(b"b/1", b"one")
        client._had_too_much = is_wary
        asked.clear()
        pairs, revision = client.read_ranges((b"a/", b"a0"), (b"b/", b"b0"))
        assert asked == pages
        assert (pairs[b"a/39"].value, pairs[b"b/1"].value) == (b"x" * 100, b"one")
        assert len(pairs) == 41 and max(pair.mod_revision for pair in pairs.values()) == revision


def test_as_long_as_there_is_much_it_is_read_in_small_pages(
    client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yaim.dcs.etcd.client.MAX_BYTES", 2000)
    for number in range(20):
        client.put(f"a/{number:02}".encode(), b"x" * 100)
    for _ in range(2):
        with pytest.raises(EtcdError, match="reading a/: there are more than 2000 bytes"):
            client.read_all(b"a/", b"a0")
    assert client._had_too_much
    client.delete(b"a/01")
    assert len(client.read_all(b"a/", b"a0")[0]) == 19
    assert client._had_too_much
    for number in range(12):
        client.delete(f"a/{number:02}".encode())
    assert len(client.read_all(b"a/", b"a0")[0]) == 8
    assert not client._had_too_much
