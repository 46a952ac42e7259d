"""The loop of the unprivileged process: the core in the middle, one queue, the parts around it.

Carries events to the core and actions to the parts; decides nothing. Which parts these are it does
not know: wiring.py starts them.
"""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from setproctitle import setproctitle

from yaim.config.config import LOG_LEVELS, Config
from yaim.coordinator.event_queue import EventQueue
from yaim.coordinator.parts import StartParts
from yaim.coordinator.reload import reloaded, restart_asked
from yaim.coordinator.settings import settings_of
from yaim.coordinator.status_line import StatusLine
from yaim.coordinator.window import WindowWatch, next_look_s
from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    ClearConnections,
    End,
    GrantLease,
    HelperAction,
    KeepLease,
    Level,
    LookForAddresses,
    Note,
    Outcome,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import ClockJumped, ClusterChanged, Event, SettingsChanged, StopRequested
from yaim.core.state.state import State
from yaim.core.step import step
from yaim.host.boottime import boottime
from yaim.host.clock_jumps import Clocks
from yaim.host.interfaces import shown_name, why_missing
from yaim.host.logs import set_level
from yaim.host.sd_notify import ServiceManager

logger = logging.getLogger(__name__)

EX_UNAVAILABLE = 69
EX_SOFTWARE = 70

_LOG_LEVELS = {
    Level.DEBUG: logging.DEBUG,
    Level.INFO: logging.INFO,
    Level.WARNING: logging.WARNING,
    Level.ERROR: logging.ERROR,
}


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """SIGHUP has come."""


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """SIGUSR1 has come."""


class Coordinator:
    def __init__(
        self,
        config: Config,
        start_parts: StartParts,
        load: Callable[[], Config],
        lost_next: Callable[[Config], list[str]],
    ) -> None:
        """`load` reads the configuration anew, for SIGHUP. `lost_next` tells which keys have
        changed so that the next process would find nothing of this one's. Both raise
        ConfigError."""
        self._config = config
        self._load = load
        self._lost_next = lost_next
        self._queue = EventQueue[ReloadRequested | RestartAsked]()
        self._state = State(settings_of(config))
        self._end: End | None = None
        self._title = ""
        self._status_line = StatusLine()
        self._service_manager = ServiceManager()
        threading.excepthook = _crash
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGUSR1, self._on_restart_signal)
        # The supervisor has held these signals back until now.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._clocks = Clocks()
        self._window = WindowWatch()
        self._parts = start_parts(config, self._post)

    def run(self) -> int:
        """Returns the exit status."""
        wake_at: float | None = boottime()
        while self._end is None:
            wake_at = self._step(self._wait(wake_at))
            self._service_manager.tell(lambda: self._status_line.of(self._state, boottime()))
        return self._exit_status(self._end)

    def _post(self, *events: Event) -> None:
        """Takes events that have happened together; any thread may call it."""
        if len(events) == 1 and isinstance(events[0], ClusterChanged):
            self._queue.put_view(events[0])
        else:
            self._queue.put(events)

    def _wait(self, until: float | None) -> list[Event]:
        """Returns all that has happened; nothing, if nothing has happened until then."""
        until = min(
            math.inf if until is None else until,
            self._service_manager.next_at(),
            boottime() + next_look_s(self._config.rebalance),
        )
        timeout_s = None if until == math.inf else max(0.0, until - boottime())
        events: list[Event] = []
        for each in self._queue.take(timeout_s):
            if isinstance(each, ReloadRequested):
                self._reload()
                events.append(SettingsChanged(settings_of(self._config)))
            elif isinstance(each, RestartAsked):
                events.append(restart_asked(lambda: self._lost_next(self._config)))
            else:
                events += each
        return events

    def _step(self, events: list[Event]) -> float | None:
        """Returns when to wake up if nothing happens."""
        jump_s = self._clocks.jump_s()
        if jump_s:
            events = [ClockJumped(jump_s), *events]
        events = [*events, *self._window.look(self._config.rebalance)]
        for event in events:
            logger.debug("%s", event)
        taken = step(self._state, events, boottime())
        self._state = taken.state
        self._parts.ask_manager([each for each in taken.actions if isinstance(each, HelperAction)])
        for action in taken.actions:
            self._perform(action)
        self._show_title()
        return taken.wake_at

    def _perform(self, action: Action) -> None:
        match action:
            case Report(level, text):
                logger.log(_LOG_LEVELS[level], "%s", text)
                return
            case AddAddress() | RemoveAddress() | RenewAddresses() | ClearConnections():
                pass  # the manager has it already, with all others of this step
            case LookForAddresses():
                self._parts.look_for_addresses()
            case End():
                self._end = action
            case (
                ReadCluster()
                | GrantLease()
                | KeepLease()
                | RevokeLease()
                | AdvertiseNode()
                | WithdrawNode()
                | ClaimMarks()
                | ReleaseMarks()
                | Note()
            ):
                self._parts.ask_store(action)
            case _:
                assert_never(action)
        logger.debug("%s", action)

    def _reload(self) -> None:
        """Applies what has changed in the configuration, or logs why not."""
        new = reloaded(self._config, self._load, self._why_not_on)
        if new is None:
            return
        self._config = new
        set_level(LOG_LEVELS[new.log_level])
        self._parts.apply(new)
        logger.info("the configuration is reloaded")

    def _why_not_on(self, interface: str) -> str:
        """Why addresses cannot be put on this interface; empty if they can."""
        helper = self._state.host.helper
        if why_not := why_missing(interface):
            return why_not
        if helper is not None and shown_name(interface) not in helper.networks:
            return f"the helper's allowlist has no {shown_name(interface)}"
        return ""

    def _exit_status(self, end: End) -> int:
        match end.outcome:
            case Outcome.STOPPED:
                logger.info("stopped: %s", end.reason)
                return 0
            case Outcome.LEFT:
                logger.info("restarting: %s; lease and addresses stay", end.reason)
                return 0
            case Outcome.NOT_RELEASED:
                logger.warning("stopped: %s", end.reason)
                return 0
            case Outcome.NAME_TAKEN:
                logger.error("%s", end.reason)
                return EX_UNAVAILABLE
            case _:
                assert_never(end.outcome)

    def _show_title(self) -> None:
        title = self._status_line.title(self._state, boottime())
        if title != self._title:
            self._title = title
            setproctitle(title)

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        self._post(StopRequested(f"got {signal.Signals(number).name}"))

    def _on_restart_signal(self, _number: int, _frame: object) -> None:
        self._queue.put(RestartAsked())

    def _on_hangup(self, _number: int, _frame: object) -> None:
        self._queue.put(ReloadRequested())


def _crash(failure: threading.ExceptHookArgs) -> None:
    """Ends the process, which is started anew: a thread has failed in a way that nobody foresaw."""
    logger.critical(
        "%s has failed",
        failure.thread.name if failure.thread else "a thread",
        exc_info=(failure.exc_type, failure.exc_value, failure.exc_traceback),  # type: ignore[arg-type]
    )
    logging.shutdown()
    os._exit(EX_SOFTWARE)
