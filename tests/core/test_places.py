"""Where on its host an address is, and where its entry and our settings have it."""

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    SESSION,
    TTL_S,
    A,
    Play,
    advertisement,
    mark,
    node,
    settings,
)
from yaim.core import placement_v1
from yaim.core.actions import (
    Action,
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    GrantLease,
    KeepLease,
    Level,
    ReadCluster,
    ReleaseMarks,
    RemoveAddress,
)
from yaim.core.allowlist import Rule, forbidden
from yaim.core.events import (
    AddressAdded,
    AddressFailed,
    AddressGone,
    AddressOnInterface,
    AddressRefused,
    AddressRemoved,
    ClusterChanged,
    ClusterRead,
    HelperReady,
    LeaseKept,
    LinksObserved,
    MarksClaimed,
    NodeAdvertised,
    SettingsChanged,
)
from yaim.core.links import networks_by_all_names
from yaim.core.model import (
    Address,
    Advertisement,
    Boottime,
    ClusterView,
    LeaseId,
    Node,
    NodeName,
    Place,
    PoolEntry,
    Revision,
    frozen_mapping,
)
from yaim.core.placement import place
from yaim.core.refusals import Cause
from yaim.core.state.addresses import MOVE_RETRY_S, Phase

NET = ip_network("192.0.2.0/24")
NETWORKS = frozen_mapping({"eth0": (NET,), "eth1": (NET,)})
BOTH_UP = LinksObserved(frozenset({"eth0", "eth1"}))
ETH0, ETH1 = Place("eth0", 32), Place("eth1", 32)
PLAIN = PoolEntry(A)
TYPO = PoolEntry(A, fault="its value is neither empty nor a JSON object")


def wide(is_healthy: bool = True) -> Advertisement:
    return replace(advertisement(is_healthy), networks=NETWORKS)


def me(revision: int = 2) -> Node:
    return replace(node(ME, LEASE, revision), advertisement=wide())


def view(revision: int, entry: PoolEntry, *others: Node, is_marked: bool = True) -> ClusterView:
    return ClusterView(
        Revision(revision),
        frozen_mapping({entry.address: entry}),
        frozen_mapping({each.name: each for each in (me(), *others)}),
        frozen_mapping({A: mark(A, 4)} if is_marked else {}),
    )


def ready(*on_interface: tuple[Address, Place]) -> HelperReady:
    held = tuple(AddressOnInterface(a, Boottime(1e6)) for a, _ in on_interface)
    places = frozen_mapping(dict(on_interface))
    return HelperReady(SESSION, tuple(NETWORKS.items()), held, places=places)


def holding(entry: PoolEntry = PLAIN) -> Play:
    """A node with two interfaces, on the first of which it holds A."""
    play = Play()
    play.tell(BOTH_UP)
    play.tell(ready(), ClusterRead(ClusterView(Revision(1))), play.healthy())
    # Nothing here has to wait for a keepalive.
    play.tell(LeaseKept(LEASE, 300, Boottime(play.now)))
    play.tell(NodeAdvertised(play.state.next_request - 1, me()))
    (claim,) = play.tell(ClusterChanged(view(3, entry, is_marked=False)))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert isinstance(add, AddAddress)
    play.tell(AddressAdded(add.request, A))
    play.now += 0.2
    return play


def only_add(actions: list[Action]) -> AddAddress:
    (add,) = [each for each in actions if not isinstance(each, KeepLease | ReadCluster)]
    assert isinstance(add, AddAddress)
    return add


def where(add: AddAddress) -> Place:
    return Place(add.interface, add.prefix_length)


# --- what should be elsewhere ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "to"),
    [
        (PoolEntry(A, interface="eth1"), ETH1),
        (PoolEntry(A, prefix_length=24), Place("eth0", 24)),
        (PoolEntry(A, interface="eth1", prefix_length=24), Place("eth1", 24)),
    ],
)
def test_a_held_address_goes_to_where_its_changed_entry_has_it(entry: PoolEntry, to: Place) -> None:
    play = holding()
    add = only_add(play.tell(ClusterChanged(view(5, entry))))
    assert where(add) == to
    # The kernel tells that it has left the one place, perhaps when it is at the other already.
    assert play.tell(AddressGone(A, ETH0), AddressAdded(add.request, A), AddressGone(A, ETH0)) == []
    assert play.state.addresses.known[A].place == to
    assert play.said(Level.INFO)[-1] == f"holds {A} on {to}; it was on {ETH0}"
    assert play.after(0.2) == []
    assert only_add(play.tell(AddressGone(A, to))).interface == to.interface


