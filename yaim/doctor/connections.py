"""Whether the connections of an address are reset when it moves from this host."""

from collections.abc import Iterator
from pathlib import Path

from yaim.core.model import Resets
from yaim.doctor.finding import Finding, not_looked_at, ok, warning

CONNECTIONS = "connections"


def look_at_connections(
    are_reset: bool, told: Resets | str | None, rules: tuple[bool, ...], file: Path, restart: str
) -> Iterator[Finding]:
    """`are_reset`: as yaim.yml has it; `told`: what the helper that runs says (helper.resets_of);
    `rules`: whether each rule of helper.yml, which is `file`, lets connections be reset; `restart`:
    the command that starts the helper anew."""
    leave = "or set connections: leave in yaim.yml"
    if not are_reset:
        yield ok(CONNECTIONS, "stay when an address moves (connections: leave)")
    elif rules and not any(rules):
        what = f"stay when an address moves: {file} has reset-connections: false"
        yield warning(CONNECTIONS, what, f"take that out and reload the helper, {leave}")
    elif isinstance(told, str):
        yield not_looked_at(CONNECTIONS, told)
    elif told is None:
        what = "stay when an address moves: the helper that runs is older than its program"
        yield warning(CONNECTIONS, what, restart)
    elif not told.can_reset:
        what = f"stay when an address moves: {told.reason}"
        yield warning(CONNECTIONS, what, f"mend that, then {restart}; {leave}")
    elif not all(rules):
        yield ok(
            CONNECTIONS, f"are reset, but for {rules.count(False)} of {len(rules)} rules in {file}"
        )
    else:
        yield ok(CONNECTIONS, "are reset when an address moves from here")
