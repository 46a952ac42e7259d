"""`yaim status`: looks at the cluster, once or on and on, and shows who holds what and what is
wrong."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from yaim.cli.options import EX_CANNOT_START, add_config_options, complain, load_or_exit
from yaim.cli.parsers import closest
from yaim.config.load import Purpose
from yaim.status.facts import ClusterStatus, Condition, known, only, unknown

if TYPE_CHECKING:
    from yaim.status.look import Look


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NODE|ADDRESS",
        help="tell of these nodes, with what they hold, and of these addresses only; the exit"
        " status is about them, too",
    )
    parser.add_argument("--problems", action="store_true", help="only what is wrong")
    parser.add_argument(
        "--watch", action="store_true", help="show it on and on, until Ctrl-C; exit status 0"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="for programs: docs/schemas/status-1.json; with --watch a line for each change",
    )
    add_config_options(parser, Purpose.CLUSTER)


def run(options: argparse.Namespace) -> int:
    loaded = load_or_exit(options, Purpose.CLUSTER)
    from yaim.dcs.store import StoreError
    from yaim.status.look import Look, condition_of
    from yaim.wiring import store_parts_of

    look = Look(store_parts_of(loaded))
    if options.watch:
        try:
            return _watch(look, options)
        except KeyboardInterrupt:
            return Condition.HEALTHY
    try:
        found = look.status()
    except StoreError as error:
        condition = condition_of(error)
        _show_failure(look.prefix, condition, str(error), options)
        return condition
    names = unknown(found, options.names)
    if names and found.condition is not Condition.NOTHING:
        for name in names:
            close = closest(name, known(found))
            complain(f"{name!r} is neither a node nor an address of the pool{close}")
        return EX_CANNOT_START
    print(_shown(options)(found, None))
    return only(found, tuple(options.names)).condition


def _show_failure(
    prefix: str, condition: Condition, error: str, options: argparse.Namespace
) -> None:
    if not options.json:
        complain(f"cannot read etcd: {error}")
        return
    from yaim.status.as_json import failed

    print(failed(prefix, condition, error, datetime.now(UTC), is_line=options.watch), flush=True)


def _shown(options: argparse.Namespace) -> Callable[[ClusterStatus, float | None], str]:
    """Makes the text of a status; the second argument is its age, if it is not the present one."""
    names = tuple(options.names)
    if options.json:
        from yaim.status.as_json import as_json

        return lambda status, _: as_json(only(status, names), is_line=options.watch)
    from yaim.status.screen import has_colours
    from yaim.status.table import as_table

    is_coloured = has_colours(sys.stdout)
    return lambda status, age_s: as_table(
        only(status, names),
        problems_only=options.problems,
        is_coloured=is_coloured,
        age_s=age_s,
    )


def _watch(look: "Look", options: argparse.Namespace) -> int:
    """Survives whatever etcd does. Returns if nothing can ever be shown."""
    from yaim.status.look import Watching, condition_of
    from yaim.status.screen import Screen
    from yaim.status.watching import EVERY_S, Failed, Shown, essence, lines_of

    text = _shown(options)
    screen = Screen(sys.stdout) if sys.stdout.isatty() and not options.json else None
    watching, shown = Watching(look), Shown()
    told: ClusterStatus | type[Failed] | None = None
    while True:
        found = watching.next(EVERY_S)
        shown = shown.after(found, monotonic())
        if isinstance(found, Failed) and (
            shown.is_refused or (screen is None and told is not Failed)
        ):
            told = Failed
            condition = condition_of(found.error)
            _show_failure(look.prefix, condition, str(found.error), options)
            if shown.is_refused:
                return condition
        if screen is not None:
            screen.draw(lines_of(shown, monotonic(), text))
        elif isinstance(found, ClusterStatus) and told != essence(found):
            told = essence(found)
            print(text(found, None), end="\n" if options.json else "\n\n", flush=True)
