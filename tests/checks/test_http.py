"""The HTTP check against servers that misbehave, over real sockets."""

import base64
import gc
import gzip
import os
import pty
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.certificates import WEAK_RSA_KEY, Certificates
from tests.checks.elsewhere import attempt_where
from tests.checks.stopwatch import IN_A_PROGRAM, Stopwatch
from tests.checks.web_server import (
    OK,
    PATIENT_S,
    Answer,
    Reads,
    Server,
    does_not_wait,
    drips,
    floods,
    ignoring,
    in_turn,
    reads_a_part,
    reads_all,
    reads_nothing,
    redirect,
    redirect_with,
    refusing,
    resets_behind,
    response,
    sends,
    serving,
)
from yaim.checks.http import (
    MAX_BODY_BYTES,
    MAX_REDIRECTS,
    SYSTEM_CA_FILE,
    HttpCheck,
    check_http,
)
from yaim.checks.transport.http_codes import codes
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import Fault, InvalidValue, keys_in

IMPATIENT_S = 0.3
"""The bound on an attempt that is expected not to be answered."""
SLACK_S = 0.5
NO_ANSWER = CannotTell("no answer within 0.3 s")
SECRET = "geheim"


def attempt(check: HttpCheck, timeout_s: float = PATIENT_S) -> Verdict:
    """One attempt, which must keep within its bound."""
    watch = Stopwatch()
    verdict = check_http(check, timeout_s)
    assert watch.took_s() < timeout_s + SLACK_S
    return verdict


def failed(server: Server, reason: str) -> CannotTell:
    return CannotTell(f"{server.host}:{server.port}: {reason}")


