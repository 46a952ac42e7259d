"""One connection to a server that speaks PostgreSQL's protocol, everything bounded in time, and in
bytes from the server (relay.py).

libpq through psycopg 3, without psycopg's own connections: those know whole seconds only, and wait
for the server when a query is given up. Nothing here blocks: libpq never gets a host name to look
up, and is called only when its socket is ready.

libpq's text for a failed connection has no SQLSTATE and may be in any language; with the verbosity
"verbose" it has one. psycopg cannot set that, so it is done here, in the library it uses.
"""

import ctypes
import importlib
import os
import re
import select
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from yaim.checks.transport.relay import Relay, TooExpensive, TooMuch
from yaim.host.name_lookup import look_up
from yaim.text import printable

if TYPE_CHECKING:
    import psycopg
    from psycopg import pq

MAX_RESULT_BYTES = 1024 * 1024
_MAX_LOGIN_BYTES = 128 * 1024
"""The most bytes that come from each server that libpq tries until it has let us in. Most of it
may be the chain of certificates, of which OpenSSL takes 100 kB."""
_MAX_QUERY_BYTES = MAX_RESULT_BYTES + 256 * 1024
"""The most bytes that come from the server for one query: its result, and what comes with it,
such as notices and TLS."""
INVALID_PASSWORD = "28P01"
TOO_LONG = "54000"
UNSUPPORTED = "0A000"
_DEFAULT_PORT = "5432"
_VERBOSE = 2
"""The value of PQERRORS_VERBOSE."""
_TOO_LONG_RESULT = "its result is longer than 1 MiB"
_PROBE = "yaim-asks"
"""A value that libpq does not take: it looks at the options, and does not connect."""


@cache
def missing() -> str | None:
    """What is expected to be installed; None if all is there. Imports psycopg, which takes a while:
    whatever needs it here asks this first."""
    global psycopg, pq
    # While libpq works the compiled implementations let no other thread work: a login can have it
    # work for long. But they may bring a libpq along where there is none.
    given = os.environ.get("PSYCOPG_IMPL")
    os.environ["PSYCOPG_IMPL"] = given or "python"
    try:
        try:
            import psycopg
            from psycopg import pq
        except ImportError:
            os.environ["PSYCOPG_IMPL"] = given or ""
            import psycopg
            from psycopg import pq
    except ModuleNotFoundError:
        return (
            "psycopg 3, which it needs, to be installed: apt install python3-psycopg,"
            " or pip install 'yaim[postgres]'"
        )
    except ImportError:
        return "libpq, which psycopg needs, to be installed: apt install libpq5"
    finally:
        if given is None:
            del os.environ["PSYCOPG_IMPL"]
    return None


def _need_libpq() -> None:
    if (expected := missing()) is not None:
        raise LibpqError(f"expected {expected}")


class LibpqError(Exception):
    """The text says why, in one printable line without secrets."""

    def __init__(self, reason: str, sqlstate: str | None = None) -> None:
        super().__init__(printable(reason))
        self.sqlstate = sqlstate
        """What the server said; None if the failure is not an answer of it. Also INVALID_PASSWORD
        if it wants a password and there is none, and TOO_LONG and UNSUPPORTED for results."""

    @property
    def is_timeout(self) -> bool:
        return isinstance(self, LibpqTimeout)


class LibpqTimeout(LibpqError):
    """A failure; the text says how far the connection came."""


