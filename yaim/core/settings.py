"""The part of the configuration that decisions depend on."""

from dataclasses import dataclass
from enum import StrEnum

from yaim.core.model import NodeName


@dataclass(frozen=True, slots=True)
class CheckSettings:
    name: str
    """Unique among the node's checks."""
    rise: int = 1
    """How many successes in a row make a failed check healthy again."""
    fall: int = 1
    """How many failures in a row make a healthy check unhealthy."""
    answers_within_s: float = 86_400.0
    """How long it may take from when the check is asked for until it answers."""


class Rebalance(StrEnum):
    """Whether addresses move although nothing has failed: to be level, or by preference."""

    AUTO = "auto"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Window:
    """The time of day in which they may, in minutes after midnight, local time. It may span
    midnight; its end is outside of it."""

    start: int
    end: int

    def is_open_at(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        times = (f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start, self.end))
        return "-".join(times)


@dataclass(frozen=True, slots=True)
class Settings:
    node: NodeName
    interface: str
    """The interface of addresses whose pool entry names none."""
    prefix_length_4: int
    prefix_length_6: int
    ttl_s: int
    interval_s: float
    version: str
    keeps_when_all_unhealthy: bool = False
    """Whether an unhealthy node keeps what no other node could hold either."""
    checks: tuple[CheckSettings, ...] = (CheckSettings("service"),)
    is_any_enough: bool = False
    """Whether one healthy check makes the node healthy; otherwise all have to be."""
    flap_max_wait_s: float = 300.0
    """How long a node that becomes unhealthy again and again waits at most; 0: it never waits."""
    resets_connections: bool = True
    """Whether the TCP connections of an address end when the address moves to another node."""
    rebalance: Rebalance | Window = Rebalance.AUTO
    rebalance_delay_s: float = 0.0
    """How long a move that only makes the spread more even has to be due before it is made."""
