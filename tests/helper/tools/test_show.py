"""yaim-helper audit show: each record in a line that can be read, and only those asked for."""

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from yaim_helper.tools.records import TYPES, instant, micros
from yaim_helper.tools.show import read_time

from tests.helper.chains import COMMAND, Writer, run

A, B, C = "192.0.2.1", "192.0.2.2", "2001:db8::1"
DAY = "2027-01-15T08:00:"


@pytest.fixture
def node(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "db1").start(1.0, B)


def lines(capsys: Any, *arguments: object) -> list[str]:
    status, out, err = run(capsys, "show", *arguments)
    assert (status, err) == (0, "")
    return out.splitlines()


def test_a_line_tells_when_where_who_what_and_what_came_of_it(node: Writer, capsys: Any) -> None:
    node.add(2.0, 2.1, A, 10.0)
    node.intent(3.0, "remove", A).result(3.1, "remove", A, "failed", reason="no", errno=16)
    node.own(4.0, "expire", A, "the deadline has passed: removing").renewals(5.0, 10.0)
    node.write(6.0, "stop", addresses=3)
    assert lines(capsys, node.save()) == [
        f"{DAY}01.000000Z  db1        1  start      uid 0  pid=7  version=1",
        f"{DAY}01.000000Z  db1        2  held       192.0.2.2/32 on eth0",
        f"{DAY}02.000000Z  db1        3  intent     cluster c uid 990 pid 42"
        f"  add 192.0.2.1/32 on eth0  until {DAY}10.000000Z  label=yaim",
        f"{DAY}02.100000Z  db1        4  result     cluster c uid 990 pid 42"
        "  add 192.0.2.1/32 on eth0  ok  label=yaim  was=absent",
        f"{DAY}03.000000Z  db1        5  intent     cluster c uid 990 pid 42  remove 192.0.2.1",
        f"{DAY}03.100000Z  db1        6  result     cluster c uid 990 pid 42  remove 192.0.2.1"
        "  failed: no  errno=16",
        f"{DAY}04.000000Z  db1        7  own        cluster c uid 990"
        "  expire 192.0.2.1 on eth0  the deadline has passed: removing",
        f"{DAY}05.000000Z  db1        8  renewals   cluster c uid 990 3 times until"
        f" {DAY}10.000000Z",
        f"{DAY}06.000000Z  db1        9  stop       addresses=3",
    ]


def test_a_line_tells_what_was_too_much_and_what_was_before(tmp_path: Path, capsys: Any) -> None:
    node = Writer(tmp_path / "db1").start(1.0, B)
    counts = [(990, "malformed", 14), (None, "refused", 2)]
    node.write(2.0, "summary", counts=[{"uid": u, "what": w, "count": n} for u, w, n in counts])
    node.write(3.0, "policy", outcome="ok", reason=None)
    node.write(4.0, "start", version=1, pid=8, uid=0, earlier=node.marker(3.5))
    assert lines(capsys, node.save())[2:] == [
        f"{DAY}02.000000Z  db1        3  summary    uid 990 14 malformed, uid others 2 refused",
        f"{DAY}03.000000Z  db1        4  policy     ok",
        f"{DAY}04.000000Z  db1        5  start      uid 0  the life before was there at"
        f" {DAY}03.500000Z  pid=8  version=1",
    ]


def test_a_line_tells_how_many_connections_were_ended(tmp_path: Path, capsys: Any) -> None:
    node = Writer(tmp_path / "db1")
    node.intent(2.0, "remove", A, connections="reset")
    node.result(2.1, "remove", A, was="present", connections="reset", reset=12, left=3)
    node.result(3.0, "clear", B, cleared=11, left=0)
    node.own(4.0, "expire", B, "removed", reset=1, left=0)
    assert [line.partition("uid 990 ")[2] for line in lines(capsys, node.save())] == [
        "pid 42  remove 192.0.2.1  connections=reset",
        "pid 42  remove 192.0.2.1  ok  connections=reset  left=3  reset=12  was=present",
        "pid 42  clear 192.0.2.2  ok  cleared=11",
        " expire 192.0.2.2 on eth0  removed  reset=1",
    ]


