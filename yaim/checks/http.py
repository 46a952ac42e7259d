"""The HTTP check: GET a URL, compare the status code and the body."""

import http.client
import zlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_auth_from_url
from urllib3.exceptions import HTTPError

from yaim import __version__
from yaim.checks.transport.http_codes import Codes, codes
from yaim.checks.transport.http_failure import BrokenOff, NotUnpacked, is_reset, verdict
from yaim.checks.transport.time_limit import LimitedAdapter, TimeLimit
from yaim.checks.transport.tls_files import InvalidFile, file_faults, invalid_files
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.config_keys import (
    Fault,
    any_text,
    both_or_neither,
    key,
    mask_url,
    one_of,
    readable_file,
    required,
    text,
    url,
)
from yaim.text import printable

MAX_BODY_BYTES = 1024 * 1024
"""The most bytes that are looked at; what comes after them is not."""
MAX_REDIRECTS = 10
_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"yaim/{__version__}",
}
_WITHOUT_BODY = (204, 304)
"""Answers with these codes have no body, whatever their header says (RFC 9112 section 6.3)."""
_ZLIB_FORMATS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}
"""The wbits of zlib for each encoding. Deflate comes with zlib's header or without (RFC 9110
section 8.4.1.2)."""
SYSTEM_CA_FILE = Path("/etc/ssl/certs/ca-certificates.crt")
"""The certificates of Debian. Those that requests brings along instead differ from one installation
to the other."""


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
    expected_code: Codes = key(
        "status codes of a healthy service, like 200, or classes of them, like 2xx",
        codes,
        codes("200"),
    )
    """A redirect (3xx) is followed, unless that is what is expected."""
    follow: str = key(
        "where redirects are followed to: same-host (its port as well, or https), or any",
        one_of("same-host", "any"),
        "same-host",
    )
    expected_response: str | None = key("whole body of a healthy service's answer", any_text)
    expected_response_contains: str | None = key(
        "text that a healthy service's answer contains", text()
    )

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong with keys together."""
        yield from both_or_neither(self, "http-", "user", "password")
        yield from both_or_neither(self, "http-", "cert-file", "key-file")
        yield from file_faults(self, "http-")


@dataclass(frozen=True, slots=True)
class Answer:
    """The last request, after redirects."""

    code: int
    body: bytes
    """The body, unpacked; at most MAX_BODY_BYTES of it, or as much as came."""
    redirects: int = 0
    failure: Unhealthy | CannotTell | None = None
    """What ended the body before its end, if something did."""
    is_short: bool = False
    """Whether more was announced than came. A body that is to go on until the connection is closed
    may be whole when the connection is reset."""


def check_http(check: HttpCheck, timeout_s: float) -> Verdict:
    """Makes one attempt, on new connections. `timeout_s` bounds everything together."""
    answer = get(check, timeout_s)
    return judge(check, answer) if isinstance(answer, Answer) else answer


def get(check: HttpCheck, timeout_s: float, kind: str = "http") -> Answer | Unhealthy | CannotTell:
    """The answer that check_http judges, or why there is nothing to judge. Raises nothing."""
    with TimeLimit(timeout_s) as limit:
        try:
            answer = _get(check, limit, kind)
        except _LedAstray as error:
            return Unhealthy(f"{error}, expected HTTP {check.expected_code.told}")
        except (
            requests.RequestException,
            HTTPError,
            http.client.HTTPException,
            OSError,
            ValueError,
            BrokenOff,
            NotUnpacked,
            InvalidFile,
        ) as error:
            if limit.has_passed or isinstance(error, requests.Timeout):
                return CannotTell(f"no answer within {timeout_s:.2g} s")
            return verdict(error, limit.target, kind)
        if limit.has_passed:
            return CannotTell(f"no answer within {timeout_s:.2g} s")
    return answer


def judge(check: HttpCheck, answer: Answer) -> Verdict:
    """Judges an answer: what is asked of it counts, and nothing that may have come after that."""
    found = f"HTTP {answer.code}"
    if answer.redirects:
        found += f" after {answer.redirects} redirect{'s' if answer.redirects > 1 else ''}"
    if answer.code not in check.expected_code:
        line = _first_line(check, answer.body)
        told = f": {line!r}" if line else ""
        return Unhealthy(printable(f"{found}, expected {check.expected_code.told}{told}"))
    expected, contained = check.expected_response, check.expected_response_contains
    if expected is not None and (answer.is_short or answer.body != expected.encode()):
        shown = _shown(expected.encode())
        told = f"{found}, expected the body {shown}, got {_shown(answer.body)}"
        return answer.failure or Unhealthy(told)
    if contained is not None and contained.encode() not in answer.body:
        shown = _shown(contained.encode())
        told = f"{found}, expected {shown} in the body, got {_shown(answer.body)}"
        return answer.failure or Unhealthy(told)
    return Healthy(found)


def _first_line(check: HttpCheck, body: bytes) -> str:
    """The beginning of a body; nothing of a body with the password in it, which some servers send
    back."""
    lines = body[:4096].decode("utf-8", "replace").splitlines()
    line = next((each.strip() for each in lines if each.strip()), "")
    return "" if _has_password(check, line) else printable(line[:60])


def _has_password(check: HttpCheck, told: str) -> bool:
    """Whether the password is in a text, in upper or lower case: host names are told in lower
    case."""
    user, password = _user_and_password(check)
    token = b64encode(f"{user}:{password}".encode()).decode()
    return password != "" and any(each.lower() in told.lower() for each in (password, token))


def _shown(body: bytes) -> str:
    """The beginning of a text, of which all can be printed."""
    start = repr(body[:160].decode("utf-8", "replace"))
    return (
        start if len(start) <= 50 and len(body) <= 160 else f"{start[:40]}... ({len(body)} bytes)"
    )


class _LedAstray(Exception):
    """A redirect leads nowhere."""


def _get(check: HttpCheck, limit: TimeLimit, kind: str) -> Answer:
    """Raises _LedAstray, what requests and urllib3 raise, and what http_failure has.

    Redirects are followed here: requests would read their bodies whole, however long, and give
    each hop its time anew.
    """
    auth = _auth(check)
    cert = (str(check.cert_file), str(check.key_file)) if check.cert_file is not None else None
    url, request = _prepared(check.url, auth)
    for redirects in range(MAX_REDIRECTS + 1):
        limit.target = _host_and_port(url)
        if url.lower().startswith("https:"):
            _check_tls_files(check)
        with LimitedAdapter(limit).send(
            request,
            stream=True,
            timeout=max(limit.left_s, 0.001),
            verify=str(check.ca_file or _default_ca_file()),
            cert=cert,
        ) as response:
            if not response.is_redirect or response.status_code in check.expected_code:
                body = _read_body(response, limit)
                code, why = response.status_code, body.failure
                failure = None if why is None else verdict(why, limit.target, kind)
                return Answer(code, body.content, redirects, failure, body.is_short)
        before, url = url, _target(url, response)
        if not _is_same_server(before, url):
            if check.follow != "any":
                raise _LedAstray(_elsewhere(check, response.status_code, url, kind))
            auth = cert = None
        elif requests.Session().should_strip_auth(before, url):  # type: ignore[no-untyped-call]
            auth = None
        url, request = _prepared(url, auth)
    raise _LedAstray(f"more than {MAX_REDIRECTS} redirects")


def _prepared(url: str, auth: HTTPBasicAuth | None) -> tuple[str, requests.PreparedRequest]:
    """A request, and its URL as urllib3 understands it, which decides who is asked: of a URL like
    http://one\\@other/ the standard library makes another host."""
    request = requests.Request("GET", url, headers=_HEADERS, auth=auth).prepare()
    return str(request.url), request


