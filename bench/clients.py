"""What clients go through when addresses move: the tables of docs/clients.md.

    python -m bench.clients [--rounds 3] [--cases stop,join] [--products reset,leave] [--json FILE]

Three nodes, three IPv4 addresses and three of IPv6, interval 1000, ttl 5000 (the default), etcd
with three members; keepalived with adverts and checks each second. On each node there are a
PostgreSQL server and a plain service (bench/client_clusters.py). In a namespace of their own
clients talk to each address (bench/client_traffic.py): psql waits for a query; programs with
psycopg know all addresses and connect again, at once or after a pause; pgbench runs with and
without -C; of plain TCP one waits for an answer, one asks every 100 ms, one connects every 100 ms;
UDP asks every 20 ms. The products, one after the other: yaim with `connections: reset`, with
`leave`, and keepalived.

Of those that wait and of pgbench it is measured how long after the address has left its node (or
the power is off) they learn that their connection has ended; "never": not in the seconds that they
are watched. Of the others it is the longest time without an answer. It is the worst of the
addresses that moved; printed are medians over the rounds. "left": the TCP sockets left on the old
node, and PostgreSQL's sessions. A second table has the connections whose address did not move.

A storm: so many idle connections to an address of a node that stops, which connect again at once.

The exit status is 1 if a bound is missed: see `misses`.
"""

import argparse
import json
import math
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

from bench import client_traffic as traffic
from bench.client_clusters import (
    POSTGRES_PORT,
    Cluster,
    Keepalived,
    Services,
    Yaim,
    end_sessions,
    forget_all,
    sessions_on,
    told,
)
from bench.client_traffic import Landing, Session
from bench.figures import machine
from tests.checks.postgres_server import installed
from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.etcd import EtcdPlan
from yaim.lab.namespaces import LabError, enter_private_network
from yaim.lab.network import LAN, MANAGEMENT
from yaim.lab.node import LabNode
from yaim.lab.plan import LabPlan, even_counts, pool_of
from yaim.lab.wait import wait_until

POOL = (*pool_of(3), *(ip_address("2001:db8::11") + number for number in range(3)))
RESET, LEAVE, KEEPALIVED = "reset", "leave", "keepalived"
PRODUCTS = (RESET, LEAVE, KEEPALIVED)
STORMS = (1000, 5000)
LEAD_S = 3.0
"""How long clients talk before something happens."""
WELL_WITHIN_S = 60.0
SILENT_S = 2.0
"""Who has had no answer for so long in the end gets none."""
WITHOUT_ETCD_S = 9.0
"""Longer than the ttl, and until another node has taken what was on this one."""
LEARN_WITHIN_S = 0.1
"""The bound for those that wait, where a node gives an address away on purpose."""


@dataclass(slots=True)
class Outcome:
    """What happened in one round of a case."""

    learnt_s: dict[str, float] = field(default_factory=dict)
    """By kind of client, the worst of the addresses that moved; infinite: never."""
    left: tuple[int, int] | None = None
    """Sockets, and PostgreSQL's sessions; None: the node is off, or nothing moved."""
    kept: int = 0
    """Connections of addresses that did not move, which went on."""
    lost: int = 0
    """The same, but they ended."""


