"""What the commands of operators have in common: their options, and the way from a request to an
exit status: look, plan, ask, commit, wait."""

import argparse
import json
import os
import pwd
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from yaim.cli.options import add_config_options, complain, load_or_exit
from yaim.cli.parsers import EX_USAGE
from yaim.config.load import Purpose
from yaim.core.model import Address, NodeName
from yaim.dcs.store import NotPermitted, StoreError, StoreFull
from yaim.steer.outcome import End, Exit, Outcome, as_json
from yaim.steer.requests import Asked, Request, asked, command_of
from yaim.steer.show import going_lines, plan_lines, stay_lines
from yaim.steer.wait import Blocked, Finished, GoingOn, Overtaken, Wait, told
from yaim.steer.words import (
    NotRead,
    address_of,
    addresses_of,
    moment_of,
    reason_of,
    seconds_of,
    weight_of,
)
from yaim.text import printable_lines

if TYPE_CHECKING:
    from yaim.core.model import ClusterView
    from yaim.dcs.operate import Operations

TIMEOUT_S = 60
LOOK_EVERY_S = 0.1
"""The least time between two looks while it waits."""
TELL_EVERY_S = 5.0
TRIES = 3
"""With --yes a change is planned anew so often, if others change something at the same time."""

Read = TypeVar("Read")


# --- options -------------------------------------------------------------------------------------


def as_type(read: Callable[[str], Read]) -> Callable[[str], Read]:
    """A type for argparse, which tells what is expected."""

    def checked(word: str) -> Read:
        try:
            return read(word)
        except NotRead as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


an_address = as_type(address_of)
a_time = as_type(seconds_of)
a_weight = as_type(weight_of)
a_moment = as_type(lambda word: moment_of(word, datetime.now(UTC)))


@as_type
def a_range(word: str) -> tuple[Address, ...]:
    return addresses_of((word,))


@as_type
def a_node(word: str) -> NodeName:
    if not word or len(word) > 200 or any(each.isspace() or each == "/" for each in word):
        raise NotRead(f"{word[:60]!r} is not the name of a node: `yaim node list` shows them")
    return NodeName(word)


def all_of(ranges: Sequence[tuple[Address, ...]]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(address for each in ranges for address in each))


