"""The pgbouncer check against real ones, in front of a real PostgreSQL."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.checks.pgbouncer_server import ADMIN, APP, MONITOR, Pgbouncer, pooling, with_client_tls
from tests.checks.postgres_server import (
    PASSWORD,
    Installation,
    Server,
    free_port,
    give_to_postgres,
    running,
    wait_until,
)
from tests.checks.stopwatch import Stopwatch
from yaim.checks.pgbouncer import _HELD_BACK, PgbouncerCheck, check_pgbouncer
from yaim.checks.transport.libpq import LibpqError, connect
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault

PATIENT_S = 30.0
IMPATIENT_S = 1.0
"""The bound on an attempt that is expected to be answered, and on one that is not."""
SLACK_S = 0.5
NO_ANSWER = CannotTell("no answer within 1 s: connected, no answer to the login")
NO_RESULT = CannotTell("no answer within 1 s")
WELL = Healthy("console answered")
ANSWERED = Healthy("query answered")


def attempt(check: PgbouncerCheck, timeout_s: float = PATIENT_S) -> Verdict:
    """One attempt, which must keep within its bound."""
    watch = Stopwatch()
    verdict = check_pgbouncer(check, timeout_s)
    assert watch.took_s() < timeout_s + SLACK_S
    return verdict


def comes(check: PgbouncerCheck, verdict: Verdict) -> None:
    """Perhaps not at once: a query that was given up before has little time left where it goes on,
    and is still waited for."""
    wait_until(lambda: attempt(check) == verdict)


def refused(port: int) -> Verdict:
    return CannotTell(f"127.0.0.1:{port}: Connection refused")


def console(pgbouncer: Pgbouncer, more: str = "", user: str = MONITOR) -> PgbouncerCheck:
    url = f"host=127.0.0.1 port={pgbouncer.port} {more}"
    return PgbouncerCheck(url, user=user, password=PASSWORD)


def query(pgbouncer: Pgbouncer, dbname: str = "app", sql: str = "SELECT 1") -> PgbouncerCheck:
    return replace(console(pgbouncer, f"dbname={dbname}", APP), query=sql)


@pytest.fixture(scope="module")
def database(postgres: Installation) -> Iterator[Server]:
    with running(postgres.new()) as server:
        server.sql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        yield server


@pytest.fixture(scope="module")
def shared(database: Server) -> Iterator[Pgbouncer]:
    """One for all tests; they leave it as it was."""
    with pooling(database, "shared") as pgbouncer:
        yield pgbouncer


@pytest.fixture
def own(database: Server) -> Iterator[Pgbouncer]:
    """One for one test."""
    with pooling(database, "own") as pgbouncer:
        yield pgbouncer


@pytest.fixture(autouse=True)
def nothing_is_left_behind(shared: Pgbouncer) -> Iterator[None]:
    def resources() -> tuple[set[int | None], set[str]]:
        """Threads and file descriptors."""
        threads = {each.ident for each in threading.enumerate()}
        return threads, {each.name for each in Path("/proc/self/fd").iterdir()}

    threads, descriptors = resources()

    def nothing_more() -> bool:
        return resources()[0] <= threads and resources()[1] <= descriptors

    yield
    # A query that was given up goes on until query_wait_timeout.
    wait_until(nothing_more, PATIENT_S)


# --- the console ---------------------------------------------------------------------------------


@pytest.mark.parametrize("more", ["", "dbname=pgbouncer"])
@pytest.mark.parametrize("user", [MONITOR, ADMIN])
def test_a_pgbouncer_whose_console_answers_is_healthy(
    more: str, user: str, shared: Pgbouncer
) -> None:
    assert attempt(console(shared, more, user)) == WELL


def test_it_is_asked_over_its_unix_socket(shared: Pgbouncer) -> None:
    url = f"postgresql://{MONITOR}:{PASSWORD}@:{shared.port}/?host={shared.directory}"
    assert attempt(PgbouncerCheck(url)) == WELL


def test_nothing_is_kept_between_attempts(shared: Pgbouncer) -> None:
    attempt(console(shared))
    assert [row for row in shared.admin("SHOW CLIENTS") if row[1] != ADMIN] == []


def test_its_log_has_no_complaints_about_us(own: Pgbouncer) -> None:
    attempt(console(own))
    attempt(query(own))
    log = (own.directory / "log").read_text()
    assert "ERROR" not in log and "WARNING" not in log


def test_a_database_that_it_has_is_healthy(shared: Pgbouncer) -> None:
    assert attempt(replace(console(shared), database="app")) == WELL


def test_a_database_that_it_does_not_have_is_unhealthy(shared: Pgbouncer) -> None:
    check = replace(console(shared), database="unknown")
    assert attempt(check) == Unhealthy("it has no database unknown")


def test_the_console_is_no_database_of_those_that_count(shared: Pgbouncer) -> None:
    check = replace(console(shared), database="pgbouncer")
    assert attempt(check) == Unhealthy("it has no database pgbouncer")


def test_a_database_that_is_disabled_is_unhealthy(own: Pgbouncer) -> None:
    own.admin("DISABLE app")
    unhealthy = Unhealthy("database app is disabled")
    assert attempt(console(own)) == unhealthy
    assert attempt(replace(console(own), database="app")) == unhealthy
    assert attempt(replace(console(own), database="app", when_paused="healthy")) == unhealthy
    assert attempt(replace(console(own), database="down")) == WELL
    own.admin("ENABLE app")
    assert attempt(console(own)) == WELL


@pytest.mark.parametrize("command", ["PAUSE", "KILL"])
def test_a_database_that_is_paused_counts_as_configured(command: str, own: Pgbouncer) -> None:
    own.admin(f"{command} app")
    paused = "database app is paused"
    for check in (console(own), replace(console(own), database="app")):
        assert attempt(check) == Unhealthy(paused)
        healthy = Healthy(f"{paused}, which counts as healthy")
        assert attempt(replace(check, when_paused="healthy")) == healthy
    assert attempt(replace(console(own), database="down")) == WELL
    own.admin("RESUME app")
    assert attempt(console(own)) == WELL


def test_a_pgbouncer_that_is_paused_counts_as_configured(own: Pgbouncer) -> None:
    own.admin("PAUSE")
    check = replace(console(own), database="app")
    if own.version < 11900:
        assert attempt(check) == WELL  # nothing on its console tells
    else:
        assert attempt(check) == Unhealthy("paused")
        healthy = Healthy("paused, which counts as healthy")
        assert attempt(replace(check, when_paused="healthy")) == healthy
    assert attempt(query(own), IMPATIENT_S) == NO_RESULT
    own.admin("RESUME")
    assert attempt(check) == WELL
    comes(query(own), ANSWERED)


def test_a_pgbouncer_that_is_suspended_gives_no_answer(own: Pgbouncer) -> None:
    with own.session() as admin:
        admin.query("SUSPEND")
        assert attempt(console(own), IMPATIENT_S) == NO_ANSWER
        assert attempt(query(own), IMPATIENT_S) == NO_RESULT
        admin.query("RESUME")
        assert attempt(console(own)) == WELL
        comes(query(own), ANSWERED)


def test_a_suspended_pgbouncer_resumes_although_we_check(own: Pgbouncer) -> None:
    """It does when it has no console connection any more. (So we keep none.)"""
    with own.session() as admin:
        assert attempt(console(own)) == WELL
        admin.query("SUSPEND")
        assert attempt(console(own), IMPATIENT_S) == NO_ANSWER
    assert attempt(console(own)) == WELL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pgbouncer_that_was_told_to_end_ends_although_we_check(
    number: int, own: Pgbouncer
) -> None:
    """Newer ones wait for all clients after SIGTERM, those of the console among them."""
    assert attempt(console(own)) == WELL
    own.send(number)
    own.wait()
    assert attempt(console(own)) == refused(own.port)


# --- suspended counts as healthy -----------------------------------------------------------------

SUSPENDED = Healthy("suspended, which counts as healthy")
SUSPENDED_S = 4.0
"""The bound on an attempt a part of which has to do for the connection that was kept."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a quarter of the time may be too little for that connection's answer."""
    monkeypatch.setattr("yaim.checks.pgbouncer._HELD_BACK", 2 * _HELD_BACK)


