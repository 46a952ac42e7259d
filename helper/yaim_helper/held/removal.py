"""Removing an address that is held from its interface.

Removes only what the helper itself has put there, as far as the kernel tells: what somebody else
has put in its place is left alone.
"""

from contextlib import suppress

from yaim_helper.held.holding import Holding
from yaim_helper.held.host import Host
from yaim_helper.held.inventory import Inventory
from yaim_helper.held.reset import Reset
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.record.entries import FOUND_GONE, REMOVED, TAKEN


def take_off(holding: Holding, inventory: Inventory, host: Host, reset: Reset | None = None) -> str:
    """Removes the address, and returns what came of it in the words of the record. `reset`: what
    was done with its connections before.

    Raises KernelError if that fails: then it stays in the inventory, leaving.
    """
    inventory.leave(holding)
    if reset is not None and reset.is_off:
        inventory.forget(holding)
        return REMOVED
    outcome = REMOVED
    # If the kernel does not tell what is there: the address was the helper's when that last looked,
    # and must not stay.
    with suppress(KernelError):
        places = host.places(holding.address)
        if not any(holding.is_it(each) for each in places):
            outcome = TAKEN if holding.is_taken(places) else FOUND_GONE
    place = holding.interface.index, holding.address, holding.prefix
    if outcome == REMOVED and not host.delete(*place):
        outcome = FOUND_GONE
    inventory.forget(holding)
    return outcome
