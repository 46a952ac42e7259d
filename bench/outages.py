"""The figures of docs/etcd.md: what a client of the addresses sees when something happens to etcd.

    python -m bench.outages [--rounds 3] [--only faults|rest] [--json FILE]

Three nodes, six addresses, interval 1000, etcd with three members, TLS and users; a ping to each
address every 10 ms, every node's kernel address events recorded. Each round lets every fault happen
once, in a lab for each ttl and election timeout; a fault is over when etcd is well and all
addresses are held evenly. Printed are the median, the least and the most of the rounds.

And, once: how many requests etcd gets from a node at rest, as its members count them (messages
received, so that a keepalive counts whether it comes in a stream of its own or not); how much of a
processor a coordinator takes at rest and when it cannot reach etcd; how many transactions it needs
for 300 addresses.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import yaml

from bench.figures import machine
from yaim.core.model import Address
from yaim.lab.cluster import Lab
from yaim.lab.etcd import CHANGE_PASSWORD, EtcdMember, EtcdPlan, put_in_place
from yaim.lab.namespaces import LabError, enter_private_network
from yaim.lab.network import MANAGEMENT
from yaim.lab.node import USER
from yaim.lab.plan import LabPlan, even_counts, pool_of
from yaim.lab.wait import wait_until

ETCD = EtcdPlan(members=3, is_secured=True)
TUNED = ("--heartbeat-interval=25", "--election-timeout=250")
REST_S = 60.0
MOST_REQUESTS = 1.5
"""A second and node, at rest."""
MOST_TRIES = 3
MOST_CPU = 0.01
"""The share of a processor that a coordinator may use."""
WELL_WITHIN_S = 40.0
LOOK_AFTER_S = 2.0
MANY = tuple(ip_address("2001:db8::1:0") + number for number in range(300))


@dataclass(frozen=True, slots=True)
class Outcome:
    gap_s: float
    moves: int
    overlap_s: float


Fault = Callable[[Lab], None]
"""Happens and ends."""


# --- faults ----------------------------------------------------------------------------------


def _leader(lab: Lab) -> EtcdMember:
    return lab.etcd_cluster.leader()


def _follower(lab: Lab) -> EtcdMember:
    return lab.etcd_cluster.followers()[0]


def _kill(lab: Lab, pick: Callable[[Lab], EtcdMember]) -> None:
    member = pick(lab)
    member.kill()
    time.sleep(5.0)
    member.start()


def _stop(lab: Lab, pick: Callable[[Lab], EtcdMember]) -> None:
    member = pick(lab)
    member.stop()
    time.sleep(5.0)
    member.start()


def _freeze(lab: Lab, pick: Callable[[Lab], EtcdMember]) -> None:
    """Freezes a member for less than the least ttl: what etcd does with its leases after more is a
    fault of its own."""
    member = pick(lab)
    member.freeze()
    time.sleep(2.0)
    member.thaw()


def _freeze_for_long(lab: Lab) -> None:
    leader = _leader(lab)
    leader.freeze()
    time.sleep(lab.plan.ttl_ms / 1000 + 2.0)
    leader.thaw()
    time.sleep(6.0)


def _cut(lab: Lab, pick: Callable[[Lab], EtcdMember]) -> None:
    member = pick(lab)
    member.cut_from_peers()
    time.sleep(6.0)
    member.connect()


def _restart_all(lab: Lab) -> None:
    lab.etcd_cluster.restart_one_by_one()


def _without_quorum(lab: Lab, seconds: float) -> None:
    members = lab.etcd_cluster.followers()
    for member in members:
        member.freeze()
    time.sleep(seconds)
    for member in members:
        member.thaw()


def _freeze_all(lab: Lab) -> None:
    for member in lab.members:
        member.freeze()
    time.sleep(10.0)
    for member in lab.members:
        member.thaw()


def _revoke_all(lab: Lab) -> None:
    for node in lab.nodes.values():
        node.signal(signal.SIGSTOP, "coordinator")
    lab.etcd_cluster.shell("etcdctl lease list | tail -n +2 | xargs -n 1 -P 8 etcdctl lease revoke")
    for node in lab.nodes.values():
        node.signal(signal.SIGCONT, "coordinator")
    time.sleep(7.0)


def _wipe(lab: Lab) -> None:
    lab.found_etcd_anew()
    time.sleep(2.0)


def _housekeep(lab: Lab) -> None:
    _, revision = lab.etcd.read_all(*lab.keys.all())
    lab.etcd_cluster.shell(f"etcdctl compact --physical {revision}")
    for member in lab.members:
        lab.etcd_cluster.shell("etcdctl defrag", at=member)
    time.sleep(5.0)


def _change_password(lab: Lab) -> None:
    password = f"password-{time.monotonic_ns()}"
    lab.etcd_cluster.set_password("etcd", password)
    for node in lab.nodes.values():
        put_in_place(node.directory / "etcd-password", f"{password}\n", USER)
    lab.etcd_cluster.shell(CHANGE_PASSWORD)
    time.sleep(6.0)


def _change_certificates(lab: Lab) -> None:
    cluster = lab.etcd_cluster
    old = cluster.authority
    new = cluster.new_authority(f"{old.cert.stem}-2")
    for trusted, used in (((old, new), old), ((old, new), new), ((new,), new)):
        cluster.trust(*trusted)
        cluster.certify_by(used)
        for node in lab.nodes.values():
            node.equip()
        cluster.restart_one_by_one()


def _be_slow(lab: Lab) -> None:
    for relay in lab.etcd_cluster.relays:
        relay.delay(0.5, 0.5)
    time.sleep(10.0)
    for relay in lab.etcd_cluster.relays:
        relay.restore()


def _be_silent(lab: Lab) -> None:
    for relay in lab.etcd_cluster.relays:
        relay.swallow()
        time.sleep(4.0)
        relay.restore()
        time.sleep(1.0)


kill_leader: Fault = partial(_kill, pick=_leader)
OF_LEADER: dict[str, Fault] = {
    "leader killed with -9": kill_leader,
    "leader stopped (SIGTERM)": partial(_stop, pick=_leader),
    "leader frozen for 2 s": partial(_freeze, pick=_leader),
}
OF_MEMBERS: dict[str, Fault] = {
    **OF_LEADER,
    "follower killed with -9": partial(_kill, pick=_follower),
    "follower stopped (SIGTERM)": partial(_stop, pick=_follower),
    "follower frozen for 2 s": partial(_freeze, pick=_follower),
}
OF_CUT: dict[str, Fault] = {
    "leader cut off from its peers": partial(_cut, pick=_leader),
    "follower cut off from its peers": partial(_cut, pick=_follower),
}
OTHERS: dict[str, Fault] = {
    "all restarted one after the other (SIGTERM)": _restart_all,
    **OF_CUT,
    "quorum lost for 0.5 s": partial(_without_quorum, seconds=0.5),
    "quorum lost for 10 s": partial(_without_quorum, seconds=10.0),
    "leader frozen for longer than the ttl": _freeze_for_long,
    "all frozen for 10 s": _freeze_all,
    "all leases revoked at once": _revoke_all,
    "data wiped": _wipe,
    "compaction, defragmentation": _housekeep,
    "password changed, in the files first": _change_password,
    "CA and all certificates replaced": _change_certificates,
}
ON_THE_WAY: dict[str, Fault] = {
    "each request takes 1 s, for 10 s": _be_slow,
    "each member in turn connected but silent": _be_silent,
}
RELAYED = EtcdPlan(members=3, is_secured=True, has_relays=True)
SETS: tuple[tuple[str, LabPlan, dict[str, Fault]], ...] = (
    ("ttl 3000", LabPlan(ttl_ms=3000, etcd=ETCD), OF_MEMBERS),
    (
        "ttl 3000, election timeout 250",
        LabPlan(ttl_ms=3000, etcd=EtcdPlan(members=3, is_secured=True, options=TUNED)),
        OF_LEADER,
    ),
    ("ttl 5000", LabPlan(ttl_ms=5000, etcd=ETCD), {**OF_MEMBERS, **OTHERS}),
    (
        "ttl 5000, --pre-vote",
        LabPlan(ttl_ms=5000, etcd=EtcdPlan(members=3, is_secured=True, options=("--pre-vote",))),
        OF_CUT,
    ),
    ("ttl 5000", LabPlan(ttl_ms=5000, etcd=RELAYED), ON_THE_WAY),
)


def suffer(lab: Lab, fault: Fault) -> Outcome:
    since = time.monotonic()
    fault(lab)
    wait_until(lab.etcd_cluster.is_well, WELL_WITHIN_S, "etcd to be well", lab.etcd_cluster.logs)
    counts = even_counts(len(lab.plan.pool), len(lab.nodes), len(lab.nodes))
    lab.wait_until_held(counts=counts, within_s=WELL_WITHIN_S)
    time.sleep(LOOK_AFTER_S)
    lab.record.update()
    pool, now = lab.plan.pool, time.monotonic()
    return Outcome(
        max(lab.record.longest_gap_s(address, since, now) for address in pool),
        lab.record.moves(set(pool), since, now),
        lab.overlap_s(pool, since, now),
    )


def started(lab: Lab) -> Lab:
    for node in lab.nodes.values():
        node.start()
    counts = even_counts(len(lab.plan.pool), len(lab.nodes), len(lab.nodes))
    lab.wait_until_held(counts=counts, within_s=WELL_WITHIN_S)
    time.sleep(LOOK_AFTER_S)
    return lab


def table(outcomes: dict[tuple[str, str], list[Outcome]]) -> list[str]:
    rows = ["| fault | | longest client gap | moves | overlap |", "|---|---|---|---|---|"]
    for (fault, where), each in outcomes.items():
        gaps = [outcome.gap_s for outcome in each]
        moves = [outcome.moves for outcome in each]
        overlaps = [outcome.overlap_s for outcome in each]
        rows.append(
            f"| {fault} | {where} | {_spread(gaps, 's', 2)} | {_spread(moves, '', 0)}"
            f" | {max(overlaps):.2f} s |"
        )
    return rows


def _spread(values: Sequence[float], unit: str, digits: int) -> str:
    least, most = min(values), max(values)
    text = f"{statistics.median(values):.{digits}f} {unit}".strip()
    return text if least == most else f"{text} ({least:.{digits}f} to {most:.{digits}f})"


# --- at rest ---------------------------------------------------------------------------------


def requests_a_second(pool: tuple[Address, ...]) -> tuple[float, dict[str, int]]:
    """Returns the requests a second of one node; and how many of which kind there were in all. They
    are counted again if nodes had to take new leases meanwhile: then they were not at rest."""
    with Lab(LabPlan(pool=pool, ping_every_ms=1000, etcd=ETCD)) as lab:
        started(lab)
        for _ in range(MOST_TRIES):
            before = lab.etcd_cluster.requests()
            time.sleep(REST_S)
            counted = lab.etcd_cluster.requests() - before
            if not counted["LeaseGrant"]:
                break
            print(f"not at rest: {dict(counted)}")
        return counted.total() / REST_S / len(lab.nodes), dict(counted)


def cpu_shares() -> dict[str, float]:
    """How much of a processor a coordinator takes, the one that takes most."""
    with Lab(LabPlan(ttl_ms=5000, ping_every_ms=1000, etcd=ETCD)) as lab:
        started(lab)
        shares = {"at rest": _cpu_share(lab)}
        for member in lab.members:
            member.kill()
        time.sleep(10.0)
        shares["every endpoint refuses"] = _cpu_share(lab)
        _let_vanish(lab)
        time.sleep(10.0)
        shares["every endpoint is silent"] = _cpu_share(lab)
        return shares


def _let_vanish(lab: Lab) -> None:
    """What nodes send to members: they know their MAC addresses for good, so nobody tells them
    that there is no way."""
    for member in lab.members:
        shown = member.namespace.run("ip", "-json", "link", "show", MANAGEMENT.interface)
        mac = json.loads(shown)[0]["address"]
        for node in lab.nodes.values():
            entry = (member.address, "lladdr", mac, "dev", MANAGEMENT.interface)
            node.namespace.run("ip", "neigh", "replace", *entry, "nud", "permanent")
        member.cables.cut()


def _cpu_share(lab: Lab) -> float:
    pids = [node.processes("coordinator")[0] for node in lab.nodes.values()]
    before, since = [cpu_s(pid) for pid in pids], time.monotonic()
    time.sleep(REST_S)
    spent = (cpu_s(pid) - was for pid, was in zip(pids, before, strict=True))
    return max(spent) / (time.monotonic() - since)


def cpu_s(pid: int) -> float:
    """User and system time (proc(5), /proc/pid/stat: behind the name in parentheses)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def transactions_for_many() -> dict[str, int]:
    """Returns the transactions that it takes to claim 300 addresses, and to release them."""
    plan = LabPlan(nodes=1, pool=MANY, ping_every_ms=10_000, etcd=ETCD)
    with Lab(plan) as lab:
        (node,) = lab.nodes.values()
        policy = node.directory / "helper.yml"
        limits = {"max-addresses": 1000, "commands-per-second": 1000}
        policy.write_text(yaml.safe_dump(yaml.safe_load(policy.read_text()) | limits))
        start = lab.etcd_cluster.requests()
        node.start()
        lab.wait_until_held(within_s=WELL_WITHIN_S)
        held = lab.etcd_cluster.requests()
        node.stop()
        stopped = lab.etcd_cluster.requests()
    return {
        "start: advertised, 300 addresses claimed": (held - start)["Txn"],
        "stop: 300 addresses released, advertisement withdrawn": (stopped - held)["Txn"],
    }


