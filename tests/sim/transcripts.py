"""python -m tests.sim.transcripts --seeds 60: one line a seed, with a hash over what its cores did.

Two versions of the core that print the same lines do the same: each action, log line and wake-up
time of each step, in order, is in the hash. Values count, not the modules that define them, so that
a class may move. Where two lines differ, `--whole` prints the steps of a seed to compare.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import TextIO

import tests.sim.host
from tests.sim.faults import draw
from tests.sim.run import play, quickly
from yaim.core.events import Event
from yaim.core.model import Boottime
from yaim.core.state.state import State
from yaim.core.step import Step, step


def text_of(value: object) -> str:
    """A value, written the same in every run: sets and mappings in order."""
    match value:
        case Enum():
            return str(value.value)
        case frozenset():
            return f"{{{', '.join(sorted(map(text_of, value)))}}}"
        case tuple():
            return f"({', '.join(map(text_of, value))})"
        case Mapping():
            pairs = sorted(f"{text_of(key)}: {text_of(each)}" for key, each in value.items())
            return f"{{{', '.join(pairs)}}}"
    if is_dataclass(value):
        values = (text_of(getattr(value, each.name)) for each in fields(value))
        return f"{type(value).__name__}({', '.join(values)})"
    return repr(value) if isinstance(value, str | float) else str(value)


def lines_of(name: str, now: Boottime, taken: Step) -> Iterator[str]:
    yield f"{name} at {now!r}, again at {taken.wake_at!r}"
    for action in taken.actions:
        yield f"    {text_of(action)}"


@contextmanager
def listening(hear: Callable[[str], None]) -> Iterator[None]:
    """Each line of each step of every host is told to `hear`."""
    module = vars(tests.sim.host)

    def heard(state: State, events: Sequence[Event], now: Boottime) -> Step:
        taken = step(state, events, now)
        for line in lines_of(state.settings.node, now, taken):
            hear(line)
        return taken

    module["step"] = heard
    try:
        yield
    finally:
        module["step"] = step


def hash_of(seed: int) -> str:
    digest = blake2b(digest_size=16)
    with listening(lambda line: digest.update(f"{line}\n".encode())):
        run = play(draw(seed))
    digest.update(str(run.broken and run.broken.invariant).encode())
    return digest.hexdigest()


def write(seeds: Iterable[int], out: TextIO, *, is_whole: bool) -> None:
    with quickly():
        for seed in seeds:
            if is_whole:
                with listening(lambda line: print(line, file=out)):
                    print(play(draw(seed)).broken, file=out)
            else:
                print(seed, hash_of(seed), file=out, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.transcripts", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=60, help="how many")
    parser.add_argument("--whole", action="store_true", help="print the steps and no hash")
    parser.add_argument("--out", type=Path, help="a file in place of the standard output")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    if options.out is None:
        write(seeds, sys.stdout, is_whole=options.whole)
        return 0
    with options.out.open("w") as out:
        write(seeds, out, is_whole=options.whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())
