"""The most even spread of things over nodes, with the fewest moves.

Each thing may be on some of the nodes. One that has a home is there at first, and counts as moved
where it is elsewhere in the end. Minimised is (sum of the nodes' costs, moves); what each further
thing costs a node is more than the one before did (yaim/core/shares.py), which is the square of its
load if nothing else is said. So it is a minimum-cost flow, whose cost-reducing paths are chains of
moves. Harvey, Ladner, Lovász, Tamir: "Semi-matchings for bipartite graphs and load balancing"
(2003) show that a spread with no load-reducing path is optimal for every convex measure at once.
Where the nodes' costs differ, each chain that is made reduces the sum by the most, and the end is
the same: no chain and no circle is left that would reduce it, so none of all spreads is cheaper.

What comes first only makes that quick, and need not be right: things without a home go to the
lowest, then single moves are made from the highest to the lowest. Nearly always nothing is left to
do then but to see that. The end is exact: no chain improves anything, and no circle saves a move.

Same input, same output: numbers decide, and of what is equal the lower number goes first.
"""

from bisect import insort
from collections.abc import Sequence
from itertools import pairwise

from yaim.core.eligibility import Nodes, each_of, joined
from yaim.core.shares import Cost


class Spread:
    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self.holders: list[int] = []
        """The node of each thing."""
        self._eligible: list[Nodes] = []
        self._home: list[int] = []
        """The node of each thing at the start; -1: none."""
        self._things: list[set[int]] = [set() for _ in range(nodes)]
        """The things of each node."""
        self._homeless: list[tuple[int, int, int, Nodes]] = []
        """The things without a home: the number of eligible nodes, the thing, the node with which
        the choice begins, the preferred nodes."""
        self._loads = _Loads([], None)
        self._queues: list[list[int]] = []
        """The things of each node in the order in which they are moved; and some that have gone."""
        self._looked: dict[tuple[int, int], int] = {}
        """Source and target: how much of the source's queue has nothing for the target."""

    def add(self, eligible: Nodes, home: int | None, turn: int, preferred: Nodes) -> None:
        """Adds a thing that may be on these nodes, one at least; its home is one of them. A thing
        without a home goes to the lowest node; if several are equally low, to a `preferred` one,
        and among these to the first from number `turn` on."""
        thing = len(self.holders)
        self._eligible.append(eligible)
        if home is None:
            self._home.append(-1)
            self.holders.append(-1)
            self._homeless.append((eligible.bit_count(), thing, turn % self._nodes, preferred))
        else:
            self._home.append(home)
            self.holders.append(home)
            self._things[home].add(thing)

    def complete(self, costs: Sequence[Cost] | None = None) -> None:
        """Gives each thing its node. `costs`: of each node; None: the square of its load."""
        self._loads = _Loads([len(things) for things in self._things], costs)
        self._place_homeless()
        if not self._loads.are_even:
            self._level()
            self._perfect()

    # --- quickly ---------------------------------------------------------------------------

    def _place_homeless(self) -> None:
        """Begins with the things for which there is the least choice."""
        loads = self._loads
        for _, thing, turn, preferred in sorted(self._homeless):
            lowest = loads.lowest_of(self._eligible[thing])
            lowest = lowest & preferred or lowest
            node = _first(lowest >> turn << turn or lowest)
            self.holders[thing] = node
            self._things[node].add(thing)
            loads.add(node)

    def _level(self) -> None:
        """Move single things from the highest node to the lowest that can have one."""
        everyone = (1 << self._nodes) - 1
        self._queues = [[] for _ in range(self._nodes)]
        may_take = [everyone] * self._nodes
        """Node to those that may be able to take one of its things."""
        stuck: Nodes = 0
        has_moved = True
        while has_moved:
            stuck, has_moved = 0, False
            while (source := self._loads.highest_but(stuck)) is not None:
                target = self._give_one(source, may_take)
                if target is None:
                    stuck |= 1 << source
                else:
                    has_moved = True

    def _give_one(self, source: int, may_take: list[Nodes]) -> int | None:
        """Returns the node to which a thing was given; None if no move makes it more even."""
        loads = self._loads
        saved = loads.less.of[source]
        for cost in loads.more.ascending:
            if cost >= saved:
                break
            candidates = loads.more.at[cost] & may_take[source]
            while candidates:
                target = _first(candidates)
                thing = self._next_for(source, target)
                if thing is not None:
                    self._put(thing, target)
                    loads.take(source)
                    loads.add(target)
                    if self._queues[target]:
                        self._queues[target].append(thing)
                    may_take[target] |= self._eligible[thing]
                    return target
                may_take[source] &= ~(1 << target)
                candidates &= candidates - 1
        return None

    def _next_for(self, source: int, target: int) -> int | None:
        """Returns the thing that the source would give to the target."""
        queue = self._queues[source]
        if not queue:
            queue += sorted(self._things[source], key=self._order_of_moving)
        bit = 1 << target
        for position in range(self._looked.get((source, target), 0), len(queue)):
            thing = queue[position]
            if self._eligible[thing] & bit and self.holders[thing] == source:
                self._looked[source, target] = position
                return thing
        self._looked[source, target] = len(queue)
        return None

    def _order_of_moving(self, thing: int) -> tuple[bool, int, int]:
        """Sorts a thing whose move is free before others, then one with the least choice."""
        is_at_home = self.holders[thing] == self._home[thing]
        return is_at_home, self._eligible[thing].bit_count(), thing

    def _put(self, thing: int, node: int) -> None:
        """Take a thing from where it is to another node."""
        self._things[self.holders[thing]].remove(thing)
        self._things[node].add(thing)
        self.holders[thing] = node

    # --- exactly ---------------------------------------------------------------------------

    def _perfect(self) -> None:
        chains = _Chains([self._steps_from(node) for node in range(self._nodes)])
        while (chain := chains.best(self._loads)) is not None:
            for source, target in pairwise(chain):
                self._put(self._cheapest(source, target), target)
            self._loads.take(chain[0])
            self._loads.add(chain[-1])
            for node in chain:
                chains.steps[node] = self._steps_from(node)

    def _steps_from(self, node: int) -> tuple[Nodes, Nodes, Nodes]:
        """Returns the nodes to which this node can give a thing that goes home by it, that is moved
        in any case, or that is moved by it: such a step costs -1, 0 or 1 moves."""
        homes = freely = moving = 0
        for thing in self._things[node]:
            home = self._home[thing]
            if home == node:
                moving |= self._eligible[thing]
            else:
                freely |= self._eligible[thing]
                homes |= 1 << home if home >= 0 else 0
        here = ~(1 << node)
        return homes & here, freely & here, moving & here

    def _cheapest(self, source: int, target: int) -> int:
        """Returns the thing that the source would give to the target."""
        bit = 1 << target
        return min(
            (thing for thing in self._things[source] if self._eligible[thing] & bit),
            key=lambda thing: (self._cost(thing, source, target), thing),
        )

    def _cost(self, thing: int, source: int, target: int) -> int:
        """Returns how many moves the step adds."""
        home = self._home[thing]
        return (target != home) - (source != home) if home >= 0 else 0


