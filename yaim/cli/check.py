"""`yaim check`: makes the checks once and tells what they find."""

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import assert_never

from yaim.checks.once import Found, check_once, is_healthy
from yaim.checks.verdict import CannotTell, Healthy, Unhealthy, Verdict
from yaim.cli.check_now import ask
from yaim.cli.options import (
    add_config_options,
    complain,
    flags,
    load_or_exit,
    start_logs,
)
from yaim.cli.parsers import EX_USAGE
from yaim.config.load import Purpose
from yaim.doctor.commands import account, being
from yaim.text import columns


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these checks")
    parser.add_argument(
        "--now",
        action="store_true",
        help="make none here, but have the coordinator make all of its checks at once; NAMEs mean"
        " nothing then, and no file is read; exit status 1: nobody looks at --check-trigger",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--user",
        default="yaim",
        help="root makes them as this user, which the coordinator runs as; default: %(default)s",
    )
    add_config_options(parser)


def run(options: argparse.Namespace) -> int:
    if options.now:
        return ask(flags(options).get("check-trigger", ""))
    loaded = load_or_exit(options, Purpose.CHECKS)
    start_logs(loaded)
    from yaim.wiring import check_plans_of

    plans = check_plans_of(loaded)
    names = [plan.name for plan in plans]
    for name in options.names:
        if name not in names:
            complain(f"there is no check {name!r}: there are {', '.join(names)}")
            return EX_USAGE
    if options.names:
        plans = tuple(plan for plan in plans if plan.name in options.names)
    user = account(options.user)
    is_other = os.geteuid() == 0 and user is not None and user.pw_uid != 0
    if os.geteuid() == 0 and user is None:
        complain(f"warning: made as root: there is no user {options.user} (--user)")
    with being(user) if is_other and user is not None else nullcontext():
        found = check_once(plans)
    is_any_enough = loaded.healthy_when == "any"
    show = as_json if options.json else as_table
    print(show(found, is_any_enough))
    return 0 if is_healthy(found, is_any_enough) else 1


def as_table(found: Sequence[Found], is_any_enough: bool) -> str:
    rows = [
        (
            each.name,
            each.kind,
            _word(each.result.verdict),
            f"{1000 * each.result.took_s:.0f} ms",
            str(each.result.tries),
            each.result.verdict.reason,
        )
        for each in found
    ]
    lines = columns(("CHECK", "TYPE", "RESULT", "TOOK", "TRIES", "FOUND"), rows)
    if len(found) > 1:
        word = "healthy" if is_healthy(found, is_any_enough) else "unhealthy"
        needed = "any of them is enough" if is_any_enough else "all of them have to be good"
        lines += ["", f"The node is {word}: {needed} (healthy-when)."]
    return "\n".join(lines)


def as_json(found: Sequence[Found], is_any_enough: bool) -> str:
    return json.dumps(
        {
            "healthy": is_healthy(found, is_any_enough),
            "checks": [
                {
                    "name": each.name,
                    "type": each.kind,
                    "result": _word(each.result.verdict),
                    "took_s": round(each.result.took_s, 6),
                    "tries": each.result.tries,
                    "found": each.result.verdict.reason,
                }
                for each in found
            ],
        },
        indent=2,
    )


def _word(verdict: Verdict) -> str:
    match verdict:
        case Healthy():
            return "healthy"
        case Unhealthy():
            return "unhealthy"
        case CannotTell():
            return "no answer"
        case _:
            assert_never(verdict)
