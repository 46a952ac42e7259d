"""What can go wrong in a lab, when it does, and how it is done.

When and to which node follows from a seed alone. What cannot be done at that moment, because the
process to be killed is just being started again, say, is skipped.
"""

import json
import os
import random
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from time import monotonic

from yaim_helper.neighbours.announce import frames

from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.namespaces import LabError
from yaim.lab.network import LAN, MANAGEMENT, Network
from yaim.lab.node import BOTH, LabNode

EVERY_S = (1.0, 4.0)
"""The least and the most time from one fault to the next."""
MOST_NODES = 3
"""There is something wrong with so many nodes at a time, but for what is wrong with all."""
RECOVERY_S = 3.0
"""How long after a fault its node has no other one, as planned."""
BACK_WITHIN_S = 30.0

ROLES = ("supervisor", "coordinator", "helper")
Steps = Generator[float, None, None]
"""A fault as it happens: yields how many seconds to wait before going on."""


class Target(Enum):
    NODE = auto()
    SERVICE = auto()
    """A node's; not while all fail."""
    ALL_SERVICES = auto()
    ETCD = auto()


class Disturbs(Enum):
    """Whether what it happens to cannot be expected to do its work."""

    NEVER = auto()
    AT_ITS_START = auto()
    WHILE_IT_LASTS = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    """The time from the beginning."""
    kind: "Kind"
    node: str
    """Empty: it is not one node's."""
    for_s: float
    seed: int
    """The seed for what else is left to chance."""


class Stage:
    """Where a fault happens."""

    def __init__(self, lab: Lab, fault: Fault) -> None:
        self.lab = lab
        self.for_s = fault.for_s
        self.chance = random.Random(fault.seed)
        self.node_name = fault.node
        self.address: Address | None = None
        """Set by a fault that concerns only this one."""

    @property
    def node(self) -> LabNode:
        return self.lab.nodes[self.node_name]


@dataclass(frozen=True, slots=True)
class Kind:
    text: str
    act: Callable[[Stage], Steps]
    """Raises LabError at its first step if it cannot happen now."""
    lasts_s: tuple[float, float] = (0.0, 0.0)
    """The least and the most that it lasts."""
    target: Target = Target.NODE
    disturbs: Disturbs = Disturbs.WHILE_IT_LASTS
    times: int = 2
    """How often it comes while all others do, too."""


def resources(kind: Kind, node: str) -> frozenset[str]:
    """What a fault has for itself as long as it lasts."""
    return {
        Target.NODE: frozenset({node}),
        Target.SERVICE: frozenset({node, "services"}),
        Target.ALL_SERVICES: frozenset({"services"}),
        Target.ETCD: frozenset({"etcd"}),
    }[kind.target]


def plan(seed: int, minutes: float, nodes: Sequence[str]) -> list[Fault]:
    """The same seed and nodes: the same faults, for longer or shorter."""
    chance = random.Random(seed)
    busy_until: dict[str, float] = {}
    deck: list[Kind] = []
    faults: list[Fault] = []
    at_s = 0.0
    while True:
        at_s += chance.uniform(*EVERY_S)
        if at_s > minutes * 60:
            return faults
        if not deck:
            deck = [kind for kind in KINDS for _ in range(kind.times)]
            chance.shuffle(deck)
        busy = {each for each, until in busy_until.items() if until > at_s}
        for kind in deck:
            node = _pick_node(kind, busy, nodes, chance)
            if node is not None:
                break
        else:
            continue
        deck.remove(kind)
        for_s = chance.uniform(*kind.lasts_s)
        for each in resources(kind, node):
            busy_until[each] = at_s + for_s + RECOVERY_S
        faults.append(Fault(at_s, kind, node, for_s, chance.getrandbits(32)))


