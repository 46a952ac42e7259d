"""A bounded run of what `make fuzz` does at length: the kept inputs, and random ones from them.

Without atheris, so without its guidance; each run is the same but for the clock.
"""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.fuzz import etcd_keys, targets
from tests.fuzz.packets import kept
from yaim.core import bounds

REPLAYED, SERVED, STOOD = 100_000, 1_500, 2_000


def inputs(target: str, count: int) -> Iterator[bytes]:
    """Those that are kept, and others made of them."""
    seeds = kept(target)
    yield from seeds
    random_ = random.Random(target)
    for _ in range(count):
        yield changed(random_.choice(seeds), random_.choice(seeds), random_)


def changed(one: bytes, other: bytes, random_: random.Random) -> bytes:
    """Parts of both, with some bytes replaced."""
    cut = random_.randrange(len(one) + 1)
    made = bytearray(one[:cut] + other[random_.randrange(len(other) + 1) :] + random_.randbytes(2))
    for _ in range(random_.randrange(6)):
        made[random_.randrange(len(made))] = random_.randrange(256)
    return bytes(made)


def test_the_parser_reads_what_the_page_about_the_protocol_says() -> None:
    for each in inputs("parser", REPLAYED):
        targets.parser(each)


def test_what_comes_by_the_wire_is_a_whole_claim_or_none() -> None:
    for each in inputs("wire", REPLAYED):
        targets.wire(each)


@pytest.mark.timeout(300)
def test_the_server_stays_within_its_policy_whatever_is_sent() -> None:
    """It is shown in a process with namespaces of its own."""
    command = (sys.executable, "-m", "tests.fuzz.test_fuzz")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("check", etcd_keys.CHECKS)
def test_whatever_stands_in_etcd_is_read_shown_and_acted_on(
    check: Callable[[etcd_keys.Outcome], None],
) -> None:
    for each in inputs("etcd", STOOD):
        check(etcd_keys.outcome(each))


def test_whatever_stands_in_etcd_is_cut_the_same_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are such that these inputs reach them."""
    for name in ("MOST_ADDRESSES", "MOST_NETWORKS", "MOST_INTERFACES"):
        monkeypatch.setattr(bounds, name, 1)
    for name in ("MOST_WHERE", "MOST_REASON", "MOST_INTERFACE"):
        monkeypatch.setattr(bounds, name, 8)
    for each in inputs("etcd", STOOD):
        etcd_keys.etcd(each)


def serve() -> None:
    from tests.fuzz.session import isolated

    isolated()
    for each in inputs("server", SERVED):
        targets.server(each)


if __name__ == "__main__":
    serve()