@pytest.mark.parametrize(
    ("change", "to"), [({"prefix_length_4": 24}, Place("eth0", 24)), ({"interface": "eth1"}, ETH1)]
)
def test_a_held_address_goes_to_where_sighup_has_it(change: dict[str, object], to: Place) -> None:
    play = holding()
    actions = play.tell(SettingsChanged(replace(settings(), **change)))  # type: ignore[arg-type]
    adds = [each for each in actions if isinstance(each, AddAddress)]
    assert [where(each) for each in adds] == [to]


def test_a_restart_with_another_interface_moves_what_an_earlier_life_has_left() -> None:
    play = Play()
    play.tell(BOTH_UP)
    play.tell(SettingsChanged(replace(settings(), interface="eth1")))
    play.tell(ready((A, ETH0)), ClusterRead(view(7, PoolEntry(A))))
    (write,) = play.tell(play.kept(), play.healthy())
    assert isinstance(write, AdvertiseNode)
    play.tell(NodeAdvertised(write.request, me(8)))
    seen = replace(view(8, PoolEntry(A)), nodes=frozen_mapping({ME: me(8)}))
    assert where(only_add(play.tell(ClusterRead(seen)))) == ETH1


def test_an_address_leaves_a_dead_link_that_its_entry_does_not_name() -> None:
    """The entry says eth1, the address is on eth0 and cannot be moved, eth0 goes down."""
    play = holding()
    add = only_add(play.tell(ClusterChanged(view(5, PoolEntry(A, interface="eth1")))))
    again = only_add(
        play.tell(AddressRefused(add.request, A, "no rule allows it", Cause.NOT_ALLOWED))
    )
    assert where(again) == ETH0
    play.tell(AddressAdded(again.request, A))
    actions = play.tell(LinksObserved(frozenset({"eth1"})))
    (remove,) = [each for each in actions if isinstance(each, RemoveAddress)]
    # Now nothing is lost by trying once more.
    last = only_add(play.tell(AddressRemoved(remove.request, A)))
    assert where(last) == ETH1
    play.tell(AddressRefused(last.request, A, "no rule allows it", Cause.NOT_ALLOWED))
    assert A in play.state.refusals.refused


def test_an_address_stays_where_its_link_is_up_as_long_as_the_other_is_down() -> None:
    play = holding()
    play.tell(LinksObserved(frozenset({"eth0"})))
    actions = play.tell(ClusterChanged(view(5, PoolEntry(A, interface="eth1"))))
    assert not [each for each in actions if isinstance(each, AddAddress | RemoveAddress)]
    assert where(only_add(play.tell(BOTH_UP))) == ETH1


@pytest.mark.parametrize("how", ["refused", "failed"])
def test_what_cannot_be_put_elsewhere_stays_and_is_tried_again_later(how: str) -> None:
    play = holding()
    to = Place("eth0", 24)
    add = only_add(play.tell(ClusterChanged(view(5, PoolEntry(A, prefix_length=24)))))
    why = "no rule allows 192.0.2.10/24 on eth0"
    refused = AddressRefused(add.request, A, why, Cause.NOT_ALLOWED)
    event = refused if how == "refused" else AddressFailed(add.request, A, why)
    again = only_add(play.tell(event))
    assert where(again) == ETH0
    play.tell(AddressAdded(again.request, A))
    assert play.state.refusals.refused == {}
    assert play.said(Level.ERROR) == [f"{A} stays on {ETH0}: cannot put it on {to}: {why}"]
    assert not [e for e in play.after(MOVE_RETRY_S - 1.0) if isinstance(e, AddAddress)]
    adds = [each for each in play.after(1.0) if isinstance(each, AddAddress)]
    assert [where(each) for each in adds] == [to]


