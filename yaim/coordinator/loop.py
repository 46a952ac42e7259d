"""The unprivileged process: the core in the middle, the adapters around it, one queue.

Carries events to the core and actions to the adapters; decides nothing.
"""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from setproctitle import setproctitle

from yaim.checks.run import CheckRunner
from yaim.config.config import OWN_KEYS, Config
from yaim.config.file import ConfigError
from yaim.coordinator.event_queue import EventQueue
from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    End,
    GrantLease,
    KeepLease,
    Level,
    LookForAddresses,
    Outcome,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
    RenewAddresses,
    Report,
    RevokeLease,
    WithdrawNode,
)
from yaim.core.events import (
    ClockJumped,
    ClusterChanged,
    Event,
    RestartRequested,
    SettingsChanged,
    StopRequested,
)
from yaim.core.model import NodeName
from yaim.core.state.state import State
from yaim.core.step import step
from yaim.dcs.etcd.store import EtcdStore
from yaim.host.address_look import AddressLook
from yaim.host.boottime import boottime
from yaim.host.clock_jumps import Clocks, watch_clock
from yaim.host.interfaces import shown_name, why_missing
from yaim.host.kernel_watch import KernelWatch
from yaim.host.logs import set_level
from yaim.host.sd_notify import ServiceManager, health_word
from yaim.managers.helper.client import HelperAction, HelperClient
from yaim.wiring import (
    check_plans_of,
    etcd_access_of,
    etcd_client_of,
    keys_of,
    lost_by_restart,
    settings_of,
)

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
    """SIGHUP."""


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """SIGUSR1."""


def run(config: Config, load: Callable[[], Config], load_next: Callable[[], Config]) -> int:
    """Take part in the cluster until SIGTERM or SIGINT, or until SIGUSR1, which leaves everything
    to the next process, if that one can find it; the exit status. `load` reads the configuration
    anew, for SIGHUP; `load_next` as the next process will."""
    return Coordinator(config, load, load_next).run()