# --- all of it -------------------------------------------------------------------------------


def faults(rounds: int) -> dict[tuple[str, str], list[Outcome]]:
    outcomes: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for where, plan, kinds in SETS:
            print(f"round {number} of {rounds}, {where} ...", flush=True)
            with Lab(plan) as lab:
                started(lab)
                for name, fault in kinds.items():
                    try:
                        outcomes[name, where].append(suffer(lab, fault))
                    except LabError as error:
                        raise LabError(f"{name}: {error}") from error
    return outcomes


def rest() -> tuple[dict[str, object], bool]:
    """The figures, and whether they are as they should be."""
    found: dict[str, object] = {}
    is_good = True
    for count in (3, 30):
        a_second, kinds = requests_a_second(pool_of(count))
        print(f"\n{count} addresses: {a_second:.2f} requests a second and node; {kinds}")
        is_good = is_good and a_second <= MOST_REQUESTS
        found[f"requests, {count} addresses"] = a_second
    for when, share in cpu_shares().items():
        print(f"coordinator, {when}: {share:.2%} of a processor")
        is_good = is_good and share < MOST_CPU
        found[f"cpu, {when}"] = share
    for what, transactions in transactions_for_many().items():
        print(f"{what}: {transactions} transactions")
        found[what] = transactions
    return found, is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("faults", "rest"))
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    enter_private_network()
    for line in machine():
        print(line)
    found: dict[str, object] = {}
    is_good = True
    if options.only != "rest":
        outcomes = faults(options.rounds)
        for line in table(outcomes):
            print(line)
        is_good = not any(each.overlap_s for every in outcomes.values() for each in every)
        for (fault, where), each in outcomes.items():
            found[f"{fault}; {where}"] = [(o.gap_s, o.moves, o.overlap_s) for o in each]
    if options.only != "faults":
        figures, is_as_bounded = rest()
        found |= figures
        is_good = is_good and is_as_bounded
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
