"""Lines on standard error, for the person or the service manager that runs the helper.

Never fails: standard error may be closed, or its disk full.
"""

import sys
from contextlib import suppress


def tell(text: str) -> None:
    """Writes each line of the text behind the name of the program; nothing if there is none."""
    with suppress(OSError):
        for line in text.splitlines():
            print(f"yaim-helper: {line}", file=sys.stderr, flush=True)  # noqa: T201
