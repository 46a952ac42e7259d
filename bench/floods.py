"""What floods from etcd cost a coordinator: memory, processor, and how late it acts.

    python -m bench.floods [--rounds 3] [--json FILE]

A lab with one real node, the victim. Then somebody who may write below its prefix does so: puts to
a key that means nothing, as fast as 16 writers can; 8000 entries that are no addresses; a pool of
1006 addresses and 49 more nodes that are advertised. Meanwhile an address joins the pool each
second: how long until the victim has marked it. Printed are the medians over the rounds, with the
least and the most. The exit status is 1 if an address was lost or not taken.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from os import sysconf
from pathlib import Path

import etcd3.etcdrpc as rpc

from bench.figures import machine
from bench.placement import name, node
from yaim.core.model import Address
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.records import write_advertisement
from yaim.lab.cluster import Lab
from yaim.lab.namespaces import LabError, enter_private_network
from yaim.lab.plan import LabPlan, pool_of

HELD, JOINING = 2, 6
"""Addresses that the victim has, and that join."""
JOIN_EVERY_S = 1.0
TAKEN_WITHIN_S = 30.0
WRONG_KEYS, ENTRIES, NODES = 8000, 1006, 50
FIRST = ip_address("10.0.0.1")
"""The first of the addresses that the victim's helper does not allow: others are to hold them."""
LEASE_S = 600
WRITERS, AT_ONCE = 16, 100
"""The threads that write the unrelated puts; and the puts in one transaction of all others."""
Figures = defaultdict[tuple[str, str], list[float]]
Flood = Callable[[Lab, EtcdClient], Iterator[None]]
"""Each part of it is a write."""


def nothing(_lab: Lab, _client: EtcdClient) -> Iterator[None]:
    while True:
        time.sleep(0.1)
        yield


def unrelated(lab: Lab, client: EtcdClient) -> Iterator[None]:
    while True:
        client.put(f"{lab.keys.prefix}nobodys".encode(), b"x")
        yield


def wrong_keys(lab: Lab, client: EtcdClient) -> Iterator[None]:
    keys = [f"{lab.keys.prefix}ips/wrong-{number}".encode() for number in range(WRONG_KEYS)]
    yield from put_together(client, keys)


def many(lab: Lab, client: EtcdClient) -> Iterator[None]:
    lease = client.grant(LEASE_S).id
    for number in range(2, NODES + 1):
        put = rpc.RequestOp()
        put.request_put.key = lab.keys.node(name(number))
        put.request_put.value = write_advertisement(node(number).advertisement)
        put.request_put.lease = lease
        client.transact(rpc.TxnRequest(success=[put]))
        yield
    yield from put_together(client, [lab.keys.pool_entry(FIRST + n) for n in range(ENTRIES)])


def put_together(client: EtcdClient, keys: list[bytes]) -> Iterator[None]:
    for start in range(0, len(keys), AT_ONCE):
        request = rpc.TxnRequest()
        for key in keys[start : start + AT_ONCE]:
            request.success.add().request_put.key = key
        client.transact(request)
        yield


FLOODS: dict[str, Flood] = {
    "nothing": nothing,
    "puts to an unrelated key": unrelated,
    f"{WRONG_KEYS} wrong keys": wrong_keys,
    f"{ENTRIES} entries, {NODES} nodes": many,
}


class Writer:
    """Floods, in threads of its own, until it is told to stop or all is written."""

    def __init__(self, lab: Lab, flood: Flood) -> None:
        self._client = EtcdClient(lab.etcd_cluster.access(), 5.0)
        self._is_over = threading.Event()
        self.count = 0
        self._threads = [
            threading.Thread(target=self._work, args=(flood(lab, self._client),), daemon=True)
            for _ in range(WRITERS if flood is unrelated else 1)
        ]
        for each in self._threads:
            each.start()

    def _work(self, parts: Iterator[None]) -> None:
        for _ in parts:
            self.count += 1
            if self._is_over.is_set():
                return

    def stop(self) -> None:
        self._is_over.set()
        for each in self._threads:
            each.join()
        self._client.close()


def has_mark(lab: Lab, address: Address) -> bool:
    key = lab.keys.mark(address)
    return bool(lab.etcd.read_all(key, key + b"\0")[0])


def taken_after_s(lab: Lab, address: Address) -> float:
    began = time.monotonic()
    lab.put(address)
    while not has_mark(lab, address):
        if time.monotonic() > began + TAKEN_WITHIN_S:
            return TAKEN_WITHIN_S
        time.sleep(0.005)
    return time.monotonic() - began


def status_kb(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def processor_s(pid: int) -> float:
    """Used so far (proc(5), stat: utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / sysconf("SC_CLK_TCK")


def measure(figures: Figures, what: str, flood: Flood) -> bool:
    """Whether nothing was lost and all was taken."""
    addresses = pool_of(HELD + JOINING)
    plan = LabPlan(nodes=1, pool=addresses[:HELD], others=addresses[HELD:], ping_every_ms=20_000)
    with Lab(plan) as lab:
        victim = lab.nodes["n1"]
        victim.start()
        lab.wait_until_held()
        (pid,) = victim.processes("coordinator")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
        began, used_s = time.monotonic(), processor_s(pid)
        writer = Writer(lab, flood)
        taken_s = []
        for address in plan.others:
            time.sleep(JOIN_EVERY_S)
            taken_s.append(taken_after_s(lab, address))
            if taken_s[-1] >= TAKEN_WITHIN_S:
                break
        took_s = time.monotonic() - began
        is_same = victim.processes("coordinator") == [pid]
        figures[what, "MB, most"].append(status_kb(pid, "VmHWM") / 1024)
        figures[what, "% of a processor"].append((processor_s(pid) - used_s) / took_s * 100)
        figures[what, "writes a second"].append(writer.count / took_s)
        figures[what, "ms until taken"].append(statistics.median(taken_s) * 1000)
        figures[what, "ms until taken, most"].append(max(taken_s) * 1000)
        writer.stop()
        lab.record.update()
        lost = [each for each in lab.record.changes if not each.is_there]
    if lost or not is_same:
        print(f"{what}: {len(lost)} addresses were lost, the coordinator ended: {not is_same}")
    return not lost and is_same and max(taken_s) < TAKEN_WITHIN_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all values to this file, too")
    options = parser.parse_args()
    enter_private_network()
    for line in machine():
        print(line)
    figures: Figures = defaultdict(list)
    is_good = True
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds} ...", flush=True)
        for what, flood in FLOODS.items():
            is_good = measure(figures, what, flood) and is_good
    print(f"\n{'':50}  {'median':>9}  {'least':>8}  {'most':>8}")
    for (what, unit), values in figures.items():
        row = [f"{each:.0f}" for each in (statistics.median(values), min(values), max(values))]
        print(f"{f'{what}: {unit}':50}  {row[0]:>9}  {row[1]:>8}  {row[2]:>8}")
    if options.json is not None:
        named = {f"{what}: {unit}": values for (what, unit), values in figures.items()}
        options.json.write_text(json.dumps(named, indent=2))
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"bench: {error}")