class Session:
    """A connection that is open. Made by connect()."""

    def __init__(self, conn: Any, relay: Relay, ends_at: float) -> None:
        self._conn = conn
        self._relay = relay
        self.ends_at = ends_at
        """Bounds what is done with the connection from now on, by time.monotonic."""
        self._columns: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. This also happens when nothing refers to it any more."""
        self._conn.finish()
        self._relay.close()

    def __del__(self) -> None:
        self.close()

    @property
    def server_version(self) -> int:
        """The server's version, such as 150004 for 15.4."""
        return int(self._conn.server_version)

    @property
    def server(self) -> str:
        """Who has answered, of several that were tried: host name, address or socket, and port."""
        host = (self._conn.host or self._conn.hostaddr or b"").decode(errors="replace")
        return f"{host}:{self._conn.port.decode(errors='replace')}"

    def query(self, sql: str) -> list[tuple[str | None, ...]]:
        """The rows of all statements of a query, as text. Raises LibpqError, also for a result of
        more than MAX_RESULT_BYTES; the session is of no use after that."""
        self._relay.allow(_MAX_QUERY_BYTES)
        try:
            self._conn.send_query(sql.encode())
            self._conn.set_single_row_mode()
            while self._conn.flush():
                if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
                    self._conn.consume_input()
            return self._read_rows()
        except TooMuch:
            raise LibpqError(_TOO_LONG_RESULT, TOO_LONG) from None
        except (psycopg.Error, UnicodeError) as error:
            raise LibpqError(_last_line(str(error))) from None

    def table(self, sql: str) -> list[dict[str, str | None]]:
        """The rows of one statement, by the names of their columns. Raises LibpqError."""
        rows = self.query(sql)
        return [dict(zip(self._columns, row, strict=True)) for row in rows]

    def _read_rows(self) -> list[tuple[str | None, ...]]:
        status = pq.ExecStatus
        without_rows = (status.TUPLES_OK, status.COMMAND_OK, status.EMPTY_QUERY)
        rows: list[tuple[str | None, ...]] = []
        size = 0
        while (result := self._next_result()) is not None:
            if result.status == status.SINGLE_TUPLE:
                row = [result.get_value(0, column) for column in range(result.nfields)]
                size += 16 + sum(len(value or b"") + 16 for value in row)
                if size > MAX_RESULT_BYTES:
                    raise LibpqError(_TOO_LONG_RESULT, TOO_LONG)
                rows.append(tuple(None if v is None else v.decode(errors="replace") for v in row))
            elif result.status in without_rows:
                names = map(result.fname, range(result.nfields))
                self._columns = tuple((each or b"").decode(errors="replace") for each in names)
            elif result.status == status.FATAL_ERROR:
                raise _error_of(result)
            else:
                raise LibpqError("it is not a query that gives rows", UNSUPPORTED)
            result.clear()
        return rows

    def _next_result(self) -> Any:
        """The next row, or end of a statement; None after the last."""
        while self._conn.is_busy():
            self._wait(select.POLLIN)
            self._conn.consume_input()
        return self._conn.get_result()

    def _wait(self, events: int) -> int:
        ready = self._relay.wait(self._conn.socket, events, self.ends_at)
        if not ready:
            raise LibpqTimeout("logged in, no result of the query")
        return ready


def connect(conninfo: Mapping[str, str] | str, ends_at: float) -> Session:
    """Makes a new connection, to be closed. `ends_at`, by time.monotonic, bounds this and all that
    is done with it. Raises LibpqError."""
    _need_libpq()
    options = parse(conninfo) if isinstance(conninfo, str) else dict(conninfo)
    known = effective(options)
    options.setdefault("fallback_application_name", "yaim")
    options.setdefault("client_encoding", "UTF8")
    if known.get("gssencmode") == "prefer" and "gssencmode" not in options:
        # It would ask a Kerberos server, and wait for it.
        options["gssencmode"] = "disable"
    options.update(_with_addresses(known, ends_at))
    try:
        with ExitStack() as on_failure:
            relay = Relay(_MAX_LOGIN_BYTES)
            on_failure.callback(relay.close)
            conn = pq.PGconn.connect_start(_written(options))
            on_failure.callback(conn.finish)
            _tell_sqlstates(conn)
            _finish_connecting(conn, relay, ends_at)
            conn.nonblocking = 1
            on_failure.pop_all()
    except TooMuch:
        raise LibpqError("it sent more than 128 KiB before it let us in") from None
    except TooExpensive:
        raise LibpqError("it asks for a million SCRAM iterations or more") from None
    except psycopg.Error as error:
        raise LibpqError(_last_line(str(error))) from None
    return Session(conn, relay, ends_at)


