"""An etcd that lies: nothing ends the coordinator, nothing it holds outlives what was granted, it
does not spin, and it tells what is wrong."""

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any

import etcd3.etcdrpc as rpc
import grpc
import pytest

from tests.dcs.etcd.conftest import EtcdServer
from tests.dcs.etcd.false_etcd import FalseEtcd, TrustingNode
from yaim.core.actions import ReadCluster
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import MAX_KEYS, Keys
from yaim.host.boottime import boottime

ROOT = Path(__file__).parents[3]
A = ip_address("192.0.2.10")
TTL_S = 3
LIES_FOR_S = 1.0
REQUESTS_A_SECOND = 60
"""The most requests of a node that is lied to. Without pauses there are thousands."""
HUGE = 2**63 - 1


@pytest.fixture
def false_etcd(etcd: EtcdServer) -> Iterator[FalseEtcd]:
    false = FalseEtcd(etcd.url)
    yield false
    false.close()


@pytest.fixture
def crashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What threads have ended of: each would end the coordinator."""
    found: list[str] = []
    monkeypatch.setattr(
        threading, "excepthook", lambda failure: found.append(repr(failure.exc_value))
    )
    return found


@pytest.fixture
def node(etcd: EtcdServer, false_etcd: FalseEtcd, keys: Keys) -> Iterator[TrustingNode]:
    """It holds an address already."""
    etcd.ctl("put", f"{keys.prefix}ips/{A}", "")
    node = TrustingNode(false_etcd.url, keys)
    node.run(20.0, lambda node: A in node.deadlines)
    assert A in node.deadlines, node.reports
    yield node
    node.close()


def changed(message: Any, change: Callable[[Any], object]) -> Any:
    change(message)
    return message


def with_field(name: str, value: int) -> Callable[[Any, Any], Any]:
    return lambda _, answer: changed(answer, lambda it: setattr(it, name, value))


def without_header(_: Any, answer: Any) -> Any:
    return changed(answer, lambda it: it.ClearField("header"))


def with_revision(value: int) -> Callable[[Any, Any], Any]:
    return lambda _, answer: changed(answer, lambda it: setattr(it.header, "revision", value))


def falling() -> Callable[[Any, Any], Any]:
    revisions = count(10_000, -100)
    return lambda _, answer: changed(
        answer, lambda it: setattr(it.header, "revision", next(revisions))
    )


def with_key(key: bytes, value: bytes = b"", **fields: int) -> Callable[[Any, Any], Any]:
    revisions = {"create_revision": 1, "mod_revision": 1} | fields
    return lambda _, answer: changed(
        answer, lambda it: it.kvs.add(key=key, value=value, **revisions)
    )


def at_random(seed: int) -> Callable[[Any, Any], Any]:
    chance = random.Random(seed)
    codes = [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK]
    return lambda _, answer: chance.choice(codes) if chance.random() < 0.7 else answer


def with_responses(number: int) -> Callable[[Any, Any], Any]:
    def lie(_: Any, answer: Any) -> Any:
        del answer.responses[:]
        for _each in range(number):
            answer.responses.add()
        answer.succeeded = True
        return answer

    return lie


def refused(_: Any, answer: Any) -> Any:
    """Whatever is to be written is said to be overtaken, and a read shows nothing of that."""
    answer.succeeded = False
    del answer.responses[:]
    return answer


def changes(*events: tuple[bytes, int], revision: int) -> Callable[[Any, Any], Iterable[Any]]:
    """Told by a watch before the truth."""

    def lie(_: Any, answer: Any) -> Iterable[Any]:
        told = rpc.WatchResponse()
        told.header.CopyFrom(answer.header)
        told.header.revision = revision
        for key, mod_revision in events:
            told.events.add(kv={"key": key, "mod_revision": mod_revision, "create_revision": 1})
        return told, answer

    return lie


def for_ever(_: Any, answer: Any) -> Iterator[Any]:
    while True:
        yield answer


PREFIX = b"/service/yaim/"
LIES: dict[str, tuple[dict[str, Callable[[Any, Any], Any]], str]] = {
    "a keepalive tells a TTL of 0": (
        {"LeaseKeepAlive": with_field("TTL", 0)},
        "etcd has lost our lease",
    ),
    "a keepalive tells a negative TTL": (
        {"LeaseKeepAlive": with_field("TTL", -HUGE)},
        "etcd has lost our lease",
    ),
    "a keepalive tells a TTL of 10^9": (
        {"LeaseKeepAlive": with_field("TTL", 10**9)},
        "tells a TTL of 1000000000 s",
    ),
    "a keepalive tells a TTL of 2^63-1": (
        {"LeaseKeepAlive": with_field("TTL", HUGE)},
        "tells a TTL of",
    ),
    "a keepalive is answered for another lease": (
        {"LeaseKeepAlive": with_field("ID", 7)},
        "answers about lease 7, asked about",
    ),
    "a keepalive is answered without a header": (
        {"LeaseKeepAlive": without_header},
        "answers without a header",
    ),
    "a read is answered without a header": ({"Range": without_header}, "answers without a header"),
    "a read tells revision 0": ({"Range": with_revision(0)}, "revision 0, which no etcd has"),
    "a read tells the last revision there is": (
        {"Range": with_revision(HUGE)},
        "which no etcd has",
    ),
    "a read tells a negative revision": ({"Range": with_revision(-5)}, "which no etcd has"),
    "revisions of reads fall": (
        {"Range": falling()},
        "required revision is a future revision",  # says etcd itself, asked for more as of it
    ),
    "a read tells of a key of another cluster": (
        {"Range": with_key(b"/service/other/ips/192.0.2.11")},
        "tells of /service/other/ips/192.0.2.11, which it was not asked about",
    ),
    "a read tells of a key without the prefix": (
        {"Range": with_key(b"nodes/n2")},
        "tells of nodes/n2, which it was not asked about",
    ),
    "a read tells of a key of the future": (
        {"Range": with_key(PREFIX + b"control/x", mod_revision=HUGE)},
        "tells of /service/yaim/control/x at revision",
    ),
    "a read is bytes of no message": ({"Range": lambda *_: b"\xff" * 99}, "cannot read etcd"),
    "a keepalive is bytes of no message": (
        {"LeaseKeepAlive": lambda *_: b"\xff" * 99},
        "our lease is not kept",
    ),
    "whatever is asked has an error at random": (
        {each: at_random(1) for each in ("Range", "Txn", "LeaseKeepAlive", "LeaseGrant", "Status")},
        "",
    ),
    "transactions are answered with too many operations": (
        {"Txn": with_responses(9)},
        "answers a transaction of",
    ),
    "transactions are answered with no operation": (
        {"Txn": with_responses(0)},
        "answers a transaction of",
    ),
    "transactions are answered without a header": (
        {"Txn": without_header},
        "answers without a header",
    ),
    "a lease of 0 s is granted": (
        {"LeaseGrant": with_field("TTL", 0)},
        "has granted a lease of 0 s, asked for one of 3 s",
    ),
    "a lease of less than was asked for is granted": (
        {"LeaseGrant": with_field("TTL", 1)},
        "has granted a lease of 1 s, asked for one of 3 s",
    ),
    "a lease of -1 s is granted": (
        {"LeaseGrant": with_field("TTL", -1)},
        "has granted a lease of -1 s",
    ),
    "a lease of 10^9 s is granted": (
        {"LeaseGrant": with_field("TTL", 10**9)},
        "has granted a lease of 1000000000 s",
    ),
    "lease 0 is granted, which is none": (
        {"LeaseGrant": with_field("ID", 0)},
        "has granted lease 0, which no etcd has",
    ),
}


@pytest.mark.parametrize(("lies", "told"), LIES.values(), ids=LIES.keys())
def test_a_false_etcd_ends_nothing_and_is_told(
    lies: dict[str, Callable[[Any, Any], Any]],
    told: str,
    node: TrustingNode,
    false_etcd: FalseEtcd,
    etcd: EtcdServer,
    crashes: list[str],
) -> None:
    false_etcd.lies.update(lies)
    if {"LeaseGrant", "Txn"} & lies.keys() and "LeaseKeepAlive" not in lies:
        assert node.state.lease.current is not None
        etcd.ctl("lease", "revoke", f"{node.state.lease.current.id:x}")  # it wants a new one
    false_etcd.asked.clear()
    steps, began = node.steps, boottime()
    node.store.submit(ReadCluster())  # sooner than the core's next one
    node.run(LIES_FOR_S)
    asked = dict(false_etcd.asked)
    node.run(20.0, lambda node: node.has_reported(told))
    assert crashes == []
    assert node.has_reported(told), node.reports
    assert sum(asked.values()) <= LIES_FOR_S * REQUESTS_A_SECOND, asked
    assert node.steps - steps <= 2 * LIES_FOR_S * REQUESTS_A_SECOND
    # What was granted is counted from before each request.
    assert node.latest <= boottime() + TTL_S, lies
    if "LeaseKeepAlive" in lies and told != "":
        assert node.latest <= began + TTL_S or A not in node.deadlines
    assert all(each.isprintable() and len(each) < 1000 for each in node.reports), node.reports


WATCHED = {
    "out of order": changes((PREFIX + b"x", 900), (PREFIX + b"y", 800), revision=900),
    "of keys of another cluster": changes((b"/service/other/x", 900), revision=900),
    "of keys without the prefix": changes((b"nodes/n2", 900), revision=900),
    "of the last revision there is": changes((PREFIX + b"x", HUGE), revision=HUGE),
    "of a revision beyond its own": changes((PREFIX + b"x", 900), revision=5),
    "of a negative revision": changes((PREFIX + b"x", -9), revision=5),
}


@pytest.mark.parametrize("lie", WATCHED.values(), ids=WATCHED.keys())
def test_a_watch_that_tells_what_cannot_be_is_left(
    lie: Callable[[Any, Any], Any], false_etcd: FalseEtcd
) -> None:
    false_etcd.lies["Watch"] = lie
    client = EtcdClient(EtcdAccess((false_etcd.url,)), 5.0)
    with pytest.raises(EtcdError, match=r"revision|not asked about"):
        for _ in client.watch(PREFIX, b"/service/yaim0", 2):
            pass
    client.close()


@pytest.mark.parametrize("lie", WATCHED.values(), ids=WATCHED.keys())
def test_a_lying_watch_costs_no_lease(
    lie: Callable[[Any, Any], Any],
    node: TrustingNode,
    false_etcd: FalseEtcd,
    crashes: list[str],
) -> None:
    false_etcd.lies["Watch"] = lie
    false_etcd.asked.clear()
    node.client.leave_endpoint("the test wants a new watch")
    node.run(LIES_FOR_S)
    assert crashes == []
    assert A in node.deadlines
    assert sum(false_etcd.asked.values()) <= LIES_FOR_S * REQUESTS_A_SECOND


def test_a_watch_that_never_stops_telling_is_not_followed(
    node: TrustingNode, false_etcd: FalseEtcd, crashes: list[str]
) -> None:
    """It would cost a processor: what is read every few seconds has to do."""
    false_etcd.lies["Watch"] = for_ever
    node.client.leave_endpoint("the test wants a new watch")
    node.run(2.0)
    false_etcd.told.clear()
    node.run(LIES_FOR_S)
    assert crashes == []
    assert A in node.deadlines
    assert false_etcd.told["Watch"] <= 10_000, false_etcd.told


def test_a_write_that_is_said_to_be_overtaken_again_and_again_is_not_repeated_without_a_pause(
    node: TrustingNode, false_etcd: FalseEtcd, etcd: EtcdServer, keys: Keys, crashes: list[str]
) -> None:
    """Reads show an address that nobody has marked, and no claim of it succeeds."""
    false_etcd.lies["Txn"] = refused
    false_etcd.asked.clear()
    etcd.ctl("put", f"{keys.prefix}ips/192.0.2.11", "")
    node.run(LIES_FOR_S)
    assert crashes == []
    assert sum(false_etcd.asked.values()) <= LIES_FOR_S * REQUESTS_A_SECOND, false_etcd.asked


FLOOD = """
import sys, etcd3.etcdrpc as rpc, grpc
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.client import EtcdClient