def test_the_types_are_those_that_are_documented() -> None:
    text = (Path(__file__).parents[3] / "helper" / "AUDIT.md").read_text()
    assert sorted(TYPES) == sorted(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--address", A), [3, 4]),
        (("--address", B, "--address", A), [2, 3, 4]),
        (("--address", "192.0.2.0/30"), [2, 3, 4]),
        (("--address", "2001:db8::/32"), [5, 6]),
        (("--since", f"{DAY}03"), [5, 6, 7, 8, 9]),
        (("--since", f"{DAY}02Z", "--until", "2027-01-15T09:00:03+01:00"), [3, 4]),
        (("--since", "-9999w", "--type", "start"), [1]),
        (("--outcome", "ok"), [4]),
        (("--outcome", "refused", "--outcome", "ok"), [4, 6]),
        (("--type", "held", "--type", "intent"), [2, 3, 5]),
        (("--cluster", "other"), [5, 6]),
        (("--cluster", "c", "--cluster", "other"), [2, 3, 4, 5, 6, 7]),
        (("--cluster", "nobody"), []),
    ],
)
def test_only_what_is_asked_for(
    node: Writer, capsys: Any, options: tuple[str, ...], numbers: list[int]
) -> None:
    node.add(2.0, 2.1, A, 10.0)
    node.cluster = "other"
    node.intent(3.0, "add", C, deadline=9.0).result(3.1, "add", C, "refused", deadline=9.0)
    node.cluster = "c"
    node.renewals(4.0, 9.0).write(5.0, "new", address=7).write(5.0, "new", address="x")
    assert [int(line.split()[2]) for line in lines(capsys, node.save(), *options)] == numbers


def test_records_of_several_nodes_are_told_by_time(tmp_path: Path, capsys: Any) -> None:
    one = Writer(tmp_path / "one", "db1").start(1.0).remove(3.0, 5.0, A)
    two = Writer(tmp_path / "two", "db2").start(2.0).remove(4.0, 6.0, A)
    shown = lines(capsys, one.save(), two.save())
    assert [line.split()[1] for line in shown] == [
        "db1", "db1", "db2", "db2", "db1", "db2", "db1", "db2",
    ]  # fmt: skip


def test_json_gives_the_records_as_they_are(node: Writer, capsys: Any) -> None:
    node.add(2.0, 2.1, A, 10.0)
    found = lines(capsys, node.save(), "--json")
    assert found == [line.decode().rstrip("\n") for line in node.lines]


def test_nothing_that_a_terminal_obeys_reaches_it(node: Writer, capsys: Any) -> None:
    node.cluster = "\x1b[31m\u202e\n\x9b"
    node.add(2.0, 2.1, A, 10.0).lines.append(b"\x1b]0;x\x07\n")
    status, out, err = run(capsys, "show", node.save())
    assert (status, err) == (14, f"{node.file}:5: cannot be read: not JSON\n")
    assert "cluster \\x1b[31m\\u202e\\n\\x9b uid 990" in out
    assert all(each.isprintable() for each in out.replace("\n", ""))
    assert run(capsys, "show", node.directory, "--json")[1].isascii()


def test_what_cannot_be_read_is_told_and_the_rest_shown(
    node: Writer, tmp_path: Path, capsys: Any
) -> None:
    node.write(2.0, "held", addresses="x").write(3.0, "stop", addresses=0)
    (tmp_path / "none").mkdir()
    status, out, err = run(capsys, "show", tmp_path / "none", node.save())
    assert (status, len(out.splitlines())) == (14, 3)
    assert err.splitlines() == [
        f"{tmp_path / 'none'}: cannot be read: has no segments of a record"
        " (audit-000001.jsonl ...)",
        f"{node.file}:3: cannot be read: its addresses is missing or wrong",
    ]


def test_wrong_usage_is_told(node: Writer, capsys: Any) -> None:
    directory = node.save()
    for arguments, told in (
        (("--address", "192.0.2.1/24"), "192.0.2.1/24 has host bits set"),
        (("--address", "\x1b"), "'\\x1b' does not appear to be"),
        (("--since", "yesterday"), "'yesterday' is neither a time like 2026-01-31T12:00:00Z nor"),
        (("--since", "-999999999w"), "'-999999999w' is neither a time like"),
        (("--since",), "expected one argument"),
        (("--outcome", "good"), "invalid choice: 'good'"),
    ):
        status, _, err = run(capsys, "show", directory, *arguments)
        assert status == 2
        assert told in " ".join(err.split())


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        *(("-90s", 90.0), ("-15m", 900.0), ("-1.5h", 5400.0), ("-2d", 172800.0)),
        *(("-1w", 604800.0), ("2m", 120.0), ("1.5h", 5400.0)),
    ],
)
def test_times_may_be_told_as_long_ago(text: str, ago: float) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert read_time(text, now) == micros(now - timedelta(seconds=ago))


