"""The kinds of checks there are: the one place where a new one is entered.

A kind is a file of its own here with a dataclass of its keys, whose names in the configuration
begin with the kind's (yaim/config_keys.py), and a function that makes one attempt.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from yaim.checks.http import HttpCheck, check_http
from yaim.checks.patroni import PatroniCheck, check_patroni
from yaim.checks.pgbouncer import PgbouncerCheck, check_pgbouncer
from yaim.checks.postgres import PostgresCheck, check_postgres
from yaim.checks.shell import ShellCheck, check_shell
from yaim.checks.tcp import TcpCheck, check_tcp
from yaim.checks.verdict import Verdict
from yaim.config_keys import Fault


class KeyGroup(Protocol):
    """What a check is to do; equal to another if nothing has changed."""

    def faults(self) -> Iterator[Fault]:
        """What is wrong with keys that are right each by itself. A required one is None here where
        it is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    settings: type[KeyGroup]
    attempt: Callable[[Any, float], Verdict]
    """One attempt with such settings, at most so many seconds long. Raises nothing."""


KINDS: Mapping[str, Kind] = {
    each.name: each
    for each in (
        Kind("http", HttpCheck, check_http),
        Kind("patroni", PatroniCheck, check_patroni),
        Kind("postgres", PostgresCheck, check_postgres),
        Kind("pgbouncer", PgbouncerCheck, check_pgbouncer),
        Kind("tcp", TcpCheck, check_tcp),
        Kind("shell", ShellCheck, check_shell),
    )
}
