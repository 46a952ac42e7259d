"""Addresses on a real interface, and the arithmetic that decides how long they stay there."""

import errno
import heapq
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.clock import STAMPS_LATE_S, since_stamp_s
from yaim_helper.kernel.addresses import MAX_TOGETHER, Assignment, Interface, Kernel, KernelError
from yaim_helper.kernel.lifetimes import ACT_WITHIN_S, GRACE_S, last_extension_s, lifetime_s
from yaim_helper.kernel.netlink import Found

from tests.helper.network import (
    INTERFACE,
    MAC,
    PEER,
    Address,
    Watch,
    boottime,
    new_network,
    present,
    shown,
    wait_for,
    watching,
)
from yaim.lab.namespaces import DIES_WITH_US, Namespace

V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
A_BIT = 1e-6
"""Floating-point arithmetic is not exact; the kernel's clock is coarser than this by far."""


@pytest.fixture
def kernel(network: Namespace) -> Iterator[Kernel]:
    """And the test is in the network namespace, too."""
    with network.entered():
        yield Kernel()


def at(kernel: Kernel, address: Address) -> Found:
    """Its only place."""
    (found,) = [each for each in kernel.addresses() if each.address == address]
    return found


def assignment(
    kernel: Kernel,
    address: Address = V4,
    *,
    interface: str = INTERFACE,
    prefix: int = 0,
    label: str = "",
    lifetime_s: int = 30,
    is_there: bool = False,
) -> Assignment:
    place = kernel.interface(interface), address, prefix or address.max_prefixlen
    return Assignment(*place, label, lifetime_s, is_there)


def at_and_left(kernel: Kernel, address: Address, lifetime_s: int, began: float) -> Found:
    """Finds it like `at`; checks that its lifetime, or its preferred one, is what is left of one
    that was set since `began`, in whole seconds."""
    found = at(kernel, address)
    left_s = found.preferred_s or found.valid_s
    assert left_s is not None
    assert lifetime_s - 1 - (boottime() - began) <= left_s <= lifetime_s
    return found


def facts(namespace: Namespace, address: Address) -> dict[str, Any]:
    """What `ip` shows of an address, but for the part that counts down."""
    (it,) = [each for each in shown(namespace) if each["local"] == str(address)]
    assert 0 < it.pop("valid_life_time") <= 30
    return it


def told(failed: dict[Address, KernelError]) -> dict[Address, tuple[int | None, str]]:
    return {address: (error.errno, error.reason) for address, error in failed.items()}


# --- the kernel --------------------------------------------------------------------------------


def test_a_kernel_that_takes_no_message_is_an_error_of_its_own(kernel: Kernel) -> None:
    """It takes none when its buffers are full, for example."""
    wanted = [assignment(kernel)]
    kernel._socket.close()
    with pytest.raises(KernelError) as raised:
        kernel.put(wanted)
    assert raised.value.errno == errno.EBADF
    with pytest.raises(KernelError):
        kernel.addresses()


def test_an_ipv4_address_has_a_lifetime_and_a_label_and_is_not_preferred(
    network: Namespace, kernel: Kernel
) -> None:
    assert kernel.put([assignment(kernel, V4, label="yaim")]) == {}
    assert facts(network, V4) == {
        "interface": INTERFACE,
        "family": "inet",
        "local": "192.0.2.10",
        "prefixlen": 32,
        "scope": "global",
        "label": "veth0:yaim",
        "dynamic": True,
        "deprecated": True,
        "preferred_life_time": 0,
    }


def test_an_ipv6_address_has_a_lifetime_and_is_neither_preferred_nor_probed_for(
    network: Namespace, kernel: Kernel
) -> None:
    assert kernel.put([assignment(kernel, V6, label="yaim")]) == {}
    assert facts(network, V6) == {
        "interface": INTERFACE,
        "family": "inet6",
        "local": "2001:db8::10",
        "prefixlen": 128,
        "scope": "global",
        "nodad": True,
        "dynamic": True,
        "deprecated": True,
        "preferred_life_time": 0,
    }


def test_an_ipv4_address_without_a_label_has_the_interfaces(
    network: Namespace, kernel: Kernel
) -> None:
    assert kernel.put([assignment(kernel)]) == {}
    assert facts(network, V4)["label"] == INTERFACE


