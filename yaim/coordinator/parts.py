"""What the coordinator's loop does the core's actions with, whatever it is. wiring.py makes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from yaim.config.config import Config
from yaim.core.actions import EtcdAction, HelperAction


@dataclass(frozen=True, slots=True)
class Parts:
    """None of these functions blocks; what comes of them is posted as events."""

    ask_store: Callable[[EtcdAction], None]
    ask_manager: Callable[[Sequence[HelperAction]], None]
    """Takes all actions of one step together."""
    look_for_addresses: Callable[[], None]
    apply: Callable[[Config], None]
    """Takes over what SIGHUP changes in a configuration."""


StartParts: TypeAlias = Callable[[Config, Callable[..., None]], Parts]
"""Starts the parts of a configuration. The second argument takes events, those of each call having
happened together; any thread may call it."""
