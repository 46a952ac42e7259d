"""A node with a fence at random, and what its helper records of it: one address. The owner has
others too, of which the record tells only that their deadlines may be later.

The kernel is modelled as it is: an address answers while it is on the interface, unless a table
has it whose `live` is over. Lives with a fence, without one, and of older versions follow one
another.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yaim_helper.record.chain import GENESIS

from tests.helper.chains import Writer

A = "192.0.2.1"
LATE_S = 0.05
LONG_S = (60.0, 71.4)
"""How long the kernel keeps an address under a fence."""


class FencedTruth:
    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1.0
        self.writer = Writer(directory)
        self.mode: bool | None = None
        """Whether the life has a fence; None: it is of a version that tells nothing of it."""
        self.on_since: float | None = None
        self.off_at = 0.0
        """When the kernel removes it."""
        self.live: float | None = None
        """When the kernel mutes it by the table of this life; None: that has not got it."""
        self.earlier: list[float] = []
        """The same for the tables of earlier lives that have it."""
        self.is_muted = False
        self.answers_since: float | None = None
        self.was: list[tuple[float, float]] = []
        """When it answered."""
        self.lay: list[tuple[float, float]] = []
        """When it was on the interface."""
        self.is_held = False
        self.is_lost = False
        """Whether the fence of this life was taken by somebody and could not be made anew."""
        self.is_left_fenced = False
        """Whether what is left is in a table of an earlier life."""
        self.deadline = 0.0
        self.marker: Any = None
        self.renewed_until: float | None = None
        self.is_known = True
        """Whether its record tells who put it there."""
        self.begin_life()

    # --- the kernel ----------------------------------------------------------------------------

    def pass_time(self, most: float = 0.05) -> float:
        target = round(self.now + self.random.uniform(0.001, most), 6)
        for at in sorted(each for each in self.ends() if self.now < each <= target):
            self.now = at
            if self.on_since is not None and self.off_at <= at:
                self.turn_off()
            self.look()
        self.now = target
        self.look()
        return self.now

    def ends(self) -> Iterator[float]:
        yield from self.earlier
        if self.live is not None:
            yield self.live
        if self.on_since is not None:
            yield self.off_at

    def look(self) -> None:
        """Takes note of whether it answers now."""
        tables = [*self.earlier, *([] if self.live is None else [self.live])]
        does_answer = self.on_since is not None and not self.is_muted
        does_answer = does_answer and all(self.now < each for each in tables)
        if does_answer and self.answers_since is None:
            self.answers_since = self.now
        elif not does_answer and self.answers_since is not None:
            self.was.append((self.answers_since, self.now))
            self.answers_since = None

    def admit(self, deadline: float) -> None:
        """Into the table of this life, out of those of others."""
        self.earlier.clear()
        self.is_muted = False
        self.live = self.late(deadline) if self.is_fenced else None
        self.look()

    def late(self, deadline: float) -> float:
        return round(deadline + self.random.uniform(0.0, LATE_S), 6)

    @property
    def is_fenced(self) -> bool:
        return self.mode is True and not self.is_lost

    def turn_on(self, deadline: float) -> None:
        if self.on_since is None:
            self.on_since = self.now
        if self.mode:
            self.off_at = round(self.now + self.random.uniform(*LONG_S), 6)
        else:
            self.off_at = round(deadline + self.random.uniform(-2.0, 0.2), 6)
            self.off_at = min(max(self.off_at, self.now + 0.5), round(deadline + 0.2, 6))
        self.look()

    def turn_off(self) -> bool:
        was_on = self.on_since is not None
        if self.on_since is not None:
            self.lay.append((self.on_since, self.now))
        self.on_since = None
        self.look()
        return was_on

    def dismiss(self) -> None:
        self.live, self.is_muted = None, False
        self.earlier.clear()
        self.look()

    # --- lives ---------------------------------------------------------------------------------

    def begin_life(self, *, is_new: bool = False) -> None:
        self.mode = self.random.choice((True, True, True, False, False if is_new else None))
        self.is_lost = False
        self.writer.start(self.now, earlier=self.marker, more=True, fence=self.mode)
        self.pass_time(0.001)
        is_on = self.on_since is not None
        told = bool(self.earlier) if self.mode is not None else None
        if told and self.random.random() < 0.3:
            told = None
        told = told if is_on and self.is_known else None
        held = [A] if is_on else []
        self.writer.held(self.now, *held, is_fenced=told, is_known=self.is_known)
        self.pass_time(0.01)

    def restart(self, *, is_new: bool = False) -> None:
        """Killed; started after a while. `is_new`: not in an older version, which would tell of
        what is muted, and not on its record, that it is there."""
        self.is_held = False
        self.renewed_until = None
        if self.live is not None:
            self.earlier.append(self.live)
            self.live = None
        self.pass_time(self.random.choice((0.3, 30.0)))
        if self.on_since is None:
            self.earlier.clear()
        self.begin_life(is_new=is_new or not self.is_known)

    def purge(self) -> None:
        """Deletes the record, with the helper stopped. It is begun anew."""
        writer = self.writer
        for file in writer.directory.glob("*"):
            file.unlink()
        writer.number, writer.seq, writer.hash, writer.lines = 1, 0, GENESIS, []
        self.marker = None
        self.is_known = False
        self.restart(is_new=True)

    def write_elsewhere(self) -> None:
        """Writes to another record for a life; that leaves alone what it does not know."""
        is_its_own = False
        for _ in range(self.random.randint(1, 4)):
            self.pass_time(5.0)
            if self.on_since is None:
                deadline = round(self.now + self.random.uniform(3.0, 20.0), 6)
                self.turn_on(deadline)
                self.admit(deadline)
                is_its_own, self.is_known = True, False
            elif is_its_own:
                self.turn_off()
        self.restart(is_new=True)

    def reboot(self) -> None:
        self.pass_time(1.0)
        self.turn_off()
        self.dismiss()
        self.is_held = False
        self.renewed_until = None
        self.pass_time(10.0)
        self.writer.boot += 1
        self.writer.boot_at = self.now
        self.pass_time(10.0)
        self.begin_life()

    def next_segment(self) -> None:
        if self.is_held:
            told = self.is_fenced if self.mode is not None else None
            self.writer.next_segment(self.now, A, deadline=self.deadline, is_fenced=told)
        else:
            self.writer.next_segment(self.now)

    # --- what the helper does ------------------------------------------------------------------

    def play(self) -> None:
        self.pass_time(self.random.choice((0.1, 1.0, 5.0)))
        self.expire()
        held = (self.remove, self.renew, self.renew, self.renew, self.flush, self.delete_by_hand)
        always = (self.add, self.add, self.sum_up, self.restart, self.reboot, self.next_segment)
        if self.is_held:
            self.random.choice((*held, *always))()
        elif self.on_since is not None and self.mode and self.random.random() < 0.5:
            self.sweep()
        else:
            self.random.choice((*always, self.remove))()

    def told(self, deadline: float) -> dict[str, Any]:
        """What an entry tells of the fence."""
        if self.mode is None or self.random.random() < 0.2:
            return {}
        return {"fence": self.is_fenced, "deadline_ns": self.writer.ns(deadline)}

    def sweep(self) -> None:
        """Removes what an earlier life has left, when the table of that is over."""
        if all(self.now >= each for each in self.earlier):
            self.writer.own(self.now, "expire", A, "left by an earlier life: removing")
            if self.random.random() < 0.2:
                return self.restart()
            self.pass_time()
            outcome = "removed" if self.turn_off() else "the kernel had removed it"
            self.dismiss()
            self.writer.own(self.pass_time(), "expire", A, outcome)
        return None

    def expire(self) -> None:
        """However late: it was stopped."""
        if self.is_held and self.now >= self.deadline:
            told = self.told(self.deadline)
            self.writer.own(self.now, "expire", A, "the deadline has passed: removing", **told)
            if self.random.random() < 0.1:
                return self.restart()
            self.pass_time()
            if self.is_fenced:
                self.is_muted = True
                self.look()
            if self.random.random() < 0.1:
                why = "cannot remove it: busy"
                self.writer.own(self.now, "expire", A, why, **told)
                self.writer.own(self.pass_time(), "expire", A, "again: removing", **told)
                self.pass_time()
            outcome = "removed" if self.turn_off() else "the kernel had removed it"
            self.dismiss()
            self.writer.own(self.pass_time(), "expire", A, outcome, **told)
            self.is_held = False
        return None

    def add(self) -> None:
        deadline = asked = round(self.now + self.random.uniform(3.0, 20.0), 6)
        self.writer.intent(self.now, "add", A, deadline=asked)
        chance = self.random.random()
        self.pass_time(self.random.choice((0.05, 0.05, 2.0)))
        self.expire_while_adding()
        if chance < 0.1 and not self.is_held:
            self.writer.result(self.pass_time(), "add", A, "refused", deadline=asked)
            return None
        if chance < 0.15:
            return self.restart()
        if self.is_fenced and self.random.random() < 0.2:
            # A renewal passes it.
            deadline = round(deadline + self.random.uniform(0.0, 20.0), 6)
            live = min(self.deadline, deadline) if self.is_held else deadline
            self.marker = self.writer.marker(self.now, deadline, live=live)
        was = "present" if self.on_since is not None else "absent"
        if self.mode:
            self.admit(deadline)
            if chance < 0.25:
                return self.restart()
            self.pass_time(0.01)
        self.turn_on(deadline)
        self.is_known = True
        if not self.mode:
            self.admit(deadline)
        self.deadline = deadline
        if chance < 0.35:
            self.restart()
        elif chance < 0.4 and not self.is_held:
            self.writer.result(self.pass_time(), "add", A, "failed", deadline=asked)
        else:
            told: dict[str, Any] = {} if self.mode is None else {"fence": self.is_fenced}
            self.writer.result(self.pass_time(), "add", A, deadline=deadline, was=was, **told)
            self.is_held = True
        return None

    def expire_while_adding(self) -> None:
        if self.is_held and self.now >= self.deadline:
            # What is asked for while it is over is done by one that looks at the clock first.
            told = self.told(self.deadline)
            self.writer.own(self.now, "expire", A, "the deadline has passed: removing", **told)
            outcome = "removed" if self.turn_off() else "the kernel had removed it"
            self.dismiss()
            self.writer.own(self.pass_time(), "expire", A, outcome, **told)
            self.is_held = False

    def remove(self) -> None:
        told = self.told(self.deadline) if self.is_held else {}
        self.writer.intent(self.now, "remove", A)
        chance = self.random.random()
        self.pass_time()
        if chance < 0.1:
            return self.restart()
        was = "present" if self.turn_off() else "absent"
        if chance < 0.2:
            return self.restart()
        self.dismiss()
        if chance < 0.25:
            self.writer.write(self.pass_time(), "gap", missed=1)
        else:
            self.writer.result(self.pass_time(), "remove", A, was=was, **told)
        self.is_held = False
        return None

    def renew(self) -> None:
        deadline = round(self.now + self.random.uniform(3.0, 20.0), 6)
        if self.mode:
            # It is told before it is done.
            latest, nearest = max(self.deadline, deadline), min(self.deadline, deadline)
            self.marker = self.writer.marker(self.pass_time(0.01), latest, live=nearest)
            if self.random.random() < 0.1:
                return self.restart()
        self.deadline = deadline
        if self.is_fenced:
            self.live = self.late(deadline)
        was_on = self.on_since is not None
        if not was_on or not self.mode or self.off_at < self.now + 30:
            self.turn_on(deadline)
        if not was_on:
            self.writer.own(self.pass_time(), "extend", A, "somebody had removed it: put back")
        if not self.mode or latest != deadline:
            self.marker = self.writer.marker(self.pass_time(), deadline)
        self.renewed_until = deadline
        return None

    def sum_up(self) -> None:
        if self.renewed_until is not None:
            own = self.deadline if self.is_held else 0.0
            self.writer.renewals(self.now, max(self.renewed_until, own))
            self.renewed_until = None

    def flush(self) -> None:
        """Somebody flushes the ruleset, and the helper sees that."""
        if not self.mode:
            return None
        self.live, self.is_muted = None, False
        self.earlier.clear()
        self.look()
        self.pass_time(0.01)
        if not self.is_lost:
            self.writer.fence(self.now, "lost")
        self.is_lost = True
        chance = self.random.random()
        if chance < 0.1:
            return self.restart()
        if chance < 0.3:
            return None
        self.pass_time(0.01)
        self.is_muted = True
        self.look()
        self.pass_time(0.01)
        self.is_muted, self.is_lost = False, False
        self.live = self.late(self.deadline)
        self.look()
        self.writer.fence(self.now, "made")
        return None

    def delete_by_hand(self) -> None:
        """With a fence the helper is told of it and looks at once; else it finds that when it
        renews."""
        self.turn_off()
        if not self.mode:
            return None
        self.pass_time(0.02)
        if self.random.random() < 0.1:
            return self.restart()
        self.turn_on(self.deadline)
        self.writer.own(self.pass_time(0.02), "extend", A, "somebody had removed it: put back")
        return None

    def finish(self) -> list[tuple[float, float]]:
        if self.marker is not None:
            text = json.dumps(self.marker, sort_keys=True, separators=(",", ":"))
            (self.writer.save() / "renewed").write_text(text.ljust(512))
        end = self.now + 200.0
        while self.now < end:
            self.pass_time(10.0)
        self.turn_off()
        return self.was