@pytest.mark.parametrize(("address", "prefix"), [(V4, 32), (V4, 24), (V6, 128), (V6, 64)])
def test_what_is_put_is_read_back(kernel: Kernel, address: Address, prefix: int) -> None:
    one = assignment(kernel, address, prefix=prefix)
    began = boottime()
    assert kernel.put([one]) == {}
    read = at_and_left(kernel, address, 30, began)
    assert read == Found(address, one.interface.index, prefix, read.valid_s, 0, read.created)
    assert read.is_like_ours


def test_an_address_is_read_back_in_all_its_places(network: Namespace, kernel: Kernel) -> None:
    for place in ((f"{V4}/24", INTERFACE), (f"{V4}/32", INTERFACE), (f"{V4}/32", PEER)):
        address, interface = place
        network.run("ip", "address", "add", address, "dev", interface)
    one, other = (kernel.interface(name).index for name in (INTERFACE, PEER))
    places = {(each.index, each.prefix) for each in kernel.addresses() if each.address == V4}
    assert places == {(one, 24), (one, 32), (other, 32)}


@pytest.mark.parametrize("address", [V4, V6])
def test_when_an_address_was_created_tells_a_new_one_from_one_set_anew(
    network: Namespace, kernel: Kernel, address: Address
) -> None:
    one = assignment(kernel, address)
    kernel.put([one])
    created = at(kernel, address).created
    sleep(0.03)
    assert kernel.put([replace(one, is_there=True)]) == {}
    assert at(kernel, address).created == created
    network.run("ip", "address", "delete", f"{address}/{one.prefix}", "dev", INTERFACE)
    kernel.put([one])
    assert created < at(kernel, address).created <= boottime() * 100


def test_how_long_ago_an_address_was_put_there_is_known_to_within_two_seconds(
    network: Namespace, kernel: Kernel
) -> None:
    one = assignment(kernel, V4)
    before = monotonic()
    kernel.put([one])
    after = monotonic()
    stamp = at(kernel, one.address).created
    found = monotonic() - since_stamp_s(stamp)
    assert before - STAMPS_LATE_S < found < after + 0.1
    # There are 2**32 stamps; one that is a little ahead is no old one.
    ahead_s = since_stamp_s(stamp + 50) - since_stamp_s(stamp)
    assert -0.6 < ahead_s < -0.4
    assert abs(since_stamp_s((stamp - 100) % 2**32) - since_stamp_s(stamp) - 1) < 0.1


def test_an_address_without_end_is_read_back_as_such(network: Namespace, kernel: Kernel) -> None:
    network.run("ip", "address", "add", f"{V4}/24", "dev", INTERFACE)
    network.run("ip", "address", "add", f"{V6}/64", "dev", INTERFACE, "nodad")
    index = kernel.interface(INTERFACE).index
    for address, prefix in ((V4, 24), (V6, 64)):
        read = at(kernel, address)
        assert read == Found(address, index, prefix, None, None, read.created)
        assert not read.is_like_ours


def test_a_preferred_address_with_an_end_is_not_the_helpers(
    network: Namespace, kernel: Kernel
) -> None:
    """DHCP and router advertisements make such addresses."""
    lifetimes = ("valid_lft", "1000", "preferred_lft", "500")
    began = boottime()
    network.run("ip", "address", "add", f"{V4}/24", "dev", INTERFACE, *lifetimes)
    read = at_and_left(kernel, V4, 500, began)
    assert not read.is_like_ours


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("anew_s", [40, 20])
def test_putting_an_address_anew_sets_its_lifetime(
    kernel: Kernel, address: Address, anew_s: int
) -> None:
    kernel.put([assignment(kernel, address, lifetime_s=30)])
    began = boottime()
    assert kernel.put([assignment(kernel, address, lifetime_s=anew_s, is_there=True)]) == {}
    at_and_left(kernel, address, anew_s, began)


@pytest.mark.parametrize("address", [V4, V6])
def test_deleting_tells_whether_the_address_was_there(
    network: Namespace, kernel: Kernel, address: Address
) -> None:
    one = assignment(kernel, address)
    assert not kernel.delete(one.interface.index, address, one.prefix)
    kernel.put([one])
    assert kernel.delete(one.interface.index, address, one.prefix)
    assert not kernel.delete(one.interface.index, address, one.prefix)
    assert present(network) == []


