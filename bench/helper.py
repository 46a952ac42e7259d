"""The figures of docs/security.md: what the helper costs, and how fast it is.

    python -m bench.helper [--rounds 5] [--json FILE]

A real helper in a network namespace of its own, its record on disk, asked by the coordinator's own
client (yaim/managers/helper/client.py). `ip -batch` does the same in the same round, on another
interface: what the kernel takes, asked by C. Of IPv6 that is most: for each address it goes through
all that are on the interface. Printed are the medians over the rounds, with the least and the most.
The exit status is 1 if a median misses its bound.
"""

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from yaim_helper.kernel.addresses import Assignment, Kernel
from yaim_helper.record.log import AuditLog

from bench.figures import machine
from yaim.core.actions import AddAddress, RemoveAddress, RenewAddresses
from yaim.core.events import AddressAdded, AddressesRenewed, AddressRemoved, Event, HelperReady
from yaim.core.model import Address, Boottime
from yaim.host.boottime import boottime
from yaim.lab.namespaces import LabError, Namespace
from yaim.lab.wait import wait_until
from yaim.managers.helper.client import HelperClient
from yaim.managers.helper.messages import command, write_request

COUNT = 1000
SINGLE = 200
"""Adds, one after the other, in each round."""
RENEWALS = 5
"""The renewals in each round."""
RECORDS = 640
"""Written in each round."""
TOGETHER = 64
"""Records that a busy helper writes together (connections.MAX_BATCH)."""
E = TypeVar("E", bound=Event)

INTERFACE, OTHER = "veth0", "veth1"
FIRST: dict[str, Address] = {"IPv4": ip_address("10.0.0.1"), "IPv6": ip_address("fd00::1")}
CLUSTER, NODE, LABEL = "bench", "node", "yaim"
LIFE_S = 600.0
ANSWER_WITHIN_S = 60.0

AT_MOST: dict[str, tuple[str, float | None]] = {
    "start to first reply": ("ms", 1000.0),
    "RSS without addresses": ("MB", 40.0),
    "RSS with 1000 addresses": ("MB", 40.0),
    "1 add, in process, to the kernel and back: median": ("ms", 1.0),
    "1 add, in process, to the kernel and back: p99": ("ms", None),
    "1 add, from command to reply: median": ("ms", 20.0),
    "1 add, from command to reply: p99": ("ms", None),
    "1000 IPv4 adds, from first command to last reply": ("ms", 1000.0),
    "1000 IPv4 adds by ip -batch, for comparison": ("ms", None),
    "1 renewal, asked behind 1000 IPv4 adds": ("ms", 1000.0),
    "1000 IPv4 addresses renewed": ("ms", 50.0),
    "1000 IPv4 addresses renewed by ip -batch, for comparison": ("ms", None),
    "1000 IPv4 removals": ("ms", 1000.0),
    "1000 IPv6 adds, from first command to last reply": ("ms", None),
    "1000 IPv6 adds by ip -batch, for comparison": ("ms", None),
    "1 renewal, asked behind 1000 IPv6 adds": ("ms", 2000.0),
    "1000 IPv6 addresses renewed": ("ms", None),
    "1000 IPv6 addresses renewed by ip -batch, for comparison": ("ms", None),
    "1000 IPv6 removals": ("ms", None),
}
"""What is measured, in which unit, and what its median may be at most."""
AT_LEAST: dict[str, tuple[str, float | None]] = {
    "durable records a second, one by one": ("/s", 100.0),
    f"durable records a second, {TOGETHER} together": ("/s", 1000.0),
}
"""The same, for what is better when it is more."""


