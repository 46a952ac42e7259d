"""The one write to etcd that is under way, and the marks of which writes have left us in doubt.

Owns what became of our writes. What is written next is decided in yaim/core/decide/writes.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from yaim.core.actions import ReleaseMarks, Tell, WithdrawNode, Write, to_release
from yaim.core.full_etcd import Full, after_refusal
from yaim.core.model import Boottime, ClusterView, Mark, NodeName
from yaim.core.state.retry import Retry
from yaim.core.state.wake import soonest


@dataclass(frozen=True, slots=True)
class Writing:
    under_way: Write | None = None
    retry: Retry = field(default_factory=Retry)
    in_doubt: frozenset[Mark] = frozenset()
    """Marks whose release was asked for and not answered: it may be done at any time yet."""
    unsettled: frozenset[Mark] = frozenset()
    """Marks whose release was asked for and answered, but it is not known whether they are there.
    That can change no more: the next read tells."""
    full: Full | None = None
    """None: etcd has not refused our last write as full."""

    @property
    def leaving(self) -> frozenset[Mark]:
        """The marks of ours whose release is under way or in doubt."""
        leaving = self.in_doubt | self.unsettled
        return leaving.union(to_release(self.under_way)) if self.under_way is not None else leaving

    def write_of(self, request: int) -> Write | None:
        """Returns the write under way, if it has this number."""
        write = self.under_way
        return write if write is not None and write.request == request else None

    def asked(self, write: Write) -> "Writing":
        return replace(self, under_way=write)

    def after_answer(self, write: Write, now: Boottime, tell: Tell) -> "Writing":
        """`write`: the one under way. A full etcd that takes a deletion takes other writes no
        sooner because of that."""
        if self.full is not None and isinstance(write, ReleaseMarks | WithdrawNode):
            return replace(self, under_way=None)
        retry = self.retry.after_answer(now, "etcd takes writes again", tell)
        return replace(self, under_way=None, retry=retry)

    def after_failed(
        self,
        write: Write,
        reason: str,
        is_for_want_of_space: bool,
        node: NodeName,
        now: Boottime,
        tell: Tell,
    ) -> "Writing":
        """The write may be done yet: a mark that it was to release must not be used again. A write
        that etcd has refused because it is full is done by now, or never."""
        what = f"cannot write to etcd: {reason}"
        retry = self.retry.after_failure(now, node, what, tell)
        marks = frozenset(to_release(write))
        if is_for_want_of_space:
            full = after_refusal(self.full, write)
            return replace(self, under_way=None, retry=retry, full=full).leaving_unsettled(marks)
        return replace(self, under_way=None, retry=retry, in_doubt=self.in_doubt | marks)

    def leaving_unsettled(self, marks: Iterable[Mark]) -> "Writing":
        """Uses these marks no more before a read has told whether they are there."""
        return replace(self, unsettled=self.unsettled.union(marks))

    def after_read(self) -> "Writing":
        return replace(self, unsettled=frozenset()) if self.unsettled else self

    def after_view(self, view: ClusterView) -> "Writing":
        """A mark that is gone, or is another one now, is no longer in doubt."""
        if not self.in_doubt:
            return self
        left = frozenset(m for m in self.in_doubt if view.marks.get(m.address) == m)
        return replace(self, in_doubt=left)

    def after_space(self) -> "Writing":
        """etcd has taken a write that needs space."""
        return replace(self, full=None) if self.full is not None else self

    def after_lease_gone(self) -> "Writing":
        """Our marks went with the lease."""
        return replace(self, in_doubt=frozenset(), unsettled=frozenset())

    def wake_at(self, now: Boottime) -> float:
        return soonest(now, (self.retry.due,))
