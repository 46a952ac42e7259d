"""What the helper's replies mean."""

import json

import pytest

from tests.managers.helper.vectors import ACTIONS, MALFORMED, REMOVE, REQUESTS, V4, VECTORS
from yaim.core.actions import AddAddress, HelperAction, RemoveAddress, RenewAddresses
from yaim.core.events import (
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressRefused,
    AddressRemoved,
    Event,
)
from yaim.core.refusals import Cause
from yaim.managers.helper.messages import HelperError, read_answer

pytestmark = pytest.mark.quick


def meant(vector: dict[str, str]) -> Event | None:
    """What the vectors say in words, as an event."""
    reason = json.loads(vector["packet"]).get("reason")
    match ACTIONS[vector["to"]], vector["means"]:
        case AddAddress(), "added":
            return AddressAdded(11, V4)
        case AddAddress(), ("refused for good" | "refused for now") as means:
            cause = Cause.of(json.loads(vector["packet"])["code"])
            assert (cause is Cause.EXPIRED) == (means == "refused for now")
            return AddressRefused(11, V4, reason, cause)
        case ((AddAddress(number) | RemoveAddress(number)), "failed"):
            return AddressFailed(number, V4, reason)
        case RemoveAddress(), "removed":
            return AddressRemoved(13, V4)
        case RenewAddresses(), "renewed":
            return AddressesRenewed(frozenset())
        case RenewAddresses(), "renewed but for 192.0.2.10":
            return AddressesRenewed(frozenset({V4}))
        case RenewAddresses(), "not renewed":
            return None
    raise AssertionError(vector)


@pytest.mark.parametrize("vector", VECTORS["replies"], ids=lambda vector: vector["name"])
def test_a_reply_of_the_vectors_means_what_it_says(vector: dict[str, str]) -> None:
    packet = vector["packet"].encode()
    request_id = json.loads(REQUESTS[vector["to"]])["id"]
    assert read_answer(packet, request_id, ACTIONS[vector["to"]]) == meant(vector)


def test_an_address_whose_removal_was_refused_may_be_there() -> None:
    reply = b'{"id": 4, "result": "refused", "code": "limit", "reason": "why"}'
    assert read_answer(reply, 4, REMOVE) == AddressFailed(13, V4, "why")


@pytest.mark.parametrize(("action", "packet"), MALFORMED)
def test_a_malformed_reply_is_an_error(action: HelperAction, packet: bytes) -> None:
    with pytest.raises(HelperError):
        read_answer(packet, 3, action)
