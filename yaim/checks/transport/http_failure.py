"""Tells in a few words why an HTTP check got no answer. What the server sends may be anything, also
a password that it was sent: only the start of a line that is no HTTP is told."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator

from urllib3.exceptions import InvalidHeader
from urllib3.util.ssl_match_hostname import CertificateError

from yaim.checks.transport.tls_files import InvalidFile
from yaim.checks.verdict import CannotTell, Unhealthy
from yaim.text import printable

_UNKNOWN_CA = (18, 19, 20, 21)
"""X509_V_ERR_*: the issuer of a certificate was not found, or the last certificate is its own
issuer and not trusted."""


class BrokenOff(Exception):
    """The answer ended before its announced length."""


class NotUnpacked(Exception):
    """The body is not compressed as its header says."""


def verdict(error: BaseException, target: str, kind: str) -> Unhealthy | CannotTell:
    """Why an attempt of this kind failed that raised this, and that has connected to the target
    last."""
    for each in _chain(error):
        match each:
            case InvalidFile():
                return CannotTell(printable(str(each)))
            case ssl.SSLCertVerificationError():
                why = each.verify_message
                if each.verify_code in _UNKNOWN_CA:
                    why += f": is the CA in {kind}-ca-file?"
                return Unhealthy(printable(f"{target}: certificate verify failed: {why}"))
            case CertificateError():
                # urllib3 1.26 compares the host name itself.
                return Unhealthy(printable(f"{target}: certificate verify failed: {each}"))
        told = _told(each)
        if told is not None:
            return CannotTell(printable(f"{target}: {told}"))
    return CannotTell(printable(f"{target}: the answer is not HTTP"))


def is_reset(error: BaseException) -> bool:
    """Whether the other side has ended the connection, and not with an orderly end."""
    return any(isinstance(each, ConnectionError) for each in _chain(error))


def _told(error: BaseException) -> str | None:
    match error:
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return "the answer is not TLS: is the URL one of http?"
        case ssl.SSLError():
            return f"TLS failed: {_openssl(error)}"
        case socket.gaierror():
            return f"its host name cannot be looked up: {error.strerror}"
        case BrokenOff() | http.client.IncompleteRead():
            return "the answer broke off"
        case http.client.RemoteDisconnected():
            return "it closed the connection without an answer"
        case http.client.BadStatusLine() | http.client.UnknownProtocol():
            return _not_http(str(error.args[0]))
        case NotUnpacked():
            return "the body is not compressed as its header says"
        case InvalidHeader():
            return "the answer has headers that contradict each other"
        case http.client.LineTooLong():
            return "the answer has a line that is too long"
        case OSError() if error.errno is not None and error.strerror:
            return error.strerror
        case OSError() if type(error) is OSError and error.args:
            # requests tells so of certificate files that are not there.
            return str(error)
        case http.client.HTTPException() if type(error) is http.client.HTTPException:
            # Its words tell of too many headers or interim answers, or of headers that are cut.
            return str(error)
    return None


def _openssl(error: ssl.SSLError) -> str:
    """The reason in OpenSSL's words. Python does not know the names of all its reasons."""
    if error.reason:
        return error.reason.replace("_", " ").lower()
    return re.sub(r"^\[\w*\] | \(_ssl\.c:\d+\)$", "", error.strerror or "unknown reason")


def _not_http(line: str) -> str:
    if line.startswith(("\x15\x03", "\x16\x03")):
        return "the answer is TLS, expected HTTP without it: is the URL one of https?"
    return f"the answer is not HTTP, it begins with {line[:40]!r}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, those that are its arguments, and what was the reason of each."""
    while error is not None:
        yield error
        yield from (each for each in error.args if isinstance(each, BaseException))
        error = error.__cause__ or error.__context__
