"""Where log lines go, and which of them: to standard error, or to the journal where standard error
goes there.

Whatever comes from outside (etcd's keys and values, what helper, peers and checks say) is made
printable here, on its way out, and nowhere before: a line of the log is one line, and steers no
terminal."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from yaim.host import journal
from yaim.text import printable, shortened

MOST = 16_000
"""Characters of a line: room for a thousand addresses."""


class PrintableFormatter(logging.Formatter):
    """A traceback has lines of its own, each indented: what an exception says looks like no other
    line of the log."""

    def formatTime(
        self,
        record: logging.LogRecord,
        datefmt: str | None = None,  # noqa: ARG002
    ) -> str:
        """In UTC, as the helper's record is: on all nodes the same, also in the hour that comes
        twice (RFC 3339)."""
        at = datetime.fromtimestamp(record.created, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = shortened(record.message, MOST)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(stack_info)


def _indented(text: str) -> str:
    return "\n".join(f"  {printable(line, MOST)}" for line in text.split("\n"))


def start(level: int, fields: Mapping[str, str]) -> None:
    """Writes lines of this level and above (logging.INFO, ...). `fields` go with each entry of the
    journal."""
    if journal.is_standard_error():
        handler: logging.Handler = journal.JournalHandler(fields)
        handler.setFormatter(PrintableFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    # The verdict of a check says what urllib3 would warn of.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    set_level(level)


def set_level(level: int) -> None:
    """From now on yaim's own lines of this level and above are written. Libraries' lines are
    written from warnings on."""
    logging.getLogger("yaim").setLevel(level)
