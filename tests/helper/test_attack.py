"""What a client that was taken over can send, to a helper process with a real kernel: it harms
nobody, and all of it is on record."""

import contextlib
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tests.helper.network import boottime, present, wait_for
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    Message,
    add,
    being,
    deadline_in,
    policy,
    refused,
    running,
)
from yaim.lab.namespaces import Namespace

V4, V6 = "192.0.2.10", "2001:db8::10"
OUTSIDE = "198.51.100.1"
OTHER = 65534
"""Another user's id."""
ONE_BY_ONE = 10
"""So many records of one kind and user are written one by one in a minute (helper/AUDIT.md)."""
TICKS = os.sysconf("SC_CLK_TCK")


def message(**changes: object) -> Message:
    return {"op": "add", "id": 2, **add(V4)} | changes


def written(**changes: object) -> bytes:
    return json.dumps(message(**changes)).encode()


MALFORMED: dict[str, bytes] = {
    "not JSON": b"add 192.0.2.10",
    "half of it": written()[:60],
    "two messages in one packet": written() + written(id=3),
    "a message in a list": b"[" + written() + b"]",
    "more than 1024 bytes": written().ljust(1025),
    "far more than 1024 bytes": written().ljust(100_000),
    "a key twice": written()[:-1] + b', "address": "192.0.2.11"}',
    "the op twice": b'{"op": "list", ' + written()[1:],
    "a key too many": written(force=1),
    "a key too few": b'{"op": "add", "id": 2}',
    "nested too deeply": b"[" * 1024,
    "nested too deeply in a key": b'{"op": ' * 140 + b"1" + b"}" * 140,
    "not UTF-8": written().replace(b"192", b"\xff92"),
    "UTF-16": written().decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + written(),
    "a surrogate in UTF-8": written(label="x").replace(b'"x"', b'"\xed\xa0\x80"'),
    "NaN": written(deadline_ns=float("nan")),
    "infinity": written(deadline_ns=float("inf")),
    "a float": written(deadline_ns=1e300),
    "a huge integer": written(deadline_ns=10**800),
    "an integer of more bits than the kernel's": written(deadline_ns=2**63),
    "a negative deadline": written(deadline_ns=-1),
    "true for 1": written(prefix=True),
    "null": written(address=None),
    "a number as text": written(prefix="32"),
    "an address as a number": written(address=3221225994),
    "a lone surrogate as label": written(label="\ud800"),
    "a lone surrogate as interface": written(interface="\ud800"),
    "NUL in an interface": written(interface="veth0\0"),
    "NUL in an address": written(address="192.0.2.10\0"),
    "NUL in an op": written(op="add\0"),
    "an option for an interface": written(interface="a/../../b"),
    "an interface with a scope": written(interface="veth0%1"),
    "a label too long": written(label="x" * 14),
    "an escape in a label": written(label="\x1b[2J"),
    "a prefix too long": written(prefix=129),
    "a network for an address": written(address="192.0.2.10/32"),
    "an address with a zone": written(address="fe80::1%veth0"),
    "IPv4 as IPv6": written(address="::ffff:192.0.2.10"),
    "an address in another form": written(address="2001:DB8::10"),
    "octal": written(address="192.0.2.012"),
    "an id from before": written(id=1),
    "an id of zero": written(id=0),
    "an id too large": written(id=2**53 + 1),
    "a second hello": json.dumps(
        {"op": "hello", "id": 2, "version": 1, "cluster": "other", "node": "db1"}
    ).encode(),
}
NOT_ALLOWED: dict[str, Message] = {
    "an address outside": add(OUTSIDE),
    "the network's address": add("192.0.2.0"),
    "the broadcast address": add("192.0.2.255"),
    "the anycast address": add("2001:db8::"),
    "loopback": add("127.0.0.2"),
    "another interface": add(V4, interface="peer0"),
    "lo": add(V4, interface="lo"),
    "an interface that is not there": add(V4, interface="dummy0"),
    "a prefix length": add(V4, prefix=24),
    "the route to everything": add(V4, prefix=0) | {"prefix": 0},
    "IPv4's prefix length for IPv6": add(V6, prefix=32),
}