def resources() -> tuple[int, int]:
    """How many threads there are, and how many file descriptors."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    threads, descriptors = resources()
    yield
    give_up_at = time.monotonic() + PATIENT_S
    while time.monotonic() < give_up_at:
        if resources()[0] <= threads and resources()[1] <= descriptors:
            return
        gc.collect()
        time.sleep(0.01)
    assert resources() == (threads, descriptors)


# --- the answer is judged ------------------------------------------------------------------------


def test_the_expected_code_is_healthy() -> None:
    with serving(sends(response(b"whatever"))) as server:
        assert attempt(HttpCheck(server.url)) == Healthy("HTTP 200")


def test_another_code_is_unhealthy() -> None:
    with serving(sends(response(b"", 503))) as server:
        assert attempt(HttpCheck(server.url)) == Unhealthy("HTTP 503, expected 200")


def test_a_code_other_than_200_may_be_what_is_expected() -> None:
    with serving(sends(response(b"", 404))) as server:
        assert attempt(HttpCheck(server.url, expected_code=codes("404"))) == Healthy("HTTP 404")


@pytest.mark.parametrize(
    ("given", "code", "verdict"),
    [
        ("2xx", 204, Healthy("HTTP 204")),
        ("2xx", 302, Unhealthy("HTTP 302, expected 2xx")),
        (["200", "204"], 204, Healthy("HTTP 204")),
        ("200, 204", 503, Unhealthy("HTTP 503, expected 200 or 204")),
        ("2XX, 404", 404, Healthy("HTTP 404")),
        ("2xx,404,5xx", 403, Unhealthy("HTTP 403, expected 2xx, 404 or 5xx")),
    ],
)
def test_several_codes_and_classes_of_codes_may_be_expected(
    given: str | list[str], code: int, verdict: Verdict
) -> None:
    with serving(sends(response(b"", code))) as server:
        assert attempt(HttpCheck(server.url, expected_code=codes(given))) == verdict


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("200", "200"),
        ("2xx, 404", "2xx,404"),
        (["204", "2XX", "204"], "204,2xx"),
    ],
)
def test_expected_codes_are_shown_as_they_were_given(given: str | list[str], shown: str) -> None:
    assert keys_in(HttpCheck)["expected-code"].shown(codes(given)) == shown


@pytest.mark.parametrize(
    "given",
    [
        *("99", "600", "2x", "x00", "xxx", "6xx", "2xxx", "", ",", "200,", "200 204", "OK"),
        *("-200", "200.0", "\N{ARABIC-INDIC DIGIT TWO}00", [], [""], ["200", "2x"], [["200"]], {}),
        *(200, None),
    ],
    ids=str,
)
def test_what_is_no_status_code_is_refused(given: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        codes(given)
    expected = "status codes from 100 to 599 or classes like 2xx: one, a list, or text with commas"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("whole", "part", "verdict"),
    [
        ("up and well", None, Healthy("HTTP 200")),
        (None, "and", Healthy("HTTP 200")),
        (None, "", Healthy("HTTP 200")),
        ("up and well", "well", Healthy("HTTP 200")),
        ("up", None, Unhealthy("HTTP 200, expected the body 'up', got 'up and well'")),
        ("", None, Unhealthy("HTTP 200, expected the body '', got 'up and well'")),
        (
            None,
            "down",
            Unhealthy("HTTP 200, expected 'down' in the body, got 'up and well'"),
        ),
        (
            "up and well",
            "down",
            Unhealthy("HTTP 200, expected 'down' in the body, got 'up and well'"),
        ),
    ],
)
def test_the_body_is_compared_whole_and_in_part(
    whole: str | None, part: str | None, verdict: Verdict
) -> None:
    with serving(sends(response(b"up and well"))) as server:
        check = HttpCheck(server.url, expected_response=whole, expected_response_contains=part)
        assert attempt(check) == verdict


def test_the_body_is_compared_in_utf_8() -> None:
    with serving(sends(response("läuft ✓".encode()))) as server:
        check = HttpCheck(
            server.url, expected_response="läuft ✓", expected_response_contains="✓"
        )  # fmt: skip
        assert attempt(check) == Healthy("HTTP 200")


def test_a_wrong_code_counts_whatever_the_body_says() -> None:
    with serving(sends(response(b"up", 500))) as server:
        check = HttpCheck(server.url, expected_response="up")
        assert attempt(check) == Unhealthy("HTTP 500, expected 200: 'up'")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"disk full", ": 'disk full'"),
        (b"\r\n  disk full \r\nmore", ": 'disk full'"),
        (b"x" * 9999, f": '{'x' * 60}'"),
        ("läuft \x1b[2J\0".encode() + b"\xff", ": 'läuft ?[2J?\ufffd'"),
        (b" \n", ""),
    ],
)
def test_of_a_wrong_answer_the_beginning_is_told(body: bytes, told: str) -> None:
    with serving(sends(response(body, 503))) as server:
        assert attempt(HttpCheck(server.url)) == Unhealthy(f"HTTP 503, expected 200{told}")


def test_a_wrong_answer_that_holds_the_password_is_not_told() -> None:
    token = base64.b64encode(f"monitor:{SECRET}".encode())
    for body in (f"wrong: {SECRET}".encode(), b"Basic " + token):
        with serving(sends(response(body, 401))) as server:
            url = server.url.replace("://", f"://monitor:{SECRET}@")
            told = Unhealthy("HTTP 401, expected 200")
            assert attempt(HttpCheck(url)) == told
            assert attempt(HttpCheck(server.url, user="monitor", password=SECRET)) == told


def test_of_a_long_body_only_the_beginning_is_told() -> None:
    with serving(sends(response(b"x" * 1000))) as server:
        check = HttpCheck(server.url, expected_response="up")
        told = f"HTTP 200, expected the body 'up', got '{'x' * 39}... (1000 bytes)"
        assert attempt(check) == Unhealthy(told)


def test_of_a_long_text_that_is_expected_only_the_beginning_is_told() -> None:
    with serving(sends(response(b"up\n\0\xff"))) as server:
        check = HttpCheck(server.url, expected_response_contains="läuft" * 100)
        told = f"HTTP 200, expected '{('läuft' * 8)[:39]}... (600 bytes) in the body, got"
        assert attempt(check) == Unhealthy(f"{told} 'up\\n\\x00\ufffd'")


@pytest.mark.parametrize("body", [bytes(range(256)) * 9, "\U000e0001".encode() * 999])
def test_the_reason_is_short_and_can_be_printed_whatever_the_body_is(body: bytes) -> None:
    with serving(sends(response(body))) as server:
        reasons = [
            attempt(HttpCheck(server.url, expected_response="\0" * 999)).reason,
            attempt(HttpCheck(server.url, expected_response_contains="\0" * 999)).reason,
        ]
    assert all(each.isprintable() and len(each) <= 160 for each in reasons)


def test_bytes_that_are_no_text_may_be_around_what_is_expected() -> None:
    with serving(sends(response(b"\0\xff up \xff\0"))) as server:
        check = HttpCheck(server.url, expected_response_contains="up")
        assert attempt(check) == Healthy("HTTP 200")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.0 200 OK\r\n\r\nup",
        b"HTTP/1.0 200\r\nContent-Length: 2\r\n\r\nup",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nup",
        b"HTTP/1.1 200 OK\r\n\r\nup",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup and more",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nup",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nup",
        CHUNKED + b"\r\n1\r\nu\r\n1;x=y\r\np\r\n0\r\nT: x\r\n\r\n",
        CHUNKED + b"Content-Length: 9\r\n\r\n2\r\nup\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\n\r\nup",
    ],
    ids=[
        "1.0",
        "1.0 without a phrase",
        "bare line feeds",
        "until the end",
        "more than its length",
        "a length that is none",
        "its length twice",
        "chunked",
        "chunked with a length",
        "after 100",
        "after 102 and 103",
    ],
)
def test_an_answer_is_understood_in_all_its_forms(content: bytes) -> None:
    with serving(sends(content)) as server:
        assert attempt(HttpCheck(server.url, expected_response="up")) == Healthy("HTTP 200")


@pytest.mark.parametrize(
    "body",
    ["Content-Length: 2\r\n\r\nup", "Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\n\r\n"],
)
def test_a_server_that_keeps_the_connection_open_is_not_waited_for(body: str) -> None:
    with serving(
        drips(f"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n{body}".encode(), b"")
    ) as server:
        assert attempt(HttpCheck(server.url, expected_response="up")) == Healthy("HTTP 200")


@pytest.mark.parametrize("code", [204, 304])
@pytest.mark.parametrize("header", ["", "Content-Length: 9\r\n", "Content-Encoding: gzip\r\n"])
def test_codes_without_a_body_are_not_waited_for_one(code: int, header: str) -> None:
    with serving(drips(f"HTTP/1.1 {code} Whatever\r\n{header}\r\n".encode(), b"")) as server:
        check = HttpCheck(server.url, expected_code=codes(str(code)), expected_response="")
        assert attempt(check) == Healthy(f"HTTP {code}")


def test_an_answer_before_the_request_is_judged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(response(b"up"))
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)

        thread = threading.Thread(target=answer)
        thread.start()
        check = HttpCheck(f"http://127.0.0.1:{listener.getsockname()[1]}/", expected_response="up")
        assert attempt(check) == Healthy("HTTP 200")
        thread.join(PATIENT_S)


def test_an_answer_that_was_switched_to_another_protocol_is_final() -> None:
    with serving(sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")) as server:
        assert attempt(HttpCheck(server.url)) == Unhealthy("HTTP 101, expected 200")


def test_each_attempt_is_a_plain_get_on_a_connection_of_its_own() -> None:
    with serving(sends(response())) as server:
        check = HttpCheck(server.url + "health?full=1")
        assert (attempt(check), attempt(check)) == (Healthy("HTTP 200"), Healthy("HTTP 200"))
        assert len(server.requests) == 2
        head = server.requests[0].decode().lower().split("\r\n")
    assert head[0] == "get /health?full=1 http/1.1"
    assert {"accept-encoding: identity", "connection: close"} <= set(head)


def test_a_url_with_an_ipv6_address_is_asked() -> None:
    with serving(sends(response()), host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}/"
        assert attempt(HttpCheck(server.url)) == Healthy("HTTP 200")


# --- the connection ends before the answer, or is reset behind it --------------------------------

ENDS_IN_RESETS: dict[str, tuple[Reads, Callable[[bytes], Answer]]] = {
    "read, then reset": (reads_all, resets_behind),
    "read in part": (reads_a_part, sends),
    "not read": (reads_nothing, sends),
    "not read, then reset": (reads_nothing, resets_behind),
    "not waited for": (does_not_wait, sends),
    "not waited for, then reset": (does_not_wait, resets_behind),
}
"""What becomes of the request."""
UP = {
    "length": response(b"up and well"),
    "chunked": CHUNKED + b"\r\n3\r\nup \r\n8\r\nand well\r\n0\r\n\r\n",
    "until the end": OK + b"\r\nup and well",
    "packed": response(gzip.compress(b"up and well"), 200, "Content-Encoding: gzip"),
    "packed, until the end": (
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"up and well")
    ),
}
"""Answers that are whole."""
OFTEN = 10
"""What is read before the reset is seen is chance."""


@pytest.mark.parametrize("body", UP)
@pytest.mark.parametrize("how", ENDS_IN_RESETS)
def test_a_whole_answer_counts_though_the_connection_is_reset_behind_it(
    how: str, body: str
) -> None:
    reads, answer = ENDS_IN_RESETS[how]
    with serving(answer(UP[body]), reads=reads) as server:
        url = server.url
        verdicts = [
            attempt(check)
            for _ in range(OFTEN)
            for check in (
                HttpCheck(url),
                HttpCheck(url, expected_response="up and well"),
                HttpCheck(url, expected_response_contains="and"),
            )
        ]
    assert verdicts == [Healthy("HTTP 200")] * len(verdicts)


@pytest.mark.parametrize("how", ENDS_IN_RESETS)
def test_a_wrong_answer_counts_though_the_connection_is_reset_behind_it(how: str) -> None:
    reads, answer = ENDS_IN_RESETS[how]
    with serving(answer(response(b"down\n", 503)), reads=reads) as server:
        verdicts = {attempt(HttpCheck(server.url)) for _ in range(OFTEN)}
    assert verdicts == {Unhealthy("HTTP 503, expected 200: 'down'")}


@pytest.mark.parametrize("how", ENDS_IN_RESETS)
def test_a_redirect_is_followed_though_the_connection_is_reset_behind_it(how: str) -> None:
    reads, answer = ENDS_IN_RESETS[how]
    with (
        serving(sends(response(b"up"))) as other,
        serving(answer(redirect(other.url)), reads=reads) as server,
    ):
        check = HttpCheck(server.url, expected_response="up", follow="any")
        assert {attempt(check) for _ in range(OFTEN)} == {ONCE_REDIRECTED}


def test_an_encrypted_answer_counts_though_the_connection_is_reset_behind_it(
    certificates: Certificates,
) -> None:
    for content in UP.values():
        with serving(resets_behind(content), tls=certificates.server()) as server:
            check = HttpCheck(server.url, ca_file=certificates.ca, expected_response="up and well")
            assert {attempt(check) for _ in range(OFTEN)} == {Healthy("HTTP 200")}


BROKEN = {
    "short of its length": OK + b"Content-Length: 99\r\n\r\nup and",
    "no last chunk": CHUNKED + b"\r\n6\r\nup and\r\n",
    "in a chunk": CHUNKED + b"\r\n9\r\nup and",
    "packed": response(gzip.compress(b"up and well", 0)[:-13], 200, "Content-Encoding: gzip"),
}
"""Answers that lack their end; or does it say "up and" on its own?"""


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("answer", [sends, resets_behind], ids=["ended", "reset"])
def test_of_an_answer_that_breaks_off_what_is_asked_of_it_counts(
    answer: Callable[[bytes], Answer], content: bytes
) -> None:
    with serving(answer(content)) as server:
        for _ in range(OFTEN):
            assert attempt(HttpCheck(server.url)) == Healthy("HTTP 200")
            part = HttpCheck(server.url, expected_response_contains="up")
            assert attempt(part) == Healthy("HTTP 200")
            for more in (
                HttpCheck(server.url, expected_response_contains="well"),
                HttpCheck(server.url, expected_response="up and"),
                HttpCheck(server.url, expected_response="up and well"),
            ):
                assert isinstance(attempt(more), CannotTell)


@pytest.mark.parametrize("how", [each for each in ENDS_IN_RESETS if each != "not waited for"])
def test_where_a_reset_comes_in_place_of_the_end_more_may_be_missing(how: str) -> None:
    """It is no wrong answer, then. A server that does not wait may have ended it in order."""
    reads, answer = ENDS_IN_RESETS[how]
    with serving(answer(OK + b"\r\nup and"), reads=reads) as server:
        for check in (
            HttpCheck(server.url, expected_response_contains="well"),
            HttpCheck(server.url, expected_response="up and well"),
        ):
            reset = failed(server, "Connection reset by peer")
            assert {attempt(check) for _ in range(OFTEN)} == {reset}


CUT = {
    "status": b"HTTP/1.0 200",
    "code": b"HTTP/1.0 20",
    "version": b"HTT",
    "phrase": b"HTTP/1.0 200 O",
    "before the line feed": b"HTTP/1.0 200 OK\r",
    "only a status line": OK,
    "header": OK + b"Content-Len",
    "no blank line": OK + b"Content-Length: 0\r\n",
    "half a blank line": OK + b"Content-Length: 0\r\n\r",
    "bare line feeds": b"HTTP/1.1 200 OK\nX: y\n",
    "wrong code": b"HTTP/1.0 503 Down\r\nX: y\r\n",
    "redirect": b"HTTP/1.0 302 Found\r\nLocation: /\r\n",
    "chunked": CHUNKED,
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n",
    "after 100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "headers after 100": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
}
"""Answers that break off before the blank line behind their headers."""
ENDS: dict[str, tuple[Reads, Callable[[bytes], Answer]]] = {
    "ended": (reads_all, sends),
    **ENDS_IN_RESETS,
}


@pytest.mark.parametrize("start", CUT.values(), ids=CUT)
@pytest.mark.parametrize("how", ENDS)
def test_an_answer_without_the_end_of_its_headers_is_none_however_it_ends(
    how: str, start: bytes
) -> None:
    """http.client takes the end of a connection for that. Found in a review: healthy now and then,
    depending on whether the reset was met while sending or while reading."""
    reads, answer = ENDS[how]
    with serving(answer(start), reads=reads) as server:
        found = {attempt(HttpCheck(server.url)) for _ in range(OFTEN)}
        cut = failed(server, "the answer broke off before the end of its headers")
    assert found == {cut}


def test_an_encrypted_answer_without_the_end_of_its_headers_is_none_however_it_ends(
    certificates: Certificates,
) -> None:
    for start in (b"HTTP/1.0 200", OK, OK + b"Content-Len"):
        for answer in (sends(start), resets_behind(start)):
            with serving(answer, tls=certificates.server()) as server:
                check = HttpCheck(server.url, ca_file=certificates.ca)
                cut = failed(server, "the answer broke off before the end of its headers")
                assert {attempt(check) for _ in range(OFTEN)} == {cut}


CUT_BODIES = {
    "short of its length": OK + b"Content-Length: 9\r\n\r\nup",
    "nothing of its length": OK + b"Content-Length: 9\r\n\r\n",
    "no chunk": CHUNKED + b"\r\n",
    "in a chunk": CHUNKED + b"\r\n9\r\nup",
    "behind a chunk": CHUNKED + b"\r\n2\r\nup",
    "no last chunk": CHUNKED + b"\r\n2\r\nup\r\n",
    "in the size of a chunk": CHUNKED + b"\r\n2\r\nup\r\n0",
    "in a chunk's extension": CHUNKED + b"\r\n2\r\nup\r\n0;x",
}


@pytest.mark.parametrize("content", CUT_BODIES.values(), ids=CUT_BODIES)
@pytest.mark.parametrize("how", ENDS)
def test_a_body_that_lacks_its_end_has_broken_off_however_that_comes(
    how: str, content: bytes
) -> None:
    reads, answer = ENDS[how]
    with serving(answer(content), reads=reads) as server:
        check = HttpCheck(server.url, expected_response="up")
        found = {attempt(check) for _ in range(OFTEN)}
        assert found == {failed(server, "the answer broke off")}


@pytest.mark.parametrize("trailer", [b"", b"T: x", b"T: x\r\n"])
@pytest.mark.parametrize("how", ENDS)
def test_with_its_last_chunk_a_body_is_whole_however_the_connection_ends(
    how: str, trailer: bytes
) -> None:
    """RFC 9112 section 8."""
    reads, answer = ENDS[how]
    content = CHUNKED + b"\r\n2\r\nup\r\n0\r\n" + trailer
    with serving(answer(content), reads=reads) as server:
        check = HttpCheck(server.url, expected_response="up")
        assert {attempt(check) for _ in range(OFTEN)} == {Healthy("HTTP 200")}


@pytest.mark.parametrize("how", ENDS)
def test_where_nothing_comes_that_is_told_however_the_connection_ends(how: str) -> None:
    reads, answer = ENDS[how]
    with serving(answer(b""), reads=reads) as server:
        found = {attempt(HttpCheck(server.url)) for _ in range(OFTEN)}
        assert found == {failed(server, "it closed the connection without an answer")}


@pytest.mark.parametrize("how", ENDS)
def test_what_is_not_http_is_told_as_that_however_the_connection_ends(how: str) -> None:
    reads, answer = ENDS[how]
    with serving(answer(b"down"), reads=reads) as server:
        found = {attempt(HttpCheck(server.url)) for _ in range(OFTEN)}
        assert found == {failed(server, "the answer is not HTTP, it begins with 'down'")}


def test_headers_that_come_in_pieces_are_put_together() -> None:
    def answer(connection: socket.socket, server: Server) -> None:
        for each in OK + b"Content-Length: 2\r\n\r\nup":
            connection.sendall(bytes([each]))
            server.is_closing.wait(0.002)

    with serving(answer) as server:
        assert attempt(HttpCheck(server.url, expected_response="up")) == Healthy("HTTP 200")


def test_of_a_long_answer_whose_end_the_reset_cost_what_is_asked_of_it_counts() -> None:
    """More than the client's kernel takes at once: what is left is not sent any more."""
    long = b"up" + b"x" * 900_000
    for content in (response(long), OK + b"\r\n" + long):
        with serving(sends(content), reads=reads_nothing) as server:
            assert attempt(HttpCheck(server.url)) == Healthy("HTTP 200")
            check = HttpCheck(server.url, expected_response_contains="up")
            assert attempt(check) == Healthy("HTTP 200")


