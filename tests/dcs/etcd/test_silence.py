"""What a silence of etcd costs a node, with and without a fence in its kernel: the real core and
store, a real etcd, and a helper that does everything at once."""

import signal
from ipaddress import ip_address

from tests.dcs.etcd.conftest import EtcdServer
from tests.dcs.etcd.false_etcd import TrustingNode
from yaim.core.deadline import SILENCE_S
from yaim.core.events import HAS_NO_FENCE
from yaim.core.model import Fence
from yaim.dcs.etcd.keys import Keys
from yaim.host.boottime import boottime

A = ip_address("192.0.2.10")
TTL_S = 3
ROUNDS = 4
"""What is left of the lease then is 0.2 s, and this machine may be busy for as long."""


def run_until_the_next_keepalive(node: TrustingNode) -> None:
    """Until just before it: the last one is as old as it gets, so a silence that begins now is the
    worst."""
    node.run(20.0, lambda node: node.state.lease.retry.due > boottime() + 0.1)
    node.run(node.state.lease.retry.due - boottime() - 0.03)
    assert not node.state.lease.retry.is_pending


def is_survived(etcd: EtcdServer, keys: Keys, fence: Fence, rounds: int) -> bool:
    """Whether one of so many silences of etcd costs the node nothing."""
    etcd.ctl("put", f"{keys.prefix}ips/{A}", "")
    node = TrustingNode(etcd.url, keys, ttl_s=TTL_S, fence=fence)
    is_kept = False
    for _ in range(rounds):
        node.run(20.0, lambda node: A in node.deadlines)
        assert A in node.deadlines, node.reports
        node.run(1.0)
        run_until_the_next_keepalive(node)
        node.reports.clear()
        etcd.signal(signal.SIGSTOP)
        node.run(SILENCE_S)
        etcd.signal(signal.SIGCONT)
        node.run(1.0)
        if not node.has_reported(f"removes {A}"):
            assert A in node.deadlines, node.reports
            is_kept = True
            break
    node.close()
    return is_kept


def test_with_a_fence_a_silence_of_etcd_of_2_5_s_costs_no_address(
    etcd: EtcdServer, keys: Keys
) -> None:
    assert is_survived(etcd, keys, Fence(True), ROUNDS)


def test_without_a_fence_it_costs_all_of_them(etcd: EtcdServer, keys: Keys) -> None:
    """The kernel may be late: what is reserved for that is not there for etcd."""
    assert not is_survived(etcd, keys, HAS_NO_FENCE, rounds=1)