@pytest.mark.parametrize("address", [V4, V6])
def test_an_address_on_an_interface_that_is_gone_is_not_there(
    network: Namespace, kernel: Kernel, address: Address
) -> None:
    one = assignment(kernel, address)
    kernel.put([one])
    network.run("ip", "link", "delete", PEER)
    assert not kernel.delete(one.interface.index, address, one.prefix)


@pytest.mark.parametrize("address", [V4, V6])
def test_the_same_address_elsewhere_is_not_deleted(
    network: Namespace, kernel: Kernel, address: Address
) -> None:
    here, there = (assignment(kernel, address, interface=name) for name in (INTERFACE, PEER))
    kernel.put([there])
    assert not kernel.delete(here.interface.index, address, here.prefix)
    assert not kernel.delete(there.interface.index, address, there.prefix - 1)
    assert present(network) == [f"{PEER} {address}/{there.prefix}"]


def test_an_interface_is_described(network: Namespace, kernel: Kernel) -> None:
    network.run("ip", "link", "set", PEER, "down")
    index = {
        link["ifname"]: link["ifindex"]
        for link in json.loads(network.run("ip", "-json", "link", "show"))
    }
    mac = bytes.fromhex(MAC.replace(":", ""))
    assert kernel.interface(INTERFACE) == Interface(INTERFACE, index[INTERFACE], mac, True, True)
    assert kernel.interface("lo") == Interface("lo", index["lo"], bytes(6), True, False)
    assert not kernel.interface(PEER).is_up


@pytest.mark.parametrize("name", ["eth9", "abcdefghijklmnop", ""])
def test_an_unknown_interface_is_an_error(kernel: Kernel, name: str) -> None:
    with pytest.raises(KernelError) as caught:
        kernel.interface(name)
    assert caught.value.reason == f"there is no interface {name}"
    assert caught.value.errno in (errno.ENODEV, None), "Python 3.11 does not tell"


def test_a_put_that_fails_is_told_with_its_reason(network: Namespace, kernel: Kernel) -> None:
    interface = kernel.interface(INTERFACE)
    gone = Interface("gone", interface.index + 100, interface.mac, True, True)
    failed = kernel.put(
        [
            Assignment(interface, ip_address("192.0.2.1"), 32, "", 30),
            Assignment(interface, ip_address("192.0.2.2"), 33, "", 30),
            Assignment(interface, ip_address("192.0.2.3"), 32, "longer-than-it-may-be", 30),
            Assignment(gone, ip_address("192.0.2.4"), 32, "", 30),
            Assignment(gone, ip_address("2001:db8::5"), 128, "", 30),
            Assignment(interface, ip_address("2001:db8::6"), 128, "", 30),
        ]
    )
    assert told(failed) == {
        ip_address("192.0.2.2"): (errno.EINVAL, "Invalid argument"),
        ip_address("192.0.2.3"): (errno.ERANGE, "Numerical result out of range"),
        ip_address("192.0.2.4"): (errno.ENODEV, "No such device"),
        ip_address("2001:db8::5"): (errno.ENODEV, "No such device"),
    }
    assert present(network) == [f"{INTERFACE} 192.0.2.1/32", f"{INTERFACE} 2001:db8::6/128"]


def test_a_refusal_to_delete_is_an_error(kernel: Kernel) -> None:
    with pytest.raises(KernelError) as caught:
        kernel.delete(kernel.interface(INTERFACE).index, V6, 200)
    assert caught.value.errno == errno.EINVAL


def test_as_many_as_allowed_are_put_together(network: Namespace, kernel: Kernel) -> None:
    half = MAX_TOGETHER // 2
    addresses: list[Address] = [ip_address(f"192.0.2.{number}") for number in range(1, half + 1)]
    addresses += [ip_address(f"2001:db8::{number:x}") for number in range(1, half + 1)]
    interface = kernel.interface(INTERFACE)
    for lifetime in (30, 60):
        is_there = lifetime == 60
        everything = [
            Assignment(interface, a, a.max_prefixlen, "", lifetime, is_there) for a in addresses
        ]
        began = boottime()
        assert kernel.put(everything) == {}
        read = [each for each in kernel.addresses() if each.address in addresses]
        assert {(each.address, each.index, each.prefix, each.preferred_s) for each in read} == {
            (a, interface.index, a.max_prefixlen, 0) for a in addresses
        }
        least_s = lifetime - 1 - (boottime() - began)
        assert all(least_s <= (each.valid_s or 0) <= lifetime for each in read)
    assert len(present(network)) == 2 * half