class Trial:
    """A cluster with its clients, in which one case after the other happens."""

    def __init__(self, cluster: Cluster, services: dict[str, Services]) -> None:
        self.cluster = cluster
        self.lab = cluster.lab
        self.services = services
        self._file = self.lab.directory / "traffic"
        self.node: LabNode = next(iter(self.lab.nodes.values()))
        """The one to which it happens: `choose`."""

    def wait_until_even(self, without: LabNode | None = None) -> None:
        by = [name for name, node in self.lab.nodes.items() if node is not without]
        wanted = even_counts(len(POOL), len(by), len(by))

        def is_even() -> bool:
            holders = self.cluster.holders()
            held = [name for names in holders.values() for name in names]
            counts = sorted((held.count(name) for name in by), reverse=True)
            return len(held) == len(holders) == len(POOL) and counts == wanted

        wait_until(
            is_even,
            WELL_WITHIN_S,
            f"{by} to hold all evenly",
            lambda: f"{self.cluster.holders()}\n{self.lab.logs()}",
        )

    def choose(self) -> None:
        """Takes a node that has addresses of both versions: with 2 of 3 and 3 on each there is
        one."""
        versions: dict[str, set[int]] = defaultdict(set)
        for address, (name, *_) in self.cluster.holders().items():
            versions[name].add(address.version)
        self.node = self.lab.nodes[next(name for name, each in versions.items() if len(each) == 2)]

    def see(self, case: "Case") -> Outcome:
        """Raises LabError, also if a client could not connect before anything happened."""
        self.wait_until_even()
        time.sleep(1.0)
        self.choose()
        case.prepare(self)
        for node in self.lab.nodes.values():
            end_sessions(node, POOL)
        before = {address: names[0] for address, names in self.cluster.holders().items()}
        with self._talking(case.seconds, str(POSTGRES_PORT), str(self._file), *POOL) as process:
            time.sleep(LEAD_S)
            at = time.monotonic()
            case.act(self)
            process.wait(case.seconds + 30.0)
        sessions = [Session(**each) for each in json.loads(self._file.read_text())]
        try:
            return self._outcome(case, sessions, before, at)
        finally:
            case.restore(self)

    @contextmanager
    def _talking(self, seconds: float, *what: object) -> Iterator[subprocess.Popen[bytes]]:
        """The clients; they are connected, or about to be."""
        self._file.unlink(missing_ok=True)
        command = (sys.executable, "-P", "-m", "bench.client_traffic", str(seconds))
        with (self.lab.directory / "traffic-log").open("ab") as log:
            process = self.lab.client.start((*command, *map(str, what)), log)
        try:
            wait_until(self._file.exists, WELL_WITHIN_S, "the clients to start", self._told)
            yield process
        finally:
            process.kill()
            process.wait()

    def _told(self) -> str:
        return (self.lab.directory / "traffic-log").read_text(errors="replace")[-4000:]

    def _outcome(
        self, case: "Case", sessions: Sequence[Session], before: dict[Address, str], at: float
    ) -> Outcome:
        gone: dict[str, float] = {}
        for gone_at, kind, node, address in told(self.lab):
            if gone_at >= at and kind in ("d", "g") and before[address] == node:
                gone.setdefault(str(address), gone_at)
        if case.is_power_off:
            gone = {str(each): at for each, name in before.items() if name == self.node.name}
        if bool(gone) is not case.moves:
            raise LabError(f"{case.name}: {len(gone)} addresses left their node\n{self.lab.logs()}")
        outcome = Outcome()
        until = max(max(each.answers, default=0.0) for each in sessions)
        for session in sessions:
            if not any(each < at for each in session.answers):
                raise LabError(f"{session.kind} did not get to {session.address}: {self._told()}")
            if session.ended_at is not None and session.ended_at < at:
                early_s = at - session.ended_at
                what = f"{session.kind} lost {session.address} {early_s:.2f} s before {case.name}"
                raise LabError(f"{what}: {self._told()}\n{self.lab.logs()}")
            if session.address in gone:
                kind = kind_of(session)
                seconds = learnt_s(session, gone[session.address], at, until)
                outcome.learnt_s[kind] = max(seconds, outcome.learnt_s.get(kind, 0.0))
            elif session.kind in traffic.KEEP:
                outcome.kept += session.ended_at is None
                outcome.lost += session.ended_at is not None
        if gone and not case.is_power_off:
            outcome.left = self._left(before, gone)
        return outcome

    def _left(self, before: dict[Address, str], gone: dict[str, float]) -> tuple[int, int]:
        sockets = backends = 0
        for address, name in before.items():
            if str(address) in gone:
                sockets += sessions_on(self.lab.nodes[name], address)
                sql = f"SELECT FROM pg_stat_activity WHERE application_name = 'bench-{address}'"
                backends += len(self.services[name].postgres.sql(sql))
        return sockets, backends

    def storm(self, connections: int) -> list[Landing]:
        """Returns what became of the connections that were ended."""
        self.wait_until_even()
        self.choose()
        end_sessions(self.node, POOL)
        address = next(
            each
            for each, (name, *_) in self.cluster.holders().items()
            if name == self.node.name and each.version == 4
        )
        with self._talking(6.0, "storm", connections, self._file, address) as process:
            self.cluster.stop(self.node)
            process.wait(60.0)
        self.cluster.start(self.node)
        return [Landing(**each) for each in json.loads(self._file.read_text())]