# --- redirects -----------------------------------------------------------------------------------

ONCE_REDIRECTED = Healthy("HTTP 200 after 1 redirect")
ASTRAY = Unhealthy("more than 10 redirects, expected HTTP 200")


def test_a_redirect_is_followed() -> None:
    with serving(in_turn(sends(redirect("/elsewhere")), sends(response(b"up")))) as server:
        assert attempt(HttpCheck(server.url, expected_response="up")) == ONCE_REDIRECTED
        assert server.requests[1].startswith(b"GET /elsewhere HTTP/1.1\r\n")


def test_where_a_redirect_leads_to_is_judged() -> None:
    with serving(in_turn(sends(redirect("/elsewhere")), sends(response(b"", 503)))) as server:
        told = Unhealthy("HTTP 503 after 1 redirect, expected 200")
        assert attempt(HttpCheck(server.url)) == told


def test_a_redirect_that_is_what_is_expected_is_not_followed() -> None:
    with serving(sends(redirect("/elsewhere"))) as server:
        assert attempt(HttpCheck(server.url, expected_code=codes("302"))) == Healthy("HTTP 302")
        assert len(server.requests) == 1


@pytest.mark.parametrize("to", ["there", "/one/there", "./x/../there", "?a b#c"])
def test_a_redirect_may_be_relative(to: str) -> None:
    with serving(in_turn(sends(redirect(to)), sends(response()))) as server:
        assert attempt(HttpCheck(f"{server.url}one/here")) == ONCE_REDIRECTED
        asked = server.requests[1].split(b" ")[1]
        assert asked == (b"/one/here?a%20b" if to == "?a b#c" else b"/one/there")


def test_a_redirect_to_the_same_server_takes_the_password_along() -> None:
    """Also that of the URL, which the new one does not hold."""

    def answer(connection: socket.socket, server: Server) -> None:
        is_first = len(server.requests) % 2
        connection.sendall(redirect(f"{server.url}there") if is_first else response())

    with serving(answer) as server:
        url = f"http://monitor:geheim@127.0.0.1:{server.port}/"
        assert attempt(HttpCheck(url)) == ONCE_REDIRECTED
        check = HttpCheck(server.url, user="monitor", password="geheim")
        assert attempt(check) == ONCE_REDIRECTED
    assert all(b"authorization:" in each.lower() for each in server.requests)


