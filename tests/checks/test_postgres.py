"""The PostgreSQL check against real servers, and some that misbehave."""

import gc
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import EC_KEY, RSA_KEY, Certificates
from tests.checks.elsewhere import attempt_where
from tests.checks.postgres_server import (
    PASSWORD,
    Installation,
    Server,
    free_port,
    running,
    wait_until,
    with_tls,
)
from tests.checks.stopwatch import IN_A_PROGRAM, Stopwatch
from tests.checks.web_server import Answer, drips, floods, sends, serving
from tests.checks.web_server import Server as WebServer
from yaim.checks.postgres import (
    MaxLag,
    PostgresCheck,
    check_postgres,
    max_lag,
)
from yaim.checks.transport.libpq import LibpqError, Session, connect, parse
from yaim.checks.transport.libpq_keys import conn_url, mask_conn_url
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault, InvalidValue

PATIENT_S = 30.0
IMPATIENT_S = 0.3
"""The bound on an attempt that is expected to be answered, and on one that is not."""
CONNECTING_S = 1.0
LOGGING_IN_S = 3.0
"""The bound on an attempt that is expected to come so far."""
SLACK_S = 0.5
NO_ANSWER = CannotTell("no answer within 1 s: connected, no answer to the login")
NO_RESULT = CannotTell("no answer within 3 s: logged in, no result of the query")
WELL = Healthy("query answered")


def attempt(check: PostgresCheck, timeout_s: float = PATIENT_S) -> Verdict:
    """One attempt, which must keep within its bound."""
    watch = Stopwatch()
    verdict = check_postgres(check, timeout_s)
    assert watch.took_s() < timeout_s + SLACK_S
    return verdict


def local(server: Server, user: str = "postgres", dbname: str = "postgres") -> str:
    """Returns what connects at its Unix socket, without a password."""
    return f"host={server.directory} port={server.port} user={user} dbname={dbname}"


def remote(server: Server, more: str = "", host: str = "127.0.0.1") -> str:
    """Over TCP, with the password."""
    return f"postgresql://postgres:{PASSWORD}@{host}:{server.port}/postgres{more}"


def query(server: Server, sql: str, expected: str | None = None) -> Verdict:
    return attempt(PostgresCheck(local(server), query=sql, expected_response=expected))


@pytest.fixture(autouse=True)
def nothing_is_left_behind(primary: Server, standby: Server) -> Iterator[None]:
    def resources() -> tuple[int, int]:
        """How many threads there are, and how many file descriptors."""
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    threads, descriptors = resources()
    yield
    give_up_at = time.monotonic() + PATIENT_S
    while time.monotonic() < give_up_at:
        if resources()[0] <= threads and resources()[1] <= descriptors:
            return
        gc.collect()
        time.sleep(0.01)
    assert resources() == (threads, descriptors)


@pytest.fixture
def own(postgres: Installation) -> Iterator[Server]:
    """A server for one test."""
    with running(postgres.new()) as server:
        yield server


@pytest.fixture
def pair(postgres: Installation, own: Server) -> Iterator[tuple[Server, Server]]:
    """A primary and its standby, for one test."""
    with running(postgres.new_standby(own)) as standby:
        catch_up(own, standby)
        yield own, standby


def catch_up(primary: Server, standby: Server) -> None:
    ((end,),) = primary.sql("SELECT pg_current_wal_flush_lsn()")
    wait_until(
        lambda: standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn") == [("t",)]
    )


def write(primary: Server) -> None:
    """More than a megabyte of WAL."""
    primary.sql("DROP TABLE IF EXISTS big")
    primary.sql("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")


# --- the query -----------------------------------------------------------------------------------


def test_a_server_that_answers_is_healthy(primary: Server) -> None:
    assert attempt(PostgresCheck(remote(primary))) == WELL


def test_a_server_is_asked_over_its_unix_socket(primary: Server) -> None:
    assert attempt(PostgresCheck(local(primary))) == WELL


@pytest.mark.parametrize(
    ("sql", "printed"),
    [
        ("SELECT 1", "1"),
        ("SELECT true, 2, 'three'", "t|2|three"),
        ("SELECT NULL, 'b', NULL", "|b|"),
        ("VALUES (1, 'a'), (2, 'b')", "1|a\n2|b"),
        ("SELECT 1 WHERE false", ""),
        ("SELECT 1; SELECT 2", "1\n2"),
        ("SET LOCAL work_mem = '1MB'; SHOW work_mem; -- the end", "1MB"),
        ("", ""),
        ("SELECT 'läuft ✓'", "läuft ✓"),
        ("DO $$BEGIN RAISE NOTICE 'hello'; END$$; SELECT 3", "3"),
    ],
)
def test_what_the_query_gives_is_compared_as_psql_prints_it(
    sql: str, printed: str, primary: Server
) -> None:
    assert query(primary, sql, printed) == WELL
    assert query(primary, sql, printed + "\n") == WELL
    assert query(primary, sql, printed + "x") == Unhealthy(
        f"the query gave {printed!r}, expected {printed + 'x'!r}"
    )


def test_of_a_long_response_only_the_beginning_is_told(primary: Server) -> None:
    told = f"the query gave {'x' * 60!r}..., expected {'y' * 60!r}..."
    assert query(primary, "SELECT repeat('x', 1000)", "y" * 100) == Unhealthy(told)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELEKT 1", 'syntax error at or near "SELEKT" (42601)'),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist (42P01)'),
        ("SELECT 1 / (3 - g) FROM generate_series(1, 5) g", "division by zero (22012)"),
        ("COPY pg_class TO STDOUT", "it is not a query that gives rows (0A000)"),
        ("COPY pg_class FROM STDIN", "it is not a query that gives rows (0A000)"),
        ("DO $$BEGIN RAISE 'a' 'b' USING ERRCODE = 'ZZ001'; END$$", None),
        (r"DO $$BEGIN RAISE E'bell \x07'; END$$", "bell ? (P0001)"),
    ],
)
def test_a_query_that_fails_is_unhealthy(sql: str, reason: str | None, primary: Server) -> None:
    verdict = query(primary, sql)
    assert verdict == Unhealthy(reason) if reason else isinstance(verdict, Unhealthy)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 2000000)",
        "SELECT repeat('x', 200000000)",
        "SELECT repeat('x', 1000), generate_series(1, 100000000)",
        "SELECT FROM pg_class a, pg_class b, pg_class c",
        "SELECT NULL FROM generate_series(1, 3000000)",
        "SELECT 1 FROM generate_series(1, 3000000)",
    ],
)
def test_a_huge_result_is_not_read_to_its_end(sql: str, primary: Server) -> None:
    before = memory()
    assert query(primary, sql) == Unhealthy("its result is longer than 1 MiB (54000)")
    assert memory() - before < 64 * 2**20


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_query_that_takes_too_long_cannot_tell_and_is_ended(primary: Server) -> None:
    check = PostgresCheck(local(primary), query="SELECT pg_sleep(60)")
    assert attempt(check, LOGGING_IN_S) == NO_RESULT
    wait_until(lambda: running_queries(primary, "pg_sleep") == 0, 20.0)