def descriptors(helper: Helper) -> int:
    return len(list(Path(f"/proc/{helper.pid}/fd").iterdir()))


def settled(helper: Helper) -> int:
    """Its file descriptors, when those of who has gone are closed."""
    helper.wait_until_written()
    return descriptors(helper)


def rss_kib(helper: Helper) -> int:
    status = Path(f"/proc/{helper.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def cpu_s(helper: Helper) -> float:
    fields = Path(f"/proc/{helper.pid}/stat").read_text().rpartition(")")[2].split()
    return float(int(fields[11]) + int(fields[12])) / TICKS


def record_bytes(helper: Helper) -> int:
    return sum(each.stat().st_size for each in helper.audit_log.glob("audit-*.jsonl"))


def counts(helper: Helper, what: str) -> int:
    """How many of a kind are on record, one by one or summed up; after the helper has ended."""
    records = helper.records()
    one_by_one = [each for each in records if kind(each) == what]
    summed_up = [c for r in records if r["type"] == "summary" for c in r["counts"]]
    return len(one_by_one) + sum(int(c["count"]) for c in summed_up if c["what"] == what)


def kind(record: Message) -> str:
    """Returns the kind as which it would be summed up."""
    if record["type"] == "hung-up":
        return "malformed" if record["reason"].startswith("malformed") else "hung-up"
    return str(record.get("outcome", record["type"]))


@contextlib.contextmanager
def for_two_users(network: Namespace, directory: Path, rate: int = 1000) -> Iterator[Helper]:
    """This one, and OTHER."""
    directory.chmod(0o755)
    config = policy(directory / "audit", users=(0, OTHER), rate=rate)
    with running(network, directory, config=config) as helper:
        helper.socket.chmod(0o666)
        yield helper


def other_user(helper: Helper) -> Client:
    with being(OTHER, helper.socket.parent):
        return Client(Path(helper.socket.name))


# --- words -------------------------------------------------------------------------------------


def test_nothing_malformed_has_an_effect_and_all_of_it_is_on_record(
    network: Namespace, helper: Helper, client: Client
) -> None:
    before = settled(helper)
    for name, packet in MALFORMED.items():
        with helper.greeted("bad") as bad:
            bad.socket.send(packet)
            assert bad.is_hung_up(), name
    wait_for(lambda: descriptors(helper) == before, "all connections are closed")
    assert present(network) == []
    assert helper.end() == 0
    assert counts(helper, "malformed") == len(MALFORMED)
    assert [each["op"] for each in helper.records() if each["type"] == "intent"] == []


def test_nothing_that_is_not_allowed_is_done_and_all_of_it_is_on_record(
    network: Namespace, helper: Helper, client: Client
) -> None:
    replies = {name: client.ask("add", **fields) for name, fields in NOT_ALLOWED.items()}
    codes = {name: refused(reply) for name, reply in replies.items()}
    assert codes == dict.fromkeys(NOT_ALLOWED, "not-allowed")
    assert present(network) == []
    assert helper.end() == 0
    assert counts(helper, "refused") == len(NOT_ALLOWED)


def test_a_packet_of_1024_bytes_is_read_and_one_of_1025_is_not(helper: Helper) -> None:
    with helper.greeted() as client:
        client.socket.send(written().ljust(1024))
        assert client.receive(2) == OK_ABSENT
        client.socket.send(written(id=3).ljust(1025))
        assert client.is_hung_up()


def test_an_empty_packet_is_the_end(helper: Helper) -> None:
    with helper.greeted() as client:
        client.socket.send(b"")
        assert client.is_hung_up()
    with helper.greeted():
        pass


def test_a_replayed_command_is_not_done_again(network: Namespace, helper: Helper) -> None:
    with helper.greeted() as client:
        packet = written()
        client.socket.send(packet)
        assert client.receive(2) == OK_ABSENT
        client.socket.send(json.dumps({"op": "remove", "id": 3, "address": V4}).encode())
        assert client.receive(3) == OK_PRESENT
        client.socket.send(packet)
        assert client.is_hung_up()
    assert present(network) == []


# --- connections ---------------------------------------------------------------------------------


def test_a_user_cannot_shut_out_another(network: Namespace, tmp_path: Path) -> None:
    with for_two_users(network, tmp_path) as helper, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(helper.connect())
        client = stack.enter_context(other_user(helper))
        assert client.hello()["result"] == "ok"
        assert client.add(V4) == OK_ABSENT


def test_thousands_of_connections_one_after_the_other_leave_nothing(helper: Helper) -> None:
    with helper.greeted() as client:
        before = settled(helper)
        for number in range(2000):
            with helper.connect() as another:
                if number == 200:
                    rss_before = rss_kib(helper)
                if number % 3 == 0:
                    another.socket.send(b"{}")
        assert client.add(V4) == OK_ABSENT
        wait_for(lambda: descriptors(helper) == before, "all are closed")
        assert rss_kib(helper) < rss_before + 1024


def test_hundreds_of_connections_at_once_leave_nothing(helper: Helper) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = len(list(Path("/proc/self/fd").iterdir())) + 200
    count = min(2000, hard - others)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(count + others, 1024), hard))
    with helper.greeted() as client:
        before = settled(helper)
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(helper.connect())
            assert client.add(V4) == OK_ABSENT
            # It may still be letting in and hanging up on the last of them.
            wait_for(lambda: descriptors(helper) <= before + 7, "only eight are kept")
        wait_for(lambda: descriptors(helper) == before, "all are closed")


