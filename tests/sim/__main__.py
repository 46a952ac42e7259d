"""python -m tests.sim --seeds 1000: random faults in virtual time, on all processors.

Prints what was done, and for the first failing seed the smallest story found. Exits with 1 then.
"""

import argparse
import os
import sys
from functools import partial
from multiprocessing import Pool

from tests.sim.faults import draw
from tests.sim.mutating import catch
from tests.sim.mutations import MUTATIONS
from tests.sim.run import Tally, play_all
from tests.sim.story import shrink, story

CHUNK = 50
"""Seeds that a process takes at a time."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mutations", action="store_true", help="show that the checker bites")
    arguments = parser.parse_args()
    if arguments.mutations:
        return show_mutations(arguments.seeds, arguments.processes)
    tally = play_many(arguments.first, arguments.seeds, arguments.processes)
    print("\n".join(tally.lines()))
    if not tally.failed:
        return 0
    seed = min(tally.failed)
    print(f"\nThe story of seed {seed}, made as small as could be:\n")
    print(story(shrink(draw(seed))))
    return 1


def show_mutations(max_seeds: int, processes: int) -> int:
    """What a search finds, whatever seeds are known."""
    print("seed  mutation: what broke")
    missed = 0
    search = partial(catch, max_seeds=max_seeds, is_searched=True)
    with Pool(processes) as pool:
        for caught in pool.imap(search, MUTATIONS):
            missed += caught.invariant is None
            told = caught.invariant or "NOT CAUGHT"
            print(f"{caught.seed:4}  {caught.mutation}: {told}", flush=True)
    return 1 if missed else 0


def play_many(first: int, count: int, processes: int) -> Tally:
    end = first + count
    chunks = [range(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK)]
    tally = Tally()
    with Pool(processes) as pool:
        for done in pool.imap_unordered(play_all, chunks):
            tally.add(done)
    return tally


if __name__ == "__main__":
    sys.exit(main())