def test_putting_nothing_does_nothing(kernel: Kernel) -> None:
    assert kernel.put([]) == {}


@pytest.mark.parametrize("where", ["all", INTERFACE])
def test_whether_secondaries_are_promoted_is_the_sysctls_to_say(
    network: Namespace, kernel: Kernel, where: str
) -> None:
    network.run("sysctl", "-qw", *(f"net.ipv4.conf.{n}.promote_secondaries=0" for n in BOTH_CONF))
    assert not kernel.promotes_secondaries(INTERFACE)
    network.run("sysctl", "-qw", f"net.ipv4.conf.{where}.promote_secondaries=1")
    assert kernel.promotes_secondaries(INTERFACE)
    assert kernel.promotes_secondaries("nosuch") is (where == "all")


BOTH_CONF = ("all", INTERFACE)


def test_that_ipv6_is_switched_off_is_told_plainly(network: Namespace, kernel: Kernel) -> None:
    """It was `Permission denied`."""
    network.run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.disable_ipv6=1")
    failed = kernel.put([assignment(kernel, V4), assignment(kernel, V6)])
    sysctl = f"sysctl net.ipv6.conf.{INTERFACE}.disable_ipv6"
    assert {address: error.reason for address, error in failed.items()} == {
        V6: f"IPv6 is switched off on {INTERFACE} ({sysctl})"
    }
    network.run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.disable_ipv6=0")
    assert kernel.put([assignment(kernel, V6)]) == {}


def test_what_else_hinders_an_ipv6_address_is_told_as_the_kernel_has_it(kernel: Kernel) -> None:
    gone = Interface("nosuch", 999, b"", is_up=True, has_neighbours=True)
    failed = kernel.put([Assignment(gone, V6, 128, "", 30)])
    assert (failed[V6].errno, failed[V6].reason) == (errno.ENODEV, "No such device")


# --- what the kernel takes for the same address ------------------------------------------------


def lifetimes(kernel: Kernel, address: Address) -> dict[tuple[int, int], int | None]:
    """Returns the lifetimes of an address by interface and prefix length."""
    return {(a.index, a.prefix): a.valid_s for a in kernel.addresses() if a.address == address}


@pytest.mark.parametrize(
    ("host", "ours", "is_the_same"),
    [
        ((V4, 32, INTERFACE), (V4, 32), True),
        ((V4, 24, INTERFACE), (V4, 32), False),
        ((V4, 32, INTERFACE), (V4, 24), False),
        ((V4, 32, PEER), (V4, 32), False),
        ((V6, 128, INTERFACE), (V6, 128), True),
        ((V6, 64, INTERFACE), (V6, 128), True),
        ((V6, 128, INTERFACE), (V6, 64), True),
        ((V6, 128, PEER), (V6, 128), False),
    ],
)
def test_of_ipv6_an_interface_has_an_address_once_whatever_its_prefix_length(
    network: Namespace,
    kernel: Kernel,
    host: tuple[Address, int, str],
    ours: tuple[Address, int],
    is_the_same: bool,
) -> None:
    address, prefix, name = host
    there = kernel.interface(name).index, prefix
    network.run("ip", "address", "add", f"{address}/{prefix}", "dev", name)
    one = assignment(kernel, ours[0], prefix=ours[1])
    failed = told(kernel.put([one]))
    if is_the_same:
        assert failed == {address: (errno.EEXIST, "File exists")}
        assert lifetimes(kernel, address) == {there: None}
        # Who says that it is there changes what is the host's, as it is there.
        assert kernel.put([replace(one, is_there=True)]) == {}
        assert lifetimes(kernel, address).keys() == {there}
        assert lifetimes(kernel, address)[there] is not None
    else:
        assert failed == {}
        assert kernel.put([replace(one, is_there=True)]) == {}
        assert lifetimes(kernel, address)[there] is None
        assert len(lifetimes(kernel, address)) == 2