@contextmanager
def repeated(check: PgbouncerCheck) -> Iterator[Callable[..., Verdict]]:
    """Attempts in a thread of their own, as a node makes them."""
    with ThreadPoolExecutor(1) as thread:

        def attempt_there(timeout_s: float = PATIENT_S, **changed: Any) -> Verdict:
            return thread.submit(attempt, replace(check, **changed), timeout_s).result()

        yield attempt_there


def keeping(pgbouncer: Pgbouncer) -> PgbouncerCheck:
    return replace(console(pgbouncer), when_suspended="healthy")


def kept_by(pgbouncer: Pgbouncer) -> int:
    """How many connections there are of checks."""
    return sum(row[1] == MONITOR for row in pgbouncer.admin("SHOW CLIENTS"))


def test_a_suspended_pgbouncer_may_count_as_healthy(own: Pgbouncer, patient: None) -> None:
    with repeated(keeping(own)) as again, own.session() as admin:
        assert again() == WELL
        for _ in range(2):
            admin.query("SUSPEND")
            for _ in range(2):
                assert again(SUSPENDED_S) == SUSPENDED
            admin.query("RESUME")
            assert again() == WELL


def test_suspended_before_the_first_attempt_it_gives_no_answer(own: Pgbouncer) -> None:
    with repeated(keeping(own)) as again, own.session() as admin:
        admin.query("SUSPEND")
        assert again(IMPATIENT_S) == NO_ANSWER
        admin.query("RESUME")
        assert again() == WELL