def test_sighup_tries_again_at_once_what_stayed_where_it_was() -> None:
    play = holding()
    add = only_add(play.tell(ClusterChanged(view(5, PoolEntry(A, interface="eth1")))))
    again = only_add(play.tell(AddressFailed(add.request, A, "eth1 is down")))
    play.tell(AddressAdded(again.request, A))
    play.now += 0.2
    assert where(only_add(play.tell(SettingsChanged(settings())))) == ETH1


# --- wrong entries ---------------------------------------------------------------------------


def test_a_typo_in_the_options_of_a_held_address_changes_nothing() -> None:
    play = holding(PoolEntry(A, interface="eth1", prefix_length=24))
    assert play.tell(ClusterChanged(view(5, TYPO))) == []
    assert play.state.held == (A,)
    # Nor when it has to be added anew.
    add = only_add(play.tell(AddressGone(A)))
    assert where(add) == Place("eth1", 24)


def test_a_new_life_goes_on_with_an_address_whose_entry_is_wrong() -> None:
    play = Play()
    play.tell(BOTH_UP)
    play.tell(ready((A, Place("eth1", 24))), ClusterRead(view(7, TYPO)))
    (write,) = play.tell(play.kept(), play.healthy())
    assert isinstance(write, AdvertiseNode)
    play.tell(NodeAdvertised(write.request, me(8)))
    seen = replace(view(8, TYPO), nodes=frozen_mapping({ME: me(8)}))
    assert play.tell(ClusterRead(seen)) == []
    assert where(only_add(play.tell(AddressGone(A)))) == Place("eth1", 24)


def test_what_an_earlier_helper_has_left_goes_on_where_it_is_while_its_entry_is_wrong() -> None:
    play = Play()
    play.tell(BOTH_UP)
    left = replace(ready(), left_over=frozenset({A}), places=frozen_mapping({A: ETH1}))
    play.tell(left, ClusterRead(view(7, TYPO)))
    (write,) = play.tell(play.kept(), play.healthy())
    assert isinstance(write, AdvertiseNode)
    play.tell(NodeAdvertised(write.request, me(8)))
    seen = replace(view(8, TYPO), nodes=frozen_mapping({ME: me(8)}))
    assert where(only_add(play.tell(ClusterRead(seen)))) == ETH1


def test_an_address_with_a_wrong_entry_leaves_a_dead_link() -> None:
    play = holding(PoolEntry(A, interface="eth1"))
    play.tell(ClusterChanged(view(5, TYPO)))
    actions = play.tell(LinksObserved(frozenset({"eth0"})))
    assert [each.address for each in actions if isinstance(each, RemoveAddress)] == [A]


def test_a_mark_of_ours_with_a_wrong_entry_is_released_where_nobody_knows_its_place() -> None:
    play = Play()
    play.tell(BOTH_UP)
    play.tell(ready(), ClusterRead(view(7, TYPO)))
    remove, write = play.tell(play.kept(), play.healthy())
    assert isinstance(remove, RemoveAddress)
    assert isinstance(write, AdvertiseNode)
    play.tell(NodeAdvertised(write.request, me(8)))
    seen = replace(view(8, TYPO), nodes=frozen_mapping({ME: me(8)}))
    play.tell(ClusterRead(seen))
    actions = play.tell(AddressRemoved(remove.request, A))
    assert [each.marks for each in actions if isinstance(each, ReleaseMarks)] == [(mark(A, 4),)]


def test_a_wrong_entry_is_claimed_by_nobody() -> None:
    play = Play()
    play.tell(BOTH_UP)
    assert play.tell(ready(), ClusterRead(ClusterView(Revision(1))), play.healthy()) == [
        GrantLease(TTL_S)
    ]
    play.tell(play.kept())
    play.tell(NodeAdvertised(play.state.next_request - 1, me()))
    assert play.tell(ClusterChanged(view(3, TYPO, is_marked=False))) == []


def test_an_unhealthy_node_gives_up_also_what_has_a_wrong_entry() -> None:
    play = holding()
    play.tell(ClusterChanged(view(5, TYPO)))
    actions = play.tell(play.unhealthy())
    assert [each.address for each in actions if isinstance(each, RemoveAddress)] == [A]


def test_an_interface_that_no_node_has_leaves_the_address_where_it_is() -> None:
    play = holding()
    typo = PoolEntry(A, interface="eht1")
    assert play.tell(ClusterChanged(view(5, typo))) == []
    assert play.state.addresses.known[A].phase is Phase.UP


