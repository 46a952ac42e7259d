"""The lab: two networks, a private etcd, nodes and a client; and what can be done to them.

The LAN has the pool's addresses and the client on it, the management network etcd; a node is on
both. Their bridges are in this process's own network namespace, which must be a private one; etcd's
members have their own, and a network among themselves.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import IO

import yaml

from yaim.core.model import Address, ClusterView
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.host.ownership import what_others_can_change
from yaim.lab import host, service
from yaim.lab.etcd import EtcdCluster, EtcdMember, EtcdPlan
from yaim.lab.namespaces import LabError, Namespace, is_in_private_network, run
from yaim.lab.network import LAN, MANAGEMENT, PEERS, Cables, Network
from yaim.lab.record import Record
from yaim.lab.wait import wait_until

USER = "nobody"
"""Whom the coordinators run as."""
CLIENT_ADDRESS = "192.0.2.253"
FIRST_NODE_ADDRESS = ip_address("192.0.2.201")
FIRST_MANAGEMENT_ADDRESS = ip_address("198.51.100.201")
ADMIN_ADDRESS = "198.51.100.100"
"""The lab's own on the management network."""
FIRST_POOL_ADDRESS = ip_address("192.0.2.11")
NETWORKS = ("192.0.2.0/24", "2001:db8::/64")
NAMESPACE, CLUSTER = "/service/", "yaim"
_PREFIX = "yaim-lab-"
"""Of the lab's directory, where temporary files are."""
HELPER = f"{sys.executable} -I -m yaim_helper --config"
"""How its command line begins: it sets no title."""
BOTH = (LAN, MANAGEMENT)
"""A node's networks."""
START_WITHIN_S = 60.0
"""Until a node's programs say something: 11 s were seen on two processors with a load of 21."""


def pool_of(count: int) -> tuple[Address, ...]:
    """The lab's first so many addresses."""
    return tuple(FIRST_POOL_ADDRESS + number for number in range(count))


@dataclass(frozen=True, slots=True)
class LabPlan:
    nodes: int = 3
    pool: tuple[Address, ...] = pool_of(6)
    others: tuple[Address, ...] = ()
    """Addresses that may join later; pinged from the beginning."""
    interval_ms: int = 1000
    ttl_ms: int = 3000
    ping_every_ms: int = 10
    etcd: EtcdPlan = EtcdPlan()
    settings: dict[str, object] = field(default_factory=dict)
    """Further keys for every node's yaim.yml."""


