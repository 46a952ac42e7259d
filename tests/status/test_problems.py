"""Each cause for which a cluster is degraded, and what is told of it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from tests.status.clusters import MARKS, NODES, NOW, POOL, WELL, made, mark, node, view, waiting
from yaim.core.model import (
    ClusterView,
    Control,
    Member,
    Move,
    Node,
    NodeName,
    Order,
    Pin,
    PoolEntry,
    Revision,
    Weight,
    WrongEntry,
    frozen_mapping,
)
from yaim.status.facts import ClusterStatus, Condition, NodeState, status_of
from yaim.status.problem import Code, Group, Note, Problem, grouped, listed

HERE = Member("2026-11-20T08:00:00Z", False, "2026-11-20T08:00:00Z", "1.0")
STOPPED = replace(HERE, is_stopped=True, at="2026-11-22T11:30:00Z")
BY = Order("root@db1", "kernel upgrade", "2026-11-22T11:00:00Z", "2026-11-22T13:00:00Z")
NEW, OLD = 4, 3


def changed(each: Node, **told: object) -> Node:
    return replace(each, advertisement=replace(each.advertisement, **told))  # type: ignore[arg-type]


def controlled(control: Control, seen: ClusterView = WELL) -> ClusterView:
    """Every node of it follows what operators ask for."""
    nodes = {name: changed(each, placement=NEW) for name, each in seen.nodes.items()}
    return replace(seen, nodes=frozen_mapping(nodes), control=control)


def with_nodes(*nodes: Node) -> ClusterView:
    return view(POOL, nodes, MARKS)


def found(seen: ClusterView, lost: Mapping[NodeName, datetime] | None = None) -> list[Problem]:
    status = made(seen, lost=lost)
    assert status.condition is (Condition.DEGRADED if status.problems else Condition.HEALTHY)
    return list(status.problems)


def row(status: ClusterStatus, name: str) -> tuple[NodeState, str]:
    (each,) = (each for each in status.nodes if each.name == name)
    return each.state, each.reason


# --- nodes ---------------------------------------------------------------------------------------


def test_a_node_that_was_killed_or_cut_off_is_missing() -> None:
    """n2 killed and n3 cut off was `healthy` with one node listed."""
    members = {NodeName("db1"): HERE, NodeName("db2"): HERE, NodeName("db3"): HERE}
    seen = controlled(Control(members=frozen_mapping(members)))
    (problem,) = found(seen)
    assert problem == Problem(
        Code.MISSING,
        "db3",
        "is not there, and was not stopped: killed, frozen, cut off or without power",
        "there: systemctl restart yaim; if it is gone for good: yaim node forget db3",
    )
    assert row(made(seen), "db3") == (NodeState.MISSING, problem.text)
    at = datetime(2026, 11, 22, 11, 59, 30, tzinfo=UTC)
    (problem,) = found(seen, {NodeName("db3"): at})
    assert problem.text.endswith(
        ": killed, frozen, cut off or without power, its lease ended 2026-11-22T11:59:30Z"
    )
    (missing,) = (e for e in made(seen, lost={NodeName("db3"): at}).nodes if e.name == "db3")
    assert (missing.since, missing.first_seen) == ("2026-11-22T11:59:30Z", HERE.first_seen)


def test_a_node_that_was_stopped_is_told_and_is_nothing_wrong() -> None:
    seen = controlled(Control(members=frozen_mapping({NodeName("db3"): STOPPED})))
    assert found(seen) == []
    assert row(made(seen), "db3") == (NodeState.STOPPED, "since 2026-11-22T11:30:00Z")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"down": frozenset({"eth0"})}, "eth0 is down"),
        ({"down": frozenset({"eth0"}), "missing": frozenset({"eth0"})}, "eth0 is missing"),
        ({"networks": frozen_mapping({})}, "not allowed on eth0 by the helper"),
        (
            {"networks": frozen_mapping({"eth0": (ip_network("198.51.100.0/24"),)})},
            "not allowed on eth0 by the helper",
        ),
        (
            {"refused": frozenset(map(ip_address, POOL))},
            "refused by the helper (its log says why)",
        ),
    ],
    ids=["down", "missing", "no allowlist", "narrow allowlist", "refusing, as a full disk does"],
)
def test_a_node_that_can_hold_nothing_of_the_pool_is_told_why(
    told: dict[str, object], why: str
) -> None:
    marks = tuple(mark(address, "db1") for address in POOL)
    seen = view(POOL, (node("db1"), changed(node("db2"), **told)), marks)
    (problem,) = found(seen)
    text = f"can hold nothing: {why}"
    assert problem == Problem(Code.HOLDS_NOTHING, "db2", text, "there: yaim doctor")
    assert row(made(seen), "db2") == (NodeState.HEALTHY, text)


def test_a_node_that_can_hold_something_or_is_excluded_by_people_is_nothing_wrong() -> None:
    one = frozen_mapping({"eth0": (ip_network("192.0.2.10/32"),)})
    assert found(with_nodes(node("db1"), changed(node("db2"), networks=one))) == []
    address = ip_address(POOL[0])
    entry = PoolEntry(address, exclude=frozenset({NodeName("db2")}))
    seen = view(POOL[:1], NODES, (mark(POOL[0], "db1"),))
    assert found(replace(seen, pool=frozen_mapping({address: entry}))) == []


def test_a_node_that_takes_nothing_and_has_nothing_can_hold_nothing() -> None:
    """One that has something is being restarted."""
    idle = changed(node("db2"), takes=False)
    marks = tuple(mark(address, "db1") for address in POOL)
    (problem,) = found(view(POOL, (node("db1"), idle), marks))
    assert (problem.code, problem.subject) == (Code.HOLDS_NOTHING, "db2")
    assert problem.text.startswith("takes nothing until its checks have answered")
    assert found(with_nodes(node("db1"), idle)) == []


def test_what_a_node_tells_of_its_host_is_a_problem() -> None:
    told = ("192.0.2.9 is claimed by 52:54:00:12:34:56", "helper.yml differs from what runs")
    seen = with_nodes(node("db1"), changed(node("db2"), problems=told))
    assert found(seen) == [Problem(Code.NODE, "db2", text, "there: yaim doctor") for text in told]
    assert row(made(seen), "db2") == (NodeState.HEALTHY, "; ".join(told))


def test_how_long_an_attempt_took_is_left_out_as_it_would_seem_to_be_the_present_time() -> None:
    seen = with_nodes(node("db1", "HTTP 200 (23 ms)"), node("db2", "a: HTTP 500 (1.2 s), b", False))
    status = made(seen)
    assert [each.reason for each in status.nodes] == ["HTTP 200", "a: HTTP 500, b"]


def test_ttls_that_differ_are_told_with_their_nodes() -> None:
    alike = with_nodes(changed(node("db1"), ttl_s=20), changed(node("db2"), ttl_s=20))
    assert found(alike) == found(with_nodes(changed(node("db1"), ttl_s=20), node("db2"))) == []
    (problem,) = found(with_nodes(changed(node("db1"), ttl_s=20), changed(node("db2"), ttl_s=5)))
    assert (problem.code, problem.subject) == (Code.TTL, "ttl")
    assert problem.text == "is 5 s on db2, and 20 s on db1"


def test_a_node_too_old_for_the_options_of_an_entry_is_told() -> None:
    entry = PoolEntry(ip_address("192.0.2.9"), schema=2)
    seen = with_nodes(changed(node("db1"), schema=2), node("db2"))
    seen = replace(seen, pool=frozen_mapping({**seen.pool, entry.address: entry}))
    (problem,) = found(seen)
    assert problem == Problem(
        Code.VERSION,
        "db2",
        "has an older yaim (1.0), which does not understand the options of 192.0.2.9",
        "upgrade it",
    )


# --- clocks --------------------------------------------------------------------------------------


def at_time(name: str, revision: int, seconds: float) -> Node:
    written_at = (NOW + timedelta(seconds=seconds)).timestamp()
    return replace(node(name), revision=Revision(revision), written_at=written_at)


@pytest.mark.parametrize(
    ("nodes", "subject", "text"),
    [
        (
            (at_time("db1", 5, -10), at_time("db2", 6, -97)),
            "db1",
            "has a clock ahead of db2's by 80 s or more",
        ),
        (
            (at_time("db1", 5, 3700), at_time("db2", 6, -1)),
            "db1",
            "has a clock ahead of this host's by 3000 s or more",
        ),
    ],
    ids=["order", "future"],
)
def test_clocks_that_differ_are_found(nodes: tuple[Node, ...], subject: str, text: str) -> None:
    """The one that was written first has the later time; or has a time that has not come."""
    (problem,) = found(with_nodes(*nodes))
    assert (problem.code, problem.subject, problem.text) == (Code.CLOCK, subject, text)


def test_clocks_that_agree_or_are_not_told_are_nothing_wrong() -> None:
    assert found(with_nodes(at_time("db1", 5, -10), at_time("db2", 6, -14))) == []
    assert found(with_nodes(at_time("db1", 6, -10), at_time("db2", 5, -9000))) == []
    assert found(with_nodes(at_time("db1", 5, 4), node("db2"))) == []


# --- the pool, and what there is room for ---------------------------------------------------------


def test_an_empty_pool_is_a_problem() -> None:
    (problem,) = found(view((), NODES, ()))
    assert problem == Problem(Code.POOL_EMPTY, "the pool", "is empty", "yaim pool add ADDRESS")


def with_capacities(*capacities: int | None) -> ClusterView:
    nodes = (
        changed(replace(node("db1"), name=NodeName(f"n{number}")), capacity=capacity)
        for number, capacity in enumerate(capacities, 1)
    )
    addresses = tuple(f"192.0.2.{number}" for number in range(1, 7))
    marks = (replace(mark(each, "db1"), holder=NodeName("n1")) for each in addresses)
    return view(addresses, tuple(nodes), tuple(marks))


def test_a_pool_that_does_not_fit_on_the_others_when_one_node_is_lost_is_told() -> None:
    assert found(with_capacities(6, 3, 2)) == [
        Problem(
            Code.CAPACITY,
            "n1",
            "if it is lost, the others hold 5 of 6 addresses at most (max-addresses in helper.yml)",
            "raise max-addresses on the others, or add a node",
        )
    ]


def test_places_of_nodes_that_cannot_hold_the_addresses_do_not_count() -> None:
    """There are places enough, and not for these."""
    seen = with_capacities(6, 6, 6)
    elsewhere = frozen_mapping({"eth0": (ip_network("192.0.2.1/32"),)})
    nodes = {**seen.nodes, NodeName("n3"): changed(seen.nodes[NodeName("n3")], networks=elsewhere)}
    nodes[NodeName("n2")] = changed(nodes[NodeName("n2")], capacity=4)
    (problem,) = found(replace(seen, nodes=frozen_mapping(nodes)))
    assert problem.subject == "n1"
    assert "the others hold 4 of 5 addresses at most" in problem.text


@pytest.mark.parametrize("capacities", [(6, 3, 3), (6, None, 1), (None, None), (6, 6), (6,)])
def test_a_pool_that_fits_whoever_is_lost_is_nothing_wrong(
    capacities: tuple[int | None, ...],
) -> None:
    assert found(with_capacities(*capacities)) == []


def test_an_address_that_no_node_has_room_for_is_told_so() -> None:
    seen = with_capacities(2, 1)
    marks = {}
    for number, address in enumerate(list(seen.pool)[:3]):
        holder = NodeName("n1" if number < 2 else "n2")
        marks[address] = replace(mark(str(address), "db1"), holder=holder)
    why = "holds as many as its helper allows (max-addresses in helper.yml): n1, n2"
    status = made(replace(seen, marks=frozen_mapping(marks)))
    assert [each.reason for each in status.addresses] == ["", "", "", why, why, why]


# --- what operators have asked for ----------------------------------------------------------------


def test_a_drain_and_a_pause_are_told_with_who_and_why_and_are_nothing_wrong() -> None:
    drains = frozen_mapping({NodeName("db2"): BY})
    marks = tuple(mark(address, "db1") for address in POOL)
    control = Control(Revision(7), drains, replace(BY, until=""))
    drained = changed(node("db2"), is_drained=True, waits_s=86400.0)
    status = made(controlled(control, view(POOL, (node("db1"), drained), marks)))
    assert status.problems == ()
    assert status.notes == (
        Note(
            "",
            "paused by root@db1 since 2026-11-22T11:00:00Z (1 h ago): kernel upgrade;"
            " only what has failed moves (yaim resume)",
        ),
        Note(
            "db2",
            "is drained by root@db1 since 2026-11-22T11:00:00Z (1 h ago) until"
            " 2026-11-22T13:00:00Z: kernel upgrade",
        ),
    )
    (there,) = (each for each in status.nodes if each.name == "db2")
    assert (there.drained, there.is_flapping, there.waits_s) == (BY, False, 0.0)


def test_an_address_on_its_way_is_told() -> None:
    moves = frozen_mapping({ip_address("192.0.2.9"): Move(NodeName("db2"), BY)})
    status = made(controlled(Control(moves=moves)))
    assert status.problems == ()
    assert status.notes[0].text.startswith("is to move to db2 by root@db1 since")
    assert [each.moving_to for each in status.addresses] == ["db2", None, None]


def test_a_drained_node_that_is_the_only_one_to_hold_addresses_is_told() -> None:
    drains = frozen_mapping({NodeName("db1"): BY})
    seen = with_nodes(node("db1"), changed(node("db2"), networks=frozen_mapping({})))
    marks = tuple(mark(address, "db1") for address in POOL)
    seen = controlled(Control(drains=drains), view(POOL, tuple(seen.nodes.values()), marks))
    problem = next(each for each in found(seen) if each.code is Code.DRAINED_HOLDS)
    assert problem == Problem(
        Code.DRAINED_HOLDS,
        "db1",
        "is drained, and holds 192.0.2.9, 192.0.2.10, 2001:db8::1, which no other node can",
        "mend another node, or: yaim undrain db1",
    )
    on_their_way = controlled(Control(drains=drains))
    assert found(on_their_way) == []


def test_a_drain_of_a_node_that_is_not_there_is_stale_unless_it_was_stopped() -> None:
    """Maintenance: drained, stopped, switched off."""
    name = NodeName("db3")

    def stale(member: Member | None) -> list[str]:
        drains = frozen_mapping({name: BY})
        known = frozen_mapping({name: member} if member is not None else {})
        seen = controlled(Control(drains=drains, members=known))
        return [each.text for each in found(seen) if each.code is Code.STALE_DRAIN]

    assert stale(None) == ["is drained, and no node of that name was ever there"]
    assert stale(HERE) == ["is drained, and not there though it was not stopped"]
    assert stale(STOPPED) == []
    drained = Control(drains=frozen_mapping({name: BY}), members=frozen_mapping({name: STOPPED}))
    status = made(controlled(drained))
    assert status.notes[0].text.endswith(": kernel upgrade, and is stopped")


@pytest.mark.parametrize(
    ("db2", "why"),
    [
        (changed(node("db2"), down=frozenset({"eth0"})), "cannot hold it: eth0 is down"),
        (waiting("db2"), "is flapping"),
        (None, "is not known"),
    ],
    ids=["down", "flapping", "unknown"],
)
def test_a_pin_that_is_not_followed_is_told_with_the_reason(db2: Node | None, why: str) -> None:
    address = ip_address("192.0.2.9")
    nodes = (node("db1"), *([db2] if db2 is not None else []))
    marks = tuple(mark(each, "db1") for each in POOL)
    control = Control(pins=frozen_mapping({address: Pin(NodeName("db2"), BY)}))
    (problem,) = (
        each
        for each in found(controlled(control, view(POOL, nodes, marks)))
        if each.code is Code.PIN
    )
    text = f"is pinned to db2, which {why}"
    assert problem == Problem(Code.PIN, "192.0.2.9", text, "yaim unpin 192.0.2.9")


def test_a_pin_of_what_is_not_in_the_pool_is_told_and_one_that_is_on_its_way_is_not() -> None:
    away, here = ip_address("192.0.2.77"), ip_address("192.0.2.9")
    pins = {away: Pin(NodeName("db1"), BY), here: Pin(NodeName("db2"), BY)}
    (problem,) = found(controlled(Control(pins=frozen_mapping(pins))))
    assert (problem.subject, problem.text) == (
        "192.0.2.77",
        "is pinned to db1, and is not in the pool",
    )


def test_control_keys_that_nobody_understands_are_told_with_the_key_to_delete() -> None:
    wrong = (WrongEntry("control/pin/x y", "not an address"),)
    assert found(controlled(Control(wrong=wrong))) == [
        Problem(
            Code.WRONG_CONTROL,
            "control/pin/x y",
            "cannot be understood: not an address",
            "etcdctl del '/service/yaim/control/pin/x y'",
        )
    ]


def test_an_older_node_on_whose_account_nobody_follows_pins_is_told() -> None:
    control = Control(
        drains=frozen_mapping({NodeName("db2"): BY}),
        weights=frozen_mapping({NodeName("db1"): Weight(3)}),
        pause=BY,
    )
    seen = controlled(control)
    older = changed(seen.nodes[NodeName("db1")], placement=OLD, version="1.2")
    seen = replace(seen, nodes=frozen_mapping({**seen.nodes, older.name: older}))
    (problem,) = found(seen)
    assert problem == Problem(
        Code.VERSION,
        "db1",
        "has an older yaim (1.2): until it is upgraded, no node follows weights and the pause",
        "upgrade it",
    )
    only_drains = replace(control, weights=frozen_mapping({}), pause=None)
    assert found(replace(seen, control=only_drains)) == []


def test_a_mark_that_was_handed_over_to_a_node_which_is_older_now_is_told() -> None:
    """Nobody has such an address for as long as the node's lease lives."""
    seen = controlled(Control())
    mine = next(each for each in seen.marks.values() if each.holder == "db1")
    marks = frozen_mapping({**seen.marks, mine.address: replace(mine, version=2)})
    seen = replace(seen, marks=marks)
    assert found(seen) == []
    older = changed(seen.nodes[NodeName("db1")], placement=OLD, version="1.2")
    seen = replace(seen, nodes=frozen_mapping({**seen.nodes, older.name: older}))
    (problem,) = found(seen)
    assert problem == Problem(
        Code.VERSION,
        "db1",
        f"has an older yaim (1.2), which does not take {mine.address} for its own",
        "there: systemctl stop yaim; systemctl start yaim",
    )


