"""Decides which addresses could be claimed now; changes nothing."""

from yaim.core.facts import Facts
from yaim.core.model import Address


def to_claim(facts: Facts, wanted: frozenset[Address]) -> list[Address]:
    """Returns those of the wanted addresses that nobody has marked and we may claim, also if we
    have to wait for a while yet."""
    state, view = facts.state, facts.state.cluster.view
    if view is None:
        return []
    return [
        address
        for address in wanted - facts.my_addresses()
        if address not in view.marks
        and address not in view.stray_marks
        and state.addresses.is_free(address)
    ]