def test_a_query_that_waits_for_a_lock_cannot_tell_and_is_ended(primary: Server) -> None:
    primary.sql("CREATE TABLE IF NOT EXISTS locked ()")
    check = PostgresCheck(local(primary), query="SELECT count(*) FROM locked")
    with connect(primary.local, time.monotonic() + PATIENT_S) as session:
        session.query("BEGIN; LOCK TABLE locked")
        for _ in range(3):
            assert attempt(check, LOGGING_IN_S) == NO_RESULT
        wait_until(lambda: running_queries(primary, "FROM locked") == 0, 20.0)
    assert attempt(check) == WELL


def running_queries(server: Server, part: str) -> int:
    sql = f"SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{part}%'"
    return len(server.sql(sql)) - 1


def waiting_queries(server: Server, for_what: str) -> int:
    """Returns how many queries wait for this, as PostgreSQL calls it."""
    sql = f"SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND wait_event = '{for_what}'"
    return len(server.sql(sql))


@contextmanager
def when_a_query_waits(server: Server, for_what: str, do: Callable[[], object]) -> Iterator[None]:
    """Does something meanwhile, as soon as one does."""

    def work() -> None:
        wait_until(lambda: waiting_queries(server, for_what) == 1)
        do()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(work)
        yield
        done.result()


def test_a_query_that_is_cancelled_cannot_tell(primary: Server) -> None:
    reason = "canceling statement due to user request (57014)"
    sql = "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)"
    assert query(primary, sql) == CannotTell(reason)


def test_a_session_that_is_ended_cannot_tell(primary: Server) -> None:
    sql = "SELECT pg_terminate_backend(pg_backend_pid())"
    reason = "terminating connection due to administrator command (57P01)"
    assert query(primary, sql) == CannotTell(reason)


def test_the_server_sees_who_asks(primary: Server) -> None:
    assert query(primary, "SHOW application_name", "yaim") == WELL
    check = PostgresCheck(
        local(primary) + " application_name=other",
        query="SHOW application_name",
        expected_response="other",
    )
    assert attempt(check) == WELL


def test_a_pooler_keeps_no_timeout_of_ours(primary: Server) -> None:
    """What a session has when the query has ended is what it had before."""
    with connect(primary.local, time.monotonic() + PATIENT_S) as session:
        session.query("SET LOCAL statement_timeout = 5000; SELECT 1")
        assert session.query("SHOW statement_timeout") == [("0",)]


# --- who may come in -----------------------------------------------------------------------------


def test_a_wrong_password_is_unhealthy(primary: Server) -> None:
    url = f"host=127.0.0.1 port={primary.port} dbname=postgres"
    check = PostgresCheck(url, user="postgres", password="falsch")
    reason = 'password authentication failed for user "postgres" (28P01)'
    assert attempt(check) == Unhealthy(reason)


def test_a_password_of_its_own_key_is_used(primary: Server) -> None:
    url = f"host=127.0.0.1 port={primary.port} dbname=postgres"
    assert attempt(PostgresCheck(url, user="postgres", password=PASSWORD)) == WELL


@pytest.mark.parametrize("password", ["with ' and \\", " spaces ", "söß", "="])
def test_a_password_may_have_any_characters(password: str, primary: Server) -> None:
    escaped = password.replace("'", "''")
    primary.sql("DROP ROLE IF EXISTS special")
    primary.sql(f"CREATE ROLE special LOGIN PASSWORD '{escaped}'")
    url = f"host=127.0.0.1 port={primary.port} dbname=postgres"
    assert attempt(PostgresCheck(url, user="special", password=password)) == WELL


def test_a_missing_password_is_unhealthy(primary: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    check = PostgresCheck(f"host=127.0.0.1 port={primary.port} user=postgres")
    reason = "it asks for a password, and there is none (28P01)"
    assert attempt(check) == Unhealthy(reason)


def test_a_missing_database_is_unhealthy(primary: Server) -> None:
    check = PostgresCheck(local(primary, dbname="nowhere"))
    assert attempt(check) == Unhealthy('database "nowhere" does not exist (3D000)')


def test_a_missing_role_is_unhealthy(primary: Server) -> None:
    check = PostgresCheck(local(primary, user="nobody"))
    assert attempt(check) == Unhealthy('role "nobody" does not exist (28000)')


@pytest.mark.parametrize("limit", ["role", "database", "server"])
def test_out_of_connections_counts_as_configured(limit: str, postgres: Installation) -> None:
    server = postgres.new()
    options = {"max_connections": "4", "superuser_reserved_connections": "1"}
    with running(server, **options), ExitStack() as stack:
        server.sql("CREATE ROLE limited LOGIN")
        if limit == "role":
            server.sql("ALTER ROLE limited CONNECTION LIMIT 1")
        if limit == "database":
            server.sql("CREATE DATABASE small CONNECTION LIMIT 1")
        dbname = "small" if limit == "database" else "postgres"
        for _ in range(3 if limit == "server" else 1):
            stack.enter_context(let_in(local(server, "limited", dbname))).query("SELECT 1")
        url = local(server, "limited", dbname)
        verdict = attempt(PostgresCheck(url))
        assert isinstance(verdict, Unhealthy)
        assert verdict.reason.startswith("out of connections: ")
        assert verdict.reason.endswith("(53300)")
        assert attempt(PostgresCheck(url, when_full="healthy")) == Healthy(
            "out of connections, which counts as healthy"
        )
        # There is room as soon as the process that has refused the last one is gone.
        wait_until(lambda: attempt(PostgresCheck(local(server), when_full="healthy")) == WELL)


def let_in(url: str) -> Session:
    """A session; the processes of those that were closed may still be about to end."""
    give_up_at = time.monotonic() + PATIENT_S
    while True:
        try:
            return connect(url, give_up_at)
        except LibpqError as error:
            if error.sqlstate != "53300" or time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)


# --- role and lag --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "of_primary", "of_standby"),
    [
        ("any", WELL, WELL),
        (
            "primary",
            Healthy("primary, query answered"),
            Unhealthy("standby, expected primary"),
        ),
        (
            "standby",
            Unhealthy("primary, expected standby"),
            Healthy("standby, query answered"),
        ),
    ],
)
def test_the_role_is_compared(
    role: str, of_primary: Verdict, of_standby: Verdict, primary: Server, standby: Server
) -> None:
    assert attempt(PostgresCheck(local(primary), role=role)) == of_primary
    assert attempt(PostgresCheck(local(standby), role=role)) == of_standby


def lag_check(
    server: Server, most: str, user: str = "postgres", role: str = "standby"
) -> PostgresCheck:
    return PostgresCheck(local(server, user), role=role, max_lag=max_lag(most))


def comes(check: PostgresCheck, verdict: Verdict) -> None:
    """Perhaps not at once: the primary writes a little WAL also when nothing is done there, which
    is on its way for a moment."""
    wait_until(lambda: attempt(check) == verdict)


HAS_NO_LAG = Healthy("standby, lag 0 B, query answered")
IS_NOT_LATE = Healthy("standby, lag 0 ms, query answered")


