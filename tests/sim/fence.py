"""A model of a kernel's nf_tables, as far as the fence needs them: sets, elements with a time-out,
and transactions.

Both what decides (held/fences.py) and what asks the kernel (kernel/fence.py) are the helper's own
code: the model takes the same messages as the kernel. Of the rules it takes only that they are
there; what they mean is written down here once more.

A time-out counts from when a transaction is executed. Between two steps of what the helper does the
process may have been stopped (`Pace`). Before Linux 6.12 an element that is there keeps its
time-out, and one that is shorter than a jiffy never ends.
"""

import errno
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address
from math import inf
from struct import unpack, unpack_from
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from yaim_helper.kernel.fence import Fence, Refused
from yaim_helper.kernel.nftables import Change, Family, Kind

from yaim.core.model import Address

if TYPE_CHECKING:
    from tests.sim.host import Host

NOTICED_WITHIN_S = 0.02
"""What others have changed is made good after this time, if the helper runs."""
HELD_UP_ONE_IN, HELD_UP_S = 10, 0.1
"""How often the process is held up for a moment, by whoever has the lock of the rulesets or the
processor, and for how long at most."""

Set: TypeAlias = dict[bytes, float]
"""Keys, and when each ends on the host's clock; inf: never."""
Name: TypeAlias = tuple[Family, str]


class Asked(NamedTuple):
    """What a message says."""

    table: str
    set: str
    keys: tuple[bytes, ...]
    timeout_ms: int | None


class Pace:
    """The time in which a process makes its steps. It was stopped after some of them."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._steps = 0
        self._stopped_s = 0.0
        self._last_at = -inf
        """When the last step was made."""

    def was_stopped(self, seconds: float) -> None:
        """Some of the next steps were made so long ago."""
        self._stopped_s = min(seconds, self._host.clock() - self._last_at)
        self._steps = self._host.random.randrange(8)

    def now(self) -> float:
        """Makes a step. Returns when, on the host's clock."""
        if self._steps <= 0:
            self._stopped_s = 0.0
        self._steps -= 1
        self._last_at = self._host.clock() - self._stopped_s
        return self._last_at

    def catch_up(self) -> None:
        """All steps were made."""
        self._stopped_s = 0.0