class Round:
    """One helper, and what was measured of it."""

    def __init__(
        self, namespace: Namespace, directory: Path, figures: dict[str, list[float]]
    ) -> None:
        self._namespace = namespace
        self._directory = directory
        self._figures = figures

    def run(self) -> None:
        self._write_records()
        self._put_in_process()
        started = time.monotonic()
        keys = {"max-addresses": COUNT}
        with running_helper(self._namespace, self._directory, keys) as (pid, path):
            self._wait_for_reply(path)
            self._note_ms("start to first reply", time.monotonic() - started)
            self._note("RSS without addresses", rss_mb(pid))
            self._add_one_by_one(path)
            self._add_together(path, pid)

    def _add_one_by_one(self, path: Path) -> None:
        took_s = []
        with connected(path) as connection:
            for number, address in enumerate(addresses(SINGLE)):
                deadline = Boottime(boottime() + LIFE_S)
                add = AddAddress(number, address, INTERFACE, address.max_prefixlen, deadline)
                packet = write_request(2 * number + 2, command(add, LABEL))
                began = time.monotonic()
                expect_ok(connection, packet)
                took_s.append(time.monotonic() - began)
                remove = RemoveAddress(number, address)
                expect_ok(connection, write_request(2 * number + 3, command(remove, LABEL)))
        self._note_spread("1 add, from command to reply", took_s)

    def _add_together(self, path: Path, pid: int) -> None:
        posted: SimpleQueue[Event] = SimpleQueue()

        def post(*events: Event) -> None:
            for each in events:
                posted.put(each)

        client = HelperClient(path, CLUSTER, NODE, LABEL, post)
        expect(posted, HelperReady)
        for family, first in FIRST.items():
            pool = [first + number for number in range(COUNT)]
            self._add_all(client, posted, pool, f"1000 {family}")
            self._note("RSS with 1000 addresses", rss_mb(pid))
            self._renew_all(client, posted, f"1000 {family}")
            self._remove_all(client, posted, pool, f"1000 {family}")
            self._renew_behind(client, posted, pool, f"1000 {family}")
            self._remove_all(client, posted, pool, "")
            self._ask_ip(pool, f"1000 {family}")

    def _add_all(
        self, client: HelperClient, posted: SimpleQueue[Event], pool: Sequence[Address], what: str
    ) -> None:
        began = time.monotonic()
        client.submit(adds_of(pool))
        for _ in pool:
            expect(posted, AddressAdded)
        self._note_ms(f"{what} adds, from first command to last reply", time.monotonic() - began)

    def _renew_all(self, client: HelperClient, posted: SimpleQueue[Event], what: str) -> None:
        took_s = []
        for number in range(RENEWALS):
            began = time.monotonic()
            # Each sets a longer lifetime in the kernel.
            client.submit([RenewAddresses(Boottime(boottime() + LIFE_S + 10 * (number + 1)))])
            event = expect(posted, AddressesRenewed)
            took_s.append(time.monotonic() - began)
            if event.missing:
                raise LabError(f"{len(event.missing)} addresses are missing")
        self._note_ms(f"{what} addresses renewed", statistics.median(took_s))

    def _renew_behind(
        self, client: HelperClient, posted: SimpleQueue[Event], pool: Sequence[Address], what: str
    ) -> None:
        began = time.monotonic()
        client.submit([*adds_of(pool), RenewAddresses(Boottime(boottime() + LIFE_S + 10))])
        for _ in range(COUNT + 1):
            event = posted.get(timeout=ANSWER_WITHIN_S)
            if isinstance(event, AddressesRenewed):
                self._note_ms(f"1 renewal, asked behind {what} adds", time.monotonic() - began)
            elif not isinstance(event, AddressAdded):
                raise LabError(f"expected an address to be added, got {event}")

    def _remove_all(
        self, client: HelperClient, posted: SimpleQueue[Event], pool: Sequence[Address], what: str
    ) -> None:
        began = time.monotonic()
        client.submit([RemoveAddress(number, each) for number, each in enumerate(pool)])
        for _ in pool:
            expect(posted, AddressRemoved)
        if what:
            self._note_ms(f"{what} removals", time.monotonic() - began)

    def _ask_ip(self, pool: Sequence[Address], what: str) -> None:
        batch = self._directory / "batch"
        for done, verb in (("adds", "add"), ("addresses renewed", "replace")):
            life_s = LIFE_S if verb == "add" else 2 * LIFE_S
            how = f"dev {OTHER} valid_lft {life_s:.0f} preferred_lft 0"
            batch.write_text(
                "".join(
                    f"address {verb} {each}/{each.max_prefixlen} {how}"
                    f"{' nodad' if each.version == 6 else ''}\n"
                    for each in pool
                )
            )
            with self._namespace.entered():
                began = time.monotonic()
                subprocess.run(("ip", "-batch", str(batch)), check=True)
                took_s = time.monotonic() - began
            self._note_ms(f"{what} {done} by ip -batch, for comparison", took_s)
        self._namespace.run("ip", "address", "flush", "dev", OTHER)

    def _put_in_process(self) -> None:
        took_s = []
        with self._namespace.entered():
            kernel = Kernel()
            interface = kernel.interface(OTHER)
            for address in addresses(SINGLE):
                prefix = address.max_prefixlen
                began = time.monotonic()
                failed = kernel.put([Assignment(interface, address, prefix, "", int(LIFE_S))])
                took_s.append(time.monotonic() - began)
                if failed:
                    raise LabError(f"the kernel does not take them: {failed}")
            self._namespace.run("ip", "address", "flush", "dev", OTHER)
        self._note_spread("1 add, in process, to the kernel and back", took_s)

    def _write_records(self) -> None:
        log = AuditLog(self._directory / "written", "0" * 64)
        record = {
            "type": "intent",
            "peer": {"pid": 1, "uid": 1, "gid": 1},
            "cluster": CLUSTER,
            "op": "add",
            "id": 1,
            "address": "192.0.2.1",
            "interface": INTERFACE,
            "prefix": 32,
            "label": LABEL,
            "deadline_ns": 10**18,
            "rule": 1,
        }
        for name, count in zip(AT_LEAST, (1, TOGETHER), strict=True):
            began = time.monotonic()
            for _ in range(RECORDS // count):
                log.write([record] * count, durable=True)
            self._note(name, RECORDS / (time.monotonic() - began))

    def _wait_for_reply(self, path: Path) -> None:
        def replies() -> bool:
            try:
                with connected(path):
                    return True
            except OSError:
                return False

        wait_until(replies, 20.0, "the helper to reply")

    def _note(self, name: str, value: float) -> None:
        self._figures[name].append(value)

    def _note_ms(self, name: str, seconds: float) -> None:
        self._note(name, seconds * 1000)

    def _note_spread(self, name: str, took_s: Sequence[float]) -> None:
        self._note_ms(f"{name}: median", statistics.median(took_s))
        self._note_ms(f"{name}: p99", statistics.quantiles(took_s, n=100)[98])


@contextmanager
def running_helper(
    namespace: Namespace, directory: Path, keys: Mapping[str, object]
) -> Iterator[tuple[int, Path]]:
    """Its process id, and its socket, which may not be there yet. It has the priority that its unit
    gives it. `keys`: further ones of its helper.yml."""
    path = directory / "helper.sock"
    config = directory / "helper.yml"
    rules = [{"interface": INTERFACE, "networks": ["10.0.0.0/16", "fd00::/64"]}]
    policy = {
        "users": [os.geteuid()],
        "rules": rules,
        "commands-per-second": 1_000_000,
        "audit-log": str(directory / "audit.log"),
        **keys,
    }
    config.write_text(json.dumps(policy))
    with (directory / "helper.log").open("wb") as log:
        process = namespace.start(
            (
                *("nice", "--adjustment=-10", sys.executable, "-I", "-m", "yaim_helper"),
                *("--config", str(config), "--socket", str(path), "--user", "root"),
            ),
            log,
        )
    try:
        yield process.pid, path
    except LabError as error:
        raise LabError(f"{error}\n{(directory / 'helper.log').read_text()}") from error
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)


