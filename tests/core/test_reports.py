"""What the log tells once, and in short."""

from dataclasses import replace
from time import process_time

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    B,
    mark,
    node,
    started,
    view,
)
from yaim.core.actions import (
    AddAddress,
    AdvertiseNode,
    ClaimMarks,
    Level,
)
from yaim.core.events import (
    ClusterChanged,
    MarksClaimed,
    NodeAdvertised,
)
from yaim.core.model import (
    Node,
    PoolEntry,
    Revision,
    WrongEntry,
    frozen_mapping,
)
from yaim.core.placement import VERSION
from yaim.core.wording import MOST_TOLD


def test_a_wrong_pool_entry_is_reported_once() -> None:
    play = started()
    wrong = (WrongEntry("192.0.2.010", "not in canonical form"),)
    me = (node(ME, LEASE, 2),)
    play.tell(ClusterChanged(view(3, (), me, (), wrong)))
    play.tell(ClusterChanged(view(4, (), me, (), wrong)))
    assert play.said(Level.WARNING) == ["wrong pool entry '192.0.2.010': not in canonical form"]


def test_the_pool_entrys_interface_and_prefix_length_are_used() -> None:
    play = started()
    entry = PoolEntry(A, interface="eth0", prefix_length=24)
    seen = replace(view(3, (), (node(ME, LEASE, 2),)), pool=frozen_mapping({A: entry}))
    (claim,) = play.tell(ClusterChanged(seen))
    assert isinstance(claim, ClaimMarks)
    (add,) = play.tell(MarksClaimed(claim.request, (mark(A, 4),), frozenset(), Revision(4)))
    assert add == AddAddress(claim.request + 1, A, "eth0", 24, play.deadline())


def test_the_log_tells_when_an_older_node_decides_how_addresses_are_shared() -> None:
    play = started()
    older = node(OTHER, OTHERS_LEASE, 3)
    told = replace(older.advertisement, placement=1, schema=1)
    older = replace(older, advertisement=told)
    play.tell(ClusterChanged(view(3, (A,), (node(ME, LEASE, 2), older))))
    play.tell(ClusterChanged(view(4, (A, B), (node(ME, LEASE, 2), older))))
    play.tell(ClusterChanged(view(5, (A, B), (node(ME, LEASE, 2),))))
    assert [text for text in play.said(Level.INFO) if "version" in text] == [
        f"shares addresses by version 1 of the placement, as {OTHER} knows no newer one",
        f"shares addresses by version {VERSION} of the placement, as all nodes know it now",
    ]


def test_of_many_wrong_entries_the_first_are_told_and_the_others_counted() -> None:
    """Red team: 8000 of them cost 2.8 s a view, and as many lines."""
    play = started()
    wrong = tuple(WrongEntry(f"x{number:04}", "no address") for number in range(8000))
    play.tell(ClusterChanged(view(3, (), (node(ME, LEASE, 2),), wrong=wrong)))
    assert len(play.said(Level.WARNING)) == MOST_TOLD + 1
    assert play.said(Level.WARNING)[-1] == "and 7990 more wrong pool entries: yaim status"
    began = process_time()
    again = tuple(WrongEntry(each.name, each.reason) for each in wrong)
    play.tell(ClusterChanged(view(4, (), (node(ME, LEASE, 2),), wrong=again)))
    assert process_time() - began < 0.3
    assert len(play.said(Level.WARNING)) == MOST_TOLD + 1


def test_what_others_are_told_is_logged_though_a_view_has_shown_it_before_the_answer() -> None:
    """On a busy machine the watch is faster: nothing was said then."""
    play = started()
    (write,) = play.tell(play.unhealthy())
    assert isinstance(write, AdvertiseNode)
    told = Node(ME, write.advertisement, LEASE, Revision(3))
    play.tell(ClusterChanged(view(3, (A,), (told,))))
    play.tell(NodeAdvertised(write.request, told))
    assert play.said(Level.INFO)[-1] == "advertised as unhealthy"
