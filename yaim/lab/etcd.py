"""A lab's etcd: members on one bridge, each with an address and a data directory of its own."""

import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yaim.lab.namespaces import DIES_WITH_US, LabError


@dataclass(frozen=True, slots=True)
class MemberPlan:
    name: str
    address: str

    @property
    def client_url(self) -> str:
        return f"http://{self.address}:2379"

    @property
    def peer_url(self) -> str:
        return f"http://{self.address}:2380"


class EtcdMember:
    """One process of the cluster; what it has stored outlives it."""

    def __init__(self, plan: MemberPlan, cluster: Sequence[MemberPlan], directory: Path) -> None:
        self.name = plan.name
        self._log_file = directory / f"{plan.name}.log"
        self._command = (
            *DIES_WITH_US,
            "etcd",
            f"--name={plan.name}",
            f"--data-dir={directory / plan.name}",
            f"--listen-client-urls={plan.client_url}",
            f"--advertise-client-urls={plan.client_url}",
            f"--listen-peer-urls={plan.peer_url}",
            f"--initial-advertise-peer-urls={plan.peer_url}",
            f"--initial-cluster={','.join(f'{each.name}={each.peer_url}' for each in cluster)}",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Also again, after `kill`."""
        if shutil.which("etcd") is None:
            raise LabError("there is no etcd on this machine: apt-get install etcd-server")
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, also if it is frozen or has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.is_running:
            raise LabError(f"{self.name} is not running")
        self._process.send_signal(number)

    def log(self) -> str:
        return self._log_file.read_text(errors="replace")
