"""Many addresses on a real cluster. IPv6, of which a network has enough; pinged once, as the
pings of a thousand would take more than what is looked at."""

from ipaddress import ip_address

import pytest

from tests.system.conftest import Build
from yaim.core.model import Address
from yaim.lab.plan import LabPlan
from yaim.lab.wait import wait_until

POOL: tuple[Address, ...] = tuple(ip_address("2001:db8::1:0") + number for number in range(1000))


@pytest.mark.alone
def test_a_thousand_addresses_are_held_soon_after_the_start_and_shared_with_those_that_join(
    build: Build,
) -> None:
    """The first node is given all of them. When others joined, a placement that took longer than a
    lease lives cost it what it had, again and again."""
    lab = build(LabPlan(nodes=4, pool=POOL, ttl_ms=5000, ping_every_ms=60_000))
    first, *others = lab.nodes.values()
    first.start()
    lab.wait_until_held(within_s=60.0)
    for node in others:
        node.start()
    wait_until(
        lambda: lab.is_held(POOL) and lab.counts() == [250] * 4, 60.0, "all to share", lab.logs
    )
    first.stop()
    lab.wait_until_held(by=[node.name for node in others], within_s=60.0)
    logs = [(node.directory / "log").read_text() for node in lab.nodes.values()]
    for sign in ("the lease is not kept", "its deadline has passed", "etcd has lost our lease"):
        assert not any(sign in log for log in logs)
