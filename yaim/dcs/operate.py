"""What operators ask of a store: to see the cluster, to change what is asked of it, and what was.

Types only: no code of any store. What a change writes, and under which keys, is the store's
(yaim/dcs/etcd/operate.py); what it means is the core's (core.model.Control). Whatever fails raises
a StoreError (yaim/dcs/store.py): NotPermitted, StoreFull or Unreachable where it is one of these.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeAlias

from yaim.core.model import Address, ClusterView, NodeName, Revision, frozen_mapping

MOVE_S = 60
"""How long a move is asked for: it is either claimed by then, or forgotten."""
HISTORY_DAYS, HISTORY_EVENTS = 7, 2000
"""How long an event of the history is kept, and about how many at most."""


# --- what is put -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetDrain:
    node: NodeName
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetPause:
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetPin:
    address: Address
    node: NodeName
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetWeight:
    node: NodeName
    weight: int
    """1 to 100."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetMove:
    """It ends after MOVE_S, whatever Change.for_s says."""

    address: Address
    node: NodeName
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetPoolEntry:
    """Adds the address to the pool, if the view has seen it nowhere there; otherwise it changes the
    entry that was seen, and replaces all its options. It has no end, whatever Change.for_s says."""

    address: Address
    options: Mapping[str, object] = field(default_factory=lambda: frozen_mapping({}))
    """As they stand in JSON (yaim/dcs/records.py); those that are None are left out."""


# --- what is deleted -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RemoveDrain:
    node: NodeName


@dataclass(frozen=True, slots=True)
class RemovePause:
    pass


@dataclass(frozen=True, slots=True)
class RemovePin:
    address: Address


@dataclass(frozen=True, slots=True)
class RemoveWeight:
    node: NodeName


@dataclass(frozen=True, slots=True)
class RemoveMove:
    address: Address


@dataclass(frozen=True, slots=True)
class RemovePoolEntry:
    """Its holder gives the address up, and deletes the mark."""

    address: Address


@dataclass(frozen=True, slots=True)
class ForgetMember:
    """Also the node's drain and weight. Only while the node does not live."""

    node: NodeName


Put: TypeAlias = SetDrain | SetPause | SetPin | SetWeight | SetMove | SetPoolEntry
Delete: TypeAlias = (
    RemoveDrain
    | RemovePause
    | RemovePin
    | RemoveWeight
    | RemoveMove
    | RemovePoolEntry
    | ForgetMember
)


@dataclass(frozen=True, slots=True)
class Change:
    """What one command changes. No two of its parts are about the same key."""

    command: str
    """Its name, such as `drain`: it becomes the kind of the event in the history."""
    puts: tuple[Put, ...] = ()
    deletes: tuple[Delete, ...] = ()
    for_s: int | None = None
    """After so many seconds what is put ends by itself; None: never."""
    reason: str = ""
    """Why, for the history only: of what is deleted nothing else could tell it."""


@dataclass(frozen=True, slots=True)
class Done:
    """The change stands there, and is in the history if that could be written."""

    revision: Revision
    """The revision of the control keys from now on: a node that has followed the change advertises
    this one or a later one (Control.revision, Advertisement.control)."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was changed, because something else was after the view was read: look again. Of a
    change that is too large for one transaction a part may have been made."""

    reason: str
    """What was changed, and by whom if that is known."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """A line of the history, of one moment, about one or more nodes and addresses."""

    at: datetime
    """UTC, by the clock of the host that has written it. The order is that of the revisions."""
    kind: str
    """core.actions.Kind for what nodes have done, and the name of a command (Change.command) for
    what operators have asked for."""
    nodes: tuple[NodeName, ...]
    """The node that it happened on, or those that a command was about."""
    addresses: tuple[Address, ...]
    by_node: Mapping[Address, NodeName]
    """The node that each address comes from or goes to, where that is known."""
    reason: str
    by: str
    """Who has asked for it, such as `root@db1`; empty: nobody did."""
    revision: Revision

    @property
    def node(self) -> NodeName | None:
        """The first of its nodes."""
        return self.nodes[0] if self.nodes else None


class Operations(Protocol):
    """The store as an operator uses it. It may be used from several threads."""

    def look(self) -> ClusterView:
        """The cluster as it is now (a linearizable read). Raises StoreError."""

    def commit(self, change: Change, seen: ClusterView, by: str, now: datetime) -> Done | Conflict:
        """Makes the change, if no other command has changed anything since `seen` was read, and
        notes who (`by`) has made it. Raises StoreError; after Unreachable it is unknown whether
        the change was made: look again."""

    def history(
        self, since: datetime | None, until: datetime | None, limit: int
    ) -> list[HistoryEvent]:
        """The last events, `limit` of them at most, of those between the two times; oldest first.
        Raises StoreError."""

    def watch(self) -> Iterator[None]:
        """Yields at once, after each change of the cluster or of its history (several changes in
        quick succession count for one), and every few seconds in any case. Raises StoreError when
        the watch breaks. What is read after it has yielded has all changes before."""
