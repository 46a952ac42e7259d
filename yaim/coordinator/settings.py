"""The core's settings, as a configuration says them: seconds in place of milliseconds."""

from yaim import __version__
from yaim.checks.run import SLACK_S
from yaim.config.config import Config
from yaim.core.model import NodeName
from yaim.core.settings import CheckSettings, Settings


def settings_of(config: Config) -> Settings:
    return Settings(
        node=NodeName(config.nodename),
        interface=config.interface,
        prefix_length_4=config.netmask,
        prefix_length_6=config.netmask6,
        ttl_s=config.ttl_s,
        interval_s=config.interval / 1000,
        version=__version__,
        keeps_when_all_unhealthy=config.when_all_unhealthy == "keep",
        checks=tuple(
            CheckSettings(each.name, each.rise, each.fall, each.timeout / 1000 + SLACK_S)
            for each in config.checks
        ),
        is_any_enough=config.healthy_when == "any",
        flap_max_wait_s=config.flap_max_wait / 1000,
        resets_connections=config.connections == "reset",
        rebalance=config.rebalance,
        rebalance_delay_s=config.rebalance_delay / 1000,
    )