def addresses(count: int) -> list[Address]:
    """Returns as many addresses of IPv4 as of IPv6."""
    return [first + number for number in range(count // 2) for first in FIRST.values()]


def adds_of(pool: Sequence[Address]) -> list[AddAddress]:
    deadline = Boottime(boottime() + LIFE_S)
    return [
        AddAddress(number, each, INTERFACE, each.max_prefixlen, deadline)
        for number, each in enumerate(pool)
    ]


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    """After hello."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.connect(str(path))
        hello = {"op": "hello", "version": 1, "cluster": CLUSTER, "node": NODE}
        expect_ok(connection, write_request(1, hello))
        yield connection


def expect_ok(connection: socket.socket, packet: bytes) -> None:
    connection.send(packet)
    reply = json.loads(connection.recv(1 << 16))
    if reply["result"] != "ok":
        raise LabError(f"the helper: {reply}")


def expect(posted: SimpleQueue[Event], kind: type[E]) -> E:
    event = posted.get(timeout=ANSWER_WITHIN_S)
    if not isinstance(event, kind):
        raise LabError(f"expected {kind.__name__}, got {event}")
    return event


def rss_mb(pid: int) -> float:
    """Resident memory, shared libraries included (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LabError(f"process {pid} is gone")


def report(figures: dict[str, list[float]]) -> bool:
    """Print the table; whether all medians are within their bounds."""
    width = max(map(len, figures))
    print(f"\n{'':{width}}  {'median':>9}  {'least':>8}  {'most':>8}  {'bound':>8}")
    is_good = True
    limits = {name: (*limit, ">=") for name, limit in AT_LEAST.items()}
    limits |= {name: (*limit, "<=") for name, limit in AT_MOST.items()}
    for name, (unit, bound, sense) in limits.items():
        values = figures[name]
        median = statistics.median(values)
        is_met = bound is None or (median <= bound if sense == "<=" else median >= bound)
        is_good = is_good and is_met
        digits = 0 if median >= 100 else 1 if median >= 10 else 2
        row = [f"{number:.{digits}f}" for number in (median, min(values), max(values))]
        told = f"{sense} {bound:g}" if bound is not None else ""
        print(
            f"{name:{width}}  {row[0]:>6} {unit:2}  {row[1]:>8}  {row[2]:>8}  {told:>8}"
            + ("" if is_met else "  MISSED")
        )
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    # The client of a round goes on looking for its helper.
    logging.getLogger("yaim").setLevel(logging.CRITICAL)
    figures: dict[str, list[float]] = defaultdict(list)
    for line in machine():
        print(line)
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds} ...", flush=True)
        namespace = Namespace.new()
        # Not in /tmp, which may be no disk.
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            for name in (INTERFACE, OTHER):
                namespace.run("ip", "link", "add", name, "type", "veth", "peer", f"{name}p")
                for each in (name, f"{name}p"):
                    namespace.run("ip", "link", "set", each, "addrgenmode", "none", "up")
            Round(namespace, Path(directory), figures).run()
        namespace.close()
    is_good = report(figures)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