def kind_of(session: Session) -> str:
    version = ip_address(session.address).version
    return session.kind if version == 4 else f"{session.kind}, IPv6"


def learnt_s(session: Session, gone_at: float, at: float, until: float) -> float:
    """See above. `at`: when it happened; `until`: when the last client got its last answer."""
    if session.kind in traffic.ENDS or (
        session.kind == traffic.PGBENCH_C and session.ended_at is not None
    ):
        return math.inf if session.ended_at is None else max(0.0, session.ended_at - gone_at)
    if until - session.answers[-1] > SILENT_S:
        return math.inf
    late = [each for each in sorted(session.answers) if each > at - 1.0]
    return max((later - each for each, later in pairwise(late)), default=math.inf)


# --- what happens --------------------------------------------------------------------------------


Act = Callable[[Trial], None]


def _nothing(_: Trial) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    seconds: float
    """How long clients talk."""
    act: Act
    prepare: Act = _nothing
    restore: Act = _nothing
    moves: bool = True
    """Whether an address leaves a node."""
    resets: bool = True
    """Whether its node resets connections then, so that clients learn of it at once."""
    is_power_off: bool = False
    only_yaim: bool = False


def _stop(trial: Trial) -> None:
    trial.cluster.stop(trial.node)


def _start(trial: Trial) -> None:
    trial.cluster.start(trial.node)


def _leave(trial: Trial) -> None:
    _stop(trial)
    trial.wait_until_even(without=trial.node)


def _take_out(trial: Trial) -> None:
    trial.lab.delete(_own(trial, 4))
    trial.lab.delete(_own(trial, 6))


def _own(trial: Trial, version: int) -> Address:
    return next(
        address
        for address, names in trial.cluster.holders().items()
        if trial.node.name in names and address.version == version
    )


def _power_off(trial: Trial) -> None:
    trial.node.cut()
    trial.cluster.kill(trial.node)


def _boot(trial: Trial) -> None:
    trial.services[trial.node.name].stop()
    forget_all(trial.node, POOL)
    trial.node.connect()
    trial.services[trial.node.name].start()
    _start(trial)


def _kill(trial: Trial, role: str) -> None:
    trial.node.signal(signal.SIGKILL, role)


def _set_interface(trial: Trial, state: str) -> None:
    """The kernel deletes the addresses of IPv6 when it goes down, also the node's own."""
    trial.node.namespace.run("ip", "link", "set", LAN.interface, state)
    if state == "up":
        trial.node.add_own_addresses()


def _cut_from_etcd(trial: Trial) -> None:
    trial.node.cut([MANAGEMENT])
    time.sleep(WITHOUT_ETCD_S)
    trial.node.connect([MANAGEMENT])


def _mend_etcd(trial: Trial) -> None:
    for member in trial.lab.members:
        if not member.is_running:
            member.start()
    wait_until(trial.lab.etcd_cluster.is_well, WELL_WITHIN_S, "etcd to be well")