def test_without_file_descriptors_the_helper_goes_on(network: Namespace, tmp_path: Path) -> None:
    with running(network, tmp_path) as helper, helper.greeted():
        enough = settled(helper) + 3
    around = ("prlimit", f"--nofile={enough}:{enough}", "--")
    with running(network, tmp_path, around=around) as helper, contextlib.ExitStack() as stack:
        client = stack.enter_context(helper.greeted())
        for _ in range(7):
            stack.enter_context(helper.connect())
        began = cpu_s(helper)
        for _ in range(5):
            assert client.remove(V4) == OK_ABSENT
            time.sleep(0.1)
        assert cpu_s(helper) - began < 0.4, "it is not busy with who cannot be let in"
        stack.pop_all().close()
        with helper.greeted() as client:
            assert client.add(V4) == OK_ABSENT


def test_what_was_sent_before_leaving_is_done_though_no_reply_was_read(
    network: Namespace, helper: Helper
) -> None:
    client = helper.connect()
    with helper.stopped():
        client.send("hello", version=1, cluster="test", node="db1")
        client.send("add", **add(V4))
        client.__exit__()
    wait_for(lambda: present(network) == ["veth0 192.0.2.10/32"], "it is added")
    client = helper.greeted("other")
    client.send("list", after="")
    wait_for(lambda: client.socket.recv(1, socket.MSG_PEEK), "there is a reply to be read")
    with helper.stopped():
        client.send("add", **add(V6))
        client.__exit__()
    both = ["veth0 192.0.2.10/32", "veth0 2001:db8::10/128"]
    wait_for(lambda: present(network) == both, "it is added, too")
    assert [each["op"] for each in helper.records() if each["type"] == "intent"] == ["add", "add"]


def test_who_only_stops_sending_gets_his_replies(helper: Helper) -> None:
    with helper.greeted() as client:
        asked = client.send("add", **add(V4))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.receive(asked) == OK_ABSENT
        assert client.is_hung_up()


def test_who_stops_receiving_is_hung_up_on_and_on_record(
    network: Namespace, helper: Helper
) -> None:
    with helper.greeted() as client:
        client.socket.shutdown(socket.SHUT_RD)
        client.send("add", **add(V4))
        wait_for(lambda: counts(helper, "hung-up"), "it is hung up on")
    assert present(network) == ["veth0 192.0.2.10/32"]
    (hung_up,) = [each for each in helper.records() if each["type"] == "hung-up"]
    assert hung_up["reason"].startswith("does not take its replies")


# --- too much ------------------------------------------------------------------------------------


