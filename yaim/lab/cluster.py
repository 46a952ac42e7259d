"""The lab: a bridge, a private etcd, nodes and a client; and what can be done to them.

The bridge and etcd are in this process's own network namespace, which must be a private one.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import IO

import yaml

from yaim.core.model import Address, ClusterView
from yaim.etcd.client import EtcdAccess, EtcdClient, EtcdError
from yaim.etcd.schema import Keys
from yaim.lab import host, service
from yaim.lab.namespaces import DIES_WITH_US, LabError, Namespace, is_in_private_network, run
from yaim.lab.record import Record

USER = "nobody"
"""Whom the coordinators run as."""
BRIDGE = "yaim0"
ETCD_ADDRESS = "192.0.2.254"
CLIENT_ADDRESS = "192.0.2.253"
FIRST_NODE_ADDRESS = ip_address("192.0.2.201")
FIRST_POOL_ADDRESS = ip_address("192.0.2.11")
NETWORKS = ("192.0.2.0/24", "2001:db8::/64")
NAMESPACE, CLUSTER = "/service/", "yaim"
_PREFIX = "yaim-lab-"
"""Of the lab's directory, where temporary files are."""


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
    settings: dict[str, object] = field(default_factory=dict)
    """Further keys for every node's yaim.yml."""


