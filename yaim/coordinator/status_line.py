"""How a node is, in one line: for systemd (`systemctl status`), and for ps(1).

What is not known to be so now is not told: while etcd is silent, for how long it has been, in place
of what the others hold.
"""

from collections import defaultdict
from collections.abc import Iterable
from operator import is_not

from yaim.core.model import Address, Boottime, NodeName
from yaim.core.state.state import State
from yaim.status.of_node import missing, why_nothing

_MOST_LISTED = 8
"""More addresses of a node than these are not told one by one."""
_MOST_TOLD = 100
"""The most characters of why there is no fence in the kernel, or why connections stay."""
_MOST_PROBLEMS = 5
_NAME_IN_USE = "waiting: name in use"


class StatusLine:
    """Makes the lines anew only if something in them may have changed."""

    def __init__(self) -> None:
        self._made_from: tuple[object, ...] = ()
        self._silent_s: int | None = None
        self._lines = "", ""

    def of(self, state: State, now: Boottime) -> str:
        """The line for systemd."""
        return self._of(state, now)[0]

    def title(self, state: State, now: Boottime) -> str:
        """The title of the process, such as `yaim: coordinator db1 healthy 2/6`."""
        return self._of(state, now)[1]

    def _of(self, state: State, now: Boottime) -> tuple[str, str]:
        made_from = (
            *(state.cluster.view, state.addresses.known, state.health.judged, state.health.waits_s),
            *(state.host.helper, state.settings, state.problems, state.advertised.name_taken_since),
        )
        silent_s = silent_for_s(state, now)
        if (
            len(made_from) != len(self._made_from)
            or any(map(is_not, made_from, self._made_from))
            or silent_s != self._silent_s
        ):
            self._made_from, self._silent_s = made_from, silent_s
            self._lines = status_of(state, now), title_of(state, now)
        return self._lines


def silent_for_s(state: State, now: Boottime) -> int | None:
    """For how many seconds etcd has not answered, as far as that is known; None: it answers. Who
    has no lease may be refused one by an etcd that answers."""
    asked = [state.cluster.read, *([state.lease.retry] if state.lease.current is not None else [])]
    since = [each.failing_since for each in asked if each.failures]
    return max(0, int(now - min(since))) if since else None


def title_of(state: State, now: Boottime) -> str:
    view, silent_s = state.cluster.view, silent_for_s(state, now)
    pool = str(len(view.pool)) if view is not None and silent_s is None else "?"
    told = f"{health_word(state)} {len(state.held)}/{pool}"
    if silent_s is not None:
        told = f"{told}, {_silent(silent_s)}"
        return f"yaim: coordinator {state.settings.node} {told}"
    if view is not None and view.control.pause is not None:
        told = f"{told}, paused"
    if why := _why_nothing(state):
        told = f"{told}, can hold nothing: {why[:_MOST_TOLD]}"
    return f"yaim: coordinator {state.settings.node} {told}"


def health_word(state: State) -> str:
    """A node that waits is healthy, too."""
    if state.advertised.name_taken_since is not None:
        return _NAME_IN_USE
    if state.health.waits_s:
        return "waiting"
    if state.health.judged is None:
        return "starting"
    if not state.health.judged.is_healthy:
        return "unhealthy"
    view = state.cluster.view
    is_drained = view is not None and state.settings.node in view.control.drains
    return "drained" if is_drained else "healthy"


def status_of(state: State, now: Boottime) -> str:
    """How this node is, what it holds, and what the others hold. Names in it may come from etcd, so
    it may hold anything."""
    node, view, silent_s = state.settings.node, state.cluster.view, silent_for_s(state, now)
    own = f"{node} {health_word(state)}, holds {_listed(state.held)}"
    here = (*_problems(state), *_without_fence(state), *_without_resets(state))
    if silent_s is not None:
        return "; ".join((f"{own}; {_silent(silent_s)}: what others hold is not known", *here))
    if view is None:
        return "; ".join((f"{own}; etcd has not been read", *here))
    others: defaultdict[NodeName, list[Address]] = defaultdict(list)
    for address, mark in view.marks.items():
        if mark.holder != node:
            others[mark.holder].append(address)
    nobody = [address for address in view.pool if address not in view.marks]
    return "; ".join(
        (
            f"{own} of {len(view.pool)}",
            *([f"can hold nothing: {why}"] if (why := _why_nothing(state)) else []),
            *(f"{name}: {_listed(others[name])}" for name in sorted(others)),
            *([f"nobody: {_listed(nobody)}"] if nobody else []),
            *_cluster(state),
            *here,
        )
    )


def _silent(silent_s: int) -> str:
    return f"etcd silent for {silent_s} s"


def _why_nothing(state: State) -> str:
    """Why this node can hold nothing of the pool, though it is healthy."""
    view = state.cluster.view
    mine = view.nodes.get(state.settings.node) if view is not None else None
    if view is None or mine is None or not mine.advertisement.is_healthy:
        return ""
    return why_nothing(mine, view.pool)


def _cluster(state: State) -> list[str]:
    """Who is missing, and what operators have asked for."""
    view = state.cluster.view
    if view is None:
        return []
    gone = sorted(missing(view))
    told = [f"missing: {', '.join(gone[:_MOST_LISTED])}"] if gone else []
    if len(gone) > _MOST_LISTED:
        told = [f"{told[0]}, ..."]
    if view.control.pause is not None:
        told.append(f"paused{_by(view.control.pause.by)}")
    order = view.control.drains.get(state.settings.node)
    return [*told, f"drained{_by(order.by)}"] if order is not None else told


def _by(name: str) -> str:
    return f" by {name[:_MOST_TOLD]}" if name else ""


def _problems(state: State) -> list[str]:
    return [each[: 2 * _MOST_TOLD] for each in state.problems.all[:_MOST_PROBLEMS]]


def _without_fence(state: State) -> list[str]:
    helper = state.host.helper
    if helper is None or helper.fence.is_in_force:
        return []
    return [f"no fence in the kernel: {helper.fence.reason[:_MOST_TOLD]}"]


def _without_resets(state: State) -> list[str]:
    helper = state.host.helper
    if helper is None or not state.settings.resets_connections or not helper.why_no_reset:
        return []
    return [f"no connections are reset: {helper.why_no_reset[:_MOST_TOLD]}"]


def _listed(addresses: Iterable[Address]) -> str:
    """How many addresses these are, and the first of them."""
    ordered = sorted(addresses, key=lambda each: (each.version, each))
    first = [str(each) for each in ordered[:_MOST_LISTED]]
    more = ["..."] if len(ordered) > len(first) else []
    return f"{len(ordered)} ({', '.join([*first, *more])})" if first else "0"