def are_even(holders: Sequence[int], nodes: int, costs: Sequence[Cost] | None) -> bool:
    """Whether no move could make it more even, whichever nodes each thing may be on."""
    loads = [0] * nodes
    for holder in holders:
        loads[holder] += 1
    return _Loads(loads, costs).are_even


class _Chains:
    """Looks for the chain of moves that improves a spread the most."""

    def __init__(self, steps: list[tuple[Nodes, Nodes, Nodes]]) -> None:
        self.steps = steps
        """The nodes to which each node can give something at a cost of -1, 0 and 1 moves."""

    def best(self, loads: "_Loads") -> list[int] | None:
        """Returns the nodes of the best chain; the last is the first, if it is a circle. None: no
        chain improves anything.

        A chain from u to v saves what the last thing of u costs, and adds what one more costs v. So
        a node that can be reached from one that saves more is never better reached from another.
        """
        has_way_home = any(homes for homes, _, _ in self.steps)
        best, chain = (0, 0), None
        reached: Nodes = 0
        for saved in reversed(loads.less.ascending):
            if not has_way_home and saved <= loads.more.ascending[0]:
                break
            search = _Search(self.steps, loads.less.at[saved] & ~reached, ~reached)
            if search.circle is not None:
                return search.circle
            for node, moves in sorted(search.moves.items()):
                gain = loads.more.of[node] - saved, moves
                if gain < best:
                    best, chain = gain, search.way_to(node)
                reached |= 1 << node
        return chain


