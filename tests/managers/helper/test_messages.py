"""What the helper's replies mean."""

import json

import pytest

from tests.managers.helper.vectors import ACTIONS, MALFORMED, REMOVE, REQUESTS, V4, VECTORS
from yaim.core.actions import AddAddress, HelperAction, RemoveAddress, RenewAddresses
from yaim.core.events import (
    HAS_NO_FENCE,
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressRefused,
    AddressRemoved,
    Event,
)
from yaim.core.model import Fence
from yaim.core.refusals import Cause
from yaim.managers.helper.messages import HelperError, read_answer, read_fence, read_reply

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


@pytest.mark.parametrize("vector", VECTORS["hellos"], ids=lambda vector: vector["name"])
def test_a_hello_of_the_vectors_tells_of_the_fence_what_it_says(vector: dict[str, str]) -> None:
    meant = {
        "a fence is in force": Fence(True),
        "no fence is in force: the kernel has no nf_tables": Fence(
            False, "the kernel has no nf_tables"
        ),
        "nothing is told of a fence": HAS_NO_FENCE,
    }
    assert read_fence(read_reply(vector["packet"].encode(), 1)) == meant[vector["means"]]


@pytest.mark.parametrize(
    "fence",
    [
        *("null", "true", '"no"', "[]", "{}", '{"in_force": true}', '{"reason": ""}'),
        *('{"in_force": 1, "reason": ""}', '{"in_force": "true", "reason": ""}'),
        *('{"in_force": null, "reason": ""}', '{"in_force": false, "reason": null}'),
    ],
)
def test_a_fence_of_another_form_is_none_of_the_protocol(fence: str) -> None:
    with pytest.raises(ValueError, match="fence is"):
        read_fence(read_reply(f'{{"fence": {fence}, "id": 1, "result": "ok"}}'.encode(), 1))


def test_a_fence_may_be_told_with_more_than_is_known_here() -> None:
    told = {"fence": {"in_force": True, "reason": "", "table": "yaim-7"}}
    assert read_fence(told) == Fence(True)
