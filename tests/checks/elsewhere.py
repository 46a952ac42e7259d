"""Attempts of checks where a file of the system has another content."""

import json
import subprocess
import sys
from pathlib import Path

from tests.checks.stopwatch import IN_A_PROGRAM
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict

SLACK_S = 0.5
_VERDICTS = {kind.__name__: kind for kind in (Healthy, Unhealthy, CannotTell)}
_PROGRAM = (
    IN_A_PROGRAM
    + """
import json, sys
from yaim.checks.kinds import KINDS
from yaim.config_keys import keys_in, required_of
kind = KINDS[sys.argv[1]]
(name,) = required_of(kind.settings)
check = kind.settings(keys_in(kind.settings)[name].read(sys.argv[2]), **json.loads(sys.argv[4]))
watch = Stopwatch()
verdict = kind.attempt(check, float(sys.argv[3]))
print(watch.took_s(), type(verdict).__name__, verdict.reason)
"""
)


def attempt_where(
    file: str,
    text: str,
    kind: str,
    target: str,
    directory: Path,
    timeout_s: float = 10.0,
    **more: str,
) -> Verdict:
    """An attempt of a check of that kind, with the one key that it needs, and more, which must keep
    within its bound, in a process for which the file holds the text."""
    other = directory / "other"
    other.write_text(text)
    told = subprocess.run(
        (
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", str(other), file),
            *(sys.executable, "-P", "-c", _PROGRAM, kind, target, str(timeout_s)),
            json.dumps(more),
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    seconds, verdict, reason = told.strip().split(" ", 2)
    assert float(seconds) < timeout_s + SLACK_S
    return _VERDICTS[verdict](reason)
