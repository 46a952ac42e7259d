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
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_network
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from time import sleep
from typing import Any, TypeAlias

from yaim.core.actions import (
    AddAddress,
    ClearConnections,
    HelperAction,
    RemoveAddress,
    RenewAddresses,
)
from yaim.core.allowlist import Rule
from yaim.core.events import (
    AddressOnInterface,
    Event,
    HelperLost,
    HelperReady,
    ProblemsObserved,
)
from yaim.core.model import Address, Boottime, Network, Place, frozen_mapping
from yaim.host.boottime import boottime
from yaim.managers.helper.connection import ANSWER_WITHIN_S, Connection
from yaim.managers.helper.messages import (
    VERSION,
    HelperError,
    HungUpError,
    command,
    read_answer,
    read_capacity,
    read_fence,
    read_problems,
    read_reply,
    read_reset_rule,
    read_resets,
)

logger = logging.getLogger(__name__)

RECONNECT_EVERY_S = 0.1
MAX_UNDER_WAY = 128
"""Commands without a reply yet. The helper takes 64 at a time: as many are there when it has done
these. Nor do their replies overflow the helper's buffer, for which it would hang up: the kernel
counts 768 bytes for one of up to 192, 1280 for a longer one, and lets 212992 wait."""
MAX_ADDS_UNDER_WAY = 96
"""So many of these may be adds. They wait for the disk of the helper's record, for up to a second
if it hangs: there is room left for a renewal and for removals, which do not."""
CLOCKS_AGREE_WITHIN_S = 1.0
LAST_ADDRESS = IPv6Address(2**128 - 1)
TELL_HEAD_EVERY_S = 3600.0
ASK_EVERY_S = 10.0
"""How often a helper is asked what is wrong, if no renewal tells it: nothing is held then."""
FIRST_ASK_S = 1.0
"""When it is asked first: our hello may have had it look at its files."""
PROBLEMS_FROM = "helper"
"""The source of what the helper tells to be wrong."""


@dataclass(frozen=True, slots=True)
class AskWhatIsWrong:
    """A `list`, for what its reply tells besides."""


Asked: TypeAlias = HelperAction | AskWhatIsWrong


def most_under_way(action: Asked) -> int:
    """How many commands may be under way when this one is sent."""
    return MAX_ADDS_UNDER_WAY if isinstance(action, AddAddress) else MAX_UNDER_WAY


def passed_by(action: HelperAction, waiting: Asked) -> AddAddress | None:
    """What a waiting action is after this one has gone ahead of it; None if it does not go
    ahead."""
    match waiting, action:
        case AddAddress(), RenewAddresses():
            return replace(waiting, deadline=action.deadline)
        case AddAddress(), RemoveAddress() if waiting.address != action.address:
            return waiting
        case _:
            return None


def known_to(action: HelperAction, *, can_reset: bool) -> HelperAction | None:
    """What is asked of a helper that ends connections, or does not; None: nothing. The core decides
    by what the last helper has told; the one that is there now may be older."""
    match action:
        case ClearConnections() if not can_reset:
            return None
        case RemoveAddress(resets=True) if not can_reset:
            return replace(action, resets=False)
        case _:
            return action