def _is_same_server(one: str, other: str) -> bool:
    """Whether a redirect stays on the same host, or goes to the same host with TLS, at whatever
    port: its certificate shows whose answer it is."""
    a, b = urlsplit(one), urlsplit(other)
    if a.hostname != b.hostname:
        return False
    return (a.scheme, b.scheme) == ("http", "https") or (a.scheme, _port(a)) == (b.scheme, _port(b))


def _elsewhere(check: HttpCheck, code: int, url: str, kind: str) -> str:
    target = _host_and_port(url)
    place = "" if _has_password(check, target) else f", {target}"
    advice = " (http-follow: any follows it)" if kind == "http" else ""
    return printable(f"HTTP {code} to another server{place}{advice}")


def _auth(check: HttpCheck) -> HTTPBasicAuth | None:
    user, password = _user_and_password(check)
    return HTTPBasicAuth(user.encode(), password.encode()) if user or password else None


def _user_and_password(check: HttpCheck) -> tuple[str, str]:
    """User and password; those in the URL are taken if there are no others."""
    if check.user is None:
        return get_auth_from_url(check.url)
    return check.user, check.password or ""


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    host, port = parts.hostname or "", _port(parts)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _target(of: str, response: requests.Response) -> str:
    """The next request of a redirect. Raises _LedAstray."""
    try:
        target = requests.Session().get_redirect_target(response) or ""
        found, _ = _prepared(url(urljoin(of, target.replace(" ", "%20"))), None)
        return url(found)
    except ValueError:
        raise _LedAstray(f"HTTP {response.status_code} to what is no URL") from None


