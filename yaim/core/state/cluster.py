"""What etcd has told of the cluster, and when it is asked again.

Owns the view and the reads. What a new view means for other parts is in yaim/core/couplings.py.
"""

from dataclasses import dataclass, field, replace

from yaim.core.actions import Tell
from yaim.core.model import Boottime, ClusterView, NodeName, Revision
from yaim.core.state.retry import Retry
from yaim.core.state.wake import soonest

READ_EVERY_S = 5.0
"""How long a lost watch event goes unnoticed at most."""


@dataclass(frozen=True, slots=True)
class Cluster:
    view: ClusterView | None = None
    """The newest view that is known, with our own writes since; None: not known."""
    last_revision: Revision = Revision(0)
    """The revision of the view before, while there is none: a view of a lower one is of another
    history of etcd."""
    is_stale: bool = False
    """etcd has refused something that the view said could be done: nothing is claimed or released
    until a new read."""
    read_after: Revision = Revision(0)
    """The revision that was known when the read under way was asked for. An older answer is of
    another history of etcd (it was wiped or restored), and is the truth."""
    read: Retry = field(default_factory=Retry)

    def is_other_history(self, answer: ClusterView) -> bool:
        """Whether this answer to a read shows that etcd's data was replaced."""
        return answer.revision < self.read_after

    def after_read(self, answer: ClusterView, now: Boottime, tell: Tell) -> "Cluster":
        """The answer itself is taken in by `with_view`."""
        read = self.read.after_answer(now + READ_EVERY_S, "etcd can be read again", tell)
        if self.is_other_history(answer):
            return replace(
                self, read=read, is_stale=False, view=None, last_revision=self.read_after
            )
        return replace(self, read=read, is_stale=False)

    def after_read_failed(
        self, reason: str, node: NodeName, now: Boottime, tell: Tell
    ) -> "Cluster":
        what = f"cannot read etcd: {reason}"
        return replace(self, read=self.read.after_failure(now, node, what, tell))

    def with_view(self, view: ClusterView) -> "Cluster":
        return replace(self, view=view, last_revision=Revision(0))

    def distrusted(self, now: Boottime) -> "Cluster":
        return replace(self, is_stale=True, read=self.read.made_due(now))

    def after_lease_gone(self, now: Boottime) -> "Cluster":
        """Forgets the view: perhaps all of etcd's history has gone with the lease."""
        revision = self.view.revision if self.view is not None else self.last_revision
        return replace(self, view=None, last_revision=revision, read=self.read.made_due(now))

    def read_soon(self, now: Boottime) -> "Cluster":
        return replace(self, read=self.read.made_due(now))

    def asked(self) -> "Cluster":
        seen = self.view.revision if self.view is not None else Revision(0)
        return replace(self, read=self.read.asked(), read_after=seen)

    def wake_at(self, now: Boottime) -> float:
        return soonest(now, (self.read.due,))