def test_a_redirect_to_tls_is_followed(certificates: Certificates) -> None:
    with (
        serving(sends(response(b"up")), tls=certificates.server()) as other,
        serving(sends(redirect(other.url))) as server,
    ):
        check = HttpCheck(server.url, ca_file=certificates.ca, expected_response="up")
        assert attempt(check) == ONCE_REDIRECTED


def test_a_redirect_away_from_tls_does_not_take_the_password_along(
    certificates: Certificates,
) -> None:
    with (
        serving(sends(response())) as other,
        serving(sends(redirect(other.url)), tls=certificates.server()) as server,
    ):
        url = server.url.replace("://", "://monitor:geheim@")
        check = HttpCheck(url, ca_file=certificates.ca, follow="any")
        assert attempt(check) == ONCE_REDIRECTED
        assert b"authorization:" in server.requests[0].lower()
        assert b"authorization:" not in other.requests[0].lower()


def test_redirects_in_a_circle_are_unhealthy() -> None:
    with serving(sends(redirect("/"))) as server:
        assert attempt(HttpCheck(server.url)) == ASTRAY
        assert len(server.requests) == MAX_REDIRECTS + 1


def test_a_redirect_to_another_server_does_not_take_the_password_along() -> None:
    with serving(sends(response())) as other, serving(sends(redirect(other.url))) as server:
        check = HttpCheck(server.url, user="monitor", password="geheim", follow="any")
        assert attempt(check) == ONCE_REDIRECTED
        assert b"authorization:" in server.requests[0].lower()
        assert b"authorization:" not in other.requests[0].lower()


def told_of_another(place: str) -> Unhealthy:
    advice = "(http-follow: any follows it), expected HTTP 200"
    return Unhealthy(f"HTTP 302 to another server, {place} {advice}")


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("http://127.0.0.2:{port}/", "127.0.0.2:{port}"),
        ("//127.0.0.2:{port}/", "127.0.0.2:{port}"),
        ("http://127.0.0.1:1/", "127.0.0.1:1"),
        ("http://127.0.0.1/", "127.0.0.1:80"),
        ("http://169.254.169.254/latest", "169.254.169.254:80"),
        ("https://127.0.0.2:{port}/", "127.0.0.2:{port}"),
        ("http://127.0.0.1:{port}@127.0.0.2:{port}/", "127.0.0.2:{port}"),
        (r"http://127.0.0.2:{port}\@127.0.0.1:{port}/", "127.0.0.2:{port}"),
        ("http://[::1]:{port}/", "[::1]:{port}"),
        ("http://localhost:{port}/", "localhost:{port}"),
    ],
)
def test_a_redirect_to_another_server_is_not_followed(to: str, place: str) -> None:
    """It is followed in no spelling: who reads a URL and who connects have to mean the same
    host."""
    with refusing() as url:
        port = url.rstrip("/").rpartition(":")[2]
    with (
        serving(sends(redirect(to.replace("{port}", port))), port=int(port)) as server,
        serving(sends(response()), host="127.0.0.2", port=int(port)) as other,
    ):
        assert attempt(HttpCheck(server.url)) == told_of_another(place.replace("{port}", port))
        assert len(server.requests) == 1
        assert other.requests == []


def test_a_redirect_away_from_tls_is_not_followed(certificates: Certificates) -> None:
    with (
        serving(sends(response())) as other,
        serving(sends(redirect(other.url)), tls=certificates.server()) as server,
    ):
        told = told_of_another(f"127.0.0.1:{other.port}")
        assert attempt(HttpCheck(server.url, ca_file=certificates.ca)) == told
        assert other.requests == []


def test_a_redirect_to_another_server_does_not_show_it_the_client_certificate(
    certificates: Certificates,
) -> None:
    tls = certificates.server_that_asks_for_a_certificate()
    tls.verify_mode = ssl.CERT_OPTIONAL
    shown: list[object] = []

    def answer(connection: socket.socket, server: Server) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        shown.append(connection.getpeercert())
        connection.sendall(response())

    with (
        serving(answer, tls=tls) as other,
        serving(sends(redirect(other.url)), tls=certificates.server()) as server,
    ):
        check = HttpCheck(
            server.url,
            ca_file=certificates.ca,
            cert_file=certificates.leaf,
            key_file=certificates.key,
            follow="any",
        )
        assert attempt(check) == ONCE_REDIRECTED
        assert attempt(replace(check, url=other.url)) == Healthy("HTTP 200")
    without, with_one = shown
    assert not without
    assert with_one


def test_what_was_not_sent_to_another_server_is_not_sent_after_it_either() -> None:
    with refusing() as url:
        back = url
    with serving(sends(redirect(back))) as other:
        port = urlsplit(back).port or 0
        answers = in_turn(sends(redirect(other.url)), sends(response()))
        with serving(answers, port=port) as server:
            check = HttpCheck(server.url, user="monitor", password="geheim", follow="any")
            assert attempt(check) == Healthy("HTTP 200 after 2 redirects")
            assert b"authorization:" in server.requests[0].lower()
            assert b"authorization:" not in server.requests[1].lower()


@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "ftp://127.0.0.1/",
        "http://127.0.0.1:x/",
        "http://127.0.0.1:0/",
        "\xff",
    ],
)
def test_a_redirect_to_what_is_no_url_is_unhealthy(location: str) -> None:
    content = redirect(location).decode().encode("latin-1")
    with serving(sends(content)) as server:
        told = Unhealthy("HTTP 302 to what is no URL, expected HTTP 200")
        assert attempt(HttpCheck(server.url)) == told


def test_a_redirect_is_followed_on_a_new_connection() -> None:
    """A server that closes ours, as it was asked to, without saying so, resets the next request:
    now and then, depending on who is faster."""

    def answer(connection: socket.socket, _: Server) -> None:
        connection.sendall(redirect("/").replace(b"Connection: close\r\n", b""))
        connection.recv(1)

    with serving(in_turn(answer, sends(response()))) as server:
        assert attempt(HttpCheck(server.url)) == ONCE_REDIRECTED
        assert len(server.requests) == 2


def test_all_redirects_are_followed_on_new_connections() -> None:
    keeps = redirect("/").replace(b"Connection: close", b"Connection: keep-alive")
    with serving(in_turn(*[drips(keeps, b"")] * MAX_REDIRECTS, sends(response()))) as server:
        assert attempt(HttpCheck(server.url)) == Healthy("HTTP 200 after 10 redirects")
        assert len(server.requests) == MAX_REDIRECTS + 1


def test_the_body_of_a_redirect_is_not_read_without_end() -> None:
    start = redirect_with("Connection: close\r\n\r\n")
    with serving(in_turn(floods(start), sends(response()))) as server:
        assert attempt(HttpCheck(server.url)) == ONCE_REDIRECTED
        assert server.sent_bytes < 16 * MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("start", "again"),
    [
        ("\r\n", b"x"),
        ("Content-Length: 1000\r\n\r\n", b""),
        ("Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n", b""),
    ],
    ids=["body", "body of known length", "chunks", "no chunk"],
)
def test_the_body_of_a_redirect_is_not_waited_for(start: str, again: bytes) -> None:
    with serving(in_turn(drips(redirect_with(start), again), sends(response()))) as server:
        assert attempt(HttpCheck(server.url)) == ONCE_REDIRECTED


