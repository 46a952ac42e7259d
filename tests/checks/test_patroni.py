"""The Patroni check against a real Patroni with a primary and a replica, and what is none."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.certificates import Certificates
from tests.checks.patroni_cluster import Node, frozen, running, wait_until
from tests.checks.stopwatch import Stopwatch
from tests.checks.web_server import (
    OK,
    Reads,
    reads_all,
    reads_nothing,
    redirect,
    refusing,
    resets_behind,
    response,
    sends,
    serving,
)
from yaim.checks.http import HttpCheck, check_http
from yaim.checks.patroni import PatroniCheck, check_patroni
from yaim.checks.postgres import PostgresCheck, max_lag
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault, InvalidValue, keys_in

PATIENT_S = 30.0
IMPATIENT_S = 0.3
SLACK_S = 0.5


def attempt(check: PatroniCheck, timeout_s: float = PATIENT_S) -> Verdict:
    """One attempt, which must keep within its bound."""
    watch = Stopwatch()
    verdict = check_patroni(check, timeout_s)
    assert watch.took_s() < timeout_s + SLACK_S
    return verdict


# --- a real one ----------------------------------------------------------------------------------

PRIMARY = (Healthy("role primary, state running"), Healthy("role master, state running"))
"""Since Patroni 4, and before."""
REPLICA = Healthy("role replica, state running")


@pytest.fixture(scope="module")
def cluster(certificates: Certificates) -> Iterator[tuple[Node, Node]]:
    with running(certificates) as nodes:
        yield nodes


@pytest.fixture
def primary(cluster: tuple[Node, Node]) -> Node:
    """Which runs, whatever the tests before have done to it."""
    wait_until(lambda: attempt(PatroniCheck(cluster[0].url, "primary")) in PRIMARY)
    return cluster[0]


def of_primary(primary: Node, role: str, timeout_s: float = PATIENT_S) -> Verdict:
    return attempt(PatroniCheck(primary.url, role), timeout_s)


@pytest.fixture
def replica(cluster: tuple[Node, Node], primary: Node, certificates: Certificates) -> PatroniCheck:
    """How it is asked. It runs, too."""
    found = PatroniCheck(
        cluster[1].url,
        ca_file=certificates.ca,
        cert_file=certificates.leaf,
        key_file=certificates.key,
    )
    wait_until(lambda: attempt(found) == REPLICA)
    return found


def as_role(check: PatroniCheck, role: str, max_lag: str | None = None) -> PatroniCheck:
    return PatroniCheck(
        *(check.url, role, max_lag),
        ca_file=check.ca_file,
        cert_file=check.cert_file,
        key_file=check.key_file,
    )


def test_a_node_in_the_wanted_role_is_healthy(primary: Node, replica: PatroniCheck) -> None:
    assert of_primary(primary, "primary") in PRIMARY
    assert of_primary(primary, "any") in PRIMARY
    assert attempt(as_role(replica, "replica")) == REPLICA
    assert attempt(replica) == REPLICA


def test_a_node_in_another_role_is_unhealthy(primary: Node, replica: PatroniCheck) -> None:
    found = of_primary(primary, "replica")
    assert isinstance(found, Unhealthy)
    assert found.reason in [
        f"HTTP 503 from /replica, expected 200: {each.reason}" for each in PRIMARY
    ]
    told = "HTTP 503 from /primary, expected 200: role replica, state running"
    assert attempt(as_role(replica, "primary")) == Unhealthy(told)


def test_a_replica_that_is_too_far_behind_is_unhealthy(
    cluster: tuple[Node, Node], replica: PatroniCheck
) -> None:
    primary, standby = cluster
    near, far = as_role(replica, "replica", "16kB"), as_role(replica, "replica", "1GB")
    wait_until(lambda: attempt(near) == REPLICA)
    with frozen(standby.replaying()):
        primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10000)")
        wait_until(lambda: attempt(near) != REPLICA)
        told = "HTTP 503 from /replica?lag=16kB, expected 200: role replica, state running"
        assert attempt(near) == Unhealthy(told)
        assert attempt(far) == REPLICA
        assert attempt(as_role(replica, "replica")) == REPLICA
    primary.sql("DROP TABLE t")
    wait_until(lambda: attempt(near) == REPLICA)


def test_without_a_client_certificate_that_is_asked_for_it_cannot_tell(
    replica: PatroniCheck,
) -> None:
    found = attempt(PatroniCheck(replica.url, ca_file=replica.ca_file))
    assert isinstance(found, CannotTell)


@pytest.mark.parametrize("role", ["any", "primary"])
def test_a_postgresql_that_is_frozen_cannot_tell_in_time(primary: Node, role: str) -> None:
    """Patroni waits for its answer."""
    with frozen(primary.postgres()):
        assert of_primary(primary, role, IMPATIENT_S) == CannotTell("no answer within 0.3 s")


def test_a_patroni_that_is_frozen_cannot_tell_in_time(primary: Node) -> None:
    with frozen(primary.patronis()):
        assert of_primary(primary, "any", IMPATIENT_S) == CannotTell("no answer within 0.3 s")


@pytest.mark.parametrize("role", ["any", "primary"])
def test_a_postgresql_that_has_crashed_is_unhealthy_before_patroni_notices(
    primary: Node, role: str
) -> None:
    """Until then /primary answers 200: this node has the leader's lock. Hence the crash comes right
    after a look of Patroni's; a busy machine may need several tries to ask before the next, when
    PostgreSQL is started again."""
    for _ in range(10):
        wait_until(lambda: of_primary(primary, "primary") in PRIMARY)
        wait_for_a_look(primary)
        primary.crash()
        found = of_primary(primary, role)
        asked = check_http(HttpCheck(f"{primary.url}/primary"), PATIENT_S)
        if asked == Healthy("HTTP 200") and not primary.postgres():
            break
    assert asked == Healthy("HTTP 200")
    assert isinstance(found, Unhealthy)
    assert "state unknown" in found.reason or "state crashed" in found.reason


def wait_for_a_look(node: Node) -> None:
    last = node.last_loop()
    wait_until(lambda: node.last_loop() != last)


# --- none ----------------------------------------------------------------------------------------


def test_a_patroni_that_does_not_run_cannot_tell() -> None:
    with refusing() as url:
        told = f"{urlsplit(url).netloc}: Connection refused"
        assert attempt(PatroniCheck(url.rstrip("/"))) == CannotTell(told)


def test_a_patroni_with_a_certificate_of_another_ca_is_unhealthy_and_the_key_is_named(
    certificates: Certificates,
) -> None:
    with serving(sends(response()), tls=certificates.server()) as server:
        verdict = attempt(PatroniCheck(server.url[:-1], ca_file=certificates.stranger))
    assert isinstance(verdict, Unhealthy)
    assert verdict.reason.endswith(": is the CA in patroni-ca-file?")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"OK", b"[]", b"{}", b'"running"', b"[" * 100_000, b"\xff"),
        *(b'{"role": "replica"}', b'{"role": null, "state": 1}'),
    ],
    ids=map(str, range(9)),
)
def test_what_is_not_patroni_is_unhealthy(body: bytes) -> None:
    with serving(sends(response(body))) as server:
        told = Unhealthy("HTTP 200 from /health, expected Patroni's status with it")
        assert attempt(PatroniCheck(server.url[:-1])) == told
    with serving(sends(response(body, 404))) as server:
        told = Unhealthy("HTTP 404 from /health, expected 200: without a status")
        assert attempt(PatroniCheck(server.url[:-1])) == told


def test_a_status_counts_though_the_connection_is_reset_behind_it() -> None:
    status = b'{"role": "replica", "state": "running"}'
    for _ in range(10):
        for content in (response(status), OK + b"\r\n" + status):
            with serving(resets_behind(content)) as server:
                assert attempt(PatroniCheck(server.url[:-1])) == REPLICA
        with serving(resets_behind(OK + b"\r\n" + status[:-9])) as server:
            reset = CannotTell(f"127.0.0.1:{server.port}: Connection reset by peer")
            assert attempt(PatroniCheck(server.url[:-1])) == reset


@pytest.mark.parametrize("reads", [reads_all, reads_nothing])
def test_a_status_whose_headers_or_body_break_off_is_none(reads: Reads) -> None:
    status = b'{"state": "running", "role": "primary"}'
    whole = response(status)
    for cut, reason in {
        len("HTTP/1.1 200"): "the answer broke off before the end of its headers",
        whole.index(status) - 2: "the answer broke off before the end of its headers",
        len(whole) - 9: "the answer broke off",
    }.items():
        with serving(sends(whole[:cut]), reads=reads) as server:
            check = PatroniCheck(url=server.url, role="primary")
            found = {attempt(check) for _ in range(10)}
            assert found == {CannotTell(f"127.0.0.1:{server.port}: {reason}")}


def test_a_leader_that_has_not_been_promoted_yet_is_no_primary() -> None:
    status = b'{"role": "replica", "state": "running"}'
    with serving(sends(response(status))) as server:
        told = "role replica, state running, expected role primary, state running"
        assert attempt(PatroniCheck(server.url[:-1], "primary")) == Unhealthy(told)


def test_another_server_is_not_asked_for_the_status() -> None:
    """Nor is it sent the password."""
    status = b'{"role": "primary", "state": "running"}'
    with (
        serving(sends(response(status))) as other,
        serving(sends(redirect(other.url))) as server,
    ):
        check = PatroniCheck(server.url.rstrip("/"), user="monitor", password="geheim")
        told = f"HTTP 302 to another server, 127.0.0.1:{other.port}, expected HTTP 200"
        assert attempt(check) == Unhealthy(told)
        assert other.requests == []


def test_a_status_that_is_too_long_is_not_read() -> None:
    """What JSON costs may be thirty times its length."""
    status = b'{"role": "primary", "state": "running", "x": [%s0]}'
    with serving(sends(response(status % (b"0, " * 1000)))) as server:
        assert attempt(PatroniCheck(server.url.rstrip("/"))) == PRIMARY[0]
    with serving(sends(response(status % (b"0, " * 50_000)))) as server:
        told = "HTTP 200 from /health, expected Patroni's status with it"
        assert attempt(PatroniCheck(server.url.rstrip("/"))) == Unhealthy(told)


def test_the_reason_is_short_and_can_be_printed_whatever_the_status_is() -> None:
    body = rb'{"role": "\u001b[2J%s", "state": "\n%s"}' % (b"x" * 999, b"y" * 999)
    with serving(sends(response(body, 503))) as server:
        reason = attempt(PatroniCheck(server.url[:-1])).reason
    assert reason.isprintable()
    assert len(reason) <= 160


@pytest.mark.parametrize(
    ("base", "path"), [("", "/health"), ("/", "/health"), ("/db1/", "/db1/health")]
)
def test_the_endpoint_comes_after_the_base_url(base: str, path: str) -> None:
    with serving(sends(response(b"", 503))) as server:
        url = keys_in(PatroniCheck)["url"].read(server.url[:-1] + base)
        attempt(PatroniCheck(url, user="monitor", password="geheim"))
        assert server.requests[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())
        assert b"authorization: basic" in server.requests[0].lower()


# --- the keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("url", "127.0.0.1:8008", "a URL that begins with http:// or https://"),
        ("url", "http://h/?x", "a URL like http://127.0.0.1:8008, without ? and #"),
        ("role", "leader", "one of any, primary, replica"),
        ("max-lag", "10s", "a number of bytes, or of kB, MB, GB or TB, such as 16MB"),
        ("max-lag", "-1", "a number of bytes, or of kB, MB, GB or TB, such as 16MB"),
    ],
)
def test_what_a_key_does_not_take_is_refused(name: str, given: str, expected: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        keys_in(PatroniCheck)[name].read(given)
    assert str(caught.value) == expected


@pytest.mark.parametrize("given", ["16", "16B", "16 kB", "16mb", "16 Gb", "16TB"])
def test_a_lag_is_read_as_the_postgres_check_reads_it(given: str) -> None:
    """Of the two one took 16mb and the other did not, and only one took 16 and 16TB."""
    read = str(keys_in(PatroniCheck)["max-lag"].read(given))
    assert re.fullmatch("[0-9]+(B|kB|MB|GB|TB)?", read), "which is what Patroni reads"
    assert keys_in(PostgresCheck)["max-lag"].read(read) == max_lag(given)


def test_keys_that_make_no_sense_together_are_faults() -> None:
    assert list(PatroniCheck().faults()) == []
    assert list(PatroniCheck(role="replica", max_lag="0").faults()) == []
    lag = Fault("patroni-role", "replica, together with patroni-max-lag", "patroni-max-lag")
    assert list(PatroniCheck(max_lag="0").faults()) == [lag]
    assert [each.key for each in PatroniCheck(user="monitor").faults()] == ["patroni-password"]
