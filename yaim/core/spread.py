"""The most even spread of things over nodes, with the fewest moves.

Each thing may be on some of the nodes. One that has a home is there at first, and counts as moved
where it is elsewhere in the end. Minimised is (sum of squared loads, moves): a minimum-cost flow,
whose cost-reducing paths are chains of moves. Harvey, Ladner, Lovász, Tamir: "Semi-matchings for
bipartite graphs and load balancing" (2003) show that a spread with no load-reducing path is optimal
for every convex measure at once.

What comes first only makes that quick, and need not be right: things without a home go to the
lowest, then single moves are made from the highest to the lowest. Nearly always nothing is left to
do then but to see that. The end is exact: no chain improves anything, and no circle saves a move.

Same input, same output: numbers decide, and of what is equal the lower number goes first.
"""

from bisect import insort
from itertools import pairwise

from yaim.core.eligibility import Nodes, each_of, joined


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
        self._loads = _Loads([])
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

    def complete(self) -> None:
        """Gives each thing its node."""
        self._loads = _Loads([len(things) for things in self._things])
        self._place_homeless()
        if self._loads.difference > 1:
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
            loads.change(node, 1)

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
        limit = loads.of[source] - 1
        for load in loads.ascending:
            if load >= limit:
                break
            candidates = loads.at[load] & may_take[source]
            while candidates:
                target = _first(candidates)
                thing = self._next_for(source, target)
                if thing is not None:
                    self._put(thing, target)
                    loads.change(source, -1)
                    loads.change(target, 1)
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
            self._loads.change(chain[0], -1)
            self._loads.change(chain[-1], 1)
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


class _Chains:
    """Looks for the chain of moves that improves a spread the most."""

    def __init__(self, steps: list[tuple[Nodes, Nodes, Nodes]]) -> None:
        self.steps = steps
        """The nodes to which each node can give something at a cost of -1, 0 and 1 moves."""

    def best(self, loads: "_Loads") -> list[int] | None:
        """Returns the nodes of the best chain; the last is the first, if it is a circle. None: no
        chain improves anything.

        A chain from u to v changes the sum of squared loads by 2 * (load(v) - load(u) + 1). So a
        node that can be reached from a higher one is never better reached from a lower one.
        """
        has_way_home = any(homes for homes, _, _ in self.steps)
        best, chain = (0, 0), None
        reached: Nodes = 0
        for load in reversed(loads.ascending):
            if not has_way_home and load - loads.ascending[0] <= 1:
                break
            search = _Search(self.steps, loads.at[load] & ~reached, ~reached)
            if search.circle is not None:
                return search.circle
            for node, moves in sorted(search.moves.items()):
                gain = loads.of[node] + 1 - load, moves
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
    """How many things each node has."""

    def __init__(self, of: list[int]) -> None:
        self.of = of
        self.at: dict[int, Nodes] = {}
        """Each load with the nodes that have it, if there are some."""
        for node, load in enumerate(of):
            self.at[load] = self.at.get(load, 0) | 1 << node
        self.ascending = sorted(self.at)

    @property
    def difference(self) -> int:
        return self.ascending[-1] - self.ascending[0] if self.ascending else 0

    def lowest_of(self, nodes: Nodes) -> Nodes:
        """Returns those of these nodes, one at least, that have the least."""
        return next(found for load in self.ascending if (found := self.at[load] & nodes))

    def highest_but(self, nodes: Nodes) -> int | None:
        """Returns the node that has the most, but for these; None if others hardly have less."""
        for load in reversed(self.ascending):
            if load - self.ascending[0] <= 1:
                return None
            if found := self.at[load] & ~nodes:
                return _first(found)
        return None

    def change(self, node: int, by: int) -> None:
        load = self.of[node]
        self.at[load] ^= 1 << node
        if not self.at[load]:
            del self.at[load]
            self.ascending.remove(load)
        load += by
        self.of[node] = load
        if load not in self.at:
            self.at[load] = 0
            insort(self.ascending, load)
        self.at[load] |= 1 << node


def _first(nodes: Nodes) -> int:
    return (nodes & -nodes).bit_length() - 1
