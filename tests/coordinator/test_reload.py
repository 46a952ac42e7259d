"""What SIGHUP and SIGUSR1 make of a configuration that was read anew."""

import logging
from collections.abc import Callable

import pytest

from yaim.config.config import Config
from yaim.config.file import ConfigError, Issue
from yaim.config.load import load
from yaim.coordinator.reload import reloaded, restart_asked
from yaim.coordinator.settings import settings_of
from yaim.core.events import Event, RestartRequested, StopRequested

pytestmark = pytest.mark.quick

BASE = {
    "dcs-clustername": "c",
    "interface": "lo",
    "checker-type": "tcp",
    "tcp-address": "127.0.0.1:5432",
}


def config(**more: str) -> Config:
    return load({**BASE, **{name.replace("_", "-"): text for name, text in more.items()}}, {}, None)


def gives(new: Config) -> Callable[[], Config]:
    return lambda: new


def fails() -> Config:
    raise ConfigError([Issue("yaim.yml:7", "ttl", "'x'", "a whole number")])


def anywhere(_: str) -> str:
    """Addresses can be put on every interface."""
    return ""


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in caplog.records]


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "yaim.coordinator.reload")


def test_whether_connections_are_reset_is_applied() -> None:
    found = reloaded(config(), gives(config(connections="leave")), anywhere)
    assert found is not None
    assert settings_of(config()).resets_connections
    assert not settings_of(found).resets_connections


def test_what_can_be_applied_is_and_the_rest_stays(caplog: pytest.LogCaptureFixture) -> None:
    new = config(
        interval="500", ttl="9000", label="x", helper_socket="/x", dcs_endpoints="http://a:1"
    )
    found = reloaded(config(), gives(new), anywhere)
    assert found is not None
    assert (found.interval, found.ttl, found.label) == (500, 5000, "x")
    assert (found.store, found.manager) == (new.store, config().manager)
    assert told(caplog) == [
        ("INFO", "interval has changed"),
        ("INFO", "timeout has changed"),  # its default is the ttl
        ("WARNING", "ttl has changed: stop and start yaim to apply it"),
        ("INFO", "dcs-endpoints has changed"),
        ("INFO", "label has changed: it counts for what is added from now on"),
        ("WARNING", "helper-socket has changed: restart yaim to apply it"),
        ("INFO", "check tcp has changed or is new"),
    ]


def test_where_nothing_has_changed_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert reloaded(config(), gives(config()), anywhere) == config()
    assert told(caplog) == []


def test_a_wrong_configuration_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert reloaded(config(), fails, anywhere) is None
    assert told(caplog) == [
        ("ERROR", "yaim.yml:7: ttl: got 'x', expected a whole number"),
        ("ERROR", "the configuration is wrong: the old one stays in force"),
    ]


def test_an_interface_on_which_no_address_can_be_is_not_taken_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = reloaded(config(), gives(config(interface="eth9")), lambda name: f"there is no {name}")
    assert found is not None and found.interface == "lo"
    assert told(caplog) == [("ERROR", "interface: there is no eth9: lo stays in force")]


def test_checks_that_are_new_or_no_more_are_told(caplog: pytest.LogCaptureFixture) -> None:
    flags = {name: text for name, text in BASE.items() if name != "tcp-address"}
    new = load({**flags, "checker-type": "patroni"}, {}, None)
    assert reloaded(config(), gives(new), anywhere) == new
    assert told(caplog) == [
        ("INFO", "checker-type has changed"),
        ("INFO", "check patroni has changed or is new"),
        ("INFO", "check tcp is no more"),
    ]


def lost(*keys: str) -> Callable[[], list[str]]:
    return lambda: list(keys)


def fails_to_load() -> list[str]:
    fails()
    return []


@pytest.mark.parametrize(
    ("lost_next", "asked"),
    [
        (lost(), RestartRequested("got SIGUSR1")),
        (
            lost("nodename", "helper-socket"),
            StopRequested(
                "got SIGUSR1; nodename and helper-socket changed, so the next process finds nothing"
                " of this one's: hands everything over first"
            ),
        ),
        (
            fails_to_load,
            StopRequested("got SIGUSR1, and the next process cannot use its configuration"),
        ),
    ],
)
def test_a_restart_leaves_everything_to_the_next_process_if_that_one_finds_it(
    lost_next: Callable[[], list[str]], asked: Event
) -> None:
    assert restart_asked(lost_next) == asked
