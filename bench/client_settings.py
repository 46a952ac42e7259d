"""What each setting of clients and servers gives when nobody can reset: docs/clients.md's table.

    python -m bench.client_settings [--json FILE]

Two nodes with a PostgreSQL server and a plain service, a client's host, an address, no yaim. All
clients talk to the address when its node loses its power, and it is measured when each is told: by
an error, or, of those that connect then, by an answer. Five times:

- nobody takes the address;
- the other node takes it after TAKEN_AFTER_S, and its kernel resets what it does not know;
- the same, with a firewall there that lets in SYN and what belongs to connections it knows;
- the same, and it rejects the rest with a reset;
- nobody takes it, and the client's host has other times of keepalive (sysctl).

And what a server has left when a client's host loses its power, or its connections are reset at the
server while a query runs: when PostgreSQL's session has ended.

"-": not within WATCH_S. The programs with JDBC and requests take a second or two to start.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client_clusters import POSTGRES_PORT, Services, end_sessions, forget_all
from bench.client_service import PORT
from bench.figures import machine
from tests.checks.postgres_server import PASSWORD, as_postgres, give_to_postgres, installed
from yaim.lab.cluster import Lab
from yaim.lab.links import put_address, set_bridge
from yaim.lab.namespaces import DIES_WITH_US, LabError, enter_private_network, run
from yaim.lab.network import LAN
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until

WATCH_S = 40.0
LEAD_S = 6.0
"""How long clients have to connect, on a busy machine."""
TAKEN_AFTER_S = 3.0
POOL = pool_of(1)
(VIP,) = POOL
JDBC = Path("/usr/share/java/postgresql.jar")
KEEPALIVES = "keepalives_idle=5 keepalives_interval=1 keepalives_count=3"
FIREWALL = """\
table inet filter {
    chain input {
        type filter hook input priority 0; policy accept;
        ct state established,related accept
        tcp flags & (syn | ack) != syn @verdict
    }
}
"""
WAITS, LIMITED, ASKS, CONNECTS = "waits", "waits, limited", "asks", "connects"
"""What a client does. The time counts from the power-off; of those that wait no longer than a
limit, and of those that connect after it, from their start."""
BOUNCERS = {
    6401: ("pgbouncer, defaults", ""),
    6402: (
        "pgbouncer: tcp_keepidle = 5, tcp_keepintvl = 1, tcp_keepcnt = 3",
        "tcp_keepidle = 5\ntcp_keepintvl = 1\ntcp_keepcnt = 3\n",
    ),
    6403: ("pgbouncer: tcp_user_timeout = 5000", "tcp_user_timeout = 5000\n"),
    6404: ("pgbouncer: query_timeout = 10", "query_timeout = 10\n"),
    6405: ("pgbouncer: server_connect_timeout = 2", "server_connect_timeout = 2\n"),
    6406: (
        "pgbouncer: server_connect_timeout = 2, server_login_retry = 1",
        "server_connect_timeout = 2\nserver_login_retry = 1\n",
    ),
}
"""By port: one on the client's host, and what stands in its ini."""


@dataclass(frozen=True, slots=True)
class Client:
    setting: str
    does: str
    command: tuple[str, ...]


def _libpq(setting: str, does: str, host: str = str(VIP), port: int = POSTGRES_PORT) -> Client:
    place = f"host={host} port={port} user=postgres dbname=postgres {setting}"
    query = {
        WAITS: ("--command", "SELECT pg_sleep(600)"),
        ASKS: ("--file", "ask.sql"),
        CONNECTS: ("--command", "SELECT 1"),
    }[does]
    return Client(
        f"libpq: {setting or 'defaults'}", does, ("psql", "--no-psqlrc", "--quiet", place, *query)
    )


def _jdbc(classes: Path, setting: str, does: str, hosts: str = f"{VIP}") -> Client:
    url = f"jdbc:postgresql://{hosts}/postgres?user=postgres{setting and '&' + setting}"
    query = "SELECT pg_sleep(600)" if does in (WAITS, LIMITED) else "SELECT 1"
    often = "once" if does == CONNECTS else "again"
    command = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", f"{JDBC}:{classes}")
    return Client(
        f"JDBC: {setting or 'defaults'}", does, (*command, "JdbcClient", url, query, often)
    )


