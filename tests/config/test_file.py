"""What is wrong with the file as such."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.config.samples import BASE, SECRET, file_in, issues_of
from yaim.config.file import ConfigError, Issue
from yaim.config.load import load

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("intervall", "a known key (did you mean interval?)"),
        ("http_pasword", "a known key (did you mean http-password?)"),
        ("mysql-conn-url", "a known key"),
        ("url", "a known key (did you mean http-url or patroni-url?)"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_one(
    wrong: str, expected: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{wrong}: {SECRET}\n")
    assert issues_of(file) == (Issue(f"{file}:1", wrong, "", expected),)


@pytest.mark.parametrize(
    ("first", "second"),
    [("retry-num", "retry-num"), ("retry_num", "retry-num"), ("retry-num", "retry_num")],
)
def test_a_key_that_is_given_twice_is_told_with_both_lines(
    first: str, second: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{first}: 2\ninterval: 500\n{second}: 2\n")
    assert issues_of(file) == (
        Issue(f"{file}:3", "retry-num", "it twice", f"it once (first: {file}:1)"),
    )


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (
            "interval: 500\n\tttl: 5000\n",
            2,
            "a tab at the beginning of a line: indent with spaces",
        ),
        (
            "interval: 500\n  ttl: 5000\n",
            2,
            "mapping values are not allowed here",
        ),
        (
            "checks:\n  - type: http\n     name: a\n",
            3,
            "mapping values are not allowed here",
        ),
        (
            "  interval: 500\n ttl: 5000\n",
            2,
            "expected '<document start>', but found '<block mapping start>': is the line indented"
            " like those around it?",
        ),
        ("interval: 500\nttl 5000\nnetmask: 32\n", 3, "could not find expected ..."),
        ("interval: 500\nhttp-url: a: b\n", 2, "mapping values are not allowed here"),
        ("interval: 500\nhttp-user: *a\n", 2, "found undefined alias ..."),
        ("interval: 500\n---\ninterval: 500\n", 2, "but found another document"),
    ],
)
def test_a_mistake_in_the_yaml_is_told_with_its_line(
    text: str, line: int, problem: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, text)
    assert issues_of(file) == (Issue(f"{file}:{line}", "the file", "", f"YAML ({problem})"),)


def test_a_file_that_does_not_exist_is_told(tmp_path: Path) -> None:
    file = tmp_path / "nowhere.yml"
    issue = Issue(str(file), "the file", "", "to be able to read it (No such file or directory)")
    assert issues_of(file) == (issue,)


@pytest.mark.parametrize("text", ["- interval\n", "interval\n"])
def test_a_file_that_is_no_mapping_is_told(text: str, tmp_path: Path) -> None:
    file = file_in(tmp_path, text)
    issue = Issue(f"{file}:1", "the file", "", "lines like `key: value`")
    assert issues_of(file) == (issue,)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "---\n# nothing\n", "\ufeff", "~\n"])
def test_an_empty_file_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    file = file_in(tmp_path, text)
    assert load(BASE, {}, file) == replace(load(BASE, {}, None), file=file)


@pytest.mark.parametrize(
    "text",
    [
        "interval: {" * 1000,
        "interval: " + "[" * 1000,
        "a: &a [*a]\n",
        "interval: &a {b: *a}\n",
        "interval: &a [*a]\n",
        "\x00",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "? ~\n: b",
        "<<: {interval: 500}\n",
        "interval: !!python/object:os.system {}\n",
        "%YAML 9.9\n---\ninterval: 500\n",
        'label: "\\U00110000"\n',
        'label: "\\UFFFFFFFF"\n',
    ],
)
def test_whatever_the_file_holds_it_is_refused_and_nothing_crashes(
    text: str, tmp_path: Path
) -> None:
    assert issues_of(file_in(tmp_path, text))


@pytest.mark.parametrize("text", ["!!timestamp x", "!!int ''", "!!bool x"])
def test_a_value_that_is_not_what_its_yaml_tag_says_is_told(text: str, tmp_path: Path) -> None:
    file = file_in(tmp_path, f"interval: {text}\n")
    assert [issue.key for issue in issues_of(file)] == ["interval"]


def test_a_nul_byte_in_a_path_is_told(tmp_path: Path) -> None:
    file = file_in(tmp_path, 'etcd-ca-file: "a\\0b"\n')
    assert [issue.key for issue in issues_of(file)] == ["etcd-ca-file"]


def test_a_file_that_is_not_utf_8_is_told_with_the_line(tmp_path: Path) -> None:
    """An umlaut in a comment, written with an old editor."""
    file = file_in(tmp_path, "interval: 500\n\n# für\n".encode("latin-1"))
    assert issues_of(file) == (Issue(f"{file}:3", "the file", "", "UTF-8"),)


def test_a_control_character_in_the_file_is_told_with_the_line(tmp_path: Path) -> None:
    """Pasted from a terminal."""
    file = file_in(tmp_path, "interval: 500\n\nnodename: db\x1b[1\n")
    assert [issue.where for issue in issues_of(file)] == [f"{file}:3"]


@pytest.mark.parametrize("key", ["dcs-clustername", "nodename", "http-expected-response"])
def test_text_that_is_no_unicode_is_told(key: str, tmp_path: Path) -> None:
    """It can come from a JSON file. encode() raises: in the thread of the checks, or on the way to
    etcd."""
    file = file_in(tmp_path, f'{key}: "\\uD83D\\uDE00"\n')
    flags = {each: value for each, value in BASE.items() if each != key}
    assert [issue.key for issue in issues_of(file, flags)] == [key]


@pytest.mark.parametrize("text", [None, "dcs-clustername: yaim\n\tinterface: lo\n"])
def test_of_a_file_that_cannot_be_read_nothing_is_told_to_be_missing(
    text: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "yaim.yml" if text is None else file_in(tmp_path, text)
    assert [issue.key for issue in issues_of(file, {})] == ["the file"]


def test_of_a_copy_the_file_that_it_is_a_copy_of_is_named(tmp_path: Path) -> None:
    """The log named /run/credentials/yaim.service/yaim.yml."""
    source = Path("/etc/yaim/yaim.yml")
    for text, where in (("ttl: 1\n", f"{source}:1"), ("a: b: c\n", f"{source}:1")):
        with pytest.raises(ConfigError) as caught:
            load(BASE, {}, file_in(tmp_path, text), source=source)
        assert [issue.where for issue in caught.value.issues] == [where]
    origins = load(BASE, {}, file_in(tmp_path, "ttl: 3000\n"), source=source).origins
    assert origins["ttl"] == f"{source}:1"