def parse(conninfo: str) -> dict[str, str]:
    """The options that a URI, or text with keywords, gives. Raises LibpqError, and tells nothing of
    the text."""
    _need_libpq()
    try:
        found = pq.Conninfo.parse(conninfo.encode())
    except (psycopg.Error, UnicodeError) as error:
        raise LibpqError(_without_values(str(error).strip(), conninfo)) from None
    try:
        return {each.keyword.decode(): each.val.decode() for each in found if each.val is not None}
    except UnicodeDecodeError:
        raise LibpqError("it has an escape that is not of UTF-8") from None


def effective(options: Mapping[str, str]) -> dict[str, str]:
    """All options in force: those given, those of the environment and of a service file, and
    libpq's defaults. Raises LibpqError if libpq does not take them. Connects to nothing."""
    _need_libpq()
    asked = {**options, "target_session_attrs": _PROBE}
    conn = None
    try:
        conn = pq.PGconn.connect_start(_written(asked))
        error = conn.error_message.decode(errors="replace")
        if _PROBE not in error:
            raise LibpqError(_last_line(error))
        found = {each.keyword.decode(): each.val for each in conn.info if each.val is not None}
    except psycopg.Error as error:
        raise LibpqError(_last_line(str(error))) from None
    finally:
        if conn is not None:
            conn.finish()
    del found["target_session_attrs"]
    return {name: value.decode(errors="replace") for name, value in found.items()}


def _finish_connecting(conn: Any, relay: Relay, ends_at: float) -> None:
    has_sent_nothing = (pq.ConnStatus.STARTED, pq.ConnStatus.MADE)
    polled = pq.PollingStatus.WRITING
    if conn.status == pq.ConnStatus.BAD:
        polled = pq.PollingStatus.FAILED
    while polled != pq.PollingStatus.OK:
        if polled == pq.PollingStatus.FAILED:
            raise _error_of_connecting(conn)
        is_reading = polled == pq.PollingStatus.READING
        is_connected = conn.status != pq.ConnStatus.STARTED
        step = "connected, no answer to the login" if is_connected else "not connected"
        if conn.status not in has_sent_nothing:
            relay.step_between(conn.socket)
        events = select.POLLIN if is_reading else select.POLLOUT
        if not relay.wait(conn.socket, events, ends_at):
            raise LibpqTimeout(step)
        polled = conn.connect_poll()


# --- addresses -----------------------------------------------------------------------------------


def _with_addresses(known: Mapping[str, str], ends_at: float) -> dict[str, str]:
    """host, hostaddr and port with an address for each host name; libpq tries them in turn. A name
    that has none is left out, if it is not the only one."""
    hosts, addresses, ports = (known.get(each, "").split(",") for each in _PLACE)
    if not known.get("host") and known.get("hostaddr"):
        hosts = [""] * len(addresses)
    addresses = _as_long_as(hosts, addresses)
    found: list[tuple[str, str, str]] = []
    failure = ""
    for host, address, port in zip(hosts, addresses, _as_long_as(hosts, ports), strict=True):
        if address or not host or host.startswith(("/", "@")):
            found.append((host, address, port))
            continue
        try:
            found.extend((host, each, port) for each in _look_up(host, ends_at))
        except TimeoutError:
            if not found:
                raise LibpqTimeout(f"the host name {host} was not looked up") from None
            break
        except OSError as error:
            failure = f"the host name {host} cannot be looked up: {error.strerror}"
    if not found:
        raise LibpqError(failure)
    return {
        name: ",".join(values)
        for name, values in zip(_PLACE, zip(*found, strict=True), strict=True)
    }


_PLACE = ("host", "hostaddr", "port")


def _as_long_as(hosts: list[str], values: list[str]) -> list[str]:
    """The values, one for each host. One value may stand for all hosts; libpq has looked at the
    number already."""
    return values if len(values) == len(hosts) else values * len(hosts)


