"""What other nodes give up or lose, and when it is claimed."""

import pytest

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    mark,
    node,
    requests,
    started,
    view,
)
from yaim.core.actions import (
    ClaimMarks,
)
from yaim.core.events import (
    ClusterChanged,
)
from yaim.core.state.takeover import ORPHAN_PATIENCE_S


def test_what_a_node_loses_with_its_lease_is_claimed_a_moment_later() -> None:
    """It may have ended before its time, and the holder not know it yet."""
    play = started()
    me, other = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(4, (A,), (me, other), (mark(A, 4, OTHER, OTHERS_LEASE),))))
    assert play.tell(ClusterChanged(view(5, (A,), (me,)))) == []
    assert play.wake_at == play.now + ORPHAN_PATIENCE_S
    assert play.after(ORPHAN_PATIENCE_S - 0.01) == []
    assert requests(play.after(0.02)) == [ClaimMarks]


@pytest.mark.parametrize("how", ["released, then withdrawn", "released as unhealthy"])
def test_what_a_node_gives_up_is_claimed_at_once(how: str) -> None:
    play = started()
    me, other = node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3)
    play.tell(ClusterChanged(view(4, (A,), (me, other), (mark(A, 4, OTHER, OTHERS_LEASE),))))
    without = [view(5, (A,), (me, other)), view(6, (A,), (me,))]
    if how == "released as unhealthy":
        without = [view(5, (A,), (me, node(OTHER, OTHERS_LEASE, 5, is_healthy=False)))]
    assert requests(play.tell(*map(ClusterChanged, without))) == [ClaimMarks]
