"""Names and addresses in sentences for the log: in order, and not too many."""

from collections.abc import Iterable

from yaim.core.model import Address, address_order

MOST_TOLD = 10
"""How many things that are found at once are told one by one."""


def some(names: Iterable[str]) -> str:
    """Returns the first names, and how many more there are."""
    all_ = tuple(names)
    more = f" and {len(all_) - MOST_TOLD} more" if len(all_) > MOST_TOLD else ""
    return ", ".join(all_[:MOST_TOLD]) + more


def listed(addresses: Iterable[Address]) -> str:
    return ", ".join(str(address) for address in sorted(addresses, key=address_order))