class HelperClient:
    """Started by its construction. `submit` never blocks."""

    def __init__(
        self, path: Path, cluster: str, node: str, label: str, post: Callable[..., None]
    ) -> None:
        self._path = path
        self._cluster = cluster
        self._node = node
        self.label = label
        """IPv4 addresses that are added from now on get it."""
        self._post = post
        self._commands: SimpleQueue[HelperAction] = SimpleQueue()
        self._tell_head_at = 0.0
        self._can_reset = False
        """Whether the helper that is there can end connections."""
        self._ask_at = inf
        """When it is asked what is wrong, if it can tell."""
        self._problems: tuple[str, ...] = ()
        """What it has told to be wrong."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        threading.Thread(target=self._work, name="helper", daemon=True).start()

    def submit(self, actions: Sequence[HelperAction]) -> None:
        """Sends the commands together: they cost the helper little more than one."""
        for action in actions:
            self._commands.put(action)
        if actions:
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        complaint = ""
        while True:
            try:
                with Connection(self._path) as connection:
                    ready = self._say_hello(connection)
                    self._drop_commands()
                    self._post(ready)
                    complaint = ""
                    try:
                        self._serve(connection)
                    except (HelperError, OSError) as error:
                        self._post(HelperLost(str(error)), *self._heed_problems(()))
            except (HelperError, OSError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    logger.warning("no helper at %s: %s", self._path, complaint)
            sleep(RECONNECT_EVERY_S)

    def _say_hello(self, connection: Connection) -> HelperReady:
        hello = {"op": "hello", "version": VERSION, "cluster": self._cluster, "node": self._node}
        try:
            reply = connection.ask(hello)
        except (HungUpError, ConnectionError) as error:
            # How that shows depends on who is faster.
            raise HelperError(
                f"it hangs up on uid {os.geteuid()}: list this user under users in helper.yml, then"
                " systemctl reload yaim-helper"
            ) from error
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
                lengths = frozenset(rule["prefixes"])
                rules.append(Rule(rule["interface"], allowed, lengths, read_reset_rule(rule)))
            resets = read_resets(reply)
            self._can_reset = resets.can_reset
            capacity = read_capacity(reply)
            self._ask_at = boottime() + FIRST_ASK_S if capacity is not None else inf
            addresses, left_over, places = self._list(connection)
            all_networks = tuple(sorted(networks.items()))
            return HelperReady(
                reply["session"],
                all_networks,
                addresses,
                left_over,
                places,
                tuple(rules),
                read_fence(reply),
                resets,
                capacity,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HelperError(
                "its answer to hello or list is none of the protocol"
                f" ({type(error).__name__}: {error})"
            ) from error

    def _list(
        self, connection: Connection
    ) -> tuple[tuple[AddressOnInterface, ...], frozenset[Address], Mapping[Address, Place]]:
        """What the helper holds for us, what an earlier helper has left, and where all that is."""
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

    def _take_in(self, queue: deque[Asked], to_clear: dict[Address, None]) -> None:
        """Puts new commands behind what is in the queue; but removals and renewals go ahead of
        adds, which may wait for a disk. What comes of it is the same: a removal stays behind an add
        of its address, and adds that a renewal has passed ask for its deadline. A renewal never
        goes ahead of removals: what is to go must not be granted longer before it goes. Whose
        connections are to be cleared waits until nothing else does, and is forgotten if the address
        comes back here."""
        while not self._commands.empty():
            action = known_to(self._commands.get_nowait(), can_reset=self._can_reset)
            match action:
                case None:
                    continue
                case ClearConnections(address):
                    to_clear[address] = None
                    continue
                case AddAddress():
                    to_clear.pop(action.address, None)
            passed = []
            while queue and (add := passed_by(action, queue[-1])) is not None:
                passed.append(add)
                queue.pop()
            queue.append(action)
            queue.extend(reversed(passed))

    def _drop_commands(self) -> None:
        """Drops what was asked of an earlier connection: the core asks anew for what it still
        wants."""
        try:
            while True:
                self._commands.get_nowait()
        except Empty:
            pass

    def _serve(self, connection: Connection) -> None:
        """Raises HelperError or OSError when the helper is lost."""
        queue: deque[Asked] = deque()
        to_clear: dict[Address, None] = {}
        waiting: deque[tuple[int, Asked, float]] = deque()
        connection.socket.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(connection.socket, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                wake_at = waiting[0][-1] + ANSWER_WITHIN_S if waiting else self._ask_at
                timeout_s = max(0.0, wake_at - boottime()) if wake_at < inf else None
                ready = {key.fileobj for key, _ in selector.select(timeout_s)}
                if connection.socket in ready:
                    answers: list[Event | None] = []
                    for packet in connection.receive_all():
                        if not waiting:
                            raise HelperError("an answer to nothing")
                        request_id, action, _ = waiting.popleft()
                        if isinstance(action, AskWhatIsWrong):
                            read_reply(packet, request_id)
                        else:
                            answers.append(read_answer(packet, request_id, action))
                        if isinstance(action, RenewAddresses | AskWhatIsWrong):
                            reply = json.loads(packet)
                            self._tell_head(reply)
                            answers += self._take_problems(reply)
                    self._post(*(each for each in answers if each is not None))
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                self._take_in(queue, to_clear)
                if to_clear and not queue and not waiting:
                    # One at a time: a renewal waits for one look at the kernel's sockets at most.
                    first = next(iter(to_clear))
                    del to_clear[first]
                    queue.append(ClearConnections(first))
                if not queue and not waiting and boottime() >= self._ask_at:
                    self._ask_at = boottime() + ASK_EVERY_S
                    queue.append(AskWhatIsWrong())
                while queue and len(waiting) < most_under_way(queue[0]):
                    try:
                        request_id = connection.send(self._request(queue[0]))
                    except BlockingIOError:
                        # What fills the buffer will be answered: then there is room again.
                        break
                    waiting.append((request_id, queue.popleft(), boottime()))
                if waiting and boottime() >= waiting[0][-1] + ANSWER_WITHIN_S:
                    raise HelperError(f"no answer within {ANSWER_WITHIN_S:g} s")

    def _request(self, asked: Asked) -> Mapping[str, Any]:
        if isinstance(asked, AskWhatIsWrong):
            # Behind the last address there is none, which makes for a short answer.
            return {"op": "list", "after": str(LAST_ADDRESS)}
        return command(asked, self.label)

    def _take_problems(self, reply: Mapping[str, Any]) -> list[ProblemsObserved]:
        """What a reply tells to be wrong, if that is new."""
        if reply.get("result") != "ok" or self._ask_at == inf:
            return []
        self._ask_at = boottime() + ASK_EVERY_S
        try:
            return self._heed_problems(read_problems(reply))
        except ValueError as error:
            raise HelperError(f"a reply that is none: {error}") from error

    def _heed_problems(self, problems: tuple[str, ...]) -> list[ProblemsObserved]:
        if problems == self._problems:
            return []
        for each in problems:
            if each not in self._problems:
                logger.warning("%s", each)
        self._problems = problems
        return [ProblemsObserved(PROBLEMS_FROM, problems)]

    def _tell_head(self, reply: Mapping[str, Any]) -> None:
        """Tells the head of the helper's record in our log, which whoever rewrites that record does
        not reach (helper/AUDIT.md)."""
        head = reply.get("head")
        if boottime() >= self._tell_head_at and isinstance(head, dict):
            told = socket.gethostname(), head.get("seq"), head.get("hash")
            logger.info("audit head host=%s seq=%s sha256=%s", *told)
            self._tell_head_at = boottime() + TELL_HEAD_EVERY_S
