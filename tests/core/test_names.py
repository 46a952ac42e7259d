"""Another host under the same name."""

from dataclasses import replace

from tests.core.play import (
    LEASE,
    ME,
    OTHERS_LEASE,
    TTL_S,
    A,
    Play,
    advertisement,
    helper_ready,
    holding,
    node,
    requests,
    view,
)
from yaim.core.actions import (
    End,
    GrantLease,
    LookForAddresses,
    Outcome,
    RemoveAddress,
)
from yaim.core.events import (
    ClusterChanged,
    ClusterRead,
    LeaseGone,
)
from yaim.core.state.advertised import NAME_PATIENCE_S


def test_a_second_live_node_of_the_same_name_is_refused() -> None:
    play = Play()
    play.tell()
    elsewhere = replace(node(ME, OTHERS_LEASE, 2), advertisement=advertisement(session="boot-9:1"))
    assert play.tell(helper_ready(), ClusterRead(view(7, (A,), (elsewhere,)))) == []
    (end,) = [each for each in play.after(2 * TTL_S + NAME_PATIENCE_S) if isinstance(each, End)]
    assert end.outcome is Outcome.NAME_TAKEN
    assert "n1" in end.reason and "nodename" in end.reason


def test_who_has_lost_its_name_removes_what_it_can_and_ends_with_nothing_after_that() -> None:
    play = holding(A)
    assert RemoveAddress in requests(play.tell(LeaseGone(LEASE)))
    elsewhere = replace(node(ME, OTHERS_LEASE, 9), advertisement=advertisement(session="boot-9:1"))
    play.tell(ClusterRead(view(9, (A,), (elsewhere,))))
    last = play.after(2 * TTL_S + NAME_PATIENCE_S)
    assert requests(last) == [LookForAddresses, RemoveAddress, End]
    assert play.wake_at is None


def test_after_a_reboot_the_earlier_advertisement_is_waited_for_to_expire() -> None:
    play = Play()
    play.tell()
    before = replace(node(ME, OTHERS_LEASE, 2), advertisement=advertisement(session="boot-0:1"))
    play.tell(helper_ready(), ClusterRead(view(7, (A,), (before,))))
    play.now += 2.0
    assert GrantLease(TTL_S) in play.tell(ClusterChanged(view(8, (A,))))