def _default_ca_file() -> str:
    return str(SYSTEM_CA_FILE) if SYSTEM_CA_FILE.exists() else DEFAULT_CA_BUNDLE_PATH


def _check_tls_files(check: HttpCheck) -> None:
    """Looks at the TLS files again, which were good when the configuration was read. Raises
    InvalidFile."""
    try:
        for each in invalid_files(check):
            raise each
    except OSError as error:
        raise InvalidFile(f"{error.strerror}: {error.filename}") from None


@dataclass(frozen=True, slots=True)
class _Body:
    content: bytes
    failure: Exception | None
    is_short: bool


def _read_body(response: requests.Response, limit: TimeLimit) -> _Body:
    """Reads the body, or as much as is looked at, or as much as came. urllib3 1.26 does not notice
    a body that breaks off; most of its versions unpack without bounds, and read chunks so, which
    read() leaves to http.client."""
    read = bytearray()
    failure: Exception | None = None
    length = response.headers.get("Content-Length", "")
    has_body = response.status_code not in _WITHOUT_BODY
    has_length = has_body and length.isdecimal() and not response.raw.chunked
    announced = int(length) if has_length else None
    try:
        while piece := response.raw.read(16384, decode_content=False):
            read += piece
            if len(read) > MAX_BODY_BYTES:
                break
            if limit.has_passed:
                raise BrokenOff
        else:
            if announced is not None and len(read) < announced:
                raise BrokenOff
            if announced is None and not response.raw.chunked:
                limit.raise_reset()
    except (HTTPError, http.client.HTTPException, OSError, BrokenOff) as error:
        failure = error
    has_end = announced is not None or response.raw.chunked
    if failure is not None and has_end and is_reset(failure):
        # Whether that is seen or kept back is chance.
        failure = BrokenOff()
    is_short = failure is not None and (has_end or not is_reset(failure))
    content, misfit = _unpacked(bytes(read), response.headers.get("Content-Encoding", ""))
    return _Body(content[:MAX_BODY_BYTES], failure or misfit, is_short or misfit is not None)


def _unpacked(body: bytes, encoding: str) -> tuple[bytes, Exception | None]:
    """Unpacks as much of a body as is looked at, and tells why it is not all. A body that is packed
    in another way, or more than once, stays as it is."""
    formats = _ZLIB_FORMATS.get(encoding.strip().lower(), ()) if body else ()
    for wbits in formats:
        unpacker = zlib.decompressobj(wbits)
        try:
            found = unpacker.decompress(body, MAX_BODY_BYTES)
        except zlib.error:
            continue
        is_cut = not unpacker.eof and max(len(found), len(body)) < MAX_BODY_BYTES
        return found, BrokenOff() if is_cut else None
    return body, NotUnpacked() if formats else None