def _pick_node(
    kind: Kind, busy: set[str], nodes: Sequence[str], chance: random.Random
) -> str | None:
    """Returns one of the nodes to which it can happen now, or no name for what concerns no single
    node; None if it cannot happen now."""
    if kind.target in (Target.ALL_SERVICES, Target.ETCD):
        return None if busy & resources(kind, "") else ""
    free = [node for node in nodes if not busy & resources(kind, node)]
    if not free or len(busy.intersection(nodes)) >= MOST_NODES:
        return None
    return chance.choice(free)


# --- processes ---------------------------------------------------------------------------------


def _until(is_so: Callable[[], bool]) -> Steps:
    give_up_at = monotonic() + BACK_WITHIN_S
    while not is_so() and monotonic() < give_up_at:
        yield 0.1


def _until_running(node: LabNode, roles: Sequence[str]) -> Steps:
    yield from _until(lambda: all(node.process(role) is not None for role in roles))


def _kill(stage: Stage, roles: Sequence[str]) -> Steps:
    stage.node.signal(signal.SIGKILL, *roles)
    yield 0.2
    yield from _until_running(stage.node, roles)


def _freeze(stage: Stage, roles: Sequence[str]) -> Steps:
    pids = stage.node.processes(*roles)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield stage.for_s
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _kill_all(stage: Stage) -> Steps:
    stage.node.supervisor()
    stage.node.kill()
    yield stage.for_s
    stage.node.start()
    yield from _until_running(stage.node, ROLES)


def _power_off(stage: Stage) -> Steps:
    stage.node.supervisor()
    stage.node.cut()
    stage.node.kill()
    yield stage.for_s
    stage.node.connect()
    stage.node.start()
    yield from _until_running(stage.node, ROLES)


def _restart(stage: Stage) -> Steps:
    os.kill(stage.node.supervisor(), signal.SIGTERM)
    yield from _until(lambda: not stage.node.is_running)
    yield stage.for_s
    stage.node.kill()
    stage.node.start()
    yield from _until_running(stage.node, ROLES)


def _reload(stage: Stage) -> Steps:
    """Reloads the configuration, with another label for the addresses that come."""
    keys = stage.node.read_config()
    label = "chaos" if keys.get("label") != "chaos" else "yaim"
    stage.node.write_config({**keys, "label": label})
    stage.node.signal(signal.SIGHUP, "supervisor")
    yield stage.for_s


# --- services ----------------------------------------------------------------------------------


def _flap(stage: Stage) -> Steps:
    end = monotonic() + stage.for_s
    while monotonic() < end:
        stage.node.break_service()
        yield stage.chance.uniform(0.2, 2.0)
        stage.node.mend_service()
        yield stage.chance.uniform(0.2, 2.0)


def _fail_everywhere(stage: Stage) -> Steps:
    for node in stage.lab.nodes.values():
        node.break_service()
    yield stage.for_s
    for node in stage.lab.nodes.values():
        node.mend_service()


# --- networks ----------------------------------------------------------------------------------


def _cut(stage: Stage, networks: Sequence[Network]) -> Steps:
    stage.node.cut(networks)
    yield stage.for_s
    stage.node.connect(networks)


def _pull_cable(stage: Stage) -> Steps:
    stage.node.set_carrier("down")
    yield stage.for_s
    stage.node.set_carrier("up")


def _set_down(stage: Stage) -> Steps:
    """The kernel drops IPv6 addresses then, the host's own, too."""
    run = stage.node.namespace.run
    run("ip", "link", "set", LAN.interface, "down")
    yield stage.for_s
    run("ip", "link", "set", LAN.interface, "up")
    stage.node.add_own_addresses()


# --- addresses ---------------------------------------------------------------------------------


def _pick_held(stage: Stage, *, by_it: bool) -> Address:
    """An address that is on this node, or on another one."""
    held = sorted(
        (a for a, names in stage.lab.holders().items() if (stage.node_name in names) is by_it),
        key=lambda address: (address.version, int(address)),
    )
    if not held:
        raise LabError("no such address is held")
    return stage.chance.choice(held)


def _on_eth0(address: Address) -> tuple[str, ...]:
    return (f"{address}/{address.max_prefixlen}", "dev", LAN.interface)