def _curl(options: str, does: str = WAITS) -> Client:
    command = ("curl", "--silent", *options.split(), _url(does))
    return Client(f"curl {options}" if options else "curl, defaults", does, command)


def _url(does: str) -> str:
    return f"http://{VIP}:{PORT}/{'now' if does == CONNECTS else ''}"


def _requests(shown: str, timeout: str, mount: str = "", does: str = WAITS) -> Client:
    code = (
        "import socket, requests\n"
        "from requests.adapters import HTTPAdapter\n"
        "class Alive(HTTPAdapter):\n"
        "    def init_poolmanager(self, *args, **options):\n"
        "        options['socket_options'] = [\n"
        "            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),\n"
        "            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),\n"
        "            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),\n"
        "            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)]\n"
        "        super().init_poolmanager(*args, **options)\n"
        f"session = requests.Session()\n{mount}\n"
        f"session.get('{_url(does)}', timeout={timeout})\n"
    )
    return Client(f"requests, {shown}", does, (sys.executable, "-c", code))


def clients(classes: Path, other: str) -> list[Client]:
    both = f"{VIP},{other}"
    return [
        _libpq("", WAITS),
        _libpq(KEEPALIVES, WAITS),
        _libpq("tcp_user_timeout=5000", WAITS),
        _libpq(f"{KEEPALIVES} tcp_user_timeout=5000", WAITS),
        _libpq("", ASKS),
        _libpq(KEEPALIVES, ASKS),
        _libpq("tcp_user_timeout=5000", ASKS),
        _libpq("", CONNECTS),
        _libpq("connect_timeout=2", CONNECTS),
        _libpq("connect_timeout=2 target_session_attrs=read-write", CONNECTS, both),
        _libpq("target_session_attrs=read-write", CONNECTS, both),
        _jdbc(classes, "", WAITS),
        _jdbc(classes, "tcpKeepAlive=true", WAITS),
        _jdbc(classes, "socketTimeout=10", LIMITED),
        _jdbc(classes, "", ASKS),
        _jdbc(classes, "socketTimeout=10", ASKS),
        _jdbc(classes, "", CONNECTS),
        _jdbc(classes, "connectTimeout=2", CONNECTS),
        _jdbc(classes, "loginTimeout=2", CONNECTS),
        _jdbc(classes, "connectTimeout=2&targetServerType=primary", CONNECTS, both),
        *(_bouncer(port, WAITS) for port in (6401, 6402, 6403)),
        _bouncer(6404, LIMITED),
        *(_bouncer(port, ASKS) for port in (6401, 6403)),
        *(_bouncer(port, CONNECTS) for port in (6401, 6405, 6406)),
        _curl(""),
        _curl("--max-time 10", LIMITED),
        _curl("--speed-limit 1 --speed-time 10", LIMITED),
        _curl("--keepalive-time 2"),
        _curl("", CONNECTS),
        _curl("--connect-timeout 2", CONNECTS),
        _requests("defaults", "None"),
        _requests("timeout=(2, 10)", "(2, 10)", does=LIMITED),
        _requests("keepalive as below", "None", "session.mount('http://', Alive())"),
        _requests("timeout=(2, 10)", "(2, 10)", does=CONNECTS),
    ]


def _bouncer(port: int, does: str) -> Client:
    found = _libpq("", WAITS if does == LIMITED else does, "127.0.0.1", port)
    return Client(BOUNCERS[port][0], does, found.command)


