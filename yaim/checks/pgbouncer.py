"""The pgbouncer check: ask its console how it is, or run a query through it.

The console (database "pgbouncer"; the user must be one of stats_users or admin_users) tells about
pgbouncer alone. Before 1.19 it does not tell of a PAUSE of all databases (only by how it refuses an
admin's commands, and it logs that as an error each time).

A suspended pgbouncer answers on no new connection, and so looks like one that hangs. It still does
on a console connection that was there before. Only if suspended is to count as healthy, that of the
last attempt is kept, and asked when a new one gets no answer. That has side effects:

- It takes one of max_client_conn.
- A pgbouncer that waits for its clients before it ends (SIGTERM, from 1.23 on) waits for our next
  attempt, which closes it.
- A suspended pgbouncer resumes by itself when its console has no connection any more. Ours is
  closed if it is the only one; those of two nodes keep it suspended when the one who did it has
  gone.
- Before 1.19 any answer there counts as "suspended", although a pgbouncer that is out of file
  descriptors answers in the same way.

A client that waits for a server, because its database is paused or its server hangs, is kept by
pgbouncer for query_wait_timeout, also when it has gone. So a query that is given up goes on in a
thread, and the next attempts wait for that one; or each would leave one more there, until pgbouncer
is full.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from yaim.checks.postgres import Bounded, Rows, judge_error, judge_query, told_by
from yaim.checks.transport.libpq import LibpqError, Session, connect, effective, missing, parse
from yaim.checks.transport.libpq_keys import LibpqKeys, conn_url, mask_conn_url
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault, any_text, key, one_of, required, text
from yaim.host.pending import Pending
from yaim.text import printable

_WAITS_S = 60.0
"""A query that was given up goes on so long at most."""
CONSOLE = "pgbouncer"
"""Every pgbouncer has a database of this name."""
_HELD_BACK = 0.25
"""The share of an attempt's time that is for the connection that was kept."""
_HAS_SHOW_STATE = 11900
"""Version 1.19.0 of pgbouncer, as libpq tells it."""
_OWN_ERROR = "08P01"
"""Everything that pgbouncer itself refuses has this SQLSTATE."""
_BROKEN_OFF = re.compile(r"server conn crashed|server closed|client_login_timeout")
"""What pgbouncer says with that code when it could not finish."""
_LOGIN_FAILED = ("SASL authentication failed", "password authentication failed")
"""What pgbouncer says with that code when it does not let a user in."""


