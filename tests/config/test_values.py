"""Values that are wrong, and what is said of them."""

from pathlib import Path

import pytest

from tests.config.samples import BAD, BASE, LEVELS, NO_FILE, base_for, file_in, issues_of, together
from yaim.config.config import KEYS
from yaim.config.file import Issue
from yaim.config.load import load

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://127.0.0.1:2379", ("http://127.0.0.1:2379",)),
        ("http://etcd1", ("http://etcd1:2379",)),
        ("https://etcd1/", ("https://etcd1:2379",)),
        ("HTTPS://etcd1:443", ("https://etcd1:443",)),
        ("http://[2001:db8::1]", ("http://[2001:db8::1]:2379",)),
        ("https://[::1]:2380", ("https://[::1]:2380",)),
        ("http://a,https://b:1 , http://c", ("http://a:2379", "https://b:1", "http://c:2379")),
        ("[http://a, 'https://b:1']", ("http://a:2379", "https://b:1")),
        ("\n  - http://a\n  - https://b:1", ("http://a:2379", "https://b:1")),
        ("\n- http://a\n- http://a:2379\n- http://a/", ("http://a:2379",)),
    ],
)
def test_endpoints_are_a_list_or_text_with_commas(
    text: str, endpoints: tuple[str, ...], tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"dcs-endpoints: {text}\n")
    assert load(BASE, {}, file).value("dcs-endpoints") == endpoints


TOGETHER = "15 together with lo:"


def test_the_table_of_bad_values_is_complete() -> None:
    assert {key for key, *_ in BAD} == KEYS.keys()


@pytest.mark.parametrize(("key", "text", "shown", "expected"), BAD)
def test_a_bad_value_is_told_with_its_line_and_what_is_expected(
    key: str, text: str, shown: str, expected: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"# a comment\n\n{key}: {text}\n")
    flags = base_for(key)
    issue = Issue(f"{file}:3", key, shown, expected)
    assert issues_of(file, flags) == (issue,)
    assert str(issue) == f"{file}:3: {key}: got {shown}, expected {expected}"


def test_a_bad_value_is_told_with_the_flag_or_the_variable_that_it_came_from() -> None:
    expected = "a whole number from 3000 to 3600000"
    from_flag = issues_of(None, {**BASE, "ttl": "1"})
    from_environment = issues_of(None, BASE, {"YAIM_TTL": "2s"})
    assert (*from_flag, *from_environment) == (
        Issue("--ttl", "ttl", "'1'", expected),
        Issue("YAIM_TTL", "ttl", "'2s'", expected),
    )


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = file_in(
        tmp_path,
        "interval: 1\n"
        "intervall: 1000\n"
        "netmask: 24\n"
        "netmask: 25\n"
        "dcs-clustername: yaim\n"
        "checker-type: [http]\n"
        "http-user: monitor\n"
        "label: toolongalabel\n",
    )
    flags = {"ttl": "1", "interface": "lo"}
    assert issues_of(file, flags, {"YAIM_LOG_LEVEL": "Loud"}) == (
        Issue(f"{file}:1", "interval", "'1'", "a whole number from 100 to 3600000"),
        Issue(f"{file}:2", "intervall", "", "a known key (did you mean interval?)"),
        Issue(f"{file}:4", "netmask", "it twice", f"it once (first: {file}:3)"),
        Issue(f"{file}:7", "http-password", "nothing", together("http-password", "http-user")),
        Issue(f"{file}:8", "label", "'toolongalabel'", f"at most 12 characters, {TOGETHER}"),
        Issue("--ttl", "ttl", "'1'", "a whole number from 3000 to 3600000"),
        Issue("YAIM_LOG_LEVEL", "log-level", "'Loud'", LEVELS),
        Issue(str(file), "http-url", "nothing", f"for checker-type http: {KEYS['http-url'].help}"),
    )


def test_what_is_wrong_in_the_file_is_told_in_the_order_of_its_lines(tmp_path: Path) -> None:
    wrong = ["ttl: 1", "foo: 1", "netmask: 99", *["#"] * 7, "interval: 1", "ttl: 2", "label: a b"]
    file = file_in(tmp_path, "\n".join(wrong))
    where = [issue.where for issue in issues_of(file, {**BASE, "retry-num": "x"})]
    assert where == [f"{file}:{line}" for line in (1, 2, 3, 11, 12, 13)] + ["--retry-num"]


def test_what_must_be_given_is_asked_for_with_an_explanation(tmp_path: Path) -> None:
    file = file_in(tmp_path, "")
    assert issues_of(file, {}) == tuple(
        Issue(str(file), key, "nothing", KEYS[key].help)
        for key in ("dcs-clustername", "interface", "checker-type")
    )


def test_where_there_is_no_file_at_all_that_is_told_too() -> None:
    assert [(issue.where, issue.key) for issue in issues_of(None, {})] == [
        (NO_FILE, key) for key in ("dcs-clustername", "interface", "checker-type")
    ]


@pytest.mark.parametrize("key", ["dcs-clustername", "interface", "checker-type"])
def test_a_required_key_that_is_wrong_is_not_told_to_be_missing_too(key: str) -> None:
    (issue,) = issues_of(None, {**BASE, key: "/ /"})
    assert (issue.where, issue.key, issue.given) == (f"--{key}", key, "'/ /'")
