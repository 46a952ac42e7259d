"""Who is to be handed something over by an order has followed that when it has the address."""

import pytest

from tests.core.play import (
    LEASE,
    ME,
    OTHER,
    OTHERS_LEASE,
    A,
    Play,
    mark,
    node,
    requests,
    started,
    view,
    writes,
)
from yaim.core.actions import AddAddress, AdvertiseNode
from yaim.core.events import AddressAdded, ClusterChanged
from yaim.core.model import (
    ClusterView,
    Control,
    Mark,
    Move,
    Order,
    Pin,
    Revision,
    frozen_mapping,
)

ORDERS = {
    "drained": Control(Revision(9), drains=frozen_mapping({OTHER: Order()})),
    "moved": Control(Revision(9), moves=frozen_mapping({A: Move(ME)})),
    "pinned": Control(Revision(9), pins=frozen_mapping({A: Pin(ME)})),
}


def seen(revision: int, held: Mark, control: Control) -> ClusterView:
    nodes = (node(ME, LEASE, 2), node(OTHER, OTHERS_LEASE, 3))
    return view(revision, (A,), nodes, (held,), control=control)


def told(control: Control) -> tuple[Play, list[type]]:
    play = started()
    held = mark(A, 4, OTHER, OTHERS_LEASE)
    actions = play.tell(ClusterChanged(seen(9, held, control)))
    return play, list(requests(writes(actions)))


@pytest.mark.parametrize("control", ORDERS.values(), ids=ORDERS)
def test_an_heir_by_order_echoes_that_only_when_it_has_the_address(control: Control) -> None:
    play, written = told(control)
    assert written == []
    handed = Mark(A, ME, LEASE, Revision(11), version=2)
    (add,) = play.tell(ClusterChanged(seen(11, handed, control)))
    assert isinstance(add, AddAddress)
    (echo,) = writes(play.tell(AddressAdded(add.request, A)))
    assert isinstance(echo, AdvertiseNode)
    assert echo.advertisement.control == 9


def test_who_is_to_be_handed_nothing_by_an_order_says_at_once_that_it_has_followed() -> None:
    _, written = told(Control(Revision(9), pause=Order()))
    assert written == [AdvertiseNode]