def test_one_that_hangs_is_not_taken_for_suspended(own: Pgbouncer, patient: None) -> None:
    with repeated(keeping(own)) as again, own.session() as admin:
        assert again() == WELL
        own.send(signal.SIGSTOP)
        for _ in range(2):
            assert again(IMPATIENT_S) == NO_ANSWER
        own.send(signal.SIGCONT)
        assert again() == WELL
        admin.query("SUSPEND")
        assert again(SUSPENDED_S) == SUSPENDED


def test_one_that_hangs_while_it_is_suspended_gives_no_answer(own: Pgbouncer) -> None:
    with repeated(keeping(own)) as again, own.session() as admin:
        assert again() == WELL
        admin.query("SUSPEND")
        own.send(signal.SIGSTOP)
        assert again(IMPATIENT_S) == NO_ANSWER
        own.send(signal.SIGCONT)


def test_a_new_pgbouncer_is_recognised_too_when_it_is_suspended(
    own: Pgbouncer, patient: None
) -> None:
    with repeated(keeping(own)) as again:
        assert again() == WELL
        own.stop()
        assert again() == refused(own.port)
        own.start()
        assert again() == WELL
        own.stop()
        own.start()  # between two attempts
        assert again() == WELL
        with own.session() as admin:
            admin.query("SUSPEND")
            assert again(SUSPENDED_S) == SUSPENDED


def test_it_still_resumes_when_the_admin_has_gone(own: Pgbouncer, patient: None) -> None:
    with repeated(keeping(own)) as again:
        assert again() == WELL
        with own.session() as admin:
            admin.query("SUSPEND")
            assert again(SUSPENDED_S) == SUSPENDED
        assert again(SUSPENDED_S) == SUSPENDED
        assert again() == WELL


def test_it_still_ends_when_it_was_told_to_wait_for_its_clients(own: Pgbouncer) -> None:
    with repeated(keeping(own)) as again:
        assert again() == WELL
        own.send(signal.SIGTERM)
        # It takes a moment until it handles that.
        wait_until(lambda: isinstance(again(IMPATIENT_S), CannotTell))
        own.wait()


