"""What happens in a lab from some time on, and what its nodes say."""

import subprocess
import sys
import time
from collections.abc import Iterable

from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.etcd import FIRST_ADDRESS
from yaim.lab.node import LabNode
from yaim.lab.wait import wait_until

ANSWERED_WITHIN_S = 5.0
STARVED = "the helper has ended (SIGALRM)"


class Watch:
    """What happened from now on."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.since = time.monotonic()
        self._held = {
            address: names for address, names in lab.holders().items() if address in lab.plan.pool
        }
        self._said_before = {node.name: len(log_of(node)) for node in lab.nodes.values()}

    def look_on(self, seconds: float) -> None:
        """Let the client ping on, so that what goes wrong late is seen too."""
        time.sleep(seconds)
        self._lab.record.update()

    def said(self, node: LabNode) -> str:
        """What it has logged."""
        return log_of(node)[self._said_before[node.name] :]

    def wait_until_said(self, text: str, by: Iterable[LabNode] | None = None) -> None:
        """Waits until all nodes have said it, or these."""
        for node in self._lab.nodes.values() if by is None else by:
            wait_until(
                lambda node=node: text in self.said(node),  # type: ignore[misc]
                30.0,
                f"{text!r} in the log of {node.name}",
                lambda node=node: self.said(node),  # type: ignore[misc]
            )

    def is_unnoticed(self) -> bool:
        """Whether no address has moved, and the client has got every answer. What is on a node that
        had no processor for its helper for a tenth of a second, which ends that, is not counted:
        the machine is to blame."""
        starved = {node.name for node in self._lab.nodes.values() if STARVED in self.said(node)}
        pool = {address for address, names in self._held.items() if not starved & set(names)}
        gap_s = self.gap_s(tuple(pool)) if pool else 0.0
        moves = self._lab.record.moves(pool, self.since, time.monotonic())
        return (moves, gap_s, self.overlap_s) == (0, 0.0, 0.0)

    def told(self) -> str:
        """What a test says that fails."""
        pool = self._lab.plan.pool
        gaps = [
            f"{interval.address} no answer from {interval.start - self.since:.2f} s on for"
            f" {interval.length_s:.2f} s"
            for address in pool
            for interval in self._lab.record.gaps(address, self.since, time.monotonic())
        ]
        changes = [
            f"{each.at - self.since:.2f} {'+' if each.is_there else '-'} {each.node} {each.address}"
            for each in self._lab.record.changes
            if each.at >= self.since
        ]
        said = [f"--- {node.name}\n{self.said(node)}" for node in self._lab.nodes.values()]
        return "\n".join((*gaps, *changes, *said))

    @property
    def overlap_s(self) -> float:
        """What must not be (Lab.overlap_s), of all addresses."""
        pool = {*self._lab.plan.pool, *self._lab.plan.others}
        return self._lab.overlap_s(pool, self.since, time.monotonic())

    def gap_s(self, pool: tuple[Address, ...] | None = None) -> float:
        """The longest time without an answer until now. The last answers may be on their way, or
        not yet written down: there is time for them to come."""
        until = time.monotonic()
        wanted = pool or self._lab.plan.pool
        give_up_at = until + ANSWERED_WITHIN_S
        while not self._is_answered(wanted, until) and time.monotonic() < give_up_at:
            time.sleep(0.01)
        return max(self._lab.record.longest_gap_s(each, self.since, until) for each in wanted)

    def _is_answered(self, pool: tuple[Address, ...], at: float) -> bool:
        """Whether each address has answered a ping that was sent later; so all answers from before
        that will come have come."""
        self._lab.record.update()
        return all(self._lab.record.has_answered(each, at) for each in pool)

    @property
    def moves(self) -> int:
        self._lab.record.update()
        return self._lab.record.moves(set(self._lab.plan.pool), self.since, time.monotonic())


def log_of(node: LabNode) -> str:
    file = node.directory / "log"
    return file.read_text() if file.exists() else ""


def wait_for_log(node: LabNode, text: str, times: int = 1) -> None:
    wait_until(
        lambda: log_of(node).count(text) >= times,
        30.0,
        f"{text!r} in the log of {node.name}",
        lambda: log_of(node),
    )


def never_two(lab: Lab, watch: Watch, seconds: float) -> None:
    """No overlap, also some time later."""
    watch.look_on(seconds)
    assert watch.overlap_s == 0.0


def yaim(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that looks at the lab's cluster."""
    where = ("--dcs-clustername=yaim", f"--dcs-endpoints=http://{FIRST_ADDRESS}:2379")
    return subprocess.run(
        (sys.executable, "-m", "yaim", command, *where, *arguments),
        capture_output=True,
        text=True,
        timeout=30,
    )


def yaim_status(*arguments: str) -> subprocess.CompletedProcess[str]:
    return yaim("status", *arguments)
