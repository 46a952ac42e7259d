"""The PostgreSQL check: connect, ask for the role and the lag, run a query, compare what it gives.

Everything happens on one new connection: one that is kept would hide a server that takes no new
ones. A query that is given up is ended by the server, too (statement_timeout), or each attempt
would leave one more there, until it is out of connections. The timeout is set for a transaction
only, in case there is a pooler in between.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from yaim.checks.transport.libpq import LibpqError, Session, connect
from yaim.checks.transport.libpq_keys import LibpqKeys
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault, InvalidValue, any_text, key, one_of, text

TOO_MANY_CONNECTIONS = "53300"
NO_ANSWERS = re.compile(r"57P0[123]|57014|08...|40001|40P01")
"""SQLSTATEs of a server that is starting or stopping, of a query that was cancelled, of a
connection that failed, and of a query that was in another's way: worth another try."""
_WRONG_CERTIFICATE = re.compile("certificate verify failed|does not match host name")
_STOPS_AFTER_S = 0.1
"""The server ends its query so much later than the attempt."""

Rows = Sequence[tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class MaxLag:
    amount: int
    """The number, in bytes or milliseconds."""
    is_time: bool
    given: str = field(default="", compare=False)
    """The text that was configured."""

    def __str__(self) -> str:
        return self.given or (told_ms(self.amount) if self.is_time else told_bytes(self.amount))


_UNITS = {
    "b": 1,
    "kb": 2**10,
    "mb": 2**20,
    "gb": 2**30,
    "tb": 2**40,
    "ms": 1,
    "s": 1000,
    "min": 60_000,
}
_TIMES = ("ms", "s", "min")


def max_lag(value: Any) -> MaxLag:
    """Reads it as patroni-max-lag is read, or a time."""
    found = re.fullmatch(r"([0-9]{1,12})\s*([a-z]*)", value.lower() if type(value) is str else "")
    unit = (found[2] or "b") if found is not None else ""
    if found is None or unit not in _UNITS:
        raise InvalidValue(
            "a number of bytes, or of kB, MB, GB, TB, ms, s or min, such as 16MB or 10s"
        )
    return MaxLag(int(found[1]) * _UNITS[unit], unit in _TIMES, value)


@dataclass(frozen=True, slots=True)
class PostgresCheck(LibpqKeys):
    query: str = key("query that is run", text(), "SELECT 1")
    expected_response: str | None = key(
        "what the query gives on a healthy server, as psql -At prints it", any_text
    )
    role: str = key("role of a healthy server", one_of("any", "primary", "standby"), "any")
    max_lag: MaxLag | None = key("how far a healthy standby may be behind", max_lag)
    when_full: str = key(
        "what a server that is out of connections counts as",
        one_of("healthy", "unhealthy"),
        "unhealthy",
    )

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong with keys together, or without what they need."""
        yield from self.connection_faults("postgres-")
        if self.when_full == "healthy" and (self.role != "any" or self.max_lag is not None):
            expected = "unhealthy: a full server tells neither its role nor its lag"
            yield Fault("postgres-when-full", expected)
        if self.role == "primary" and self.max_lag is not None:
            yield Fault("postgres-max-lag", "none with postgres-role primary", "postgres-role")


def check_postgres(check: PostgresCheck, timeout_s: float) -> Verdict:
    """Makes one attempt, on a new connection. `timeout_s` bounds everything together."""
    ends_at = time.monotonic() + timeout_s
    try:
        with connect(check.options(), ends_at) as session:
            verdict = _judge(check, Bounded(session, ends_at))
            return told_by(session, verdict) if len(check.servers()) > 1 else verdict
    except LibpqError as error:
        if error.is_timeout:
            return CannotTell(f"no answer within {timeout_s:.2g} s: {error}")
        return judge_error(error, check.when_full)


def told_by(session: Session, verdict: Verdict) -> Verdict:
    """The verdict with the server's name: of several, the first that answered counts."""
    return replace(verdict, reason=f"{verdict.reason} (by {session.server})")


def judge_error(error: LibpqError, when_full: str) -> Verdict:
    if error.sqlstate is None:
        is_definite = _WRONG_CERTIFICATE.search(str(error))
        return Unhealthy(str(error)) if is_definite else CannotTell(str(error))
    reason = f"{str(error)[:150]} ({error.sqlstate})"
    if error.sqlstate == TOO_MANY_CONNECTIONS:
        if when_full == "healthy":
            return Healthy("out of connections, which counts as healthy")
        return Unhealthy(f"out of connections: {reason}"[:170])
    return CannotTell(reason) if NO_ANSWERS.fullmatch(error.sqlstate) else Unhealthy(reason)


class Bounded:
    """Queries that the server ends soon after we have given them up."""

    def __init__(self, session: Session, ends_at: float) -> None:
        self._session = session
        self._ends_at = ends_at

    def query(self, sql: str) -> Rows:
        left_s = max(self._ends_at - time.monotonic(), 0.0) + _STOPS_AFTER_S
        return self._session.query(f"SET LOCAL statement_timeout = {left_s * 1000:.0f}; {sql}")


def _judge(check: PostgresCheck, server: Bounded) -> Verdict:
    found = []
    if check.role != "any" or check.max_lag is not None:
        role = "standby" if server.query("SELECT pg_is_in_recovery()") == [("t",)] else "primary"
        if check.role not in ("any", role):
            return Unhealthy(f"{role}, expected {check.role}")
        found.append(role)
        if role == "standby" and check.max_lag is not None:
            lag = _read_lag(server)
            told = lag.told(check.max_lag)
            if not lag.is_within(check.max_lag):
                return Unhealthy(f"standby, {told}, expected at most {check.max_lag}")
            found.append(told)
    answered = judge_query(server, check.query, check.expected_response)
    if isinstance(answered, Healthy):
        return Healthy(", ".join([*found, answered.reason]))
    return answered


def judge_query(server: Bounded, query: str, expected: str | None) -> Verdict:
    given = as_psql_prints(server.query(query))
    if expected is not None and given != expected.removesuffix("\n"):
        return Unhealthy(f"the query gave {_start(given)}, expected {_start(expected)}")
    return Healthy("query answered")


def as_psql_prints(rows: Rows) -> str:
    """The rows as psql -At prints them, without the line end after the last row."""
    return "\n".join("|".join(value or "" for value in row) for row in rows)


def _start(text: str) -> str:
    shown = repr(text[:60])
    return f"{shown}..." if len(text) > 60 else shown


# --- the lag -------------------------------------------------------------------------------------

_LAG_SQL = """
SELECT receiver.pid IS NOT NULL, receiver.status,
    CASE WHEN receiver.last_msg_send_time <> receiver.last_msg_receipt_time
        THEN receiver.latest_end_lsn - pg_last_wal_replay_lsn() END,
    pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn(),
    (1000 * extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()))::bigint
FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver receiver ON true
"""
"""latest_end_lsn is the end of the WAL on the primary as it told last. It may be from before a
reconnection; but as long as the primary has told nothing since, both times are the same, to the
microsecond: that of the start. Without the privileges of pg_read_all_stats pg_stat_wal_receiver has
a pid, and nothing else."""


@dataclass(frozen=True, slots=True)
class _Lag:
    has_receiver: bool
    """There is a WAL receiver that streams, as far as that can be seen."""
    is_hidden: bool
    """The role lacks the privilege to see more of the WAL receiver."""
    told_bytes: int | None
    """So much the primary has told of, and it is not replayed yet."""
    received_bytes: int | None
    """So much is received and not replayed yet."""
    age_ms: int | None
    """The age of the last transaction that is replayed."""

    def bytes_behind(self) -> int | None:
        if not self.has_receiver or self.told_bytes is None:
            return None
        return max(self.told_bytes, 0)

    def ms_behind(self) -> int | None:
        """How far the replica is behind; None if that cannot be told. The age is an upper bound:
        nothing may have been written."""
        has_replayed_all = self.received_bytes is not None and self.received_bytes <= 0
        knows_of_no_more = self.is_hidden or (self.told_bytes is not None and self.told_bytes <= 0)
        if self.has_receiver and has_replayed_all and knows_of_no_more:
            return 0
        return None if self.age_ms is None else max(self.age_ms, 0)

    def is_within(self, most: MaxLag) -> bool:
        behind = self.ms_behind() if most.is_time else self.bytes_behind()
        return behind is not None and behind <= most.amount

    def told(self, most: MaxLag) -> str:
        if most.is_time:
            behind = self.ms_behind()
            if behind is not None:
                return f"lag {told_ms(behind)}"
            streams = "" if self.has_receiver else ", and no WAL is streamed"
            return f"lag cannot be told: no transaction replayed yet{streams}"
        behind = self.bytes_behind()
        if behind is not None:
            return f"lag {told_bytes(behind)}"
        if self.has_receiver and self.is_hidden:
            return "lag cannot be told without the role pg_monitor"
        if self.has_receiver:
            return "lag cannot be told: the primary has sent nothing yet"
        return "lag cannot be told: no WAL is streamed"


def _read_lag(server: Bounded) -> _Lag:
    ((is_there, status, told, received, age),) = server.query(_LAG_SQL)
    is_hidden = is_there == "t" and status is None
    return _Lag(
        has_receiver=is_hidden or status == "streaming",
        is_hidden=is_hidden,
        told_bytes=_whole(told),
        received_bytes=_whole(received),
        age_ms=_whole(age),
    )


def _whole(value: str | None) -> int | None:
    return None if value is None else int(value)


def told_bytes(amount: int) -> str:
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if amount >= size:
            return f"{amount / size:.4g} {unit}"
    return f"{amount} B"


def told_ms(amount: int) -> str:
    return f"{amount} ms" if amount < 10_000 else f"{amount / 1000:.0f} s"
