"""The parts of yaim, as a configuration wants them."""

from yaim import __version__
from yaim.checks.kinds import KINDS
from yaim.checks.run import SLACK_S, CheckPlan
from yaim.config.config import Config
from yaim.core.model import NodeName
from yaim.core.settings import CheckSettings, Settings
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys

ETCD_TIMEOUT_S = (1.0, 5.0)
"""Bounds on the time-out of a call to etcd, which is a third of the TTL."""

CLUSTER_MEMORY_TTLS = 1.5
"""For how many TTLs a silent etcd cluster is taken to be still there: until no node has an address
under a lease of it, also one whose last keepalive came after ours."""


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
    )


def etcd_access_of(config: Config) -> EtcdAccess:
    return EtcdAccess(
        endpoints=config.dcs_endpoints,
        user=config.etcd_user,
        password=None if config.etcd_password_file is not None else config.etcd_password,
        password_file=config.etcd_password_file,
        ca_file=config.etcd_ca_file,
        cert_file=config.etcd_cert_file,
        key_file=config.etcd_key_file,
    )


def etcd_client_of(config: Config) -> EtcdClient:
    least, most = ETCD_TIMEOUT_S
    return EtcdClient(
        etcd_access_of(config),
        min(max(config.ttl_s / 3, least), most),
        CLUSTER_MEMORY_TTLS * config.ttl_s,
    )


def lost_by_restart(before: Config, after: Config) -> list[str]:
    """The keys whose change makes the next process another node, another cluster's, or another
    helper's: it would find nothing of what this one leaves to it."""
    lost = []
    if keys_of(before) != keys_of(after):
        lost += [
            name
            for name in ("dcs-namespace", "dcs-clustername")
            if getattr(before, name.replace("-", "_")) != getattr(after, name.replace("-", "_"))
        ]
    if before.nodename != after.nodename:
        lost.append("nodename")
    if before.helper_socket != after.helper_socket:
        lost.append("helper-socket")
    return lost


def keys_of(config: Config) -> Keys:
    return Keys.of(config.dcs_namespace, config.dcs_clustername)


def check_plans_of(config: Config) -> tuple[CheckPlan, ...]:
    return tuple(
        CheckPlan(
            name=check.name,
            kind=KINDS[check.kind],
            settings=check.settings,
            interval_s=check.interval / 1000,
            timeout_s=check.timeout / 1000,
            retry_num=check.retry_num,
            retry_after_s=check.retry_after / 1000,
        )
        for check in config.checks
    )