class LabNode:
    """A "host" with a service, a helper, a coordinator and a supervisor."""

    def __init__(self, number: int, directory: Path, plan: LabPlan) -> None:
        self.name = f"n{number}"
        self.directory = directory / self.name
        self.namespace = Namespace.new()
        self.link = f"yaim-{self.name}"
        self.is_cut = False
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.directory.mkdir(mode=0o755)
        self._write_files(plan)
        _connect(self.namespace, self.link, f"{FIRST_NODE_ADDRESS + number - 1}/24")
        self.namespace.run(
            "ip", "addr", "add", f"2001:db8::c{number:02x}/64", "dev", "eth0", "nodad"
        )

    def _write_files(self, plan: LabPlan) -> None:
        self.write_config(
            {
                "interval": plan.interval_ms,
                "ttl": plan.ttl_ms,
                "dcs-namespace": NAMESPACE,
                "dcs-clustername": CLUSTER,
                "dcs-endpoints": [f"http://{ETCD_ADDRESS}:2379"],
                "interface": "eth0",
                "checker-type": "http",
                "http-url": f"http://127.0.0.1:{service.PORT}/",
                **plan.settings,
            }
        )
        helper = {
            "users": [USER],
            "audit-log": str(self.directory / "audit.log"),
            "rules": [{"interface": "eth0", "networks": list(NETWORKS)}],
        }
        (self.directory / "helper.yml").write_text(yaml.safe_dump(helper))

    def write_config(self, keys: dict[str, object]) -> None:
        """Its yaim.yml; SIGHUP or a new start makes it count."""
        (self.directory / "yaim.yml").write_text(yaml.safe_dump(keys))

    def read_config(self) -> dict[str, object]:
        keys: dict[str, object] = yaml.safe_load((self.directory / "yaim.yml").read_text())
        return keys

    # --- its processes -----------------------------------------------------------------------

    def start(self) -> None:
        self._log = (self.directory / "log").open("ab")
        self._process = self.namespace.start(
            (
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

    def supervisor(self) -> int:
        """The process id of its first process."""
        children = _children(self._process.pid) if self._process is not None else []
        if not children:
            raise LabError(f"{self.name} is not running")
        return children[0]

    def process(self, role: str) -> int | None:
        """The process id of its `coordinator`, `helper` or `supervisor`."""
        if not self.is_running or self._process is None:
            return None
        for pid in _descendants(self._process.pid):
            title = _command_line(pid)
            if title.startswith(f"yaim: {role}"):
                return pid
        return None

    def signal(self, number: signal.Signals, *roles: str) -> None:
        """Send a signal to some of its processes."""
        for role in roles:
            pid = self.process(role)
            if pid is None:
                raise LabError(f"{self.name} has no {role} running")
            os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL to all its processes at once; its network stays as it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, within_s: float = 15.0) -> None:
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

    def cut(self) -> None:
        """From everything: etcd, the client and the other nodes. The carrier stays."""
        run(("ip", "link", "set", self.link, "nomaster"))
        self.is_cut = True

    def connect(self) -> None:
        run(("ip", "link", "set", self.link, "master", BRIDGE))
        self.is_cut = False

    def close(self) -> None:
        self.kill()
        _disconnect(self.link)
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
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        if self.directory.is_relative_to("/run"):
            raise LabError("TMPDIR is below /run, of which each node has its own: set another")
        self._stack.callback(os.close, _lock(self.directory))
        self.directory.chmod(0o755)
        self._make_bridge()
        self.etcd = self._start_etcd()
        for address in self.plan.pool:
            self.put(address)
        for number in range(1, self.plan.nodes + 1):
            node = LabNode(number, self.directory, self.plan)
            self.nodes[node.name] = node
            self._stack.callback(node.close)
        self._start_client()

    def _make_bridge(self) -> None:
        run(("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"))
        self._stack.callback(run, ("ip", "link", "del", BRIDGE))
        run(("ip", "addr", "add", f"{ETCD_ADDRESS}/24", "dev", BRIDGE))
        run(("ip", "link", "set", BRIDGE, "up"))

    def _start_etcd(self) -> EtcdClient:
        if shutil.which("etcd") is None:
            raise LabError("there is no etcd on this machine: apt-get install etcd-server")
        url = f"http://{ETCD_ADDRESS}:2379"
        peer = "http://127.0.0.1:2380"
        log = self._stack.enter_context((self.directory / "etcd.log").open("wb"))
        process = subprocess.Popen(
            (
                *DIES_WITH_US,
                "etcd",
                f"--data-dir={self.directory / 'etcd'}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._stack.callback(_end, process)
        client = EtcdClient(EtcdAccess((url,)), 5.0)
        self._stack.callback(client.close)

        def answers() -> bool:
            try:
                client.read_all(*self.keys.all())
            except EtcdError:
                if process.poll() is not None:
                    text = (self.directory / "etcd.log").read_text()
                    raise LabError(f"etcd does not start:\n{text[-2000:]}") from None
                return False
            return True

        wait_until(answers, 20.0, "etcd to answer")
        return client

    def _start_client(self) -> None:
        self.client = Namespace.new()
        self._stack.callback(self.client.close)
        _connect(self.client, "yaim-client", f"{CLIENT_ADDRESS}/24")
        self._stack.callback(_disconnect, "yaim-client")
        self.client.run("ip", "addr", "add", "2001:db8::fd/64", "dev", "eth0", "nodad")
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
        wait_until(self._is_observed, 10.0, "the observer to start")

    def _is_observed(self) -> bool:
        self.record.update()
        return self.record.last_sent_at() > 0

    # --- the pool ----------------------------------------------------------------------------

    def put(self, address: Address) -> None:
        """Into the pool."""
        self.etcd.put(self.keys.pool_entry(address), b"")

    def delete(self, address: Address) -> None:
        """Out of the pool."""
        self.etcd.delete(self.keys.pool_entry(address))

    def view(self) -> ClusterView:
        """The cluster as etcd has it."""
        return self.keys.view(*self.etcd.read_all(*self.keys.all()))

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

    def wait_until_held(
        self,
        addresses: Iterable[Address] | None = None,
        by: Iterable[str] | None = None,
        counts: Sequence[int] | None = None,
        within_s: float = 10.0,
    ) -> None:
        """Until the addresses (the whole pool) are held and spread like this."""
        wanted = tuple(self.plan.pool if addresses is None else addresses)
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
    """Delete what labs that were killed have left."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            os.close(_lock(directory))
        except OSError:
            continue
        shutil.rmtree(directory, ignore_errors=True)


def _lock(directory: Path) -> int:
    """Held as long as this process lives, or until it is closed. Raises OSError if it is held."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def wait_until(
    is_so: Callable[[], bool],
    within_s: float,
    what: str,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Raises LabError when the time is over."""
    give_up_at = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() >= give_up_at:
            raise LabError(f"waited {within_s:g} s in vain for {what}\n{explain()}")
        time.sleep(0.05)


def _connect(namespace: Namespace, link: str, address: str) -> None:
    """A cable from the bridge to eth0 in the namespace."""
    run(
        (
            "ip",
            "link",
            "add",
            link,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace.path,
        ),
        pass_fds=(namespace.fd,),
    )
    run(("ip", "link", "set", link, "master", BRIDGE, "up"))
    namespace.run("ip", "addr", "add", address, "dev", "eth0")
    namespace.run("ip", "link", "set", "eth0", "up")


def _disconnect(link: str) -> None:
    """At once: the namespace at its other end goes when its last process is gone."""
    try:
        run(("ip", "link", "del", link))
    except LabError:
        pass


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


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
