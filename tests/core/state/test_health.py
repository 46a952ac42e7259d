"""When a check changes, and what several checks amount to."""

from dataclasses import replace

import pytest

from yaim.core.model import Boottime, NodeName
from yaim.core.settings import CheckSettings, Settings
from yaim.core.state.health import Checked, Health, after_answer, at, judge


def settings(*names: str, is_any_enough: bool = False) -> Settings:
    return Settings(
        NodeName("n1"),
        "eth0",
        32,
        128,
        ttl_s=3,
        interval_s=1.0,
        version="1.0",
        checks=tuple(map(CheckSettings, names)),
        is_any_enough=is_any_enough,
    )


def told(check: CheckSettings, answers: str) -> str:
    """`+-` for healthy and unhealthy: what the check counts as after each of its answers."""
    checked, counts = None, ""
    for number, answer in enumerate(answers):
        until = Boottime(number + 1.0)
        checked = after_answer(check, checked, answer == "+", f"{answer}{number}", until)
        assert checked.valid_until == until
        counts += "+" if checked.is_healthy else "-"
    return counts


@pytest.mark.parametrize(
    ("rise", "fall", "answers", "counts"),
    [
        (1, 1, "+-+-", "+-+-"),
        (3, 2, "+-+--", "+++" + "+-"),
        (3, 1, "-++-+++", "------+"),
        (1, 3, "+--+---+", "++++++-+"),
        (2, 2, "-", "-"),
        (2, 2, "+", "+"),
    ],
)
def test_a_check_changes_after_so_many_answers_in_a_row_and_its_first_counts_at_once(
    rise: int, fall: int, answers: str, counts: str
) -> None:
    assert told(CheckSettings("web", rise, fall), answers) == counts


def test_the_reason_is_that_of_the_answer_that_changed_it() -> None:
    check = CheckSettings("web", fall=2)
    checked = Checked(True, "HTTP 200", Boottime(1.0))
    for number in (2, 3, 4):
        checked = after_answer(check, checked, False, f"answer {number}", Boottime(number))
    assert checked == Checked(False, "answer 3, 2 in a row", Boottime(4.0))


def test_silence_counts_at_once_and_interrupts_a_row() -> None:
    well = Checked(True, "HTTP 200", Boottime(5.0), against=1)
    assert at(well, Boottime(4.9)) == well
    assert at(well, Boottime(5.0)) == Checked(False, "has not answered in time", Boottime(5.0))
    silent = at(well, Boottime(5.0))
    answers = after_answer(CheckSettings("web"), silent, False, "HTTP 503", Boottime(6.0))
    assert answers == Checked(False, "HTTP 503", Boottime(6.0))
    ill = Checked(False, "HTTP 503", Boottime(5.0), against=1)
    assert at(ill, Boottime(5.0)) == Checked(False, "HTTP 503", Boottime(5.0))


def judged(verdicts: str, *, is_any_enough: bool) -> bool | None:
    """`+-?` for checks that are healthy, unhealthy and have not answered yet."""
    names = [f"check{number}" for number in range(len(verdicts))]
    checked = {
        name: Checked(verdict == "+", "why", Boottime(1.0))
        for name, verdict in zip(names, verdicts, strict=True)
        if verdict != "?"
    }
    health = judge(settings(*names, is_any_enough=is_any_enough), checked)
    return health.is_healthy if health is not None else None


@pytest.mark.parametrize(
    ("verdicts", "all_of_them", "any_of_them"),
    [
        ("", None, None),
        ("?", None, None),
        ("+", True, True),
        ("-", False, False),
        ("++", True, True),
        ("+-", False, True),
        ("--", False, False),
        ("+?", None, True),
        ("-?", False, None),
        ("??", None, None),
        ("+-?", False, True),
    ],
)
def test_health_is_known_as_soon_as_the_checks_decide_it(
    verdicts: str, all_of_them: bool | None, any_of_them: bool | None
) -> None:
    assert judged(verdicts, is_any_enough=False) is all_of_them
    assert judged(verdicts, is_any_enough=True) is any_of_them


WELL = Checked(True, "HTTP 200", Boottime(1.0))
ILL = Checked(False, "connection refused", Boottime(1.0))
SILENT = at(WELL, Boottime(1.0))


@pytest.mark.parametrize(
    ("checked", "health"),
    [
        ({"web": WELL}, Health(True, "HTTP 200")),
        ({"web": ILL}, Health(False, "connection refused")),
        ({"web": SILENT}, Health(False, "check web has not answered in time")),
        ({"web": WELL, "db": WELL}, Health(True, "web, db", ("web", "db"))),
        ({"web": WELL, "db": ILL}, Health(False, "db: connection refused", ("db",))),
        (
            {"web": SILENT, "db": ILL},
            Health(False, "web: has not answered in time; db: connection refused", ("web", "db")),
        ),
    ],
)
def test_the_reason_names_the_checks_where_there_are_several(
    checked: dict[str, Checked], health: Health
) -> None:
    assert judge(settings(*checked), checked) == health


def test_a_node_that_is_healthy_although_a_check_fails_says_which_one() -> None:
    any_of_them = replace(settings("web", "db"), is_any_enough=True)
    reason = "web; failing: db: connection refused"
    assert judge(any_of_them, {"web": WELL, "db": ILL}) == Health(True, reason, ("web",))


def test_what_is_known_of_a_check_that_is_no_longer_made_does_not_count() -> None:
    assert judge(settings("web"), {"web": WELL, "db": ILL}) == Health(True, "HTTP 200")
