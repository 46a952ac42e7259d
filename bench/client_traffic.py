"""The clients of bench/clients.py: real ones, in one process and its children, for a fixed time.

    python -m bench.client_traffic SECONDS POSTGRES_PORT FILE ADDRESS ...
    python -m bench.client_traffic SECONDS storm CONNECTIONS FILE ADDRESS

To each address all kinds of KINDS talk, to IPv6 ones only those of `IPV6_KINDS`. In the end FILE
gets, in JSON, what became of each: a list of `Session`; with `storm` one of `Landing`. Times are
seconds of CLOCK_MONOTONIC.

A **storm** is connections that wait, all to one address; each connects again at once when it ends.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from bench.client_service import ASK, PORT, WAIT, allow_many_files

IDLE, BUSY, NEW, UDP = "idle", "busy", "new connections", "UDP"
PSQL, PGBENCH, PGBENCH_C = "psql in pg_sleep", "pgbench", "pgbench -C"
APP, APP_LATER = "psycopg", "psycopg, pause"
PAUSES_S = {APP: 0.0, APP_LATER: 0.2}
"""How long a program with psycopg waits before it connects again."""
KINDS = (IDLE, PSQL, PGBENCH, BUSY, *PAUSES_S, PGBENCH_C, NEW, UDP)
IPV6_KINDS = (IDLE, BUSY, NEW)
ENDS = (IDLE, PSQL, PGBENCH)
"""Those that do not connect again: what counts is when they learn that their connection has ended.
Of the others it is the longest time without an answer."""
KEEP = (*ENDS, BUSY, *PAUSES_S)
"""Those that keep a connection open."""
EVERY_S = 0.1
AGAIN_S = 0.02
"""How long a client of plain TCP waits after a failure before it tries again."""
CONNECT_WITHIN_S = 2
"""libpq knows no less than that."""
USER = DATABASE = "postgres"
_SCRIPT = "SELECT pg_sleep(0.05);\n"


@dataclass(slots=True)
class Session:
    kind: str
    address: str
    answers: list[float] = field(default_factory=list)
    """When it got an answer; for those that wait, when they began to."""
    ended_at: float | None = None
    """When it first learnt that a connection had ended, or could not be made."""

    def answered(self) -> None:
        self.answers.append(time.monotonic())

    def ended(self) -> None:
        if self.ended_at is None:
            self.ended_at = time.monotonic()


@dataclass(slots=True)
class Landing:
    """A connection of a storm that was ended, and the one that was made instead."""

    ended_at: float
    at: float | None = None
    node: str = ""
    """Whoever answered."""


def end_clock(seconds: float) -> Callable[[], float]:
    """Returns how many seconds are left."""
    until = time.monotonic() + seconds
    return lambda: until - time.monotonic()


# --- plain TCP and UDP ---------------------------------------------------------------------------


async def _idle(session: Session) -> None:
    reader, writer = await asyncio.open_connection(session.address, PORT)
    writer.write(WAIT)
    session.answered()
    try:
        await reader.read(1)
    except OSError:
        pass
    session.ended()


async def _ask_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ASK)
    if not await reader.read(16):
        raise ConnectionResetError


async def _busy(session: Session) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection(session.address, PORT)
            while True:
                await _ask_once(reader, writer)
                session.answered()
                await asyncio.sleep(EVERY_S)
        except OSError:
            session.ended()
            await asyncio.sleep(AGAIN_S)


async def _connect_once(session: Session) -> None:
    try:
        reader, writer = await asyncio.open_connection(session.address, PORT)
        await _ask_once(reader, writer)
    except OSError:
        session.ended()
    else:
        session.answered()
        writer.transport.abort()


async def _new(session: Session) -> None:
    """One each 100 ms, whether or not those before have come through."""
    async with asyncio.TaskGroup() as attempts:
        while True:
            attempts.create_task(_connect_once(session))
            await asyncio.sleep(EVERY_S)


async def _udp(session: Session) -> None:
    def take() -> None:
        try:
            asker.recv(16)
        except OSError:
            session.ended()
        else:
            session.answered()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setblocking(False)
        asker.connect((session.address, PORT))
        asyncio.get_running_loop().add_reader(asker, take)
        while True:
            try:
                asker.send(ASK)
            except OSError:
                session.ended()
            await asyncio.sleep(EVERY_S / 5)


# --- PostgreSQL's own clients, and a program with psycopg ----------------------------------------


def _app_name(session: Session) -> str:
    """By which a server's backends tell to which address their client talks."""
    return f"bench-{session.address}"


