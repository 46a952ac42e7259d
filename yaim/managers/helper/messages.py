"""The messages to the helper and its replies (helper/PROTOCOL.md): JSON, and what it means.

Only turns the one into the other: knows no socket, and decides nothing.
"""

import json
import logging
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, assert_never

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
from yaim.core.model import Address, Fence, Resets
from yaim.core.refusals import Cause
from yaim.text import printable

logger = logging.getLogger(__name__)

VERSION = 1
MAX_CONFLICTS = 4
"""The most other holders on the link that are told of."""
MAX_PROBLEM = 250
"""The most characters that are told of one problem."""
MAX_LABEL = 15
"""Characters that the kernel keeps of <interface>:<label>."""


class HelperError(Exception):
    """The helper is not there, does not answer, or does not want us."""


class HungUpError(HelperError):
    """The helper has ended the connection."""


def command(action: HelperAction, label: str) -> dict[str, Any]:
    """The request for an action, without its id."""
    match action:
        case AddAddress():
            fits = len(f"{action.interface}:{label}") <= MAX_LABEL
            return {
                "op": "add",
                "interface": action.interface,
                "address": str(action.address),
                "prefix": action.prefix_length,
                "label": label if action.address.version == 4 and fits else "",
                "deadline_ns": round(action.deadline * 1e9),
            }
        case RemoveAddress():
            connections = {"connections": "reset"} if action.resets else {}
            return {"op": "remove", "address": str(action.address), **connections}
        case ClearConnections():
            return {"op": "clear", "address": str(action.address)}
        case RenewAddresses():
            return {"op": "renew", "deadline_ns": round(action.deadline * 1e9)}
        case _:
            assert_never(action)


def write_request(request_id: int, message: Mapping[str, Any]) -> bytes:
    return json.dumps({**message, "id": request_id}, sort_keys=True).encode()


def read_answer(packet: bytes, request_id: int, action: HelperAction) -> Event | None:
    """The event for the reply to a request; None if the reply says nothing to act upon. Raises
    HelperError if it is no reply of the protocol."""
    reply = read_reply(packet, request_id)
    result = reply.get("result")
    try:
        match action:
            case _ if result not in ("ok", "refused", "failed"):
                raise ValueError
            case RenewAddresses() if result == "ok":
                return AddressesRenewed(frozenset(ip_address(text) for text in reply["missing"]))
            case RenewAddresses():
                # If something ends because of that, the next renewal tells it.
                logger.warning("the helper does not renew: %s", reply["reason"])
                return None
            case AddAddress() if result == "ok":
                return AddressAdded(action.request, action.address)
            case RemoveAddress() if result == "ok":
                if "reset" not in reply:
                    return AddressRemoved(action.request, action.address)
                reset, left = _count(reply, "reset"), _count(reply, "left")
                return AddressRemoved(action.request, action.address, reset, left)
            case ClearConnections() if result == "ok":
                _tell_cleared(action.address, _count(reply, "cleared"), _count(reply, "left"))
                return None
            case ClearConnections():
                # The address may be here again, or not be allowed any more.
                why = reply["reason"]
                logger.debug("connections of %s are not cleared: %s", action.address, why)
                return None
            case AddAddress() if result == "refused":
                cause = Cause.of(reply["code"])
                return AddressRefused(action.request, action.address, reply["reason"], cause)
            case AddAddress() | RemoveAddress():
                return AddressFailed(action.request, action.address, reply["reason"])
            case _:
                assert_never(action)
    except (KeyError, TypeError, ValueError) as error:
        raise HelperError(f"a reply that is none: {packet[:200]!r}") from error


def _count(reply: Mapping[str, Any], name: str) -> int:
    """How many connections. Raises KeyError or ValueError for what is not of the protocol."""
    count = reply[name]
    if type(count) is not int or count < 0:
        raise ValueError(f"{name} is {str(count)[:200]}")
    return count


