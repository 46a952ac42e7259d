"""A host whose coordinator is of an older version of yaim, from before nodes told theirs.

What makes it older is around the real core: entries that it does not understand are none for it, it
advertises no version, and somebody else, who is never healthy, seems to be of the first one: so it
places addresses as that did, whoever else is alive.
"""

from dataclasses import replace

from yaim.core.actions import Action, AdvertiseNode, ReleaseMarks, WithdrawNode
from yaim.core.events import ClusterChanged, ClusterRead, Event, NodeAdvertised
from yaim.core.model import (
    SCHEMA,
    Advertisement,
    ClusterView,
    Control,
    LeaseId,
    Mark,
    Node,
    NodeName,
    Revision,
    frozen_mapping,
)
from yaim.core.placement import VERSION

_FIRST = Node(
    NodeName("somebody of the first version"),
    Advertisement(
        is_healthy=False,
        reason="",
        interface="",
        networks=frozen_mapping({}),
        refused=frozenset(),
        session="",
        version="",
    ),
    LeaseId(0),
    Revision(0),
)


def as_an_older_one_hears(event: Event, me: NodeName) -> Event:
    match event:
        case ClusterRead(view):
            return ClusterRead(_view(view, me))
        case ClusterChanged(view):
            return ClusterChanged(_view(view, me))
        case NodeAdvertised(request, node):
            return NodeAdvertised(request, _as_it_meant(node))
        case _:
            return event


def as_an_older_one_sends(action: Action) -> Action:
    match action:
        case AdvertiseNode(advertisement=told):
            told = replace(told, placement=1, schema=1, control=Revision(0))
            return replace(action, advertisement=told, joins=False)
        case WithdrawNode():
            return replace(action, is_stopped=False)
        case ReleaseMarks():
            return replace(action, heirs=frozen_mapping({}))
        case _:
            return action


def _view(view: ClusterView, me: NodeName) -> ClusterView:
    handed = [mark for mark in view.marks.values() if mark.version > 1]
    if handed:
        # It takes them for marks that somebody has put over others.
        strays = {mark.address: _as_over_another(mark) for mark in handed}
        marks = {a: mark for a, mark in view.marks.items() if a not in strays}
        view = replace(
            view,
            marks=frozen_mapping(marks),
            stray_marks=frozen_mapping({**view.stray_marks, **strays}),
        )
    pool = {a: entry for a, entry in view.pool.items() if entry.schema == 1 and not entry.fault}
    nodes = {**view.nodes, _FIRST.name: _FIRST}
    if me in nodes:
        nodes[me] = _as_it_meant(nodes[me])
    # The core that is asked does not know that it is older, and is a member of nothing.
    control = Control(members=view.control.members)
    return replace(view, pool=frozen_mapping(pool), nodes=frozen_mapping(nodes), control=control)


def _as_over_another(mark: Mark) -> Mark:
    holder = NodeName(f"{mark.holder} {mark.version}")
    return replace(mark, holder=holder, is_over_another=True)


def _as_it_meant(node: Node) -> Node:
    """The core that is asked does not know that it is older."""
    told = replace(node.advertisement, placement=VERSION, schema=SCHEMA)
    return replace(node, advertisement=told)