def test_a_standby_that_has_replayed_all_has_no_lag(primary: Server, standby: Server) -> None:
    write(primary)
    catch_up(primary, standby)
    comes(lag_check(standby, "0B"), HAS_NO_LAG)
    time.sleep(0.1)
    comes(lag_check(standby, "0ms"), IS_NOT_LATE)


def test_a_lag_limit_is_nothing_to_a_primary_of_any_role(primary: Server) -> None:
    check = lag_check(primary, "1B", role="any")
    assert attempt(check) == Healthy("primary, query answered")


def test_a_standby_that_does_not_replay_lags(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    write(primary)
    catch_up(primary, standby)
    standby.sql("SELECT pg_wal_replay_pause()")
    write(primary)
    wait_until(lambda: attempt(lag_check(standby, "1MB")).reason.startswith("standby, lag 2."))
    verdict = attempt(lag_check(standby, "1MB"))
    assert isinstance(verdict, Unhealthy)
    assert verdict.reason.endswith(" MB, expected at most 1MB")
    assert isinstance(attempt(lag_check(standby, "1GB")), Healthy)
    time.sleep(0.3)
    assert isinstance(attempt(lag_check(standby, "200ms")), Unhealthy)
    assert isinstance(attempt(lag_check(standby, "1min")), Healthy)
    standby.sql("SELECT pg_wal_replay_resume()")
    catch_up(primary, standby)
    comes(lag_check(standby, "0B"), HAS_NO_LAG)
    comes(lag_check(standby, "0ms"), IS_NOT_LATE)


def test_a_standby_that_receives_nothing_is_as_late_as_its_last_transaction(
    pair: tuple[Server, Server],
) -> None:
    primary, standby = pair
    write(primary)
    catch_up(primary, standby)
    primary.stop(signal.SIGINT)
    is_cut_off = "SELECT count(*) = 0 FROM pg_stat_wal_receiver"
    wait_until(lambda: standby.sql(is_cut_off) == [("t",)])
    assert attempt(lag_check(standby, "1GB")) == Unhealthy(
        "standby, lag cannot be told: no WAL is streamed, expected at most 1GB"
    )
    assert isinstance(attempt(lag_check(standby, "1min")), Healthy)
    time.sleep(0.3)
    assert isinstance(attempt(lag_check(standby, "200ms")), Unhealthy)


def test_a_standby_that_never_replayed_a_transaction_cannot_be_told_about(
    pair: tuple[Server, Server],
) -> None:
    primary, standby = pair
    primary.stop(signal.SIGQUIT)
    standby.stop(signal.SIGINT)
    standby.start()
    why = "no transaction replayed yet, and no WAL is streamed"
    reason = f"standby, lag cannot be told: {why}, expected at most 1min"
    assert standby.sql("SELECT pg_last_xact_replay_timestamp()") == [(None,)]
    assert attempt(lag_check(standby, "1min")) == Unhealthy(reason)


def test_a_standby_that_the_primary_has_sent_nothing_cannot_be_told_about(
    postgres: Installation, own: Server
) -> None:
    """It began at the end of the WAL. Every 15 s the background writer adds to that."""
    os.kill(own.process("background writer"), signal.SIGSTOP)
    with running(postgres.new_standby(own)) as standby:
        catch_up(own, standby)
        why = "the primary has sent nothing yet"
        reason = f"standby, lag cannot be told: {why}, expected at most 1GB"
        # What is to be replayed at the start it has without asking the primary.
        comes(lag_check(standby, "1GB"), Unhealthy(reason))
        assert isinstance(attempt(lag_check(standby, "1min")), Unhealthy)
        write(own)
        catch_up(own, standby)
        comes(lag_check(standby, "0B"), HAS_NO_LAG)


def test_a_role_without_privileges_is_told_what_it_lacks(primary: Server, standby: Server) -> None:
    primary.sql("DROP ROLE IF EXISTS blind; DROP ROLE IF EXISTS seer")
    primary.sql("CREATE ROLE blind LOGIN; CREATE ROLE seer LOGIN IN ROLE pg_monitor")
    catch_up(primary, standby)
    assert attempt(lag_check(standby, "1GB", "blind")) == Unhealthy(
        "standby, lag cannot be told without the role pg_monitor, expected at most 1GB"
    )
    assert isinstance(attempt(lag_check(standby, "1GB", "seer")), Healthy)
    comes(lag_check(standby, "0ms", "blind"), IS_NOT_LATE)


def test_a_query_in_the_way_of_recovery_cannot_tell(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    standby.sql("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    standby.sql("SELECT pg_reload_conf()")
    write(primary)
    catch_up(primary, standby)
    sql = "SELECT count(*) FROM big; SELECT pg_sleep(60)"
    with when_a_query_waits(standby, "PgSleep", lambda: primary.sql("DROP TABLE big")):
        verdict = attempt(PostgresCheck(local(standby), query=sql))
    reason = "canceling statement due to conflict with recovery (40001)"
    assert verdict == CannotTell(reason)


# --- a server that starts, stops or hangs --------------------------------------------------------


def test_a_stopped_server_cannot_tell(own: Server) -> None:
    url = remote(own)
    own.stop()
    refused = CannotTell(f"127.0.0.1:{own.port}: Connection refused")
    assert attempt(PostgresCheck(url)) == refused


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restart_cannot_tell_until_it_is_over(how: signal.Signals, own: Server) -> None:
    check = PostgresCheck(remote(own))
    verdicts, is_over = [attempt(check)], threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            verdicts.append(attempt(check, 1.0))

    thread = threading.Thread(target=ask)
    thread.start()
    own.stop(how)
    wait_until(lambda: any(isinstance(each, CannotTell) for each in verdicts))
    own.start()
    is_over.set()
    thread.join(PATIENT_S)
    verdicts.append(attempt(check))
    assert not any(isinstance(each, Unhealthy) for each in verdicts)
    assert any(isinstance(each, CannotTell) for each in verdicts)
    assert verdicts[0] == verdicts[-1] == WELL


def test_a_server_that_is_shutting_down_cannot_tell(own: Server) -> None:
    with connect(own.local, time.monotonic() + PATIENT_S) as session:
        session.query("SELECT 1")
        own.send(signal.SIGTERM)
        wait_until(lambda: attempt(PostgresCheck(local(own))) != WELL)
        told = attempt(PostgresCheck(local(own)))
    assert told == CannotTell("the database system is shutting down (57P03)")


def test_a_query_that_meets_a_shutdown_cannot_tell(own: Server) -> None:
    check = PostgresCheck(local(own), query="SELECT pg_sleep(60)")
    for how, reason in (
        (signal.SIGINT, "terminating connection due to administrator command (57P01)"),
        (signal.SIGQUIT, None),
    ):
        with when_a_query_waits(own, "PgSleep", partial(own.send, how)):
            verdict = attempt(check)
        assert verdict == CannotTell(reason) if reason else isinstance(verdict, CannotTell)
        own.stop()
        own.start()


def test_a_standby_without_hot_standby_cannot_tell(postgres: Installation, primary: Server) -> None:
    standby = postgres.new_standby(primary)
    try:
        standby.begin(hot_standby="off")
        wait_until(lambda: "started streaming" in standby.told())
        verdict = attempt(PostgresCheck(local(standby)))
    finally:
        standby.stop()
    assert isinstance(verdict, CannotTell)
    assert verdict.reason.endswith("(57P03)")


@pytest.mark.parametrize("where", [local, remote], ids=["Unix", "TCP"])
def test_a_hung_postmaster_cannot_tell(where: Callable[[Server], str], own: Server) -> None:
    check = PostgresCheck(where(own))
    own.send(signal.SIGSTOP)
    for _ in range(3):
        assert attempt(check, CONNECTING_S) == NO_ANSWER
    own.send(signal.SIGCONT)
    assert attempt(check) == WELL


def test_a_server_that_hangs_during_a_query_cannot_tell(own: Server) -> None:
    check = PostgresCheck(local(own), query="SELECT count(*) FROM locked")
    own.sql("CREATE TABLE locked ()")
    with connect(own.local, time.monotonic() + PATIENT_S) as session:
        session.query("BEGIN; LOCK TABLE locked")
        with when_a_query_waits(own, "relation", partial(own.send_to_all, signal.SIGSTOP)):
            assert attempt(check, LOGGING_IN_S) == NO_RESULT
        own.send_to_all(signal.SIGCONT)
    assert attempt(check) == WELL


def test_a_server_in_another_language_is_understood(postgres: Installation) -> None:
    translated = f"/usr/share/locale/de/LC_MESSAGES/postgres-{postgres.major}.mo"
    if not (Path(translated).exists() and Path("/usr/share/i18n/locales/de_DE").exists()):
        pytest.skip("the server speaks English only")
    server = postgres.new()
    locale = server.directory / "de_DE.UTF-8"
    command = ("localedef", "-i", "de_DE", "-f", "UTF-8", "--no-archive", str(locale))
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    try:
        server.start({"LOCPATH": str(server.directory)}, lc_messages="de_DE.UTF-8")
        of_role = attempt(PostgresCheck(local(server, "nobody")))
        of_query = query(server, "SELECT 1 / 0")
    finally:
        server.stop()
    assert of_role == Unhealthy("Rolle »nobody« existiert nicht (28000)")
    assert of_query == Unhealthy("Division durch Null (22012)")


# --- something else listens there ----------------------------------------------------------------


def stand_in_url(server: WebServer) -> str:
    return f"postgresql://u:{PASSWORD}@127.0.0.1:{server.port}/d?sslmode=disable"


def message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!i", len(content) + 4) + content


def failure(sqlstate: str, text: bytes, severity: bytes = b"FATAL") -> bytes:
    fields = (b"S" + severity, b"C" + sqlstate.encode(), b"M" + text)
    return message(b"E", b"".join(each + b"\0" for each in fields) + b"\0")


WELCOME = message(b"R", b"\0\0\0\0")
READY = message(b"Z", b"I")
NOTICE = message(b"N", b"SNOTICE\0C00000\0Mhello\0\0")


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require", "verify-full"])
@pytest.mark.parametrize(
    "answer",
    [
        sends(b""),
        sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        sends(b"\xff" * 100),
        sends(b"E"),
        sends(WELCOME[:5]),
        sends(WELCOME),
        sends(WELCOME + READY),
        sends(WELCOME + READY + b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ],
)
def test_a_server_that_closes_or_speaks_something_else_cannot_tell(
    answer: Answer, sslmode: str
) -> None:
    with serving(answer) as stand_in:
        url = stand_in_url(stand_in).replace("disable", sslmode)
        verdict = attempt(PostgresCheck(url), 2.0)
    assert isinstance(verdict, CannotTell)
    assert verdict.reason
    assert verdict.reason.isprintable()
    assert PASSWORD not in verdict.reason


@pytest.mark.parametrize("sslmode", ["disable", "require"])
@pytest.mark.parametrize(
    "answer",
    [
        drips(b"", b""),
        drips(b"", b"E"),
        drips(b"S", b""),
        drips(b"S", b"\x16"),
        drips(b"", NOTICE),
        drips(message(b"R", b"\0" * 4)[:1] + struct.pack("!i", 2000), b"x"),
        drips(WELCOME, b""),
        drips(WELCOME, NOTICE, 0.0),
        drips(WELCOME, message(b"S", b"name\0value\0")),
        drips(WELCOME + READY, b""),
        drips(WELCOME + READY, NOTICE),
        drips(WELCOME + READY, message(b"C", b"SELECT 1\0")),
        drips(WELCOME + READY + b"D" + struct.pack("!i", 10_000_000), b"x"),
    ],
)
def test_a_server_that_is_silent_or_drips_cannot_tell_in_time(answer: Answer, sslmode: str) -> None:
    with serving(answer) as stand_in:
        url = stand_in_url(stand_in).replace("disable", sslmode)
        verdict = attempt(PostgresCheck(url), IMPATIENT_S)
    assert isinstance(verdict, CannotTell)
    assert PASSWORD not in verdict.reason


def test_notices_without_end_are_not_read_to_their_end() -> None:
    with serving(drips(WELCOME + READY, NOTICE * 1000, 0.0)) as stand_in:
        verdict = attempt(PostgresCheck(stand_in_url(stand_in)))
    assert verdict == Unhealthy("its result is longer than 1 MiB (54000)")


@pytest.mark.parametrize("encoding", ["utf-8", "koi8-r", "utf-16"])
@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("28P01", Unhealthy),
        ("3D000", Unhealthy),
        ("57P03", CannotTell),
        ("53300", Unhealthy),
        ("08P01", CannotTell),
    ],
)
def test_an_answer_in_a_language_unknown_is_judged_by_its_code(
    sqlstate: str, kind: type[Verdict], encoding: str
) -> None:
    text = "пользователь 28000: база данных".encode(encoding).replace(b"\0", b"")
    severity = "ВАЖНО".encode(encoding).replace(b"\0", b"")
    with serving(sends(failure(sqlstate, text, severity))) as stand_in:
        verdict = attempt(PostgresCheck(stand_in_url(stand_in)))
    assert type(verdict) is kind
    assert verdict.reason.endswith(f"({sqlstate})")
    assert verdict.reason.isprintable()


def test_a_long_reason_is_cut() -> None:
    with serving(sends(failure("28P01", b"x" * 5000))) as stand_in:
        verdict = attempt(PostgresCheck(stand_in_url(stand_in)))
    assert verdict == Unhealthy("x" * 150 + " (28P01)")


# --- what a server may cost ----------------------------------------------------------------------

COST = (
    IN_A_PROGRAM
    + r"""
import re, sys, time
from pathlib import Path
from yaim.checks.kinds import KINDS
def most_kib():
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
kind, usual, url, timeout_s = KINDS[sys.argv[1]], sys.argv[2], sys.argv[3], float(sys.argv[4])
kind.attempt(kind.settings(usual), 30.0)
before, watch = most_kib(), Stopwatch()
verdict = kind.attempt(kind.settings(url), timeout_s)
print(most_kib() - before, watch.took_s(), type(verdict).__name__, verdict.reason)
"""
)
AFFORDABLE_KIB = 16 * 1024
BLOCK = b"x" * 65536
BEFORE_LOGIN = "it sent more than 128 KiB before it let us in"
TOO_LONG_RESULT = "its result is longer than 1 MiB (54000)"
NO_END = "no answer within"


def cost(server: WebServer, sslmode: str = "disable", kind: str = "postgres") -> tuple[int, str]:
    """Returns what an attempt costs more than a usual one, in KiB of memory; and what it has found
    in time."""
    url = stand_in_url(server).replace("disable", sslmode)
    if kind == "pgbouncer":
        url = url.replace("/d?", "/?")
    timeout_s = 3.0
    with serving(sends(failure("28P01", b"no"))) as usual:
        told = subprocess.run(
            (
                *(sys.executable, "-P", "-c", COST, kind),
                *(stand_in_url(usual).replace("/d?", "/?"), url, str(timeout_s)),
            ),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    memory_kib, seconds, _, reason = told.strip().split(" ", 3)
    assert float(seconds) < timeout_s + SLACK_S
    return int(memory_kib), reason


def begun(kind: bytes, size: int, content: bytes = b"") -> bytes:
    """The beginning of a message that says it is that long."""
    return kind + struct.pack("!i", size) + content


def parameters() -> bytes:
    """ParameterStatus, each with another name: libpq compares each with all others."""
    return b"".join(message(b"S", b"%x\0\0" % number) for number in range(300_000))


COLUMN = message(b"T", b"\0\1a\0" + b"\0" * 18)
EXPENSIVE: dict[str, tuple[Callable[[], Answer], str]] = {
    "an error of 250 MB in place of a login": (
        lambda: floods(begun(b"E", 250_000_000, b"SFATAL\0C28P01\0M"), BLOCK, 4000),
        "SFATAL",
    ),
    "an error of 250 MB": (
        lambda: floods(WELCOME + begun(b"E", 250_000_000, b"SFATAL\0C28P01\0M"), BLOCK, 4000),
        BEFORE_LOGIN,
    ),
    "a notice of 805 MB": (
        lambda: floods(WELCOME + begun(b"N", 805_000_000, b"SNOTICE\0M"), BLOCK, 13_000),
        BEFORE_LOGIN,
    ),
    "notices": (lambda: floods(WELCOME, NOTICE * 2000), BEFORE_LOGIN),
    "parameters": (lambda: floods(WELCOME, parameters(), 20), BEFORE_LOGIN),
    "requests for the password": (
        lambda: floods(b"", message(b"R", b"\0\0\0\3") * 5000),
        "",
    ),
    "an error of 250 MB for the query": (
        lambda: floods(
            WELCOME + READY + begun(b"E", 250_000_000, b"SERROR\0C42601\0M"), BLOCK, 4000
        ),
        TOO_LONG_RESULT,
    ),
    "a notice of 805 MB for the query": (
        lambda: floods(WELCOME + READY + begun(b"N", 805_000_000, b"SNOTICE\0M"), BLOCK, 13_000),
        TOO_LONG_RESULT,
    ),
    "a row of 805 MB": (
        lambda: floods(WELCOME + READY + COLUMN + begun(b"D", 805_000_000), BLOCK, 13_000),
        TOO_LONG_RESULT,
    ),
    "a parameter of 805 MB": (
        lambda: floods(WELCOME + READY + begun(b"S", 805_000_000, b"a\0"), BLOCK, 13_000),
        "lost synchronization with server",
    ),
    "notifications": (
        lambda: floods(WELCOME + READY, message(b"A", b"\0\0\0\0a\0\0") * 5000),
        TOO_LONG_RESULT,
    ),
    "parameters for the query": (lambda: floods(WELCOME + READY, parameters(), 20), NO_END),
}


@pytest.mark.parametrize("kind", ["postgres", "pgbouncer"])
@pytest.mark.parametrize("what", EXPENSIVE)
def test_a_server_costs_little_memory_and_no_more_time_than_it_may(what: str, kind: str) -> None:
    answer, told = EXPENSIVE[what]
    with serving(answer()) as server:
        memory_kib, reason = cost(server, kind=kind)
    assert memory_kib < AFFORDABLE_KIB
    assert told in reason or NO_END in reason


def over_tls(certificates: Certificates, start: bytes) -> Answer:
    def answer(connection: socket.socket, server: WebServer) -> None:
        server.shut_down_at_the_end(connection)
        connection.sendall(b"S")
        with certificates.server().wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(65536)
            encrypted.sendall(start)
            for _ in range(4000):
                encrypted.sendall(BLOCK)

    return answer


def test_a_notice_of_805_mb_costs_little_over_tls_too(certificates: Certificates) -> None:
    start = WELCOME + begun(b"N", 805_000_000, b"SNOTICE\0M")
    with serving(over_tls(certificates, start)) as server:
        memory_kib, reason = cost(server, "require")
    assert memory_kib < AFFORDABLE_KIB
    assert reason == BEFORE_LOGIN


def asks_for_iterations(number: bytes) -> Answer:
    """SCRAM-SHA-256, with a byte at a time."""

    def answer(connection: socket.socket, server: WebServer) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"))
        nonce = connection.recv(65536).partition(b"r=")[2]
        first = b"r=" + nonce + b"1,s=AAAAAAAAAAAAAAAAAAAAAA==,i=" + number
        for byte in message(b"R", struct.pack("!i", 11) + first):
            connection.sendall(bytes([byte]))
        connection.recv(65536)
        connection.sendall(failure("28P01", b"no"))

    return answer


@pytest.mark.parametrize(
    "number",
    [
        *(b"2147483647", b" +02147483647", b"1000000", b"-2147483649", b"1e9"),
        *(b" " * 1000 + b"2147483647", b"\t" * 1800 + b"2147483647", b"0" * 1500 + b"2147483647"),
    ],
    ids=lambda each: each.strip().decode()[-12:] + f"-{len(each)}",
)
def test_the_password_is_not_hashed_as_often_as_a_server_likes(number: bytes) -> None:
    with serving(asks_for_iterations(number)) as server:
        _, reason = cost(server)
    assert reason == "it asks for a million SCRAM iterations or more"


def test_the_password_is_hashed_as_often_as_servers_are_configured_to_have_it() -> None:
    with serving(asks_for_iterations(b"100000")) as server:
        assert attempt(PostgresCheck(stand_in_url(server))) == Unhealthy("no (28P01)")


def test_an_error_that_is_as_long_as_a_login_may_be_is_told() -> None:
    with serving(sends(WELCOME + failure("28P01", b"x" * 100_000))) as server:
        assert attempt(PostgresCheck(stand_in_url(server))) == Unhealthy("x" * 150 + " (28P01)")


def test_each_of_several_servers_may_send_as_much() -> None:
    not_now = sends(failure("57P03", b"x" * 100_000))
    with serving(not_now) as one, serving(not_now) as two, serving(not_now) as three:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in (one, two, three))
        check = PostgresCheck(f"postgresql://u:p@{hosts}/d?sslmode=disable")
        assert "128 KiB" not in attempt(check).reason


IMPLEMENTATION = """
import sys
sys.path.insert(0, sys.argv[1])
if len(sys.argv) > 2:
    sys.modules[sys.argv[2]] = None
from yaim.checks.transport import libpq
print(libpq.missing() is None)
"""


def test_a_libpq_that_lets_other_threads_work_is_taken_where_there_is_one(tmp_path: Path) -> None:
    """psycopg's compiled implementations keep the interpreter's lock while libpq works."""
    compiled = tmp_path / "psycopg_c"
    compiled.mkdir()
    (compiled / "__init__.py").touch()
    (compiled / "pq.py").write_text("print('compiled')\nraise ImportError\n")
    for more, expected in (((), "True\n"), (("psycopg.pq.pq_ctypes",), "compiled\nFalse\n")):
        command = (sys.executable, "-c", IMPLEMENTATION, str(tmp_path), *more)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == expected


# --- several hosts, names, the environment -------------------------------------------------------


def test_hosts_are_tried_in_order(primary: Server, standby: Server) -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{primary.port}"
    url = f"postgresql://postgres:{PASSWORD}@{hosts}/postgres"
    by = Healthy(f"primary, query answered (by 127.0.0.1:{primary.port})")
    assert attempt(PostgresCheck(url, role="primary")) == by
    both = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    url = f"postgresql://postgres:{PASSWORD}@{both}/postgres?target_session_attrs=read-write"
    assert attempt(PostgresCheck(url, role="primary")) == by


def test_the_environment_says_what_the_url_does_not(
    primary: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PGHOST", str(primary.directory)), ("PGPORT", str(primary.port))):
        monkeypatch.setenv(name, value)
    assert attempt(PostgresCheck("user=postgres")) == WELL


def test_a_service_file_says_what_the_url_does_not(
    primary: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[mine]\nhost=localhost\nport={primary.port}\nuser=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert attempt(PostgresCheck("service=mine", password=PASSWORD)) == WELL


def test_a_name_server_that_does_not_answer_is_waited_for_within_the_bound(
    primary: Server, tmp_path: Path
) -> None:
    resolver = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        url = remote(primary, host="service.example")
        verdict = attempt_where(
            "/etc/resolv.conf", resolver, "postgres", url, tmp_path, IMPATIENT_S
        )
    why = "the host name service.example was not looked up"
    assert verdict == CannotTell(f"no answer within 0.3 s: {why}")


def test_the_addresses_of_a_name_are_tried_in_turn(primary: Server, tmp_path: Path) -> None:
    hosts = "::1 service.example\n127.0.0.2 service.example\n127.0.0.1 service.example\n"
    url = remote(primary, host="service.example")
    assert attempt_where("/etc/hosts", hosts, "postgres", url, tmp_path) == WELL
    url = remote(primary, host=f"nowhere.invalid:1,service.example:{primary.port}")
    url = url.replace(f":{primary.port}:{primary.port}", f":{primary.port}")
    by = Healthy(f"{WELL.reason} (by service.example:{primary.port})")
    assert attempt_where("/etc/hosts", hosts, "postgres", url, tmp_path) == by


def test_a_name_that_cannot_be_looked_up_is_told(primary: Server, tmp_path: Path) -> None:
    """Nobody listens at port 53."""
    resolver = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
    url = remote(primary, host="service.example")
    found = "Temporary failure in name resolution"
    reason = f"the host name service.example cannot be looked up: {found}"
    verdict = attempt_where("/etc/resolv.conf", resolver, "postgres", url, tmp_path)
    assert verdict == CannotTell(reason)


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encrypted(postgres: Installation, certificates: Certificates) -> Iterator[Server]:
    """A server with TLS, and database "shown" for those who show a certificate."""
    server = postgres.new()
    access = server.data / "pg_hba.conf"
    asked = "hostssl shown all 127.0.0.1/32 trust clientcert=verify-ca\n"
    access.write_text(asked + access.read_text())
    with running(server, **with_tls(server, certificates)):
        server.sql("CREATE DATABASE shown")
        yield server


def test_a_certificate_of_the_ca_is_accepted(encrypted: Server, certificates: Certificates) -> None:
    check = PostgresCheck(
        remote(encrypted),
        ca_file=certificates.ca,
        query="SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        expected_response="t",
    )
    assert attempt(check) == WELL


def test_a_certificate_of_another_ca_is_unhealthy(
    encrypted: Server, certificates: Certificates
) -> None:
    check = PostgresCheck(remote(encrypted), ca_file=certificates.stranger)
    verdict = attempt(check)
    place = f"127.0.0.1:{encrypted.port}"
    assert verdict == Unhealthy(f"{place}: SSL error: certificate verify failed")


def test_a_certificate_for_another_name_is_unhealthy(
    encrypted: Server, certificates: Certificates
) -> None:
    check = PostgresCheck(remote(encrypted, host="localhost"), ca_file=certificates.ca)
    verdict = attempt(check)
    assert isinstance(verdict, Unhealthy)
    assert 'does not match host name "localhost"' in verdict.reason
    check = PostgresCheck(
        remote(encrypted, "?sslmode=verify-ca", "localhost"), ca_file=certificates.ca
    )
    assert attempt(check) == WELL


def test_a_server_without_tls_cannot_tell_where_a_ca_is_given(
    primary: Server, certificates: Certificates
) -> None:
    check = PostgresCheck(remote(primary), ca_file=certificates.ca)
    reason = "server does not support SSL, but SSL was required"
    assert attempt(check) == CannotTell(f"127.0.0.1:{primary.port}: {reason}")


def test_a_client_certificate_is_shown(encrypted: Server, certificates: Certificates) -> None:
    url = f"host=127.0.0.1 port={encrypted.port} user=postgres dbname=shown"
    check = PostgresCheck(
        url, ca_file=certificates.ca, cert_file=certificates.leaf, key_file=certificates.key
    )
    assert attempt(check) == WELL
    verdict = attempt(PostgresCheck(url, ca_file=certificates.ca))
    assert isinstance(verdict, Unhealthy | CannotTell)


def test_a_client_certificate_is_never_without_tls(
    encrypted: Server, primary: Server, certificates: Certificates, tmp_path: Path
) -> None:
    """libpq's own default would be to go on without TLS where it does not get it."""
    _, other_key = certificates.make_leaf("other")
    check = PostgresCheck(
        remote(encrypted),
        cert_file=certificates.leaf,
        key_file=certificates.key,
        query="SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        expected_response="t",
    )
    assert attempt(check) == WELL
    assert isinstance(attempt(replace(check, key_file=other_key)), CannotTell)
    assert isinstance(attempt(replace(check, key_file=open_copy(other_key, tmp_path))), CannotTell)
    of_plain = attempt(replace(check, conn_url=remote(primary)))
    assert isinstance(of_plain, CannotTell)
    assert of_plain.reason.endswith("server does not support SSL, but SSL was required")


def test_a_client_certificate_does_not_weaken_what_the_environment_says(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = PostgresCheck("host=h", cert_file=certificates.leaf, key_file=certificates.key)
    assert check.options()["sslmode"] == "require"
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert "sslmode" not in check.options()


def open_copy(key: Path, directory: Path) -> Path:
    copied = directory / "open.key"
    shutil.copy(key, copied)
    copied.chmod(0o644)
    return copied


def test_a_key_that_others_may_read_cannot_tell(
    encrypted: Server, certificates: Certificates, tmp_path: Path
) -> None:
    open_key = open_copy(certificates.key, tmp_path)
    check = PostgresCheck(
        remote(encrypted),
        ca_file=certificates.ca,
        cert_file=certificates.leaf,
        key_file=open_key,
    )
    verdict = attempt(check)
    assert isinstance(verdict, CannotTell)
    assert "has group or world access" in verdict.reason


def test_a_wrong_password_over_tls_is_unhealthy(
    encrypted: Server, certificates: Certificates
) -> None:
    url = f"host=127.0.0.1 port={encrypted.port} dbname=postgres"
    check = PostgresCheck(url, user="postgres", password="falsch", ca_file=certificates.ca)
    reason = 'password authentication failed for user "postgres" (28P01)'
    assert attempt(check) == Unhealthy(reason)


def test_a_hung_server_with_tls_cannot_tell(encrypted: Server, certificates: Certificates) -> None:
    check = PostgresCheck(remote(encrypted), ca_file=certificates.ca)
    encrypted.send_to_all(signal.SIGSTOP)
    try:
        assert attempt(check, CONNECTING_S) == NO_ANSWER
    finally:
        encrypted.send_to_all(signal.SIGCONT)
    assert attempt(check) == WELL


# --- the keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("postgresql://u:geheim@h/%zz", "invalid percent-encoded token"),
        ("postgresql://u:geh%eim@h/", "invalid percent-encoded token"),
        ("host=h password=my geheim", 'missing "=" after'),
        ("host=h passwort=geheim", 'invalid connection option "passwort"'),
        ("host=h password='geheim", "unterminated quoted string in connection info string"),
        ("postgresql://u:geheim@[::1/", None),
        ("postgresql://u@h/?password=gehe=im", None),
    ],
)
def test_what_libpq_cannot_parse_is_refused_and_not_told(given: str, reason: str | None) -> None:
    with pytest.raises(InvalidValue) as refused:
        conn_url(given)
    assert "geh" not in str(refused.value)
    if reason is not None:
        assert str(refused.value) == f"a URL or keywords as libpq takes them ({reason})"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://u:geheim@h/db", "postgresql://u:********@h/db"),
        ("postgresql://u:ge@h:e/im@h/db", "postgresql://u:********@h/db"),
        ("postgresql://u@h/db?password=geheim&x=y", "********"),
        ("postgres://u@h/db?password=geheim&port=1", "postgres://u@h/db?password=********&port=1"),
        ("postgresql://u@h/db?p%61ssword=geheim", "********"),
        ("host=h password=geheim user=u", "host=h password=******** user=u"),
        ("password = 'ge\\' heim' host=h", "password = ******** host=h"),
        ("password=ge\\ heim host=h", "password=******** host=h"),
        ("sslpassword=geheim host=h", "sslpassword=******** host=h"),
        ("host=h password=my geheim", "********"),
        ("host=h passwort=geheim", "********"),
        ("host=h user=u", "host=h user=u"),
        ("postgresql://h:5432/db", "postgresql://h:5432/db"),
    ],
)
def test_passwords_are_not_shown(given: str, shown: str) -> None:
    assert mask_conn_url(given) == shown


@pytest.mark.parametrize(
    ("given", "read", "shown"),
    [
        ("16MB", MaxLag(16 * 2**20, False), "16 MB"),
        ("1048576B", MaxLag(2**20, False), "1 MB"),
        ("0 kB", MaxLag(0, False), "0 B"),
        ("1gb", MaxLag(2**30, False), "1 GB"),
        ("16", MaxLag(16, False), "16 B"),
        ("500ms", MaxLag(500, True), "500 ms"),
        ("10s", MaxLag(10_000, True), "10 s"),
        ("1min", MaxLag(60_000, True), "60 s"),
    ],
)
def test_a_lag_has_a_unit_or_is_in_bytes(given: str, read: MaxLag, shown: str) -> None:
    assert max_lag(given) == read
    assert max_lag(shown) == read
    assert str(read) == shown


@pytest.mark.parametrize("given", ["", "MB", "-1s", "1.5s", "1h", "1 PB", 16, None, "1s 1s"])
def test_what_is_no_lag_is_refused(given: object) -> None:
    with pytest.raises(InvalidValue):
        max_lag(given)


def faults_of(check: PostgresCheck) -> list[Fault]:
    return list(check.faults())


def test_keys_that_fit_together_have_no_faults(certificates: Certificates) -> None:
    assert faults_of(PostgresCheck("postgresql://h/db")) == []
    full = PostgresCheck(
        "host=nowhere.invalid dbname=db sslmode=verify-ca",
        user="u",
        password="p",
        ca_file=certificates.ca,
        cert_file=certificates.leaf,
        key_file=certificates.key,
        role="any",
        max_lag=MaxLag(1, False),
    )
    assert faults_of(full) == []


def test_what_is_given_twice_is_a_fault() -> None:
    check = PostgresCheck("postgresql://u:p@h/db", user="u", password="p")
    url = "postgres-conn-url"
    assert faults_of(check) == [
        Fault(name, f"either it or {option} in {url}, not both", url)
        for name, option in (("postgres-user", "user"), ("postgres-password", "password"))
    ]


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer", "require"])
def test_a_ca_that_would_not_be_used_is_a_fault(sslmode: str, certificates: Certificates) -> None:
    check = PostgresCheck(f"host=h sslmode={sslmode}", ca_file=certificates.ca)
    expected = "sslmode verify-full or verify-ca together with postgres-ca-file"
    assert faults_of(check) == [Fault("postgres-conn-url", expected, "postgres-ca-file")]


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
def test_a_client_certificate_that_may_not_be_used_is_a_fault(
    sslmode: str, certificates: Certificates
) -> None:
    check = PostgresCheck(
        f"host=h sslmode={sslmode}", cert_file=certificates.leaf, key_file=certificates.key
    )
    expected = "sslmode require or stricter together with postgres-cert-file"
    assert faults_of(check) == [Fault("postgres-conn-url", expected, "postgres-cert-file")]
    assert faults_of(replace(check, conn_url="host=h sslmode=require")) == []


def test_files_that_are_no_certificates_are_faults(certificates: Certificates) -> None:
    no_ca = PostgresCheck("host=h", ca_file=certificates.key)
    expected = "certificates in PEM"
    assert faults_of(no_ca) == [Fault("postgres-ca-file", expected)]
    no_certificate = PostgresCheck("host=h", cert_file=certificates.key, key_file=certificates.key)
    assert faults_of(no_certificate) == [Fault("postgres-cert-file", expected)]


def key_faults(certificates: Certificates, key: Path, url: Any = "host=h") -> list[str]:
    found = faults_of(PostgresCheck(url, cert_file=certificates.leaf, key_file=key))
    assert all(each.key == "postgres-key-file" for each in found)
    assert all(each.because == "postgres-cert-file" for each in found)
    return [each.expected for each in found]


@pytest.mark.parametrize("kind", [EC_KEY, RSA_KEY], ids=["EC", "RSA"])
def test_the_key_of_another_certificate_is_a_fault(
    kind: tuple[str, ...], certificates: Certificates
) -> None:
    _, other_key = certificates.make_leaf("other", new_key=kind)
    expected = ["the key of postgres-cert-file"]
    assert key_faults(certificates, other_key) == expected
    assert key_faults(certificates, other_key, None) == expected


def test_a_key_with_a_passphrase_is_a_fault_unless_it_is_given(certificates: Certificates) -> None:
    key = certificates.encrypted_key()
    key.chmod(0o600)
    expected = ["a key without a passphrase, or with sslpassword in postgres-conn-url"]
    assert key_faults(certificates, key) == expected
    assert key_faults(certificates, key, "host=h sslpassword=wrong") == expected
    assert key_faults(certificates, key, "host=h sslpassword=x") == []


@pytest.mark.parametrize(
    ("mode", "of_root", "of_another"),
    [
        (0o600, True, True),
        (0o400, True, True),
        (0o640, True, False),
        (0o660, False, False),
        (0o644, False, False),
        (0o604, False, False),
    ],
)
def test_a_key_that_libpq_refuses_because_others_can_read_it_is_a_fault(
    mode: int, of_root: bool, of_another: bool, certificates: Certificates, tmp_path: Path
) -> None:
    key = open_copy(certificates.key, tmp_path)
    key.chmod(mode)
    for owner, is_good in ((0, of_root), (1, of_another)):
        os.chown(key, owner, owner)
        refused = "a file that only its owner can read (0600), or of root with group read (0640)"
        assert key_faults(certificates, key) == ([] if is_good else [refused])


def test_files_that_cannot_be_read_are_no_faults() -> None:
    gone = Path("/nowhere")
    check = PostgresCheck("host=h", ca_file=gone, cert_file=gone, key_file=gone)
    assert faults_of(check) == []


def test_a_certificate_without_its_key_is_a_fault(certificates: Certificates) -> None:
    check = PostgresCheck("host=h", cert_file=certificates.leaf)
    assert [each.key for each in faults_of(check)] == ["postgres-key-file"]


def test_a_lag_of_a_primary_is_a_fault() -> None:
    check = PostgresCheck("host=h", role="primary", max_lag=MaxLag(1, False))
    expected = "none with postgres-role primary"
    assert faults_of(check) == [Fault("postgres-max-lag", expected, "postgres-role")]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("host=h sslmode=on", 'invalid sslmode value: "on"'),
        ("host=a,b port=1,2,3", "could not match 3 port numbers to 2 hosts"),
        ("service=nowhere", 'definition of service "nowhere" not found'),
    ],
)
def test_options_that_libpq_does_not_take_are_a_fault(url: str, reason: str) -> None:
    expected = f"options that libpq takes ({reason})"
    assert faults_of(PostgresCheck(url)) == [Fault("postgres-conn-url", expected)]


