"""What is wrong with the helper's own files, and would not show before something is to be added:
a record that cannot be written, a helper.yml that is not what is in force.

Looked at in the record's thread, since it may wait for a disk, and only when somebody asks: the
reply tells what the last look has found. Decides nothing.
"""

import math
from functools import partial
from hashlib import sha256

from yaim_helper.policy.read import read_text
from yaim_helper.policy.rules import Policy, PolicyError
from yaim_helper.record.recorder import Recorder

LOOK_EVERY_S = 10.0
"""The time from one look to the next, however often somebody asks."""
MAX_REASON = 300
"""The most characters of a reason that a reply tells."""


class Looks:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._looked_at = -math.inf
        self._is_looking = False
        """A look is under way: it may wait for a disk that hangs."""
        self._is_refused = False
        """What was in the file when it was read last could not be used."""
        self.differs: str | None = None
        """How the file differs from the policy in force. The record's thread sets it."""

    def found(self, policy: Policy, now: float) -> dict[str, str]:
        """Returns what the last look has found, as a reply tells it, and has another one done if it
        is time."""
        if now >= self._looked_at + LOOK_EVERY_S and not self._is_looking:
            self.look(policy, now, is_refused=self._is_refused)
        found = {"record": self._recorder.why_not(now), "rules_differ": self.differs}
        return {key: text[:MAX_REASON] for key, text in found.items() if text is not None}

    def look(self, policy: Policy, now: float, *, is_refused: bool = False) -> None:
        """Has the files looked at. `is_refused`: the file was read again, and cannot be used."""
        self._looked_at, self._is_looking, self._is_refused = now, True, is_refused
        self._recorder.look(partial(self._look_at_rules, policy, is_refused))

    def _look_at_rules(self, policy: Policy, is_refused: bool) -> None:
        """In the record's thread."""
        self.differs = _difference(policy, is_refused)
        self._is_looking = False


def _difference(policy: Policy, is_refused: bool) -> str | None:
    """Returns how the file differs from the policy that was read from it, and what to do; None: it
    does not."""
    try:
        if sha256(read_text(policy.path)).hexdigest() == policy.sha256:
            return None
    except PolicyError as error:
        return str(error)
    if is_refused:
        why = (
            "could not be used when it was read again: correct it (yaim-helper policy check), then"
        )
    else:
        why = "was changed and not read again:"
    return f"{policy.path} {why} systemctl reload yaim-helper"