@pytest.mark.parametrize(
    "body",
    [
        "Content-Encoding: gzip\r\nContent-Length: 50\r\n\r\nnot gzip",
        "Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
        "Content-Length: 50\r\n\r\nshort",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_redirect_whose_body_is_broken_is_followed(body: str) -> None:
    with serving(in_turn(sends(redirect_with(body)), sends(response()))) as server:
        assert attempt(HttpCheck(server.url)) == ONCE_REDIRECTED
    with serving(sends(redirect_with(body))) as server:
        assert attempt(HttpCheck(server.url)) == ASTRAY


# --- no answer, or none that can be understood ---------------------------------------------------


def test_a_refused_connection_cannot_tell() -> None:
    with refusing() as url:
        told = f"{urlsplit(url).netloc}: Connection refused"
        assert attempt(HttpCheck(url)) == CannotTell(told)


def test_what_a_redirect_leads_to_is_named_and_nothing_of_its_password() -> None:
    with refusing() as url:
        address = urlsplit(url).netloc
        with serving(sends(redirect(f"http://root:{SECRET}@{address}/{SECRET}"))) as server:
            told = CannotTell(f"{address}: Connection refused")
            assert attempt(HttpCheck(server.url, follow="any")) == told


def test_an_ipv6_address_is_named_in_brackets() -> None:
    with serving(sends(b""), host="::1") as server:
        told = f"[::1]:{server.port}: it closed the connection without an answer"
        assert attempt(HttpCheck(server.url)) == CannotTell(told)


def test_a_host_that_does_not_answer_cannot_tell() -> None:
    with ignoring("127.0.0.1") as port:
        assert attempt(HttpCheck(f"http://127.0.0.1:{port}/"), IMPATIENT_S) == NO_ANSWER


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b""),
        (b"", b"x"),
        (OK, b""),
        (OK, b"X: y\r\n"),
        (OK + b"X: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"\r\n", b"x"),
        (OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
    ids=[
        "nothing",
        "status line",
        "silence after the status line",
        "headers",
        "a header",
        "interim responses",
        "body",
        "body of known length",
        "chunks",
        "a chunk's extension",
    ],
)
def test_a_server_that_never_ends_its_answer_cannot_tell_in_time(
    start: bytes, again: bytes
) -> None:
    with serving(drips(start, again)) as server:
        assert attempt(HttpCheck(server.url), IMPATIENT_S) == NO_ANSWER


def test_slow_redirects_are_bounded_together() -> None:
    def answer(connection: socket.socket, server: Server) -> None:
        server.is_closing.wait(0.1)
        connection.sendall(redirect("/"))

    with serving(answer) as server:
        assert attempt(HttpCheck(server.url), IMPATIENT_S) == NO_ANSWER


def test_an_endless_body_is_cut_off_and_judged() -> None:
    with serving(floods(OK + b"\r\n")) as server:
        check = HttpCheck(server.url, expected_response_contains="y")
        cut = f"HTTP 200, expected 'y' in the body, got '{'x' * 39}... ({MAX_BODY_BYTES} bytes)"
        assert attempt(check) == Unhealthy(cut)
    assert server.sent_bytes < 32 * MAX_BODY_BYTES


def test_what_comes_after_the_most_that_is_read_is_not_looked_at() -> None:
    body = b"x" * (MAX_BODY_BYTES - 2) + b"up" + b"down"
    with serving(sends(response(body))) as server:
        found = [
            type(attempt(HttpCheck(server.url, expected_response_contains=text)))
            for text in ("up", "upd", "down")
        ]
    assert found == [Healthy, Unhealthy, Unhealthy]


def test_a_connection_that_is_closed_without_an_answer_cannot_tell() -> None:
    with serving(sends(b"")) as server:
        reason = "it closed the connection without an answer"
        assert attempt(HttpCheck(server.url)) == failed(server, reason)


def test_a_connection_that_is_reset_cannot_tell() -> None:
    def answer(connection: socket.socket, _: Server) -> None:
        linger_not = b"\x01\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)

    with serving(answer) as server:
        reason = "it closed the connection without an answer"
        assert attempt(HttpCheck(server.url)) == failed(server, reason)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "it closed the connection without an answer"),
        (OK, "the answer broke off before the end of its headers"),
        (OK + b"Content-Length: 9\r\n\r\nup", "the answer broke off"),
        (OK + b"\r\nu", "Connection reset by peer"),
    ],
)
def test_a_connection_that_is_reset_in_the_middle_cannot_tell(start: bytes, reason: str) -> None:
    def answer(connection: socket.socket, server: Server) -> None:
        connection.sendall(start)
        server.is_closing.wait(0.1)
        linger_not = b"\x01\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)

    with serving(answer) as server:
        check = HttpCheck(server.url, expected_response="up")
        assert attempt(check) == failed(server, reason)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "it closed the connection without an answer"),
        (OK, "the answer broke off before the end of its headers"),
        (OK + b"Content-Length: 9\r\n\r\nup", "the answer broke off"),
    ],
)
def test_a_server_that_only_stops_sending_has_ended_its_answer(start: bytes, reason: str) -> None:
    def answer(connection: socket.socket, server: Server) -> None:
        connection.sendall(start)
        connection.shutdown(socket.SHUT_WR)
        server.is_closing.wait(PATIENT_S)

    with serving(answer) as server:
        check = HttpCheck(server.url, expected_response="up")
        assert attempt(check) == failed(server, reason)


@pytest.mark.parametrize(
    "content",
    [
        OK + b"Content-Length: 9\r\n\r\nup",
        OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nup",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n",
    ],
    ids=["body", "chunk", "chunks"],
)
def test_an_answer_that_breaks_off_is_told_as_that(content: bytes) -> None:
    with serving(sends(content)) as server:
        check = HttpCheck(server.url, expected_response="up")
        assert attempt(check) == failed(server, "the answer broke off")


NO_HTTP = {
    b"SSH-2.0-OpenSSH_9.2p1\r\n": r"not HTTP, it begins with 'SSH-2.0-OpenSSH_9.2p1\r\n'",
    b"\0\xff\x1b[2J\0\xff": r"not HTTP, it begins with '\x00ÿ\x1b[2J\x00ÿ'",
    b"HTTP/1.1 2OO OK\r\n\r\n": r"not HTTP, it begins with 'HTTP/1.1 2OO OK\r\n'",
    b"HTTP/1.1 99999 OK\r\n\r\n": r"not HTTP, it begins with 'HTTP/1.1 99999 OK\r\n'",
    b"HTTP/3 200 OK\r\n\r\n": "not HTTP, it begins with 'HTTP/3'",
    b"\0\0\0\4\0\0\0\0\0": r"not HTTP, it begins with '\x00\x00\x00\x04\x00\x00\x00\x00\x00'",
    b"\x15\x03\x01\0\2\2\x46": "TLS, expected HTTP without it: is the URL one of https?",
}
"""What is told of it as well: the answer is ..."""
BROKEN_HTTP = {
    OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n": "the answer has a line that is too long",
    b"HTTP/1.1 200 " + b"y" * 100_000 + b"\r\n\r\n": "the answer has a line that is too long",
    OK + b"X: y\r\n" * 1000 + b"\r\n": "got more than 100 headers",
    OK + (b"X: " + b"y" * 60_000 + b"\r\n") * 90 + b"\r\nup": (
        "the answer has more than 256 KiB of headers"
    ),
    (b"HTTP/1.1 103 X\r\nLink: " + b"y" * 60_000 + b"\r\n\r\n") * 90 + OK + b"\r\nup": (
        "the answer has more than 256 KiB of headers"
    ),
    CHUNKED + b"\r\n" + (b"1;" + b"y" * 60_000 + b"\r\nu\r\n") * 90 + b"0\r\n\r\n": (
        "the answer is longer than 4 MiB"
    ),
    b"HTTP/1.1 103 X\r\n\r\n" * 1000: "got more than 100 interim answers",
    OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nup": (
        "the answer has headers that contradict each other"
    ),
    OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nup\r\n": "the answer broke off",
}
ALIEN = {**{each: f"the answer is {why}" for each, why in NO_HTTP.items()}, **BROKEN_HTTP}


@pytest.mark.parametrize(("content", "reason"), ALIEN.items(), ids=map(str, range(len(ALIEN))))
def test_what_is_not_http_is_told_as_that(content: bytes, reason: str) -> None:
    with serving(sends(content)) as server:
        check = HttpCheck(server.url, expected_response="up")
        assert attempt(check) == failed(server, reason)


def test_trailers_are_not_waited_for() -> None:
    """The body is whole before."""
    content = CHUNKED + b"\r\n2\r\nup\r\n0\r\n" + b"X: y\r\n" * 1_000_000 + b"\r\n"
    with serving(sends(content)) as server:
        assert attempt(HttpCheck(server.url, expected_response="up")) == Healthy("HTTP 200")


