"""A store in memory with a cluster that follows what is asked of it, as nodes do: for the tests of
what an operator sees. (The real one, with real nodes: tests/system/test_transcripts.py.)"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from yaim.cli import steering
from yaim.core.model import ClusterView, NodeName, Revision, frozen_mapping
from yaim.dcs.operate import Change, Conflict, Done, HistoryEvent
from yaim.dcs.store import StoreError
from yaim.steer.applied import applied, settled, target_of


@dataclass
class Operations:
    view: ClusterView
    silent: frozenset[NodeName] = frozenset()
    """Nodes that do not follow."""
    is_moving: bool = True
    """Whether addresses go to where they are to be, with each look."""
    answers: list[Conflict | StoreError] = field(default_factory=list)
    """What the next commits come to."""
    before_look: list[Callable[["Operations"], None]] = field(default_factory=list)
    """What happens before the next looks."""
    events: list[HistoryEvent] = field(default_factory=list)
    committed: list[tuple[Change, str]] = field(default_factory=list)

    def look(self) -> ClusterView:
        if self.before_look:
            self.before_look.pop(0)(self)
        seen = self.view
        if self.committed:
            self._follow()
        return seen

    def _follow(self) -> None:
        if self.is_moving:
            self.view = settled(self.view, target_of(self.view))
        revision = self.view.control.revision
        nodes = {
            name: replace(node, advertisement=replace(node.advertisement, control=revision))
            for name, node in self.view.nodes.items()
            if name not in self.silent
        }
        there = {name: nodes.get(name, node) for name, node in self.view.nodes.items()}
        self.view = replace(self.view, nodes=frozen_mapping(there))

    def commit(self, change: Change, seen: ClusterView, by: str, now: datetime) -> Done | Conflict:
        del now
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, StoreError):
                raise answer
            return answer
        revision = Revision(self.view.revision + 1)
        self.committed.append((change, by))
        after = applied(self.view, change)
        control = replace(after.control, revision=revision)
        self.view = replace(after, revision=revision, control=control)
        return Done(revision)

    def history(
        self, since: datetime | None, until: datetime | None, limit: int
    ) -> list[HistoryEvent]:
        return [
            event
            for event in self.events
            if (since is None or event.at >= since) and (until is None or event.at <= until)
        ][-limit:]

    def watch(self) -> Iterator[None]:
        yield None


class Clock(steering.Clock):
    """Each sleep is over at once."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += max(seconds, 0.001)
