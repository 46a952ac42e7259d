"""Who should hold what: a pure function of the pool, the nodes and the present marks.

A node is eligible if it can hold the address and does not wait. If all nodes that can hold it wait,
its holder is eligible, and if nobody holds it, all of them: nodes that flap take addresses from no
other node, and least of all from each other, but leave none unheld. If no node can hold an address
as its entry has it, because the entry is wrong or names an interface that no helper allows, the
address stays with its holder, which counts it in its load, and is given to nobody else. So a
mistake takes nothing down. Only the holder remembers how the address is held.

No node takes an address that something other than yaim has put on some node: a holder keeps it, and
if there is none, no node is eligible. A node that says that it takes nothing is eligible only for
what it holds.

What operators ask for (Control) counts from version 4 on. A node that is drained waits, and what
nobody holds is not given to it if another node can hold it. Of the nodes that are eligible then,
the first of these decides: an order to move the address to one of them; its pin to one of them;
under a pause, its holder, if that is one of them; those that the entry prefers. So an order that
cannot be followed is none, and leaves nothing unheld. Shares are in proportion to the weights
(yaim/core/shares.py), and no node is given more than its helper can hold (yaim/core/assign.py).

Every node computes the same answer from the same snapshot, so nodes do not race each other for
an address. The answer has the most even spread that eligibility allows and, among those, the
fewest addresses moved. Addresses that nobody holds are placed for free.

Method: keep what is held, give each orphan to its least loaded eligible node, level with single
moves from the highest to the lowest, and then, as long as a chain of moves makes the spread more
even (or as even with fewer moves), make the best one (yaim/core/spread.py).

Nodes of different versions of yaim have to come to the same answer, too: each advertises the
highest version of this function that it can compute, and all use the lowest that is advertised. A
change that makes any answer another one is a new version; the old one stays as long as nodes may be
alive that know no other. A node whose advertisement is not in the snapshot yet makes no difference:
it holds nothing and is given nothing.

An advertisement without a lease, or under a name that no node can have, is no node's: it is given
nothing. To versions before 3 it is a node like any other. If some nodes left it out while others
count it in, the two would give the same address to different nodes, and none would take it; and an
address that both leave where it is today would be released by the one and not claimed by the other.
So it is left out by all or by none: `counted` (that is version 3). Two nodes never hold an address
because of that: marks decide who holds it, and not the placement.

A node that does not know an entry's schema does not see the entry. So entries that all nodes
understand are placed first, by all of them in the same way, and then the rest, by those and among
those that understand them. An entry that nobody understands is like any other mistake.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from yaim.core import placement_v1
from yaim.core.assign import Things, assign
from yaim.core.eligibility import Eligibility, Nodes, joined
from yaim.core.model import (
    NO_CONTROL,
    SCHEMA,
    Address,
    Advertisement,
    ClusterView,
    Control,
    Mark,
    Move,
    Node,
    NodeName,
    Pin,
    PoolEntry,
    address_order,
    all_present,
    frozen_mapping,
    is_in_force,
    thawed,
)
from yaim.core.shares import Share
from yaim.core.spread import Spread

Placement = Mapping[Address, NodeName]

VERSION = 4
"""The highest version that this function can compute. 1: placement_v1.py. 2: with all that is
advertised. 3: with what `counted` leaves of it. 4: with what operators ask for, and a preference
that decides more than ties."""
_COUNTS = tuple(
    field.name
    for field in fields(Advertisement)
    if field.name
    not in {
        *("missing", "reason", "session", "version"),
        *("ttl_s", "control", "problems"),
    }
)
"""The fields of an advertisement that may change a placement."""


def place(
    pool: Mapping[Address, PoolEntry],
    nodes: Mapping[NodeName, Node],
    marks: Mapping[Address, Mark],
    control: Control = NO_CONTROL,
) -> Placement:
    """Returns the holder that each address of the pool should have; none if no node is eligible."""
    lowest, highest = schema_of(nodes), _highest_schema(nodes)
    higher = {entry.schema for entry in pool.values() if lowest < entry.schema <= highest}
    version = version_of(nodes)
    if not higher:
        return _place_shared(pool, nodes, marks, control)
    shared = {address: entry for address, entry in pool.items() if entry.schema not in higher}
    placed = thawed(_place_shared(shared, nodes, marks, control))
    for schema in sorted(higher):
        further = {address: entry for address, entry in pool.items() if entry.schema == schema}
        knowing = {
            name: node for name, node in nodes.items() if node.advertisement.schema >= schema
        }
        # Whoever knows schema 2 knows placement 2.
        if version < 4:
            placed |= _place_before_4(further, knowing, marks, placed)
        else:
            placed |= _place(further, knowing, marks, control, placed)
    return frozen_mapping(placed)


def _place_shared(
    pool: Mapping[Address, PoolEntry],
    nodes: Mapping[NodeName, Node],
    marks: Mapping[Address, Mark],
    control: Control,
) -> Placement:
    """Places entries that all nodes understand, or that none does."""
    version = version_of(nodes)
    if version < 2:
        return _as_before(pool, nodes, marks)
    if version < 4:
        return _place_before_4(pool, nodes, marks, {})
    return _place(pool, nodes, marks, control, {})


def counted(view: ClusterView) -> Mapping[NodeName, Node]:
    """Returns the nodes that count. Only nodes with a lease tell whether all know version 3:
    otherwise a stray advertisement could keep all of them at an old version."""
    if not view.stray_nodes or version_of(view.nodes) >= 3:
        return view.nodes
    return frozen_mapping(thawed(view.stray_nodes) | thawed(view.nodes))


def counted_marks(view: ClusterView) -> Mapping[Address, Mark]:
    """Returns the marks that count: those without a lease, too, if nodes without one do. A mark in
    force has the lease of its holder. If a mark was put over another's, nodes of older versions
    take it for its holder's: here it counts as that, too, so that all come to the same answer.
    Nobody claims the address anyway, as long as that mark stands there."""
    if not view.stray_marks:
        return view.marks
    strays = {
        address: mark
        for address, mark in view.stray_marks.items()
        if mark.lease or counted(view) is not view.nodes
    }
    return frozen_mapping(strays | thawed(view.marks)) if strays else view.marks


def is_alike(before: ClusterView, view: ClusterView) -> bool:
    """Whether the placement for both is the same, because nothing that counts is different."""
    return before is view or (
        before.pool == view.pool
        and before.marks == view.marks
        and before.stray_marks == view.stray_marks
        and _is_control_alike(before.control, view.control)
        and _are_nodes_alike(before.nodes, view.nodes)
        and _are_nodes_alike(before.stray_nodes, view.stray_nodes)
    )


def _are_nodes_alike(before: Mapping[NodeName, Node], nodes: Mapping[NodeName, Node]) -> bool:
    return before is nodes or (
        before.keys() == nodes.keys()
        and all(_is_node_alike(before[name], node) for name, node in nodes.items())
    )


def _is_node_alike(before: Node, node: Node) -> bool:
    if before is node:
        return True
    return before.lease == node.lease and all(
        getattr(before.advertisement, name) == getattr(node.advertisement, name) for name in _COUNTS
    )


def _is_control_alike(before: Control, control: Control) -> bool:
    """Who gave an order, why and until when makes no difference."""
    return before is control or (
        before.drains.keys() == control.drains.keys()
        and (before.pause is None) == (control.pause is None)
        and (before.moves is control.moves or _nodes_of(before.moves) == _nodes_of(control.moves))
        and (before.pins is control.pins or _nodes_of(before.pins) == _nodes_of(control.pins))
        and _weights(before) == _weights(control)
    )


def _nodes_of(orders: Mapping[Address, Move] | Mapping[Address, Pin]) -> dict[Address, NodeName]:
    return {address: each.node for address, each in orders.items()}


def _weights(control: Control) -> dict[NodeName, int]:
    return {name: each.weight for name, each in control.weights.items()}


def version_of(nodes: Mapping[NodeName, Node]) -> int:
    """Returns the version that all of these nodes can compute."""
    return min((VERSION, *(node.advertisement.placement for node in nodes.values())))


def schema_of(nodes: Mapping[NodeName, Node]) -> int:
    """Returns the version of the schema that all of these nodes know."""
    return min((SCHEMA, *(node.advertisement.schema for node in nodes.values())))


def _highest_schema(nodes: Mapping[NodeName, Node]) -> int:
    """Returns the highest version that a node knows which could hold an address with it."""
    told = (node.advertisement for node in nodes.values())
    return max((each.schema for each in told if each.is_healthy), default=SCHEMA)


def _as_before(
    pool: Mapping[Address, PoolEntry],
    nodes: Mapping[NodeName, Node],
    marks: Mapping[Address, Mark],
) -> Placement:
    """Places as version 1 does. It does not know what something else has put on nodes, so that
    is placed with the rest, as older nodes do; but none is taken. What no node can hold stays with
    its holder."""
    placed = thawed(placement_v1.place(pool, nodes, marks))
    for address in all_present(nodes) & placed.keys() | pool.keys() - placed.keys():
        placed.pop(address, None)
        mark, entry = marks.get(address), pool[address]
        holder = nodes[mark.holder] if mark is not None and is_in_force(mark, nodes) else None
        if holder is not None and (holder.can_hold(entry) or holder.can_keep(entry)):
            placed[address] = holder.name
    return frozen_mapping(placed)


def _place_before_4(
    pool: Mapping[Address, PoolEntry],
    nodes: Mapping[NodeName, Node],
    marks: Mapping[Address, Mark],
    beside: Placement,
) -> Placement:
    """`beside`: the nodes that are to hold other addresses; these count, and stay there."""
    cluster = _Cluster.of(nodes, marks)
    waiting = cluster.waiting
    spread = Spread(len(cluster.names))
    placed: list[Address] = []
    for entry, able, holder in cluster.candidates(pool):
        home = holder if holder is not None and able >> holder & 1 else None
        eligible = able & ~waiting or (able if home is None else 1 << home)
        if eligible:
            placed.append(entry.address)
            if home is not None and not eligible >> home & 1:
                home = None
            preferred = cluster.eligibility.named(entry.prefer) if entry.prefer else 0
            spread.add(eligible, home, _turn(entry.address), preferred)
    for number in cluster.numbers(beside):
        spread.add(1 << number, number, 0, 0)
    spread.complete()
    return cluster.placement(placed, spread.holders)


def _place(
    pool: Mapping[Address, PoolEntry],
    nodes: Mapping[NodeName, Node],
    marks: Mapping[Address, Mark],
    control: Control,
    beside: Placement,
) -> Placement:
    """`beside`: as above."""
    cluster = _Cluster.of(nodes, marks)
    orders = _Orders.of(control, cluster)
    waiting = orders.drained | cluster.flapping
    things = Things()
    placed: list[Address] = []
    for entry, able, holder in cluster.candidates(pool):
        home = holder if holder is not None and able >> holder & 1 else None
        here = able & ~orders.drained or able if home is None else 1 << home
        eligible = able & ~waiting or here
        if eligible:
            chosen = orders.choose(entry, eligible, home)
            if chosen != eligible:
                things.bound.append(len(placed))
            stays = orders.is_paused and eligible & here if home is not None else 0
            is_there = home is not None and chosen >> home & 1
            turn = 0 if is_there else _turn(entry.address)
            things.add(chosen, chosen | (stays or eligible | here), home, turn)
            placed.append(entry.address)
    for number in cluster.numbers(beside):
        things.add_fixed(number)
    shares = [
        Share(orders.weights.get(node.name, 1), node.advertisement.capacity)
        for node in cluster.nodes
    ]
    return cluster.placement(placed, assign(things, shares, waiting))


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The nodes, by numbers, and what each of them holds."""

    names: list[NodeName]
    nodes: list[Node]
    number_of: dict[NodeName, int]
    eligibility: Eligibility
    marks: Mapping[Address, Mark]

    @staticmethod
    def of(nodes: Mapping[NodeName, Node], marks: Mapping[Address, Mark]) -> "_Cluster":
        names = sorted(nodes)
        in_order = [nodes[name] for name in names]
        number_of = {name: number for number, name in enumerate(names)}
        return _Cluster(names, in_order, number_of, Eligibility(in_order), marks)

    @property
    def waiting(self) -> Nodes:
        return joined(1 << number for number, node in enumerate(self.nodes) if node.is_waiting)

    @property
    def flapping(self) -> Nodes:
        """The nodes that wait for another reason than that they are drained, which for older nodes
        is told as a wait, too. Who is drained the control keys say: of several nodes that are
        drained no more, all share again from one revision on, and not each when it says so."""
        return joined(
            1 << number
            for number, node in enumerate(self.nodes)
            if node.is_waiting and not node.advertisement.is_drained
        )

    def candidates(
        self, pool: Mapping[Address, PoolEntry]
    ) -> Iterator[tuple[PoolEntry, Nodes, int | None]]:
        """Yields all entries in order, each with the nodes that may have it, and its holder. An
        entry that no node can hold is its holder's, if that can keep it."""
        nodes, number_of, marks = self.nodes, self.number_of, self.marks
        eligibility = self.eligibility
        taking = joined(1 << n for n, node in enumerate(nodes) if node.advertisement.takes)
        present = all_present({node.name: node for node in nodes})
        for entry in sorted(pool.values(), key=lambda entry: address_order(entry.address)):
            able = eligibility.able(entry)
            mark = marks.get(entry.address)
            holder = None
            if mark is not None:
                number = number_of.get(mark.holder)
                if number is not None and nodes[number].lease == mark.lease:
                    holder = number
            able &= taking if holder is None else taking | 1 << holder
            if present and entry.address in present:
                able &= 0 if holder is None else 1 << holder
            if not able and holder is not None and nodes[holder].can_keep(entry):
                able = 1 << holder
            yield entry, able, holder

    def numbers(self, placed: Placement) -> Iterator[int]:
        """Yields the numbers of the nodes that have these addresses, as often as they do."""
        return (self.number_of[name] for name in placed.values() if name in self.number_of)

    def placement(self, addresses: Sequence[Address], numbers: Sequence[int | None]) -> Placement:
        """`numbers`: of the holders of these addresses, and of others after them."""
        names, pairs = self.names, zip(addresses, numbers, strict=False)
        return frozen_mapping({address: names[n] for address, n in pairs if n is not None})


