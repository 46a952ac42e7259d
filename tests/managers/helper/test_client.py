"""The coordinator's side of helper/PROTOCOL.md: held against helper/vectors.json, against a real
helper, and against one that does not keep to it."""

import fcntl
import json
import logging
import os
import re
import signal
import socket
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

import pytest

from tests.helper.network import INTERFACE, PEER, new_network, present, shown, state, wait_for
from tests.helper.process import Helper, Message, policy, running
from tests.managers.helper.vectors import (
    ACTIONS,
    ADD,
    ADD_V6,
    DEADLINE,
    MALFORMED,
    REMOVE,
    REQUESTS,
    V4,
    V6,
    VECTORS,
)
from yaim.core.actions import (
    AddAddress,
    ClearConnections,
    HelperAction,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.allowlist import Rule
from yaim.core.events import (
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    Event,
    HelperLost,
    HelperReady,
    ProblemsObserved,
)
from yaim.core.model import Address, Boottime, Fence, Place, Resets, frozen_mapping
from yaim.core.refusals import Cause
from yaim.host.boottime import boottime
from yaim.lab.namespaces import Namespace
from yaim.managers.helper.client import MAX_ADDS_UNDER_WAY, MAX_UNDER_WAY, HelperClient
from yaim.managers.helper.connection import ANSWER_WITHIN_S

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

CLUSTER, NODE, LABEL = "/service/yaim/", "db1", "yaim"
NOBODYS = ip_address("198.51.100.1")
RULES = [{"interface": "eth0", "networks": ["192.0.2.0/24"], "prefixes": [32]}]
NETWORKS = (ip_network("192.0.2.0/24"),)
WELCOMED = HelperReady(
    "s", (("eth0", NETWORKS),), (), rules=(Rule("eth0", NETWORKS, frozenset({32})),)
)
HELD: Message = {"address": "192.0.2.10", "deadline_ns": 10**9, "interface": "eth0", "prefix": 32}


def places(*addresses: Address, interface: str = "eth0") -> Mapping[Address, Place]:
    return frozen_mapping({each: Place(interface, each.max_prefixlen) for each in addresses})


NOTHING_HELD: Message = {"result": "ok", "addresses": [], "more": False}
MAX_PACKET = 65536
WITHIN_S = 20.0
"""Far more than anything here takes."""


@dataclass(frozen=True, slots=True)
class Started:
    """A client, and what it has posted."""

    client: HelperClient
    thread: threading.Thread
    posted: SimpleQueue[Event]
    is_over: threading.Event

    def submit(self, *actions: HelperAction) -> None:
        self.client.submit(actions)

    def next(self, count: int = 1) -> list[Event]:
        return [self.posted.get(timeout=WITHIN_S) for _ in range(count)]

    def ready(self) -> HelperReady:
        (event,) = self.next()
        assert isinstance(event, HelperReady), event
        return event

    def is_lost(self) -> bool:
        (event,) = self.next()
        return isinstance(event, HelperLost)

    def leave(self) -> None:
        """End with the next event: soon, if it is connected."""
        report = threading.excepthook
        # This holds until pytest puts its own back, which may take a SystemExit for a failure.
        threading.excepthook = lambda args: None if args.exc_type is SystemExit else report(args)
        self.is_over.set()
        self.submit(RemoveAddress(0, NOBODYS))


Start: TypeAlias = Callable[[], Started]
Run: TypeAlias = Callable[..., AbstractContextManager[Helper]]
Warnings: TypeAlias = Callable[[], list[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where `running` has its helper listen."""
    return tmp_path / "helper.sock"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Starts clients. They know no end: when all else of the test is gone, their threads are ended
    by a SystemExit from what they post to."""
    started: list[Started] = []

    def start() -> Started:
        posted: SimpleQueue[Event] = SimpleQueue()
        is_over = threading.Event()

        def post(*events: Event) -> None:
            if is_over.is_set():
                raise SystemExit
            for each in events:
                posted.put(each)

        before = set(threading.enumerate())
        client = HelperClient(path, CLUSTER, NODE, LABEL, post)
        new = set(threading.enumerate()) - before
        # What other tests have left may start threads of its own.
        (thread,) = (each for each in new if each.name == "helper")
        started.append(Started(client, thread, posted, is_over))
        return started[-1]

    yield start
    for each in started:
        end(each, path)


def end(started: Started, path: Path) -> None:
    started.leave()
    until = boottime() + WITHIN_S
    with listening(path) as listener:
        listener.settimeout(0.05)
        while started.thread.is_alive() and boottime() < until:
            with suppress(OSError, ValueError), greeted(listener):
                pass
    assert not started.thread.is_alive()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Warnings:
    caplog.set_level(logging.WARNING, logger="yaim.managers.helper.client")
    return lambda: [each.getMessage() for each in list(caplog.records)]


@pytest.fixture
def network() -> Iterator[Namespace]:
    with new_network() as network:
        yield network


@pytest.fixture
def run(network: Namespace, tmp_path: Path) -> Run:
    """Runs a real helper; `changes` are those to its policy."""

    def run(changes: Message | None = None) -> AbstractContextManager[Helper]:
        config = json.loads(policy(tmp_path / "audit")) | (changes or {})
        return running(network, tmp_path, config=json.dumps(config))

    return run


def in_s(seconds: float) -> Boottime:
    """The time so many seconds from now; in whole microseconds, which stay the same in
    nanoseconds."""
    return Boottime(round(boottime() + seconds, 6))


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A helper's socket, with the test behind it."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.settimeout(WITHIN_S)
        listener.bind(str(path))
        listener.listen()
        yield listener


def accept(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.settimeout(WITHIN_S)
    return connection


@contextmanager
def greeted(listener: socket.socket) -> Iterator[socket.socket]:
    """The next connection, after hello and list."""
    with accept(listener) as connection:
        answer(connection, welcome())
        answer(connection, NOTHING_HELD)
        yield connection


def answer(connection: socket.socket, reply: Message | bytes | None) -> bytes:
    """Reply to the next request; gives it."""
    packet = connection.recv(MAX_PACKET)
    if isinstance(reply, dict):
        reply = json.dumps({"id": json.loads(packet)["id"], **reply}).encode()
    if reply is not None:
        connection.send(reply)
    return packet


def welcome() -> Message:
    now = round(boottime() * 1e9)
    return {"result": "ok", "version": 1, "session": "s", "boottime_ns": now, "rules": RULES}


def is_hung_up(connection: socket.socket) -> bool:
    return connection.recv(MAX_PACKET) == b""


# --- the vectors ---------------------------------------------------------------------------


def test_every_request_of_the_vectors_is_sent_byte_by_byte(path: Path, start: Start) -> None:
    """But for the ids, which are counted on each connection."""
    with listening(path) as listener:
        client = start()
        with accept(listener) as connection:
            sent = [answer(connection, welcome() | CAN_RESET)]
            left, held = HELD | {"deadline_ns": None}, HELD | {"address": "192.0.2.11"}
            sent.append(answer(connection, NOTHING_HELD | {"addresses": [left], "more": True}))
            sent.append(answer(connection, NOTHING_HELD | {"addresses": [held]}))
            assert client.ready() == replace(
                WELCOMED,
                addresses=(AddressOnInterface(V4 + 1, Boottime(1.0)),),
                left_over=frozenset({V4}),
                places=places(V4, V4 + 1),
                resets=Resets(True),
            )
            for each in ACTIONS.values():
                client.submit(each)
                sent.append(answer(connection, OK))
    names = ["hello", "list from the start", "list further", *ACTIONS]
    assert sorted(names) == sorted(REQUESTS)
    assert sent == [
        re.sub(rb'"id": \d+', b'"id": %d' % number, REQUESTS[name])
        for number, name in enumerate(names, 1)
    ]


def test_a_list_of_the_vectors_means_what_it_says(path: Path, start: Start) -> None:
    (vector,) = VECTORS["lists"]
    assert vector["means"] == f"{V4} is held, {V6} is left over"
    with listening(path) as listener:
        client = start()
        with accept(listener) as connection:
            answer(connection, welcome())
            answer(connection, vector["packet"].encode())
            held = AddressOnInterface(V4, DEADLINE)
            assert client.ready() == replace(
                WELCOMED, addresses=(held,), left_over=frozenset({V6}), places=places(V4, V6)
            )


# --- a real helper -------------------------------------------------------------------------


def test_a_helper_tells_its_session_and_the_networks_of_all_its_rules(
    network: Namespace, run: Run, start: Start
) -> None:
    networks = ((INTERFACE, "10.2.0.0/16"), (PEER, "10.1.0.0/16"), (INTERFACE, "2001:db8::/64"))
    rules = [{"interface": each, "networks": [text]} for each, text in networks]
    with run({"rules": [each | {"prefix-lengths": [32, 128]} for each in rules]}):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        one, two, three = (ip_network(text) for _, text in networks)
        assert start().ready() == HelperReady(
            session=f"{boot_id}:{os.fstat(network.fd).st_ino}",
            networks=((PEER, (two,)), (INTERFACE, (one, three))),
            addresses=(),
            rules=tuple(
                Rule(each, (network,), frozenset({32, 128}))
                for each, network in ((INTERFACE, one), (PEER, two), (INTERFACE, three))
            ),
            fence=Fence(False, "helper.yml says fence: off"),
            resets=Resets(True),
            capacity=64,
        )


def test_a_helper_ends_the_connections_of_what_goes_on_purpose_and_what_another_removal_left(
    network: Namespace, run: Run, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Both ends of each connection are on this host, and have the address."""
    caplog.set_level(logging.INFO, logger="yaim.managers.helper.messages")
    with run(), ExitStack() as sockets:
        client = start()
        assert client.ready().resets.can_reset

        def connected() -> socket.socket:
            client.submit(AddAddress(1, V4, INTERFACE, 32, in_s(60)))
            assert client.next() == [AddressAdded(1, V4)]
            with network.entered():
                listener = sockets.enter_context(socket.create_server((str(V4), 0)))
                address = listener.getsockname()
                it = socket.create_connection(address, WITHIN_S, source_address=(str(V4), 0))
            sockets.enter_context(it)
            sockets.enter_context(listener.accept()[0])
            return it

        it = connected()
        client.submit(RemoveAddress(2, V4, resets=True))
        assert client.next() == [AddressRemoved(2, V4, reset=2, left=0)]
        with pytest.raises(ConnectionError):
            it.recv(1)
        it = connected()
        client.submit(RemoveAddress(3, V4))
        assert client.next() == [AddressRemoved(3, V4)]
        client.submit(ClearConnections(V4))
        with pytest.raises(ConnectionError):
            it.recv(1)
        told = "ended 2 connections that were left of 192.0.2.10"
        wait_for(lambda: told in caplog.messages, "it is told")


def test_more_commands_together_than_a_socket_buffers_are_all_answered(
    run: Run, start: Start
) -> None:
    addresses = [V4 + n for n in range(500)]
    with run():
        client = start()
        client.ready()
        client.submit(*(RemoveAddress(n, each) for n, each in enumerate(addresses)))
        assert client.next(500) == [AddressRemoved(n, each) for n, each in enumerate(addresses)]


def test_many_addresses_are_added_together_and_told_by_more_than_one_reply(
    run: Run, start: Start
) -> None:
    addresses, deadline = [V4 + n for n in range(200)] + [V6 + n for n in range(100)], in_s(300)
    adds = [
        AddAddress(number, each, INTERFACE, each.max_prefixlen, deadline)
        for number, each in enumerate(addresses)
    ]
    with run({"max-addresses": 300}):
        first = start()
        first.ready()
        for together in (adds[200:], adds[:100], adds[100:200]):
            first.submit(*together)
            assert first.next(100) == [
                AddressAdded(each.request, each.address) for each in together
            ]
        first.leave()
        assert start().ready().addresses == tuple(
            AddressOnInterface(each, deadline) for each in addresses
        )


def test_a_thousand_addresses_are_added_renewed_and_removed(
    network: Namespace, run: Run, start: Start
) -> None:
    addresses, deadline = [V4 + n for n in range(500)] + [V6 + n for n in range(500)], in_s(300)
    adds = [
        AddAddress(number, each, INTERFACE, each.max_prefixlen, deadline)
        for number, each in enumerate(addresses)
    ]
    rules = [{"interface": INTERFACE, "networks": ["192.0.0.0/16", "2001:db8::/64"]}]
    with run({"max-addresses": 1000, "commands-per-second": 10_000, "rules": rules}):
        client = start()
        client.ready()
        client.submit(*adds)
        assert client.next(1000) == [AddressAdded(each.request, each.address) for each in adds]
        client.submit(RenewAddresses(in_s(600)))
        assert client.next() == [AddressesRenewed(frozenset())]
        assert len(present(network)) == 1000
        client.submit(*(RemoveAddress(each.request, each.address) for each in adds))
        assert client.next(1000) == [AddressRemoved(each.request, each.address) for each in adds]
        assert present(network) == []


def test_a_held_address_that_is_added_elsewhere_is_put_there_or_stays_where_it_is(
    network: Namespace, run: Run, start: Start
) -> None:
    """Nothing is done of what is refused."""
    deadline = in_s(30)
    adds = [AddAddress(n, V4, INTERFACE, prefix, deadline) for n, prefix in enumerate((32, 24, 25))]
    rule = {"interface": INTERFACE, "networks": ["192.0.2.0/24"], "prefix-lengths": [24, 32]}
    network.run("sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.promote_secondaries=1")
    with run({"rules": [rule]}):
        client = start()
        client.ready()
        client.submit(adds[0])
        assert client.next() == [AddressAdded(0, V4)]
        client.submit(adds[1])
        assert client.next() == [AddressAdded(1, V4)]
        assert present(network) == [f"{INTERFACE} {V4}/24"]
        client.submit(adds[2])
        (refused,) = client.next()
        assert isinstance(refused, AddressRefused)
        assert refused.cause is Cause.NOT_ALLOWED
        assert present(network) == [f"{INTERFACE} {V4}/24"]
        client.leave()
        assert start().ready().places == {V4: Place(INTERFACE, 24)}


def test_what_an_earlier_life_of_the_helper_left_is_told_apart(run: Run, start: Start) -> None:
    deadline = in_s(30)
    adds = [AddAddress(n, each, INTERFACE, 32, deadline) for n, each in enumerate((V4, V4 + 1))]
    with run() as first:
        client = start()
        client.ready()
        client.submit(*adds)
        client.next(2)
        first.end(signal.SIGKILL)
        assert client.is_lost()
    with run():
        ready = client.ready()
        assert (ready.addresses, ready.left_over) == ((), frozenset({V4, V4 + 1}))
        client.submit(adds[0])
        assert client.next() == [AddressAdded(0, V4)]
        client.leave()
        ready = start().ready()
        held = AddressOnInterface(V4, deadline)
        assert (ready.addresses, ready.left_over) == ((held,), frozenset({V4 + 1}))


def test_each_command_is_answered_by_its_event_in_order(
    network: Namespace, run: Run, start: Start
) -> None:
    deadline = in_s(60)
    rule = {"networks": ["192.0.2.0/24", "2001:db8::/64"], "prefix-lengths": [32, 128]}
    with run({"rules": [rule | {"interface": each} for each in (INTERFACE, "none0")]}):
        client = start()
        client.ready()
        client.submit(
            AddAddress(1, V4, INTERFACE, 32, deadline),
            AddAddress(2, V6, INTERFACE, 128, deadline),
            AddAddress(3, NOBODYS, INTERFACE, 32, deadline),
            AddAddress(4, V4 + 1, INTERFACE, 32, in_s(0.5)),
            AddAddress(5, V4 + 2, "none0", 32, deadline),
        )
        events = [
            replace(event, reason="")
            if isinstance(event, AddressRefused | AddressFailed)
            else event
            for event in client.next(5)
        ]
        # With the adds they would go ahead of those.
        client.submit(RemoveAddress(6, V4), RemoveAddress(7, V4), RenewAddresses(deadline))
        events += client.next(3)
        assert events == [
            AddressAdded(1, V4),
            AddressAdded(2, V6),
            AddressRefused(3, NOBODYS, "", Cause.NOT_ALLOWED),
            AddressRefused(4, V4 + 1, "", Cause.EXPIRED),
            AddressFailed(5, V4 + 2, ""),
            AddressRemoved(6, V4),
            AddressRemoved(7, V4),
            AddressesRenewed(frozenset()),
        ]
        assert present(network) == [f"{INTERFACE} {V6}/128"]
        network.run("ip", "link", "delete", INTERFACE)
        client.submit(RenewAddresses(deadline))
        assert client.next() == [AddressesRenewed(frozenset({V6}))]


def test_an_address_bears_the_label_of_when_it_was_added_if_that_fits(
    network: Namespace, run: Run, start: Start
) -> None:
    with run():
        client = start()
        client.ready()
        for number, label in enumerate((LABEL, "a" * 9, "b" * 10)):
            client.client.label = label
            client.submit(AddAddress(number, V4 + number, INTERFACE, 32, in_s(60)))
            assert client.next() == [AddressAdded(number, V4 + number)]
        assert {each["local"]: each["label"] for each in shown(network)} == {
            str(V4): f"{INTERFACE}:{LABEL}",
            str(V4 + 1): f"{INTERFACE}:{'a' * 9}",
            str(V4 + 2): INTERFACE,
        }


def test_a_killed_helper_is_lost_and_what_was_asked_before_it_is_back_is_dropped(
    network: Namespace, run: Run, start: Start, warnings: Warnings
) -> None:
    with run() as helper:
        client = start()
        before = client.ready()
        client.submit(AddAddress(1, V4, INTERFACE, 32, in_s(60)))
        assert client.next() == [AddressAdded(1, V4)]
        os.kill(helper.pid, signal.SIGSTOP)
        wait_for(lambda: state(helper.pid) == "T", "the helper stops")
        client.submit(AddAddress(2, V6, INTERFACE, 128, in_s(60)))
        helper.end(signal.SIGKILL)
        assert client.is_lost()
    wait_for(lambda: "Connection refused" in "".join(warnings()), "a warning")
    client.submit(AddAddress(3, V6, INTERFACE, 128, in_s(60)))
    with run():
        left_over = frozenset({V4})
        assert client.ready() == replace(
            before, left_over=left_over, places=places(V4, interface=INTERFACE)
        )
        client.submit(RemoveAddress(4, V4))
        assert client.next() == [AddressRemoved(4, V4)]
        assert present(network) == []


def test_a_stopped_helper_is_lost_when_it_has_not_answered_in_time(run: Run, start: Start) -> None:
    deadline = in_s(60)
    with run() as helper:
        client = start()
        before = client.ready()
        client.submit(AddAddress(1, V4, INTERFACE, 32, deadline))
        assert client.next() == [AddressAdded(1, V4)]
        with helper.stopped():
            submitted_at = boottime()
            client.submit(RemoveAddress(2, V6))
            assert client.next() == [HelperLost("no answer within 2 s")]
            assert boottime() >= submitted_at + ANSWER_WITHIN_S
        held = (AddressOnInterface(V4, deadline),)
        assert client.ready() == replace(
            before, addresses=held, places=places(V4, interface=INTERFACE)
        )


def test_a_helper_that_is_not_there_is_warned_of_once_and_found_when_it_comes(
    path: Path, run: Run, start: Start, warnings: Warnings
) -> None:
    client = start()
    wait_for(warnings, "a warning")
    warning = f"no helper at {path}: [Errno 2] No such file or directory"
    with run():
        client.ready()
        assert warnings().count(warning) == 1
        path.unlink()
    assert client.is_lost()
    wait_for(lambda: warnings().count(warning) == 2, "a warning anew")


def test_a_user_who_is_not_in_the_policy_tries_on_until_he_is(
    run: Run, start: Start, warnings: Warnings
) -> None:
    with run({"users": [12345]}) as helper:
        reason = "its user is not in the policy"
        before = str(helper.records()).count(reason)
        client = start()
        wait_for(lambda: str(helper.records()).count(reason) >= before + 3, "three tries")
        wait_for(warnings, "a warning")
    with run():
        client.ready()


def test_a_helper_that_hangs_up_is_warned_of_once_however_that_shows(
    path: Path, start: Start, warnings: Warnings
) -> None:
    """Who is not in helper.yml tries on, ten times a second: each other way was told again."""
    with listening(path) as listener:
        start()
        for number in range(6):
            with accept(listener) as connection:
                if number % 2:
                    connection.recv(MAX_PACKET)
        with accept(listener) as connection:
            connection.recv(MAX_PACKET)
            (told,) = warnings()
    assert told.endswith(
        f": it hangs up on uid {os.geteuid()}: list this user under users in helper.yml, then"
        " systemctl reload yaim-helper"
    )


def test_a_second_client_of_a_cluster_is_told_so_once_and_has_its_turn_later(
    run: Run, start: Start, warnings: Warnings
) -> None:
    with run() as helper:
        first = start()
        first.ready()
        second = start()
        wait_for(lambda: str(helper.records()).count("'busy'") >= 3, "three refusals")
        (warning,) = warnings()
        assert f"process {os.getpid()} is connected for cluster {CLUSTER} already" in warning
        first.leave()
        second.ready()


# --- one that does not keep to the protocol ------------------------------------------------


def test_a_helper_that_answers_a_command_with_nonsense_is_lost(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        for action, packet in MALFORMED:
            with greeted(listener) as connection:
                assert client.ready() == WELCOMED
                client.submit(action)
                answer(connection, packet)
                assert client.is_lost()
                assert is_hung_up(connection)


def test_a_helper_that_answers_what_was_not_asked_is_lost(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        for number in (3, 4):
            with greeted(listener) as connection:
                assert client.ready() == WELCOMED
                if number == 4:
                    client.submit(REMOVE)
                    answer(connection, {"result": "ok", "was": "present"})
                    assert client.next() == [AddressRemoved(13, V4)]
                connection.send(b'{"id": %d, "result": "ok", "was": "present"}' % number)
                assert client.next() == [HelperLost("an answer to nothing")]


def test_what_is_asked_before_the_helper_is_ready_is_dropped(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        with accept(listener) as connection:
            client.submit(ADD)
            answer(connection, welcome())
            client.submit(ADD_V6)
            answer(connection, NOTHING_HELD)
            client.ready()
            client.submit(REMOVE)
            request = json.loads(connection.recv(MAX_PACKET))
            assert (request["id"], request["op"]) == (3, "remove")


def test_a_renewal_goes_ahead_of_adds_that_wait_but_not_of_removals(
    path: Path, start: Start
) -> None:
    """And what it passed asks for its deadline."""
    sooner, later, last = (Boottime(float(n)) for n in (1000, 2000, 3000))
    full = [RemoveAddress(n, V4) for n in range(MAX_UNDER_WAY)]
    adds = [AddAddress(n, V4 + n, "eth0", 32, sooner) for n in range(4)]
    with listening(path) as listener:
        client = start()
        with greeted(listener) as connection:
            client.ready()
            client.submit(*full)
            client.submit(adds[0], REMOVE, adds[1], adds[2], RenewAddresses(later), adds[3])
            client.submit(RenewAddresses(last))
            ok: Message = {"result": "ok", "was": "absent", "missing": []}
            asked = [json.loads(answer(connection, ok)) for _ in range(MAX_UNDER_WAY + 8 - 1)]
    waited = asked[MAX_UNDER_WAY:]
    told = [(each["op"], each.get("address"), each.get("deadline_ns", 0) / 1e9) for each in waited]
    assert told == [
        ("add", str(V4), sooner),
        ("remove", str(V4), 0),
        ("renew", None, later),
        ("renew", None, last),
        ("add", str(V4 + 1), last),
        ("add", str(V4 + 2), last),
        ("add", str(V4 + 3), last),
    ]


def test_a_removal_goes_ahead_of_adds_of_other_addresses(path: Path, start: Start) -> None:
    """And so does the renewal behind it."""
    full = [RemoveAddress(n, V4) for n in range(MAX_UNDER_WAY)]
    adds = [AddAddress(n, V4 + n, "eth0", 32, DEADLINE) for n in range(4)]
    removals = [RemoveAddress(10 + n, V4 + n) for n in range(10)]
    with listening(path) as listener:
        client = start()
        with greeted(listener) as connection:
            client.ready()
            client.submit(*full)
            client.submit(adds[1], adds[2], removals[9], RenewAddresses(DEADLINE))
            client.submit(removals[2], adds[3], removals[1])
            ok: Message = {"result": "ok", "was": "absent", "missing": []}
            asked = [json.loads(answer(connection, ok)) for _ in range(MAX_UNDER_WAY + 7)]
    waited = asked[MAX_UNDER_WAY:]
    assert [(each["op"], each.get("address")) for each in waited] == [
        ("remove", str(V4 + 9)),
        ("renew", None),
        ("add", str(V4 + 1)),
        ("add", str(V4 + 2)),
        ("remove", str(V4 + 2)),
        ("remove", str(V4 + 1)),
        ("add", str(V4 + 3)),
    ]


CAN_RESET: Message = {"connections": {"can_reset": True, "reason": ""}}


@contextmanager
def able(listener: socket.socket) -> Iterator[socket.socket]:
    """The next connection, after the hello and list of a helper that can reset."""
    with accept(listener) as connection:
        answer(connection, welcome() | CAN_RESET)
        answer(connection, NOTHING_HELD)
        yield connection


OK: Message = {"result": "ok", "was": "absent", "missing": [], "cleared": 0, "left": 0}


def test_connections_are_cleared_when_all_else_is_done_and_not_of_what_comes_back(
    path: Path, start: Start
) -> None:
    full = [RemoveAddress(n, V4) for n in range(MAX_UNDER_WAY)]
    with listening(path) as listener:
        client = start()
        with able(listener) as connection:
            client.ready()
            client.submit(*full)
            client.submit(*(ClearConnections(V4 + n) for n in range(3)), REMOVE)
            client.submit(AddAddress(1, V4 + 1, "eth0", 32, DEADLINE), RenewAddresses(DEADLINE))
            client.submit(RemoveAddress(2, V4 + 2))
            asked = [json.loads(answer(connection, OK)) for _ in range(MAX_UNDER_WAY + 6)]
    waited = asked[MAX_UNDER_WAY:]
    assert [(each["op"], each.get("address")) for each in waited] == [
        ("remove", str(V4)),
        ("renew", None),
        ("remove", str(V4 + 2)),
        ("add", str(V4 + 1)),
        ("clear", str(V4)),
        ("clear", str(V4 + 2)),
    ]


def test_connections_are_cleared_one_address_at_a_time(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        with able(listener) as connection:
            client.ready()
            client.submit(*(ClearConnections(V4 + n) for n in range(2)))
            assert json.loads(connection.recv(MAX_PACKET)) == {
                "id": 3,
                "op": "clear",
                "address": str(V4),
            }
            client.submit(RenewAddresses(DEADLINE))
            assert json.loads(connection.recv(MAX_PACKET))["op"] == "renew"
            for number in (3, 4):
                connection.send(json.dumps(OK | {"id": number}).encode())
            assert client.next() == [AddressesRenewed(frozenset())]
            asked = json.loads(answer(connection, OK))
            assert (asked["op"], asked["address"]) == ("clear", str(V4 + 1))


def test_a_helper_that_can_is_asked_to_reset_and_tells_what_it_did(
    path: Path, start: Start
) -> None:
    with listening(path) as listener:
        client = start()
        with able(listener) as connection:
            assert client.ready() == replace(WELCOMED, resets=Resets(True))
            client.submit(RemoveAddress(5, V4, resets=True), RemoveAddress(6, V6))
            told = {"result": "ok", "was": "present", "reset": 12, "left": 3}
            assert json.loads(answer(connection, told)) == {
                "id": 3,
                "op": "remove",
                "address": str(V4),
                "connections": "reset",
            }
            assert json.loads(answer(connection, OK | {"left": 0})) == {
                "id": 4,
                "op": "remove",
                "address": str(V6),
            }
            assert client.next(2) == [AddressRemoved(5, V4, 12, 3), AddressRemoved(6, V6)]


@pytest.mark.parametrize(
    "tells", [{}, {"connections": {"can_reset": False, "reason": "no kernel"}}]
)
def test_a_helper_that_cannot_is_asked_for_nothing_new(
    path: Path, start: Start, tells: Message
) -> None:
    """Also if the core does not know yet that it is another one."""
    with listening(path) as listener:
        client = start()
        with able(listener) as connection:
            client.ready()
            connection.close()
            assert client.is_lost()
        with accept(listener) as connection:
            answer(connection, welcome() | tells)
            answer(connection, NOTHING_HELD)
            assert not client.ready().resets.can_reset
            client.submit(ClearConnections(V4), RemoveAddress(5, V4, resets=True))
            assert json.loads(answer(connection, OK)) == {
                "id": 3,
                "op": "remove",
                "address": str(V4),
            }
            assert client.next() == [AddressRemoved(5, V4)]


def test_rules_tell_whether_connections_may_be_reset(path: Path, start: Start) -> None:
    rules = [RULES[0] | {"reset_connections": each} for each in (True, False)]
    with listening(path) as listener:
        client = start()
        with accept(listener) as connection:
            answer(connection, welcome() | CAN_RESET | {"rules": rules})
            answer(connection, NOTHING_HELD)
            assert [each.resets for each in client.ready().rules] == [True, False]


def test_a_renewal_is_sent_though_the_helper_is_slow_with_more_adds_than_it_may_be_sent(
    path: Path, start: Start
) -> None:
    """Those wait for the disk of its record, if that hangs."""
    adds = [AddAddress(n, V4, "eth0", 32, DEADLINE) for n in range(2 * MAX_UNDER_WAY)]
    with listening(path) as listener:
        client = start()
        with greeted(listener) as connection:
            client.ready()
            client.submit(*adds)
            asked = [
                json.loads(connection.recv(MAX_PACKET))["op"] for _ in range(MAX_ADDS_UNDER_WAY)
            ]
            client.submit(RenewAddresses(DEADLINE))
            asked.append(json.loads(connection.recv(MAX_PACKET))["op"])
    assert asked == ["add"] * MAX_ADDS_UNDER_WAY + ["renew"]


def test_a_full_buffer_holds_up_neither_what_is_in_it_nor_what_waits(
    path: Path, start: Start
) -> None:
    """Requests of such a length fill it before there are too many of them under way."""
    adds = [AddAddress(n, V4, f"{n}-" + "x" * 1500, 32, DEADLINE) for n in range(MAX_UNDER_WAY)]
    with listening(path) as listener:
        client = start()
        with greeted(listener) as connection:
            client.ready()
            client.submit(*adds)
            wait_for(lambda: is_full(connection), "the buffer is full")
            ok: Message = {"result": "ok", "was": "absent"}
            asked = [json.loads(answer(connection, ok)) for _ in adds]
            assert [each["interface"] for each in asked] == [each.interface for each in adds]
            assert client.next(len(adds)) == [AddressAdded(each.request, V4) for each in adds]


def is_full(connection: socket.socket) -> bool:
    """Whether less than all that was submitted above has come, and no more comes."""
    before = unread(connection)
    return 100_000 < before == unread(connection) < MAX_UNDER_WAY * 1500


def unread(connection: socket.socket) -> int:
    """Bytes (unix(7), SIOCINQ: of a SOCK_SEQPACKET socket those of all packets)."""
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), sys.byteorder)


NONE, ABSENT = "none of the protocol", object()
BAD_GREETINGS: tuple[tuple[str, Message | bytes | None, Message | bytes | None], ...] = (
    ("timed out", None, None),
    (NONE, {"boottime_ns": ABSENT}, None),
    ("same time namespace", {"boottime_ns": 0}, None),
    (NONE, {"boottime_ns": "now"}, None),
    ("same time namespace", {"boottime_ns": 2**62}, None),
    (NONE, {"rules": ABSENT}, None),
    ("it hangs up on uid", b"", None),
    (NONE, {"rules": ["eth0"]}, None),
    (NONE, {"rules": [RULES[0] | {"reset_connections": 1}]}, None),
    (NONE, {"connections": None}, None),
    (NONE, {"connections": {"can_reset": True}}, None),
    ("not JSON", b"welcome", None),
    (NONE, {"rules": [{"interface": "eth0"}]}, None),
    ("that is none", b"[]", None),
    ("not JSON", b"[" * 60000, None),
    (NONE, {"fence": "yes"}, {}),
    ("not JSON", b"-", None),
    (NONE, {"boottime_ns": 10**400}, None),
    ("another request", {"id": 99}, None),
    ("more than 65536 bytes", {"padding": " " * 65536}, None),
    (NONE, {"rules": [{"interface": "eth0", "networks": ["all"]}]}, None),
    ("not JSON", b"\xff", None),
    ("without a reason", {"result": "done"}, None),
    ("it speaks 2", {"result": "refused", "code": "version", "reason": "it speaks 2"}, None),
    (NONE, {"session": ABSENT}, {}),
    ("it hung up", {}, b""),
    (NONE, {}, {"addresses": ABSENT}),
    ("that is none", {}, b"[]"),
    (NONE, {}, {"addresses": ["192.0.2.10"]}),
    ("why", {}, {"result": "refused", "code": "not-allowed", "reason": "why"}),
    (NONE, {}, {"addresses": [HELD | {"address": "192.0.2"}]}),
    ("without a reason", {}, {"result": "done"}),
    (NONE, {}, {"addresses": [HELD | {"deadline_ns": "soon"}]}),
    ("not JSON", {}, b"\xff"),
    (NONE, {}, {"more": ABSENT}),
)
"""What the client says of it, and what is changed in the replies to hello and list, or comes in
their place (None: nothing). Never the same twice in a row, which would be one warning."""


def changed(reply: Message, changes: Message | bytes | None) -> Message | bytes | None:
    if not isinstance(changes, dict):
        return changes
    return {key: value for key, value in (reply | changes).items() if value is not ABSENT}


def test_a_helper_whose_greeting_will_not_do_is_warned_of_and_tried_again(
    path: Path, start: Start, warnings: Warnings
) -> None:
    with listening(path) as listener:
        client = start()
        for _, hello, page in BAD_GREETINGS:
            with accept(listener) as connection:
                answer(connection, changed(welcome(), hello))
                if page is not None:
                    answer(connection, changed(NOTHING_HELD, page))
                assert is_hung_up(connection)
        with greeted(listener):
            assert client.ready() == WELCOMED
            # While it is connected: afterwards nobody listens, which it warns of as well.
            told = warnings()
    for (why, _, _), warning in zip(BAD_GREETINGS, told, strict=True):
        assert why in warning


@pytest.mark.parametrize("fence", [Fence(True), Fence(False, "the kernel has no nf_tables")])
def test_a_helper_tells_whether_it_has_a_fence(path: Path, start: Start, fence: Fence) -> None:
    told = {"in_force": fence.is_in_force, "reason": fence.reason}
    with listening(path) as listener:
        client = start()
        with accept(listener) as connection:
            answer(connection, welcome() | {"fence": told})
            answer(connection, NOTHING_HELD)
            assert client.ready() == replace(WELCOMED, fence=fence)


def test_a_list_that_will_not_do_is_warned_of_once(
    path: Path, start: Start, warnings: Warnings
) -> None:
    with listening(path) as listener:
        client = start()
        for _ in range(3):
            with accept(listener) as connection:
                answer(connection, welcome())
                answer(connection, {"result": "ok"})
                assert is_hung_up(connection)
        with greeted(listener):
            client.ready()
            # While it is connected: afterwards nobody listens, which it warns of as well.
            told = warnings()
    assert len(told) == 1
    assert "addresses" in told[0]


def test_the_head_of_the_helpers_record_is_logged(
    run: Run, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: the next time is an hour later."""
    with run() as helper, caplog.at_level(logging.INFO, "yaim.managers.helper.client"):
        client = start()
        client.ready()
        for _ in range(2):
            client.submit(RenewAddresses(in_s(60)))
            client.next(1)
        (told,) = [each for each in caplog.messages if each.startswith("audit head")]
        words = dict(word.split("=") for word in told.split()[2:])
        record = helper.records()[int(words["seq"]) - 1]
    assert (words["host"], words["sha256"]) == (record["host"], record["hash"])


# --- what a helper tells of itself ---------------------------------------------------------

CAPACITY: Message = {"capacity": 64}
RENEWED: Message = {"result": "ok", "missing": [], "head": None}
DISK_FULL = "/var/log/yaim-helper: No space left on device"
FULL = f"the helper can add nothing, as its record cannot be written: {DISK_FULL}"
LOOKED_FOR = {"op": "list", "after": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}


@contextmanager
def with_capacity(listener: socket.socket, client: Started) -> Iterator[socket.socket]:
    """The next connection, of a helper that tells what is wrong."""
    with accept(listener) as connection:
        answer(connection, welcome() | CAPACITY)
        answer(connection, NOTHING_HELD)
        assert client.ready() == replace(WELCOMED, capacity=64)
        yield connection


def test_what_renewals_tell_to_be_wrong_is_posted_when_it_changes(
    path: Path, start: Start, warnings: Warnings
) -> None:
    with listening(path) as listener:
        client = start()
        with with_capacity(listener, client) as connection:
            replies: tuple[Message, ...] = ({}, {"record": DISK_FULL}, {"record": DISK_FULL}, {})
            for wrong in replies:
                client.submit(RenewAddresses(DEADLINE))
                answer(connection, RENEWED | wrong)
            renewed = AddressesRenewed(frozenset())
            assert client.next(6) == [
                *(renewed, renewed, ProblemsObserved("helper", (FULL,))),
                *(renewed, renewed, ProblemsObserved("helper", ())),
            ]
            assert warnings() == [FULL]


def test_a_helper_that_holds_nothing_is_asked_what_is_wrong(path: Path, start: Start) -> None:
    """It renews nothing, and would seem to be well until it is to take something over."""
    with listening(path) as listener:
        client = start()
        with with_capacity(listener, client) as connection:
            asked = json.loads(answer(connection, NOTHING_HELD | {"record": DISK_FULL}))
            assert asked == {"id": 3, **LOOKED_FOR}
            assert client.next() == [ProblemsObserved("helper", (FULL,))]
            # It goes on as before.
            client.submit(REMOVE)
            answer(connection, {"result": "ok", "was": "present"})
            assert client.next() == [AddressRemoved(13, V4)]


def test_who_cannot_say_what_is_wrong_now_says_it_another_time(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        with with_capacity(listener, client) as connection:
            answer(connection, {"result": "failed", "errno": None, "reason": "RTNL is held"})
            client.submit(RenewAddresses(DEADLINE))
            answer(connection, RENEWED | {"record": DISK_FULL})
            assert client.next(2) == [
                AddressesRenewed(frozenset()),
                ProblemsObserved("helper", (FULL,)),
            ]


def test_of_a_helper_that_is_lost_nothing_is_known_to_be_wrong(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        with with_capacity(listener, client) as connection:
            client.submit(RenewAddresses(DEADLINE))
            answer(connection, RENEWED | {"record": DISK_FULL})
            assert client.next(2)[1] == ProblemsObserved("helper", (FULL,))
        assert client.next(2) == [HelperLost("it hung up"), ProblemsObserved("helper", ())]


def test_a_helper_that_tells_nonsense_to_be_wrong_is_lost(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        with with_capacity(listener, client) as connection:
            client.submit(RenewAddresses(DEADLINE))
            answer(connection, RENEWED | {"conflicts": "all"})
            assert client.next() == [HelperLost("a reply that is none: conflicts is all")]


def test_an_older_helper_is_not_asked_and_not_believed(path: Path, start: Start) -> None:
    with listening(path) as listener:
        client = start()
        with greeted(listener) as connection:
            assert client.ready() == WELCOMED
            client.submit(RenewAddresses(DEADLINE))
            answer(connection, RENEWED | {"record": DISK_FULL})
            client.submit(REMOVE)
            answer(connection, {"result": "ok", "was": "present"})
            assert client.next(2) == [AddressesRenewed(frozenset()), AddressRemoved(13, V4)]


def test_a_real_helper_tells_its_limit_and_what_is_wrong(run: Run, start: Start) -> None:
    with run({"max-addresses": 7}) as helper:
        client = start()
        assert client.ready().capacity == 7
        file = helper.socket.parent / "helper.yml"
        file.write_text("users: [nobody-of-this-name]\nrules: []\n")
        os.kill(helper.pid, signal.SIGHUP)
        (event,) = client.next()
        assert event == ProblemsObserved(
            "helper",
            (
                f"{file} could not be used when it was read again: correct it (yaim-helper policy"
                " check), then systemctl reload yaim-helper",
            ),
        )
