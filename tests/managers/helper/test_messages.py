"""What the helper's replies mean."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.managers.helper.vectors import (
    ACTIONS,
    CLEAR,
    MALFORMED,
    REMOVE,
    REQUESTS,
    RESET,
    V4,
    VECTORS,
)
from yaim.core.actions import (
    AddAddress,
    ClearConnections,
    HelperAction,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.events import (
    CANNOT_RESET,
    HAS_NO_FENCE,
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressRefused,
    AddressRemoved,
    Event,
)
from yaim.core.model import Fence, Resets
from yaim.core.refusals import Cause
from yaim.managers.helper.messages import (
    HelperError,
    command,
    read_answer,
    read_capacity,
    read_fence,
    read_problems,
    read_reply,
    read_reset_rule,
    read_resets,
)

pytestmark = pytest.mark.quick


REMOVED_WITH = r"removed, (\d+) reset, (\d+) left"


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
        case RemoveAddress(number), "removed":
            return AddressRemoved(number, V4)
        case RemoveAddress(), means if match := re.fullmatch(REMOVED_WITH, means):
            return AddressRemoved(14, V4, *map(int, match.groups()))
        case ClearConnections(), _:
            return None
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


# --- what a helper tells of itself -----------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["capacities"], ids=lambda vector: vector["name"])
def test_a_hello_of_the_vectors_tells_the_most_addresses(vector: dict[str, str]) -> None:
    meant = {"64 addresses at most": 64, "nothing is told of a limit": None}
    assert read_capacity(read_reply(vector["packet"].encode(), 1)) == meant[vector["means"]]


@pytest.mark.parametrize("capacity", [0, -1, True, None, "64", 64.0, []])
def test_a_limit_of_another_form_is_none_of_the_protocol(capacity: object) -> None:
    with pytest.raises(ValueError, match="capacity is"):
        read_capacity({"capacity": capacity})


@pytest.mark.parametrize("vector", VECTORS["wrong"], ids=lambda vector: vector["name"])
def test_a_reply_of_the_vectors_tells_what_is_wrong(vector: dict[str, Any]) -> None:
    assert read_problems(read_reply(vector["packet"].encode(), 2)) == tuple(vector["means"])


NONE: tuple[Any, ...] = (1, True, {})
CONFLICT: Mapping[str, Any] = {
    "address": "192.0.2.10",
    "interface": "eth0",
    "mac": "02:00:5e:00:00:01",
    "since": "now",
}


@pytest.mark.parametrize(
    "told",
    [
        *({key: each} for key in ("record", "rules_differ") for each in (*NONE, [])),
        *({"conflicts": each} for each in (*NONE, None, "", [1], [None], [[]], [{}])),
        *({"conflicts": [{**CONFLICT, key: 1}]} for key in CONFLICT),
        {"conflicts": [{**CONFLICT, "address": "192.0.2"}]},
    ],
)
def test_what_is_wrong_in_another_form_is_none_of_the_protocol(told: Any) -> None:
    with pytest.raises(ValueError, match=r" is |does not appear"):
        read_problems(told)


def test_no_more_is_told_than_people_read_and_an_advertisement_takes() -> None:
    told = {
        "record": "x" * 5000,
        "rules_differ": "\x1b[2J\n" * 500,
        "conflicts": [{**CONFLICT, "interface": "y" * 5000}] * 16,
    }
    problems = read_problems(told)
    assert [len(each) for each in problems] == [250] * 6 + [39]
    assert all(each.isprintable() for each in problems)
    assert problems[-1] == "others claim more of its addresses, too"


# --- connections -----------------------------------------------------------------------------


def test_a_reset_and_a_clear_are_asked_for_by_name() -> None:
    told = {"op": "remove", "address": "192.0.2.10", "connections": "reset"}
    assert command(RESET, "yaim") == told
    assert command(CLEAR, "yaim") == {"op": "clear", "address": "192.0.2.10"}


@pytest.mark.parametrize(
    ("told", "counts"),
    [("", (0, None)), (', "reset": 0, "left": 0', (0, 0)), (', "reset": 12, "left": 3', (12, 3))],
)
def test_a_removal_tells_what_became_of_the_connections(
    told: str, counts: tuple[int, int | None]
) -> None:
    reply = f'{{"id": 4, "result": "ok", "was": "present"{told}}}'.encode()
    assert read_answer(reply, 4, RESET) == AddressRemoved(14, V4, *counts)


@pytest.mark.parametrize("count", ["-1", "true", "null", '"1"', "1.0", "[]"])
@pytest.mark.parametrize("name", ["reset", "left"])
def test_a_count_of_another_form_is_none_of_the_protocol(name: str, count: str) -> None:
    for action, rest in ((RESET, '"was": "present"'), (CLEAR, '"cleared": 0')):
        names = ("cleared", "left") if action is CLEAR else ("reset", "left")
        told = dict.fromkeys(names, "0") | {name if name in names else "cleared": count}
        fields = ", ".join(f'"{each}": {value}' for each, value in told.items())
        reply = f'{{"id": 4, "result": "ok", {rest}, {fields}}}'.encode()
        with pytest.raises(HelperError):
            read_answer(reply, 4, action)


@pytest.mark.parametrize(
    ("counts", "lines"),
    [
        ((0, 0), []),
        ((11, 0), ["ended 11 connections that were left of 192.0.2.10"]),
        ((1, 0), ["ended 1 connection that was left of 192.0.2.10"]),
        ((0, 2), ["192.0.2.10 still has 2 of its old connections on this host"]),
    ],
)
def test_what_was_cleared_is_told(
    counts: tuple[int, int], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    reply = b'{"id": 4, "result": "ok", "cleared": %d, "left": %d}' % counts
    assert read_answer(reply, 4, CLEAR) is None
    assert [each.getMessage() for each in caplog.records] == lines


@pytest.mark.parametrize("vector", VECTORS["connections"], ids=lambda vector: vector["name"])
def test_a_hello_of_the_vectors_tells_of_connections_what_it_says(vector: dict[str, str]) -> None:
    no_kernel = Resets(False, "CONFIG_INET_DIAG_DESTROY is not set")
    meant = {
        "the kernel can reset, the rule allows it": (Resets(True), True),
        "the kernel can reset, the rule forbids it": (Resets(True), False),
        f"the kernel cannot reset: {no_kernel.reason}": (no_kernel, True),
        "nothing is told of connections": (CANNOT_RESET, True),
    }
    reply = read_reply(vector["packet"].encode(), 1)
    (rule,) = reply["rules"]
    assert (read_resets(reply), read_reset_rule(rule)) == meant[vector["means"]]


@pytest.mark.parametrize("result", ["refused", "failed"])
def test_what_was_not_cleared_is_not_lost(result: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    reply = f'{{"id": 4, "result": "{result}", "code": "foreign", "reason": "it is here"}}'
    assert read_answer(reply.encode(), 4, CLEAR) is None
    assert not caplog.records


@pytest.mark.parametrize(
    "reply", [b'{"id": 4, "result": "done"}', b'{"id": 4, "result": "failed"}']
)
def test_a_malformed_answer_to_a_clear_is_an_error(reply: bytes) -> None:
    with pytest.raises(HelperError):
        read_answer(reply, 4, CLEAR)


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ({}, CANNOT_RESET),
        ({"connections": {"can_reset": True, "reason": ""}}, Resets(True)),
        ({"connections": {"can_reset": False, "reason": "why"}}, Resets(False, "why")),
        ({"connections": {"can_reset": True, "reason": "", "more": 1}}, Resets(True)),
    ],
)
def test_a_hello_tells_whether_connections_can_be_reset(
    told: dict[str, object], meant: Resets
) -> None:
    assert read_resets(told) == meant


@pytest.mark.parametrize(
    "told", [None, True, "no", [], {}, {"can_reset": True}, {"can_reset": 1, "reason": ""}]
)
def test_connections_of_another_form_are_none_of_the_protocol(told: object) -> None:
    with pytest.raises(ValueError, match="connections is"):
        read_resets({"connections": told})


@pytest.mark.parametrize("told", [None, 1, "true", []])
def test_a_rule_of_another_form_is_none_of_the_protocol(told: object) -> None:
    assert read_reset_rule({}) and not read_reset_rule({"reset_connections": False})
    with pytest.raises(ValueError, match="reset_connections is"):
        read_reset_rule({"reset_connections": told})