@pytest.mark.parametrize("how", ["add", "replace", "change"])
@pytest.mark.parametrize(
    ("address", "prefix", "becomes"),
    [(V4, 32, "same"), (V4, 24, "second"), (V6, 128, "same"), (V6, 64, "same")],
)
def test_what_the_host_makes_of_an_address_of_the_helpers(
    network: Namespace, kernel: Kernel, how: str, address: Address, prefix: int, becomes: str
) -> None:
    """`ip address add` fails where it is there; the others give it other lifetimes, and leave when
    it was put there and its prefix length as they were."""
    kernel.put([assignment(kernel, address)])
    (before,) = [each for each in kernel.addresses() if each.address == address]
    with Path(os.devnull).open("wb") as nowhere:
        done = network.start(
            ("ip", "address", how, f"{address}/{prefix}", "dev", INTERFACE), nowhere
        ).wait(20)
    after = [each for each in kernel.addresses() if each.address == address]
    if becomes == "same":
        assert {each.identity for each in after} == {before.identity}
        assert (done == 0) is (how != "add")
        assert after[0].is_like_ours is (how == "add")
    else:
        assert (done, len(after)) == (0, 2)
        assert [each.is_like_ours for each in after if each.identity == before.identity] == [True]


# --- the arithmetic ----------------------------------------------------------------------------


FORMULA = re.search(
    r"N \+ N/8 \+ min\(max\(([\d.]+) \* life, ([\d.]+)\), ([\d.]+)\) <= left \+ ([\d.]+)\n",
    (Path(__file__).parents[3] / "helper" / "PROTOCOL.md").read_text(),
)
"""What helper/PROTOCOL.md promises of the largest whole N."""
assert FORMULA
PART, LEAST_S, MOST_S, ALLOWANCE_S = (float(text) for text in FORMULA.groups())


def late_s(life_s: float) -> float:
    return min(max(PART * life_s, LEAST_S), MOST_S)


LIVES = st.floats(min_value=0.0, max_value=3600.0)
"""Seconds to a deadline when it was handed over."""
PARTS = st.floats(min_value=-0.1, max_value=1.0)
"""How much of that is left."""


@given(life_s=LIVES, part=PARTS)
def test_the_lifetime_is_the_largest_that_surely_ends_in_time(life_s: float, part: float) -> None:
    left_s = life_s * part
    lifetime = lifetime_s(left_s, life_s)
    assert lifetime >= 0
    if lifetime:
        assert 1.125 * lifetime + late_s(life_s) <= left_s + ALLOWANCE_S + A_BIT
    assert 1.125 * (lifetime + 1) + late_s(life_s) > left_s + ALLOWANCE_S - A_BIT


@given(life_s=LIVES, part=PARTS)
def test_there_is_always_a_tenth_of_a_second_to_act(life_s: float, part: float) -> None:
    left_s = life_s * part
    lifetime = lifetime_s(left_s, life_s)
    if lifetime:
        assert 1.125 * lifetime + late_s(life_s) + ACT_WITHIN_S <= left_s + GRACE_S + A_BIT


@given(LIVES)
def test_the_last_extension_is_as_late_as_one_second_allows(life_s: float) -> None:
    last_s = last_extension_s(life_s)
    assert lifetime_s(last_s, life_s) == 1
    assert lifetime_s(last_s - A_BIT, life_s) == 0


@pytest.mark.parametrize(
    ("left_s", "lifetime"), [(-1.0, 0), (0.0, 0), (2.0, 0), (10.0, 6), (30.0, 24), (3600.0, 3197)]
)
def test_these_deadlines_allow_these_lifetimes(left_s: float, lifetime: int) -> None:
    assert lifetime_s(left_s, left_s) == lifetime


# --- acting in time or never -------------------------------------------------------------------

ACTING = """
import os, signal, sys
from yaim_helper.kernel.alarm import act_within

try:
    with act_within(float(sys.argv[1])):
        match sys.argv[2]:
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "fail":
                raise KeyError
        os.write(1, b"acted")
except KeyError:
    pass
print(signal.getitimer(signal.ITIMER_REAL))
"""


