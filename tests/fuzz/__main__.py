"""Fuzz a part of the helper, guided by the code that each input reaches.

    python -m tests.fuzz parser|wire|server [--inputs N] [--seconds N] [--corpus DIRECTORY]

`server` needs root: it works in network and mount namespaces of its own. With atheris (libFuzzer);
an input that fails is left as crash-<sha1> where this is started, and is to become a test.
"""

import argparse
import sys
from pathlib import Path

import atheris

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=("parser", "wire", "server"))
    parser.add_argument("--inputs", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=0, help="at most; 0: no limit")
    parser.add_argument(
        "--corpus", type=Path, help="where inputs that reach something new are kept"
    )
    options = parser.parse_args()
    with atheris.instrument_imports(include=["yaim_helper"]):
        from tests.fuzz import targets
    if options.target == "server":
        from tests.fuzz.session import isolated

        isolated()
    kept = [str(options.corpus)] if options.corpus else []
    seeds = CORPUS / options.target
    arguments = [
        *(sys.argv[0], *kept, str(seeds), "-print_final_stats=1", "-max_len=4096"),
        *(f"-runs={options.inputs}", f"-max_total_time={options.seconds}", "-timeout=20"),
    ]
    atheris.Setup(arguments, getattr(targets, options.target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
