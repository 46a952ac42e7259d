"""A helper with a fence that is stopped, or killed, in front of each line that a request takes it
to (tests/helper/stopping.py). What is answered on the wire is the judge."""

import itertools
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from yaim_helper.serve.asked import KERNEL_WAITS

from tests.helper import client as wire
from tests.helper.client import CLIENT4, CLIENT6, V4, V6, neighbour
from tests.helper.network import Address, boottime, is_readable, new_network, state, wait_for
from tests.helper.process import Client, add, policy
from yaim.lab.namespaces import Namespace

pytestmark = pytest.mark.timeout(600)

GRACE_S = 0.05
"""helper/PROTOCOL.md: with a fence nothing answers later than this after its deadline."""
LIFE_S = 0.9
"""From a request to the deadline that it is about."""
SOONER_S = 0.3
"""How much sooner what is renewed would be over without that."""
LISTEN_S = 0.08
PORT = 80
TCP_REPAIR, TCP_REPAIR_OFF_NO_WP = 19, -1
"""include/uapi/linux/tcp.h"""
PLACES = 16
"""Networks in which this is done side by side."""
LEAST_LINES = 200
"""Fewer than each kind of request takes the helper to."""
KILLED_EVERY = 4
BOTH: tuple[Address, Address] = (V4, V6)
OPS = ("Add", "Renew", "Remove")


class Starved(Exception):
    """The helper was held up, or its kernel was, by other tests: the machine is to blame."""


