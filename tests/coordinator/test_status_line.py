"""How a node is, in one line."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.core.play import mark, node, settings, view
from yaim.coordinator.status_line import StatusLine, health_word, silent_for_s, status_of, title_of
from yaim.core.model import (
    Boottime,
    Control,
    Fence,
    LeaseId,
    Member,
    NodeName,
    Order,
    Resets,
    frozen_mapping,
)
from yaim.core.state.addresses import Addresses, AddressState, Phase
from yaim.core.state.advertised import Advertised
from yaim.core.state.cluster import Cluster
from yaim.core.state.health import Health, HealthState
from yaim.core.state.host import Helper, Host
from yaim.core.state.lease import Lease, LeaseState
from yaim.core.state.problems import Problems
from yaim.core.state.retry import Retry
from yaim.core.state.state import State

POOL = tuple(ip_address(f"192.0.2.{n}") for n in range(10, 16))
OTHER = NodeName("n2")


def holding(count: int) -> State:
    """n1 has that many of the pool, n2 the next one."""
    marks = [mark(address, 5) for address in POOL[:count]]
    others = [mark(POOL[count], 6, OTHER)] if count < len(POOL) else []
    return replace(
        State(settings()),
        health=HealthState(judged=Health(True, "answers")),
        cluster=Cluster(view=view(9, POOL, marks=(*marks, *others))),
        addresses=Addresses(frozen_mapping({a: AddressState(Phase.UP) for a in POOL[:count]})),
    )


NOW = Boottime(100.0)


def line_of(state: State) -> str:
    return status_of(state, NOW)


def test_the_status_tells_who_holds_what() -> None:
    assert line_of(holding(2)) == (
        "n1 healthy, holds 2 (192.0.2.10, 192.0.2.11) of 6; n2: 1 (192.0.2.12);"
        " nobody: 3 (192.0.2.13, 192.0.2.14, 192.0.2.15)"
    )
    assert line_of(holding(0)).startswith("n1 healthy, holds 0 of 6; n2: 1 (192.0.2.10)")


def test_of_many_the_first_are_told() -> None:
    many = tuple(ip_address(f"192.0.2.{n}") for n in range(1, 101))
    state = replace(holding(0), cluster=Cluster(view=view(9, many)))
    assert line_of(state) == (
        "n1 healthy, holds 0 of 100; nobody: 100 (192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4,"
        " 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8, ...)"
    )


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (State(settings()), "starting"),
        (holding(1), "healthy"),
        (replace(holding(1), health=HealthState(waits_s=10.0)), "waiting"),
        (replace(holding(1), health=HealthState(judged=Health(False, "refused"))), "unhealthy"),
    ],
)
def test_a_word_says_how_a_node_is(state: State, word: str) -> None:
    assert health_word(state) == word


def test_the_line_is_made_anew_only_if_something_in_it_may_have_changed() -> None:
    line = StatusLine()
    start = State(settings())
    assert line.of(start, NOW) == "n1 starting, holds 0; etcd has not been read"
    assert line.of(replace(start, next_request=7), NOW) is line.of(start, NOW)
    assert line.of(holding(2), NOW) == line_of(holding(2))


def test_that_there_is_no_fence_is_told_with_the_reason() -> None:
    told = line_of(holding(2))
    fence = Fence(False, "the kernel has no nf_tables")
    helper = Helper("s", frozen_mapping({}), fence=fence, resets=Resets(True))
    without = replace(holding(2), host=Host(helper))
    assert line_of(without) == f"{told}; no fence in the kernel: the kernel has no nf_tables"
    long = replace(without, host=Host(replace(helper, fence=Fence(False, "x" * 1000))))
    assert line_of(long) == f"{told}; no fence in the kernel: {'x' * 100}"
    fenced = replace(without, host=Host(replace(helper, fence=Fence(True))))
    assert line_of(fenced) == told
    line = StatusLine()
    assert line.of(without, NOW) != line.of(replace(without, host=fenced.host), NOW) == told


def test_that_no_connections_are_reset_is_told_with_the_reason() -> None:
    told = line_of(holding(2))
    cannot = Resets(False, "the kernel cannot")
    helper = Helper("s", frozen_mapping({}), fence=Fence(True), resets=cannot)
    without = replace(holding(2), host=Host(helper))
    assert line_of(without) == f"{told}; no connections are reset: the kernel cannot"
    long = replace(without, host=Host(replace(helper, resets=Resets(False, "x" * 1000))))
    assert line_of(long) == f"{told}; no connections are reset: {'x' * 100}"
    leaving = replace(without, settings=replace(without.settings, resets_connections=False))
    line = StatusLine()
    assert line.of(without, NOW) != line.of(leaving, NOW) == told


def test_the_title_tells_the_health_and_how_many_are_held() -> None:
    assert title_of(State(settings()), NOW) == "yaim: coordinator n1 starting 0/?"
    assert title_of(holding(2), NOW) == "yaim: coordinator n1 healthy 2/6"


# --- while etcd is silent -------------------------------------------------------------------------


def silent(state: State, since: float) -> State:
    failing = Retry(failures=3, failing_since=Boottime(since))
    return replace(state, cluster=replace(state.cluster, read=failing))


def test_while_etcd_is_silent_nothing_is_told_of_what_others_hold() -> None:
    """Old numbers were told as present ones."""
    state = silent(holding(2), since=88.0)
    assert line_of(state) == (
        "n1 healthy, holds 2 (192.0.2.10, 192.0.2.11); etcd silent for 12 s:"
        " what others hold is not known"
    )
    assert title_of(state, NOW) == "yaim: coordinator n1 healthy 2/?, etcd silent for 12 s"
    gone = replace(state, cluster=replace(state.cluster, view=None))
    assert line_of(gone) == line_of(state)


def test_a_lease_that_is_not_kept_shows_sooner_that_etcd_is_silent() -> None:
    failing = Retry(failures=1, failing_since=Boottime(97.0))
    state = replace(holding(2), lease=LeaseState(retry=failing))
    assert silent_for_s(state, NOW) is None
    lease = Lease(LeaseId(5), 20, Boottime(110.0))
    state = replace(state, lease=replace(state.lease, current=lease))
    assert silent_for_s(state, NOW) == 3
    assert silent_for_s(silent(state, 90.0), NOW) == 10


def test_how_long_etcd_is_silent_is_told_anew_each_second() -> None:
    line, state = StatusLine(), silent(holding(2), since=88.0)
    assert "for 12 s" in line.of(state, NOW)
    assert line.of(state, Boottime(100.4)) is line.of(state, NOW)
    assert "for 13 s" in line.of(state, Boottime(101.0))
    assert "for 13 s" in line.title(state, Boottime(101.0))


# --- what is wrong, and what operators have asked for ---------------------------------------------


def steered(control: Control, count: int = 2) -> State:
    state = holding(count)
    assert state.cluster.view is not None
    return replace(state, cluster=Cluster(view=replace(state.cluster.view, control=control)))


def test_a_node_whose_name_another_host_has_says_so() -> None:
    taken = replace(holding(0), advertised=Advertised(name_taken_since=Boottime(90.0)))
    assert title_of(taken, NOW) == "yaim: coordinator n1 waiting: name in use 0/6"
    assert line_of(taken).startswith("n1 waiting: name in use, holds 0 of 6")


def test_a_node_that_is_missing_is_told() -> None:
    here = Member("2026-11-20T08:00:00Z", False, "2026-11-20T08:00:00Z")
    members = {NodeName("n3"): here, NodeName("n4"): replace(here, is_stopped=True)}
    state = steered(Control(members=frozen_mapping(members)))
    assert line_of(state) == f"{line_of(holding(2))}; missing: n3"


def test_a_drain_and_a_pause_are_told_with_who_has_asked_for_them() -> None:
    drains = frozen_mapping({NodeName("n1"): Order(by="root@db1")})
    state = steered(Control(drains=drains, pause=Order()))
    assert line_of(state).startswith("n1 drained, holds 2")
    assert line_of(state).endswith("; paused; drained by root@db1")
    assert title_of(state, NOW) == "yaim: coordinator n1 drained 2/6, paused"


def test_a_node_that_can_hold_nothing_says_why() -> None:
    state = holding(0)
    mine = node(NodeName("n1"), LeaseId(5), 1)
    mine = replace(mine, advertisement=replace(mine.advertisement, down=frozenset({"eth0"})))
    assert state.cluster.view is not None
    nodes = frozen_mapping({mine.name: mine})
    state = replace(state, cluster=Cluster(view=replace(state.cluster.view, nodes=nodes)))
    why = "can hold nothing: eth0 is down"
    assert title_of(state, NOW) == f"yaim: coordinator n1 healthy 0/6, {why}"
    assert line_of(state).startswith(f"n1 healthy, holds 0 of 6; {why}; n2: 1")


def test_what_adapters_tell_is_told() -> None:
    told = Problems().after_told("files", ("yaim.yml differs from what runs",))
    state = replace(holding(2), problems=told)
    assert line_of(state) == f"{line_of(holding(2))}; yaim.yml differs from what runs"
    line = StatusLine()
    assert line.of(holding(2), NOW) != line.of(state, NOW)
