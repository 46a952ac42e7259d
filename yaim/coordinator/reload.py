"""What SIGHUP and SIGUSR1 make of a configuration that was read anew. Changes nothing itself."""

import logging
from collections.abc import Callable

from yaim.config.config import Config
from yaim.config.file import ConfigError
from yaim.core.events import Event, RestartRequested, StopRequested

logger = logging.getLogger(__name__)


def reloaded(
    before: Config, load: Callable[[], Config], why_not_on: Callable[[str], str]
) -> Config | None:
    """The configuration that is in force from now on; None if the new one is wrong. Logs what has
    changed, and why something has not.

    `why_not_on` tells why addresses cannot be put on an interface; empty if they can. An interface
    on which they cannot is not taken over: nodes that were told the same mistake in the same
    instant would hand their addresses to each other, and none would take them."""
    try:
        new = load()
    except ConfigError as error:
        _log_issues(error)
        logger.error("the configuration is wrong: the old one stays in force")
        return None
    kept = []
    for name, key in new.own_keys().items():
        if before.value(name) == new.value(name):
            continue
        if name == "interface" and (why_not := why_not_on(new.interface)):
            logger.error("interface: %s: %s stays in force", why_not, before.interface)
            kept.append(name)
            continue
        if name == "label":
            logger.info("label has changed: it counts for what is added from now on")
        elif key.is_reloaded:
            logger.info("%s has changed", name)
        else:
            logger.warning("%s has changed: %s yaim to apply it", name, key.applied.value)
            kept.append(name)
    for check in new.checks:
        if check not in before.checks:
            logger.info("check %s has changed or is new", check.name)
    for name in sorted(_check_names(before) - _check_names(new)):
        logger.info("check %s is no more", name)
    return new.keeping(kept, before)


def restart_asked(lost_next: Callable[[], list[str]]) -> Event:
    """What SIGUSR1 asks of the core: to leave everything to the next process; but to hand it over
    to other nodes where that process would not find it, or not start. They take it at once then,
    and not when the lease has ended.

    `lost_next` tells the keys whose change makes the next process find nothing; it raises
    ConfigError if that process cannot use its configuration."""
    try:
        lost = lost_next()
    except ConfigError as error:
        _log_issues(error)
        return StopRequested("got SIGUSR1, and the next process cannot use its configuration")
    if lost:
        why = f"{' and '.join(lost)} changed, so the next process finds nothing of this one's"
        return StopRequested(f"got SIGUSR1; {why}: hands everything over first")
    return RestartRequested("got SIGUSR1")


def _log_issues(error: ConfigError) -> None:
    for issue in error.issues:
        logger.error("%s", issue)


def _check_names(config: Config) -> set[str]:
    return {check.name for check in config.checks}