class Place:
    """A network with a helper, of which each life begins in a tenth of a second."""

    def __init__(self, network: Namespace, client: wire.Client, directory: Path) -> None:
        self.client = client
        self._network = network
        self._directory = directory
        self._where = directory / "where"
        (directory / "helper.yml").write_text(policy(directory / "audit", fence="auto"))
        self._connections: list[socket.socket] = []
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = Path(__file__).parents[1] / "stopping.py"
        with theirs, (directory / "log").open("wb") as log:
            fd = theirs.fileno()
            command = (sys.executable, "-I", str(program), str(directory), str(fd))
            self._process = network.start(command, log, pass_fds=(fd,))
        self.asks: Client
        self.pid = 0

    def close(self) -> None:
        self.kill()
        self._end_connections()
        self._process.kill()
        self._process.wait()
        self._control.close()

    def connect_both(self) -> None:
        """There is something to reset: connections of which the other host knows nothing, so that
        only a reset is ever sent."""
        self._end_connections()
        for each, to in zip(BOTH, (CLIENT4, CLIENT6), strict=True):
            with self._network.entered():
                made = socket.socket(socket.AF_INET if each.version == 4 else socket.AF_INET6)
            self._connections.append(made)
            made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            with suppress(OSError):
                # Its deadline may have passed.
                made.bind((str(each), PORT))
                made.connect((str(to), PORT))
            made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)

    def _end_connections(self) -> None:
        """Without a word."""
        for each in self._connections:
            with suppress(OSError):
                each.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            each.close()
        self._connections.clear()

    def start(self) -> None:
        """Begins the next life of the helper."""
        (self._directory / "helper.sock").unlink(missing_ok=True)
        self._control.send(b"!")
        self.pid = int(self._control.recv(64))
        wait_for(self._connect, "the helper listens")
        told = self.asks.hello()
        assert told["fence"] == {"in_force": True, "reason": ""}, told

    def _connect(self) -> bool:
        assert state(self.pid) != "Z", (self._directory / "log").read_text()
        try:
            self.asks = Client(self._directory / "helper.sock")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            wait_for(lambda: state(self.pid) == "Z", "the helper is dead")
            self.asks.socket.close()
            self.pid = 0

    def begin_anew(self) -> None:
        """As a helper that has never been there, and nothing of it either."""
        self.kill()
        self._network.run(
            *("sh", "-ec"),
            "nft flush ruleset\n"
            + "".join(f"ip address delete {each} dev veth0 || true\n" for each in BOTH),
        )
        for each in (self._directory / "audit").glob("*"):
            each.unlink()
        self.start()

    def add_both(self, deadline_ns: int) -> None:
        asked = [self.asks.send("add", **add(str(a), deadline_ns=deadline_ns)) for a in BOTH]
        replies = [self.asks.receive(each) for each in asked]
        if any(each["result"] == "failed" or each.get("code") == "expired" for each in replies):
            raise Starved(replies)
        assert all(each["result"] == "ok" for each in replies), replies

    def remove_both(self) -> bool:
        replies = [self.asks.remove(str(each)) for each in BOTH]
        if KERNEL_WAITS.reason in [each.get("reason") for each in replies]:
            raise Starved
        return all(each["result"] == "ok" for each in replies)

    def ask(self, op: str, step: int, deadline_ns: int) -> list[int]:
        """Asks for something in which the helper is to stop; returns the ids."""
        self._where.unlink(missing_ok=True)
        count = 1 if op == "Renew" else len(BOTH)
        (self._directory / "step").write_text(f"{op} {count} {step}")
        if op == "Add":
            return [self.asks.send("add", **add(str(a), deadline_ns=deadline_ns)) for a in BOTH]
        if op == "Renew":
            return [self.asks.send("renew", deadline_ns=deadline_ns)]
        return [self.asks.send("remove", address=str(each), connections="reset") for each in BOTH]

    def stops(self, asked: list[int]) -> str | None:
        """Waits until the helper has stopped, and returns where; None: it has replied."""

        def has_replied() -> bool:
            return is_readable(self.asks.socket)

        def is_stopped() -> bool:
            how = state(self.pid)
            if how == "Z":
                raise Starved
            return how == "T" and self._where.exists()

        wait_for(lambda: is_stopped() or has_replied(), "it stops, or replies")
        if not is_stopped():
            # It may stop later, with the first of two replies sent.
            for each in asked[:-1]:
                self.asks.receive(each)
            wait_for(lambda: is_stopped() or has_replied(), "it stops, or replies")
        return self._where.read_text() if is_stopped() else None

    def goes_on(self, asked: list[int]) -> bool:
        """Lets a stopped helper go on until it has replied; returns whether it lives."""
        os.kill(self.pid, signal.SIGCONT)
        try:
            while self._receives() != asked[-1]:
                pass
            # It comes to what is due after that.
            self.asks.list()
        except (AssertionError, OSError):
            return False
        return True

    def _receives(self) -> int:
        packet = self.asks.socket.recv(65537)
        assert packet
        return int(json.loads(packet)["id"])


@dataclass
class Found:
    """What was found, by line."""

    lines: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OPS, 0))
    """How many lines each kind of request took the helper to."""
    late_when_stopped: list[str] = field(default_factory=list)
    late_afterwards: list[str] = field(default_factory=list)
    """Where something was heard too late: while the helper was stopped, when it went on."""
    refused: list[str] = field(default_factory=list)
    """Where the next life did not take over, or did not remove, what was left."""
    silent: list[str] = field(default_factory=list)
    """Where what the next life had taken over did not answer."""
    faults: list[BaseException] = field(default_factory=list)


