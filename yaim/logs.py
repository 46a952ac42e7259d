"""Where log lines go and which: to standard error, or to the journal where that is its end; from a
level on."""

import logging
from collections.abc import Mapping

from yaim import journal

_LEVELS = {
    "Trace": logging.DEBUG,
    "Debug": logging.DEBUG,
    "Info": logging.INFO,
    "Warn": logging.WARNING,
    "Warning": logging.WARNING,
    "Error": logging.ERROR,
    "Fatal": logging.CRITICAL,
    "Panic": logging.CRITICAL,
}
"""The level names of the configuration (those of the Go original)."""


def start(level: str, fields: Mapping[str, str]) -> None:
    """`fields` go with each entry of the journal."""
    if journal.is_standard_error():
        logging.basicConfig(handlers=[journal.JournalHandler(fields)], format="%(message)s")
    else:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    # What they would warn of, the verdict of a check says.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    set_level(level)


def set_level(level: str) -> None:
    """Of yaim's own lines; those of libraries are shown from warnings on."""
    logging.getLogger("yaim").setLevel(_LEVELS[level])
