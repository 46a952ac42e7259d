"""What bench/clients.py compares: three nodes of the lab that run yaim, or keepalived.

On each node there are also the services that the clients talk to: bench/client_service.py and a
PostgreSQL server, which do not stop when the node's check fails.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Protocol

from tests.checks.postgres_server import Installation, Server
from yaim.core.model import Address
from yaim.lab import host
from yaim.lab.cluster import Lab
from yaim.lab.namespaces import LabError
from yaim.lab.network import LAN
from yaim.lab.node import LabNode

POSTGRES_PORT = 5432
_ACCESS = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n"
_OPTIONS = {"listen_addresses": "*", "max_connections": "200"}
_KEEPALIVED = """\
global_defs {
    script_user root
    enable_script_security
}
vrrp_script service {
    script "/usr/bin/test ! -e @broken"
    interval 1
    timeout 1
    fall 1
    rise 1
}
"""
_INSTANCE = """\
vrrp_instance @name {
    state BACKUP
    interface eth0
    virtual_router_id @number
    priority @priority
    advert_int 1
    virtual_ipaddress {
        @address dev eth0
    }
    track_script {
        service
    }
}
"""


class Services:
    """The services of one node."""

    def __init__(
        self, node: LabNode, installation: Installation, check_clients_every: str = "1s"
    ) -> None:
        """`check_clients_every`: see client_connection_check_interval of PostgreSQL."""
        self._node = node
        self._options = {
            **_OPTIONS,
            "client_connection_check_interval": check_clients_every,
        }
        self._postgres = installation.new()
        self._postgres.port = POSTGRES_PORT
        with (self._postgres.data / "pg_hba.conf").open("a") as access:
            access.write(_ACCESS)
        self._echo: subprocess.Popen[bytes] | None = None

    @property
    def postgres(self) -> Server:
        return self._postgres

    def start(self) -> None:
        command = (sys.executable, "-P", "-m", "bench.client_service", self._node.name)
        with (self._node.directory / "service-log").open("ab") as log:
            self._echo = self._node.namespace.start(command, log)
        with self._node.namespace.entered():
            self._postgres.begin(None, **self._options)
        self._postgres.wait_until_it_answers()

    def stop(self) -> None:
        if self._echo is not None:
            self._echo.kill()
            self._echo.wait()
        self._postgres.stop()


class Cluster(Protocol):
    """Three nodes. Each method returns when it is asked for, not when it has had its effect."""

    lab: Lab

    def holders(self) -> dict[Address, list[str]]:
        """The nodes that have each address."""

    def start(self, node: LabNode) -> None: ...

    def stop(self, node: LabNode) -> None:
        """As systemctl stop does."""

    def kill(self, node: LabNode) -> None: ...

    def close(self) -> None: ...


class Yaim:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def holders(self) -> dict[Address, list[str]]:
        return self.lab.holders()

    def start(self, node: LabNode) -> None:
        node.start()

    def stop(self, node: LabNode) -> None:
        node.stop()

    def kill(self, node: LabNode) -> None:
        node.kill()

    def close(self) -> None:
        pass


class Keepalived:
    """A VRRP instance for each address, adverts and the check each second. The first nodes of the
    addresses differ, and so do the second ones: two nodes have three each. An address comes back to
    its first node (the default: keepalived preempts)."""

    def __init__(self, lab: Lab) -> None:
        if shutil.which("keepalived") is None:
            raise LabError("there is no keepalived on this machine: apt-get install keepalived")
        self.lab = lab
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = ExitStack()
        for number, node in enumerate(lab.nodes.values()):
            (node.directory / "keepalived.conf").write_text(self._configuration(number, node))

    def _configuration(self, number: int, node: LabNode) -> str:
        nodes = len(self.lab.nodes)
        parts = [_KEEPALIVED.replace("@broken", str(node.directory / host.BROKEN))]
        for index, address in enumerate(self.lab.plan.pool):
            place = (number - index if address.version == 4 else index - number) % nodes
            parts.append(
                _INSTANCE.replace("@name", f"V{index + 1}")
                .replace("@number", str(index + 1))
                .replace("@priority", str(150 - 40 * place))
                .replace("@address", f"{address}/{address.max_prefixlen}")
            )
        return "".join(parts)

    def holders(self) -> dict[Address, list[str]]:
        """What its kernels tell: to the lab these addresses are not yaim's."""
        found: dict[Address, list[str]] = {}
        for _, kind, node, address in told(self.lab):
            if kind == "f":
                found.setdefault(address, []).append(node)
            elif kind == "g" and node in found.get(address, []):
                found[address].remove(node)
        return {address: nodes for address, nodes in found.items() if nodes}

    def start(self, node: LabNode) -> None:
        log: IO[bytes] = self._logs.enter_context((node.directory / "keepalived-log").open("ab"))
        files = (f"--{each}={node.directory / each}" for each in ("pid", "vrrp_pid"))
        self._running[node.name] = node.namespace.start(
            (
                *("keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp", *files),
                f"--use-file={node.directory / 'keepalived.conf'}",
            ),
            log,
        )

    def stop(self, node: LabNode) -> None:
        process = self._running.pop(node.name)
        process.send_signal(signal.SIGTERM)
        process.wait(20.0)

    def kill(self, node: LabNode) -> None:
        """Both its processes: the one that makes adverts ends with the other one."""
        process = self._running.pop(node.name)
        process.kill()
        process.wait()

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self._logs.close()


def told(lab: Lab) -> Iterator[tuple[float, str, str, Address]]:
    """What the kernels of the nodes have told of the pool's addresses, as yaim/lab/observer.py has
    it: when, what, node and address. "a" and "d" are yaim's that came or went, "f" and "g" those of
    others."""
    pool = {str(address): address for address in lab.plan.pool}
    for line in (lab.directory / "observed").read_text().splitlines():
        kind, *words = line.split()
        if kind in ("a", "d", "f", "g") and len(words) == 3 and words[1] in pool:
            yield int(words[2]) / 1e9, kind, words[0], pool[words[1]]


def forget_all(node: LabNode, pool: tuple[Address, ...]) -> None:
    """What a new boot does to a node: the addresses on its interface are gone."""
    for address in pool:
        held = f"{address}/{address.max_prefixlen}"
        shown = node.namespace.run("ip", "-o", "addr", "show", "dev", LAN.interface, "to", held)
        if shown:
            node.namespace.run("ip", "addr", "del", held, "dev", LAN.interface)


def _source(address: Address) -> str:
    """As ss(8) wants it."""
    return str(address) if address.version == 4 else f"[{address}]"


def sessions_on(node: LabNode, address: Address) -> int:
    """The TCP sockets that are bound to an address there: none that listens or is in TIME_WAIT."""
    states = ("state", "all", "exclude", "listening", "exclude", "time-wait")
    shown = node.namespace.run("ss", "-Htan", *states, "src", _source(address))
    return len(shown.splitlines())


def end_sessions(node: LabNode, pool: tuple[Address, ...]) -> None:
    """Destroys what earlier clients have left there, so that nothing of them is counted."""
    for address in pool:
        if sessions_on(node, address):
            node.namespace.run("ss", "-HtanK", "src", _source(address))
