"""The kinds of managers that there are, which put addresses on interfaces: a new kind is entered
here, and nowhere else.

An entry has the keys of the kind and starts its manager, whose code is imported only then: the keys
are read by every command.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from yaim.config_keys import KeyGroup
from yaim.managers.helper.settings import HelperSettings

if TYPE_CHECKING:
    from yaim.core.actions import HelperAction


@dataclass(frozen=True, slots=True)
class Node:
    """Whose addresses a manager has to do with."""

    cluster: str
    """The beginning of the names of the cluster's keys in its store."""
    name: str
    label: str
    """IPv4 addresses get the label <interface>:<label>."""


class Manager(Protocol):
    """Its answers are posted as events."""

    label: str
    """IPv4 addresses that are added from now on get it."""

    def submit(self, actions: "Sequence[HelperAction]") -> None:
        """Asks for these actions together; never blocks."""


@dataclass(frozen=True, slots=True)
class ManagerKind:
    name: str
    """What manager-type says."""
    settings: type[KeyGroup]
    """The names of its fields are those of the keys, without a prefix."""
    start: Callable[[Any, Node, Callable[..., None]], Manager]
    """Starts a manager with such settings."""


def _helper(settings: HelperSettings, node: Node, post: Callable[..., None]) -> Manager:
    from yaim.managers.helper.client import HelperClient

    return HelperClient(settings.helper_socket, node.cluster, node.name, node.label, post)


MANAGERS: Mapping[str, ManagerKind] = {
    # The name is that of the Go original, where it means addresses on this host's interfaces.
    each.name: each
    for each in (ManagerKind("basic", HelperSettings, _helper),)
}
