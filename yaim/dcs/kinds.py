"""The kinds of stores that there are: a new kind is entered here, and nowhere else.

An entry has the keys of the kind and makes its parts. The keys are read by every command, and the
parts bring large libraries with them: so those are imported when they are made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yaim.config_keys import KeyGroup
from yaim.dcs.etcd.settings import EtcdSettings

if TYPE_CHECKING:
    from yaim.dcs.store import Cluster, StoreParts


@dataclass(frozen=True, slots=True)
class StoreKind:
    name: str
    """What dcs-type says."""
    settings: type[KeyGroup]
    """The names of its fields are those of the keys, without a prefix."""
    parts: "Callable[[Any, Cluster], StoreParts]"
    """Makes the parts from such settings."""


def _etcd(settings: EtcdSettings, cluster: "Cluster") -> "StoreParts":
    from yaim.dcs.etcd.parts import EtcdParts

    return EtcdParts(settings, cluster)


STORES: Mapping[str, StoreKind] = {
    each.name: each for each in (StoreKind("etcd", EtcdSettings, _etcd),)
}