@dataclass(frozen=True, slots=True)
class PgbouncerCheck(LibpqKeys):
    conn_url: str = required(
        "pgbouncer, as libpq takes it: a URL, or keywords; without pgbouncer-query without a"
        " database",
        conn_url,
        mask=mask_conn_url,
    )
    database: str | None = key(
        "the one of its databases that counts, by pgbouncer's name for it; default: all", text()
    )
    when_paused: str = key(
        "what a pgbouncer that is paused, or whose database is, counts as",
        one_of("healthy", "unhealthy"),
        "unhealthy",
    )
    when_suspended: str = key(
        "what a pgbouncer that is suspended counts as; healthy keeps one connection to its console",
        one_of("healthy", "unhealthy"),
        "unhealthy",
    )
    query: str | None = key(
        "query that is run through it; default: none, and its console is asked", text()
    )
    expected_response: str | None = key(
        "what the query gives on a healthy server, as psql -At prints it", any_text
    )

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong with keys together, or without what they need."""
        yield from self.connection_faults("pgbouncer-")
        if missing() is not None:
            return
        dbname = parse(self.conn_url or "").get("dbname")
        if self.query is None:
            if self.expected_response is not None:
                expected = "one together with pgbouncer-expected-response"
                yield Fault("pgbouncer-query", expected, "pgbouncer-expected-response")
            if dbname not in (None, CONSOLE):
                expected = f"no database in it, or {CONSOLE}, without pgbouncer-query"
                yield Fault("pgbouncer-conn-url", f"{expected}; or is it pgbouncer-database?")
            return
        if dbname == CONSOLE:
            expected = f"a database other than {CONSOLE} in it together with pgbouncer-query"
            yield Fault("pgbouncer-conn-url", expected, "pgbouncer-query")
        if self.database is not None:
            yield Fault("pgbouncer-database", "none with pgbouncer-query", "pgbouncer-query")
        expected = "unhealthy with pgbouncer-query"
        if self.when_paused != "unhealthy":
            yield Fault("pgbouncer-when-paused", expected, "pgbouncer-query")
        if self.when_suspended != "unhealthy":
            yield Fault("pgbouncer-when-suspended", expected, "pgbouncer-query")


def check_pgbouncer(check: PgbouncerCheck, timeout_s: float) -> Verdict:
    """Makes one attempt, on a new connection. `timeout_s` bounds everything together."""
    ends_at = time.monotonic() + timeout_s
    if (query := check.query) is not None:
        verdict = _queries.wait(check, lambda: _run_query(check, query, timeout_s), timeout_s)
        return verdict or CannotTell(f"no answer within {timeout_s:.2g} s")
    _kept.only_for(check)
    held_back_s = 0.0 if _kept.console is None else timeout_s * _HELD_BACK
    try:
        return _ask_console(check, ends_at - held_back_s)
    except LibpqError as error:
        verdict = _judge_error(check, error, timeout_s)
    if isinstance(verdict, CannotTell) and _kept.tells_of_suspension(ends_at):
        return Healthy("suspended, which counts as healthy")
    return verdict


_queries: Pending[PgbouncerCheck, Verdict] = Pending("pgbouncer-query")


def _run_query(check: PgbouncerCheck, query: str, timeout_s: float) -> Verdict:
    began = time.monotonic()
    try:
        with connect(check.options(), began + _WAITS_S) as session:
            bounded = Bounded(session, began + timeout_s)
            verdict = judge_query(bounded, query, check.expected_response)
            return told_by(session, verdict) if len(check.servers()) > 1 else verdict
    except LibpqError as error:
        return _judge_error(check, error, timeout_s)


def _ask_console(check: PgbouncerCheck, ends_at: float) -> Verdict:
    """Raises LibpqError."""
    options = {**check.options(), "dbname": CONSOLE}
    with ExitStack() as at_end:
        console = at_end.enter_context(connect(options, ends_at))
        verdict = _judge_console(check, console)
        if len(check.servers()) > 1:
            verdict = told_by(console, verdict)
        if check.when_suspended == "healthy":
            at_end.pop_all()
            _kept.replace(console)
        return verdict


def _judge_error(check: PgbouncerCheck, error: LibpqError, timeout_s: float) -> Verdict:
    if error.is_timeout:
        return CannotTell(f"no answer within {timeout_s:.2g} s: {error}")
    if error.sqlstate == _OWN_ERROR and not _BROKEN_OFF.search(str(error)):
        return Unhealthy(_refusal(check, str(error)))
    return judge_error(error, when_full="unhealthy")


def _refusal(check: PgbouncerCheck, reason: str) -> str:
    user = effective(check.options()).get("user", "")
    if reason == "not allowed" and check.query is None:
        return printable(f"user {user} is not one of pgbouncer's stats_users or admin_users")
    if reason in _LOGIN_FAILED:
        return printable(f"{reason} for user {user}: wrong password or no such user")
    return reason


class _Kept(threading.local):
    """A console connection of this thread's check: all its attempts are made in one thread. It is
    closed when the thread ends."""

    check: PgbouncerCheck | None = None
    console: Session | None = None

    def only_for(self, check: PgbouncerCheck) -> None:
        if self.check != check:
            self.replace(None)
            self.check = check

    def replace(self, console: Session | None) -> None:
        if self.console is not None:
            self.console.close()
        self.console = console

    def tells_of_suspension(self, ends_at: float) -> bool:
        if self.console is None:
            return False
        self.console.ends_at = ends_at
        is_suspended = is_alone = False
        try:
            is_alone = _console_clients(self.console) == 1
            is_suspended = _is_suspended(self.console)
        except LibpqError:
            pass
        if is_alone or not is_suspended:
            self.replace(None)
        return is_suspended


_kept = _Kept()


def _console_clients(console: Session) -> int:
    pools = [each for each in console.table("SHOW POOLS") if each.get("database") == CONSOLE]
    return sum(_number(each.get("cl_active")) for each in pools)


def _is_suspended(console: Session) -> bool:
    """If it answers on this connection, and on no new one."""
    if console.server_version < _HAS_SHOW_STATE:
        return True
    return ("suspended", "yes") in console.query("SHOW STATE")


def _judge_console(check: PgbouncerCheck, console: Session) -> Verdict:
    databases = [each for each in console.table("SHOW DATABASES") if each.get("name") != CONSOLE]
    if check.database is not None:
        databases = [each for each in databases if each.get("name") == check.database]
        if not databases:
            return Unhealthy(printable(f"it has no database {check.database}"))
    disabled = [each.get("name") for each in databases if _number(each.get("disabled"))]
    if disabled:
        return Unhealthy(printable(f"database {disabled[0]} is disabled"))
    if _is_full(console):
        return Unhealthy("out of connections: max_client_conn")
    paused = [each.get("name") for each in databases if _number(each.get("paused"))]
    if _is_paused(console):
        found = "paused"
    elif paused:
        found = printable(f"database {paused[0]} is paused")
    else:
        return Healthy("console answered")
    if check.when_paused == "healthy":
        return Healthy(f"{found}, which counts as healthy")
    return Unhealthy(found)


def _is_paused(console: Session) -> bool:
    """Whether it is paused as a whole, which older versions do not tell."""
    if console.server_version < _HAS_SHOW_STATE:
        return False
    return ("paused", "yes") in console.query("SHOW STATE")


def _is_full(console: Session) -> bool:
    """Whether it is full for all but the console, whose connections count all the same; one of them
    is ours."""
    used = _value(console.query("SHOW LISTS"), "used_clients")
    return used > _value(console.query("SHOW CONFIG"), "max_client_conn")


def _value(rows: Rows, name: str) -> int:
    """Returns the number in the row that begins with that name; 0 if there is none."""
    return next((_number(row[1]) for row in rows if len(row) > 1 and row[0] == name), 0)


def _number(value: str | None) -> int:
    """0 for what is none."""
    return int(value) if value is not None and value.isdecimal() else 0
