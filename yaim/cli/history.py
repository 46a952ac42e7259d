"""`yaim history`: what has happened in the last days, and who asked for it."""

import argparse
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from yaim.cli.options import add_config_options, complain
from yaim.cli.parsers import EX_USAGE
from yaim.cli.steering import (
    Opened,
    a_moment,
    a_node,
    a_range,
    add_json_option,
    all_of,
    fail,
    now_as_text,
    open_store,
    print_json,
    show_lines,
)
from yaim.config.load import Purpose
from yaim.dcs.operate import HISTORY_DAYS, HISTORY_EVENTS
from yaim.dcs.store import StoreError
from yaim.steer.applied import holders_of
from yaim.steer.events import Chosen, event_as_json, event_line
from yaim.steer.outcome import Exit
from yaim.steer.picture import picture

if TYPE_CHECKING:
    from yaim.dcs.operate import HistoryEvent

SCHEMA = "yaim.history/1"
AGAIN_AFTER_S = 1.0
"""After a watch has broken it is begun anew so much later."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    when = "a time (UTC) such as 2026-12-01T03:00:00Z or 2026-12-01, or how long ago: 2h, 3d"
    parser.add_argument("--since", type=a_moment, metavar="TIME", help=f"from then on; {when}")
    parser.add_argument("--until", type=a_moment, metavar="TIME", help="up to then; the same")
    parser.add_argument(
        "--node", type=a_node, action="append", default=[], metavar="NODE", help="only of this node"
    )
    parser.add_argument(
        "--address",
        type=a_range,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="only of this address, or of a range",
    )
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="KIND",
        help="only such: held, released, lost, joined, stopped, unhealthy, drain, move ...",
    )
    parser.add_argument("--follow", action="store_true", help="go on with what happens from now on")
    add_json_option(parser)
    parser.add_argument(
        "--svg", action="store_true", help="a picture: who held what, over the time"
    )
    add_config_options(parser, Purpose.CLUSTER)


def run(options: argparse.Namespace) -> int:
    if options.svg and (options.json or options.follow):
        complain("--svg is a picture of what has been: without --json and --follow")
        return EX_USAGE
    if options.follow and options.until is not None:
        complain("--follow has no end: without --until")
        return EX_USAGE
    opened = open_store(options)
    chosen = Chosen(
        frozenset(options.node),
        frozenset(all_of(options.address)),
        frozenset(each.lower() for each in options.kind),
    )
    try:
        if options.svg:
            print(_picture(opened, options, chosen), end="")
            return 0
        events = opened.operations.history(options.since, options.until, HISTORY_EVENTS)
    except StoreError as error:
        return fail(error, SCHEMA, opened.prefix, as_json_too=options.json, events=None)
    wanted = [event for event in events if chosen.has(event)]
    if options.follow:
        return _follow(opened, options, chosen, events)
    if options.json:
        print_json(
            {
                "schema": SCHEMA,
                "time": now_as_text(),
                "cluster": opened.prefix,
                "revision": max((event.revision for event in events), default=None),
                "events": list(map(event_as_json, wanted)),
                "error": None,
            }
        )
    elif wanted:
        show_lines(list(map(event_line, wanted)))
    else:
        complain(
            f"nothing: the history has {HISTORY_DAYS} days and {HISTORY_EVENTS} events at most"
        )
    return 0


def _picture(opened: Opened, options: argparse.Namespace, chosen: Chosen) -> str:
    view = opened.operations.look()
    now = datetime.now(UTC)
    until = options.until or now
    events = opened.operations.history(None, None, HISTORY_EVENTS)
    since = options.since
    if since is None:
        since = max(
            min((event.at for event in events), default=until), until - timedelta(HISTORY_DAYS)
        )
    if since >= until:
        since = until - timedelta(hours=1)
    holders = {
        address: name
        for address, name in holders_of(view).items()
        if not chosen.addresses or address in chosen.addresses
    }
    wanted = [event for event in events if chosen.has(event)]
    return picture(wanted, holders, since, until)


def _follow(
    opened: Opened, options: argparse.Namespace, chosen: Chosen, events: "list[HistoryEvent]"
) -> int:
    """Each event is a line, of JSON with --json. Ctrl-C ends it."""
    seen = 0
    try:
        while True:
            seen = _show_new(options, chosen, events, seen)
            try:
                for _ in opened.operations.watch():
                    events = opened.operations.history(options.since, None, HISTORY_EVENTS)
                    seen = _show_new(options, chosen, events, seen)
            except StoreError as error:
                complain(f"{error}; trying again")
                time.sleep(AGAIN_AFTER_S)
    except KeyboardInterrupt:
        return int(Exit.DONE)


def _show_new(
    options: argparse.Namespace, chosen: Chosen, events: "list[HistoryEvent]", seen: int
) -> int:
    for event in events:
        if event.revision > seen and chosen.has(event):
            line = event_line(event)
            print(json.dumps(event_as_json(event)) if options.json else line, flush=True)
    return max((seen, *(event.revision for event in events)))