WITHOUT_PSYCOPG = """
import sys
sys.modules["psycopg"] = None
from yaim.checks.transport.libpq_keys import conn_url, mask_conn_url
from yaim.checks.postgres import PostgresCheck, check_postgres
url = conn_url("postgresql://u:geheim@h/db")
check = PostgresCheck(url)
print(mask_conn_url(url))
print(*(f"{each.key}: {each.expected}" for each in check.faults()), sep="; ")
print(check_postgres(check, 1.0).reason)
"""


WITH_PSYCOPG = """
import sys
from yaim.checks.kinds import KINDS
print("psycopg" in sys.modules)
list(KINDS["postgres"].settings("host=h").faults())
print("psycopg" in sys.modules)
"""


@pytest.mark.parametrize("port", ["notaport", "0", "65536", "5432,x"])
def test_a_port_that_is_none_is_a_fault(port: str) -> None:
    host = ",".join("h" for _ in port.split(","))
    expected = Fault("postgres-conn-url", "a port from 1 to 65535 in it")
    assert faults_of(PostgresCheck(f"host={host} port={port}")) == [expected]


def test_an_escape_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidValue, match="it has an escape that is not of UTF-8"):
        conn_url("postgres://localhost/%ff")


@pytest.mark.parametrize("more", [{"role": "standby"}, {"max_lag": MaxLag(1, is_time=True)}])
def test_a_full_server_does_not_count_as_healthy_where_its_role_counts(more: Any) -> None:
    (fault,) = faults_of(PostgresCheck("host=h", when_full="healthy", **more))
    assert fault.key == "postgres-when-full"


