"""TCP clients of a cluster, each with an open connection that it waits on, while addresses move."""

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from tests.system.conftest import Build
from tests.system.watch import Watch, log_of, wait_for_log
from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.network import MANAGEMENT
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan, pool_of

POOL = (*pool_of(2), ip_address("2001:db8::11"), ip_address("2001:db8::12"))
PORT = 7000
AT_ONCE_S = 2.0
"""It is some milliseconds; the machine may be busy."""
SILENCE_S = 0.5


@dataclass
class Clients:
    """Wait on a connection to each address; nobody ever answers."""

    lab: Lab
    stack: ExitStack
    of: dict[Address, socket.socket] = field(default_factory=dict)
    accepted: list[socket.socket] = field(default_factory=list)

    def serve(self, node: LabNode) -> socket.socket:
        with node.namespace.entered():
            listener = socket.create_server(
                ("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return self.stack.enter_context(listener)

    def connect(self, listeners: dict[str, socket.socket]) -> None:
        for address, (name,) in self.lab.holders().items():
            with self.lab.client.entered():
                connection = socket.create_connection((str(address), PORT), 20.0)
            self.of[address] = self.stack.enter_context(connection)
            self.accepted.append(self.stack.enter_context(listeners[name].accept()[0]))

    def learns(self, address: Address, within_s: float) -> bool:
        """Whether the client of this address is told that its connection has ended."""
        self.of[address].settimeout(within_s)
        try:
            return self.of[address].recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(build: Build, stack: ExitStack, **settings: object) -> tuple[Lab, Clients]:
    """Two nodes with two addresses each."""
    lab = build(LabPlan(nodes=2, pool=POOL, settings=settings))
    for node in lab.nodes.values():
        node.start()
    lab.wait_until_held(counts=[2, 2])
    clients = Clients(lab, stack)
    clients.connect({name: clients.serve(node) for name, node in lab.nodes.items()})
    return lab, clients


def held_by(lab: Lab, name: str) -> list[Address]:
    return [address for address, names in lab.holders().items() if names == [name]]


def test_clients_of_a_node_that_gives_its_addresses_up_learn_at_once_and_others_nothing(
    build: Build, stack: ExitStack
) -> None:
    lab, clients = connected(build, stack)
    first, second = held_by(lab, "n1"), held_by(lab, "n2")
    watch = Watch(lab)
    lab.nodes["n1"].break_service()
    assert all(clients.learns(each, 5.0) for each in first)
    lab.wait_until_held(by=["n2"])
    said = watch.said(lab.nodes["n1"])
    # In one line, if the helper has done both together.
    assert sum(map(int, re.findall(r"off: (\d+) connections? w", said))) == 2, said
    assert not any(clients.learns(each, SILENCE_S) for each in second)
    lab.nodes["n2"].stop()
    assert all(clients.learns(each, AT_ONCE_S) for each in second)


def test_with_leave_they_learn_nothing(build: Build, stack: ExitStack) -> None:
    lab, clients = connected(build, stack, connections="leave")
    first = held_by(lab, "n1")
    lab.nodes["n1"].break_service()
    lab.wait_until_held(by=["n2"])
    assert not any(clients.learns(each, SILENCE_S) for each in first)


def test_a_restart_of_both_processes_ends_no_connection(build: Build, stack: ExitStack) -> None:
    lab, clients = connected(build, stack, ttl=10_000)
    watch = Watch(lab)
    for node in lab.nodes.values():
        node.signal(signal.SIGUSR1, "supervisor")
    watch.wait_until_said("adopts lease", lab.nodes.values())
    lab.wait_until_held(counts=[2, 2])
    for (address, connection), accepted in zip(clients.of.items(), clients.accepted, strict=True):
        connection.settimeout(20.0)
        accepted.sendall(b"x")
        assert connection.recv(1) == b"x", address


def test_what_a_node_without_its_lease_has_left_ends_when_it_hears_that_another_has_its_addresses(
    build: Build, stack: ExitStack
) -> None:
    lab, clients = connected(build, stack)
    node, first = lab.nodes["n1"], held_by(lab, "n1")
    node.cut([MANAGEMENT])
    lab.wait_until_held(by=["n2"])
    assert not any(clients.learns(each, SILENCE_S) for each in first)
    assert "were reset" not in log_of(node)
    node.connect([MANAGEMENT])
    # Without a fence nothing keeps the end of an IPv6 connection off the wire.
    for each in first if lab.has_fences else [each for each in first if each.version == 4]:
        wait_for_log(node, f"ended 1 connection that was left of {each}")