def test_instants_beyond_all_calendars_are_the_first_or_last() -> None:
    assert instant(2**62) == "9999-12-31T23:59:59.999999Z"
    assert instant(-(2**62)) == "0001-01-01T00:00:00.000000Z"


def test_a_reader_that_has_seen_enough_is_no_error(node: Writer) -> None:
    for _ in range(3000):
        node.remove(2.0, 2.1, A)
    with subprocess.Popen(
        (*COMMAND, "show", node.save()), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as shown:
        assert shown.stdout is not None and shown.stderr is not None
        assert b"start" in shown.stdout.readline()
        shown.stdout.close()
        assert shown.stderr.read() == b""
    assert shown.returncode == 0


def test_what_is_shown_of_a_record_can_be_parsed_again(node: Writer, capsys: Any) -> None:
    shown = lines(capsys, node.save(), "--json")
    assert [json.loads(line)["type"] for line in shown] == ["start", "held"]


def test_a_line_tells_what_the_fence_does(tmp_path: Path, capsys: Any) -> None:
    node = Writer(tmp_path / "db1").start(1.0, B, fence=True, is_fenced=True)
    node.add(2.0, 2.1, A, 10.0, fence=True).fence(3.0, "lost", 2).fence(3.1, "made", 2)
    node.own(12.0, "expire", A, "removed", **node.until(10.0))
    owner = {**node.owner(20.0), "count": 2, "fence": True}
    node.write(13.0, "renewals", owners=[owner]).add(14.0, 14.1, A, 20.0, fence=False)
    told = {"in_force": False, "reason": "no nf_tables"}
    node.write(15.0, "start", version=1, pid=8, uid=0, earlier=None, fence=told)
    shown = [re.split("  +", line)[3:] for line in lines(capsys, node.save())]
    who, add = "cluster c uid 990 pid 42", "add 192.0.2.1/32 on eth0"
    lost = "somebody has flushed it"
    assert [each for each in shown if each[0] != "intent"] == [
        ["start", "uid 0", "with the fence", "pid=7", "version=1"],
        ["held", "192.0.2.2/32 on eth0 (fenced)"],
        ["result", who, add, f"ok: fenced until {DAY}10.000000Z", "label=yaim", "was=absent"],
        ["fence", "cluster c uid 990", f"lost: {lost}", "addresses=2"],
        ["fence", "cluster c uid 990", f"made: {lost}", "addresses=2"],
        [
            *("own", "cluster c uid 990", "expire 192.0.2.1 on eth0"),
            f"removed: fenced until {DAY}10.000000Z",
        ],
        ["renewals", f"cluster c uid 990 2 times until {DAY}20.000000Z (fenced)"],
        ["result", who, add, "ok: not fenced", "label=yaim", "was=absent"],
        ["start", "uid 0", "no fence: no nf_tables", "pid=8", "version=1"],
    ]


@pytest.mark.parametrize(
    ("kind", "fields", "what"),
    [
        ("start", {"earlier": None, "fence": True}, "fence"),
        ("start", {"earlier": None, "fence": {"in_force": 1, "reason": ""}}, "fence"),
        ("held", {"addresses": [], "fence": [True]}, "fence"),
        ("held", {"addresses": [], "fence": "x"}, "fence"),
        ("held", {"addresses": [[B, "eth0", 32, 7, "c", 5]], "fence": ["x"]}, "fence"),
        (
            "renewals",
            {"owners": [{"uid": 7, "cluster": "c", "count": 1, "deadline_ns": 5, "fence": 1}]},
            "owners",
        ),
        ("fence", {"uid": 7, "cluster": "c", "addresses": 1, "outcome": "lost"}, "reason"),
        (
            "own",
            {
                **{"op": "expire", "address": B, "interface": "eth0", "uid": 7, "cluster": "c"},
                **{"outcome": "removed", "fence": "x"},
            },
            "fence",
        ),
    ],
)
def test_what_is_said_of_the_fence_in_another_form_cannot_be_read(
    tmp_path: Path, capsys: Any, kind: str, fields: dict[str, Any], what: str
) -> None:
    node = Writer(tmp_path / "db1").write(1.0, kind, **fields)
    status, _, err = run(capsys, "show", node.save())
    assert (status, err) == (14, f"{node.file}:1: cannot be read: its {what} is missing or wrong\n")