class Sweep:
    """All lines of all kinds of requests, with several helpers side by side."""

    def __init__(self, directory: Path, is_kill: bool, first: int = 1, every: int = 1) -> None:
        self.found = Found()
        self._directory = directory
        self._is_kill = is_kill
        self._lock = threading.Lock()
        self._steps = {op: itertools.count(first, every) for op in OPS}
        self._left = list(OPS)

    def run(self) -> Found:
        threads = [
            threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(PLACES)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        if self.found.faults:
            raise self.found.faults[0]
        return self.found

    def _next(self) -> tuple[str, int] | None:
        with self._lock:
            if not self._left or self.found.faults:
                return None
            return self._left[0], next(self._steps[self._left[0]])

    def _work(self, number: int) -> None:
        directory = self._directory / str(number)
        directory.mkdir()
        try:
            with place(directory) as it:
                while (task := self._next()) is not None:
                    while not self._does(it, *task):
                        it.begin_anew()
        except BaseException as error:
            self.found.faults.append(error)

    def _does(self, it: Place, op: str, step: int) -> bool:
        """Returns whether the helper came so far."""
        with suppress(Starved):
            self._do(it, op, step)
            return True
        return False

    def _do(self, it: Place, op: str, step: int) -> None:
        now = boottime()
        over_at = now + LIFE_S
        sooner = over_at - SOONER_S if op == "Renew" else over_at
        if op != "Add":
            it.add_both(round(sooner * 1e9))
        if op == "Remove":
            it.connect_both()
        asked = it.ask(op, step, round(over_at * 1e9))
        line = it.stops(asked)
        if line is None:
            with suppress(ValueError), self._lock:
                self._left.remove(op)
            it.begin_anew()
            return
        where = f"{op}: {line}"
        self.found.lines[op] += 1
        if self._is_kill:
            self._kill(it, where, step, over_at)
        else:
            self._stop(it, asked, where, step, sooner, over_at)

    def _stop(
        self, it: Place, asked: list[int], where: str, step: int, sooner: float, over_at: float
    ) -> None:
        found = self.found
        lives = True
        if sooner < over_at and step % 2:
            # It goes on between the two deadlines, of which the later one counts.
            sleep_until(sooner + GRACE_S)
            lives = it.goes_on(asked)
            sleep_until(over_at + GRACE_S)
        else:
            sleep_until(over_at + GRACE_S)
            if it.client.heard(BOTH, boottime() + LISTEN_S):
                found.late_when_stopped.append(where)
            lives = it.goes_on(asked)
        if it.client.heard(BOTH, boottime() + LISTEN_S):
            found.late_afterwards.append(where)
        if not lives or not it.remove_both():
            it.begin_anew()

    def _kill(self, it: Place, where: str, step: int, over_at: float) -> None:
        found = self.found
        it.kill()
        it.start()
        if step % 2:
            over_at = boottime() + LIFE_S
            try:
                it.add_both(round(over_at * 1e9))
            except AssertionError as error:
                found.refused.append(f"{where}: {error}")
            heard = it.client.heard(BOTH, boottime() + LISTEN_S)
            if heard != set(BOTH) and boottime() < over_at:
                found.silent.append(where)
        sleep_until(over_at + GRACE_S)
        if it.client.heard(BOTH, boottime() + LISTEN_S):
            found.late_afterwards.append(where)
        if not it.remove_both():
            found.refused.append(f"{where}: not removed")
            it.begin_anew()


def sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - boottime()))


@contextmanager
def place(directory: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        network = stack.enter_context(new_network())
        client = stack.enter_context(neighbour(network))
        it = Place(network, client, directory)
        stack.callback(it.close)
        it.start()
        yield it


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return Sweep(tmp_path_factory.mktemp("stopped"), is_kill=False).run()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Another life has to be started for each line: one line of some, each time others."""
    first = random.SystemRandom().randint(1, KILLED_EVERY)
    return Sweep(tmp_path_factory.mktemp("killed"), True, first, KILLED_EVERY).run()


def test_nothing_answers_after_its_deadline_wherever_the_helper_is_stopped(stopped: Found) -> None:
    """Nor when it goes on, later than the deadline: an add that comes late adds nothing that
    answers, and a renewal that comes late revives nothing."""
    assert min(stopped.lines.values()) > LEAST_LINES, stopped.lines
    assert stopped.late_when_stopped == []
    assert stopped.late_afterwards == []


def test_nothing_answers_after_its_deadline_wherever_the_helper_is_killed(killed: Found) -> None:
    assert min(killed.lines.values()) > LEAST_LINES / KILLED_EVERY, killed.lines
    assert killed.late_afterwards == []


def test_the_next_life_takes_over_what_is_left_wherever_the_helper_is_killed(
    killed: Found,
) -> None:
    assert killed.refused == []
    assert killed.silent == []