async def _program(session: Session, *command: str) -> None:
    session.answered()
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", *command),
        env={**os.environ, "PGAPPNAME": _app_name(session), "PGCONNECT_TIMEOUT": "10"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await process.wait():
        session.ended()


def _psql(session: Session, port: str) -> Awaitable[None]:
    place = ("--host", session.address, "--port", port, "--username", USER)
    query = ("--command", "SELECT pg_sleep(600)")
    return _program(session, "psql", "--no-psqlrc", *place, *query, DATABASE)


async def _pgbench(session: Session, port: str, directory: str, seconds: float) -> None:
    """Runs to its end, as only then its log of transactions is complete. `directory`: where the
    script is."""
    log = Path(directory, f"{session.kind.replace(' ', '')}-{session.address}")
    script = Path(directory, "script")
    to_monotonic = time.monotonic() - time.time()
    await _program(
        *(session, "pgbench", "--no-vacuum", f"--file={script}", f"--time={int(seconds)}", "--log"),
        *(f"--log-prefix={log}", *(("--connect",) if session.kind == PGBENCH_C else ())),
        *(f"--host={session.address}", f"--port={port}", f"--username={USER}", DATABASE),
    )
    for file in log.parent.glob(f"{log.name}.*"):
        # client, transaction, µs that it took, script, and when it ended: s, µs (pgbench(1))
        for line in file.read_text().splitlines():
            *_, whole, parts = line.split()
            session.answers.append(int(whole) + int(parts) / 1e6 + to_monotonic)


def _app(session: Session, hosts: list[str], port: str) -> None:
    """Knows all addresses, and begins with its own."""
    hosts = [session.address, *(each for each in hosts if each != session.address)]
    while True:
        try:
            with psycopg.connect(
                host=",".join(hosts),
                port=port,
                user=USER,
                dbname=DATABASE,
                application_name=_app_name(session),
                connect_timeout=CONNECT_WITHIN_S,
                autocommit=True,
            ) as connection:
                while True:
                    connection.execute("SELECT 1")
                    session.answered()
                    time.sleep(EVERY_S)
        except psycopg.Error:
            session.ended()
            time.sleep(PAUSES_S[session.kind])


async def talk(seconds: float, port: str, file: Path, addresses: list[str]) -> list[Session]:
    """All kinds for so long. Tells by FILE, which it makes empty, that it begins."""
    left_s = end_clock(seconds)
    file.touch()
    with TemporaryDirectory() as directory:
        Path(directory, "script").write_text(_SCRIPT)
        sessions = [
            Session(kind, address)
            for address in addresses
            for kind in (KINDS if ip_address(address).version == 4 else IPV6_KINDS)
        ]
        hosts = [each for each in addresses if ip_address(each).version == 4]
        tasks = []
        for session in sessions:
            if session.kind in PAUSES_S:
                threading.Thread(target=_app, args=(session, hosts, port), daemon=True).start()
                continue
            plain = {IDLE: _idle, BUSY: _busy, NEW: _new, UDP: _udp}.get(session.kind)
            if plain is not None:
                work: Awaitable[None] = plain(session)
            elif session.kind == PSQL:
                work = _psql(session, port)
            else:
                work = _pgbench(session, port, directory, left_s())
            tasks.append(asyncio.ensure_future(work))
        _, going = await asyncio.wait(tasks, timeout=left_s() + 0.5)
        for task in going:
            task.cancel()
    return sessions


# --- a storm -------------------------------------------------------------------------------------


class _Waiting(asyncio.Protocol):
    """A connection of a storm: the first waits, the one after it asks who is there."""

    def __init__(self, storm: "_Storm", landing: Landing | None) -> None:
        self._storm = storm
        self._landing = landing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(WAIT if self._landing is None else ASK)

    def data_received(self, data: bytes) -> None:
        if self._landing is not None and not self._landing.node:
            self._landing.node = data.decode()
            self._landing.at = time.monotonic()

    def connection_lost(self, _: Exception | None) -> None:
        if self._landing is None or not self._landing.node:
            self._storm.connect_again(self._landing)


class _Storm:
    def __init__(self, address: str) -> None:
        self._address = address
        self.landings: list[Landing] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self, landing: Landing | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_connection(lambda: _Waiting(self, landing), self._address, PORT)
            except OSError:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    def connect_again(self, landing: Landing | None) -> None:
        if landing is None:
            landing = Landing(time.monotonic())
            self.landings.append(landing)
        task = asyncio.ensure_future(self.connect(landing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def storm(seconds: float, connections: int, file: Path, address: str) -> list[Landing]:
    """Tells by FILE, which it makes empty, that all are connected; then waits for so long."""
    every = _Storm(address)
    for start in range(0, connections, 200):
        count = min(200, connections - start)
        await asyncio.gather(*(every.connect(None) for _ in range(count)))
    file.touch()
    await asyncio.sleep(seconds)
    return list(every.landings)


async def _run(seconds: float, what: str, rest: list[str]) -> None:
    told: list[Landing] | list[Session]
    if what == "storm":
        connections, name, address = rest
        told = await storm(seconds, int(connections), Path(name), address)
    else:
        name, *addresses = rest
        told = await talk(seconds, what, Path(name), addresses)
    Path(name).write_text(json.dumps([asdict(each) for each in told]))
    os._exit(0)  # with all connections as they are, and the threads


if __name__ == "__main__":
    allow_many_files()
    asyncio.run(_run(float(sys.argv[1]), sys.argv[2], sys.argv[3:]))