def test_a_length_that_is_no_number_is_not_waited_for() -> None:
    """Python does not even make a number of so many digits."""
    with serving(sends(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nup")) as server:
        assert isinstance(attempt(HttpCheck(server.url)), CannotTell)


@pytest.mark.parametrize("content", ALIEN, ids=map(str, range(len(ALIEN))))
def test_the_reason_is_short_and_can_be_printed_whatever_the_server_sends(content: bytes) -> None:
    """It goes to the log, to etcd and to everybody's terminal."""
    with serving(sends(content)) as server:
        reason = attempt(HttpCheck(server.url, expected_response="up")).reason
    assert reason.isprintable()
    assert len(reason) <= 160


@pytest.mark.parametrize(
    "content",
    [
        b"",
        OK + b"Content-Length: 9\r\n\r\nup",
        response(b"", 401),
        redirect("/"),
        redirect(f"http://root:{SECRET}@127.0.0.1:1/{SECRET}"),
        redirect(f"ftp://{SECRET}/"),
        redirect(f"http://127.0.0.1:{SECRET}/"),
        redirect(f"http://{SECRET}.example/"),
        *ALIEN,
    ],
)
def test_no_password_is_in_the_reason(content: bytes) -> None:
    with serving(sends(content)) as server:
        url = f"http://monitor:{SECRET}@127.0.0.1:{server.port}/{SECRET}"
        reasons = [
            attempt(HttpCheck(url)).reason,
            attempt(HttpCheck(server.url, user="monitor", password=SECRET)).reason,
        ]
    assert SECRET not in " ".join(reasons)


def deflated(content: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "wbits"),
    [("gzip", 31), ("x-gzip", 31), (" GZIP", 31), ("deflate", 15), ("deflate", -15)],
)
def test_a_body_that_is_compressed_although_that_was_not_asked_for_is_understood(
    encoding: str, wbits: int
) -> None:
    body = deflated(b"up and well", wbits)
    with serving(sends(response(body, 200, f"Content-Encoding: {encoding}"))) as server:
        check = HttpCheck(server.url, expected_response="up and well")
        assert attempt(check) == Healthy("HTTP 200")


@pytest.mark.parametrize("encoding", ["identity", "utf-8", "br", "gzip, gzip", ""])
def test_a_body_that_is_encoded_in_another_way_is_taken_as_it_is(encoding: str) -> None:
    with serving(sends(response(b"up", 200, f"Content-Encoding: {encoding}"))) as server:
        assert attempt(HttpCheck(server.url, expected_response="up")) == Healthy("HTTP 200")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_claims_to_be_compressed_and_is_not_cannot_tell(encoding: str) -> None:
    with serving(sends(response(b"up and well", 200, f"Content-Encoding: {encoding}"))) as server:
        told = failed(server, "the body is not compressed as its header says")
        assert attempt(HttpCheck(server.url, expected_response="up and well")) == told
        assert attempt(HttpCheck(server.url, expected_response_contains="wrong")) == told


def test_a_compressed_body_that_breaks_off_is_told() -> None:
    body = gzip.compress(b"up and well")[:-9]
    with serving(sends(response(body, 200, "Content-Encoding: gzip"))) as server:
        check = HttpCheck(server.url, expected_response="up and well")
        assert attempt(check) == failed(server, "the answer broke off")


def test_of_a_long_compressed_body_as_much_is_looked_at_as_of_others() -> None:
    body = gzip.compress(b"x" * (MAX_BODY_BYTES - 2) + b"up" + b"down")
    with serving(sends(response(body, 200, "Content-Encoding: gzip"))) as server:
        found = [
            type(attempt(HttpCheck(server.url, expected_response_contains=text)))
            for text in ("up", "upd", "down")
        ]
    assert found == [Healthy, Unhealthy, Unhealthy]


# --- what an answer may cost ---------------------------------------------------------------------

COST = (
    IN_A_PROGRAM
    + r"""
import gzip, re, sys, zlib
from pathlib import Path
from yaim.checks.http import HttpCheck, check_http
from yaim.checks.verdict import Unhealthy
def most_kib():
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
usual, url, timeout_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
answer = check_http(HttpCheck(usual, expected_response_contains="well and up"), 30.0)
assert isinstance(answer, Unhealthy), answer
before, watch = most_kib(), Stopwatch()
verdict = check_http(HttpCheck(url, expected_response_contains="well and up"), timeout_s)
print(most_kib() - before, watch.took_s(), type(verdict).__name__)
"""
)
AFFORDABLE_KIB = 16 * 1024


def gib_of_zeros(wbits: int) -> bytes:
    """About 1 MiB: the same 1024 times, which zlib takes as long as it does not come to the end."""
    packer = zlib.compressobj(wbits=wbits)
    first = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + (packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)) * 1023


def packed(encoding: str, body: bytes) -> Answer:
    return sends(response(body, 200, f"Content-Encoding: {encoding}"))


