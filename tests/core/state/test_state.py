"""What the coordinator remembers, and its draft: the same parts."""

from dataclasses import fields, replace

import pytest

from yaim.core.model import NodeName
from yaim.core.settings import Settings
from yaim.core.state.cluster import Cluster
from yaim.core.state.state import Draft, State

STATE = State(Settings(NodeName("n1"), "eth0", 32, 128, 3, 1.0, "test", False), next_request=7)


@pytest.mark.parametrize("name", [each.name for each in fields(State)])
def test_a_draft_has_each_part_and_gives_it_back(name: str) -> None:
    value = object()
    draft = Draft(STATE)
    assert getattr(draft, name) is getattr(STATE, name)
    setattr(draft, name, value)
    assert getattr(draft.state(), name) is value


def test_a_draft_that_nobody_has_changed_is_the_same_state() -> None:
    assert Draft(STATE).state() == STATE


def test_a_draft_changes_nothing_in_what_it_was_made_of() -> None:
    before = replace(STATE)
    draft = Draft(STATE)
    draft.next_request, draft.cluster = 8, Cluster(is_stale=True)
    assert before == STATE


def test_what_a_state_does_not_have_a_draft_does_not_get() -> None:
    draft, name = Draft(STATE), "next_reqest"
    with pytest.raises(AttributeError):
        setattr(draft, name, 8)
