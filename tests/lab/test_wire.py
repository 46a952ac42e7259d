"""Who answers on the wire, and what follows from it: runs made by hand, then real frames between
real kernels. Times are in seconds."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yaim.core.model import Address
from yaim.lab.links import put_address
from yaim.lab.namespaces import Namespace
from yaim.lab.network import LAN, Cables
from yaim.lab.record import Record
from yaim.lab.spans import Span
from yaim.lab.wait import wait_until
from yaim.lab.wire import FOREIGN_SLACK_S, Run, Runs, overlaps

A, B = ip_address("192.0.2.11"), ip_address("2001:db8::11")
AS_YAIM = ("valid_lft", "60", "preferred_lft", "0")
PROBED_EVERY_S = 0.02
NODES = ("n1", "n2")


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ([("n1", 1, 5)], []),
        ([("n1", 1, 5), ("n2", 6, 9)], []),
        ([("n2", 6, 9), ("n1", 1, 5)], []),
        ([("n1", 1, 5), ("n2", 3, 9)], [(3, 5)]),
        ([("n1", 1, 9), ("n2", 3, 5)], [(3, 5)]),
        ([("n1", 1, 9), ("n1", 3, 5)], []),
        ([("n1", 1, 4), ("n1", 6, 9), ("n2", 4.5, 5.5)], []),
        ([("n1", 1, 4), ("n2", 2, 6), ("n1", 5, 9)], [(2, 4), (5, 6)]),
        # One answer, sent at 5 and received at 5.2, and another node's before, amid and after it.
        ([("n1", 1, 9), ("n2", 5.2, 5)], [(5, 5.2)]),
        ([("n1", 1, 5.1), ("n2", 5.2, 5)], []),
        ([("n1", 5.1, 9), ("n2", 5.2, 5)], []),
        ([("n1", 5.3, 4.9), ("n2", 5.2, 5)], []),
    ],
)
def test_nodes_overlap_when_neither_can_have_ended_before_the_other_began(
    runs: list[tuple[str, float, float]], found: list[Span]
) -> None:
    """Of each run: when its first answer was received, and its last answered probe sent."""
    expected = {A: found} if found else {}
    for some in (runs, runs[::-1]):
        assert overlaps([Run(node, A, first, last) for node, first, last in some], {}) == expected


def test_different_addresses_do_not_overlap() -> None:
    assert overlaps([Run("n1", A, 1, 5), Run("n2", B, 1, 5)], {}) == {}


def test_what_a_node_answers_while_it_has_a_copy_that_is_not_yaims_does_not_count() -> None:
    runs = [Run("n1", A, 1, 9), Run("n2", A, 3, 8)]
    slack_s = FOREIGN_SLACK_S
    assert overlaps(runs, {("n2", A): [(3, 8)]}) == {}
    assert overlaps(runs, {("n2", A): [(3, 5)]}) == {A: [(5 + slack_s, 8)]}
    assert overlaps(runs, {("n1", A): [(4, 5)]}) == {A: [(3, 4 - slack_s), (5 + slack_s, 8)]}
    assert overlaps(runs, {("n2", B): [(3, 8)]}) == {A: [(3, 8)]}
    single = [Run("n1", A, 1, 9), Run("n2", A, 3.2, 3)]
    assert overlaps(single, {("n2", A): [(3.25, 8)]}) == {}


def test_a_probe_without_an_answer_ends_a_run() -> None:
    runs = Runs()
    for turn in (1, 2, 4, 3, 5):
        runs.note("n1", A, turn, sent=turn, received=turn + 0.5)
    assert runs.news() == [Run("n1", A, 1.5, 2), Run("n1", A, 4.5, 5)]
    runs.note("n1", A, 6, 6, 6.5)
    runs.note("n2", A, 6, 6, 6.5)
    assert runs.news() == [Run("n1", A, 4.5, 6), Run("n2", A, 6.5, 6)]
    assert runs.news() == []


holds = st.lists(st.tuples(st.sampled_from(NODES), st.integers(1, 60)), max_size=12)
"""Who holds the address one after the other, and for how long."""
delays = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300)), min_size=1, max_size=9)
"""How long a probe takes to be answered, and its answer to be received."""


def _seen(
    spans: list[tuple[str, int, int]], every: int, late: list[tuple[int, int]], lost: set[int]
) -> dict[Address, list[Span]]:
    """What is found if probes are sent all the time. Each reaches all nodes at the same time, late;
    each answer takes its own time. They are received in the order in which they were given."""
    answers = []
    for number, sent in enumerate(range(0, 800, every)):
        at = sent + late[number % len(late)][0]
        for place, node in enumerate(NODES):
            is_held = any(who == node and start <= at < end for who, start, end in spans)
            if is_held and number not in lost:
                back = late[(number + place) % len(late)][1]
                answers.append((at, back, node, number + 1, sent))
    runs, received = Runs(), 0
    found: dict[tuple[str, float], Run] = {}
    for at, back, node, turn, sent in sorted(answers):
        received = max(received, at + back)
        runs.note(node, A, turn, sent, received)
        for run in runs.news():
            found[run.node, run.first_received] = run
    return overlaps(found.values(), {})


@given(holds, st.integers(1, 30), delays, st.sets(st.integers(0, 99)))
def test_there_is_no_false_alarm_however_late_answers_are(
    held: list[tuple[str, int]], every: int, late: list[tuple[int, int]], lost: set[int]
) -> None:
    """One node holds the address after the other."""
    spans, start = [], 0
    for node, length in held:
        spans.append((node, start, start + length))
        start += length
    assert _seen(spans, every, late, lost) == {}


@given(st.integers(1, 30), st.integers(100, 300), st.integers(0, 20))
def test_an_overlap_is_found_and_no_longer_than_it_was(every: int, length: int, late: int) -> None:
    spans = [("n1", 0, 300), ("n2", 300 - length, 600)]
    found = _seen(spans, every, [(1, late)], set())
    (span,) = found[A]
    assert length - 2 * every - 2 * late - 2 <= span[1] - span[0] <= length


# --- real frames ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Wire:
    """Two "nodes" and a client, which asks them."""

    nodes: dict[str, Namespace]
    record: Record

    def ip(self, node: str, *command: str) -> None:
        self.nodes[node].run("ip", "address", *command, "dev", LAN.interface)

    def add(self, node: str, address: Address, *how: str) -> None:
        flags = ("nodad",) if address.version == 6 else ()
        self.ip(node, "add", _whole(address), *(how or AS_YAIM), *flags)

    def remove(self, node: str, address: Address) -> None:
        self.ip(node, "del", _whole(address))

    def look_on(self, seconds: float) -> None:
        """Lets time go by, and reads all that was seen until then."""
        time.sleep(seconds)
        now = time.monotonic()

        def are_told() -> bool:
            self.record.update()
            return self.record.answers_told_until >= now

        wait_until(are_told, 20.0, "the observer to tell what is answered")

    def on_the_wire_s(self, since: float) -> float:
        return self.record.wire_overlap_s({A, B}, since, time.monotonic())

    def on_interfaces_s(self, since: float) -> float:
        return self.record.overlap_s({A, B}, since, time.monotonic())


def _whole(address: Address) -> str:
    return f"{address}/{address.max_prefixlen}"


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    own = {name: ip_address(f"192.0.2.20{number}") for number, name in enumerate(NODES, 1)}
    with ExitStack() as stack:
        LAN.make()
        stack.callback(LAN.delete)
        nodes = {name: stack.enter_context(closing(Namespace.new())) for name in NODES}
        client = stack.enter_context(closing(Namespace.new()))
        for number, (name, namespace) in enumerate((*nodes.items(), ("client", client)), 1):
            stack.callback(Cables(namespace, name, [LAN]).close)
            put_address(f"192.0.2.20{number}/24", LAN.interface, namespace)
            put_address(f"2001:db8::c{number}/64", LAN.interface, namespace)
        file = tmp_path / "observed"
        log = stack.enter_context(file.open("wb"))
        observer = client.start(
            (
                *(sys.executable, "-P", "-m", "yaim.lab.observer", "10"),
                ",".join(f"{name}={namespace.fd}" for name, namespace in nodes.items()),
                f"{A},{B}",
                str(round(PROBED_EVERY_S * 1000)),
                LAN.interface,
                "192.0.2.203,2001:db8::c3",
                ",".join(map(str, own.values())),
            ),
            log,
            pass_fds=[namespace.fd for namespace in nodes.values()],
        )
        stack.callback(observer.wait)
        stack.callback(observer.kill)
        wire = Wire(nodes, Record(file, frozenset({A, B}), own, PROBED_EVERY_S))
        wire.look_on(0.0)
        yield wire


@pytest.mark.parametrize("address", [A, B], ids=["IPv4", "IPv6"])
def test_two_nodes_that_answer_overlap_for_as_long_as_they_do(wire: Wire, address: Address) -> None:
    wire.add("n1", address)
    wire.look_on(0.3)
    before = time.monotonic()
    wire.add("n2", address)
    both = time.monotonic()
    wire.look_on(1.0)
    assert wire.record.answering_holders() == {address: ["n1", "n2"]}
    removing = time.monotonic()
    wire.remove("n1", address)
    removed = time.monotonic()
    wire.look_on(0.5)
    found = wire.on_the_wire_s(before)
    assert removing - both - 0.2 < found < removed - before
    (interval,) = wire.record.wire_overlaps({A, B}, before, time.monotonic())
    assert interval.address == address
    assert wire.record.wire_overlaps({A, B}, removed, time.monotonic()) == []


@pytest.mark.parametrize("address", [A, B], ids=["IPv4", "IPv6"])
def test_a_hand_over_is_no_overlap(wire: Wire, address: Address) -> None:
    since = time.monotonic()
    wire.add("n1", address)
    for _ in range(5):
        for gives, takes in (NODES, NODES[::-1]):
            time.sleep(0.15)
            wire.remove(gives, address)
            wire.add(takes, address)
    wire.look_on(0.3)
    assert wire.record.moves({A, B}, since, time.monotonic()) == 11
    assert wire.record.answering_holders() == {address: ["n1"]}
    assert (wire.on_the_wire_s(since), wire.on_interfaces_s(since)) == (0.0, 0.0)


MUTED = """
table arp muted {
  chain in { type filter hook input priority 0; arp daddr ip 192.0.2.11 drop; }
  chain out { type filter hook output priority 0; arp saddr ip 192.0.2.11 drop; }
}
table inet muted {
  chain in { type filter hook prerouting priority -310
    ip daddr 192.0.2.11 drop; ip6 daddr 2001:db8::11 drop; }
  chain out { type filter hook postrouting priority 310
    ip saddr 192.0.2.11 drop; ip6 saddr 2001:db8::11 drop; }
}
"""


def _change_rules(namespace: Namespace, text: str) -> None:
    command = ("nsenter", f"--net={namespace.path}", "nft", "-f", "-")
    subprocess.run(command, input=text, text=True, check=True, pass_fds=(namespace.fd,))


@pytest.mark.parametrize("address", [A, B], ids=["IPv4", "IPv6"])
def test_what_lies_muted_on_an_interface_overlaps_there_and_not_on_the_wire(
    wire: Wire, address: Address
) -> None:
    wire.add("n1", address)
    wire.look_on(0.5)
    _change_rules(wire.nodes["n1"], MUTED)
    muted = time.monotonic()
    wire.look_on(0.7)
    assert wire.record.holders() == {address: ["n1"]}
    assert wire.record.answering_holders() == {}
    added = time.monotonic()
    wire.add("n2", address)
    wire.look_on(1.0)
    assert wire.record.answering_holders() == {address: ["n2"]}
    now = time.monotonic()
    assert wire.on_the_wire_s(0.0) == 0.0
    assert now - added - 0.3 < wire.on_interfaces_s(0.0) < now - added
    (lay,) = wire.record.muted({A, B}, muted - 0.2, now)
    assert (lay.address, abs(lay.start - muted) < 0.15) == (address, True)
    (nobody,) = wire.record.unanswered({address}, muted - 0.2, now)
    assert abs(nobody.start - muted) < 0.15 and abs(nobody.end - added) < 0.15
    assert wire.record.uncovered({address}, muted - 0.2, now) == []
    _change_rules(wire.nodes["n1"], "flush ruleset")
    wire.look_on(0.5)
    assert wire.on_the_wire_s(0.0) > 0.2


def test_a_node_that_answers_arp_alone_answers(wire: Wire) -> None:
    _change_rules(wire.nodes["n1"], MUTED.partition("table inet")[2].join(("table inet", "")))
    wire.add("n1", A)
    wire.add("n2", A)
    wire.look_on(0.5)
    assert wire.on_the_wire_s(0.0) > 0.0


def test_a_copy_by_hand_is_no_overlap_and_a_node_that_is_cut_off_is_not_muted(wire: Wire) -> None:
    wire.add("n1", A)
    wire.look_on(0.4)
    wire.add("n2", A, "valid_lft", "forever")
    wire.look_on(0.5)
    wire.remove("n2", A)
    wire.look_on(0.4)
    assert wire.on_the_wire_s(0.0) == 0.0
    wire.nodes["n1"].run("ip", "link", "set", LAN.interface, "down")
    wire.look_on(0.8)
    assert wire.record.answering_holders() == wire.record.holders()
    assert wire.record.muted({A}, 0.0, time.monotonic()) == []


def test_probes_leave_nothing_in_the_nodes_tables_of_neighbours(wire: Wire) -> None:
    wire.add("n1", A)
    wire.look_on(0.5)
    for namespace in wire.nodes.values():
        shown = json.loads(namespace.run("ip", "-json", "neigh", "show"))
        assert {each["dst"] for each in shown if "." in each["dst"]} <= {"192.0.2.203"}


def test_a_late_look_finds_the_same(wire: Wire) -> None:
    """The client has no processor for a while: the nodes answer all the same."""
    since = time.monotonic()
    wire.add("n1", A)
    wire.look_on(0.2)
    _while_all_processors_are_busy(lambda: _exchange(wire))
    wire.look_on(0.3)
    assert wire.on_the_wire_s(since) == 0.0


def _exchange(wire: Wire) -> None:
    for gives, takes in (NODES, NODES[::-1]) * 3:
        time.sleep(0.1)
        wire.remove(gives, A)
        wire.add(takes, A)


def _while_all_processors_are_busy(act: Callable[[], None]) -> None:
    busy = [
        subprocess.Popen(("nice", "-n", "-15", sys.executable, "-c", "while True: pass"))
        for _ in range(4)
    ]
    try:
        act()
    finally:
        for each in busy:
            each.kill()
            each.wait()
