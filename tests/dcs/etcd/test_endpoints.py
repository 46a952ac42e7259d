"""Several endpoints, of which some do not answer; and ways in that change."""

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import grpc
import pytest

from tests.certificates import Certificates
from tests.dcs.etcd.conftest import PATIENT_S, EtcdServer, GrpcProxy
from tests.dcs.etcd.false_etcd import FalseEtcd
from yaim.dcs.etcd.access import EtcdAccess, EtcdError, EtcdUnreachable
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import BREAKS_KEEPALIVES_OFF
from yaim.dcs.etcd.endpoints import Endpoints
from yaim.lab.relay import Relay
from yaim.lab.wait import wait_until

NOWHERE = "http://127.0.0.1:9"
FAR_S = 60.0
"""A time-out that none of these tests may have to wait for."""
SOON_S = 20.0


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def relays(etcd: EtcdServer, tmp_path: Path) -> Iterator[tuple[Relay, Relay]]:
    """Two ways to the same etcd."""
    pair = tuple(
        Relay(address, "127.0.0.1", 2379, tmp_path / "relay.log")
        for address in ("127.0.0.2", "127.0.0.3")
    )
    yield pair[0], pair[1]
    for relay in pair:
        relay.close()


def url(relay: Relay) -> str:
    return f"http://{relay.address}:2379"


def quickly(started: float) -> bool:
    return time.monotonic() - started < SOON_S


def test_a_keepalive_is_asked_of_another_endpoint_when_one_falls_silent(
    relays: tuple[Relay, Relay],
) -> None:
    """Whichever is in use: each in turn keeps its connections and does not answer any more."""
    client = EtcdClient(EtcdAccess(tuple(url(relay) for relay in relays)), FAR_S)
    lease = client.grant(60)
    for relay in (*relays, *relays):
        relay.swallow()
        started = time.monotonic()
        kept = client.keep(lease.id)
        assert quickly(started)
        assert kept.sent_at > lease.sent_at
        relay.restore()
    client.close()


def test_an_answer_counts_from_the_moment_when_its_own_request_was_sent(
    etcd: EtcdServer, silent: str
) -> None:
    """Not from the one that was not answered."""
    for _ in range(6):  # whichever is tried first
        client = EtcdClient(EtcdAccess((silent, etcd.url)), FAR_S)
        lease = client.grant(60)
        before = lease.sent_at
        kept = client.keep(lease.id)
        assert before < kept.sent_at
        client.close()


def test_a_slow_endpoint_is_waited_for_when_there_is_no_better_one(
    relays: tuple[Relay, Relay],
) -> None:
    client = EtcdClient(EtcdAccess(tuple(url(relay) for relay in relays)), FAR_S)
    lease = client.grant(60)
    for relay in relays:
        relay.delay(0.3, 0.3)
    started = time.monotonic()
    assert client.keep(lease.id).ttl_s == 60
    assert time.monotonic() - started >= 0.6
    client.put(b"a", b"")
    assert quickly(started)
    client.close()


def test_a_dead_connection_to_the_only_endpoint_is_made_anew(
    relays: tuple[Relay, Relay],
) -> None:
    """A firewall may have forgotten it: what is sent there is lost, a new one works."""
    relay = relays[0]
    client = EtcdClient(EtcdAccess((url(relay),)), FAR_S)
    lease = client.grant(60)
    relay.swallow()
    kept: list[int] = []
    keeping = threading.Thread(target=lambda: kept.append(client.keep(lease.id).ttl_s))
    keeping.start()
    time.sleep(0.1)
    relay.restore()
    keeping.join(SOON_S)
    assert kept == [60]
    client.close()