CASES = (
    Case(
        "service down",
        9.0,
        lambda trial: trial.node.break_service(),
        restore=lambda trial: trial.node.mend_service(),
    ),
    Case("stop", 9.0, _stop, restore=_start),
    Case("join", 16.0, _start, prepare=_leave),
    Case(
        "taken out of the pool",
        9.0,
        _take_out,
        restore=lambda trial: trial.lab.fill_pool(),
        only_yaim=True,
    ),
    Case(
        "interface down",
        9.0,
        lambda trial: _set_interface(trial, "down"),
        restore=lambda trial: _set_interface(trial, "up"),
        resets=False,
    ),
    Case(f"no etcd for {WITHOUT_ETCD_S:g} s", 20.0, _cut_from_etcd, resets=False, only_yaim=True),
    Case("power off", 18.0, _power_off, restore=_boot, resets=False, is_power_off=True),
    Case(
        "etcd's leader killed",
        9.0,
        lambda trial: trial.lab.etcd_cluster.leader().kill(),
        restore=_mend_etcd,
        moves=False,
        only_yaim=True,
    ),
    *(
        Case(f"{name} restarted", 9.0, act, moves=False, only_yaim=True)
        for name, act in (
            ("coordinator", partial(_kill, role="coordinator")),
            ("helper", partial(_kill, role="helper")),
            ("both (upgrade)", lambda trial: trial.node.signal(signal.SIGUSR1, "supervisor")),
        )
    ),
)


@contextmanager
def running(product: str) -> Iterator[Trial]:
    settings: dict[str, object] = {} if product == KEEPALIVED else {"connections": product}
    plan = LabPlan(
        pool=POOL,
        ttl_ms=5000,
        ping_every_ms=50,
        etcd=EtcdPlan(members=3),
        settings=settings,
    )
    with ExitStack() as stack:
        installation = stack.enter_context(installed())
        lab = stack.enter_context(Lab(plan))
        services = {name: Services(node, installation) for name, node in lab.nodes.items()}
        for each in services.values():
            stack.callback(each.stop)
            each.start()
        cluster: Cluster = Keepalived(lab) if product == KEEPALIVED else Yaim(lab)
        stack.callback(cluster.close)
        for node in lab.nodes.values():
            cluster.start(node)
        yield Trial(cluster, services)


# --- what is told --------------------------------------------------------------------------------

Outcomes = dict[tuple[str, str], list[Outcome]]
"""By case and product."""


def median(values: Sequence[float]) -> float:
    return statistics.median_high(values)


def shown(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds:.2f}"


def table(outcomes: Outcomes) -> list[str]:
    """Of the cases in which addresses moved."""
    heads = [f"{kind} (IPv6)" if kind in traffic.IPV6_KINDS else kind for kind in traffic.KINDS]
    rows = [f"| case | product | {' | '.join(heads)} | left |", "|---" * (len(heads) + 3) + "|"]
    for (case, product), each in outcomes.items():
        if not any(outcome.learnt_s for outcome in each):
            continue
        cells = []
        for kind in traffic.KINDS:
            cell = _median_of(kind, each)
            of_ipv6 = _median_of(f"{kind}, IPv6", each)
            cells.append(f"{cell} ({of_ipv6})" if kind in traffic.IPV6_KINDS else cell)
        lefts = [outcome.left for outcome in each if outcome.left is not None]
        left = "-"
        if lefts:
            sockets, backends = (max(column) for column in zip(*lefts, strict=True))
            left = f"{sockets} / {backends}"
        rows.append(f"| {case} | {product} | {' | '.join(cells)} | {left} |")
    return rows


def _median_of(kind: str, outcomes: Sequence[Outcome]) -> str:
    values = [outcome.learnt_s[kind] for outcome in outcomes if kind in outcome.learnt_s]
    return shown(median(values)) if values else "-"


