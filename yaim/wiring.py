"""Puts yaim's parts together as a configuration wants them: the only place that chooses parts.

Which kinds there are the registries tell: yaim/checks/kinds.py, yaim/dcs/kinds.py and
yaim/managers/kinds.py.
"""

import os
from collections.abc import Callable

from yaim.checks.kinds import KINDS
from yaim.checks.now import CheckTrigger, path_of
from yaim.checks.run import CheckPlan, CheckRunner
from yaim.config.config import Config
from yaim.config_keys import keys_in
from yaim.coordinator.file_watch import FileWatch
from yaim.coordinator.parts import Parts
from yaim.core.model import NodeName
from yaim.dcs.kinds import STORES
from yaim.dcs.store import Cluster, StoreParts
from yaim.host.address_look import AddressLook
from yaim.host.clock_jumps import watch_clock
from yaim.host.kernel_watch import KernelWatch
from yaim.managers.kinds import MANAGERS, Node


def start_parts(
    config: Config, post: Callable[..., None], file_watch: FileWatch | None = None
) -> Parts:
    """Starts all that happens around the core of a node; `post` takes events."""
    watch_clock(post)
    KernelWatch(post)
    address_look = AddressLook(post)
    store_parts = store_parts_of(config)
    store = store_parts.start(NodeName(config.nodename), post)
    manager = MANAGERS[config.manager_type].start(
        config.manager, Node(store_parts.prefix, config.nodename, config.label), post
    )
    checks = CheckRunner(check_plans_of(config), post)
    if (path := path_of(config.check_trigger, os.environ)) is not None:
        CheckTrigger(path, checks.make_now)

    def apply(new: Config) -> None:
        manager.label = new.label
        checks.use(check_plans_of(new))
        store_parts_of(new).apply_to(store)
        if file_watch is not None:
            file_watch.note_running(new)

    if file_watch is not None:
        file_watch.start(post)
    return Parts(store.submit, manager.submit, address_look.start, apply)


def store_parts_of(config: Config) -> StoreParts:
    cluster = Cluster(config.dcs_namespace, config.dcs_clustername, config.ttl_s)
    return STORES[config.dcs_type].parts(config.store, cluster)


def lost_by_restart(before: Config, after: Config) -> list[str]:
    """The keys whose change makes the next process another node, another cluster's, or one of
    another store or manager: it would find nothing of what this one leaves to it."""
    names = ["dcs-type"]
    if store_parts_of(before).prefix != store_parts_of(after).prefix:
        names += ["dcs-namespace", "dcs-clustername"]
    names += ["nodename", "manager-type"]
    names += [name for name, key in keys_in(type(before.manager)).items() if not key.is_reloaded]
    return [name for name in names if before.value(name) != after.value(name)]


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
