"""What operators ask for, as it stands in the model etcd: the keys below control/.

Each command is one transaction, guarded by the guard's revision that its giver has seen; what ends
by itself stands under a lease that nobody keeps. A pause, a pin or a weight that is wrong is no
matter here: tests/dcs reads those.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from yaim.core.model import (
    Address,
    Control,
    LeaseId,
    Member,
    Move,
    NodeName,
    Order,
    Pin,
    Revision,
    Weight,
    frozen_mapping,
)

MOVE_S = 60.0
"""How long a move is asked for."""
Key: TypeAlias = tuple[str, object]
"""What kind of key it is, and of what; such as ("drain", "n1")."""
Value: TypeAlias = Order | Pin | Move | Weight | Member


@dataclass(slots=True)
class Orders:
    """All keys below control/ but the guard, which is a revision."""

    guard: Revision = Revision(0)
    keys: dict[Key, Value] = field(default_factory=dict)
    leases: dict[Key, LeaseId] = field(default_factory=dict)

    def put(self, key: Key, value: Value, lease: LeaseId | None = None) -> None:
        self.keys[key] = value
        self.leases.pop(key, None)
        if lease is not None:
            self.leases[key] = lease

    def delete(self, key: Key) -> bool:
        """Whether it was there."""
        self.leases.pop(key, None)
        return self.keys.pop(key, None) is not None

    def end(self, *leases: LeaseId) -> bool:
        """These leases have ended; whether anything stood under them."""
        ended = [key for key, lease in self.leases.items() if lease in leases]
        for key in ended:
            self.delete(key)
        return bool(ended)

    def control(self) -> Control:
        def of(kind: str) -> Mapping:  # type: ignore[type-arg]
            return frozen_mapping({what: v for (k, what), v in self.keys.items() if k == kind})

        pause = self.keys.get(("pause", ""))
        return Control(
            self.guard,
            drains=of("drain"),
            pause=pause if isinstance(pause, Order) else None,
            pins=of("pin"),
            moves=of("move"),
            weights=of("weight"),
            members=of("member"),
        )


@dataclass(frozen=True, slots=True)
class Command:
    """One transaction of an operator."""

    puts: tuple[tuple[Key, Value], ...] = ()
    deletes: tuple[Key, ...] = ()
    for_s: float | None = None
    """What it puts ends after so long; None: when somebody deletes it."""

    def __str__(self) -> str:
        put = (f"{kind} {what}".strip() for (kind, what), _ in self.puts)
        no_more = (f"no {kind} {what}".strip() for kind, what in self.deletes)
        until = f" for {self.for_s:g} s" if self.for_s is not None else ""
        return f"{', '.join([*put, *no_more])}{until}"

    def with_revision(self, revision: Revision) -> "Command":
        """As it is put at this revision."""
        return replace(self, puts=tuple((key, _at(value, revision)) for key, value in self.puts))


Ask: TypeAlias = Callable[[Control], Command]
"""What an operator makes of what stands there."""


def _at(value: Value, revision: Revision) -> Value:
    if isinstance(value, Order):
        return replace(value, revision=revision)
    if isinstance(value, Member):
        return value
    return replace(value, order=replace(value.order, revision=revision))


BY = Order("root@db1", "maintenance")


def drain(*names: NodeName, for_s: float | None = None) -> Command:
    return Command(tuple((("drain", name), BY) for name in names), for_s=for_s)


def undrain(*names: NodeName) -> Command:
    return Command(deletes=tuple(("drain", name) for name in names))


def pause(for_s: float | None = None) -> Command:
    return Command(((("pause", ""), BY),), for_s=for_s)


def resume() -> Command:
    return Command(deletes=(("pause", ""),))


def pin(address: Address, name: NodeName, for_s: float | None = None) -> Command:
    return Command(((("pin", address), Pin(name, BY)),), for_s=for_s)


def unpin(address: Address) -> Command:
    return Command(deletes=(("pin", address),))


def move(address: Address, name: NodeName, for_s: float = MOVE_S) -> Command:
    return Command(((("move", address), Move(name, BY)),), for_s=for_s)


def weigh(for_s: float | None = None, **weights: int) -> Command:
    puts = tuple((("weight", NodeName(name)), Weight(each, BY)) for name, each in weights.items())
    return Command(puts, for_s=for_s)


def nothing_more(control: Control) -> Command:
    """All that has been asked for is taken back, but for moves, which end by themselves."""
    return Command(
        deletes=(
            *(("drain", name) for name in control.drains),
            *((("pause", ""),) if control.pause is not None else ()),
            *(("pin", address) for address in control.pins),
            *(("move", address) for address in control.moves),
            *(("weight", name) for name in control.weights),
        )
    )