def test_who_sends_too_much_waits_and_nothing_is_refused(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", rate=20)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        began = boottime()
        asked = [client.send("add", **add(f"192.0.2.{number}")) for number in range(1, 41)]
        assert [client.receive(each) for each in asked] == [OK_ABSENT] * 40
        assert 0.95 <= boottime() - began < 10


def test_commands_of_all_kinds_count(network: Namespace, tmp_path: Path) -> None:
    config = policy(tmp_path / "audit", rate=20)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        began = boottime()
        asked = []
        for _ in range(8):
            asked += [
                client.send("list", after=""),
                client.send("remove", address=V4),
                client.send("renew", deadline_ns=deadline_in(30)),
                client.send("announce", address=V4),
                client.send("add", **add(OUTSIDE)),
            ]
        for each in asked:
            client.receive(each)
        assert boottime() - began >= 0.95


def test_a_new_connection_does_not_bring_a_new_allowance(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", rate=10)
    with running(network, tmp_path, config=config) as helper:
        began = boottime()
        for number in range(15):
            with helper.greeted(str(number)) as client:
                client.add(f"192.0.2.{10 + number}")
        assert boottime() - began >= 1.9


def test_who_waits_costs_nothing_and_delays_nobody_else(network: Namespace, tmp_path: Path) -> None:
    with for_two_users(network, tmp_path, rate=100) as helper, contextlib.ExitStack() as stack:
        flooders = [stack.enter_context(helper.greeted(str(number))) for number in range(8)]
        client = stack.enter_context(other_user(helper))
        client.hello()
        for each in flooders:
            each.socket.setblocking(False)
        began, began_cpu = boottime(), cpu_s(helper)

        def slowest_s() -> float:
            """Returns how long the slowest renewal of two seconds took."""
            slowest, until = 0.0, boottime() + 2
            while (now := boottime()) < until:
                for each in flooders:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            each.send("remove", address=V4)
                assert client.renew(deadline_in(30))["result"] == "ok"
                slowest = max(slowest, boottime() - now)
                time.sleep(0.03)
            return slowest

        # A busy machine may delay some.
        assert any(slowest_s() < 0.5 for _ in range(10))
        assert cpu_s(helper) - began_cpu < (boottime() - began) / 2
        done = sum(each.get("op") == "remove" for each in helper.records()) / 2
        assert done <= 100 * (boottime() - began + 1) + 1
        assert len({each["cluster"] for each in helper.records() if "cluster" in each}) == 9


def test_an_add_that_waited_past_its_deadline_is_refused(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", rate=10)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        others = [client.send("remove", address=V4) for _ in range(25)]
        asked = client.send("add", **add(V4, deadline_ns=deadline_in(2.8)))
        for each in others:
            client.receive(each)
        assert refused(client.receive(asked)) == "expired"
        assert present(network) == []


def test_of_a_flood_the_first_are_told_and_the_others_counted(
    network: Namespace, helper: Helper, client: Client
) -> None:
    began = record_bytes(helper)
    asked = [client.send("add", **add(OUTSIDE)) for _ in range(200)]
    assert {refused(client.receive(each)) for each in asked} == {"not-allowed"}
    assert record_bytes(helper) - began < 1000 * (ONE_BY_ONE + 1)
    asked = [client.send("add", **add(V4)) for _ in range(50)]
    assert {client.receive(each)["result"] for each in asked} == {"ok"}
    assert helper.end() == 0
    records = helper.records()
    assert [each["type"] for each in records].count("intent") == 50
    assert [each.get("outcome") for each in records].count("ok") == 51
    assert [each.get("outcome") for each in records].count("refused") == ONE_BY_ONE
    (summary,) = [each for each in records if each["type"] == "summary"]
    assert summary["counts"] == [{"uid": 0, "what": "refused", "count": 200 - ONE_BY_ONE}]


def test_twenty_thousand_commands_leave_nothing_in_memory(
    network: Namespace, tmp_path: Path
) -> None:
    config = policy(tmp_path / "audit", rate=1_000_000)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        before = settled(helper)
        for batch in range(400):
            if batch == 100:
                rss_before = rss_kib(helper)
            asked = [client.send("add", **add(OUTSIDE)) for _ in range(48)]
            asked.append(client.send("list", after=""))
            asked.append(client.send("renew", deadline_ns=deadline_in(30)))
            for each in asked:
                client.receive(each)
        assert rss_kib(helper) < rss_before + 1024
        assert descriptors(helper) == before
        assert present(network) == []