def test_an_interface_that_another_node_has_moves_the_address_to_that_node() -> None:
    play = holding()
    networks = frozen_mapping({"eth2": (NET,)})
    other = node(OTHER, OTHERS_LEASE, 5)
    other = replace(other, advertisement=replace(other.advertisement, networks=networks))
    (remove,) = play.tell(ClusterChanged(view(6, PoolEntry(A, interface="eth2"), other)))
    assert isinstance(remove, RemoveAddress)


def test_who_holds_what_has_a_wrong_entry_counts_it_in_its_load() -> None:
    """Otherwise a typo in many entries would move others, and mending them would move them back."""
    addresses = [ip_address(f"192.0.2.{number}") for number in range(10, 14)]
    nodes = frozen_mapping({ME: me(), OTHER: node(OTHER, OTHERS_LEASE, 3)})
    marks = {a: mark(a, 4) for a in addresses[:2]}
    marks |= {a: mark(a, 4, OTHER, OTHERS_LEASE) for a in addresses[2:]}
    pool = {a: PoolEntry(a) for a in addresses} | {
        a: PoolEntry(a, fault="a typo") for a in addresses[:2]
    }
    placed = place(pool, nodes, marks)
    assert placed == {a: ME if a in addresses[:2] else OTHER for a in addresses}


def test_beside_an_older_node_only_newer_ones_share_what_it_does_not_understand() -> None:
    """And it makes no difference for the rest, of which the older node would come to another answer
    otherwise."""
    third = NodeName("n3")
    nodes = {
        name: Node(
            name, replace(wide(), placement=version, schema=version), LeaseId(number), Revision(3)
        )
        for number, (name, version) in enumerate(((ME, 2), (third, 2), (OTHER, 1)))
    }
    addresses = [ip_address(f"192.0.2.{number}") for number in range(10, 40)]
    pool = {a: PoolEntry(a, schema=1 + (n % 2)) for n, a in enumerate(addresses)}
    understood = {a: entry for a, entry in pool.items() if entry.schema == 1}
    placed = place(pool, nodes, {})
    assert placed.keys() == pool.keys()
    assert {a: placed[a] for a in understood} == placement_v1.place(understood, nodes, {})
    assert {placed[a] for a in pool.keys() - understood.keys()} == {ME, third}
    loads = Counter(placed.values())
    assert abs(loads[ME] - loads[third]) <= 1
    # Each stays where it is, also one that an older node has got.
    marks = {a: mark(a, 5, n, nodes[n].lease) for a, n in placed.items()}
    assert place(pool, nodes, marks) == placed
    typo = {a: PoolEntry(a, fault="a typo") for a in pool}
    assert place(typo, nodes, marks) == placed


# --- prefix lengths that the helper's allowlist does not have ---------------------------------


RULES = (Rule("eth0", (NET,), frozenset({32, 24})), Rule("eth1", (NET,), frozenset({32})))


def test_a_netmask_that_the_allowlist_forbids_is_told_at_once_and_moves_nothing() -> None:
    play = holding()
    play.tell(replace(ready((A, ETH0)), rules=RULES))
    play.now += 0.2
    actions = play.tell(SettingsChanged(replace(settings(), prefix_length_4=25)))
    assert not [each for each in actions if isinstance(each, AddAddress | RemoveAddress)]
    (told,) = play.said(Level.ERROR)
    assert f"another prefix length for {A} on eth0, /25: what is held stays" in told
    assert play.state.held == (A,)
    # It is told once, and put right when the netmask fits.
    add = only_add(play.tell(SettingsChanged(replace(settings(), prefix_length_4=24))))
    assert play.said(Level.ERROR) == [told]
    assert where(add) == Place("eth0", 24)


def test_what_the_allowlist_forbids_and_is_not_held_is_left_to_other_nodes() -> None:
    play = holding()
    b = ip_address("192.0.2.11")
    seen = view(5, PoolEntry(A))
    seen = replace(seen, pool=frozen_mapping({A: PoolEntry(A), b: PoolEntry(b, prefix_length=25)}))
    other = replace(node(OTHER, OTHERS_LEASE, 4), advertisement=wide())
    seen = replace(seen, nodes=frozen_mapping({ME: me(), OTHER: other}))
    play.tell(replace(ready((A, ETH0)), rules=RULES))
    actions = play.tell(ClusterChanged(seen))
    (write,) = [each for each in actions if isinstance(each, AdvertiseNode)]
    assert write.advertisement.refused == {b}


