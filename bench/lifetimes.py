"""How late the kernel removes an address whose lifetime is over, and what margin that leaves.

    python -m bench.lifetimes [--rounds 6]

The helper's promise (helper/PROTOCOL.md) rests on a bound for this; here it is measured. For each
ttl three IPv4 and three IPv6 addresses get the lifetime that the helper gives them, as if it were
stopped just then: right after a keepalive (`fresh`), or when their lifetime is extended for the
last time before the deadline (`last`), which leaves the least. `disturbed`: some other address of
the host gets a new lifetime in the last second, which lets the kernel look, and then not look
again for a second.
"""

import argparse
import multiprocessing
import os
import random
import selectors
import statistics
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from itertools import product

from yaim_helper.kernel.addresses import Assignment, Kernel
from yaim_helper.kernel.lifetimes import GRACE_S, last_extension_s, lifetime_s

from yaim.core.deadline import deadline_of
from yaim.core.model import Address, Boottime
from yaim.lab.namespaces import LabError, Namespace, enter_private_network
from yaim.lab.observer import address_messages, watch_addresses

TTLS_S = (3, 5, 10, 30)
ADDRESSES = [ip_address(f"192.0.2.{n}") for n in (11, 12, 13)] + [
    ip_address(f"2001:db8::{n}") for n in (11, 12, 13)
]
OTHERS = (ip_address("192.0.2.99"), ip_address("2001:db8::99"))
MOMENTS = ("fresh", "last")
WAIT_S = 30.0
"""How long it waits for the kernel, after the end of a lifetime."""


Case = tuple[int, str, bool, int]
"""ttl in seconds, `fresh` or `last`, disturbed or not, number."""


def measure(case: Case) -> tuple[Case, float, float]:
    """Returns for one case the lateness of the last address, and what was left to the promised
    end."""
    ttl_s, moment, is_disturbed, number = case
    chance = random.Random(number)
    enter_private_network()
    namespace = Namespace(os.open("/proc/self/ns/net", os.O_RDONLY))
    namespace.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    for name in ("v0", "v1"):
        namespace.run("ip", "link", "set", name, "up")
    time.sleep(1 + chance.random())
    kernel = Kernel()
    watch = watch_addresses(namespace.fd)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    left_s, lifetime = left_and_lifetime(now, ttl_s, moment)
    put(kernel, ADDRESSES, lifetime)
    if is_disturbed:
        time.sleep(max(0.0, lifetime - chance.random()))
        put(kernel, OTHERS, 100)
    gone: dict[Address, float] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(watch, selectors.EVENT_READ)
        while len(gone) < len(ADDRESSES):
            if not selector.select(lifetime + WAIT_S):
                raise LabError(f"addresses given {lifetime} s are there after {WAIT_S:g} s more")
            at = time.clock_gettime(time.CLOCK_BOOTTIME)
            for message in address_messages(watch.recv(1 << 18)):
                if not message.is_there and message.copy.address in ADDRESSES:
                    gone[message.copy.address] = at
    last = max(gone.values())
    return case, last - now - lifetime, now + left_s + GRACE_S - last


def left_and_lifetime(now: float, ttl_s: int, moment: str) -> tuple[float, int]:
    """Seconds to the deadline, and the lifetime that the helper gives then."""
    life_s = deadline_of(Boottime(now), ttl_s) - now
    left_s = life_s if moment == "fresh" else last_extension_s(life_s)
    return left_s, lifetime_s(left_s, life_s)


def put(kernel: Kernel, addresses: Sequence[Address], lifetime: int) -> None:
    interface = kernel.interface("v0")
    wanted = [Assignment(interface, a, a.max_prefixlen, "", lifetime) for a in addresses]
    if failed := kernel.put(wanted):
        address, error = next(iter(failed.items()))
        raise LabError(f"the kernel does not take {address} for {lifetime} s: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    kinds = list(product(TTLS_S, MOMENTS, (False, True)))
    cases = [(*kind, number) for kind in kinds for number in range(options.rounds)]
    random.shuffle(cases)
    print("how late the kernel removes addresses: this takes some minutes ...", flush=True)
    # Each case waits most of the time; a process of its own each time, for a namespace of its own.
    with multiprocessing.get_context("spawn").Pool(8, maxtasksperchild=1) as pool:
        results = pool.map(measure, cases, chunksize=1)
    print(f"Linux {os.uname().release}, {options.rounds} rounds, in seconds")
    print(" ttl  set    others     lateness: median    most  left to the promised end: least")
    is_good = True
    for ttl_s, moment, is_disturbed in kinds:
        some = [result for result in results if result[0][:3] == (ttl_s, moment, is_disturbed)]
        late_s = [result[1] for result in some]
        left_s = min(result[2] for result in some)
        is_good = is_good and left_s >= 0
        word = "disturbed" if is_disturbed else "quiet"
        print(
            f"{ttl_s:>4}  {moment:5}  {word:9}  {statistics.median(late_s):>16.2f}"
            f"  {max(late_s):>6.2f}  {left_s:>31.2f}"
        )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
