"""What the helper holds, in the test's own process and a network namespace, step by step."""

import errno
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import NoReturn

from yaim_helper.held.batch import Batch
from yaim_helper.held.fencing import begin
from yaim_helper.held.holdings import Holdings
from yaim_helper.held.reset import NO_RESETTING, Resetting
from yaim_helper.jobs import Inline, Job, Jobs
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.kernel.connections import Connections, Destroyed
from yaim_helper.owners import Owner
from yaim_helper.policy.read import read_policy
from yaim_helper.protocol import Add, Address, Ok
from yaim_helper.record.log import AuditLog
from yaim_helper.record.recorder import Recorder

from tests.helper.network import INTERFACE, boottime
from tests.helper.process import deadline_in, policy, read_records
from yaim.lab.namespaces import Namespace

OWNER = Owner(0, "test")


@contextmanager
def holdings_in(
    network: Namespace,
    directory: Path,
    *,
    is_fenced: bool = False,
    jobs: Jobs | None = None,
    resetting: Resetting = NO_RESETTING,
    resets: bool | None = None,
    prefixes: Sequence[int] = (32,),
) -> Iterator[Holdings]:
    """And the test is in the network namespace, too. What may wait for the kernel is done at once,
    also with a fence, if there are no `jobs`."""
    file = directory / "helper.yml"
    fence = "auto" if is_fenced else "off"
    file.write_text(policy(directory / "audit", prefixes=prefixes, fence=fence, resets=resets))
    read = read_policy(file)
    with network.entered():
        recorder = Recorder(AuditLog(read.audit_log, read.sha256), read.sha256)
        fencing = begin(is_wanted=is_fenced)
        assert (fencing.fences is not None) is is_fenced, fencing.why_not
        yield Holdings(read, recorder, lambda: None, fencing, jobs, resetting)
        recorder.close()


@dataclass
class Deferred(Inline):
    """Jobs that are done when the test says so."""

    started: list[Job] = field(default_factory=list)

    def start(self, job: Job) -> None:
        self.started.append(job)

    def do_all(self) -> None:
        while self.started:
            self.started.pop(0)()


class Slow(Connections):
    """Connections that are never ended in time."""

    def __init__(self) -> None:
        pass

    def why_not(self) -> str:
        return ""

    def destroy(self, addresses: Collection[Address], until: float) -> dict[Address, Destroyed]:
        time.sleep(max(0.0, until - boottime()))
        return dict.fromkeys(addresses, Destroyed(0, 1))


def on_interface(*addresses: str, prefix: int = 32) -> list[str]:
    return sorted(f"{INTERFACE} {each}/{128 if ':' in each else prefix}" for each in addresses)


def added(batch: Batch, number: int, in_s: float = 30.0) -> Address:
    """Not yet on the interface."""
    address = IPv4Address("192.0.2.0") + number
    add = Add(number, INTERFACE, address, 32, "", deadline_in(in_s))
    assert batch.add(OWNER, add) == Ok({"was": "absent"})
    return address


def fail(*_: object) -> NoReturn:
    raise KernelError(errno.ENOBUFS, "No buffer space available")


def own_doings(audit_log: Path) -> list[tuple[str, str]]:
    """Returns what the helper has done of itself: to which address, and what came of it."""
    return [
        (each["address"], each["outcome"])
        for each in read_records(audit_log)
        if each["type"] == "own"
    ]


def record_of(holdings: Holdings, directory: Path) -> list[tuple[str, str]]:
    """The same, when all is written."""
    assert holdings._recorder.drain(20.0)
    return own_doings(directory / "audit")