def test_a_keepalive_is_asked_again_of_who_had_no_leader_while_another_does_not_answer(
    etcd: EtcdServer, silent: str
) -> None:
    """A leader that hangs: a follower answers at once that it has none, until one is elected. It
    was not asked again before the time-out."""
    false = FalseEtcd(etcd.url)
    try:
        lease = EtcdClient(etcd.access, PATIENT_S).grant(60)
        has_leader = count()

        def lie(_: object, answer: object) -> object:
            return answer if next(has_leader) >= 2 else grpc.StatusCode.UNAVAILABLE

        false.lies["LeaseKeepAlive"] = lie
        for _ in range(2):  # whichever is tried first
            has_leader = count()
            client = EtcdClient(EtcdAccess((silent, false.url)), 2.0)
            assert client.keep(lease.id).ttl_s == 60
            assert next(has_leader) == 3
            client.close()
    finally:
        false.close()


def test_a_keepalive_without_an_answer_is_sent_anew_over_new_connections(silent: str) -> None:
    """After a silence the first that is answered need not be the first that was sent."""
    tried: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SOON_S)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        client = EtcdClient(EtcdAccess((url,)), 2.0)

        def keep() -> None:
            with pytest.raises(EtcdUnreachable):
                client.keep(7)

        keeping = threading.Thread(target=keep)
        started = time.monotonic()
        keeping.start()
        while len(tried) < 4:
            tried.append(server.accept()[0])
        keeping.join(SOON_S)
        assert not keeping.is_alive() and time.monotonic() - started >= 2.0
    for each in tried:
        each.close()
    client.close()


def test_a_slow_connection_that_answers_stays_in_use(
    relays: tuple[Relay, Relay], caplog: pytest.LogCaptureFixture
) -> None:
    """Also if it was asked twice, and has answered once by then: to make it anew is slower still,
    and ends the watch."""
    caplog.set_level(logging.INFO)
    client = EtcdClient(EtcdAccess((url(relays[0]),)), FAR_S)
    lease = client.grant(60)
    relays[0].delay(0.25, 0.25)
    for _ in range(3):
        client.keep(lease.id)
    assert "leaves etcd endpoint" not in caplog.text
    client.close()


