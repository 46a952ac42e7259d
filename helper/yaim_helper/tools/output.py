"""Standard output of the tools: it may be closed, full, or read by nobody any more. And a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def output() -> Iterator[None]:
    """Ends without an error if whoever reads has seen enough. Raises OSError if what was printed
    cannot be written."""
    if sys.stdout is None:
        # Closed before this process began.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError:
        discard_output()
        raise


def discard_output() -> None:
    """Throws away what is printed from now on, and what is left in the buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def write_anew(file: Path, text: str) -> None:
    """Writes a file, but not through a link that somebody has put there. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(file, flags, 0o666), "w") as stream:
        stream.write(text)
