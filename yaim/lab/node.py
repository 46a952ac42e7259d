"""A node of the lab: a "host" in namespaces of its own, with a service, a helper, a coordinator and
a supervisor; and what can be done to it."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import IO

import yaml

from yaim.core.model import Address
from yaim.lab import host, service
from yaim.lab.etcd import EtcdCluster
from yaim.lab.links import put_address, set_state
from yaim.lab.namespaces import LabError, Namespace
from yaim.lab.network import LAN, MANAGEMENT, Cables, Network
from yaim.lab.plan import CLUSTER, NAMESPACE, LabPlan
from yaim.lab.processes import children, command_line, descendants

USER = "nobody"
"""The user whom the coordinators run as."""
FIRST_NODE_ADDRESS = ip_address("192.0.2.201")
FIRST_MANAGEMENT_ADDRESS = ip_address("198.51.100.201")
NETWORKS = ("192.0.2.0/24", "2001:db8::/64")
"""The networks that the helpers' allowlists have."""
HELPER = f"{sys.executable} -I -m yaim_helper --config"
"""How the helper's command line begins: it sets no title."""
PROGRAMS = "bin"
"""The directory, below a node's, that has `yaim` and `yaim-helper` as commands."""
BOTH = (LAN, MANAGEMENT)
"""A node's networks."""


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
        """How many bytes of its log are of earlier starts."""
        self.directory.mkdir(mode=0o755)
        self._etcd = etcd
        self._write_files(plan)
        self._write_programs()
        self._cables = Cables(self.namespace, self.name, BOTH)
        self.add_own_addresses()
        management = f"{FIRST_MANAGEMENT_ADDRESS + number - 1}/24"
        put_address(management, MANAGEMENT.interface, self.namespace)

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
            **plan.helper_settings,
        }
        (self.directory / "helper.yml").write_text(yaml.safe_dump(helper))

    def _write_programs(self) -> None:
        """For `yaim lab exec`: wherever this Python has yaim from, a node has it from there. What
        looks for the users and the allowlist of a host is told those of the lab."""
        programs = self.directory / PROGRAMS
        programs.mkdir(mode=0o755)
        run = f"exec {shlex.quote(sys.executable)} -P -m"
        users = f"--user={USER} --helper-user={host.HELPER_USER}"
        helper = f"--helper-config={shlex.quote(str(self.directory / 'helper.yml'))}"
        doctor = f'doctor) shift; {run} yaim doctor {users} {helper} "$@" ;;'
        for name, text in (
            ("yaim", f'case "$1" in {doctor} esac\n{run} yaim "$@"'),
            ("yaim-helper", f'{run} yaim_helper "$@"'),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)

    def equip(self) -> dict[str, object]:
        """Gives it the files it needs for etcd, as they are to be now. Returns the keys that name
        them."""
        return self._etcd.equip(self.directory, self.name, USER)

    def write_config(self, keys: dict[str, object]) -> None:
        """Writes its yaim.yml. SIGHUP or a new start makes that count."""
        (self.directory / "yaim.yml").write_text(yaml.safe_dump(keys))

    def read_config(self) -> dict[str, object]:
        keys: dict[str, object] = yaml.safe_load((self.directory / "yaim.yml").read_text())
        return keys

    # --- its processes -----------------------------------------------------------------------

    def start(self, *around: str) -> None:
        """Starts it. `around`: a command in front of it, as env(1)."""
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
    def has_run(self) -> bool:
        return self._process is not None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def is_starting(self) -> bool:
        """Whether its programs have not come so far yet that they say anything."""
        return self.is_running and (self.directory / "log").stat().st_size == self._said_before

    def supervisor(self) -> int:
        """The process id of its first process."""
        found = children(self._process.pid) if self._process is not None else []
        if not found:
            raise LabError(f"{self.name} is not running")
        return found[0]

    def process(self, role: str) -> int | None:
        """The process id of its `coordinator`, `helper` or `supervisor`."""
        start = HELPER if role == "helper" else f"yaim: {role}"
        return next(iter(self.processes_like(start)), None)

    def says(self) -> str:
        """How it is: the word in the title of its coordinator; empty if it has none."""
        pid = self.process("coordinator")
        words = command_line(pid).split() if pid is not None else []
        return words[3] if len(words) > 3 else ""

    def processes_like(self, start: str) -> list[int]:
        """The process ids of those of its processes whose command line begins like this."""
        if not self.is_running or self._process is None:
            return []
        found = descendants(self._process.pid)
        return [pid for pid in found if command_line(pid).startswith(start)]

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
        """Sends a signal to some of its processes; to none, if one of them is not running."""
        for pid in self.processes(*roles):
            os.kill(pid, number)

    def reload(self) -> None:
        self.signal(signal.SIGHUP, "supervisor")

    def kill(self) -> None:
        """Sends SIGKILL to all its processes at once. Its network stays as it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, within_s: float = 30.0) -> None:
        """Sends SIGTERM to the supervisor, and waits."""
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
        """Puts the host's fixed addresses on the LAN, again if they are gone."""
        for address in self._own_addresses:
            put_address(address, LAN.interface, self.namespace)

    @property
    def is_cut(self) -> bool:
        return self._cables.is_cut

    def cut(self, networks: Iterable[Network] = BOTH) -> None:
        """Cuts it off from everything: etcd, the client and the other nodes; or from one network.
        The carrier stays."""
        self._cables.cut(networks)

    def connect(self, networks: Iterable[Network] = BOTH) -> None:
        self._cables.connect(networks)

    def set_carrier(self, state: str) -> None:
        """Sets the carrier of its interface on the LAN: `down`, as if the cable were pulled out,
        or `up`."""
        set_state(LAN.link(self.name), state)

    @property
    def own_address(self) -> Address:
        """Its fixed IPv4 address on the LAN."""
        return ip_interface(self._own_addresses[0]).ip

    @property
    def has_fence(self) -> bool:
        """Whether its helper has a fence in force, as its record tells of its last start. A helper
        that is older than the fence tells nothing of it."""
        for file in sorted((self.directory / "audit").glob("audit-*.jsonl"), reverse=True):
            lines = file.read_text(errors="replace").splitlines()
            starts = [line for line in lines if '"type":"start"' in line]
            if starts:
                told = json.loads(starts[-1]).get("fence")
                return isinstance(told, dict) and told.get("in_force") is True
        return False

    def close(self) -> None:
        self.kill()
        self._cables.close()
        self.namespace.close()
        if self._log is not None:
            self._log.close()
