"""What each kind of store offers to the rest of yaim, whatever keeps the cluster's state there.

Types only: no code of any store, no choice between them (yaim/wiring.py makes that).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from yaim.core.actions import EtcdAction
from yaim.core.events import Event
from yaim.core.model import ClusterView, NodeName
from yaim.dcs.expiry import Expiry
from yaim.dcs.operate import Operations


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster it is, and how patient its nodes are."""

    namespace: str
    name: str
    """dcs-namespace and dcs-clustername, as they are configured."""
    ttl_s: int


class StoreError(Exception):
    """The store cannot be used; the text says why, and which endpoint or file it is about."""


class NotPermitted(StoreError):
    """The store's user may not do this; the text names the right that is missing."""


class StoreFull(StoreError):
    """The store has no space left: what is there can be deleted, and nothing put."""


class Unreachable(StoreError):
    """Nothing has answered."""


@dataclass(frozen=True, slots=True)
class InvalidStoreFile:
    """A file that the configuration names and the store cannot use."""

    key: str
    path: Path
    expected: str


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """What one look at the store has found."""

    view: ClusterView
    alarms: frozenset[str]
    """The store's own alarms, such as etcd's NOSPACE."""
    certificates: tuple[Expiry, ...]
    """Ours and those of the endpoints."""


class Store(Protocol):
    """The store of a node that takes part. Its answers are posted as events."""

    def submit(self, action: EtcdAction) -> None:
        """Asks for an action; never blocks."""


class StoreParts(Protocol):
    """All that is made from one configuration of a store."""

    @property
    def prefix(self) -> str:
        """The beginning of the names of all keys of the cluster. The helper is told it as well, as
        the cluster's name."""

    def start(self, node: NodeName, post: Callable[[Event], None]) -> Store:
        """Starts the threads of a node's store."""

    def apply_to(self, store: Store) -> None:
        """Has a store, started from an earlier configuration, use this one from now on."""

    def by_hand(self, *arguments: str) -> str:
        """A command of the store's own client, such as etcdctl, as somebody who may do it has to
        enter it."""

    def look(self, within_s: float) -> StoreSeen:
        """Reads the cluster once. `within_s` bounds what is asked beside that: the endpoints'
        certificates, and why none of them has answered. Raises StoreError."""

    def operations(self) -> Operations:
        """What operators do. Connects when it is asked for something."""

    def look_at_files(self, now: datetime) -> tuple[Sequence[InvalidStoreFile], Sequence[str]]:
        """The files that cannot be used, and warnings of those that soon cannot. Raises StoreError
        if one cannot be read."""
