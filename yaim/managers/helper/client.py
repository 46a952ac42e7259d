"""The coordinator's end of the socket to the helper (helper/PROTOCOL.md).

One thread: connects, says hello, sends commands as they come without waiting for the replies
before, and posts what the helper answers as events. A helper that hangs up or does not answer in
time is lost; then it connects anew. Decides nothing.
"""

import json
import logging
import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from queue import Empty, SimpleQueue
from time import sleep
from typing import Any, TypeAlias, assert_never

from yaim.core.actions import AddAddress, RemoveAddress, RenewAddresses
from yaim.core.allowlist import Rule
from yaim.core.events import (
    AddressAdded,
    AddressesRenewed,
    AddressFailed,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    Event,
    HelperLost,
    HelperReady,
)
from yaim.core.model import Address, Boottime, Network, Place, frozen_mapping
from yaim.core.refusals import Cause
from yaim.host.boottime import boottime

logger = logging.getLogger(__name__)

VERSION = 1
MAX_REPLY_BYTES = 65536
MAX_LABEL = 15
"""Characters that the kernel keeps of <interface>:<label>."""
ANSWER_WITHIN_S = 2.0
RECONNECT_EVERY_S = 0.1
MAX_UNDER_WAY = 128
"""Commands without a reply yet. The helper takes 64 at a time: as many are there when it has done
these. Nor do their replies overflow the helper's buffer, for which it would hang up: the kernel
counts 768 bytes for one of up to 192, 1280 for a longer one, and lets 212992 wait."""
MAX_ADDS_UNDER_WAY = 96
"""Of these. Adds wait for the disk of the helper's record, for up to a second if it hangs: there is
room left for a renewal and for removals, which do not."""
CLOCKS_AGREE_WITHIN_S = 1.0
TELL_HEAD_EVERY_S = 3600.0

HelperAction: TypeAlias = AddAddress | RemoveAddress | RenewAddresses


class HelperError(Exception):
    """The helper is not there, does not answer, or does not want us."""


def command(action: HelperAction, label: str) -> dict[str, Any]:
    """The request for an action, but for its id."""
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
            return {"op": "remove", "address": str(action.address)}
        case RenewAddresses():
            return {"op": "renew", "deadline_ns": round(action.deadline * 1e9)}
        case _:
            assert_never(action)


def most_under_way(action: HelperAction) -> int:
    """How many commands may be under way when this one is sent."""
    return MAX_ADDS_UNDER_WAY if isinstance(action, AddAddress) else MAX_UNDER_WAY


def passed_by(action: HelperAction, waiting: HelperAction) -> AddAddress | None:
    """What waits, as it is when the action has gone ahead of it; None: the action does not."""
    match waiting, action:
        case AddAddress(), RenewAddresses():
            return replace(waiting, deadline=action.deadline)
        case AddAddress(), RemoveAddress() if waiting.address != action.address:
            return waiting
        case _:
            return None


def write_request(request_id: int, message: Mapping[str, Any]) -> bytes:
    return json.dumps({**message, "id": request_id}, sort_keys=True).encode()


def read_answer(packet: bytes, request_id: int, action: HelperAction) -> Event | None:
    """The event for the reply to a request; None if it says nothing to act upon. Raises HelperError
    if it is not one of the protocol."""
    reply = _read_reply(packet, request_id)
    result = reply.get("result")
    try:
        match action:
            case _ if result not in ("ok", "refused", "failed"):
                raise ValueError
            case RenewAddresses() if result == "ok":
                return AddressesRenewed(frozenset(ip_address(text) for text in reply["missing"]))
            case RenewAddresses():
                # Should something end because of that, the next renewal tells.
                logger.warning("the helper does not renew: %s", reply["reason"])
                return None
            case AddAddress() if result == "ok":
                return AddressAdded(action.request, action.address)
            case RemoveAddress() if result == "ok":
                return AddressRemoved(action.request, action.address)
            case AddAddress() if result == "refused":
                cause = Cause.of(reply["code"])
                return AddressRefused(action.request, action.address, reply["reason"], cause)
            case AddAddress() | RemoveAddress():
                return AddressFailed(action.request, action.address, reply["reason"])
            case _:
                assert_never(action)
    except (KeyError, TypeError, ValueError) as error:
        raise HelperError(f"a reply that is none: {packet[:200]!r}") from error


