"""The kinds of checks that there are: a new kind is entered here, and nowhere else.

A kind is a file of its own beside this one, with a group of keys (yaim/config_keys.py), and a
function that makes one attempt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from yaim.checks.http import HttpCheck, check_http
from yaim.checks.patroni import PatroniCheck, check_patroni
from yaim.checks.pgbouncer import PgbouncerCheck, check_pgbouncer
from yaim.checks.postgres import PostgresCheck, check_postgres
from yaim.checks.shell import ShellCheck, check_shell
from yaim.checks.tcp import TcpCheck, check_tcp
from yaim.checks.verdict import Verdict
from yaim.config_keys import KeyGroup


@dataclass(frozen=True, slots=True)
class CheckKind:
    name: str
    """What checker-type says; with a dash behind it, the keys begin with it."""
    settings: type[KeyGroup]
    attempt: Callable[[Any, float], Verdict]
    """Makes one attempt with such settings, within a time limit in seconds. Raises nothing."""


KINDS: Mapping[str, CheckKind] = {
    each.name: each
    for each in (
        CheckKind("http", HttpCheck, check_http),
        CheckKind("patroni", PatroniCheck, check_patroni),
        CheckKind("postgres", PostgresCheck, check_postgres),
        CheckKind("pgbouncer", PgbouncerCheck, check_pgbouncer),
        CheckKind("tcp", TcpCheck, check_tcp),
        CheckKind("shell", ShellCheck, check_shell),
    )
}