class Bed:
    """The hosts, and what happens to them."""

    def __init__(self, lab: Lab, services: Sequence[Services], directory: Path) -> None:
        self.lab = lab
        self.first, self.second = lab.nodes.values()
        self.postgres = services[0].postgres
        self.other = str(self.second.own_address)
        self.directory = directory
        (self.directory / "ask.sql").write_text("SELECT 1 \\watch 0.1\n")
        (self.directory / "users").write_text(f'"postgres" "{PASSWORD}"\n')

    def put_right(self) -> None:
        """The first node has the address, all is connected, and nothing is left of before."""
        self.first.connect()
        set_bridge(LAN.link("client"), LAN.bridge)
        for node in (self.first, self.second):
            forget_all(node, POOL)
            end_sessions(node, POOL)
            node.namespace.run("nft", "flush", "ruleset")
        put_address(f"{VIP}/32", LAN.interface, self.first.namespace)
        self.tell_client()

    def tell_client(self) -> None:
        """As a gratuitous ARP does."""
        self.lab.client.run("ip", "neigh", "flush", "dev", LAN.interface)

    def take(self) -> None:
        put_address(f"{VIP}/32", LAN.interface, self.second.namespace)
        self.tell_client()

    def take_behind_firewall(self, verdict: str) -> None:
        """With a firewall on the second node that lets in SYN and the connections that it knows.
        `verdict`: on other packets of TCP."""
        rules = self.directory / "firewall.nft"
        rules.write_text(FIREWALL.replace("@verdict", verdict))
        self.second.namespace.run("nft", "-f", str(rules))
        self.take()

    @contextmanager
    def bouncers(self) -> Iterator[None]:
        with ExitStack() as stack:
            for port, (_, more) in BOUNCERS.items():
                ini = self.directory / f"{port}.ini"
                ini.write_text(
                    f"[databases]\npostgres = host={VIP} port={POSTGRES_PORT}\n"
                    f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
                    f"unix_socket_dir =\nauth_type = trust\npool_mode = session\n"
                    f"auth_file = {self.directory / 'users'}\n{more}"
                )
                give_to_postgres(ini)
                with self.lab.client.entered():
                    process = subprocess.Popen(
                        (*as_postgres(), *DIES_WITH_US, "/usr/sbin/pgbouncer", "-q", str(ini)),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                stack.callback(process.wait)
                stack.callback(process.kill)
            yield

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.directory / "clients-log").open("ab") as log:
            return self.lab.client.start(("env", "-C", str(self.directory), *command), log)


def power_off(
    bed: Bed, given: Sequence[Client], after: Callable[[Bed], None] | None
) -> list[float | None]:
    """Seconds of each. `after`: what happens TAKEN_AFTER_S later."""
    bed.put_right()
    with bed.bouncers(), ExitStack() as stack:
        running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}

        def start(does: Sequence[str]) -> None:
            for number, client in enumerate(given):
                if client.does in does:
                    process = bed.start(client.command)
                    stack.callback(process.wait)
                    stack.callback(process.kill)
                    running[number] = process, time.monotonic()

        start((WAITS, LIMITED, ASKS))
        time.sleep(LEAD_S)
        for number, (process, _) in running.items():
            if process.poll() is not None:
                log = (bed.directory / "clients-log").read_text(errors="replace")[-2000:]
                raise LabError(f"{given[number].setting} ended before anything happened:\n{log}")
        bed.first.cut([LAN])
        at = time.monotonic()
        start((CONNECTS,))
        taken = after is None
        found: list[float | None] = [None] * len(given)
        while running and time.monotonic() < at + WATCH_S:
            if not taken and time.monotonic() >= at + TAKEN_AFTER_S:
                taken = True
                if after is not None:
                    after(bed)
            for number, (process, since) in list(running.items()):
                if process.poll() is not None:
                    is_own = given[number].does == LIMITED
                    found[number] = time.monotonic() - (since if is_own else max(at, since))
                    del running[number]
            time.sleep(0.02)
        return found


def _keep_alive(bed: Bed) -> None:
    """On the client's host: for all that ask for keepalive and do not say how often."""
    for name, value in (("time", 5), ("intvl", 1), ("probes", 3)):
        bed.lab.client.run("sysctl", "-qw", f"net.ipv4.tcp_keepalive_{name}={value}")


