"""How a node is, in one line: for systemd (`systemctl status`), and for ps(1)."""

from collections import defaultdict
from collections.abc import Iterable
from operator import is_not

from yaim.core.model import Address, NodeName
from yaim.core.state.state import State

_MOST_LISTED = 8
"""More addresses of a node than these are not told one by one."""
_MOST_TOLD = 100
"""The most characters of why there is no fence in the kernel, or why connections stay."""


class StatusLine:
    """Makes the line anew only if something in it may have changed."""

    def __init__(self) -> None:
        self._made_from: tuple[object, ...] = ()
        self._line = ""

    def of(self, state: State) -> str:
        health = state.health
        helper = state.host.helper
        made_from = (
            *(state.cluster.view, state.addresses.known, health.judged, health.waits_s),
            *(helper, state.settings),
        )
        if len(made_from) != len(self._made_from) or any(map(is_not, made_from, self._made_from)):
            self._made_from = made_from
            self._line = status_of(state)
        return self._line


def title_of(state: State) -> str:
    """The title of the process, such as `yaim: coordinator db1 healthy 2/6`."""
    view = state.cluster.view
    pool = len(view.pool) if view is not None else 0
    held = f"{len(state.held)}/{pool}"
    return f"yaim: coordinator {state.settings.node} {health_word(state)} {held}"


def health_word(state: State) -> str:
    """A node that waits is healthy, too."""
    if state.health.waits_s:
        return "waiting"
    if state.health.judged is None:
        return "starting"
    return "healthy" if state.health.judged.is_healthy else "unhealthy"


def status_of(state: State) -> str:
    """How this node is, what it holds, and what the others hold. Names in it may come from etcd, so
    it may hold anything."""
    node, view = state.settings.node, state.cluster.view
    own = f"{node} {health_word(state)}, holds {_listed(state.held)}"
    if view is None:
        return f"{own}; etcd has not been read"
    others: defaultdict[NodeName, list[Address]] = defaultdict(list)
    for address, mark in view.marks.items():
        if mark.holder != node:
            others[mark.holder].append(address)
    nobody = [address for address in view.pool if address not in view.marks]
    return "; ".join(
        (
            f"{own} of {len(view.pool)}",
            *(f"{name}: {_listed(others[name])}" for name in sorted(others)),
            *([f"nobody: {_listed(nobody)}"] if nobody else []),
            *_without_fence(state),
            *_without_resets(state),
        )
    )


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
