"""What the helper tells of itself: a summary once a minute to its record, the head of the record to
the journal, and one line to the service manager.

Decides nothing. Nothing waits for those that are told.
"""

import socket

from yaim_helper.clock import boottime
from yaim_helper.held.holdings import Holdings
from yaim_helper.record.entries import renewals
from yaim_helper.record.heads import tell_head
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.floods import Floods
from yaim_helper.serve.looks import Looks
from yaim_helper.serve.requests import Requests
from yaim_helper.serve.sd_notify import ServiceManager
from yaim_helper.stderr import tell

SUMMARY_EVERY_S = 60.0


class Reports:
    def __init__(
        self,
        holdings: Holdings,
        recorder: Recorder,
        requests: Requests,
        floods: Floods,
        manager: ServiceManager,
        looks: Looks,
    ) -> None:
        self._looks = looks
        self._holdings = holdings
        self._recorder = recorder
        self._requests = requests
        self._floods = floods
        self._manager = manager
        self.summed_up_at = boottime()
        self._told_head = (0, 0)
        """Segment and number of the record whose hash was told last, outside the record."""
        self._does_disk_hang = False
        """Whether the record's disk hung when that was last looked at."""

    def next_at(self) -> float:
        """Returns when there is something to tell if nothing comes."""
        return min(self.summed_up_at + SUMMARY_EVERY_S, self._manager.next_at())

    # --- the record ----------------------------------------------------------------------------

    def sum_up_if_due(self, now: float) -> None:
        """Tells the record, once in SUMMARY_EVERY_S, what it was not told one by one."""
        if now >= self.summed_up_at + SUMMARY_EVERY_S:
            self.sum_up()

    def sum_up(self) -> None:
        """Tells the record what it was not told one by one: floods and renewals."""
        self._recorder.note(self._floods.sum_up())
        deadlines = self._holdings.deadlines()
        counts = self._requests.take_renewals()
        if counts and deadlines:
            self._recorder.note([renewals(counts, deadlines, self._holdings.fenced())])
        self.summed_up_at = boottime()
        self.tell_head()

    def tell_head(self) -> None:
        """Tells the head of the record to the journal or syslog, if it is known and another."""
        head = self._recorder.head
        if head is not None and (self._recorder.number, head[0]) != self._told_head:
            tell_head(socket.gethostname(), *head)
            self._told_head = self._recorder.number, head[0]

    def tell_head_of_new_segment(self) -> None:
        """Tells the head if the record has gone on to another segment."""
        if self._recorder.number != self._told_head[0]:
            self.tell_head()

    # --- the service manager, and who runs the helper --------------------------------------------

    def tell_manager(self) -> None:
        """Tells the service manager that the helper is at work, and what it holds."""
        self._manager.tell_alive()
        policy = self._holdings.policy
        why_not = self._recorder.why_not(boottime())
        if self._does_disk_hang:
            self._manager.tell_status(self._hangs)
        elif why_not is not None:
            self._manager.tell_status(f"{why_not}: nothing is added; make room")
        elif self._looks.differs is not None:
            self._manager.tell_status(f"{self._looks.differs}; {self._holdings.summary()}")
        elif policy.rules:
            self._manager.tell_status(self._holdings.summary())
        else:
            self._manager.tell_status(f"refuses every address: {policy.path} has no rules")

    def see_whether_disk_hangs(self, now: float) -> None:
        """Tells whoever runs the helper when the record's disk hangs, and when it answers again."""
        does_hang = self._recorder.does_disk_hang(now)
        if does_hang is not self._does_disk_hang:
            self._does_disk_hang = does_hang
            log = self._holdings.policy.audit_log
            tell(self._hangs if does_hang else f"{log}: can be written again")

    @property
    def _hangs(self) -> str:
        return (
            f"{self._holdings.policy.audit_log}: its disk does not answer: nothing is added until"
            " it does; what is held is renewed and removed"
        )