def test_two_checks_do_not_share_a_connection(own: Pgbouncer, patient: None) -> None:
    with (
        repeated(keeping(own)) as one,
        repeated(keeping(own)) as other,
        own.session() as admin,
    ):
        assert one() == WELL
        admin.query("SUSPEND")
        assert other(IMPATIENT_S) == NO_ANSWER
        assert one(SUSPENDED_S) == SUSPENDED
        admin.query("RESUME")
        assert one() == other() == WELL
        assert kept_by(own) == 2


def test_of_many_attempts_one_connection_is_kept(own: Pgbouncer) -> None:
    with repeated(keeping(own)) as again:
        assert again() == WELL
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(30):
            assert again() == WELL
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert kept_by(own) == 1
    assert kept_by(own) == 0


def test_a_changed_check_keeps_nothing_of_the_old_one(own: Pgbouncer) -> None:
    with repeated(keeping(own)) as again:
        assert again() == again(database="app") == WELL
        assert kept_by(own) == 1
        assert again(when_suspended="unhealthy") == WELL
        assert kept_by(own) == 0


# --- full ----------------------------------------------------------------------------------------


def test_a_full_pgbouncer_is_unhealthy(database: Server) -> None:
    with pooling(database, "full", max_client_conn="3") as full, ExitStack() as stack:
        check = console(full)
        for _ in range(2):
            stack.enter_context(full.session(APP, "app"))
        assert attempt(check) == WELL
        assert attempt(query(full)) == ANSWERED
        stack.enter_context(full.session(APP, "app"))
        assert attempt(check) == Unhealthy("out of connections: max_client_conn")
        refused = Unhealthy("no more connections allowed (max_client_conn)")
        assert attempt(query(full)) == refused


# --- who may come in -----------------------------------------------------------------------------


def test_a_user_who_may_not_use_the_console_is_unhealthy(shared: Pgbouncer) -> None:
    assert attempt(console(shared, user=APP)) == Unhealthy(
        "user app is not one of pgbouncer's stats_users or admin_users"
    )


@pytest.mark.parametrize("auth_type", ["scram-sha-256", "md5"])
def test_a_wrong_password_is_unhealthy(auth_type: str, database: Server) -> None:
    with pooling(database, auth_type, auth_type=auth_type) as pgbouncer:
        assert attempt(console(pgbouncer)) == WELL
        verdict = attempt(replace(console(pgbouncer), password="falsch"))
        assert isinstance(verdict, Unhealthy)
        assert "authentication failed" in verdict.reason
        verdict = attempt(replace(console(pgbouncer), user="stranger"))
        assert isinstance(verdict, Unhealthy)


