"""A failing schedule made small, and told."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.sim.check import Broken
from tests.sim.faults import Fault, Scenario
from tests.sim.run import play

MAX_TRIES = 400
"""Runs that shrinking may take."""
TOLD_LINES = 150


def shrink(scenario: Scenario) -> Scenario:
    """A smaller scenario that breaks the same invariant: as few faults as can be found by leaving
    some out (delta debugging: Zeller, Hildebrandt, 2002), then fewer nodes and addresses, no lost
    messages, an earlier end of the faults."""
    broken = play(scenario).broken
    if broken is None:
        return scenario
    tries = MAX_TRIES

    def still_breaks(candidate: Scenario) -> bool:
        nonlocal tries
        tries -= 1
        if tries < 0:
            return False
        again = play(candidate).broken
        return again is not None and again.invariant == broken.invariant

    before = None
    while scenario != before:
        before = scenario
        scenario = _with_fewer_faults(scenario, still_breaks)
        for candidate in _simpler(scenario):
            if still_breaks(candidate):
                scenario = candidate
    return scenario


def _with_fewer_faults(scenario: Scenario, breaks: Callable[[Scenario], bool]) -> Scenario:
    """Leave out halves, quarters and so on, down to single faults."""
    size = max(1, len(scenario.faults) // 2)
    while True:
        start = 0
        while start < len(scenario.faults):
            faults = scenario.faults
            candidate = replace(scenario, faults=faults[:start] + faults[start + size :])
            if breaks(candidate):
                scenario = candidate
            else:
                start += size
        if size == 1:
            return scenario
        size //= 2


def _simpler(scenario: Scenario) -> Iterator[Scenario]:
    """Each in one way."""
    if scenario.loss:
        yield replace(scenario, loss=0.0)
    for nodes in range(2, scenario.nodes):
        yield replace(scenario, nodes=nodes)
    for addresses in range(1, scenario.addresses):
        yield replace(scenario, addresses=addresses)
    last = max((_end(fault) for fault in scenario.faults), default=0.0)
    if last < scenario.faults_end_at:
        yield replace(scenario, faults_end_at=last)


def _end(fault: Fault) -> float:
    return fault.at + fault.seconds + 1.0


def story(scenario: Scenario) -> str:
    """The end of what happened, with the invariant that it broke."""
    run = play(scenario, is_told=True)
    lines = [f"{at:9.4f}  {who:6} {what}" for at, who, what in run.world.timeline.story]
    left_out = max(0, len(lines) - TOLD_LINES)
    faults = [str(fault) for fault in scenario.faults]
    broken: Broken | None = run.broken
    return "\n".join(
        [
            str(scenario),
            *faults,
            "",
            *([f"... {left_out} lines before"] if left_out else []),
            *lines[left_out:],
            f"{run.world.timeline.now:9.4f}  BROKEN: {broken}",
        ]
    )