class LabNode:
    """A "host" with a service, a helper, a coordinator and a supervisor."""

    def __init__(self, number: int, directory: Path, plan: LabPlan, etcd: EtcdCluster) -> None:
        self.name = f"n{number}"
        self.directory = directory / self.name
        self.namespace = Namespace.new()
        self._own_addresses = (
            f"{FIRST_NODE_ADDRESS + number - 1}/24",
            f"2001:db8::c{number:02x}/64",
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._said_before = 0
        """How much of its log is of earlier starts."""
        self.directory.mkdir(mode=0o755)
        self._etcd = etcd
        self._write_files(plan)
        self._cables = Cables(self.namespace, self.name, BOTH)
        self.add_own_addresses()
        management = f"{FIRST_MANAGEMENT_ADDRESS + number - 1}/24"
        self.namespace.run("ip", "addr", "add", management, "dev", MANAGEMENT.interface)

    def _write_files(self, plan: LabPlan) -> None:
        self.write_config(
            {
                "interval": plan.interval_ms,
                "ttl": plan.ttl_ms,
                "dcs-namespace": NAMESPACE,
                "dcs-clustername": CLUSTER,
                **self.equip(),
                "interface": LAN.interface,
                "checker-type": "http",
                "http-url": f"http://127.0.0.1:{service.PORT}/",
                **plan.settings,
            }
        )
        helper = {
            "users": [USER],
            "audit-log": str(self.directory / "audit"),
            "max-addresses": max(64, len(plan.pool) + len(plan.others)),
            "rules": [{"interface": LAN.interface, "networks": list(NETWORKS)}],
        }
        (self.directory / "helper.yml").write_text(yaml.safe_dump(helper))

    def equip(self) -> dict[str, object]:
        """Give it the files it needs for etcd, as they are to be now; the keys that name them."""
        return self._etcd.equip(self.directory, self.name, USER)

    def write_config(self, keys: dict[str, object]) -> None:
        """Its yaim.yml; SIGHUP or a new start makes it count."""
        (self.directory / "yaim.yml").write_text(yaml.safe_dump(keys))

    def read_config(self) -> dict[str, object]:
        keys: dict[str, object] = yaml.safe_load((self.directory / "yaim.yml").read_text())
        return keys

    # --- its processes -----------------------------------------------------------------------

    def start(self, *around: str) -> None:
        """`around`: a command in front of it, as env(1)."""
        self._log = (self.directory / "log").open("ab")
        self._said_before = self._log.tell()
        self._process = self.namespace.start(
            (
                *around,
                "unshare",
                "--pid",
                "--mount",
                "--uts",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
                sys.executable,
                "-P",
                "-m",
                "yaim.lab.host",
                self.name,
                str(self.directory),
                USER,
            ),
            self._log,
        )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def is_starting(self) -> bool:
        """Whether its programs have not come so far yet that they say anything."""
        return self.is_running and (self.directory / "log").stat().st_size == self._said_before

    def supervisor(self) -> int:
        """The process id of its first process."""
        children = _children(self._process.pid) if self._process is not None else []
        if not children:
            raise LabError(f"{self.name} is not running")
        return children[0]

    def process(self, role: str) -> int | None:
        """The process id of its `coordinator`, `helper` or `supervisor`."""
        start = HELPER if role == "helper" else f"yaim: {role}"
        return next(iter(self.processes_like(start)), None)

    def processes_like(self, start: str) -> list[int]:
        """The process ids of those of its processes whose command line begins like this."""
        if not self.is_running or self._process is None:
            return []
        found = _descendants(self._process.pid)
        return [pid for pid in found if _command_line(pid).startswith(start)]

    def processes(self, *roles: str) -> list[int]:
        """The process ids of some of its processes. Raises LabError if one is not running."""
        found = []
        for role in roles:
            pid = self.process(role)
            if pid is None:
                raise LabError(f"{self.name} has no {role} running")
            found.append(pid)
        return found

    def signal(self, number: signal.Signals, *roles: str) -> None:
        """Send a signal to some of its processes; to none, if one of them is not running."""
        for pid in self.processes(*roles):
            os.kill(pid, number)

    def reload(self) -> None:
        self.signal(signal.SIGHUP, "supervisor")

    def kill(self) -> None:
        """SIGKILL to all its processes at once; its network stays as it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, within_s: float = 30.0) -> None:
        """SIGTERM to the supervisor, and wait."""
        if self.is_running and self._process is not None:
            os.kill(self.supervisor(), signal.SIGTERM)
            self._process.wait(within_s)

    # --- its service and its network ---------------------------------------------------------

    def break_service(self) -> None:
        (self.directory / host.BROKEN).touch()

    def mend_service(self) -> None:
        (self.directory / host.BROKEN).unlink(missing_ok=True)

    @property
    def is_service_broken(self) -> bool:
        return (self.directory / host.BROKEN).exists()

    def add_own_addresses(self) -> None:
        """The host's fixed ones on the LAN, again if they are gone."""
        for address in self._own_addresses:
            nodad = ("nodad",) if ":" in address else ()
            self.namespace.run("ip", "addr", "replace", address, "dev", LAN.interface, *nodad)

    @property
    def is_cut(self) -> bool:
        return self._cables.is_cut

    def cut(self, networks: Iterable[Network] = BOTH) -> None:
        """From everything: etcd, the client and the other nodes; or from one network's part of it.
        The carrier stays."""
        self._cables.cut(networks)

    def connect(self, networks: Iterable[Network] = BOTH) -> None:
        self._cables.connect(networks)

    def set_carrier(self, state: str) -> None:
        """Of its interface on the LAN: `down`, as if the cable were pulled out, or `up`."""
        run(("ip", "link", "set", LAN.link(self.name), state))

    def close(self) -> None:
        self.kill()
        self._cables.close()
        self.namespace.close()
        if self._log is not None:
            self._log.close()


class Lab:
    """Up when entered, gone when left."""

    def __init__(self, plan: LabPlan) -> None:
        self.plan = plan
        self.nodes: dict[str, LabNode] = {}
        self.keys = Keys.of(NAMESPACE, CLUSTER)
        self._stack = ExitStack()

    def __enter__(self) -> "Lab":
        if not is_in_private_network():
            raise LabError("the lab wants a network namespace of its own")
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        sweep()
        self.directory, lock = _new_directory()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._stack.callback(os.close, lock)
        if self.directory.is_relative_to("/run"):
            raise LabError("TMPDIR is below /run, of which each node has its own: set another")
        self.directory.chmod(0o755)
        for network in (LAN, MANAGEMENT, PEERS):
            network.make()
            self._stack.callback(network.delete)
        run(("ip", "addr", "add", f"{ADMIN_ADDRESS}/24", "dev", MANAGEMENT.bridge))
        self._start_etcd()
        self.fill_pool()
        for number in range(1, self.plan.nodes + 1):
            node = LabNode(number, self.directory, self.plan, self.etcd_cluster)
            self.nodes[node.name] = node
            self._stack.callback(node.close)
        self._start_client()

    def _start_etcd(self) -> None:
        secret = self.directory / "etcd"
        secret.mkdir(mode=0o700)
        self.etcd_cluster = EtcdCluster(self.plan.etcd, secret)
        self._stack.callback(self.etcd_cluster.close)
        self.etcd_cluster.start()
        self.etcd = EtcdClient(self.etcd_cluster.access(), 5.0)
        self._stack.callback(lambda: self.etcd.close())

    def found_etcd_anew(self, token: str | None = None) -> None:
        """All that was in it is gone; the pool is filled again. `token`: EtcdCluster.found_anew."""
        self.etcd_cluster.found_anew(token)
        self.etcd.close()
        self.etcd = EtcdClient(self.etcd_cluster.access(), 5.0)
        self.fill_pool()

    @property
    def members(self) -> list[EtcdMember]:
        """Of etcd."""
        return self.etcd_cluster.members

    def _start_client(self) -> None:
        self.client = Namespace.new()
        self._stack.callback(self.client.close)
        self._stack.callback(Cables(self.client, "client", (LAN,)).close)
        self.client.run("ip", "addr", "add", f"{CLIENT_ADDRESS}/24", "dev", LAN.interface)
        self.client.run("ip", "addr", "add", "2001:db8::fd/64", "dev", LAN.interface, "nodad")
        file = self.directory / "observed"
        log = self._stack.enter_context(file.open("wb"))
        addresses = (*self.plan.pool, *self.plan.others)
        observer = self.client.start(
            (
                sys.executable,
                "-P",
                "-m",
                "yaim.lab.observer",
                str(self.plan.ping_every_ms),
                ",".join(f"{name}={node.namespace.fd}" for name, node in self.nodes.items()),
                ",".join(str(address) for address in addresses),
            ),
            log,
            pass_fds=tuple(node.namespace.fd for node in self.nodes.values()),
        )
        self._stack.callback(_end, observer)
        self.record = Record(file, frozenset(addresses))
        wait_until(self._is_observed, 20.0, "the observer to start")

    def _is_observed(self) -> bool:
        self.record.update()
        return self.record.last_sent_at() > 0

    # --- the pool ----------------------------------------------------------------------------

    def fill_pool(self) -> None:
        """With the plan's addresses: at the start, and in an etcd that was founded anew."""
        for address in self.plan.pool:
            self.put(address)

    def put(self, address: Address) -> None:
        """Into the pool."""
        self.etcd.put(self.keys.pool_entry(address), b"")

    def delete(self, address: Address) -> None:
        """Out of the pool."""
        self.etcd.delete(self.keys.pool_entry(address))

    def view(self) -> ClusterView:
        """The cluster as etcd has it."""
        return self.keys.view(*self.etcd.read_ranges(*self.keys.ranges()))

    def holders(self) -> dict[Address, list[str]]:
        """Address to the nodes that have it, as their kernels tell."""
        self.record.update()
        return self.record.holders()

    def counts(self) -> list[int]:
        """How many addresses each node has, most first."""
        held = [node for nodes in self.holders().values() for node in nodes]
        return sorted((held.count(name) for name in self.nodes), reverse=True)

    def is_held(self, addresses: Iterable[Address], by: Iterable[str] | None = None) -> bool:
        """Whether each of these addresses is on exactly one node (of these), and no other is on
        any."""
        holders = self.holders()
        allowed = set(self.nodes if by is None else by)
        return set(holders) == set(addresses) and all(
            len(nodes) == 1 and nodes[0] in allowed for nodes in holders.values()
        )

    def wait_until_started(self) -> None:
        """Until the programs of all nodes that were started are at work."""
        wait_until(
            lambda: not any(node.is_starting for node in self.nodes.values()),
            START_WITHIN_S,
            "all nodes that were started to say something",
        )

    def wait_until_held(
        self,
        addresses: Iterable[Address] | None = None,
        by: Iterable[str] | None = None,
        counts: Sequence[int] | None = None,
        within_s: float = 30.0,
    ) -> None:
        """Until the addresses (the whole pool) are held and spread like this. That a busy machine
        takes long to start the programs of a node does not count."""
        wanted = tuple(self.plan.pool if addresses is None else addresses)
        self.wait_until_started()
        wait_until(
            lambda: self.is_held(wanted, by) and (counts is None or self.counts() == list(counts)),
            within_s,
            f"{len(wanted)} addresses to be held by {by or 'all'}, counts {counts}",
            lambda: f"{self.holders()}\n{self.logs()}",
        )

    def logs(self) -> str:
        """The last lines of every node's log."""
        return "\n".join(
            f"--- {node.name}\n{_tail(node.directory / 'log')}" for node in self.nodes.values()
        )


def even_counts(addresses: int, holders: int, nodes: int) -> list[int]:
    """How many addresses each node has, most first, when so many of them share evenly."""
    share, more = divmod(addresses, holders)
    return [share + 1] * more + [share] * (holders - more) + [0] * (nodes - holders)


def sweep() -> None:
    """Delete what labs that were killed have left; nothing that somebody else calls so."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            lock = _lock(directory)
        except OSError:
            continue
        is_ours = os.fstat(lock).st_uid == os.geteuid()
        os.close(lock)
        if is_ours:
            shutil.rmtree(directory, ignore_errors=True)


def _new_directory() -> tuple[Path, int]:
    """And its lock, which it has before it has a name that `sweep` of another lab looks for."""
    if fault := what_others_can_change(Path(tempfile.gettempdir())):
        raise LabError(f"{fault}, or set TMPDIR to another directory")
    made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
    lock = _lock(made)
    return made.rename(made.with_name(made.name.removeprefix("."))), lock


def _lock(directory: Path) -> int:
    """Held as long as this process lives, or until it is closed. Raises OSError if it is held."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _children(pid: int) -> list[int]:
    """Of all its threads."""
    found = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += (thread / "children").read_text().split()
    except OSError:
        pass
    return [int(child) for child in found]


def _descendants(pid: int) -> list[int]:
    found = []
    for child in _children(pid):
        found += [child, *_descendants(child)]
    return found


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def _tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-40:]) if file.exists() else ""
