"""Labs for the tests, and what can be asked of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from yaim.lab.cluster import Lab
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until

Build = Callable[[LabPlan], Lab]


@pytest.fixture
def build() -> Iterator[Build]:
    """Makes a lab whose nodes are not started yet; it is gone after the test."""
    with ExitStack() as stack:
        yield lambda plan: stack.enter_context(Lab(plan))


@pytest.fixture
def lab(build: Build) -> Lab:
    """Three nodes that share six addresses evenly, and a client that all of these answer."""
    lab = build(LabPlan())
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2, 2])
    wait_until(lambda: is_answered(lab), 20.0, "all addresses to answer")
    return lab


def is_answered(lab: Lab) -> bool:
    lab.record.update()
    return lab.record.answering(lab.plan.pool, within_s=0.03) == len(lab.plan.pool)