def unmoved(outcomes: Outcomes) -> list[str]:
    """What became of connections whose address did not move."""
    rows = ["| case | product | connections that went on | that ended |", "|---|---|---|---|"]
    for (case, product), each in outcomes.items():
        kept = sum(outcome.kept for outcome in each)
        lost = sum(outcome.lost for outcome in each)
        rows.append(f"| {case} | {product} | {kept} | {lost} |")
    return rows


def misses(outcomes: Outcomes) -> list[str]:
    """What `connections: reset` promises and did not keep."""
    found = []
    moving = {case.name for case in CASES if case.moves and case.resets}
    off = {case.name for case in CASES if case.is_power_off}
    for (case, product), each in outcomes.items():
        if product == KEEPALIVED:
            continue
        if any(outcome.lost for outcome in each):
            found.append(f"{case}, {product}: a connection ended whose address did not move")
        if product == RESET and case in moving:
            for kind in (traffic.IDLE, traffic.PSQL, f"{traffic.IDLE}, IPv6"):
                values = [outcome.learnt_s.get(kind, 0.0) for outcome in each]
                if median(values) > LEARN_WITHIN_S:
                    found.append(f"{case}: {kind} learns after {shown(median(values))}")
        if product == RESET and case not in off and any(o.left not in (None, (0, 0)) for o in each):
            found.append(f"{case}: sessions are left on the old node")
    return found


def values(outcomes: Outcomes) -> dict[str, list[dict[str, object]]]:
    """All that was measured, for JSON."""
    return {
        f"{case}; {product}": [asdict(outcome) for outcome in each]
        for (case, product), each in outcomes.items()
    }


def storms(trial: Trial) -> tuple[list[str], list[str]]:
    """What to print, and what was missed."""
    lines, missed = [], []
    for connections in STORMS:
        old = trial.lab.nodes
        landings = trial.storm(connections)
        ended = [each.ended_at for each in landings]
        landed = [each for each in landings if each.at is not None and each.node in old]
        on_old = sum(each.node == trial.node.name for each in landed)
        times = sorted(each.at - min(ended) for each in landed if each.at is not None)
        lines.append(
            f"{connections} connections: {len(ended)} ended within"
            f" {max(ended) - min(ended):.3f} s, {len(landed) - on_old} landed on the new node,"
            f" {on_old} on the old one, the last after {times[-1]:.2f} s"
            f" (median {statistics.median(times):.2f} s)"
            if landed
            else f"{connections} connections: {len(ended)} ended, none landed"
        )
        if len(landed) - on_old != connections:
            missed.append(lines[-1])
    return lines, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", help="the first words of some cases, or storm; with commas")
    parser.add_argument("--products", default=",".join(PRODUCTS))
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))
    wanted = options.cases.split(",") if options.cases else None
    cases = [each for each in CASES if wanted is None or any(map(each.name.startswith, wanted))]
    enter_private_network()
    for line in machine():
        print(line)
    outcomes: Outcomes = defaultdict(list)
    lines: list[str] = []
    missed: list[str] = []
    for product in options.products.split(","):
        with running(product) as trial:
            for number in range(1, options.rounds + 1):
                for case in cases:
                    if product == KEEPALIVED and case.only_yaim:
                        continue
                    print(f"{product}, {number} of {options.rounds}: {case.name} ...", flush=True)
                    try:
                        outcomes[case.name, product].append(trial.see(case))
                    except LabError as error:
                        missed.append(f"{case.name}, {product}: {error}")
                        print(missed[-1], flush=True)
                    if options.json is not None:
                        options.json.write_text(json.dumps(values(outcomes), indent=2))
            if product == RESET and (wanted is None or "storm" in wanted):
                lines, missed = storms(trial)
    ordered = {
        (case.name, product): outcomes[case.name, product]
        for case in cases
        for product in PRODUCTS
        if (case.name, product) in outcomes
    }
    missed += misses(ordered)
    for line in (
        *table(ordered),
        "",
        *unmoved(ordered),
        "",
        *lines,
        *(f"MISSED: {each}" for each in missed),
    ):
        print(line)
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
