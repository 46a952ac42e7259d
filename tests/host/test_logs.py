"""A line of the log is one line, whatever comes from outside."""

import io
import logging

from yaim.host.logs import MOST, PrintableFormatter

HOSTILE = "n1\naudit head host=n1 seq=7 sha256=00\x1b]0;x\x07\u202e\x9b2J\ud800"


def logged(text: str, *, with_failure: bool = False) -> list[str]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("yaim.test")
    logger.addHandler(handler)
    if with_failure:
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("a thread has failed")
    else:
        logger.info("removes 192.0.2.10: %s is to hold it", text)
    return out.getvalue().removesuffix("\n").split("\n")


def test_a_name_from_etcd_adds_no_line_to_the_log_and_steers_no_terminal() -> None:
    """Red team: false lines of `audit head`."""
    (line,) = logged(HOSTILE)
    assert line.isprintable()
    assert line.startswith("INFO removes 192.0.2.10: n1?audit head")


def test_the_text_of_an_exception_looks_like_no_line_of_the_log() -> None:
    first, *others = logged(HOSTILE, with_failure=True)
    assert first == "ERROR a thread has failed"
    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert "ValueError: n1" in "\n".join(others)


def test_a_line_of_the_log_has_an_end() -> None:
    (line,) = logged("x" * 1_000_000)
    assert len(line) < MOST + 100 and line.endswith("...")


def test_times_are_in_utc_and_say_so() -> None:
    """They were local and without a zone, and those of the helper's record in UTC."""
    record = logging.LogRecord("yaim", logging.INFO, "", 0, "x", None, None)
    record.created = 1796117400.125
    formatter = PrintableFormatter("%(asctime)s %(levelname)s %(message)s")
    assert formatter.format(record) == "2026-12-01T09:30:00.125Z INFO x"
