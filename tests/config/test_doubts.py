"""What may stand in a configuration and is likely not meant."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.config.samples import BASE, TLS, file_in, issues_of
from yaim.checks.kinds import KINDS
from yaim.checks.targets import hosts_of
from yaim.config.config import KEYS
from yaim.config.foreign import INSTEAD
from yaim.config.load import load

pytestmark = pytest.mark.quick
CUT = "ends before the blank and #, which begin a comment: put it in 'quotes' if not"
POSTGRES = {"dcs-clustername": "pg", "interface": "lo", "checker-type": "postgres"}


def doubts(directory: Path, text: str, flags: Mapping[str, str] = BASE) -> list[str]:
    """Without the name of the file."""
    loaded = load(flags, {}, file_in(directory, text))
    return [str(each).removeprefix(f"{loaded.file}:") for each in loaded.doubts]


def test_a_configuration_without_doubts_has_none(tmp_path: Path) -> None:
    text = "nodename: db1 # the first\netcd-user: root\netcd-password: 'abc #def'\n"
    assert doubts(tmp_path, text) == []


@pytest.mark.parametrize("comment", [" #def", "   # def", " #"])
def test_a_password_that_a_comment_cuts_off_is_pointed_out(comment: str, tmp_path: Path) -> None:
    """`etcd-password: abc #def` is abc."""
    text = f"etcd-user: root\netcd-password: abc{comment}\n"
    assert doubts(tmp_path, text) == [f"2: etcd-password: {CUT}"]


def test_also_in_the_list_of_checks_and_with_a_hash_inside_of_a_word(tmp_path: Path) -> None:
    flags = {"dcs-clustername": "pg", "interface": "lo"}
    text = "checks:\n  - type: tcp\n    tcp-address: a:1\n    tcp-send: a #b\n    tcp-expect: a#b\n"
    assert doubts(tmp_path, text, flags) == [f"4: tcp-send: {CUT}"]


def test_a_variable_is_pointed_out_but_where_it_may_be_meant(tmp_path: Path) -> None:
    text = "http-url: http://${HOST}/\nhttp-expected-response: ${A}\nlabel: a\n"
    flags = {key: value for key, value in BASE.items() if key != "http-url"}
    told = "1: http-url: ${HOST} is taken as it is written: yaim.yml has no variables"
    assert doubts(tmp_path, text, flags) == [told]


def test_a_timeout_of_an_hour_with_a_ttl_of_seconds_is_pointed_out_once(tmp_path: Path) -> None:
    text = "timeout: 3600000\nchecker-type: [http, patroni]\n"
    flags = {key: value for key, value in BASE.items() if key != "checker-type"}
    assert doubts(tmp_path, text, flags) == [
        "1: timeout: a service that hangs costs 3600 s before it counts, as the check may take so"
        " long; the ttl is 5 s"
    ]
    assert doubts(tmp_path, "timeout: 50000\n") == []


@pytest.mark.parametrize("kind", ["http", "patroni"])
def test_tls_files_without_tls_and_a_second_user_are_pointed_out(kind: str, tmp_path: Path) -> None:
    flags = {"dcs-clustername": "pg", "interface": "lo", "checker-type": kind}
    text = (
        f"{kind}-url: http://a:b@h/\n{kind}-user: c\n{kind}-password: d\n"
        f"{kind}-ca-file: {TLS.ca}\n{kind}-cert-file: {TLS.leaf}\n{kind}-key-file: {TLS.key}\n"
    )
    unused = f"is not used: {kind}-url is http://, without TLS"
    assert doubts(tmp_path, text, flags) == [
        f"2: {kind}-user: goes before the user in {kind}-url, which is not used",
        f"4: {kind}-ca-file: {unused}",
        f"5: {kind}-cert-file: {unused}",
        f"6: {kind}-key-file: {unused}",
    ]
    assert doubts(tmp_path, text.replace("http://a:b@h", "https://h"), flags) == []


def test_tls_files_with_a_socket_are_pointed_out(tmp_path: Path) -> None:
    text = f"postgres-conn-url: host=/run/postgresql\npostgres-ca-file: {TLS.ca}\n"
    expected = "2: postgres-ca-file: is not used: postgres-conn-url is a socket, without TLS"
    assert doubts(tmp_path, text, POSTGRES) == [expected]
    assert doubts(tmp_path, text.replace("/run/postgresql", "db1"), POSTGRES) == []


def test_several_servers_are_pointed_out(tmp_path: Path) -> None:
    text = "postgres-conn-url: postgresql://db1,db2/app\n"
    assert doubts(tmp_path, text, POSTGRES) == [
        "1: postgres-conn-url: names 2 servers: whichever answers first counts, so this node may be"
        " healthy by the service of another"
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("virtual_router_id", "dcs-clustername, which tells clusters apart"),
        ("ip", "the addresses in the pool, once for all nodes: yaim pool add ADDRESS"),
    ],
)
def test_a_key_of_another_program_is_told_what_to_do_instead(
    key: str, expected: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{key}: 1\n")
    (issue,) = issues_of(file)
    assert (issue.key, issue.expected) == (key, expected)


def test_no_key_of_ours_is_one_of_another_program() -> None:
    assert not INSTEAD.keys() & KEYS.keys()
    assert all("_" not in key for key in INSTEAD)


def hosts(kind: str, **given: str) -> tuple[str, ...]:
    flags = {"dcs-clustername": "pg", "interface": "lo", "checker-type": kind}
    flags |= {f"{kind}-{name.replace('_', '-')}": value for name, value in given.items()}
    (check,) = load(flags, {}, None).checks
    return hosts_of(check.settings)


def test_whom_a_check_asks_is_known() -> None:
    assert hosts("http", url="https://u:p@[2001:db8::1]:1/") == ("2001:db8::1",)
    assert hosts("patroni") == ("127.0.0.1",)
    assert hosts("tcp", address="db1:5432") == ("db1",)
    assert hosts("postgres", conn_url="host=/run/x,db1,db2 hostaddr=,192.0.2.1,192.0.2.2") == (
        "192.0.2.1",
        "192.0.2.2",
    )
    assert hosts("pgbouncer", conn_url="host=/run/postgresql port=6432") == ()
    assert hosts("shell", command="true") == ()
    assert {*KINDS} == {"http", "patroni", "tcp", "postgres", "pgbouncer", "shell"}
