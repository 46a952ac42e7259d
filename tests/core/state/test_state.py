"""What the coordinator remembers: how it is copied."""

from dataclasses import fields, replace

import pytest

from yaim.core.model import Boottime, NodeName
from yaim.core.settings import Settings
from yaim.core.state.state import State, changed

STATE = State(Settings(NodeName("n1"), "eth0", 32, 128, 3, 1.0, "test", False), next_request=7)


@pytest.mark.parametrize("name", [each.name for each in fields(State)])
def test_a_changed_copy_is_that_of_dataclasses(name: str) -> None:
    value = object()
    changes = {name: value}
    copy = changed(STATE, changes)
    assert getattr(copy, name) is value
    assert copy == replace(STATE, **changes)  # type: ignore[arg-type]


def test_a_copy_changes_nothing_in_what_it_was_made_of() -> None:
    before = replace(STATE)
    changed(STATE, {"next_request": 8, "kernel_due": Boottime(1.0)})
    assert before == STATE


def test_what_a_state_does_not_have_it_does_not_get() -> None:
    with pytest.raises(AttributeError):
        changed(STATE, {"next_reqest": 8})
