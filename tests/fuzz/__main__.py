"""Fuzz a part of the helper, or what stands in etcd, guided by the code that each input reaches.

    python -m tests.fuzz parser|wire|server|etcd [--inputs N] [--seconds N] [--corpus DIRECTORY]

`server` needs root: it works in network and mount namespaces of its own. With atheris (libFuzzer);
an input that fails is left as crash-<sha1> where this is started, and is to become a test.
"""

import argparse
import sys
from hashlib import sha1
from pathlib import Path
from tempfile import mkdtemp

import atheris


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=("parser", "wire", "server", "etcd"))
    parser.add_argument("--inputs", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=0, help="at most; 0: no limit")
    parser.add_argument(
        "--corpus", type=Path, help="where inputs that reach something new are kept"
    )
    options = parser.parse_args()
    with atheris.instrument_imports(
        include=[
            *("yaim_helper", "yaim.core", "yaim.dcs.records", "yaim.dcs.etcd.keys"),
            *("yaim.status", "yaim.cli.status"),
        ]
    ):
        from tests.fuzz import etcd_keys, targets
        from tests.fuzz.packets import kept
    if options.target == "server":
        from tests.fuzz.session import isolated

        isolated()
    corpus = options.corpus or Path(mkdtemp(prefix="yaim-fuzz-"))
    corpus.mkdir(exist_ok=True)
    for each in kept(options.target):
        (corpus / sha1(each).hexdigest()).write_bytes(each)
    arguments = [
        *(sys.argv[0], str(corpus), "-print_final_stats=1", "-max_len=4096"),
        *(f"-runs={options.inputs}", f"-max_total_time={options.seconds}", "-timeout=20"),
    ]
    target = etcd_keys.etcd if options.target == "etcd" else getattr(targets, options.target)
    atheris.Setup(arguments, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
