"""`yaim check --now`: asks the coordinator on this host for all checks at once.

It reads no file, as those who call it may not be allowed to: PostgreSQL's user, in Patroni's
callbacks."""

import os
import socket
import sys
from collections.abc import Sequence

from yaim.text import printable

DEFAULT_SOCKET = "/run/yaim-check/check.sock"
VARIABLE, OPTION = "YAIM_CHECK_SOCKET", "--check-socket"
PATIENCE_S = 1.0


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
    """Returns the exit status: 0 if the coordinator has it. `path`: as configured; empty: not."""
    path = path or os.environ.get(VARIABLE, "")
    path = DEFAULT_SOCKET if path in ("", "auto") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE_S)
        try:
            asking.sendto(b"check", path)
        except OSError as error:
            where = printable(f"{path} ({error.strerror or error})")
            told = f"yaim: nobody takes it at {where}: does yaim run here, and listen there?"
            print(f"{told} ({OPTION}=PATH, as in its yaim.yml)", file=sys.stderr)
            return 1
    return 0
