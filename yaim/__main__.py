"""python -m yaim, and the command `yaim`"""

import logging
import os
import select
import signal
import sys
from typing import NoReturn

# gRPC reads it when it is imported. What it would print, in the middle of our log or of a table, we
# say in better words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from yaim.cli.main import main

_NOBODY_READS, _INTERRUPTED = 128 + signal.SIGPIPE, 128 + signal.SIGINT
"""The exit statuses that a shell tells of a program which such a signal has ended."""


def run() -> NoReturn:
    """Ends the process past Python's finalization, once everything has been written: a thread of
    gRPC's that still works on an ended call crashes there now and then (SIGSEGV: one of 1500
    `yaim status` without etcd, with Debian 13's libraries)."""
    try:
        status = _status_of_main()
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        if not _does_nobody_read():
            raise
        os._exit(_NOBODY_READS)
    logging.shutdown()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed at the start
            stream.flush()
    except BrokenPipeError:
        status = _NOBODY_READS  # as `yaim doctor | head` has what it wanted
    except OSError as error:
        status = os.EX_IOERR
        os.write(2, f"yaim: cannot write the output: {error.strerror}\n".encode())
    os._exit(status)


def _status_of_main() -> int:
    try:
        return main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _does_nobody_read() -> bool:
    """Whether our output is what has broken, and not a connection of the program's."""
    looking = select.poll()
    for stream in (1, 2):
        looking.register(stream, 0)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in looking.poll(0))


if __name__ == "__main__":
    run()