def test_that_the_only_endpoint_is_left_again_and_again_is_told_rarely(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An etcd grpc-proxy was left every 1.5 s, with a line in the log each time."""
    caplog.set_level(logging.INFO)
    endpoints = Endpoints(1.0, 1.0)
    for _ in range(3):
        endpoints._tell_leaving("http://etcd1:2379", "it is a proxy")
    endpoints._tell_leaving("http://etcd1:2379", "it does not answer")
    monkeypatch.setattr("yaim.dcs.etcd.endpoints.TELL_AGAIN_AFTER_S", 0.0)
    endpoints._tell_leaving("http://etcd1:2379", "it is a proxy")
    assert [each.message.rpartition(": ")[2] for each in caplog.records] == [
        "it is a proxy",
        "it does not answer",
        "it is a proxy",
    ]


def test_a_watch_ends_when_its_endpoint_is_left(relays: tuple[Relay, Relay]) -> None:
    """It would otherwise be silent for ever."""
    client = EtcdClient(EtcdAccess(tuple(url(relay) for relay in relays)), FAR_S)
    lease = client.grant(60)
    ended: list[str] = []
    has_begun = threading.Event()

    def watch() -> None:
        try:
            for _ in client.watch(b"a", b"b", 1):
                has_begun.set()
        except EtcdError as error:
            ended.append(str(error))

    watching = threading.Thread(target=watch)
    watching.start()
    assert has_begun.wait(SOON_S)
    for relay in relays:
        relay.swallow()
        client.keep(lease.id)
        relay.restore()
    watching.join(SOON_S)
    assert len(ended) == 1
    assert "left" in ended[0] or "has not answered" in ended[0]
    client.close()


def test_when_all_endpoints_fail_each_is_told(silent: str) -> None:
    client = EtcdClient(EtcdAccess((NOWHERE, silent, "http://127.0.0.1:10")), 3.0)
    with pytest.raises(EtcdError) as raised:
        client.read_all(b"a", b"b")
    told = dict(each.split(": ", 1) for each in str(raised.value).split("; "))
    assert told[NOWHERE] == told["http://127.0.0.1:10"] == "Connection refused"
    assert "no answer in time" in told[silent] or "timed out" in told[silent]


LOOKS_UP_ANEW = """
import sys
from pathlib import Path
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.endpoints import Endpoints

hosts = Path("/etc/hosts")
client = EtcdClient(EtcdAccess(("http://etcd.yaim.test:2379",)), 20.0)
hosts.write_text("127.0.0.7 etcd.yaim.test")
try:
    sys.exit(f"an answer from nobody: {client.read_all(b'a', b'b')}")
except EtcdError as error:
    assert "http://etcd.yaim.test:2379: " in str(error), error
hosts.write_text("127.0.0.1 etcd.yaim.test")
client.read_all(b"a", b"b")
"""


def test_a_name_is_looked_up_anew(etcd: EtcdServer, tmp_path: Path) -> None:
    """Its address changes from one where nobody is to that of etcd. In a mount namespace with an
    /etc/hosts of its own."""
    (tmp_path / "hosts").touch()
    mount = f'mount --bind {tmp_path / "hosts"} /etc/hosts && exec "$@"'
    python = (sys.executable, "-c", LOOKS_UP_ANEW)
    done = subprocess.run(
        ("unshare", "--mount", "sh", "-c", mount, "sh", *python),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_an_endpoint_of_another_cluster_is_not_used(
    etcd: EtcdServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    other = EtcdServer(tmp_path / "other", address="127.0.0.5")
    other.start()
    try:
        etcd.ctl("put", "a", "ours")
        other.ctl("put", "a", "theirs")
        client = EtcdClient(EtcdAccess((etcd.url,)), 2.0)
        assert client.read_all(b"a", b"b")[0][b"a"].value == b"ours"
        client.use(EtcdAccess((other.url,)))
        assert not client.refresh()
        assert f"{other.url}: is of another etcd cluster" in caplog.text
        assert client.read_all(b"a", b"b")[0][b"a"].value == b"ours"
        etcd.stop()
        with pytest.raises(EtcdError):
            client.read_all(b"a", b"b")
        wait_until(client.refresh, PATIENT_S, "three time-outs: ours is gone for good")
        assert client.read_all(b"a", b"b")[0][b"a"].value == b"theirs"
        assert "etcd is another cluster" in caplog.text
        client.close()
    finally:
        other.close()


def test_a_look_at_all_endpoints_does_not_change_which_cluster_is_used(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    """Also if there was no answer for long, because this host was paused."""
    (tmp_path / "other").mkdir()
    other = EtcdServer(tmp_path / "other", address="127.0.0.5")
    other.start()
    try:
        memory_s = 4.0
        client = EtcdClient(EtcdAccess((etcd.url,)), PATIENT_S, memory_s)
        lease = client.grant(60)
        client.use(EtcdAccess((other.url, etcd.url)))
        assert client.refresh()
        time.sleep(memory_s + 0.1)
        client.survey()
        assert client.keep(lease.id).ttl_s == 60
        client.close()
    finally:
        other.close()


def test_etcds_grpc_proxy_is_refused_before_a_lease_is_granted(
    etcd: EtcdServer, grpc_proxy: GrpcProxy
) -> None:
    """Found in use: everything was claimed, and then no keepalive was ever answered."""
    client = EtcdClient(EtcdAccess((grpc_proxy.url,)), PATIENT_S)
    client.read_all(b"a", b"b")
    with pytest.raises(EtcdUnreachable) as caught:
        client.grant(5)
    assert str(caught.value) == f"{grpc_proxy.url}: {BREAKS_KEEPALIVES_OFF}"
    with pytest.raises(EtcdUnreachable) as caught:
        client.keep(1)
    assert str(caught.value) == f"{grpc_proxy.url}: {BREAKS_KEEPALIVES_OFF}"
    assert etcd.ctl("lease", "list").split() == ["found", "0", "leases"]
    assert client.survey() == {grpc_proxy.url: BREAKS_KEEPALIVES_OFF}
    client.close()


def test_beside_a_grpc_proxy_a_member_is_used(etcd: EtcdServer, grpc_proxy: GrpcProxy) -> None:
    for _ in range(5):
        client = EtcdClient(EtcdAccess((grpc_proxy.url, etcd.url)), PATIENT_S)
        client.read_all(b"a", b"b")
        lease = client.grant(60)
        for _ in range(20):
            assert client.keep(lease.id).ttl_s == 60
        assert client.survey() == {grpc_proxy.url: BREAKS_KEEPALIVES_OFF}
        client.close()


def test_new_endpoints_are_used_once_they_answer(
    etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = EtcdClient(EtcdAccess((etcd.url,)), PATIENT_S)
    client.put(b"a", b"")
    client.use(EtcdAccess((NOWHERE,)))
    assert not client.refresh()
    assert not client.refresh()
    assert caplog.text.count("the new access to etcd is not used, it does not work") == 1
    client.put(b"a", b"")
    client.use(EtcdAccess((NOWHERE, etcd.url)))
    assert client.refresh()
    assert "a new access to etcd is used" in caplog.text
    client.put(b"a", b"")
    client.close()


def test_a_new_access_that_goes_on_failing_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whichever endpoint is tried first."""
    client = EtcdClient(EtcdAccess((NOWHERE,)), 1.0)
    with pytest.raises(EtcdError):
        client.put(b"a", b"")
    client.use(EtcdAccess(tuple(f"http://127.0.0.1:{port}" for port in (7, 8, 9, 10, 11))))
    for _ in range(5):
        assert not client.refresh()
    assert caplog.text.count("the new access to etcd is not used, it does not work") == 1
    client.use(EtcdAccess((NOWHERE, "http://127.0.0.1:8")))
    assert not client.refresh()
    assert caplog.text.count("the new access to etcd is not used, it does not work") == 2
    client.close()


# --- certificates that are replaced -----------------------------------------------------------


def replace_file(file: Path, *contents: Path) -> None:
    """Replaces the file as a careful admin does."""
    new = file.with_name("new")
    new.write_bytes(b"".join(each.read_bytes() for each in contents))
    new.replace(file)


@dataclass(frozen=True)
class Side:
    """The files of one side, etcd's or a node's."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def of(cls, directory: Path, name: str, certificates: Certificates) -> "Side":
        side = cls(*(directory / f"{name}-{each}" for each in ("ca", "cert", "key")))
        replace_file(side.ca, certificates.ca)
        replace_file(side.cert, certificates.leaf)
        replace_file(side.key, certificates.key)
        return side


@dataclass(frozen=True)
class Secured:
    """etcd with TLS on both sides, and a client that has been in."""

    etcd: EtcdServer
    theirs: Side
    ours: Side
    client: EtcdClient


@pytest.fixture
def secured(tmp_path: Path, certificates: Certificates) -> Iterator[Secured]:
    theirs, ours = (Side.of(tmp_path, name, certificates) for name in ("etcd", "node"))
    etcd = EtcdServer(
        tmp_path, replace(certificates, ca=theirs.ca, leaf=theirs.cert, key=theirs.key)
    )
    try:
        etcd.start()
        access = EtcdAccess((etcd.url,), ca_file=ours.ca, cert_file=ours.cert, key_file=ours.key)
        client = EtcdClient(access, PATIENT_S)
        client.put(b"a", b"")
        yield Secured(etcd, theirs, ours, client)
        client.close()
    finally:
        etcd.close()


def test_all_certificates_are_replaced_one_after_the_other(
    secured: Secured, certificates: Certificates
) -> None:
    """They are replaced by those of another CA: first both CAs are trusted everywhere, then come
    the new certificates, then the old CA goes. etcd is restarted each time, the client never
    fails."""
    ca, ca_key = certificates.make_ca("next")
    cert, key = certificates.make_leaf("next-leaf", signed_by=(ca, ca_key))
    lease = secured.client.grant(60)

    def restart() -> None:
        secured.etcd.stop()
        secured.etcd.start()
        assert secured.client.keep(lease.id).ttl_s == 60

    for side in (secured.ours, secured.theirs):
        replace_file(side.ca, certificates.ca, ca)
    assert secured.client.refresh()
    restart()
    for side in (secured.theirs, secured.ours):
        replace_file(side.cert, cert)
        replace_file(side.key, key)
        secured.client.refresh()
        restart()
    for side in (secured.ours, secured.theirs):
        replace_file(side.ca, ca)
    assert secured.client.refresh()
    restart()
    secured.client.put(b"a", b"")


def test_new_files_are_used_without_anybody_saying_so_when_the_old_ones_fail(
    secured: Secured, certificates: Certificates
) -> None:
    ca, ca_key = certificates.make_ca("sudden")
    cert, key = certificates.make_leaf("sudden-leaf", signed_by=(ca, ca_key))
    lease = secured.client.grant(60)
    secured.etcd.stop()
    for side in (secured.ours, secured.theirs):
        replace_file(side.ca, ca)
        replace_file(side.cert, cert)
        replace_file(side.key, key)
    secured.etcd.start(wait=False)
    secured.client.keep_refreshed()
    wait_until(lambda: keeps(secured.client, lease.id), 60.0, "the lease to be kept")


def keeps(client: EtcdClient, lease: int) -> bool:
    try:
        client.keep(lease)
    except EtcdError:
        return False
    return True


def test_a_certificate_whose_key_is_not_there_yet_is_not_used(
    secured: Secured, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = certificates.make_leaf("later")
    replace_file(secured.ours.cert, cert)
    assert not secured.client.refresh()
    assert f"etcd-key-file {secured.ours.key}: expected the key of the certificate" in caplog.text
    secured.client.put(b"a", b"")
    replace_file(secured.ours.key, key)
    assert secured.client.refresh()
    secured.client.put(b"a", b"")


@pytest.mark.parametrize("what", ["ca", "cert", "key"])
def test_a_file_that_has_become_useless_changes_nothing(
    secured: Secured, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    file = getattr(secured.ours, what)
    file.write_text("nonsense")
    assert not secured.client.refresh()
    assert str(file) in caplog.text
    secured.client.put(b"a", b"")
    file.unlink()
    assert not secured.client.refresh()
    assert f"cannot read {file}: No such file" in caplog.text
    secured.client.put(b"a", b"")


def test_a_certificate_that_etcd_refuses_is_not_used(
    secured: Secured, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = certificates.make_leaf("foreign", signed_by=certificates.make_ca("foreign-ca"))
    replace_file(secured.ours.cert, cert)
    replace_file(secured.ours.key, key)
    assert not secured.client.refresh()
    assert "the new access to etcd is not used, it does not work" in caplog.text
    secured.client.put(b"a", b"")


def test_new_endpoints_that_hang_do_not_keep_requests_waiting(
    etcd: EtcdServer, silent: str
) -> None:
    """Found by review: a keepalive waited for 12 s, reads for 24 s after eight SIGHUPs."""
    client = EtcdClient(EtcdAccess((etcd.url,)), FAR_S)
    lease = client.grant(600)
    client.keep_refreshed()
    took_s = []
    for number in range(16):
        client.use(EtcdAccess((silent, f"{silent[:-1]}{number % 8}")))
        started = time.monotonic()
        client.keep(lease.id)
        client.read_all(b"a", b"b")
        took_s.append(time.monotonic() - started)
        time.sleep(0.1)
    assert max(took_s) < SOON_S
    # A busy machine may be slower now and then.
    assert max(took_s[:8]) < 1.0 or max(took_s[8:]) < 1.0
    client.close()


def test_a_user_who_may_not_read_what_is_read_is_not_used(
    etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Found by review: who could only log in took the place of who could do the work."""
    for command in (
        "user add root:r",
        "user grant-role root root",
        "user add nobody:n",
        "auth enable",
    ):
        etcd.ctl(*command.split())
    client = EtcdClient(EtcdAccess((etcd.url,), user="root", password="r"), PATIENT_S)
    client.read_all(b"a", b"b")
    client.use(EtcdAccess((etcd.url,), user="nobody", password="n"))
    assert not client.refresh()
    assert "permission denied" in caplog.text
    client.read_all(b"a", b"b")
    client.close()
