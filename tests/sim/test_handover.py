"""Hand-overs in the model etcd, each guard alone; and how long an address is on no node."""

from dataclasses import dataclass, replace

import pytest

from tests.sim.etcd import ModelEtcd
from tests.sim.orders import drain, nothing_more
from tests.sim.test_sim import calm
from tests.sim.timeline import Timeline, address
from tests.sim.world import World
from yaim.core.actions import AdvertiseNode, ClaimMarks, GrantLease, Heir, ReleaseMarks
from yaim.core.events import LeaseKept, MarksReleased, NodeAdvertised
from yaim.core.model import (
    Advertisement,
    Boottime,
    LeaseId,
    Mark,
    Node,
    NodeName,
    PoolEntry,
    Revision,
    frozen_mapping,
)

pytestmark = pytest.mark.quick

GIVER, HEIR = NodeName("n1"), NodeName("n2")
IT = address(10)
NOW = Boottime(0.0)
TOLD = Advertisement(True, "", "eth0", frozen_mapping({}), frozenset(), "", "")


@dataclass
class Two:
    """Two nodes, and an address that the first one has marked."""

    etcd: ModelEtcd
    giver: Node
    heir: Node

    @property
    def mark(self) -> Mark:
        return self.etcd.marks[IT]

    def order(self, mark: Mark) -> ReleaseMarks:
        """To hand this mark over, as all is now."""
        heir = Heir(HEIR, self.heir.lease)
        return ReleaseMarks(9, (mark,), self.giver.revision, frozen_mapping({IT: heir}))

    def advertise(self, node: Node) -> Node:
        """It writes its advertisement anew."""
        told = replace(node.advertisement, reason=f"{node.advertisement.reason}.")
        action = AdvertiseNode(8, told, node.lease, node.revision, ())
        answer = self.etcd.do(action, node.name, NOW)
        assert isinstance(answer, NodeAdvertised)
        return answer.node

    def do(self, action: ReleaseMarks) -> MarksReleased:
        answer = self.etcd.do(action, GIVER, NOW)
        assert isinstance(answer, MarksReleased)
        return answer


@pytest.fixture
def two() -> Two:
    etcd = ModelEtcd(Timeline(is_told=False), 2, *[lambda *_: None] * 4)
    etcd.put_entry(PoolEntry(IT))
    nodes = []
    for name in (GIVER, HEIR):
        lease = etcd.do(GrantLease(60), name, NOW)
        assert isinstance(lease, LeaseKept)
        answer = etcd.do(AdvertiseNode(1, TOLD, lease.lease, Revision(0), ()), name, NOW)
        assert isinstance(answer, NodeAdvertised)
        nodes.append(answer.node)
    giver, heir = nodes
    etcd.do(ClaimMarks(2, (IT,), giver.lease, giver.revision), GIVER, NOW)
    return Two(etcd, giver, heir)


def test_a_mark_is_the_heirs_and_under_its_lease_from_one_revision_on(two: Two) -> None:
    answer = two.do(two.order(two.mark))
    assert answer.addresses == {IT} and answer.handed == (two.mark,)
    expected = Mark(IT, HEIR, two.heir.lease, answer.revision, version=2)
    assert two.mark == expected


def test_a_second_hand_over_of_the_same_mark_does_nothing(two: Two) -> None:
    order = two.order(two.mark)
    two.do(order)
    after = two.mark
    assert two.do(order).addresses == frozenset()
    assert two.mark == after


def test_a_giver_that_has_advertised_itself_anew_hands_nothing_over(two: Two) -> None:
    """Its new life may use the mark by now."""
    order, before = two.order(two.mark), two.mark
    two.giver = two.advertise(two.giver)
    assert two.do(order).addresses == frozenset()
    assert two.mark == before


def test_an_heir_that_has_advertised_itself_anew_under_its_lease_gets_it(two: Two) -> None:
    order = two.order(two.mark)
    two.heir = two.advertise(two.heir)
    assert two.do(order).handed == (two.mark,)
    assert two.mark.lease == two.heir.lease


def test_what_was_to_go_to_an_heir_without_its_lease_is_free(two: Two) -> None:
    order = two.order(two.mark)
    two.etcd.lose_leases(two.heir.lease)
    assert not two.do(order).handed
    assert IT not in two.etcd.marks


def test_nothing_is_put_under_a_lease_that_is_not_the_heirs(two: Two) -> None:
    order = two.order(two.mark)
    other = replace(order.heirs[IT], lease=LeaseId(two.giver.lease))
    assert not two.do(replace(order, heirs=frozen_mapping({IT: other}))).handed
    assert IT not in two.etcd.marks


def test_a_mark_that_somebody_has_covered_is_not_handed_over(two: Two) -> None:
    order = two.order(two.mark)
    two.etcd.put_mark(IT)
    assert two.do(order).addresses == frozenset()
    assert two.etcd.stray_marks[IT].is_over_another


@pytest.mark.parametrize("is_fenced", [True, False])
def test_what_a_drained_node_had_is_on_no_node_for_30_ms_at_most(is_fenced: bool) -> None:
    """In a calm world, where a request takes up to 5 ms each way, and the helper up to 4 ms; a
    keepalive may have to come first where there is no fence."""
    fenced = frozenset({1, 2, 3}) if is_fenced else frozenset[int]()
    world = World(replace(calm(nodes=3, addresses=1), fenced=fenced))
    world.timeline.run(4.0)
    for _ in range(20):
        ((_, (name,)),) = world.checker.holders().items()
        world.command(drain(name))
        world.timeline.run(world.timeline.now + 0.5)
        ((_, (other,)),) = world.checker.holders().items()
        assert other != name
        world.command(nothing_more(world.etcd.view().control))
        world.timeline.run(world.timeline.now + 0.77)
    gaps = world.checker.gaps[-20:]
    assert len(gaps) == 20 and max(gaps) < (0.03 if is_fenced else 0.045)
