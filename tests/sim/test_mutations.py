"""A mutation changes pieces of definitions. What does not fit, or shows nothing, is refused."""

import pytest

from tests.sim.check import CRASHED
from tests.sim.mutating import Change, Mutation, catch, mutated, sources
from tests.sim.mutations import MUTATIONS

DEADLINE = Change("deadline_of@yaim.core", "- MARGIN_S", "- 0.0")


def test_all_mutations_fit_the_source_as_it_is() -> None:
    for mutation in MUTATIONS:
        assert sources(mutation)


@pytest.mark.parametrize(
    "definition",
    ["deadline_off@yaim.core", "asked@yaim.core", "Retry.ask@yaim.core", "deadline_of@yaim.config"],
)
def test_a_definition_that_is_not_there_is_refused(definition: str) -> None:
    with pytest.raises(ValueError, match="0 times"):
        sources(Mutation("any", (Change(definition, "a", "b"),)))


def test_a_name_that_is_defined_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="2 times: place@yaim"):
        sources(Mutation("any", (Change("place@yaim.core", "a", "b"),)))


@pytest.mark.parametrize("before", ["- MARGIN_SS", "granted_ttl_s"])
def test_a_piece_that_does_not_stand_there_once_is_refused(before: str) -> None:
    with pytest.raises(ValueError, match="times in deadline_of"):
        sources(Mutation("any", (Change("deadline_of@yaim.core", before, ""),)))


def test_changes_of_several_definitions_are_all_made() -> None:
    changes = (DEADLINE, Change("RETRY_MIN_S@yaim.core", "0.1", "0.2"))
    found = sources(Mutation("two", changes))
    assert set(found) == {"yaim.core.deadline", "yaim.core.state.retry"}
    assert b"RETRY_MIN_S = 0.2" in found["yaim.core.state.retry"]


def test_a_core_that_only_crashes_does_not_count_as_caught() -> None:
    crash = Mutation("crash", (Change("deadline_of@yaim.core", "sent_at + ", "None + "),))
    with mutated(crash) as run:
        broken = run.play(run.draw(0)).broken
    assert broken is not None and broken.invariant == CRASHED
    assert catch(crash, max_seeds=2).invariant is None
