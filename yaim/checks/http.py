"""The HTTP check: GET a URL, compare the status code and the body."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util.ssl_match_hostname import CertificateError

from yaim import __version__
from yaim.checks.time_limit import LimitedAdapter, TimeLimit
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.keys import (
    Fault,
    any_text,
    both_or_neither,
    key,
    mask_url,
    readable_file,
    required,
    text,
    url,
    whole,
)

MAX_BODY_BYTES = 1024 * 1024
"""What comes after is not looked at."""
MAX_REDIRECTS = 10
_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"yaim/{__version__}",
}
_WITHOUT_BODY = (204, 304)
"""Whatever their header says (RFC 9112 section 6.3)."""
SYSTEM_CA_FILE = Path("/etc/ssl/certs/ca-certificates.crt")
"""Debian's. What requests brings along instead differs from one installation to the other."""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    url: str = required("URL that is asked for with GET", url, mask=mask_url)
    user: str | None = key("user for HTTP basic authentication", text())
    password: str | None = key("password for HTTP basic authentication", any_text, secret=True)
    password_file: Path | None = key("file with that password", readable_file)
    ca_file: Path | None = key(
        "CA certificates that the service's must be signed by", readable_file
    )
    cert_file: Path | None = key("client certificate for the service", readable_file)
    key_file: Path | None = key("key of the client certificate for the service", readable_file)
    expected_code: int = key("status code of a healthy service", whole(100, 599), 200)
    """A redirect (3xx) is followed, unless that is what is expected."""
    expected_response: str | None = key("whole body of a healthy service's answer", any_text)
    expected_response_contains: str | None = key(
        "text that a healthy service's answer contains", text()
    )

    def faults(self) -> Iterator[Fault]:
        """Of keys that are wrong together."""
        yield from both_or_neither(self, "http-", "user", "password")
        yield from both_or_neither(self, "http-", "cert-file", "key-file")


@dataclass(frozen=True, slots=True)
class _Answer:
    code: int
    body: bytes


class _BrokenOff(Exception):
    """The answer ended before its announced length."""


def check_http(check: HttpCheck, timeout_s: float) -> Verdict:
    """One attempt, on new connections. Everything together is bounded by `timeout_s`."""
    with TimeLimit(timeout_s) as limit:
        try:
            answer = _get(check, limit)
        except requests.TooManyRedirects:
            return Unhealthy(f"more than {MAX_REDIRECTS} redirects")
        except (
            requests.RequestException,
            HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
            _BrokenOff,
        ) as error:
            if limit.has_passed or isinstance(error, requests.Timeout):
                return CannotTell(f"no answer within {timeout_s:.2g} s")
            return CannotTell(_cause(error))
        if limit.has_passed:
            return CannotTell(f"no answer within {timeout_s:.2g} s")
    return _judge(check, answer)


def _judge(check: HttpCheck, answer: _Answer) -> Verdict:
    found, start = f"HTTP {answer.code}", repr(answer.body[:80])
    if answer.code != check.expected_code:
        return Unhealthy(f"{found}, expected {check.expected_code}")
    expected, contained = check.expected_response, check.expected_response_contains
    if expected is not None and answer.body != expected.encode():
        return Unhealthy(f"{found}, but the body is not the expected one: {start}")
    if contained is not None and contained.encode() not in answer.body:
        return Unhealthy(f"{found}, but the body does not contain {contained!r}: {start}")
    return Healthy(found)


def _get(check: HttpCheck, limit: TimeLimit) -> _Answer:
    """The answer, after redirects. Raises what requests and urllib3 raise, and _BrokenOff.

    Redirects are followed here: requests would read their bodies whole, however long, and give
    each hop its time anew.
    """
    redirects = requests.Session()
    auth: HTTPBasicAuth | None = None
    if check.user is not None:
        auth = HTTPBasicAuth(check.user.encode(), (check.password or "").encode())
    cert = (str(check.cert_file), str(check.key_file)) if check.cert_file is not None else None
    url = check.url
    for _ in range(MAX_REDIRECTS + 1):
        with LimitedAdapter(limit).send(
            requests.Request("GET", url, headers=_HEADERS, auth=auth).prepare(),
            stream=True,
            timeout=max(limit.left_s, 0.001),
            verify=str(check.ca_file or _default_ca_file()),
            cert=cert,
        ) as response:
            target = redirects.get_redirect_target(response)
            if target is None or 300 <= check.expected_code < 400:
                return _Answer(response.status_code, _read_body(response))
        before, url = url, urljoin(url, target)
        if redirects.should_strip_auth(before, url):  # type: ignore[no-untyped-call]
            auth = None
    raise requests.TooManyRedirects


def _default_ca_file() -> str:
    return str(SYSTEM_CA_FILE) if SYSTEM_CA_FILE.exists() else DEFAULT_CA_BUNDLE_PATH


def _read_body(response: requests.Response) -> bytes:
    """The body, or as much as is looked at. urllib3 1.26 does not notice one that breaks off."""
    body = b""
    chunk: bytes
    for chunk in response.iter_content(16384):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return body[:MAX_BODY_BYTES]
    length = response.headers.get("Content-Length", "")
    if response.status_code in _WITHOUT_BODY:
        return body
    if length.isdecimal() and response.raw.tell() < int(length):
        raise _BrokenOff
    return body


def _cause(error: BaseException) -> str:
    """In a few words, none of them the server's: what it sends may be anything."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {each.verify_message}"
        if isinstance(each, ssl.SSLError):
            return f"TLS failed: {each.reason or 'unknown reason'}"
        if isinstance(each, socket.gaierror):
            return f"its host name cannot be looked up: {each.strerror}"
        if isinstance(each, CertificateError):
            # urllib3 1.26 compares the host name itself.
            return f"certificate verify failed: {_printable(str(each))}"
        if isinstance(each, OSError) and each.errno is not None and each.strerror:
            return each.strerror
        if type(each) is OSError and each.args:
            # requests tells so of certificate files that are not there.
            return _printable(str(each))
    if any(_is_broken_off(each) for each in chain):
        return "the answer broke off"
    if any(isinstance(each, http.client.RemoteDisconnected) for each in chain):
        return "it closed the connection without an answer"
    return "the answer is not HTTP"


def _is_broken_off(error: BaseException) -> bool:
    if isinstance(error, ProtocolError) and "ended prematurely" in str(error):
        return True
    return isinstance(error, _BrokenOff | http.client.IncompleteRead)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:160])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, those that are its arguments, and what was the reason of each."""
    while error is not None:
        yield error
        yield from (each for each in error.args if isinstance(each, BaseException))
        error = error.__cause__ or error.__context__
