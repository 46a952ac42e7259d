"""What somebody else puts below a cluster's prefix: real etcd, helpers and kernels, in a lab."""

import json
from collections.abc import Iterator
from ipaddress import ip_address

import etcd3.etcdrpc as rpc
import pytest

from tests.system.watch import Watch, yaim_status
from yaim.core.model import Address, NodeName
from yaim.lab.cluster import Lab
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until

SPREAD = [2, 2, 2]
FLOOD_S = 6.0
"""Longer than the ttl: what costs keepalives would show."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(LabPlan(ttl_ms=5000, pool=pool_of(6))) as lab:
        for node in lab.nodes.values():
            node.start()
        lab.wait_until_held(counts=SPREAD)
        yield lab


def put_many(lab: Lab, below: str, numbers: range) -> None:
    puts = []
    for number in numbers:
        put = rpc.RequestOp()
        put.request_put.key = f"{lab.keys.prefix}{below}{number}".encode()
        puts.append(put)
    lab.etcd.transact(rpc.TxnRequest(success=puts))


def delete_all(lab: Lab, below: str) -> None:
    start = f"{lab.keys.prefix}{below}".encode()
    delete = rpc.RequestOp()
    delete.request_delete_range.key = start
    delete.request_delete_range.range_end = start[:-1] + bytes([start[-1] + 1])
    lab.etcd.transact(rpc.TxnRequest(success=[delete]))


def test_a_copy_of_a_nodes_advertisement_costs_it_neither_its_lease_nor_its_addresses(
    lab: Lab,
) -> None:
    """One key made a node dead, and "healthy": it adopted the lease of the copy."""
    name, watch = NodeName("n1"), Watch(lab)
    key, lease = lab.keys.node(name), lab.view().nodes[name].lease
    told = lab.etcd.read_all(*lab.keys.all())[0][key].value

    def is_its_own_again() -> bool:
        node = lab.view().nodes.get(name)
        return node is not None and node.lease == lease

    for under in (lab.etcd.grant(1_000_000).id, lab.etcd.grant(5).id, 0):
        lab.etcd.put(key, told, under)
        wait_until(is_its_own_again, 20.0, "n1 to advertise itself again", lab.logs)
        lab.wait_until_held(counts=SPREAD)
    assert watch.overlap_s == 0.0, watch.told()


def marked_under_a_lease(lab: Lab, address: Address) -> bool:
    mark = lab.etcd.read_all(*lab.keys.all())[0].get(lab.keys.mark(address))
    return mark is not None and mark.lease != 0


def test_what_has_no_lease_holds_no_address_for_ever(lab: Lab) -> None:
    """A node that there is not took its share, and a mark blocked its address. One that was put
    over a holder's people delete, when no node has the address."""
    watch = Watch(lab)
    held, free = lab.plan.pool[0], ip_address("192.0.2.250")
    stray = lab.keys.node(NodeName("zz"))
    told = lab.etcd.read_all(*lab.keys.all())[0][lab.keys.node(NodeName("n1"))].value
    lab.etcd.put(stray, told)
    lab.etcd.put(lab.keys.mark(held), b"nobody")
    lab.etcd.put(lab.keys.mark(free), b"nobody")
    lab.etcd.put(lab.keys.pool_entry(free), b"")
    status = yaim_status()
    assert status.returncode == 1
    assert f"{stray.decode()} " in status.stdout and "delete it" in status.stdout
    wait_until(lambda: held not in lab.holders(), 20.0, f"{held} to be given up", lab.logs)
    wait_until(lambda: marked_under_a_lease(lab, free), 60.0, f"{free} to be claimed", lab.logs)
    lab.etcd.delete(lab.keys.pool_entry(free))
    assert held not in lab.holders()
    assert "delete it when no node has the address" in yaim_status().stdout
    lab.etcd.delete(lab.keys.mark(held))
    lab.wait_until_held(counts=SPREAD)
    lab.etcd.delete(stray)
    assert yaim_status().returncode == 0
    assert watch.overlap_s == 0.0, watch.told()


@pytest.mark.alone
def test_nobody_notices_a_flood_of_wrong_and_of_unrelated_keys(lab: Lab) -> None:
    """8000 wrong ones cost each node 2.6 s for each view, and all addresses."""
    watch = Watch(lab)
    try:
        for start in range(0, 8000, 100):
            put_many(lab, "ips/x", range(start, start + 100))
        for number in range(500):
            lab.etcd.put(f"{lab.keys.prefix}control/x".encode(), str(number).encode())
        for number in range(50):
            lab.etcd.put(f"{lab.keys.prefix}ips/x{number}".encode(), b"another mistake")
        watch.look_on(FLOOD_S)
        assert len(json.loads(yaim_status("--json").stdout)["wrong_entries"]) == 8000
        assert watch.is_unnoticed(), watch.told()
    finally:
        delete_all(lab, "ips/x")
    lab.wait_until_held(counts=SPREAD)
