"""python -m yaim, and the command `yaim`"""

import logging
import os
import sys
from typing import NoReturn

from yaim.cli.main import main


def run() -> NoReturn:
    """Ends the process past Python's finalization, once everything has been written: a thread of
    gRPC's that still works on an ended call crashes there now and then (SIGSEGV: one of 1500
    `yaim status` without etcd, with Debian 13's libraries)."""
    status = main()
    logging.shutdown()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed at the start
            stream.flush()
    except OSError as error:
        status = os.EX_IOERR
        os.write(2, f"yaim: cannot write the output: {error.strerror}\n".encode())
    os._exit(status)


if __name__ == "__main__":
    run()
