"""What `yaim status --watch` shows from one look to the next, and how it is drawn."""

from dataclasses import replace
from datetime import timedelta
from io import StringIO

import pytest

from tests.status.clusters import UNHELD, WELL, made
from yaim.core.model import Revision
from yaim.dcs.store import NotPermitted, Unreachable
from yaim.status.facts import ClusterStatus
from yaim.status.screen import Screen, fitted, has_colours
from yaim.status.table import as_table
from yaim.status.watching import STALE_AFTER_S, Failed, Shown, essence, lines_of

SILENT = Failed(Unreachable("http://etcd1:2379: no answer in time"))


def table(status: ClusterStatus, age_s: float | None) -> str:
    return as_table(status, age_s=age_s)


def first_lines(shown: Shown, now: float) -> tuple[str, str]:
    lines = lines_of(shown, now, table)
    return lines[0], lines[-1]


def test_what_was_read_last_is_shown() -> None:
    shown = Shown().after(made(UNHELD), 10.0).after(made(WELL), 11.0).after(None, 12.0)
    assert first_lines(shown, 12.0)[0] == "Cluster /service/yaim/ is healthy."


def test_an_outage_is_survived_and_shows_how_old_the_rest_is() -> None:
    shown = Shown().after(made(WELL), 10.0).after(SILENT, 15.0)
    old = "Cluster /service/yaim/: etcd is silent: what follows is {} s old."
    why = "cannot read etcd: http://etcd1:2379: no answer in time"
    assert first_lines(shown, 22.0) == (old.format(12), why)
    assert first_lines(shown, 23.0) == (old.format(13), why)
    again = shown.after(made(WELL), 24.0)
    assert first_lines(again, 24.0)[0] == "Cluster /service/yaim/ is healthy."


def test_a_watch_that_tells_nothing_at_all_is_an_outage_too() -> None:
    shown = Shown().after(made(WELL), 10.0)
    assert shown.age_s(10.0 + STALE_AFTER_S) is None
    assert shown.age_s(11.0 + STALE_AFTER_S) == 11.0


def test_before_anything_was_read_that_is_said() -> None:
    assert lines_of(Shown(), 1.0, table) == ["reading etcd ..."]
    assert lines_of(Shown().after(SILENT, 1.0), 2.0, table) == [
        "cannot read etcd: http://etcd1:2379: no answer in time"
    ]


def test_who_may_not_read_need_not_wait() -> None:
    refused = Failed(NotPermitted("user viewer may not read /service/yaim/"))
    assert Shown().after(refused, 1.0).is_refused
    assert not Shown().after(SILENT, 1.0).is_refused
    assert not Shown().after(made(WELL), 1.0).after(refused, 2.0).is_refused


def test_a_later_look_at_the_same_cluster_is_no_change() -> None:
    status = made(WELL)
    later = replace(status, seen_at=status.seen_at + timedelta(hours=1), revision=Revision(99))
    assert essence(later) == essence(status) != essence(made(UNHELD))


# --- the screen ----------------------------------------------------------------------------------


def test_lines_are_cut_to_the_width_and_their_colours_are_not() -> None:
    lines = ["0123456789", "ab\x1b[32mcdefgh\x1b[0m ij"]
    assert fitted(lines, 4, 9) == ["0123", "ab\x1b[32mcd\x1b[0m"]


def test_of_too_many_lines_the_last_one_tells_how_many_are_left_out() -> None:
    assert fitted([str(number) for number in range(10)], 80, 10) == list("0123456789")
    assert fitted([str(number) for number in range(11)], 80, 4) == [
        "0",
        "1",
        "2",
        "and 8 more lines",
    ]


def test_nothing_is_drawn_if_it_is_there_already() -> None:
    stream = StringIO()
    screen = Screen(stream)
    screen.draw(["a", "b"])
    assert stream.getvalue() == "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"
    screen.draw(["a", "b"])
    assert stream.getvalue().count("\x1b[H") == 1
    screen.draw(["a"])
    assert stream.getvalue().endswith("\x1b[Ha\x1b[K\n\x1b[J")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "has_them"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (StringIO(), {"TERM": "xterm"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_colours_are_for_terminals_that_have_them(
    stream: StringIO, environment: dict[str, str], has_them: bool
) -> None:
    assert has_colours(stream, environment) is has_them