def test_a_missing_password_is_unhealthy(
    shared: Pgbouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    verdict = attempt(replace(console(shared), password=None))
    assert verdict == Unhealthy("it asks for a password, and there is none (28P01)")


def test_without_authentication_no_password_is_needed(database: Server) -> None:
    with pooling(database, "trusting", auth_type="trust") as pgbouncer:
        assert attempt(replace(console(pgbouncer), password=None)) == WELL


# --- a query -------------------------------------------------------------------------------------


def test_a_query_goes_through_to_the_database(shared: Pgbouncer) -> None:
    check = query(shared, sql="SELECT current_user, 1")
    assert attempt(check) == ANSWERED
    assert attempt(replace(check, expected_response="app|1")) == ANSWERED
    wrong = Unhealthy("the query gave 'app|1', expected '2'")
    assert attempt(replace(check, expected_response="2")) == wrong


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_a_query_leaves_nothing_in_a_pooled_connection(mode: str, database: Server) -> None:
    with pooling(database, mode, pool_mode=mode, default_pool_size="1") as pgbouncer:
        assert attempt(query(pgbouncer)) == ANSWERED
        with pgbouncer.session(APP, "app") as session:
            assert session.query("SHOW statement_timeout") == [("0",)]


def test_a_query_that_takes_too_long_cannot_tell_and_is_ended(
    shared: Pgbouncer, database: Server
) -> None:
    assert attempt(query(shared, sql="SELECT pg_sleep(60)"), IMPATIENT_S) == NO_RESULT
    busy = "SELECT query FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'"
    wait_until(lambda: database.sql(busy) == [])


def test_attempts_that_are_given_up_do_not_fill_a_pgbouncer_whose_database_is_paused(
    database: Server,
) -> None:
    """pgbouncer keeps clients that wait, also those that have gone."""

    def waiting(pgbouncer: Pgbouncer) -> list[str | None]:
        with pgbouncer.session() as admin:
            pools = [pool for pool in admin.table("SHOW POOLS") if pool["database"] == "app"]
        return [pool["cl_waiting"] for pool in pools if pool["user"] == APP]

    with pooling(database, "own", query_wait_timeout="60") as own:
        check = query(own)
        assert attempt(check) == ANSWERED
        own.admin("PAUSE app")
        no_answer = CannotTell("no answer within 0.2 s")
        assert attempt(check, 0.2) == no_answer
        wait_until(lambda: waiting(own) == ["1"])
        for _ in range(5):
            assert attempt(check, 0.2) == no_answer
        assert waiting(own) == ["1"]
        own.admin("RESUME app")
        comes(check, ANSWERED)


def test_a_query_that_fails_is_unhealthy(shared: Pgbouncer) -> None:
    verdict = attempt(query(shared, sql="SELECT nothing"))
    assert verdict == Unhealthy('column "nothing" does not exist (42703)')


def test_a_database_that_is_not_there_is_unhealthy(shared: Pgbouncer) -> None:
    assert attempt(query(shared, "unknown")) == Unhealthy("no such database: unknown")
    verdict = attempt(query(shared, "gone"))
    assert isinstance(verdict, Unhealthy)
    assert verdict.reason.startswith('database "nowhere" does not exist')


def test_a_query_to_a_disabled_database_is_unhealthy(own: Pgbouncer) -> None:
    own.admin("DISABLE app")
    assert attempt(query(own)) == Unhealthy('database "app" is disabled')


def test_a_database_that_is_down_is_never_healthy(shared: Pgbouncer) -> None:
    """pgbouncer lets clients wait for it. Its console says nothing about it."""
    for _ in range(3):
        verdict = attempt(query(shared, "down"), IMPATIENT_S)
        assert verdict == NO_RESULT or isinstance(verdict, Unhealthy)
    assert attempt(console(shared)) == WELL


def test_a_query_whose_server_process_dies_cannot_tell(shared: Pgbouncer) -> None:
    sql = "SELECT pg_terminate_backend(pg_backend_pid())"
    assert isinstance(attempt(query(shared, sql=sql)), CannotTell)


# --- no answer -----------------------------------------------------------------------------------


def test_nobody_at_the_port_cannot_tell() -> None:
    port = free_port()
    check = PgbouncerCheck(f"host=127.0.0.1 port={port} user=u")
    assert attempt(check) == refused(port)


def test_a_killed_pgbouncer_cannot_tell(own: Pgbouncer) -> None:
    own.send(signal.SIGKILL)
    own.wait()
    assert attempt(console(own)) == refused(own.port)


def test_a_pgbouncer_that_hangs_cannot_tell_in_time(own: Pgbouncer) -> None:
    own.send(signal.SIGSTOP)
    assert attempt(console(own), IMPATIENT_S) == NO_ANSWER
    assert attempt(query(own), IMPATIENT_S) == NO_RESULT
    own.send(signal.SIGCONT)
    assert attempt(console(own)) == WELL


def test_a_postgresql_is_no_pgbouncer(database: Server) -> None:
    url = f"host={database.directory} port={database.port} user=postgres"
    reason = 'database "pgbouncer" does not exist (3D000)'
    assert attempt(PgbouncerCheck(url)) == Unhealthy(reason)


# --- TLS -----------------------------------------------------------------------------------------


def test_its_certificate_is_verified(database: Server, certificates: Certificates) -> None:
    options = with_client_tls(database, certificates)
    with pooling(database, "tls", **options) as pgbouncer:
        check = console(pgbouncer)
        assert attempt(replace(check, ca_file=certificates.ca)) == WELL
        through = replace(query(pgbouncer), ca_file=certificates.ca)
        assert attempt(through) == ANSWERED
        stranger = attempt(replace(check, ca_file=certificates.stranger))
        place = f"127.0.0.1:{pgbouncer.port}"
        assert stranger == Unhealthy(f"{place}: SSL error: certificate verify failed")
        with pytest.raises(LibpqError, match="SSL required"):
            plain = {**pgbouncer.options(MONITOR, "pgbouncer"), "sslmode": "disable"}
            with connect(plain, time.monotonic() + PATIENT_S):
                pass


def test_a_client_certificate_is_never_without_tls(
    shared: Pgbouncer, database: Server, certificates: Certificates
) -> None:
    files: dict[str, Any] = {"cert_file": certificates.leaf, "key_file": certificates.key}
    plain = attempt(replace(console(shared), **files))
    assert isinstance(plain, CannotTell)
    assert plain.reason.endswith("server does not support SSL, but SSL was required")
    options = with_client_tls(database, certificates)
    options["client_tls_ca_file"] = options["client_tls_cert_file"].replace("leaf", "ca")
    shutil.copy(certificates.ca, options["client_tls_ca_file"])
    give_to_postgres(Path(options["client_tls_ca_file"]))
    with pooling(database, "tls", **options) as pgbouncer:
        assert attempt(replace(console(pgbouncer), **files)) == WELL
    weak = PgbouncerCheck("host=h sslmode=prefer", **files)
    expected = "sslmode require or stricter together with pgbouncer-cert-file"
    because = "pgbouncer-cert-file"
    assert list(weak.faults()) == [Fault("pgbouncer-conn-url", expected, because)]


# --- the keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "key"),
    [
        (PgbouncerCheck("host=h"), None),
        (PgbouncerCheck("host=h dbname=pgbouncer", database="app"), None),
        (PgbouncerCheck("host=h dbname=app", query="SELECT 1", expected_response="1"), None),
        (PgbouncerCheck("host=h dbname=app"), "pgbouncer-conn-url"),
        (PgbouncerCheck("host=h dbname=pgbouncer", query="SELECT 1"), "pgbouncer-conn-url"),
        (PgbouncerCheck("host=h", expected_response="1"), "pgbouncer-query"),
        (PgbouncerCheck("host=h", query="SELECT 1", database="x"), "pgbouncer-database"),
        (PgbouncerCheck("host=h", query="Q", when_paused="healthy"), "pgbouncer-when-paused"),
        (
            PgbouncerCheck("host=h", query="Q", when_suspended="healthy"),
            "pgbouncer-when-suspended",
        ),
        (PgbouncerCheck("host=h user=u", user="u"), "pgbouncer-user"),
        (PgbouncerCheck("host=h", cert_file=Path("/x")), "pgbouncer-key-file"),
    ],
)
def test_keys_that_are_wrong_together_are_faults(check: PgbouncerCheck, key: str | None) -> None:
    assert [each.key for each in check.faults()] == ([key] if key else [])


def test_a_fault_that_is_found_as_for_postgres_names_our_keys() -> None:
    check = PgbouncerCheck("host=h user=u", user="u")
    expected = "either it or user in pgbouncer-conn-url, not both"
    assert list(check.faults()) == [Fault("pgbouncer-user", expected, "pgbouncer-conn-url")]


def test_a_fault_has_the_key_that_it_is_because_of() -> None:
    check = PgbouncerCheck("host=h", expected_response="1")
    assert [each.because for each in check.faults()] == ["pgbouncer-expected-response"]
    check = PgbouncerCheck("host=h", query="Q", database="x", when_paused="healthy")
    assert [each.because for each in check.faults()] == ["pgbouncer-query"] * 2