@dataclass(frozen=True, slots=True)
class _Orders:
    """What operators ask for, as far as it is about nodes that are there."""

    drained: Nodes
    is_paused: bool
    moves: dict[Address, Nodes]
    """The one node for each address."""
    pins: dict[Address, Nodes]
    weights: dict[NodeName, int]
    eligibility: Eligibility

    @staticmethod
    def of(control: Control, cluster: _Cluster) -> "_Orders":
        number_of = cluster.number_of
        moves, pins = (
            {a: 1 << number_of[name] for a, name in _nodes_of(each).items() if name in number_of}
            for each in (control.moves, control.pins)
        )
        return _Orders(
            cluster.eligibility.named(frozenset(control.drains)),
            control.pause is not None,
            moves,
            pins,
            _weights(control),
            cluster.eligibility,
        )

    def choose(self, entry: PoolEntry, eligible: Nodes, home: int | None) -> Nodes:
        """Returns which of the eligible nodes the address may be on."""
        if self.moves and (chosen := self.moves.get(entry.address, 0) & eligible):
            return chosen
        if self.pins and (chosen := self.pins.get(entry.address, 0) & eligible):
            return chosen
        if self.is_paused and home is not None and (chosen := eligible & 1 << home):
            return chosen
        return (entry.prefer and self.eligibility.named(entry.prefer) & eligible) or eligible


def _turn(address: Address) -> int:
    """Returns with which of equal nodes the choice for an address begins: another one for each
    address, so that no node is always the first choice (Fibonacci hashing)."""
    return (int(address) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32