def _tell_cleared(address: Address, cleared: int, left: int) -> None:
    if cleared:
        logger.info(
            "ended %d connection%s that %s left of %s",
            *(cleared, "s" * (cleared != 1), "was" if cleared == 1 else "were", address),
        )
    if left:
        logger.warning("%s still has %d of its old connections on this host", address, left)


def read_resets(reply: Mapping[str, Any]) -> Resets:
    """Whether the helper can end connections, as it tells in its reply to hello. An older one does
    not tell it. Raises ValueError for what is not of the protocol."""
    if "connections" not in reply:
        return CANNOT_RESET
    match reply["connections"]:
        case {"can_reset": bool(can_reset), "reason": str(reason)}:
            return Resets(can_reset, reason)
        case other:
            raise ValueError(f"connections is {str(other)[:200]}")


def read_reset_rule(rule: Mapping[str, Any]) -> bool:
    """Whether a rule lets connections be ended. Raises ValueError for what is not of the
    protocol."""
    resets = rule.get("reset_connections", True)
    if not isinstance(resets, bool):
        raise ValueError(f"reset_connections is {str(resets)[:200]}")
    return resets


def read_fence(reply: Mapping[str, Any]) -> Fence:
    """Whether the helper has a fence, as it tells in its reply to hello. An older one does not tell
    it. Raises ValueError for what is not of the protocol."""
    if "fence" not in reply:
        return HAS_NO_FENCE
    match reply["fence"]:
        case {"in_force": bool(is_in_force), "reason": str(reason)}:
            return Fence(is_in_force, reason)
        case other:
            raise ValueError(f"fence is {str(other)[:200]}")


def read_capacity(reply: Mapping[str, Any]) -> int | None:
    """The most addresses that the helper holds, as it tells in its reply to hello. An older one
    does not tell it. Raises ValueError for what is not of the protocol."""
    if "capacity" not in reply:
        return None
    capacity = reply["capacity"]
    if type(capacity) is not int or capacity < 1:
        raise ValueError(f"capacity is {str(capacity)[:200]}")
    return capacity


def read_problems(reply: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong, as the helper tells it in its replies to list and renew: for people, and no
    more than fits into our advertisement. Raises ValueError for what is not of the protocol."""
    problems = []
    if (why := _reason(reply, "record")) is not None:
        problems.append(f"the helper can add nothing, as its record cannot be written: {why}")
    if (why := _reason(reply, "rules_differ")) is not None:
        problems.append(why)
    match reply.get("conflicts", []):
        case list(conflicts):
            told = [_conflict(each) for each in conflicts[:MAX_CONFLICTS]]
        case other:
            raise ValueError(f"conflicts is {str(other)[:200]}")
    if len(conflicts) > MAX_CONFLICTS:
        told.append("others claim more of its addresses, too")
    return tuple(printable(each, MAX_PROBLEM) for each in (*problems, *told))


def _reason(reply: Mapping[str, Any], name: str) -> str | None:
    reason = reply.get(name)
    if reason is not None and not isinstance(reason, str):
        raise ValueError(f"{name} is {str(reason)[:200]}")
    return reason


def _conflict(told: object) -> str:
    match told:
        case {
            "address": str(address),
            "interface": str(interface),
            "mac": str(mac),
            "since": str(since),
        }:
            return f"{ip_address(address)} on {interface} is claimed by {mac}, too, since {since}"
        case other:
            raise ValueError(f"a conflict is {str(other)[:200]}")


def read_reply(packet: bytes, request_id: int) -> dict[str, Any]:
    """The reply to this request. Raises HelperError if it is none."""
    try:
        reply = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise HelperError(f"a reply that is not JSON: {packet[:200]!r}") from error
    if not isinstance(reply, dict):
        raise HelperError(f"a reply that is none: {packet[:200]!r}")
    if reply.get("id") != request_id:
        raise HelperError(f"a reply to another request than {request_id}: {packet[:200]!r}")
    return reply
