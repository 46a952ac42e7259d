"""The placement that was made last (yaim/core/placement.py), and the view that it was made for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from yaim.core.model import Address, ClusterView, NodeName, frozen_mapping


@dataclass(frozen=True, slots=True)
class Placed:
    target: Mapping[Address, NodeName] = field(default_factory=lambda: frozen_mapping({}))
    """Who is to hold each address."""
    view: ClusterView | None = None
    """The view that the placement was made for; None: there is none."""
    is_put_off: bool = False
    """The last step did only what the lease needs, and left the placement to the next one."""

    def after_lease_gone(self) -> "Placed":
        """There is no view any more to place by."""
        return Placed(is_put_off=self.is_put_off)