client = EtcdClient(EtcdAccess((sys.argv[1],)), 5.0)
client.put(b"/service/yaim/ips/" + b"\\n" * 2**20, b"x" * 2**18)
client.put(b"/service/yaim/nodes/n7", b"{" * 2**20)
for first in range(0, 100_000, 125):
    request = rpc.TxnRequest()
    for number in range(first, first + 125):
        key = f"/service/yaim/ips/10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        request.success.add().request_put.key = key.encode()
    client.transact(request)
client.close()
"""


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_keys_of_a_mebibyte_and_100_000_pool_entries_cost_no_lease(
    etcd: EtcdServer, keys: Keys, crashes: list[str]
) -> None:
    """They stand in etcd itself, which sends no more than it is asked for."""
    etcd.ctl("put", f"{keys.prefix}ips/{A}", "")
    node = TrustingNode(etcd.url, keys, ttl_s=5)
    node.run(20.0, lambda node: A in node.deadlines)
    granted = node.state.lease.current
    assert granted is not None
    with subprocess.Popen((sys.executable, "-c", FLOOD, etcd.url), cwd=ROOT) as flood:
        node.run(90.0, lambda _: flood.poll() is not None)
        assert flood.wait() == 0
    node.run(10.0)
    assert crashes == []
    assert node.state.lease.current is not None
    assert node.state.lease.current.id == granted.id
    assert "removes" not in " ".join(node.reports)
    assert node.deadlines[A] > boottime()
    assert node.has_reported("there are more than"), node.reports
    # It goes on as soon as it can.
    etcd.ctl("del", "--prefix", f"{keys.prefix}ips/10.")
    etcd.ctl("del", "--prefix", f"{keys.prefix}ips/\n")
    etcd.ctl("put", f"{keys.prefix}ips/192.0.2.11", "")
    node.run(20.0, lambda node: len(node.deadlines) == 2)
    assert len(node.deadlines) == 2
    node.close()


def test_more_than_is_asked_for_is_not_believed(node: TrustingNode, false_etcd: FalseEtcd) -> None:
    many = rpc.RangeResponse()
    for number in range(MAX_KEYS):
        key = PREFIX + f"ips/10.0.{number >> 8 & 255}.{number & 255}".encode()
        many.kvs.add(key=key, create_revision=1, mod_revision=1)
    # One message behind the other is both in one (Protocol Buffers, "Last One Wins").
    more = many.SerializeToString()
    false_etcd.lies["Range"] = lambda _, answer: answer.SerializeToString() + more
    said = " keys, asked for "
    node.run(20.0, lambda node: node.has_reported(said))
    assert node.has_reported(said), node.reports


def test_an_alarm_that_is_not_known_is_named_by_its_number(false_etcd: FalseEtcd) -> None:
    false_etcd.lies["Alarm"] = lambda _, answer: changed(
        answer, lambda it: it.alarms.add(memberID=1, alarm=77)
    )
    client = EtcdClient(EtcdAccess((false_etcd.url,)), 5.0)
    assert client.alarms() == {"alarm 77"}
    client.close()


@pytest.mark.parametrize("token", ["", "a\nb", "é", "x" * 100_000], ids=["none", "lf", "é", "long"])
def test_a_token_that_is_none_is_refused_and_not_shown(token: str, false_etcd: FalseEtcd) -> None:
    """gRPC would refuse to send it, and quote it."""
    false_etcd.inventions["Authenticate"] = rpc.AuthenticateResponse(token=token)
    access = EtcdAccess((false_etcd.url,), user="db1", password="secret")
    client = EtcdClient(access, 5.0)
    with pytest.raises(EtcdError, match="a token that is none") as raised:
        client.read_all(b"a", b"b")
    assert len(str(raised.value)) < 200
    client.close()


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE])
def test_what_etcd_says_is_made_printable(code: grpc.StatusCode, false_etcd: FalseEtcd) -> None:
    false_etcd.lies["Range"] = lambda *_: code
    client = EtcdClient(EtcdAccess((false_etcd.url,)), 5.0)
    with pytest.raises(EtcdError, match="of two lines") as raised:
        client.read_all(b"a", b"b")
    assert str(raised.value).isprintable()
    client.close()


def test_another_endpoint_is_used_when_one_lies(etcd: EtcdServer, false_etcd: FalseEtcd) -> None:
    false_etcd.lies |= {
        "Range": without_header,
        "LeaseKeepAlive": with_field("TTL", 10**9),
        "LeaseGrant": with_field("TTL", 10**9),
    }
    client = EtcdClient(EtcdAccess((false_etcd.url, etcd.url)), 5.0)
    for _ in range(4):
        assert client.read_all(b"a", b"b")[1] == 1
        lease = client.grant(5)
        assert (lease.ttl_s, client.keep(lease.id).ttl_s) == (5, 5)
    client.close()


def test_what_a_keepalive_tells_beyond_what_was_granted_does_not_count(
    false_etcd: FalseEtcd,
) -> None:
    """An etcd that was started anew with a longer election timeout may raise a lease's TTL."""
    client = EtcdClient(EtcdAccess((false_etcd.url,)), 5.0)
    lease = client.grant(5)
    false_etcd.lies["LeaseKeepAlive"] = with_field("TTL", 60)
    assert client.keep(lease.id).ttl_s == 5
    client.close()