class _Search:
    """Finds the ways with the fewest moves from some nodes to others: Dijkstra's algorithm, with
    sets of nodes in place of single ones. A step can save a move: then nodes that were looked at
    are looked at again."""

    def __init__(
        self, steps: list[tuple[Nodes, Nodes, Nodes]], start: Nodes, within: Nodes
    ) -> None:
        self.moves = dict.fromkeys(each_of(start), 0)
        """The number of moves to each node that can be reached."""
        self.circle: list[int] | None = None
        """A circle that saves a move, with its first node once more at the end: then the rest is
        void."""
        self._came_from: dict[int, int] = {}
        self._at = {0: start}
        """The nodes that can be reached with each number of moves."""
        self._waiting = {0: start}
        """The nodes among them from which no step has been taken yet."""
        done: Nodes = 0
        while self._waiting and self.circle is None:
            moves = min(self._waiting)
            nodes = self._waiting[moves]
            if not nodes:
                del self._waiting[moves]
                continue
            node = _first(nodes)
            self._waiting[moves] = nodes & (nodes - 1)
            done |= 1 << node
            for to, cost in zip(steps[node], (-1, 0, 1), strict=True):
                if self.circle is None and (to := to & within & ~self._within(moves + cost)):
                    self._reach(to, moves + cost, node, done)

    def way_to(self, node: int) -> list[int]:
        """Returns the nodes of the way, from where it starts."""
        return self._way(node)[::-1]

    def _way(self, node: int) -> list[int]:
        """Goes back to the start, or once around."""
        way = [node]
        while (node := self._came_from.get(node, -1)) >= 0:
            way.append(node)
            if node == way[0]:
                break
        return way

    def _within(self, moves: int) -> Nodes:
        return joined(nodes for each, nodes in self._at.items() if each <= moves)

    def _reach(self, nodes: Nodes, moves: int, by: int, done: Nodes) -> None:
        """Notes that these nodes can be reached with fewer moves than before."""
        for node in each_of(nodes):
            before = self.moves.get(node)
            if before is not None:
                self._at[before] &= ~(1 << node)
                self._waiting[before] = self._waiting.get(before, 0) & ~(1 << node)
                if done >> node & 1 and node in (way := self._way(by)):
                    self.circle = [*way[way.index(node) :: -1], node]
                    return
            self.moves[node] = moves
            self._came_from[node] = by
        self._at[moves] = self._at.get(moves, 0) | nodes
        self._waiting[moves] = self._waiting.get(moves, 0) | nodes


class _Loads:
    """How many things each node has, and what one more and one less would change."""

    def __init__(self, of: list[int], costs: Sequence[Cost] | None) -> None:
        self._of = of
        self._costs = costs
        self.more = _Levels([self._cost(node, load) for node, load in enumerate(of)])
        """What one more would cost each node."""
        self.less = _Levels([self._cost(node, load - 1) for node, load in enumerate(of)])
        """What one less would save."""

    def _cost(self, node: int, load: int) -> int:
        return 2 * load + 1 if self._costs is None else self._costs[node].of_next(load)

    @property
    def are_even(self) -> bool:
        """Whether no move could make them more even, whatever may be where."""
        return not self._of or self.less.ascending[-1] <= self.more.ascending[0]

    def lowest_of(self, nodes: Nodes) -> Nodes:
        """Returns those of these nodes, one at least, for which one more costs the least."""
        at = self.more.at
        return next(found for cost in self.more.ascending if (found := at[cost] & nodes))

    def highest_but(self, nodes: Nodes) -> int | None:
        """Returns the node that would save the most, but for these; None if that is not more than
        one more would cost elsewhere."""
        least = self.more.ascending[0]
        for saved in reversed(self.less.ascending):
            if saved <= least:
                return None
            if found := self.less.at[saved] & ~nodes:
                return _first(found)
        return None

    def add(self, node: int) -> None:
        load = self._of[node] = self._of[node] + 1
        self.less.put(node, self.more.of[node])
        self.more.put(node, self._cost(node, load))

    def take(self, node: int) -> None:
        load = self._of[node] = self._of[node] - 1
        self.more.put(node, self.less.of[node])
        self.less.put(node, self._cost(node, load - 1))


class _Levels:
    """A cost for each node, and the nodes that have it in common."""

    def __init__(self, of: list[int]) -> None:
        self.of = of
        self.at: dict[int, Nodes] = {}
        """Each cost with the nodes that have it, if there are some."""
        for node, cost in enumerate(of):
            self.at[cost] = self.at.get(cost, 0) | 1 << node
        self.ascending = sorted(self.at)

    def put(self, node: int, cost: int) -> None:
        """The node's cost is another one now."""
        at, before, bit = self.at, self.of[node], 1 << node
        left = at[before] ^ bit
        if left:
            at[before] = left
        else:
            del at[before]
            self.ascending.remove(before)
        self.of[node] = cost
        if cost in at:
            at[cost] |= bit
        else:
            at[cost] = bit
            insort(self.ascending, cost)


def _first(nodes: Nodes) -> int:
    return (nodes & -nodes).bit_length() - 1