class Coordinator:
    def __init__(
        self, config: Config, load: Callable[[], Config], load_next: Callable[[], Config]
    ) -> None:
        self._config = config
        self._load = load
        self._load_next = load_next
        self._queue = EventQueue[ReloadRequested | RestartAsked]()
        self._state = State(settings_of(config))
        self._end: End | None = None
        self._title = ""
        self._manager = ServiceManager()
        threading.excepthook = _crash
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGUSR1, self._on_restart_signal)
        # The supervisor has held them back until now.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._clocks = Clocks()
        watch_clock(self._post)
        KernelWatch(self._post)
        self._address_look = AddressLook(self._post)
        keys = keys_of(config)
        self._store = EtcdStore(etcd_client_of(config), keys, NodeName(config.nodename), self._post)
        self._helper = HelperClient(
            config.helper_socket, keys.prefix, config.nodename, config.label, self._post
        )
        self._checks = CheckRunner(check_plans_of(config), self._post)

    def run(self) -> int:
        wake_at: float | None = boottime()
        while self._end is None:
            wake_at = self._step(self._wait(wake_at))
            self._manager.tell(self._state)
        return self._exit_status(self._end)

    def _post(self, *events: Event) -> None:
        """For the adapters' threads: events that have happened together."""
        if len(events) == 1 and isinstance(events[0], ClusterChanged):
            self._queue.put_view(events[0])
        else:
            self._queue.put(events)

    def _wait(self, until: float | None) -> list[Event]:
        """All that has happened; none if nothing has until then."""
        until = min(math.inf if until is None else until, self._manager.next_at())
        timeout_s = None if until == math.inf else max(0.0, until - boottime())
        events: list[Event] = []
        for each in self._queue.take(timeout_s):
            if isinstance(each, ReloadRequested):
                self._reload()
                events.append(SettingsChanged(settings_of(self._config)))
            elif isinstance(each, RestartAsked):
                events.append(self._restart())
            else:
                events += each
        return events

    def _step(self, events: list[Event]) -> float | None:
        jump_s = self._clocks.jump_s()
        if jump_s:
            events = [ClockJumped(jump_s), *events]
        for event in events:
            logger.debug("%s", event)
        taken = step(self._state, events, boottime())
        self._state = taken.state
        self._helper.submit([each for each in taken.actions if isinstance(each, HelperAction)])
        for action in taken.actions:
            self._perform(action)
        self._show()
        return taken.wake_at

    def _perform(self, action: Action) -> None:
        match action:
            case Report(level, text):
                logger.log(_LOG_LEVELS[level], "%s", text)
                return
            case AddAddress() | RemoveAddress() | RenewAddresses():
                pass  # went to the helper already, all of this step together
            case LookForAddresses():
                self._address_look.start()
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
            ):
                self._store.submit(action)
            case _:
                assert_never(action)
        logger.debug("%s", action)

    def _reload(self) -> None:
        """Apply what has changed in the configuration, or say why not."""
        try:
            new = self._load()
        except ConfigError as error:
            for issue in error.issues:
                logger.error("%s", issue)
            logger.error("the configuration is wrong: the old one stays in force")
            return
        kept = {}
        for name, key in OWN_KEYS.items():
            attribute = name.replace("-", "_")
            before, after = getattr(self._config, attribute), getattr(new, attribute)
            if before == after:
                continue
            if name == "interface" and (why_not := self._why_not_on(new.interface)):
                logger.error("interface: %s: %s stays in force", why_not, self._config.interface)
                kept[attribute] = before
                continue
            if name == "label":
                logger.info("label has changed: it counts for what is added from now on")
            elif key.is_reloaded:
                logger.info("%s has changed", name)
            else:
                logger.warning("%s has changed: stop and start yaim to apply it", name)
                kept[attribute] = before
        for check in new.checks:
            if check not in self._config.checks:
                logger.info("check %s has changed or is new", check.name)
        for name in sorted(_names(self._config) - _names(new)):
            logger.info("check %s is no more", name)
        self._config = replace(new, **kept)
        set_level(self._config.log_level)
        self._helper.label = self._config.label
        self._checks.use(check_plans_of(self._config))
        self._store.use(etcd_access_of(self._config))
        logger.info("the configuration is reloaded")

    def _why_not_on(self, interface: str) -> str:
        """Nodes that were told the same mistake in the same instant would hand their addresses to
        each other, and none would take them."""
        helper = self._state.host.helper
        if why_not := why_missing(interface):
            return why_not
        if helper is not None and shown_name(interface) not in helper.networks:
            return f"the helper's allowlist has no {shown_name(interface)}"
        return ""

    def _restart(self) -> Event:
        """Leave everything to the next process; but hand it over to other nodes where that one
        would not find it, or not start: they take it at once, and not when the lease has ended."""
        try:
            lost = lost_by_restart(self._config, self._load_next())
        except ConfigError as error:
            for issue in error.issues:
                logger.error("%s", issue)
            return StopRequested("got SIGUSR1, and the next process cannot use its configuration")
        if lost:
            why = f"{' and '.join(lost)} changed, so the next process finds nothing of this one's"
            return StopRequested(f"got SIGUSR1; {why}: hands everything over first")
        return RestartRequested("got SIGUSR1")

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

    def _show(self) -> None:
        """Role and state, for ps(1): `yaim: coordinator db1 healthy 2/6`."""
        state = self._state
        word = health_word(state)
        pool = len(state.cluster.view.pool) if state.cluster.view is not None else 0
        title = f"yaim: coordinator {state.settings.node} {word} {len(state.held)}/{pool}"
        if title != self._title:
            self._title = title
            setproctitle(title)

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        self._post(StopRequested(f"got {signal.Signals(number).name}"))

    def _on_restart_signal(self, _number: int, _frame: object) -> None:
        self._queue.put(RestartAsked())

    def _on_hangup(self, _number: int, _frame: object) -> None:
        self._queue.put(ReloadRequested())


def _names(config: Config) -> set[str]:
    return {check.name for check in config.checks}


def _crash(failure: threading.ExceptHookArgs) -> None:
    """A thread has failed in a way that nobody foresaw: end, and be started anew."""
    logger.critical(
        "%s has failed",
        failure.thread.name if failure.thread else "a thread",
        exc_info=(failure.exc_type, failure.exc_value, failure.exc_traceback),  # type: ignore[arg-type]
    )
    logging.shutdown()
    os._exit(EX_SOFTWARE)
