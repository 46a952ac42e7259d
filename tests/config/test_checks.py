"""The list of checks in the configuration."""

from pathlib import Path

import pytest

from yaim.checks.http import HttpCheck
from yaim.checks.kinds import KINDS
from yaim.config.checks import CheckConfig
from yaim.config.config import KEYS, Config
from yaim.config.file import ConfigError, Issue
from yaim.config.load import Purpose, load
from yaim.config_keys import MASK

pytestmark = pytest.mark.quick
NODE = "dcs-clustername: yaim\ninterface: lo\n"
URL = "http://127.0.0.1:8008/"
SECRET = "geheim"
LIST = "a list of checks, each with its type and the keys of that type"


def file_in(directory: Path, text: str) -> Path:
    file = directory / "yaim.yml"
    file.write_text(NODE + text)
    return file


def loaded(directory: Path, text: str) -> Config:
    return load({}, {}, file_in(directory, text))


def issues_of(directory: Path, text: str, *flags: tuple[str, str]) -> list[tuple[str, str, str]]:
    """Line (of the part behind the first two lines) or where else, key, and what is expected."""
    file = file_in(directory, text)
    with pytest.raises(ConfigError) as caught:
        load(dict(flags), {}, file)
    return [(place(issue, file), issue.key, issue.expected) for issue in caught.value.issues]


def place(issue: Issue, file: Path) -> str:
    start, _, line = issue.where.rpartition(":")
    return str(int(line) - 2) if start == str(file) else issue.where


TWO = f"""\
checks:
  - name: api
    type: http
    http-url: {URL}
    interval: 2000
    timeout: 900
    retry-num: 0
    rise: 2
    fall: 3
  - type: http
    http_url: {URL}health
    http-user: monitor
    http-password: {SECRET}
interval: 500
healthy-when: any
"""


def test_each_listed_check_has_keys_of_its_own_and_what_it_does_not_say_counts_for_all(
    tmp_path: Path,
) -> None:
    config = loaded(tmp_path, TWO)
    assert config.healthy_when == "any"
    assert config.checks == (
        CheckConfig(
            name="api",
            kind="http",
            settings=HttpCheck(URL),
            is_listed=True,
            interval=2000,
            timeout=900,
            retry_num=0,
            rise=2,
            fall=3,
        ),
        CheckConfig(
            name="http",
            kind="http",
            settings=HttpCheck(f"{URL}health", user="monitor", password=SECRET),
            is_listed=True,
            interval=500,
            timeout=5000,
        ),
    )


def test_the_listed_checks_are_shown_with_their_origins_and_no_secrets(tmp_path: Path) -> None:
    file = file_in(tmp_path, TWO)
    rows = [row for row in load({}, {}, file).shown() if ": " in row[0]]
    shown = {name: (value, origin) for name, value, origin in rows}
    assert shown["api: type"] == ("http", f"{file}:5")
    assert shown["api: interval"] == ("2000", f"{file}:7")
    assert shown["http: interval"] == ("500", f"{file}:16")
    assert shown["http: timeout"] == ("5000", "default")
    assert shown["http: http-url"] == (f"{URL}health", f"{file}:13")
    assert shown["http: http-password"] == (MASK, f"{file}:15")
    assert SECRET not in str(rows)


