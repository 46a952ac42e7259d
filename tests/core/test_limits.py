"""A helper that takes no more addresses: what is left to others, and when it is taken."""

from dataclasses import replace
from ipaddress import ip_address

from tests.core.play import (
    LEASE,
    ME,
    NETWORKS,
    POOL,
    SESSION,
    full,
    helper_ready,
    mark,
    next_claim,
    node,
    refuse,
    started,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
)
from yaim.core.events import (
    AddressAdded,
    AddressesObserved,
    AddressGone,
    AddressOnInterface,
    AddressRefused,
    ClusterChanged,
    Event,
    HelperReady,
    MarksClaimed,
)
from yaim.core.model import (
    Place,
    Revision,
)
from yaim.core.refusals import (
    Cause,
)


def test_what_a_limit_keeps_away_is_taken_when_there_are_places() -> None:
    """16 addresses stayed unheld for an hour with 34 of 64 places in use."""
    play = full()
    seen = play.state.cluster.view
    assert seen is not None
    rest = tuple(seen.pool.keys() - {POOL[0]})
    changed = ClusterChanged(replace(seen, revision=Revision(50), pool=view(1, rest).pool))
    play.settle(play.tell(changed))
    assert len(play.state.held) == 4 and POOL[0] not in play.state.held
    assert len(play.state.refusals.too_many) == 1


def test_a_full_node_says_so_of_an_address_that_joins_the_pool_and_asks_no_helper() -> None:
    play = full()
    seen = play.state.cluster.view
    assert seen is not None
    more = ip_address("192.0.2.99")
    grown = replace(seen, revision=Revision(50), pool=view(1, (*POOL, more)).pool)
    (write,) = play.tell(ClusterChanged(grown))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.refused == {*POOL[4:], more}


def test_a_limit_that_was_raised_is_found_out_one_by_one_where_addresses_are_unheld() -> None:
    play = full()
    claim = next_claim(play, 10.0)
    assert claim is not None and claim.addresses == POOL[4:5]
    refuse(play, Cause.LIMIT, claim, takes=1)
    assert set(play.state.held) == set(POOL)


def test_an_address_of_anothers_that_goes_is_a_place() -> None:
    play = full()
    play.tell(AddressGone(ip_address("203.0.113.9")))
    assert len(play.state.refusals.too_many) == 2
    play.tell(AddressGone(ip_address("192.0.2.77")))
    assert len(play.state.refusals.too_many) == 1


def test_an_address_of_the_hosts_own_that_goes_is_no_place() -> None:
    """The helper had none for it. The node took one address too many, and gave it back."""
    play = full()
    own, place = ip_address("192.0.2.77"), Place("eth0", 24)
    play.tell(AddressesObserved({own: (place,)}))
    play.tell(AddressGone(own, place))
    assert len(play.state.refusals.too_many) == 2
    play.tell(AddressesObserved({}))
    play.tell(AddressGone(own, Place("eth0", 32)))
    assert len(play.state.refusals.too_many) == 1


def test_of_what_was_removed_for_us_that_it_has_gone_is_no_further_place() -> None:
    """The kernel's word may come after the helper's, and after the release. It was taken for one of
    another cluster's: the node took one more than there was a place for, and gave it back."""
    play = full()
    seen = play.state.cluster.view
    assert seen is not None
    gone = play.state.held[0]
    rest = tuple(a for a in POOL if a != gone)
    play.settle(
        play.tell(ClusterChanged(replace(seen, revision=Revision(50), pool=view(1, rest).pool)))
    )
    assert gone not in play.state.addresses.known
    assert len(play.state.held) == 4 and len(play.state.refusals.too_many) == 1
    play.tell(AddressGone(gone))
    assert len(play.state.refusals.too_many) == 1
    play.tell(AddressGone(gone))
    assert not play.state.refusals.too_many


def test_a_node_that_holds_few_again_forgets_the_limit() -> None:
    play = full()
    seen = play.state.cluster.view
    assert seen is not None
    small = replace(seen, revision=Revision(50), pool=view(1, POOL[:2]).pool)
    play.settle(play.tell(ClusterChanged(small)))
    assert play.state.refusals.most is None


def test_a_helper_of_the_same_rules_is_as_full_after_a_restart() -> None:
    """Otherwise each restart would move addresses here and back again."""
    play = full()
    held = tuple(AddressOnInterface(a, play.deadline()) for a in play.state.held)
    play.tell(helper_ready(*held))
    assert len(play.state.refusals.too_many) == 2
    wider = (("eth0", NETWORKS["eth0"]), ("eth1", NETWORKS["eth0"]))
    play.tell(HelperReady(SESSION, wider, held))
    assert not play.state.refusals.too_many


def test_a_limit_that_was_raised_is_found_out_while_something_else_is_refused() -> None:
    play = started()
    (claim,) = play.tell(ClusterChanged(view(3, POOL, (node(ME, LEASE, 2),))))
    assert isinstance(claim, ClaimMarks)
    marks = tuple(mark(each, 4) for each in claim.addresses)
    adds = play.tell(MarksClaimed(claim.request, marks, frozenset(), Revision(4)))
    events: list[Event] = []
    for number, add in enumerate(adds):
        assert isinstance(add, AddAddress)
        cause = Cause.LIMIT if number else Cause.NOT_ALLOWED
        no = AddressRefused(add.request, add.address, "no", cause)
        events.append(AddressAdded(add.request, add.address) if 0 < number < 4 else no)
    play.settle(play.tell(*events))
    assert set(play.state.refusals.refused) == {POOL[0]} and play.state.refusals.too_many == set(
        POOL[4:]
    )
    tried = next_claim(play, 10.0)
    assert tried is not None and tried.addresses == (POOL[0], POOL[4])
