"""A node that becomes unhealthy again and again waits before it takes addresses."""

from dataclasses import replace

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    Play,
    advertised,
    advertisement,
    helper_ready,
    holding,
    mark,
    node,
    requests,
    settings,
    view,
)
from yaim.core.actions import (
    AdvertiseNode,
    Level,
    RemoveAddress,
)
from yaim.core.events import (
    ClusterChanged,
    ClusterRead,
    HelperLost,
    NodeAdvertised,
    SettingsChanged,
)
from yaim.core.model import (
    Node,
    Revision,
    frozen_mapping,
)


def flapping(is_alone: bool, falls: int = 2) -> Play:
    """A node that held the pool of A and has become healthy again for so many times. The other one
    is healthy if it is not alone."""
    play = holding(A)
    other = node(OTHER, OTHERS_LEASE, 5, is_healthy=not is_alone)
    nodes = (node(ME, LEASE, 2), other)
    play.tell(ClusterChanged(view(6, (A,), nodes, (mark(A, 4),))))
    for _ in range(falls):
        play.settle(play.after(1.0, play.kept(), play.unhealthy()))
        play.settle(play.after(1.0, play.kept(), play.healthy()))
    return play


def is_waiting_told(play: Play) -> list[str]:
    return [text for text in play.said(Level.WARNING) if "waits" in text]


def test_a_node_that_has_recovered_for_the_first_time_does_not_wait() -> None:
    assert advertised(flapping(is_alone=True, falls=1)).waits_s == 0


def test_a_node_that_flaps_says_so_and_leaves_addresses_to_others_until_its_wait_is_over() -> None:
    play = flapping(is_alone=False)
    assert advertised(play) == replace(advertisement(), waits_s=10.0)
    assert play.state.held == ()
    assert is_waiting_told(play) == [
        "was unhealthy 2 times of late: waits 10 s before it takes addresses that other nodes can"
        " hold"
    ]
    until = play.state.health.flaps.waits_until(300.0)
    assert until == play.now + 10
    play.now = until - 0.1
    play.settle(play.tell(play.kept()))
    assert play.wake_at == until
    play.now = until
    (write,) = [each for each in play.tell() if isinstance(each, AdvertiseNode)]
    assert write.advertisement == advertisement()
    assert play.said(Level.INFO)[-1] == "has waited long enough: takes addresses again"


def test_a_node_that_waits_holds_what_no_other_node_can() -> None:
    play = flapping(is_alone=True)
    assert advertised(play).waits_s == 10
    assert play.state.held == (A,)


def test_a_node_that_waits_hands_over_as_soon_as_another_one_is_healthy() -> None:
    play = flapping(is_alone=True)
    seen = play.state.cluster.view
    assert seen is not None
    recovered = {**seen.nodes, OTHER: node(OTHER, OTHERS_LEASE, seen.revision + 1)}
    there = replace(seen, revision=Revision(seen.revision + 1), nodes=frozen_mapping(recovered))
    assert requests(play.tell(ClusterChanged(there))) == [RemoveAddress]


def test_each_wait_is_twice_as_long_and_told_once() -> None:
    play = flapping(is_alone=True, falls=5)
    assert [text.split(" s ")[0].split()[-1] for text in is_waiting_told(play)] == [
        "10",
        "20",
        "40",
        "80",
    ]


def test_sighup_with_no_longest_wait_ends_a_wait_at_once() -> None:
    play = flapping(is_alone=True, falls=3)
    changed = SettingsChanged(replace(settings(), flap_max_wait_s=0.0))
    (write,) = play.tell(changed)
    assert isinstance(write, AdvertiseNode) and write.advertisement.waits_s == 0


def test_a_helper_that_is_lost_again_and_again_makes_its_node_wait() -> None:
    play = holding(A)
    for _ in range(2):
        play.settle(play.tell(HelperLost("it hung up")))
        for _ in range(6):
            play.settle(play.after(1.0, play.kept()))
        play.settle(play.tell(helper_ready()))
    assert advertised(play).waits_s == 10


def test_a_restart_ends_a_wait_with_its_first_answer() -> None:
    """It forgets what was, but does not say otherwise before it knows that it is healthy."""
    play = Play()
    play.tell()
    waiting = replace(advertisement(), waits_s=40.0)
    there = view(7, (A,), (Node(ME, waiting, LEASE, Revision(2)),), (mark(A, 4),))
    play.tell(helper_ready(), ClusterRead(there))
    write = play.tell(play.kept())[-1]
    waiting = replace(waiting, takes=False)
    assert isinstance(write, AdvertiseNode) and write.advertisement == waiting
    play.tell(NodeAdvertised(write.request, Node(ME, waiting, LEASE, Revision(8))))
    (write,) = play.tell(play.healthy())
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement == advertisement()


def test_a_restarted_unhealthy_node_says_why_until_it_knows_better() -> None:
    play = Play()
    play.tell()
    there = view(7, (), (node(ME, LEASE, 2, is_healthy=False),))
    play.tell(helper_ready(), ClusterRead(there))
    write = play.tell(play.kept())[-1]
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement == advertisement(is_healthy=False)
