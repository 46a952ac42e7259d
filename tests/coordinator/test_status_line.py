"""How a node is, in one line."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.core.play import mark, settings, view
from yaim.coordinator.status_line import StatusLine, health_word, status_of, title_of
from yaim.core.model import Fence, NodeName, Resets, frozen_mapping
from yaim.core.state.addresses import Addresses, AddressState, Phase
from yaim.core.state.cluster import Cluster
from yaim.core.state.health import Health, HealthState
from yaim.core.state.host import Helper, Host
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


def test_the_status_tells_who_holds_what() -> None:
    assert status_of(holding(2)) == (
        "n1 healthy, holds 2 (192.0.2.10, 192.0.2.11) of 6; n2: 1 (192.0.2.12);"
        " nobody: 3 (192.0.2.13, 192.0.2.14, 192.0.2.15)"
    )
    assert status_of(holding(0)).startswith("n1 healthy, holds 0 of 6; n2: 1 (192.0.2.10)")


def test_of_many_the_first_are_told() -> None:
    many = tuple(ip_address(f"192.0.2.{n}") for n in range(1, 101))
    state = replace(holding(0), cluster=Cluster(view=view(9, many)))
    assert status_of(state) == (
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
    assert line.of(start) == "n1 starting, holds 0; etcd has not been read"
    assert line.of(replace(start, next_request=7)) is line.of(start)
    assert line.of(holding(2)) == status_of(holding(2))


def test_that_there_is_no_fence_is_told_with_the_reason() -> None:
    told = status_of(holding(2))
    fence = Fence(False, "the kernel has no nf_tables")
    helper = Helper("s", frozen_mapping({}), fence=fence, resets=Resets(True))
    without = replace(holding(2), host=Host(helper))
    assert status_of(without) == f"{told}; no fence in the kernel: the kernel has no nf_tables"
    long = replace(without, host=Host(replace(helper, fence=Fence(False, "x" * 1000))))
    assert status_of(long) == f"{told}; no fence in the kernel: {'x' * 100}"
    fenced = replace(without, host=Host(replace(helper, fence=Fence(True))))
    assert status_of(fenced) == told
    line = StatusLine()
    assert line.of(without) != line.of(replace(without, host=fenced.host)) == told


def test_that_no_connections_are_reset_is_told_with_the_reason() -> None:
    told = status_of(holding(2))
    cannot = Resets(False, "the kernel cannot")
    helper = Helper("s", frozen_mapping({}), fence=Fence(True), resets=cannot)
    without = replace(holding(2), host=Host(helper))
    assert status_of(without) == f"{told}; no connections are reset: the kernel cannot"
    long = replace(without, host=Host(replace(helper, resets=Resets(False, "x" * 1000))))
    assert status_of(long) == f"{told}; no connections are reset: {'x' * 100}"
    leaving = replace(without, settings=replace(without.settings, resets_connections=False))
    line = StatusLine()
    assert line.of(without) != line.of(leaving) == told


def test_the_title_tells_the_health_and_how_many_are_held() -> None:
    assert title_of(State(settings())) == "yaim: coordinator n1 starting 0/0"
    assert title_of(holding(2)) == "yaim: coordinator n1 healthy 2/6"
