"""What operators ask for, and what it comes to on a view of the cluster: a change, its plan, and
what speaks against it. Pure.

A request is asked anew on each view: if another operator was faster, the plan is another one.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from yaim.core.model import (
    Address,
    ClusterView,
    NodeName,
    Order,
    PoolEntry,
    address_order,
    frozen_mapping,
    presence,
    thawed,
)
from yaim.core.placement import Placement
from yaim.dcs.operate import (
    Change,
    Delete,
    ForgetMember,
    RemoveDrain,
    RemoveMove,
    RemovePause,
    RemovePin,
    RemovePoolEntry,
    RemoveWeight,
    SetDrain,
    SetMove,
    SetPause,
    SetPin,
    SetPoolEntry,
    SetWeight,
)
from yaim.steer.applied import applied, entry_of, holders_of, settled, target_of
from yaim.steer.blocked import Obstacles
from yaim.steer.plan import Plan, Staying, plan_of

PAUSE_S = 3600
"""How long a pause is, unless it is said."""
CONTROLS_FROM = 4
"""The version of the placement from which on a node follows what operators ask for."""
FORCE = "--force does it all the same"
MOST_NAMED = 8
"""The most addresses or nodes that a sentence names."""

# --- what is asked for ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drain:
    nodes: tuple[NodeName, ...]
    reason: str = ""
    for_s: int | None = None
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Undrain:
    nodes: tuple[NodeName, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    reason: str = ""
    for_s: int | None = None
    """None: PAUSE_S."""


@dataclass(frozen=True, slots=True)
class Resume:
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MoveTo:
    address: Address
    node: NodeName
    reason: str = ""
    is_swapped: bool = False
    """Whether others may go back the other way, so that all is level again."""


@dataclass(frozen=True, slots=True)
class PinTo:
    address: Address
    node: NodeName
    reason: str = ""
    for_s: int | None = None
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Unpin:
    addresses: tuple[Address, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Weigh:
    node: NodeName
    weight: int
    """1 to 100; 0 is refused with a hint."""
    reason: str = ""
    for_s: int | None = None


@dataclass(frozen=True, slots=True)
class AddToPool:
    addresses: tuple[Address, ...]
    options: Mapping[str, object] = field(default_factory=lambda: frozen_mapping({}))
    is_forced: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetInPool:
    addresses: tuple[Address, ...]
    options: Mapping[str, object]
    """An option that is None is taken away; one that is not there stays as it is."""
    is_forced: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RemoveFromPool:
    addresses: tuple[Address, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Forget:
    node: NodeName
    reason: str = ""


Request: TypeAlias = (
    Drain
    | Undrain
    | Pause
    | Resume
    | MoveTo
    | PinTo
    | Unpin
    | Weigh
    | AddToPool
    | SetInPool
    | RemoveFromPool
    | Forget
)


def command_of(request: Request) -> str:
    """Its name in the history and in JSON."""
    return _COMMANDS[type(request)]


_COMMANDS: Mapping[type[Request], str] = {
    Drain: "drain",
    Undrain: "undrain",
    Pause: "pause",
    Resume: "resume",
    MoveTo: "move",
    PinTo: "pin",
    Unpin: "unpin",
    Weigh: "weight",
    AddToPool: "pool-add",
    SetInPool: "pool-set",
    RemoveFromPool: "pool-remove",
    Forget: "node-forget",
}


# --- what it comes to ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Goal:
    """What has to be so before the command is done; beside that each node has followed it."""

    drained: frozenset[NodeName] = frozenset()
    """Nodes that are to hold nothing that another could."""
    placed: Mapping[Address, NodeName] = field(default_factory=lambda: frozen_mapping({}))
    """Addresses that are to be on these nodes."""
    moved: frozenset[Address] = frozenset()
    """Addresses that are to be where the placement has them."""
    gone: frozenset[Address] = frozenset()
    """Addresses that nobody is to hold any more."""
    is_for_nodes: bool = True
    """Whether nodes have anything to follow."""


@dataclass(frozen=True, slots=True)
class Asked:
    change: Change
    plan: Plan
    goal: Goal
    refusals: tuple[str, ...] = ()
    """Why it is not to be done."""
    warnings: tuple[str, ...] = ()
    already: tuple[str, ...] = ()
    """What is so already."""
    hint: str = ""
    """What could be said to have it done all the same."""

    @property
    def is_change(self) -> bool:
        return bool(self.change.puts or self.change.deletes)


def asked(request: Request, view: ClusterView) -> Asked:
    match request:
        case Drain():
            return _drain(request, view)
        case Undrain():
            return _undrain(request, view)
        case Pause():
            return _pause(request, view)
        case Resume():
            return _resume(request, view)
        case MoveTo():
            return _move(request, view)
        case PinTo():
            return _pin(request, view)
        case Unpin():
            return _unpin(request, view)
        case Weigh():
            return _weigh(request, view)
        case AddToPool():
            return _add(request, view)
        case SetInPool():
            return _set(request, view)
        case RemoveFromPool():
            return _remove(request, view)
        case Forget():
            return _forget(request, view)
        case _:
            assert_never(request)


# --- drains --------------------------------------------------------------------------------------


def _drain(request: Drain, view: ClusterView) -> Asked:
    names = tuple(sorted(set(request.nodes)))
    if refusals := (*_unknown(view, names), *_older(view)):
        return _refused("drain", view, refusals)
    drains = view.control.drains
    is_renewed = bool(request.reason or request.for_s)
    kept = [name for name in names if name in drains and not is_renewed]
    puts = tuple(SetDrain(name, request.reason) for name in names if name not in kept)
    change = Change("drain", puts, for_s=request.for_s)
    after = applied(view, change)
    plan = plan_of(view, after)
    unheld = {each.address for each in plan_of(view, view).stays if each.node is None}
    new = [
        each
        for each in plan.stays
        if each.node in names or (each.node is None and each.address not in unheld)
    ]
    stuck = _grouped(new)
    warnings = [
        f"{name} is not there now: it is drained when it comes back"
        for name in names
        if name not in view.nodes
    ]
    warnings += [
        f"{address} is pinned to {pin.node}: the pin counts again when that is no longer drained"
        for address, pin in sorted(view.control.pins.items(), key=lambda each: str(each[0]))
        if pin.node in names
    ]
    refusals = () if request.is_forced or not puts else stuck
    return Asked(
        change,
        plan,
        Goal(drained=frozenset(names), moved=_moved(plan)),
        refusals,
        tuple(warnings),
        tuple(f"{name} is drained already{told_of(drains[name])}" for name in kept),
        FORCE if refusals else "",
    )


def _undrain(request: Undrain, view: ClusterView) -> Asked:
    names = tuple(sorted(set(request.nodes)))
    drains = view.control.drains
    if refusals := _unknown(view, [name for name in names if name not in drains]):
        return _refused("undrain", view, refusals)
    deletes = tuple(RemoveDrain(name) for name in names if name in drains)
    already = tuple(f"{name} is not drained" for name in names if name not in drains)
    return _without_orders(request, view, deletes, already)


# --- pause ---------------------------------------------------------------------------------------


def _pause(request: Pause, view: ClusterView) -> Asked:
    if refusals := _older(view):
        return _refused("pause", view, refusals)
    order = view.control.pause
    if order is not None and not request.reason and request.for_s is None:
        plan = plan_of(view, view)
        return Asked(
            Change("pause"), plan, Goal(), already=(f"it is paused already{told_of(order)}",)
        )
    for_s = PAUSE_S if request.for_s is None else request.for_s
    change = Change("pause", (SetPause(request.reason),), for_s=for_s)
    return Asked(change, plan_of(view, applied(view, change)), Goal())


def _resume(request: Resume, view: ClusterView) -> Asked:
    is_paused = view.control.pause is not None
    already = () if is_paused else ("it is not paused",)
    return _without_orders(request, view, (RemovePause(),) if is_paused else (), already)


# --- moves and pins ------------------------------------------------------------------------------


def _move(request: MoveTo, view: ClusterView) -> Asked:
    address, node = request.address, request.node
    holders, now = holders_of(view), target_of(view)
    refusals = _older(view) or _why_not(view, address, node, now)
    if refusals:
        return _refused("move", view, refusals)
    goal = Goal(placed=frozen_mapping({address: node}))
    if holders.get(address) == node == now.get(address) and address not in view.control.moves:
        plan = plan_of(view, view)
        return Asked(Change("move"), plan, goal, already=(f"{address} is on {node} already",))
    change = Change("move", (SetMove(address, node, request.reason),))
    after = applied(view, change)
    target = target_of(after)
    if target.get(address) != node:
        return _refused("move", view, (_not_placed(after, target, address, node),))
    if reason := _goes_back(after, target, address, node):
        return _refused("move", view, (reason,))
    back = _besides(view, now, target, address)
    if not back:
        plan = plan_of(view, after)
        return Asked(change, plan, Goal(placed=goal.placed, moved=_moved(plan)), (), _later(view))
    if not request.is_swapped:
        told = ", ".join(f"{a} from {now.get(a)} to {n}" for a, n in back[:MOST_NAMED])
        reason = (
            f"that would not be level, so that {_more(told, len(back))} would go, too: --swap does"
            f" both at once; `yaim pin {address} {node}` keeps it there"
        )
        return _refused("move", view, (reason,))
    swaps = tuple(SetMove(a, n, request.reason) for a, n in back)
    change = replace(change, puts=(*change.puts, *swaps))
    plan = plan_of(view, applied(view, change))
    placed = frozen_mapping({address: node} | dict(back))
    return Asked(change, plan, Goal(placed=placed, moved=_moved(plan)))


def _besides(
    view: ClusterView, now: Placement, target: Placement, address: Address
) -> list[tuple[Address, NodeName]]:
    """What else goes, because of a move."""
    return [
        (each, target[each])
        for each in sorted(view.pool, key=address_order)
        if each != address and each in target and target[each] != now.get(each)
    ]


def _goes_back(
    after: ClusterView, target: Placement, address: Address, node: NodeName
) -> str | None:
    """Why a move would not last."""
    then = target_of(settled(after, target)).get(address)
    if then == node:
        return None
    if (pin := after.control.pins.get(address)) is not None and pin.node == then:
        return f"{address} is pinned to {then} and would go back: `yaim unpin {address}` first"
    if then in after.pool[address].prefer:
        return (
            f"{address} prefers {then} and would go back: `yaim pin {address} {node}` keeps it on"
            f" {node}"
        )
    return f"{address} would go {'back ' * (then is not None)}to {then or 'nobody'} at once"


def _later(view: ClusterView) -> tuple[str, ...]:
    if view.control.pause is None:
        return ()
    return ("if that is not level, addresses go on when the pause ends",)


def _pin(request: PinTo, view: ClusterView) -> Asked:
    address, node = request.address, request.node
    pin = view.control.pins.get(address)
    refusals = _older(view) or (
        () if request.is_forced else _why_not(view, address, node, target_of(view))
    )
    if not refusals and address not in view.pool:
        refusals = (_not_in_pool(address),)
    if not refusals and request.is_forced:
        refusals = _unknown(view, (node,))
    if refusals:
        return _refused("pin", view, refusals)
    goal = Goal(placed=frozen_mapping({address: node}))
    if pin is not None and pin.node == node and not request.reason and request.for_s is None:
        already = (f"{address} is pinned to {node} already{told_of(pin.order)}",)
        return Asked(Change("pin"), plan_of(view, view), goal, already=already)
    change = Change("pin", (SetPin(address, node, request.reason),), for_s=request.for_s)
    after = applied(view, change)
    target, plan = target_of(after), plan_of(view, after)
    warnings: tuple[str, ...] = ()
    if target.get(address) != node:
        reason = _not_placed(after, target, address, node)
        if not request.is_forced:
            return _refused("pin", view, (reason,))
        warnings = (f"the pin waits: {reason}",)
    if pin is not None and pin.node != node:
        warnings = (*warnings, f"it replaces the pin to {pin.node}{told_of(pin.order)}")
    return Asked(change, plan, replace(goal, moved=_moved(plan)), (), warnings)


def _unpin(request: Unpin, view: ClusterView) -> Asked:
    pins = view.control.pins
    addresses = sorted(set(request.addresses), key=address_order)
    deletes = tuple(RemovePin(each) for each in addresses if each in pins)
    strange = [each for each in addresses if each not in pins and each not in view.pool]
    if strange:
        return _refused("unpin", view, tuple(_not_in_pool(each) for each in strange))
    already = tuple(f"{each} is not pinned" for each in addresses if each not in pins)
    return _without_orders(request, view, deletes, already)


def _weigh(request: Weigh, view: ClusterView) -> Asked:
    node, weight = request.node, request.weight
    if weight == 0:
        reason = f"a node with weight 0 is a drained one: say `yaim drain {node}`"
        return _refused("weight", view, (reason,))
    if refusals := _unknown(view, (node,)):
        return _refused("weight", view, refusals)
    present = view.control.weights.get(node)
    has = present.weight if present is not None else 1
    if has == weight and not (present is not None and (request.reason or request.for_s)):
        already = (f"{node} has the weight {weight} already",)
        return Asked(Change("weight"), plan_of(view, view), Goal(), already=already)
    if weight == 1 and request.for_s is None:
        reason = f"weight 1{f': {request.reason}' if request.reason else ''}"
        return _without_orders(replace(request, reason=reason), view, (RemoveWeight(node),), ())
    if refusals := _older(view):
        return _refused("weight", view, refusals)
    puts = (SetWeight(node, weight, request.reason),)
    change = Change("weight", puts, for_s=request.for_s, reason=f"weight {weight}")
    return _levelling(change, view)


# --- the pool ------------------------------------------------------------------------------------


def _add(request: AddToPool, view: ClusterView) -> Asked:
    wanted = sorted(set(request.addresses), key=address_order)
    entries = {each: entry_of(each, request.options) for each in wanted}
    other = [each for each in wanted if each in view.pool and view.pool[each] != entries[each]]
    if other:
        first = other[0]
        reason = (
            f"{_some(other)} {'is' if len(other) == 1 else 'are'} in the pool already, with other"
            f" options: `yaim pool set {first}` changes them"
        )
        return _refused("pool-add", view, (reason,))
    new = [each for each in wanted if each not in view.pool]
    already = tuple(f"{each} is in the pool already" for each in wanted if each in view.pool)
    return _put_entries("pool-add", {a: entries[a] for a in new}, request, view, already)


def _set(request: SetInPool, view: ClusterView) -> Asked:
    wanted = sorted(set(request.addresses), key=address_order)
    if strange := [each for each in wanted if each not in view.pool]:
        return _refused("pool-set", view, tuple(_not_in_pool(each) for each in strange))
    entries = {}
    for each in wanted:
        options = thawed(options_of(view.pool[each])) | thawed(request.options)
        entries[each] = entry_of(each, options)
    wrong = {each.name for each in view.wrong}
    changed = {a: e for a, e in entries.items() if e != view.pool[a] or str(a) in wrong}
    already = tuple(f"{a} is so already" for a in wanted if a not in changed)
    return _put_entries("pool-set", changed, request, view, already)


def _put_entries(
    command: str,
    entries: Mapping[Address, PoolEntry],
    request: AddToPool | SetInPool,
    view: ClusterView,
    already: tuple[str, ...],
) -> Asked:
    puts = tuple(SetPoolEntry(a, frozen_mapping(options_of(e))) for a, e in entries.items())
    change = Change(command, puts, reason=request.reason)
    after = applied(view, change)
    plan = plan_of(view, after)
    forbidden = tuple(
        f"{address}: no node may hold it: {reason}"
        for address, entry in entries.items()
        if (reason := _allowed_nowhere(view, entry))
    )
    if forbidden and not request.is_forced:
        return replace(_refused(command, view, forbidden, plan), hint=FORCE)
    warnings = list(forbidden)
    foreign = presence(view.nodes)
    for address in entries:
        warnings += [
            f"{address} is on {name} already, not by yaim ({where}): nobody takes it until it is"
            " removed there"
            for name, where in foreign.get(address, ())
            if command == "pool-add"
        ]
    named = {name for entry in entries.values() for name in (*entry.exclude, *entry.prefer)}
    known = known_nodes(view)
    warnings += [f"no node is called {name}" for name in sorted(named - known)]
    if entries and not view.nodes:
        warnings.append("no node is there: nobody tells whether it may hold this")
    goal = Goal(moved=_moved(plan))
    return Asked(change, plan, goal, (), tuple(warnings), already)


def _allowed_nowhere(view: ClusterView, entry: PoolEntry) -> str | None:
    """Why no live node may hold the address at all, whatever its state is now; None: one may."""
    found: dict[str, list[NodeName]] = {}
    for name, node in sorted(view.nodes.items()):
        told = replace(node.advertisement, is_healthy=True, down=frozenset(), refused=frozenset())
        if (reason := replace(node, advertisement=told).why_not(entry)) is None:
            return None
        found.setdefault(reason, []).append(name)
    if not found:
        return None
    return "; ".join(f"{reason}: {_some(names)}" for reason, names in found.items())


def _remove(request: RemoveFromPool, view: ClusterView) -> Asked:
    wanted = sorted(set(request.addresses), key=address_order)
    pool, control = view.pool, view.control
    leaving = [each for each in wanted if each in pool]
    deletes: list[Delete] = [RemovePoolEntry(each) for each in leaving]
    deletes += [RemovePin(each) for each in leaving if each in control.pins]
    deletes += [RemoveMove(each) for each in leaving if each in control.moves]
    change = Change("pool-remove", deletes=tuple(deletes), reason=request.reason)
    plan = plan_of(view, applied(view, change))
    holders = holders_of(view)
    held = [each for each in leaving if each in holders]
    warnings = []
    if held:
        warnings.append(f"{_some(held)}: whoever is connected there loses it, and nobody answers")
    warnings += [f"the pin of {each} goes with it" for each in leaving if each in control.pins]
    already = tuple(f"{each} is not in the pool" for each in wanted if each not in pool)
    moved = _moved(plan) - frozenset(leaving)
    goal = Goal(moved=moved, gone=frozenset(leaving))
    return Asked(change, plan, goal, (), tuple(warnings), already)


def options_of(entry: PoolEntry) -> Mapping[str, object]:
    """The options that an entry has, as they stand in JSON."""
    options = {
        "interface": entry.interface,
        "prefix": entry.prefix_length,
        "exclude": sorted(entry.exclude) or None,
        "prefer": sorted(entry.prefer) or None,
    }
    return frozen_mapping({name: value for name, value in options.items() if value is not None})


# --- nodes ---------------------------------------------------------------------------------------


def _forget(request: Forget, view: ClusterView) -> Asked:
    name = request.node
    if name in view.nodes:
        reason = f"{name} is there, and would be back at once: stop yaim on it first"
        return _refused("node-forget", view, (reason,))
    control = view.control
    is_known = name in control.members or name in control.drains or name in control.weights
    deletes: tuple[Delete, ...] = (ForgetMember(name),) if is_known else ()
    warnings = tuple(
        f"its {what} goes with it"
        for what, orders in (("drain", control.drains), ("weight", control.weights))
        if name in orders
    )
    already = () if is_known else (f"no node {name} is known",)
    change = Change("node-forget", deletes=deletes, reason=request.reason)
    plan = plan_of(view, applied(view, change))
    return Asked(change, plan, Goal(is_for_nodes=False), (), warnings, already)


def known_nodes(view: ClusterView) -> frozenset[NodeName]:
    """Those that live, and those that have been there."""
    return frozenset({*view.nodes, *view.control.members})


# --- what they have in common --------------------------------------------------------------------


def _refused(
    command: str, view: ClusterView, refusals: tuple[str, ...], plan: Plan | None = None
) -> Asked:
    return Asked(Change(command), plan or plan_of(view, view), Goal(), refusals)


def _without_orders(
    request: Request, view: ClusterView, deletes: tuple[Delete, ...], already: tuple[str, ...]
) -> Asked:
    change = Change(command_of(request), deletes=deletes, reason=request.reason)
    return replace(_levelling(change, view), already=already)


def _levelling(change: Change, view: ClusterView) -> Asked:
    """What moves because of it moves to be level: nodes may put that off (`rebalance`)."""
    plan = plan_of(view, applied(view, change))
    return Asked(change, plan, Goal(moved=_moved(plan)))


def _moved(plan: Plan) -> frozenset[Address]:
    return frozenset(each.address for each in plan.moves)


def _older(view: ClusterView) -> tuple[str, ...]:
    """Refuses while a live node does not follow what operators ask for."""
    return tuple(
        f"{name} has an older yaim ({node.advertisement.version or 'it does not tell which'}),"
        " which would not follow: upgrade it first, or stop it"
        for name, node in sorted(view.nodes.items())
        if node.advertisement.placement < CONTROLS_FROM
    )


def _unknown(view: ClusterView, names: Iterable[NodeName]) -> tuple[str, ...]:
    known = known_nodes(view)
    there_are = f"there are {_some(sorted(known))}" if known else "there is none"
    return tuple(f"no node is called {name}: {there_are}" for name in names if name not in known)


def _not_in_pool(address: Address) -> str:
    return f"{address} is not in the pool: `yaim pool list` shows what is, `yaim pool add` adds it"


def _why_not(
    view: ClusterView, address: Address, node: NodeName, target: Placement
) -> tuple[str, ...]:
    """Why the node cannot be given the address."""
    if address not in view.pool:
        return (_not_in_pool(address),)
    if node not in view.nodes:
        unknown = _unknown(view, (node,))
        return unknown or (f"{node} is not there now",)
    if holders_of(view).get(address) == node and node not in view.control.drains:
        reason = view.nodes[node].why_not(view.pool[address])
    else:
        reason = Obstacles(view, target).why_not(node, address)
    hint = f": `yaim undrain {node}` first" if node in view.control.drains else ""
    return (f"{node} cannot take {address}: {reason}{hint}",) if reason else ()


def _not_placed(after: ClusterView, target: Placement, address: Address, node: NodeName) -> str:
    reason = Obstacles(after, target).why_not(node, address)
    if reason is None and address in after.control.moves:
        reason = f"it is to be on {target.get(address) or 'no node'}"
    return f"{node} cannot take {address}: {reason or 'others are to hold it'}"


def _grouped(stays: Iterable[Staying]) -> tuple[str, ...]:
    """What would stay, with what has the same reason together."""
    found: dict[tuple[NodeName | None, str], list[Address]] = {}
    for each in stays:
        found.setdefault((each.node, each.reason), []).append(each.address)
    return tuple(
        f"{_some(addresses)} would {f'stay on {node}' if node else 'be held by nobody'}: {reason}"
        for (node, reason), addresses in found.items()
    )


def told_of(order: Order) -> str:
    """Since when, by whom and why, as far as that is told: ` since ... by ...: reason`."""
    words = [f" since {order.at}"] if order.at else []
    words += [f" by {order.by}"] if order.by else []
    words += [f" until {order.until}"] if order.until else []
    return f"{','.join(words)}{f': {order.reason}' if order.reason else ''}"


def _some(each: Collection[object]) -> str:
    words = [str(one) for one in each]
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return ", ".join(words[:MOST_NAMED]) + more


def _more(told: str, count: int) -> str:
    return told if count <= MOST_NAMED else f"{told} and {count - MOST_NAMED} more"