def _look_up(host: str, ends_at: float) -> list[str]:
    """The addresses of a host name. Raises OSError."""
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    found = look_up(host, int(_DEFAULT_PORT), max(ends_at - time.monotonic(), 0.0))
    return list(dict.fromkeys(socket.getnameinfo(each[4], numeric)[0] for each in found))


def _written(options: Mapping[str, str]) -> bytes:
    """The options in libpq's form with keywords."""
    escaped = ((name, re.sub(r"(['\\])", r"\\\1", value)) for name, value in options.items())
    return " ".join(f"{name}='{value}'" for name, value in escaped).encode()


# --- what went wrong -----------------------------------------------------------------------------


def _tell_sqlstates(conn: Any) -> None:
    """Has libpq put the SQLSTATE into its texts from now on."""
    if (set_verbosity := _set_error_verbosity()) is not None:
        set_verbosity(conn.pgconn_ptr, _VERBOSE)


@cache
def _set_error_verbosity() -> Any:
    """PQsetErrorVerbosity, of the same libpq; None if it is not found."""
    try:
        if pq.__impl__ == "python":
            library = importlib.import_module("psycopg.pq._pq_ctypes").pq
        else:
            extension = importlib.import_module(f"psycopg_{pq.__impl__}.pq")
            # What is looked up in an extension is looked up in the libpq that it uses, too.
            library = ctypes.CDLL(extension.__file__)
        found = library.PQsetErrorVerbosity
    except (ImportError, AttributeError, OSError):
        return None
    found.argtypes = (ctypes.c_void_p, ctypes.c_int)
    found.restype = ctypes.c_int
    return found


def _error_of_connecting(conn: Any) -> LibpqError:
    text = conn.error_message.decode(errors="replace")
    answers = re.findall(r"(?m):  ([0-9A-Z]{5}): (.*)$", text)
    if answers:
        # The last one: libpq goes on to the next host only from one that is starting or stopping.
        sqlstate, reason = answers[-1]
        return LibpqError(reason, sqlstate)
    if conn.needs_password:
        return LibpqError("it asks for a password, and there is none", INVALID_PASSWORD)
    return LibpqError(_last_line(text))


def _error_of(result: Any) -> LibpqError:
    sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    if sqlstate is None or message is None:
        return LibpqError(_last_line(result.error_message.decode(errors="replace")))
    return LibpqError(message.decode(errors="replace"), sqlstate.decode(errors="replace"))


def _last_line(text: str) -> str:
    """The last message of libpq's; lines that begin with a tab only explain. Which server it was is
    said in fewer words."""
    lines = [each for each in text.split("\n") if each.strip() and not each.startswith("\t")]
    last = lines[-1] if lines else "it failed without a reason"
    return _SERVER.sub(_server, last).strip()


_SERVER = re.compile(
    r'^connection to server (?:on socket "(?P<socket>[^"]*)"'
    r'|at "(?P<host>[^"]*)"(?: \((?P<address>[^)]*)\))?, port (?P<port>[0-9]+)) failed: '
)


def _server(found: re.Match[str]) -> str:
    if (path := found["socket"]) is not None:
        return f"{path}: "
    host = f"[{found['host']}]" if ":" in found["host"] else found["host"]
    address = f" ({found['address']})" if found["address"] else ""
    return f"{host}:{found['port']}{address}: "


def _without_values(text: str, given: str) -> str:
    """libpq quotes the place that is wrong: it may be a password. The name of an option is none;
    but after a password it may be the end of that, which has a space or an & in it."""
    name = re.search(r'(?:connection option|query parameter:?) "([a-z_]+)"$', text)
    if name is not None:
        may_be_secret = rf"(?s)password\s*=(\s*\S+\s+|[^&]*&){name[1]}\s*="
        if f"{name[1]}" in given and re.search(may_be_secret, given) is None:
            return text
    return re.split(r':? "(?!=" )', text)[0]