EXPENSIVE: dict[str, Callable[[], Answer]] = {
    "gzip": lambda: packed("gzip", gib_of_zeros(31)),
    "deflate": lambda: packed("deflate", gib_of_zeros(15)),
    "raw deflate": lambda: packed("deflate", gib_of_zeros(-15)),
    "gzip in gzip": lambda: packed("gzip, gzip", gzip.compress(gib_of_zeros(31))),
    "gzip of nothing": lambda: packed("gzip", gzip.compress(b"") * 60_000),
    "body": lambda: floods(OK + b"\r\n"),
    "body of known length": lambda: floods(OK + b"Content-Length: 99999999999\r\n\r\n"),
    "huge chunks": lambda: floods(CHUNKED + b"\r\nffffffff\r\n"),
    "tiny chunks": lambda: floods(CHUNKED + b"\r\n", b"1\r\nx\r\n" * 10_000),
    "a chunk's extension": lambda: floods(CHUNKED + b"\r\n1;"),
    "trailers": lambda: floods(CHUNKED + b"\r\n0\r\n", b"X: y\r\n" * 10_000),
    "long headers": lambda: floods(OK, b"X: " + b"y" * 65_000 + b"\r\n"),
    "a header": lambda: floods(OK + b"X: "),
    "status line": lambda: floods(b"HTTP/1.1 200 "),
    "interim answers": lambda: floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("kind", EXPENSIVE)
@pytest.mark.parametrize("timeout_s", [3.0, IMPATIENT_S])
def test_an_answer_costs_little_memory_and_no_more_time_than_it_may(
    kind: str, timeout_s: float
) -> None:
    """More than a usual one. The text that is looked for is long enough to be in none by chance:
    a single letter was now and then, in the time that gzip writes."""
    with (
        serving(sends(response())) as usual,
        serving(EXPENSIVE[kind]()) as server,
    ):
        told = subprocess.run(
            (sys.executable, "-P", "-c", COST, usual.url, server.url, str(timeout_s)),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
    memory_kib, seconds, verdict = told.split()
    assert int(memory_kib) < AFFORDABLE_KIB
    assert float(seconds) < timeout_s + SLACK_S
    assert verdict != Healthy.__name__


# --- name resolution -----------------------------------------------------------------------------


def test_a_name_server_that_does_not_answer_is_waited_for_within_the_bound(tmp_path: Path) -> None:
    resolver = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        url = "http://service.example/"
        verdict = attempt_where("/etc/resolv.conf", resolver, "http", url, tmp_path, IMPATIENT_S)
    assert verdict == NO_ANSWER


def test_a_redirect_to_a_name_that_cannot_be_looked_up_in_time_is_bounded(tmp_path: Path) -> None:
    resolver = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        with serving(sends(redirect("http://service.example/"))) as server:
            where = ("/etc/resolv.conf", resolver, "http", server.url, tmp_path, IMPATIENT_S)
            verdict = attempt_where(*where, follow="any")
    assert verdict == NO_ANSWER


def test_a_name_that_cannot_be_looked_up_is_told(tmp_path: Path) -> None:
    """Nobody listens at port 53."""
    resolver = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
    verdict = attempt_where(
        "/etc/resolv.conf", resolver, "http", "http://service.example/", tmp_path
    )
    reason = "its host name cannot be looked up: Temporary failure in name resolution"
    assert verdict == CannotTell(f"service.example:80: {reason}")


def test_a_name_that_cannot_even_be_asked_for_is_told() -> None:
    verdict = attempt(HttpCheck("http://service..example/"))
    assert isinstance(verdict, CannotTell)
    assert "host name" in verdict.reason


def test_a_name_that_is_looked_up_is_asked(tmp_path: Path) -> None:
    with serving(sends(response())) as server:
        url = f"http://service.example:{server.port}/"
        hosts = "127.0.0.1 service.example\n"
        assert attempt_where("/etc/hosts", hosts, "http", url, tmp_path) == Healthy("HTTP 200")
        assert f"\r\nHost: service.example:{server.port}\r\n".encode() in server.requests[0]


def test_an_address_that_refuses_is_followed_by_the_next(tmp_path: Path) -> None:
    """localhost has two, and the service listens at one of them."""
    with serving(sends(response())) as server:
        url = f"http://service.example:{server.port}/"
        hosts = "::1 service.example\n127.0.0.2 service.example\n127.0.0.1 service.example\n"
        assert attempt_where("/etc/hosts", hosts, "http", url, tmp_path) == Healthy("HTTP 200")


def test_an_address_that_is_silent_is_followed_by_the_next(tmp_path: Path) -> None:
    with ignoring("127.0.0.2") as port, serving(sends(response()), port=port) as server:
        url = f"http://service.example:{server.port}/"
        hosts = "127.0.0.2 service.example\n127.0.0.1 service.example\n"
        assert attempt_where("/etc/hosts", hosts, "http", url, tmp_path, 4.0) == Healthy("HTTP 200")


def test_all_addresses_of_a_name_are_tried_within_the_bound(tmp_path: Path) -> None:
    """localhost has two."""
    hosts = "127.0.0.1 service.example\n127.0.0.2 service.example\n::1 service.example\n"
    with ignoring("127.0.0.1", "127.0.0.2", "::1") as port:
        url = f"http://service.example:{port}/"
        assert attempt_where("/etc/hosts", hosts, "http", url, tmp_path, IMPATIENT_S) == NO_ANSWER


def test_thousands_of_addresses_of_a_name_are_tried_within_the_bound(tmp_path: Path) -> None:
    """Each of those that were left when the time was up took a millisecond more."""
    addresses = [f"198.18.{1 + number // 250}.{1 + number % 250}" for number in range(2000)]
    hosts = "".join(f"{each} service.example\n" for each in addresses)
    url = "http://service.example/"
    with silent_network("198.18.0.1/16"):
        found = attempt_where("/etc/hosts", hosts, "http", url, tmp_path, IMPATIENT_S)
    assert found == NO_ANSWER


@contextmanager
def silent_network(address: str) -> Iterator[None]:
    """Nobody is there."""
    ip = partial(subprocess.run, check=True)
    ip(("ip", "link", "add", "silent0", "arp", "off", "type", "veth", "peer", "name", "silent1"))
    try:
        ip(("ip", "address", "add", address, "dev", "silent0"))
        ip(("ip", "link", "set", "silent1", "up"))
        ip(("ip", "link", "set", "silent0", "up"))
        yield
    finally:
        ip(("ip", "link", "delete", "silent0"))


def test_a_late_redirect_to_a_host_that_does_not_answer_is_bounded() -> None:
    timeout_s = 1.0
    with ignoring("127.0.0.1") as port:

        def answer(connection: socket.socket, server: Server) -> None:
            server.is_closing.wait(0.8 * timeout_s)
            connection.sendall(redirect(f"http://127.0.0.1:{port}/"))

        with serving(answer) as server:
            check = HttpCheck(server.url, follow="any")
            assert attempt(check, timeout_s) == CannotTell("no answer within 1 s")


# --- authentication ------------------------------------------------------------------------------


def asks_for(user: str, password: str) -> Answer:
    token = base64.b64encode(f"{user}:{password}".encode())

    def answer(connection: socket.socket, server: Server) -> None:
        is_right = b"Authorization: Basic " + token + b"\r\n" in server.requests[-1]
        connection.sendall(response(b"", 200 if is_right else 401))

    return answer


def test_user_and_password_are_sent() -> None:
    with serving(asks_for("monitor", "geheim")) as server:
        verdicts = [
            attempt(HttpCheck(server.url, user=user, password=password))
            for user, password in (("monitor", "geheim"), ("monitor", "falsch"), (None, None))
        ]
    wrong = Unhealthy("HTTP 401, expected 200")
    assert verdicts == [Healthy("HTTP 200"), wrong, wrong]


def test_user_and_password_in_the_url_are_sent() -> None:
    with serving(asks_for("monitor", "ge:heim")) as server:
        url = f"http://monitor:ge%3Aheim@127.0.0.1:{server.port}/"
        assert attempt(HttpCheck(url)) == Healthy("HTTP 200")


@pytest.mark.parametrize("password", ["pässwort", "5€"])
def test_user_and_password_are_sent_in_utf_8(password: str) -> None:
    with serving(asks_for("monitor", password)) as server:
        check = HttpCheck(server.url, user="monitor", password=password)
        assert attempt(check) == Healthy("HTTP 200")


@pytest.mark.parametrize("password", ["p%C3%A4sswort", "pässwort"])
def test_user_and_password_in_the_url_are_sent_in_utf_8(password: str) -> None:
    with serving(asks_for("mönitor", "pässwort")) as server:
        url = f"http://m%C3%B6nitor:{password}@127.0.0.1:{server.port}/"
        assert attempt(HttpCheck(url)) == Healthy("HTTP 200")


def test_user_and_password_go_before_those_in_the_url() -> None:
    with serving(asks_for("monitor", "geheim")) as server:
        url = f"http://root:falsch@127.0.0.1:{server.port}/"
        check = HttpCheck(url, user="monitor", password="geheim")
        assert attempt(check) == Healthy("HTTP 200")


def test_proxies_and_passwords_of_the_environment_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login monitor password geheim\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    with serving(sends(response())) as server:
        assert attempt(HttpCheck(server.url)) == Healthy("HTTP 200")
        assert b"authorization:" not in server.requests[0].lower()


# --- TLS -----------------------------------------------------------------------------------------


def test_a_certificate_that_the_ca_has_signed_is_accepted(certificates: Certificates) -> None:
    with serving(sends(response(b"up")), tls=certificates.server()) as server:
        check = HttpCheck(server.url, ca_file=certificates.ca, expected_response="up")
        assert attempt(check) == Healthy("HTTP 200")


@pytest.mark.parametrize("is_given", [True, False])
def test_a_certificate_of_another_ca_is_unhealthy(
    certificates: Certificates, is_given: bool
) -> None:
    with serving(sends(response()), tls=certificates.server()) as server:
        check = HttpCheck(server.url, ca_file=certificates.stranger if is_given else None)
        verdict = attempt(check)
        assert isinstance(verdict, Unhealthy)
        why = "certificate verify failed: unable to get local issuer certificate"
        told = f"127.0.0.1:{server.port}: {why}: is the CA in http-ca-file?"
        assert verdict.reason == told
        assert server.requests == []


@pytest.mark.skipif(not SYSTEM_CA_FILE.exists(), reason="without ca-certificates")
def test_the_cas_of_the_system_are_trusted_where_none_are_given(
    certificates: Certificates, tmp_path: Path
) -> None:
    with serving(sends(response()), tls=certificates.server()) as server:
        system = str(SYSTEM_CA_FILE)
        verdict = attempt_where(system, certificates.ca.read_text(), "http", server.url, tmp_path)
    assert verdict == Healthy("HTTP 200")


def test_cas_that_the_environment_names_are_not_trusted(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(certificates.ca))
    with serving(sends(response()), tls=certificates.server()) as server:
        assert isinstance(attempt(HttpCheck(server.url)), Unhealthy)


def serving_as(
    certificates: Certificates, name: str, *, in_days: int = 0, hosts: str = "IP:127.0.0.1"
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.make_leaf(name, in_days=in_days, hosts=hosts))
    return context


@pytest.mark.parametrize(
    ("in_days", "reason"),
    [(-10, "certificate has expired"), (10, "certificate is not yet valid")],
)
def test_a_certificate_that_is_not_valid_now_is_told(
    certificates: Certificates, in_days: int, reason: str
) -> None:
    tls = serving_as(certificates, f"days{in_days}", in_days=in_days)
    with serving(sends(response()), tls=tls) as server:
        verdict = attempt(HttpCheck(server.url, ca_file=certificates.ca))
    told = f"127.0.0.1:{server.port}: certificate verify failed: {reason}"
    assert verdict == Unhealthy(told)


@pytest.mark.parametrize(
    ("host", "hosts"),
    [("127.0.0.2", "IP:127.0.0.1"), ("::1", "IP:127.0.0.1"), ("127.0.0.1", "DNS:127.0.0.1")],
)
def test_a_certificate_for_another_name_is_unhealthy(
    certificates: Certificates, host: str, hosts: str
) -> None:
    tls = serving_as(certificates, "other", hosts=hosts)
    with serving(sends(response()), host=host, tls=tls) as server:
        verdict = attempt(HttpCheck(server.url, ca_file=certificates.ca))
        assert server.requests in ([], [b""])
    assert isinstance(verdict, Unhealthy)
    start = f"{server.host}:{server.port}: certificate verify failed: "
    assert verdict.reason.startswith(start)
    assert host in verdict.reason.removeprefix(start)


def test_a_certificate_for_an_ipv6_address_is_accepted(certificates: Certificates) -> None:
    tls = serving_as(certificates, "six", hosts="IP:::1")
    with serving(sends(response()), host="::1", tls=tls) as server:
        check = HttpCheck(server.url, ca_file=certificates.ca)
        assert attempt(check) == Healthy("HTTP 200")


def test_a_certificate_for_a_name_is_accepted_under_that_name(certificates: Certificates) -> None:
    tls = serving_as(certificates, "name", hosts="DNS:localhost")
    with serving(sends(response()), tls=tls) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        check = HttpCheck(url, ca_file=certificates.ca)
        assert attempt(check) == Healthy("HTTP 200")


def test_a_server_with_old_tls_only_is_told(certificates: Certificates) -> None:
    tls = certificates.server()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("DEFAULT:@SECLEVEL=0")
    with serving(sends(response()), tls=tls) as server:
        verdict = attempt(HttpCheck(server.url, ca_file=certificates.ca))
    assert verdict in (
        failed(server, "TLS failed: tlsv1 alert protocol version"),
        failed(server, "TLS failed: legacy sigalg disallowed or unsupported"),  # with urllib3 1.26
    )


def test_a_client_certificate_is_shown_where_it_is_asked_for(certificates: Certificates) -> None:
    tls = certificates.server_that_asks_for_a_certificate()
    with serving(sends(response()), tls=tls) as server:
        without = HttpCheck(server.url, ca_file=certificates.ca)
        assert isinstance(attempt(without), CannotTell)
        with_one = HttpCheck(
            server.url,
            ca_file=certificates.ca,
            cert_file=certificates.leaf,
            key_file=certificates.key,
        )
        assert attempt(with_one) == Healthy("HTTP 200")


def test_a_certificate_file_that_is_gone_is_told(certificates: Certificates) -> None:
    """They were good when the configuration was read."""
    nowhere = Path("/nowhere")
    ca, cert, key = certificates.ca, certificates.leaf, certificates.key
    for check in (
        HttpCheck("https://h:1/", ca_file=nowhere),
        HttpCheck("https://h:1/", ca_file=ca, cert_file=nowhere, key_file=key),
        HttpCheck("https://h:1/", ca_file=ca, cert_file=cert, key_file=nowhere),
    ):
        assert attempt(check) == CannotTell("No such file or directory: /nowhere")


def test_a_certificate_file_that_is_broken_is_told(certificates: Certificates) -> None:
    url, ca, leaf, key = "https://h:1/", certificates.ca, certificates.leaf, certificates.key
    _, other_key = certificates.make_leaf("other")
    told = {
        HttpCheck(url, ca_file=key): f"no CA certificates are in {key}",
        HttpCheck(url, ca_file=ca, cert_file=key, key_file=key): (
            f"no client certificate with its key: {key}, {key}"
        ),
        HttpCheck(url, ca_file=ca, cert_file=leaf, key_file=leaf): (
            f"no client certificate with its key: {leaf}, {leaf}"
        ),
        HttpCheck(url, ca_file=ca, cert_file=leaf, key_file=other_key): (
            f"not the client certificate's key: {other_key}"
        ),
    }
    found = {check: attempt(check).reason for check in told}
    assert found == {check: reason[:160] for check, reason in told.items()}


def test_faults_are_found_also_where_the_url_is_missing_or_a_file_has_gone(
    certificates: Certificates,
) -> None:
    no_url: Any = None
    nowhere = Path("/nowhere")
    assert list(HttpCheck(no_url, ca_file=nowhere).faults()) == []
    leaf, key = certificates.leaf, certificates.key
    assert list(HttpCheck(no_url, cert_file=nowhere, key_file=key).faults()) == []
    assert list(HttpCheck(no_url, cert_file=leaf, key_file=key).faults()) == []
    (told,) = HttpCheck(no_url, ca_file=key).faults()
    assert told == Fault("http-ca-file", "certificates in PEM")


def test_a_client_certificate_that_is_too_weak_is_told(certificates: Certificates) -> None:
    leaf, key = certificates.make_leaf("weak", new_key=WEAK_RSA_KEY)
    (told,) = HttpCheck("https://h:1/", cert_file=leaf, key_file=key).faults()
    expected = "a certificate that OpenSSL takes (not: ee key too small)"
    assert told == Fault("http-cert-file", expected)


AT_A_TERMINAL = """
import sys
from pathlib import Path
from yaim.checks.http import HttpCheck, check_http
url, cert, key = sys.argv[1:]
print(check_http(HttpCheck(url, cert_file=Path(cert), key_file=Path(key)), 10.0).reason)
"""


@pytest.mark.parametrize("form", [(), ("-traditional",)], ids=["PKCS 8", "traditional"])
def test_a_key_with_a_password_asks_nobody_for_it(
    certificates: Certificates, form: tuple[str, ...]
) -> None:
    """OpenSSL would, at the terminal, and wait."""
    key = certificates.encrypted_key(*form)
    ours, theirs = pty.openpty()
    try:
        told = subprocess.run(
            (
                *("setsid", "--ctty", "--wait", sys.executable, "-P", "-c", AT_A_TERMINAL),
                *("https://127.0.0.1:1/", str(certificates.leaf), str(key)),
            ),
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert not select.select([ours], [], [], 0)[0]
    finally:
        os.close(ours)
        os.close(theirs)
    assert told.stdout.strip() == f"the client certificate's key has a password: {key}"[:160]
    assert told.stderr == ""


def test_a_wrong_client_certificate_is_told(certificates: Certificates) -> None:
    cert, key = certificates.make_leaf("stray", signed_by=certificates.make_ca("strange"))
    tls = certificates.server_that_asks_for_a_certificate()
    tls.maximum_version = ssl.TLSVersion.TLSv1_2  # the alert comes for sure before the request
    with serving(sends(response()), tls=tls) as server:
        check = HttpCheck(server.url, ca_file=certificates.ca, cert_file=cert, key_file=key)
        assert attempt(check) == failed(server, "TLS failed: tlsv1 alert unknown ca")
        without = HttpCheck(server.url, ca_file=certificates.ca)
        told = attempt(without)
    assert isinstance(told, CannotTell)
    assert "TLS failed: " in told.reason
    assert "handshake failure" in told.reason


@pytest.mark.parametrize(
    ("start", "again"),
    [(b"", b""), (b"\x16\x03\x03\x40\x00\x02", b"\x00")],
    ids=["silent", "dripping"],
)
def test_a_tls_handshake_without_end_cannot_tell_in_time(
    certificates: Certificates, start: bytes, again: bytes
) -> None:
    """A record of 16 KiB, of which a byte comes now and then."""
    with serving(drips(start, again)) as server:
        check = HttpCheck(server.url.replace("http:", "https:"), ca_file=certificates.ca)
        assert attempt(check, IMPATIENT_S) == NO_ANSWER


@pytest.mark.parametrize("start", [OK + b"X: ", OK + b"\r\n"], ids=["head", "body"])
def test_an_encrypted_answer_without_end_cannot_tell_in_time(
    certificates: Certificates, start: bytes
) -> None:
    with serving(drips(start), tls=certificates.server()) as server:
        check = HttpCheck(server.url, ca_file=certificates.ca)
        assert attempt(check, IMPATIENT_S) == NO_ANSWER


def test_a_server_without_tls_cannot_tell_where_tls_is_asked_for() -> None:
    with serving(sends(response())) as server:
        check = HttpCheck(server.url.replace("http:", "https:"))
        assert attempt(check) == failed(server, "the answer is not TLS: is the URL one of http?")
