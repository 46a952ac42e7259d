"""The lab: two networks, a private etcd, nodes and a client; and what can be done to them.

The LAN has the pool's addresses and the client on it, the management network etcd; a node is on
both. Their bridges are in this process's own network namespace, which must be a private one; etcd's
members have their own, and a network among themselves.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from yaim.core.model import Address, ClusterView
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.lab.directory import new_directory, sweep
from yaim.lab.etcd import EtcdCluster, EtcdMember
from yaim.lab.links import put_address
from yaim.lab.namespaces import LabError, Namespace, is_in_private_network
from yaim.lab.network import LAN, MANAGEMENT, PEERS, Cables
from yaim.lab.node import LabNode
from yaim.lab.plan import CLUSTER, NAMESPACE, LabPlan
from yaim.lab.record import Record
from yaim.lab.wait import wait_until

CLIENT_ADDRESSES = ("192.0.2.253/24", "2001:db8::fd/64")
ADMIN_ADDRESS = "198.51.100.100"
"""The lab's own address on the management network."""
TOLD_WITHIN_S = 30.0
START_WITHIN_S = 60.0
"""How long a node's programs may take until they say something: 11 s were seen on two processors
with a load of 21."""


class Lab:
    """The lab is up when this is entered, and gone when it is left."""

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
        self.directory, lock = new_directory()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._stack.callback(os.close, lock)
        if self.directory.is_relative_to("/run"):
            raise LabError("TMPDIR is below /run, of which each node has its own: set another")
        self.directory.chmod(0o755)
        for network in (LAN, MANAGEMENT, PEERS):
            network.make()
            self._stack.callback(network.delete)
        put_address(f"{ADMIN_ADDRESS}/24", MANAGEMENT.bridge)
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
        """Founds etcd anew: all that was in it is gone, and the pool is filled again. `token`: see
        EtcdCluster.found_anew."""
        self.etcd_cluster.found_anew(token)
        self.etcd.close()
        self.etcd = EtcdClient(self.etcd_cluster.access(), 5.0)
        self.fill_pool()

    @property
    def members(self) -> list[EtcdMember]:
        """The members of etcd."""
        return self.etcd_cluster.members

    def _start_client(self) -> None:
        self.client = Namespace.new()
        self._stack.callback(self.client.close)
        self._stack.callback(Cables(self.client, "client", (LAN,)).close)
        for address in CLIENT_ADDRESSES:
            put_address(address, LAN.interface, self.client)
        file = self.directory / "observed"
        log = self._stack.enter_context(file.open("wb"))
        addresses = (*self.plan.pool, *self.plan.others)
        own_addresses = {name: node.own_address for name, node in self.nodes.items()}
        observer = self.client.start(
            (
                sys.executable,
                "-P",
                "-m",
                "yaim.lab.observer",
                str(self.plan.ping_every_ms),
                ",".join(f"{name}={node.namespace.fd}" for name, node in self.nodes.items()),
                ",".join(str(address) for address in addresses),
                str(round(self.plan.probed_every_s * 1000)),
                LAN.interface,
                ",".join(each.partition("/")[0] for each in CLIENT_ADDRESSES),
                ",".join(str(each) for each in own_addresses.values()),
            ),
            log,
            pass_fds=tuple(node.namespace.fd for node in self.nodes.values()),
        )
        self._stack.callback(_end, observer)
        self.record = Record(file, frozenset(addresses), own_addresses, self.plan.probed_every_s)
        wait_until(self._is_observed, 20.0, "the observer to start")

    def _is_observed(self) -> bool:
        self.record.update()
        return self.record.last_sent_at() > 0

    # --- the pool ----------------------------------------------------------------------------

    def fill_pool(self) -> None:
        """Puts the plan's addresses into the pool, at the start and in an etcd that was founded
        anew."""
        for address in self.plan.pool:
            self.put(address)

    def put(self, address: Address) -> None:
        """Puts an address into the pool."""
        self.etcd.put(self.keys.pool_entry(address), b"")

    def delete(self, address: Address) -> None:
        """Takes an address out of the pool."""
        self.etcd.delete(self.keys.pool_entry(address))

    def view(self) -> ClusterView:
        """The cluster as etcd has it."""
        return self.keys.view(*self.etcd.read_ranges(*self.keys.ranges()))

    def holders(self) -> dict[Address, list[str]]:
        """The nodes that have each address, as their kernels tell, and on which it is not muted."""
        self.record.update()
        return self.record.answering_holders()

    @property
    def has_fences(self) -> bool:
        """Whether all helpers that have run have a fence in force."""
        return all(node.has_fence for node in self.nodes.values() if node.has_run)

    def overlap_s(self, pool: Iterable[Address], since: float, until: float) -> float:
        """The seconds, summed over the addresses, of what must not be: that more nodes than one
        answer for an address on the wire; and without a fence, that it is on interfaces of more
        than one."""
        self.wait_for_answers_until(until)
        wanted = set(pool)
        on_the_wire_s = self.record.wire_overlap_s(wanted, since, until)
        if self.has_fences:
            return on_the_wire_s
        return max(on_the_wire_s, self.record.overlap_s(wanted, since, until))

    def wait_for_answers_until(self, until: float) -> None:
        """Waits until all is told that has been answered on the wire until then."""

        def are_told() -> bool:
            self.record.update()
            return self.record.answers_told_until >= until

        wait_until(are_told, TOLD_WITHIN_S, "the observer to tell what is answered")

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
        """Waits until the programs of all nodes that were started are at work."""
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
        """Waits until the addresses (the whole pool) are held and spread like this. The time that a
        busy machine takes to start the programs of a node does not count."""
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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-40:]) if file.exists() else ""