def test_a_prefix_length_is_allowed_by_any_rule_about_the_address_and_for_its_kind() -> None:
    v6, net6 = ip_address("2001:db8::10"), ip_network("2001:db8::/64")
    rules = (*RULES, Rule("eth1", (NET, net6), frozenset({24, 64})))
    for address, there, is_forbidden in (
        (A, Place("eth0", 24), False),
        (A, Place("eth0", 25), True),
        (A, Place("eth1", 24), False),
        (A, Place("eth1", 64), True),
        (v6, Place("eth1", 64), False),
        (v6, Place("eth1", 24), True),
        # No rule is about these: who may hold them is another question.
        (A, Place("eth2", 25), False),
        (v6, Place("eth0", 25), False),
    ):
        assert bool(forbidden([address], lambda _: there, rules)) is is_forbidden, there  # noqa: B023


# --- the names of interfaces ------------------------------------------------------------------


LAN = frozen_mapping({"lan": "eth1"})
NAMED = LinksObserved(frozenset({"eth0", "eth1"}), frozenset(), LAN)


def test_a_further_name_of_an_interface_is_the_interface() -> None:
    play = holding()
    play.tell(NAMED)
    add = only_add(play.tell(ClusterChanged(view(5, PoolEntry(A, interface="lan")))))
    assert where(add) == ETH1
    play.tell(AddressAdded(add.request, A))
    # The name goes to another interface: so does the address.
    play.now += 0.2
    renamed = replace(NAMED, altnames=frozen_mapping({"lan": "eth0"}))
    adds = [each for each in play.tell(renamed) if isinstance(each, AddAddress)]
    assert [where(each) for each in adds] == [ETH0]


def test_other_nodes_are_told_of_an_interface_by_all_its_names() -> None:
    play = holding()
    actions = play.tell(NAMED, SettingsChanged(replace(settings(), interface="lan")))
    told = [each.advertisement for each in actions if isinstance(each, AdvertiseNode)][-1]
    assert told.interface == "eth1"
    assert told.networks == {"eth0": (NET,), "eth1": (NET,), "lan": (NET,)}
    mine = Node(ME, told, LEASE, Revision(6))
    assert mine.why_not(PoolEntry(A, interface="lan")) is None
    play.tell(NodeAdvertised(play.state.next_request - 1, mine))
    down = LinksObserved(frozenset({"eth0"}), frozenset({"eth1"}), LAN)
    told = [e.advertisement for e in play.tell(down) if isinstance(e, AdvertiseNode)][-1]
    assert told.down == frozenset({"eth1", "lan"})
    assert told.missing == frozenset()
    mine = Node(ME, told, LEASE, Revision(7))
    assert mine.why_not(PoolEntry(A, interface="lan")) == "lan is down"


def test_what_the_allowlist_names_by_a_further_name_is_told_and_allows_nothing() -> None:
    play = holding()
    networks = frozen_mapping({"eth0": (NET,), "lan": (NET,)})
    play.tell(HelperReady(SESSION, tuple(networks.items()), ()))
    play.tell(NAMED)
    (told,) = play.said(Level.ERROR)
    assert told.startswith("the helper's allowlist has lan, another name of eth1, which allows")
    assert networks_by_all_names(networks, LAN) == {"eth0": (NET,)}


def test_a_missing_interface_is_called_missing_and_one_that_is_down_down() -> None:
    play = holding()
    actions = play.tell(LinksObserved(frozenset({"eth0"}), frozenset()))
    told = [each.advertisement for each in actions if isinstance(each, AdvertiseNode)][-1]
    assert told.down == told.missing == frozenset({"eth1"})
    assert play.said(Level.WARNING)[-1] == "there is no eth1 on this host"
    mine = Node(ME, told, LEASE, Revision(6))
    assert mine.why_not(PoolEntry(A, interface="eth1")) == "eth1 is missing"
    play.tell(LinksObserved(frozenset({"eth0"}), frozenset({"eth1"})))
    assert play.said(Level.WARNING)[-1] == "eth1 is down or has no carrier"