def _read_reply(packet: bytes, request_id: int) -> dict[str, Any]:
    try:
        reply = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise HelperError(f"a reply that is not JSON: {packet[:200]!r}") from error
    if not isinstance(reply, dict):
        raise HelperError(f"a reply that is none: {packet[:200]!r}")
    if reply.get("id") != request_id:
        raise HelperError(f"a reply to another request than {request_id}: {packet[:200]!r}")
    return reply


class HelperClient:
    """Started by its construction. `submit` never blocks."""

    def __init__(
        self, path: Path, cluster: str, node: str, label: str, post: Callable[..., None]
    ) -> None:
        self._path = path
        self._cluster = cluster
        self._node = node
        self.label = label
        """Of IPv4 addresses that are added from now on."""
        self._post = post
        self._commands: SimpleQueue[HelperAction] = SimpleQueue()
        self._tell_head_at = 0.0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        threading.Thread(target=self._work, name="helper", daemon=True).start()

    def submit(self, actions: Sequence[HelperAction]) -> None:
        """Commands that arrive together cost the helper little more than one."""
        for action in actions:
            self._commands.put(action)
        if actions:
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        complaint = ""
        while True:
            try:
                with _Connection(self._path) as connection:
                    ready = self._say_hello(connection)
                    self._drop_commands()
                    self._post(ready)
                    complaint = ""
                    try:
                        self._serve(connection)
                    except (HelperError, OSError) as error:
                        self._post(HelperLost(str(error)))
            except (HelperError, OSError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    logger.warning("no helper at %s: %s", self._path, complaint)
            sleep(RECONNECT_EVERY_S)

    def _say_hello(self, connection: "_Connection") -> HelperReady:
        hello = {"op": "hello", "version": VERSION, "cluster": self._cluster, "node": self._node}
        reply = connection.ask(hello)
        try:
            if abs(reply["boottime_ns"] / 1e9 - boottime()) > CLOCKS_AGREE_WITHIN_S:
                raise HelperError(
                    "its CLOCK_BOOTTIME is not ours: coordinator and helper must run in the same"
                    " time namespace"
                )
            networks: dict[str, tuple[Network, ...]] = {}
            rules = []
            for rule in reply["rules"]:
                allowed = tuple(ip_network(text) for text in rule["networks"])
                networks[rule["interface"]] = networks.get(rule["interface"], ()) + allowed
                rules.append(Rule(rule["interface"], allowed, frozenset(rule["prefixes"])))
            addresses, left_over, places = self._list(connection)
            all_networks = tuple(sorted(networks.items()))
            return HelperReady(
                reply["session"], all_networks, addresses, left_over, places, tuple(rules)
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HelperError(
                "its answer to hello or list is none of the protocol"
                f" ({type(error).__name__}: {error})"
            ) from error

    def _list(
        self, connection: "_Connection"
    ) -> tuple[tuple[AddressOnInterface, ...], frozenset[Address], Mapping[Address, Place]]:
        """What the helper holds for us, what an earlier life of it has left, and where that is."""
        addresses: list[AddressOnInterface] = []
        left_over: set[Address] = set()
        places: dict[Address, Place] = {}
        after = ""
        is_more = True
        while is_more:
            page = connection.ask({"op": "list", "after": after})
            for each in page["addresses"]:
                address = ip_address(each["address"])
                places[address] = Place(str(each["interface"]), int(each["prefix"]))
                if each["deadline_ns"] is None:
                    left_over.add(address)
                else:
                    deadline = Boottime(each["deadline_ns"] / 1e9)
                    addresses.append(AddressOnInterface(address, deadline))
                after = str(address)
            is_more = page["more"] and page["addresses"]
        return tuple(addresses), frozenset(left_over), frozen_mapping(places)

    def _take_in(self, queue: deque[HelperAction]) -> None:
        """Behind what is in the queue; but removals and renewals go ahead of adds, which may wait
        for a disk. What comes of it is the same: a removal stays behind an add of its
        address, and adds that a renewal has passed ask for its deadline. It never goes ahead of
        removals: what is to go must not be granted longer before it goes."""
        while not self._commands.empty():
            action = self._commands.get_nowait()
            passed = []
            while queue and (add := passed_by(action, queue[-1])) is not None:
                passed.append(add)
                queue.pop()
            queue.append(action)
            queue.extend(reversed(passed))

    def _drop_commands(self) -> None:
        """What was asked of an earlier connection: the core asks anew for what it still wants."""
        try:
            while True:
                self._commands.get_nowait()
        except Empty:
            pass

    def _serve(self, connection: "_Connection") -> None:
        """Raises HelperError or OSError when the helper is lost."""
        queue: deque[HelperAction] = deque()
        waiting: deque[tuple[int, HelperAction, float]] = deque()
        connection.socket.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(connection.socket, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                timeout_s = None
                if waiting:
                    timeout_s = max(0.0, waiting[0][-1] + ANSWER_WITHIN_S - boottime())
                ready = {key.fileobj for key, _ in selector.select(timeout_s)}
                if connection.socket in ready:
                    answers = []
                    for packet in connection.receive_all():
                        if not waiting:
                            raise HelperError("an answer to nothing")
                        request_id, action, _ = waiting.popleft()
                        answers.append(read_answer(packet, request_id, action))
                        if isinstance(action, RenewAddresses):
                            self._tell_head(packet)
                    self._post(*(each for each in answers if each is not None))
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                self._take_in(queue)
                while queue and len(waiting) < most_under_way(queue[0]):
                    try:
                        request_id = connection.send(command(queue[0], self.label))
                    except BlockingIOError:
                        # What fills the buffer will be answered: then there is room again.
                        break
                    waiting.append((request_id, queue.popleft(), boottime()))
                if waiting and boottime() >= waiting[0][-1] + ANSWER_WITHIN_S:
                    raise HelperError(f"no answer within {ANSWER_WITHIN_S:g} s")

    def _tell_head(self, packet: bytes) -> None:
        """Of the helper's record, in our log, which whoever rewrites that record does not reach
        (helper/AUDIT.md)."""
        head = json.loads(packet).get("head")
        if boottime() >= self._tell_head_at and isinstance(head, dict):
            told = socket.gethostname(), head.get("seq"), head.get("hash")
            logger.info("audit head host=%s seq=%s sha256=%s", *told)
            self._tell_head_at = boottime() + TELL_HEAD_EVERY_S


class _Connection:
    """A connection to the helper, and the ids of its requests."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._last_id = 0
        try:
            # A connect that does not block gives up at once if many others are waiting; one that
            # does has its turn (unix(7) does not tell).
            limit = struct.pack("2l", int(ANSWER_WITHIN_S), 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self.socket.connect(str(path))
            self.socket.settimeout(ANSWER_WITHIN_S)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: Mapping[str, Any]) -> int:
        """The request's id."""
        request_id = self._last_id + 1
        self.socket.send(write_request(request_id, message))
        self._last_id = request_id
        return request_id

    def receive(self) -> bytes:
        packet, _, flags, _ = self.socket.recvmsg(MAX_REPLY_BYTES)
        if not packet:
            raise HelperError("it hung up")
        if flags & socket.MSG_TRUNC:
            raise HelperError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
        return packet

    def receive_all(self) -> list[bytes]:
        """What has come, on a socket that does not block."""
        packets = []
        try:
            while True:
                packets.append(self.receive())
        except BlockingIOError:
            return packets

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The ok reply to one request. Raises HelperError for any other."""
        request_id = self.send(message)
        reply = _read_reply(self.receive(), request_id)
        if reply.get("result") != "ok":
            raise HelperError(str(reply.get("reason", "it refused without a reason")))
        return reply