def test_without_libpq_it_is_said_what_to_install() -> None:
    """psycopg fails in the same way where it is told to use what is not there."""
    told = subprocess.run(
        (
            sys.executable,
            "-P",
            "-c",
            "from yaim.checks.transport import libpq; print(libpq.missing())",
        ),
        env={"PSYCOPG_IMPL": "nothing"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert told == "libpq, which psycopg needs, to be installed: apt install libpq5\n"


def test_psycopg_is_imported_only_by_what_needs_it() -> None:
    """Every command and each coordinator imports all kinds of checks."""
    told = subprocess.run(
        (sys.executable, "-P", "-c", WITH_PSYCOPG),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert told.split() == ["False", "True"]


def test_without_psycopg_it_is_said_what_to_install() -> None:
    told = subprocess.run(
        (sys.executable, "-P", "-c", WITHOUT_PSYCOPG),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    missing = (
        "psycopg 3, which it needs, to be installed: apt install python3-psycopg, or pip install"
        " 'yaim[postgres]'"
    )
    assert told.splitlines() == [
        "postgresql://u:********@h/db",
        f"checker-type: {missing}",
        f"expected {missing}",
    ]


# --- libpq ---------------------------------------------------------------------------------------


def test_the_attempts_do_not_grow(primary: Server) -> None:
    check = PostgresCheck(remote(primary), role="primary")
    for _ in range(20):
        attempt(check)
    grown: list[int] = []
    while len(grown) < 4 and not (grown and grown[-1] < 2**20):
        gc.collect()
        before = memory()
        for _ in range(100):
            attempt(check)
        grown.append(memory() - before)
    assert grown[-1] < 2**20  # something else may grow now and then, but not each time


def test_a_connection_is_closed_however_it_is_left(primary: Server) -> None:
    count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    with pytest.raises(ZeroDivisionError), connect(primary.local, time.monotonic() + PATIENT_S):
        raise ZeroDivisionError
    with connect(primary.local, time.monotonic() + 2 * PATIENT_S) as session:
        wait_until(lambda: session.query(count) == [("1",)])


def test_a_time_that_is_over_is_none(primary: Server) -> None:
    with pytest.raises(LibpqError) as failed, connect(primary.local, time.monotonic() - 1):
        pass
    assert failed.value.is_timeout


def test_options_are_parsed_as_libpq_does() -> None:
    assert parse("postgresql://u:p%40@h:1/db?sslmode=require") == {
        "user": "u",
        "password": "p@",
        "host": "h",
        "port": "1",
        "dbname": "db",
        "sslmode": "require",
    }