# --- all of them ---------------------------------------------------------------------------------


def test_the_gravest_problem_is_told_first() -> None:
    seen = controlled(
        Control(
            drains=frozen_mapping({NodeName("x"): BY}),
            members=frozen_mapping({NodeName("y"): HERE}),
        ),
        view(POOL, (node("db1", "refused", False),), (), (WrongEntry("z", "odd"),)),
    )
    codes = [each.code for each in found(seen)]
    assert codes == sorted(codes, key=list(Code).index)
    assert set(codes) == {
        *(Code.UNHELD, Code.MISSING, Code.UNHEALTHY, Code.WRONG_ENTRY, Code.STALE_DRAIN)
    }


def test_problems_that_say_the_same_are_grouped_and_the_others_keep_their_order() -> None:
    one, two = Problem(Code.UNHELD, "a", "x"), Problem(Code.MISSING, "n", "y")
    three = replace(one, subject="b")
    assert grouped([one, two, three]) == [Group(one, ("a", "b")), Group(two, ("n",))]


def test_of_many_names_the_first_are_listed() -> None:
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed(["a", "b"], 2) == "a, b"


def test_a_command_for_etcd_says_how_to_get_there() -> None:
    """As printed it can be pasted on any host, and not only where etcd is on 127.0.0.1."""

    def by_hand(*arguments: str) -> str:
        return " ".join(("etcdctl", "--endpoints=http://etcd1:2379", *arguments))

    seen = controlled(Control(wrong=(WrongEntry("control/contrl", "no such key"),)))
    status = status_of("/service/pg/", seen, now=NOW, by_hand=by_hand)
    (told,) = (each for each in status.problems if each.code is Code.WRONG_CONTROL)
    assert told.remedy == "etcdctl --endpoints=http://etcd1:2379 del /service/pg/control/contrl"