def add_change_options(parser: argparse.ArgumentParser, *, ends: str = "") -> None:
    """`ends`: what --for says it is for; empty: there is none."""
    parser.add_argument(
        "--reason",
        metavar="TEXT",
        type=as_type(reason_of),
        default="",
        help="why, for those who find it later: history shows it, and status while it stands",
    )
    if ends:
        parser.add_argument(
            "--for", metavar="TIME", dest="for_s", type=a_time, default=None, help=ends
        )
    parser.add_argument("--plan", action="store_true", help="show what would happen, and end")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait until it is done (the default), or do not",
    )
    parser.add_argument(
        "--timeout",
        dest="timeout_s",
        metavar="TIME",
        type=a_time,
        default=TIMEOUT_S,
        help=f"how long to wait; default: {TIMEOUT_S}s",
    )
    add_json_option(parser)
    add_config_options(parser, Purpose.CLUSTER)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def add_force_option(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--force", action="store_true", help=help)


def wanted_reason(options: argparse.Namespace) -> str:
    """The reason that was given; on a terminal it is asked for if none was."""
    given: str = options.reason
    if given or options.yes or options.plan or options.json or not is_interactive():
        return given
    while True:
        try:
            return reason_of(_answer("reason (for those who find this later): "))
        except NotRead as error:
            complain(str(error))


# --- the store -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    operations: "Operations"
    prefix: str


def open_store(options: argparse.Namespace) -> Opened:
    loaded = load_or_exit(options, Purpose.CLUSTER)
    from yaim.wiring import store_parts_of

    parts = store_parts_of(loaded)
    return Opened(parts.operations(), parts.prefix)


def end_of(error: StoreError) -> End:
    match error:
        case NotPermitted():
            return End.NOT_PERMITTED
        case StoreFull():
            return End.FULL
        case _:
            return End.UNREACHABLE


def now_as_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_json(told: object) -> None:
    print(json.dumps(told, indent=2))


def who() -> str:
    """The user and the host, such as `root@db1`; with sudo the user who has called it."""
    name = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    if not name or not name.isprintable():
        try:
            name = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            name = str(os.geteuid())
    return f"{name[:64]}@{os.uname().nodename[:64]}"


# --- from a request to an exit status ------------------------------------------------------------


def steer(
    options: argparse.Namespace,
    request: Callable[[], Request],
    undo: str = "",
) -> int:
    """`request` may ask for a reason. `undo`: the command that takes it back."""
    if not (options.yes or options.plan or is_interactive()):
        complain("say --yes: there is no terminal on which you could be asked (or --plan)")
        return EX_USAGE
    if options.json and not (options.yes or options.plan):
        complain("--json asks nothing: say --yes, or --plan")
        return EX_USAGE
    opened = open_store(options)
    steering = Steering(
        options,
        opened.operations,
        undo,
        is_waiting=options.wait,
        clock=Clock(),
    )
    try:
        wanted = request()
    except KeyboardInterrupt:
        complain("nothing was changed")
        return int(Exit.INTERRUPTED)
    try:
        outcome = steering.run(wanted)
    except KeyboardInterrupt:
        outcome = steering.interrupted(wanted)
    if options.json:
        print_json(as_json(outcome, opened.prefix, now_as_text(), who()))
    else:
        steering.show(outcome)
    return int(outcome.end.status)


class Clock:
    """Waits, and tells the monotonic time."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Steering:
    def __init__(
        self,
        options: argparse.Namespace,
        operations: "Operations",
        undo: str,
        *,
        is_waiting: bool,
        clock: Clock,
    ) -> None:
        self._options = options
        self._operations = operations
        self._clock = clock
        self._undo = undo
        self._is_waiting = is_waiting
        self._is_for_people = not options.json
        self._so_far: Outcome | None = None
        """What would be told if it were interrupted now."""

    def interrupted(self, request: Request) -> Outcome:
        so_far = self._so_far or Outcome(command_of(request), End.INTERRUPTED)
        return replace(so_far, end=End.INTERRUPTED)

    def run(self, request: Request) -> Outcome:
        tries = TRIES if self._options.yes else sys.maxsize
        while True:
            outcome = self._try(request)
            tries -= 1
            if outcome.end is not End.CONFLICT or not tries:
                return outcome
            if self._is_for_people:
                complain(f"{outcome.error}: planned anew")

    def _try(self, request: Request) -> Outcome:
        try:
            view = self._operations.look()
        except StoreError as error:
            return Outcome(command_of(request), end_of(error), error=str(error))
        found = asked(request, view)
        outcome = Outcome(
            found.change.command,
            End.PLANNED,
            found.plan,
            found.already,
            found.refusals,
            found.hint,
            found.warnings,
        )
        self._so_far = outcome
        if found.refusals:
            return replace(outcome, end=End.REFUSED)
        if self._is_for_people:
            self._show_plan(found)
        if not found.is_change:
            done = replace(outcome, end=End.ALREADY, revision=view.control.revision)
            if self._options.plan or not self._is_waiting:
                return done
            waited = self._wait(found, done)
            return replace(done, waited_s=waited.waited_s) if waited.end is End.DONE else waited
        if self._options.plan:
            return outcome
        if not self._options.yes and not _is_yes(_answer("\nDo it? [y/N] ")):
            return replace(outcome, end=End.DECLINED)
        return self._commit(found, view, outcome)

    def _commit(self, found: Asked, view: "ClusterView", outcome: Outcome) -> Outcome:
        from yaim.dcs.operate import Conflict

        try:
            answer = self._operations.commit(found.change, view, who(), datetime.now(UTC))
        except StoreError as error:
            end = end_of(error)
            unknown = ""
            if end is End.UNREACHABLE:
                unknown = "; whether it was done is not known: the same command again is harmless"
            return replace(outcome, end=end, error=f"{error}{unknown}")
        if isinstance(answer, Conflict):
            return replace(outcome, end=End.CONFLICT, error=answer.reason)
        outcome = replace(outcome, end=End.ASKED, revision=answer.revision)
        self._so_far = outcome
        if not found.goal.is_for_nodes:
            return replace(outcome, end=End.DONE)
        return self._wait(found, outcome) if self._is_waiting else outcome

    def _wait(self, found: Asked, outcome: Outcome) -> Outcome:
        assert outcome.revision is not None
        wait = Wait(found.change, found.goal, outcome.revision)
        started = self._clock.now()
        deadline, tell_at = started + self._options.timeout_s, started + TELL_EVERY_S
        error = ""
        while True:
            looked_at = self._clock.now()
            try:
                wait, error = wait.after(self._operations.look(), self._clock.now()), ""
            except StoreError as failed:
                if end_of(failed) is End.NOT_PERMITTED:
                    return replace(outcome, end=End.NOT_PERMITTED, error=str(failed))
                error = str(failed)
            now = self._clock.now()
            waited_s = round(now - started, 3)
            outcome = replace(outcome, waited_s=waited_s, error=error)
            match wait.progress:
                case Finished(later) if not error:
                    return replace(outcome, end=End.DONE, left=later, silent=())
                case Blocked(stays) if not error:
                    return replace(outcome, end=End.BLOCKED, blocked=stays)
                case Overtaken(reason) if not error:
                    return replace(outcome, end=End.OVERTAKEN, error=reason, left=(), silent=())
                case GoingOn(left, silent):
                    outcome = replace(outcome, left=left, silent=silent)
                    self._so_far = outcome
                case _:
                    pass
            if now >= deadline:
                return replace(outcome, end=End.TIMEOUT)
            if now >= tell_at and self._is_for_people:
                words = f"etcd does not answer: {error}" if error else told(wait.progress)
                complain(f"{waited_s:.0f} s: {words}")
                tell_at = now + TELL_EVERY_S
            self._clock.sleep(min(max(LOOK_EVERY_S, now - looked_at), deadline - now))

    # --- for people ------------------------------------------------------------------------------

    def _show_plan(self, found: Asked) -> None:
        lines = [f"{each}." for each in found.already]
        if (found.is_change and found.goal.is_for_nodes) or found.plan.moves:
            lines += ["", *plan_lines(found.plan)] if lines else plan_lines(found.plan)
        lines += ["", *(f"Note: {each}." for each in found.warnings)] if found.warnings else []
        _print_lines(lines)

    def show(self, outcome: Outcome) -> None:
        """What it has come to; the plan is shown already."""
        command = outcome.command.replace("-", " ")
        after = f" after {outcome.waited_s:.1f} s" if outcome.waited_s is not None else ""
        takes_back = f" `{self._undo}` takes it back." if self._undo else ""
        match outcome.end:
            case End.DONE:
                _print_lines(["", f"{command}: done{after}.{takes_back}"])
                if outcome.left:
                    lines = going_lines(outcome.left)
                    _print_lines(["Put off by `rebalance` of the nodes that hold them:", *lines])
            case End.ALREADY | End.PLANNED:
                pass
            case End.ASKED:
                _print_lines(["", f"{command}: asked for; not waited.{takes_back}"])
            case End.REFUSED:
                for reason in outcome.refusals:
                    complain(f"{command}: {reason}")
                hint = f" ({outcome.hint})" if outcome.hint else ""
                complain(f"nothing was changed{hint}")
            case End.DECLINED:
                complain("nothing was changed")
            case End.CONFLICT:
                complain(f"{outcome.error}: nothing was changed; try again")
            case End.BLOCKED:
                complain(f"{command}: it stands, and cannot go on by itself:")
                _complain_lines(stay_lines(outcome.blocked))
                complain(f"what stands in its way gone, it goes on.{takes_back}")
            case End.TIMEOUT:
                complain(f"{command}: not done{after}; it stands, and goes on.{takes_back}")
                self._show_left(outcome)
            case End.OVERTAKEN:
                complain(f"{command}: {outcome.error}: somebody has taken it back")
            case End.FULL | End.UNREACHABLE | End.NOT_PERMITTED:
                complain(outcome.error)
            case End.INTERRUPTED if outcome.revision is None:
                complain("nothing was changed")
            case End.INTERRUPTED:
                complain(f"{command}: it stands, and goes on.{takes_back}")

    def _show_left(self, outcome: Outcome) -> None:
        _complain_lines(going_lines(outcome.left))
        if outcome.silent:
            complain(f"not followed yet by {', '.join(outcome.silent[:8])}: see its log")
        if outcome.error:
            complain(outcome.error)


# --- terminal ------------------------------------------------------------------------------------


def is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _answer(question: str) -> str:
    """Ctrl-D is no answer."""
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return answer.strip()


def _is_yes(answer: str) -> bool:
    return answer.lower() in ("y", "yes")


def _print_lines(lines: Sequence[str]) -> None:
    if lines:
        print(printable_lines("\n".join(lines)), flush=True)


def _complain_lines(lines: Sequence[str]) -> None:
    for line in lines:
        complain(line)


def show_lines(lines: Sequence[str]) -> None:
    _print_lines(lines)


def fail(error: StoreError, schema: str, prefix: str, *, as_json_too: bool, **keys: Any) -> int:
    """Tells that the store could not be read. `keys`: what the JSON has beside, each as it is when
    nothing is known."""
    end = end_of(error)
    if as_json_too:
        print_json(
            {
                "schema": schema,
                "time": now_as_text(),
                "cluster": prefix,
                "revision": None,
                **keys,
                "error": str(error),
            }
        )
    else:
        complain(str(error))
    return int(end.status)


def usage(text: str) -> NoReturn:
    complain(text)
    raise SystemExit(EX_USAGE)