@contextmanager
def acting(limit_s: float, how: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        (*DIES_WITH_US, sys.executable, "-I", "-c", ACTING, str(limit_s), how),
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def has_pending(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (int(line.split()[1], 16) for line in status.splitlines() if "ShdPnd" in line)
    return bool(mask >> (number - 1) & 1)


def test_who_is_stopped_for_too_long_never_acts() -> None:
    with acting(1.0, "stop") as process:
        wait_for(lambda: has_pending(process.pid, signal.SIGALRM), "the alarm is pending")
        os.kill(process.pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == (b"", -signal.SIGALRM)


@pytest.mark.parametrize(("how", "acted"), [("act", b"acted"), ("fail", b"")])
def test_who_is_in_time_acts_and_is_left_alone(how: str, acted: bytes) -> None:
    with acting(30, how) as process:
        output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == (acted + b"(0.0, 0.0)\n", 0)


# --- the promise -------------------------------------------------------------------------------


@dataclass
class Node:
    """A network namespace in which a third party sets lifetimes, too: each time the kernel checks
    all of them, and then not again for a second."""

    kernel: Kernel
    watch: Watch
    interface: Interface
    shift_s: float
    """How long before the kernel would remove an address the third party acts."""
    _has_put: set[str] = field(default_factory=set)

    def put(self, address: str, lifetime: int) -> None:
        it = ip_address(address)
        place = self.interface, it, it.max_prefixlen
        assignment = Assignment(*place, "", lifetime, address in self._has_put)
        assert self.kernel.put([assignment]) == {}
        self._has_put.add(address)

    def disturb(self) -> None:
        for address in ("198.51.100.1", "2001:db8:1::1"):
            self.put(address, 3000)


@dataclass
class Agenda:
    """What is to be done when, in order."""

    _entries: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)

    def at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._entries, (time, next(self._number), act))

    def run(self) -> None:
        while self._entries:
            time, _, act = heapq.heappop(self._entries)
            sleep(max(0.0, time - boottime()))
            act()


@dataclass
class Trial:
    """An address that must be gone in time."""

    node: Node
    address: str
    left_s: float
    agenda: Agenda
    is_late: bool | None = None

    def start(self) -> None:
        lifetime = lifetime_s(self.left_s, self.left_s)
        now = boottime()
        self.node.put(self.address, lifetime)
        if boottime() > now + ACT_WITHIN_S:
            # This machine is busy. The helper would be dead by now (act_within).
            self.start()
            return
        for before_s in (0.0, 1.0, 2.0):
            if lifetime > before_s:
                self.agenda.at(now + lifetime - before_s - self.node.shift_s, self.node.disturb)
        self.agenda.at(now + self.left_s + GRACE_S, self.judge)

    def judge(self) -> None:
        self.is_late = ip_address(self.address) in self.node.watch.present()


LEFT_S = (1.125 + LEAST_S - ALLOWANCE_S + A_BIT, 2.75, 3.3, 4.7)
"""Seconds to a deadline; the first is the least that can be served."""


def test_an_address_is_gone_when_its_deadline_and_the_grace_have_passed() -> None:
    agenda = Agenda()
    trials: list[Trial] = []
    with ExitStack() as stack:
        for shift_s in (0.005, 0.05, 0.3, 0.9):
            namespace = stack.enter_context(new_network())
            watch = stack.enter_context(watching(namespace))
            with namespace.entered():
                kernel = Kernel()
                node = Node(kernel, watch, kernel.interface(INTERFACE), shift_s)
            for number, left_s in enumerate(LEFT_S, start=1):
                trials += [
                    Trial(node, address, left_s, agenda)
                    for address in (f"192.0.2.{number}", f"2001:db8::{number}")
                ]
        for number, trial in enumerate(trials):
            agenda.at(boottime() + 0.023 * number, trial.start)
        agenda.run()
        assert [(t.address, t.left_s, t.node.shift_s) for t in trials if t.is_late] == []
        assert {trial.is_late for trial in trials} == {False}


# --- the route to an address of this host -------------------------------------------------------


ROUTED = IPv4Address("192.0.2.10")


def local_routes(namespace: Namespace) -> set[str]:
    """What `ip` shows of the routes to addresses on the interface."""
    lines = namespace.run("ip", "-4", "route", "show", "table", "local", "type", "local")
    return {each.strip() for each in lines.splitlines() if INTERFACE in each}


@pytest.mark.parametrize(
    ("prefix", "source"), [(32, ROUTED), (24, ROUTED), (24, IPv4Address("192.0.2.1"))]
)
def test_the_route_to_an_address_is_taken_out_and_put_back_as_the_kernel_had_made_it(
    network: Namespace, kernel: Kernel, prefix: int, source: IPv4Address
) -> None:
    """The source of a secondary is the primary."""
    other = ip_address("192.0.2.11")
    if source != ROUTED:
        network.run("ip", "address", "add", f"{source}/24", "dev", INTERFACE)
    wanted = [assignment(kernel, each, prefix=prefix) for each in (ROUTED, other)]
    assert kernel.put(wanted) == {}
    index = kernel.interface(INTERFACE).index
    before = local_routes(network)
    for told in (source, None):
        assert kernel.local_source(index, ROUTED) == told
        assert kernel.withdraw_route(index, ROUTED) == told
        assert local_routes(network) == {each for each in before if f" {ROUTED} dev" not in each}
    assert f"{INTERFACE} {ROUTED}/{prefix}" in present(network)
    for _ in range(2):
        kernel.restore_route(index, ROUTED, source)
        assert local_routes(network) == before
    assert kernel.delete(index, ROUTED, prefix)
    assert not any(f" {ROUTED} dev" in each for each in local_routes(network))


@pytest.mark.parametrize("interface", [INTERFACE, "lo", "bridge0"])
def test_the_source_of_a_route_is_what_ip_shows(
    network: Namespace, kernel: Kernel, interface: str
) -> None:
    network.run(
        *("sh", "-ec"),
        "ip link set lo up; ip link add bridge0 type bridge; ip link set bridge0 up\n"
        f"for each in 192.0.2.1/24 {ROUTED}/24 192.0.2.11/32; do\n"
        f"    ip address add $each dev {interface}\n"
        "done\n",
    )
    index = kernel.interface(interface).index
    for each in ("192.0.2.1", str(ROUTED), "192.0.2.11"):
        route = ("route", "get", "fibmatch", each, "oif", interface)
        (shown,) = json.loads(network.run("ip", "-json", *route))
        assert (shown["type"], shown["dst"], shown["dev"]) == ("local", each, interface)
        assert str(kernel.local_source(index, IPv4Address(each))) == shown["prefsrc"]
    assert kernel.local_source(index, IPv4Address("192.0.2.12")) is None
    assert kernel.local_source(kernel.interface(PEER).index, ROUTED) is None
    network.run("ip", "link", "set", interface, "down")
    assert kernel.local_source(index, ROUTED) is None


def test_a_route_in_another_table_is_told_and_stays(network: Namespace, kernel: Kernel) -> None:
    """As that of an address on a VRF."""
    kernel.put([assignment(kernel)])
    index = kernel.interface(INTERFACE).index
    (route,) = local_routes(network)
    kernel.withdraw_route(index, ROUTED)
    network.run("ip", "route", "add", *route.split(), "table", "1000")
    network.run("ip", "rule", "add", "oif", INTERFACE, "lookup", "1000", "pref", "0")
    assert kernel.local_source(index, ROUTED) == ROUTED
    assert kernel.withdraw_route(index, ROUTED) is None
    assert str(ROUTED) in network.run("ip", "route", "show", "table", "1000")


def test_an_address_without_its_route_is_removed_like_any_other(
    network: Namespace, kernel: Kernel
) -> None:
    kernel.put([assignment(kernel)])
    index = kernel.interface(INTERFACE).index
    kernel.withdraw_route(index, ROUTED)
    assert kernel.delete(index, ROUTED, 32)
    assert not local_routes(network)
    assert present(network) == []


def test_only_the_route_on_that_interface_is_taken_out(network: Namespace, kernel: Kernel) -> None:
    kernel.put([assignment(kernel)])
    before = local_routes(network)
    assert kernel.withdraw_route(kernel.interface(PEER).index, ROUTED) is None
    assert kernel.withdraw_route(99, ROUTED) is None
    assert local_routes(network) == before


def test_there_is_no_route_to_what_is_not_there(network: Namespace, kernel: Kernel) -> None:
    index = kernel.interface(INTERFACE).index
    assert kernel.withdraw_route(index, ROUTED) is None
    for state in ("up", "down"):
        network.run("ip", "link", "set", INTERFACE, state)
        with pytest.raises(KernelError) as raised:
            kernel.restore_route(index, ROUTED, ROUTED)
        assert raised.value.errno == errno.EADDRNOTAVAIL
        # Linux itself would have it.
        assert not local_routes(network)


def test_what_the_kernel_does_not_do_with_a_route_is_an_error(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.put([assignment(kernel)])
    index = kernel.interface(INTERFACE).index
    monkeypatch.setattr(kernel, "_request", lambda *_: [errno.EPERM])
    with pytest.raises(KernelError, match="Operation not permitted"):
        kernel.withdraw_route(index, ROUTED)
    with pytest.raises(KernelError, match="Operation not permitted"):
        kernel.restore_route(index, ROUTED, ROUTED)
