"""Many addresses on a real cluster. IPv6, of which a network has enough; pinged once, as the
pings of hundreds would take more than what is looked at."""

from ipaddress import ip_address

from tests.system.conftest import Build
from yaim.core.model import Address
from yaim.lab.cluster import LabPlan
from yaim.lab.wait import wait_until

POOL: tuple[Address, ...] = tuple(ip_address("2001:db8::1:0") + number for number in range(500))


def test_five_hundred_addresses_are_held_soon_after_the_start_and_shared_with_who_joins(
    build: Build,
) -> None:
    """The first node is given all of them. When the second joined, a placement that took longer
    than a lease lives cost the first one all it had."""
    lab = build(LabPlan(nodes=2, pool=POOL, ttl_ms=5000, ping_every_ms=60_000))
    first, second = lab.nodes.values()
    first.start()
    lab.wait_until_held(within_s=20.0)
    second.start()
    wait_until(lambda: lab.is_held(POOL) and lab.counts() == [250, 250], 20.0, "both to share")
    gone = [change for change in lab.record.changes if not change.is_there]
    assert len(gone) == 250
    assert {change.node for change in gone} == {first.name}
    assert "our lease is not kept" not in lab.logs()
    first.stop()
    lab.wait_until_held(by=[second.name], within_s=20.0)