class ModelRuleset:
    """Of a host. All instants are of its clock."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._tables: dict[Name, dict[str, Set]] = {}
        kind = host.chances_of_fence.random()
        self._is_new_kernel = kind < 0.5
        self._jiffy_s = (0.001, 0.004, 0.01)[int(kind * 1000) % 3]

    # --- what is in it ---------------------------------------------------------------------

    def names(self) -> list[str]:
        found = {table for _, table in self._tables if table.startswith("yaim-")}
        return sorted(found, key=lambda name: (len(name), name))

    def is_live(self, table: str) -> bool:
        return any(
            self._lasts(self._tables[family, table], key)
            for family, key in ((Family.ARP, ARP), (Family.INET, IPV4))
            if (family, table) in self._tables
        )

    def _lasts(self, sets: dict[str, Set], key: bytes) -> bool:
        now = self._host.clock()
        return any(
            now < sets[live].get(key, -inf) and key in sets[chosen]
            for live, chosen in (("live1", "chosen1"), ("live2", "chosen2"))
        )

    def _last_end(self) -> float:
        """When all that is held has ceased to answer, if nothing comes."""
        return max(
            (
                sets[live].get(key, -inf)
                for sets in self._tables.values()
                for live, chosen in (("live1", "chosen1"), ("live2", "chosen2"))
                for key in sets[chosen]
            ),
            default=-inf,
        )

    def answers(self, address: Address) -> bool:
        """Whether it answers anything."""
        return self._passes(address, Family.ARP) or self._passes(address, Family.INET)

    def answers_all(self, address: Address) -> bool:
        return self._passes(address, Family.ARP) and self._passes(address, Family.INET)

    def _passes(self, address: Address, family: Family) -> bool:
        held, muted, protocol = PLACES[family]
        return not any(
            address.packed in sets[muted]
            or (address.packed in sets[held] and not self._lasts(sets, protocol))
            for (of, _), sets in self._tables.items()
            if of is family
        )

    def ends_at(self, address: Address) -> float:
        """When it ceases to answer ARP, if nothing comes; inf: it is in no table."""
        held, muted, protocol = PLACES[Family.ARP]
        return min(
            (
                -inf
                if address.packed in sets[muted]
                else max(
                    sets[live].get(protocol, -inf) if protocol in sets[chosen] else -inf
                    for live, chosen in (("live1", "chosen1"), ("live2", "chosen2"))
                )
                for (family, _), sets in self._tables.items()
                if family is Family.ARP and address.packed in sets[held]
            ),
            default=inf,
        )

    def held(self, table: str) -> frozenset[Address]:
        sets = self._tables.get((Family.ARP, table), {})
        return frozenset(IPv4Address(key) for key in sets.get("held", {}))

    def is_fenced(self, address: Address) -> bool:
        """Whether it can be made to answer no more."""
        return any(address.packed in sets[PLACES[of][0]] for (of, _), sets in self._tables.items())

    # --- what changes it -------------------------------------------------------------------

    def flush(self) -> None:
        self._tables.clear()

    def flush_table(self, table: str) -> None:
        for family in Family:
            self._tables.pop((family, table), None)

    def change(self, changes: Sequence[Change], now: float) -> None:
        """One transaction, at that instant. Raises Refused, and has done nothing then."""
        tables = {name: dict(sets) for name, sets in self._tables.items()}
        refused: dict[Change, int] = {}
        ends: set[float] = set()
        jiffy_s = self._host.random.uniform(0.0, self._jiffy_s)
        for each in changes:
            asked = _read(each.kind, each.body)
            number = self._make(tables, each, asked, now, now + jiffy_s, ends)
            if number:
                refused[each] = number
        if refused:
            raise Refused(next(iter(refused.values())), frozenset(refused))
        self._tables = tables
        self._host.world.checker.fence_set(self._host, self._last_end())
        self._host.kernel.judge()
        for end in ends:
            self._host.at(end, self._host.kernel.judge)

    def _make(
        self,
        tables: dict[Name, dict[str, Set]],
        change: Change,
        asked: Asked,
        now: float,
        counted_from: float,
        ends: set[float],
    ) -> int:
        """Makes a change. Returns the number of an error; 0: none."""
        name = change.family, asked.table
        match change.kind:
            case Kind.NEWTABLE:
                if name in tables:
                    return errno.EEXIST if change.flags & EXCL else 0
                tables[name] = {}
                return 0
            case Kind.DELTABLE:
                return 0 if tables.pop(name, None) is not None else errno.ENOENT
        if name not in tables:
            return errno.ENOENT
        sets = tables[name]
        match change.kind:
            case Kind.NEWSET:
                sets[asked.set] = {}
            case Kind.NEWCHAIN | Kind.NEWRULE:
                pass
            case Kind.NEWSETELEM | Kind.DELSETELEM if asked.set not in sets:
                return errno.ENOENT
            case Kind.NEWSETELEM:
                end = self._end(asked.timeout_ms, counted_from)
                there = sets[asked.set]
                for key in asked.keys:
                    if self._is_new_kernel or now >= there.get(key, -inf):
                        there = {**there, key: end}
                        ends |= {end} - {inf}
                sets[asked.set] = there
            case Kind.DELSETELEM:
                there = dict(sets[asked.set])
                for key in asked.keys:
                    if now >= there.pop(key, -inf):
                        return errno.ENOENT
                sets[asked.set] = there
            case _:
                raise AssertionError(change)
        return 0

    def _end(self, timeout_ms: int | None, counted_from: float) -> float:
        is_none = timeout_ms is None or (
            not self._is_new_kernel and timeout_ms < self._jiffy_s * 1000
        )
        return inf if is_none or timeout_ms is None else counted_from + timeout_ms / 1000


ARP, IPV4 = b"\x08\x06", b"\x08\x00"
PLACES = {Family.ARP: ("held", "muted", ARP), Family.INET: ("held4", "muted4", IPV4)}
"""The sets of IPv4 addresses, and the protocol by which they answer."""
EXCL = 0x200


@lru_cache(maxsize=4096)
def _read(kind: Kind, body: bytes) -> Asked:
    """Takes a message apart, but for rules and chains."""
    attributes = dict(_attributes(body))
    table = attributes[1].rstrip(b"\0").decode()
    if kind not in (Kind.NEWSET, Kind.NEWSETELEM, Kind.DELSETELEM):
        return Asked(table, "", (), None)
    keys, timeout_ms = [], None
    for _, element in _attributes(attributes.get(3, b"") if kind is not Kind.NEWSET else b""):
        parts = dict(_attributes(element))
        keys.append(dict(_attributes(parts[1]))[1])
        if 4 in parts:
            (timeout_ms,) = unpack(">Q", parts[4])
    return Asked(table, attributes[2].rstrip(b"\0").decode(), tuple(keys), timeout_ms)


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """struct nlattr: type, without its flags, and value of each."""
    at = 0
    while at < len(body):
        length, kind = unpack_from("=HH", body, at)
        yield kind & 0x3FFF, body[at + 4 : at + length]
        at += (length + 3) & ~3


class ModelTables:
    """What a helper's process knows of them."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self.pace = Pace(host)

    def names(self) -> Collection[str]:
        return self._host.kernel.ruleset.names()

    def is_live(self, table: str) -> bool:
        return self._host.kernel.ruleset.is_live(table)

    def held(self, table: str) -> frozenset[Address]:
        return self._host.kernel.ruleset.held(table)

    def fence(self, number: int) -> Fence:
        return self.named(f"yaim-{number}")

    def named(self, table: str) -> Fence:
        return Fence(self, table, self.pace.now)  # type: ignore[arg-type]

    def change(self, changes: Sequence[Change]) -> None:
        """As the helper's own Ruleset. Raises KernelError."""
        self._host.kernel.ruleset.change(changes, self.pace.now())
