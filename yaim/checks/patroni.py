"""The Patroni check: whether PostgreSQL runs here in the wanted role, as Patroni's REST API tells.

The status code alone is not enough: /primary tells who has the leader's lock, and answers 200 until
Patroni's next loop, 10 s usually, when PostgreSQL has crashed or has not been promoted yet. The
status that comes with it is the result of a query. (Patroni 3.0 to 4.0, docs/rest_api.rst.)
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaim.checks.http import Answer, HttpCheck, get
from yaim.checks.transport.tls_files import file_faults
from yaim.checks.verdict import Healthy, Unhealthy, Verdict
from yaim.config_keys import (
    Fault,
    InvalidValue,
    any_text,
    both_or_neither,
    key,
    mask_url,
    one_of,
    readable_file,
    text,
    url,
)
from yaim.text import printable

MAX_STATUS_BYTES = 128 * 1024
"""The most bytes of a status, which lists a primary's replicas as well. What JSON costs is a
multiple of that."""
_PATHS = {"primary": "/primary", "replica": "/replica", "any": "/health"}
_ROLES = {"primary": ("primary", "master"), "replica": ("replica",)}
"""The roles as the status names them; "master" until Patroni 3."""


def _base_url(value: Any) -> str:
    found = url(value)
    if "?" in found or "#" in found:
        raise InvalidValue("a URL like http://127.0.0.1:8008, without ? and #")
    return found.rstrip("/")


_UNITS = {each.lower(): each for each in ("", "B", "kB", "MB", "GB", "TB")}


def _max_lag(value: Any) -> str:
    """Reads it as postgres-max-lag is read, and writes it as Patroni reads it, which takes a unit
    that it does not know as no limit."""
    found = re.fullmatch(r"([0-9]{1,15})\s*([a-z]*)", value.lower() if type(value) is str else "")
    if found is None or found[2] not in _UNITS:
        raise InvalidValue("a number of bytes, or of kB, MB, GB or TB, such as 16MB")
    return found[1] + _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class PatroniCheck:
    url: str = key("URL of Patroni's REST API", _base_url, "http://127.0.0.1:8008", mask=mask_url)
    role: str = key("role that PostgreSQL must run in", one_of("any", "primary", "replica"), "any")
    max_lag: str | None = key(
        "how far a replica may be behind the primary, like 1048576 or 16MB",
        _max_lag,
    )
    user: str | None = key("user for HTTP basic authentication", text())
    password: str | None = key("password for HTTP basic authentication", any_text, secret=True)
    password_file: Path | None = key("file with that password", readable_file)
    ca_file: Path | None = key(
        "CA certificates that the REST API's must be signed by", readable_file
    )
    cert_file: Path | None = key("client certificate for the REST API", readable_file)
    key_file: Path | None = key("key of the client certificate for the REST API", readable_file)

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong with keys together."""
        yield from both_or_neither(self, "patroni-", "user", "password")
        yield from both_or_neither(self, "patroni-", "cert-file", "key-file")
        yield from file_faults(self, "patroni-")
        if self.max_lag is not None and self.role != "replica":
            yield Fault("patroni-role", "replica, together with patroni-max-lag", "patroni-max-lag")


@dataclass(frozen=True, slots=True)
class _Status:
    role: str
    state: str

    def __str__(self) -> str:
        return f"role {self.role}, state {self.state}"


def check_patroni(check: PatroniCheck, timeout_s: float) -> Verdict:
    """Makes one attempt, which is bounded as that of the HTTP check is."""
    path = _PATHS[check.role]
    if check.max_lag is not None:
        path += f"?lag={check.max_lag}"
    answer = get(_request(check, path), timeout_s, "patroni")
    if not isinstance(answer, Answer):
        return answer
    found, status = f"HTTP {answer.code} from {path}", _status(answer.body)
    if answer.code != 200:
        return Unhealthy(f"{found}, expected 200: {status or 'without a status'}")
    if status is None:
        return answer.failure or Unhealthy(f"{found}, expected Patroni's status with it")
    if status.state != "running" or status.role not in _ROLES.get(check.role, (status.role,)):
        wanted = "state running" if check.role == "any" else f"role {check.role}, state running"
        return Unhealthy(f"{status}, expected {wanted}")
    return Healthy(str(status))


def _request(check: PatroniCheck, path: str) -> HttpCheck:
    return HttpCheck(
        url=check.url + path,
        user=check.user,
        password=check.password,
        ca_file=check.ca_file,
        cert_file=check.cert_file,
        key_file=check.key_file,
    )


def _status(body: bytes) -> _Status | None:
    if len(body) > MAX_STATUS_BYTES:
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    role, state = (
        found.get(name) if isinstance(found, dict) else None for name in ("role", "state")
    )
    if not isinstance(role, str) or not isinstance(state, str):
        return None
    return _Status(printable(role[:40]), printable(state[:40]))
