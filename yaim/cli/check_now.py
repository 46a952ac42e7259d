"""`yaim check --now`: asks the coordinator on this host for all checks at once.

It reads no configuration, as those who call it may not be allowed to: PostgreSQL's user, in
Patroni's callbacks."""

import fcntl
import os
import stat
import sys
from collections.abc import Sequence

from yaim.text import printable

DEFAULT_FILE = "/run/yaim-check/now"
VARIABLE, OPTION = "YAIM_CHECK_TRIGGER", "--check-trigger"


def quickly(arguments: Sequence[str]) -> int | None:
    """Does it, and returns the exit status, if that is all that the arguments ask for; None: they
    ask for something else. The words that Patroni appends mean nothing. To load the configuration's
    keys and the parser of all commands would take a quarter of a second."""
    if list(arguments[:2]) != ["check", "--now"]:
        return None
    options = [each for each in arguments[2:] if each.startswith("-")]
    paths = [each.partition("=")[2] for each in options if each.startswith(f"{OPTION}=")]
    return ask(paths[-1] if paths else "") if len(paths) == len(options) else None


def ask(path: str) -> int:
    """Returns the exit status: 0 if a coordinator sees it. `path`: as configured; empty: not."""
    path = path or os.environ.get(VARIABLE, "")
    path = DEFAULT_FILE if path in ("", "auto") else path
    if not (why := _why_not(path)):
        return 0
    told = f"yaim: nobody looks at {printable(f'{path} ({why})')}: does yaim run here, with this"
    print(f"{told} check-trigger? ({OPTION}=PATH, as in its yaim.yml)", file=sys.stderr)
    return 1


def _why_not(path: str) -> str:
    """Opens the file, which is all that has to be done; returns why nobody has seen it, or nothing:
    then a coordinator has its lock (yaim/checks/now.py)."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        return "not a file of yaim's"
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(file)
    return "left behind"