def test_a_password_file_is_read_for_a_listed_check(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{SECRET}\n")
    text = f"checks: [{{type: http, http-url: {URL}, http-user: a, http-password-file: {secret}}}]"
    (check,) = loaded(tmp_path, text).checks
    assert check.settings == HttpCheck(URL, user="a", password=SECRET, password_file=secret)


@pytest.mark.parametrize("value", ["http", "[http]", "[]", "{type: http}", "[{type: http}, http]"])
def test_a_list_of_checks_that_is_none_is_told(value: str, tmp_path: Path) -> None:
    assert issues_of(tmp_path, f"checks: {value}\n") == [("1", "checks", LIST)]


def test_without_checks_and_checker_type_one_of_them_is_asked_for(tmp_path: Path) -> None:
    ((_, key, expected),) = issues_of(tmp_path, "checks:\n")
    assert (key, expected) == ("checker-type", KEYS["checker-type"].help)


def test_what_belongs_into_the_list_and_stands_beside_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "yaim.yml"
    text = f"checks: [{{type: http, http-url: {URL}}}]\nhttp-user: a\n"
    expected = f"it in one of the checks of the list ({file}:3), not beside it"
    assert issues_of(tmp_path, text, ("checker-type", "http")) == [
        ("2", "http-user", expected),
        ("--checker-type", "checker-type", expected),
    ]


def test_everything_that_is_wrong_in_the_list_is_told_at_once_with_its_line(
    tmp_path: Path,
) -> None:
    text = f"""\
checks:
  - name: a b
    type: http
    http-url: ftp://a/
  - http-url: {URL}
  - type: htp
  - type: http
    ttl: 5000
    interval: 5
    http-user: monitor
  - type: http
    http-url: {URL}
    retry-num: 9
    timeout: 1000
"""
    found = issues_of(tmp_path, text)
    assert [(line, key) for line, key, _ in found] == [
        ("2", "name"),
        ("4", "http-url"),
        ("5", "type"),
        ("6", "type"),
        ("7", "http-url"),
        ("8", "ttl"),
        ("9", "interval"),
        ("10", "http-password"),
        ("11", "name"),
        ("14", "timeout"),
    ]
    kinds = f"one of {', '.join(KINDS)}"
    expected = {line: text for line, _, text in found}
    assert expected["2"] == "letters, digits, _ . -, at most 40"
    assert expected["5"] == f"the kind of check, {kinds}"
    assert expected["7"].startswith("for type http: URL")
    assert expected["8"] == "it beside the list, not in it"
    assert expected["10"] == "one, or http-password-file, together with http-user"
    assert expected["11"] == f"a name of its own (the check at {tmp_path}/yaim.yml:9 has this one)"


def test_a_pace_that_no_listed_check_has_need_not_make_sense(tmp_path: Path) -> None:
    text = "checks:\n  - {type: shell, shell-command: 'true', retry-num: 0}\ntimeout: 500\n"
    assert loaded(tmp_path, text).checks[0].timeout == 500
    told = issues_of(tmp_path, text.replace(", retry-num: 0", ""))
    assert [(line, key) for line, key, _ in told] == [("2", "timeout")]


def test_keys_of_another_kind_are_told(tmp_path: Path) -> None:
    text = "checks:\n  - type: tcp\n    tcp-address: 127.0.0.1:1\n    http-url: http://a/\n"
    assert issues_of(tmp_path, text) == [("4", "http-url", "a key of a check of type tcp")]


def test_keys_of_a_kind_that_is_not_checked_are_told(tmp_path: Path) -> None:
    text = f"checker-type: http\nhttp-url: {URL}\ntcp-address: 127.0.0.1:1\n"
    expected = "checker-type tcp as well, or not this key"
    assert issues_of(tmp_path, text) == [("3", "tcp-address", expected)]


def test_checker_type_may_name_several_kinds(tmp_path: Path) -> None:
    text = f"checker-type: [http, tcp]\nhttp-url: {URL}\ntcp-address: 127.0.0.1:1\n"
    assert [check.name for check in loaded(tmp_path, text).checks] == ["http", "tcp"]


@pytest.mark.parametrize(
    "text",
    [
        f"checks: [{SECRET}]\n",
        f"checks: [{{type: http, http-url: ftp://root:{SECRET}@a/}}]\n",
        f"checks: [{{type: http, http-url: {URL}, http-pasword: {SECRET}}}]\n",
        f"checks: [{{type: http, http-url: {URL}, http-password: {SECRET}}}]\n",
        f"checks: [{{type: http, http-url: {URL}, http-password: [{SECRET}]}}]\n",
        f"checks: {{http-password: {SECRET}}}\n",
        f"checks: [[{{http-password: {SECRET}}}]]\n",
        f"checks: [{{type: http, http-url: {{a: {SECRET}}}}}]\n",
    ],
)
def test_a_secret_in_the_list_is_never_shown(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "checks: &a [*a]\n",
        "checks: [&a {type: http, http-url: *a}]\n",
        "checks: [&a {checks: [*a]}]\n",
        "checks: [{? [a] : b}]\n",
        "checks: [{}]\n",
        "checks: [~]\n",
        "checks: [{type: }]\n",
        "checks: [{type: [http]}]\n",
    ],
)
def test_whatever_the_list_holds_it_is_refused_and_nothing_crashes(
    text: str, tmp_path: Path
) -> None:
    assert issues_of(tmp_path, text)


def test_to_check_the_service_only_the_keys_of_the_checks_matter(tmp_path: Path) -> None:
    file = tmp_path / "yaim.yml"
    file.write_text(f"dcs-endpoints: wrong\nnetmask: 99\nchecker-type: http\nhttp-url: {URL}\n")
    config = load({}, {}, file, Purpose.CHECKS)
    assert [check.settings for check in config.checks] == [HttpCheck(URL)]


def test_to_look_at_a_cluster_the_checks_do_not_matter(tmp_path: Path) -> None:
    file = file_in(tmp_path, "checks: [{type: nonsense}]\n")
    assert load({}, {}, file, Purpose.CLUSTER).checks == ()