ON_SERVER: Mapping[str, str] = {
    "defaults": "",
    "client_connection_check_interval = 1s": "-c client_connection_check_interval=1s",
    "tcp_keepalives_idle = 5, _interval = 1, _count = 3": (
        "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3"
    ),
    "both of these": (
        "-c client_connection_check_interval=1s"
        " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3"
    ),
    "tcp_user_timeout = 5000": "-c tcp_user_timeout=5000",
}


IDLE, RUNS = "SELECT 1", "SELECT pg_sleep(600)"
_STAYS = """\
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1])
connection.execute(sys.argv[2])
time.sleep(600)
"""


def sessions(bed: Bed, query: str, happens: Callable[[Bed], None]) -> list[float | None]:
    """Seconds until the session has ended, with each setting of ON_SERVER."""
    bed.put_right()
    of_clients = "FROM pg_stat_activity WHERE application_name ~ '^setting-'"
    with ExitStack() as stack:
        for number, options in enumerate(ON_SERVER.values()):
            place = f"host={VIP} port={POSTGRES_PORT} user=postgres dbname=postgres"
            place += f" application_name=setting-{number} options='{options}'"
            process = bed.start((sys.executable, "-c", _STAYS, place, query))
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_until(
            lambda: len(bed.postgres.sql(f"SELECT {of_clients}")) == len(ON_SERVER),
            20.0,
            "all to be connected",
        )
        time.sleep(2.0)
        happens(bed)
        at = time.monotonic()
        found: list[float | None] = [None] * len(ON_SERVER)
        while None in found and time.monotonic() < at + WATCH_S:
            names = {row[0] for row in bed.postgres.sql(f"SELECT application_name {of_clients}")}
            for number, known in enumerate(found):
                if known is None and f"setting-{number}" not in names:
                    found[number] = time.monotonic() - at
            time.sleep(0.1)
        bed.postgres.sql(f"SELECT pg_terminate_backend(pid) {of_clients}")
        return found


def _client_off(_: Bed) -> None:
    set_bridge(LAN.link("client"), None)


def _reset(bed: Bed) -> None:
    end_sessions(bed.first, POOL)


def shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def rows(first: Sequence[str], columns: Mapping[str, Sequence[float | None]]) -> list[str]:
    """A table in Markdown. `first`: the first cells of each row, with a bar between them."""
    lines = [f"| {' | '.join(columns)} |"]
    for number, name in enumerate(first):
        cells = (shown(values[number]) for values in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))
    enter_private_network()
    for line in machine():
        print(line)
    with ExitStack() as stack:
        installation = stack.enter_context(installed())
        lab = stack.enter_context(Lab(LabPlan(nodes=2, pool=POOL, ping_every_ms=1000)))
        services = [Services(node, installation, "0") for node in lab.nodes.values()]
        for each in services:
            stack.callback(each.stop)
            each.start()
        bed = Bed(lab, services, services[0].postgres.directory)
        source = Path(__file__).with_name("JdbcClient.java")
        run(("javac", "-d", str(bed.directory), str(source)))
        given = clients(bed.directory, bed.other)
        powers = {
            "nobody takes it": power_off(bed, given, None),
            f"taken after {TAKEN_AFTER_S:g} s": power_off(bed, given, Bed.take),
            "taken, only SYN let in": power_off(
                bed, given, lambda bed: bed.take_behind_firewall("drop")
            ),
            "taken, others than SYN rejected": power_off(
                bed, given, lambda bed: bed.take_behind_firewall("reject with tcp reset")
            ),
        }
        _keep_alive(bed)
        powers["nobody takes it, the client's tcp_keepalive_* are 5, 1, 3"] = power_off(
            bed, given, None
        )
        ends = {
            "client off, idle": sessions(bed, IDLE, _client_off),
            "client off, query runs": sessions(bed, RUNS, _client_off),
            "reset here, idle": sessions(bed, IDLE, _reset),
            "reset here, query runs": sessions(bed, RUNS, _reset),
        }
    names = [f"{client.setting} | {client.does}" for client in given]
    for line in (*rows(names, powers), "", *rows(list(ON_SERVER), ends)):
        print(line)
    if options.json is not None:
        options.json.write_text(json.dumps({"clients": names, **powers, **ends}, indent=2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