def _delete_address(stage: Stage) -> Steps:
    stage.address = _pick_held(stage, by_it=True)
    stage.node.namespace.run("ip", "address", "del", *_on_eth0(stage.address))
    yield stage.for_s


def _flush(stage: Stage) -> Steps:
    stage.node.namespace.run("ip", "address", "flush", "dev", LAN.interface)
    stage.node.add_own_addresses()
    yield stage.for_s


def _add_elsewhere(stage: Stage) -> Steps:
    """What another node holds, by hand and for good; and the neighbours are told."""
    address = _pick_held(stage, by_it=False)
    namespace = stage.node.namespace
    nodad = ("nodad",) if address.version == 6 else ()
    namespace.run("ip", "address", "add", *_on_eth0(address), *nodad)
    stage.address = address
    shown = json.loads(namespace.run("ip", "-json", "link", "show", LAN.interface))
    mac = bytes.fromhex(shown[0]["address"].replace(":", ""))
    with namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        for frame in frames(mac, address):
            raw.sendto(frame, (LAN.interface, 0))
    yield stage.for_s
    with suppress(LabError):
        namespace.run("ip", "address", "del", *_on_eth0(address))


# --- etcd --------------------------------------------------------------------------------------


def _kill_member(stage: Stage) -> Steps:
    member = stage.chance.choice(stage.lab.members)
    member.kill()
    yield stage.for_s
    member.start()


def _freeze_etcd(stage: Stage) -> Steps:
    for member in stage.lab.members:
        member.freeze()
    yield stage.for_s
    for member in stage.lab.members:
        member.thaw()


_SOME_S = (2.0, 12.0)
_A_MOMENT_S = (1.0, 1.0)
_BOTH_ROLES = ("coordinator", "helper")

KINDS = (
    Kind("coordinator killed with -9", partial(_kill, roles=["coordinator"])),
    Kind("helper killed with -9", partial(_kill, roles=["helper"])),
    Kind("coordinator and helper killed with -9", partial(_kill, roles=_BOTH_ROLES)),
    Kind("coordinator frozen", partial(_freeze, roles=["coordinator"]), _SOME_S),
    Kind("helper frozen", partial(_freeze, roles=["helper"]), _SOME_S),
    Kind("coordinator and helper frozen", partial(_freeze, roles=_BOTH_ROLES), _SOME_S),
    Kind("all of a node killed with -9", _kill_all, _SOME_S),
    Kind("all of a node frozen", partial(_freeze, roles=ROLES), _SOME_S),
    Kind("power off", _power_off, _SOME_S),
    Kind("restart of yaim", _restart, (0.0, 3.0)),
    Kind("SIGHUP", _reload, _A_MOMENT_S, disturbs=Disturbs.NEVER),
    Kind("service flaps", _flap, (3.0, 10.0), Target.SERVICE),
    Kind("service fails on all nodes", _fail_everywhere, (3.0, 8.0), Target.ALL_SERVICES, times=1),
    Kind("cut off from etcd", partial(_cut, networks=[MANAGEMENT]), _SOME_S),
    Kind("cut off from the clients", partial(_cut, networks=[LAN]), _SOME_S),
    Kind("cut off from both", partial(_cut, networks=BOTH), _SOME_S),
    Kind("interface down", _set_down, (2.0, 8.0)),
    Kind("no carrier", _pull_cable, (2.0, 8.0)),
    Kind("address deleted by hand", _delete_address, _A_MOMENT_S, disturbs=Disturbs.NEVER),
    Kind("interface flushed by hand", _flush, _A_MOMENT_S, disturbs=Disturbs.NEVER),
    Kind("address added elsewhere by hand", _add_elsewhere, (3.0, 8.0), disturbs=Disturbs.NEVER),
    Kind(
        "etcd member killed with -9",
        _kill_member,
        (3.0, 10.0),
        Target.ETCD,
        Disturbs.AT_ITS_START,
    ),
    Kind("all of etcd frozen", _freeze_etcd, (15.0, 15.0), Target.ETCD, times=1),
)
