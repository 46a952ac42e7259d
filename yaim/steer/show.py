"""Plans and outcomes as text and as JSON. Pure."""

from collections.abc import Sequence

from yaim.core.model import ClusterView
from yaim.steer.plan import Going, Plan, Share, Staying
from yaim.text import columns, parsable

MOST_NAMED = 8
MOST_LINES = 100
"""The most addresses that a plan lists for people."""


def plan_lines(plan: Plan) -> list[str]:
    """What moves, how many each node has then, and what stays without a choice."""
    lines = [
        f"{each.address!s:15}  {each.source or '(nobody)'} -> {each.target or '(nobody)'}"
        for each in plan.moves[:MOST_LINES]
    ]
    lines += _further(len(plan.moves))
    lines += [] if plan.moves else ["Nothing moves."]
    if plan.moves and plan.shares:
        lines += ["", *columns(("NODE", "NOW", "THEN", ""), [_share(each) for each in plan.shares])]
    if plan.stays:
        lines += ["", *stay_lines(plan.stays)]
    return lines


def stay_lines(stays: Sequence[Staying]) -> list[str]:
    """What stays; what has the same reason together."""
    found: dict[tuple[str | None, str], list[str]] = {}
    for each in stays:
        found.setdefault((each.node, each.reason), []).append(str(each.address))
    lines = []
    for (node, reason), addresses in found.items():
        some = ", ".join(addresses[:MOST_NAMED])
        some += f" and {len(addresses) - MOST_NAMED} more" if len(addresses) > MOST_NAMED else ""
        verb = f"stay{'s' * (len(addresses) == 1)} on {node}"
        nobody = f"{'is' if len(addresses) == 1 else 'are'} held by nobody"
        lines.append(f"{some} {verb if node else nobody}: {reason}")
    return lines


def going_lines(moves: Sequence[Going]) -> list[str]:
    lines = [
        f"{each.address} is {f'on {each.source}' if each.source else 'held by nobody'}, and is to"
        f" be {f'on {each.target}' if each.target else 'held by nobody'}"
        for each in moves[:MOST_LINES]
    ]
    return lines + _further(len(moves))


def _further(count: int) -> list[str]:
    return [f"... and {count - MOST_LINES} more (--json has all)"] if count > MOST_LINES else []


def _share(share: Share) -> tuple[str, ...]:
    return share.node, str(share.before), str(share.after), share.state


def plan_as_json(plan: Plan) -> dict[str, object]:
    return {
        "moves": going_as_json(plan.moves),
        "nodes": [
            {
                "node": parsable(each.node),
                "before": each.before,
                "after": each.after,
                "state": each.state or None,
            }
            for each in plan.shares
        ],
        "stays": stays_as_json(plan.stays),
    }


def going_as_json(moves: Sequence[Going]) -> list[dict[str, object]]:
    return [
        {
            "address": str(each.address),
            "from": _name(each.source),
            "to": _name(each.target),
        }
        for each in moves
    ]


def stays_as_json(stays: Sequence[Staying]) -> list[dict[str, object]]:
    return [
        {
            "address": str(each.address),
            "node": _name(each.node),
            "reason": parsable(each.reason),
        }
        for each in stays
    ]


def _name(name: str | None) -> str | None:
    return None if name is None else parsable(name)


def standing_lines(view: ClusterView) -> list[str]:
    """What operators have asked for that changes how a plan is to be read."""
    control = view.control
    lines = []
    if control.pause is not None:
        until = f" until {control.pause.until}" if control.pause.until else ""
        lines.append(f"It is paused{until}: nothing moves only to be level.")
    return lines
