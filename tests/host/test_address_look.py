"""The look at this host's addresses, in a real network namespace."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import pytest
from yaim_helper.kernel.addresses import Assignment, Kernel

from tests.helper.network import state
from tests.routing_lock import HARMLESS_S, routing_lock_held
from yaim.core.events import AddressesSeen, Event, LookFailed
from yaim.core.model import Address
from yaim.host.address_look import PAUSE_S, TIMES, AddressLook
from yaim.lab.namespaces import Namespace

WITHIN_S = 30.0
V4, V6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
HELPERS = ("preferred_lft", "0", "valid_lft", "100")


class Host:
    """A network namespace with eth0, and what was seen there."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.run = namespace.run
        self.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
        self.run("ip", "link", "set", "far", "up")
        self.run("ip", "link", "set", "eth0", "up")
        self.told: SimpleQueue[Event] = SimpleQueue()
        with namespace.entered():
            self.look = AddressLook(self.told.put)
            self.kernel = Kernel()
        self.interface = self.kernel.interface("eth0")

    def add(self, address: str, *options: str) -> None:
        nodad = ("nodad",) if ":" in address else ()
        self.run("ip", "addr", "add", address, "dev", "eth0", *nodad, *options)

    def seen(self) -> Event:
        self.look.start()
        return self.told.get(timeout=WITHIN_S)


@contextmanager
def _namespace() -> Iterator[Namespace]:
    namespace = Namespace.new()
    try:
        yield namespace
    finally:
        namespace.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with _namespace() as namespace:
        yield Host(namespace)


def test_what_the_helper_has_put_there_is_seen_and_what_is_the_hosts_own_is_not(
    host: Host,
) -> None:
    host.add("192.0.2.10/32", *HELPERS)
    host.add("2001:db8::10/128", *HELPERS)
    host.add("192.0.2.11/24")
    host.add("192.0.2.12/32", "preferred_lft", "50", "valid_lft", "100")
    host.add("2001:db8::11/64")
    assert host.seen() == AddressesSeen(frozenset({V4, V6}))
    host.run("ip", "addr", "del", "192.0.2.10/32", "dev", "eth0")
    assert host.seen() == AddressesSeen(frozenset({V6}))


def test_an_address_on_a_link_that_is_down_is_seen(host: Host) -> None:
    host.add("192.0.2.10/32", *HELPERS)
    host.run("ip", "link", "set", "eth0", "down")
    assert host.seen() == AddressesSeen(frozenset({V4}))


def test_many_addresses_are_seen(host: Host) -> None:
    """The kernel tells them in several datagrams."""
    many = [ip_address(f"10.0.{n // 250}.{n % 250 + 1}") for n in range(1000)]
    for start in range(0, len(many), 16):
        together = many[start : start + 16]
        assert not host.kernel.put([Assignment(host.interface, a, 32, "", 100) for a in together])
    assert host.seen() == AddressesSeen(frozenset(many))


def test_a_look_takes_less_than_a_sixth_of_a_second(host: Host) -> None:
    """One of some: a busy machine may hold up any, and whoever has the routing lock does."""
    took_s = list[float]()
    while len(took_s) < 5 or (min(took_s) >= 0.15 and len(took_s) < 50):
        began = time.monotonic()
        host.seen()
        took_s.append(time.monotonic() - began)
    assert (TIMES - 1) * PAUSE_S <= min(took_s) < 0.15


def test_a_kernel_that_takes_no_request_is_told(host: Host) -> None:
    with Path("/dev/null").open() as other:
        os.dup2(other.fileno(), host.look._socket.fileno())
    assert host.seen() == LookFailed("[Errno 25] Inappropriate ioctl for device")


def test_a_loopback_interface_of_another_name_does(host: Host) -> None:
    host.run("ip", "link", "set", "lo", "down")
    host.run("ip", "link", "set", "lo", "name", "back")
    assert host.seen() == AddressesSeen(frozenset())


def test_while_the_routing_lock_is_held_nothing_is_told(host: Host) -> None:
    with routing_lock_held():
        host.look.start()
        with pytest.raises(Empty):
            host.told.get(timeout=HARMLESS_S)
    assert host.told.get(timeout=WITHIN_S) == AddressesSeen(frozenset())


@pytest.mark.parametrize(("address", "prefix"), [(V4, 32), (V6, 128)])
def test_what_the_helper_has_asked_of_the_kernel_is_done_before_a_look_tells(
    host: Host, address: Address, prefix: int
) -> None:
    """It has read its clock in time, and then the kernel does not let it go: what it has asked for
    is not there, and comes."""
    assignment = Assignment(host.interface, address, prefix, "", 100)
    times = tries = 0
    with busy_processor() as busy:
        while times < 15:
            tries += 1
            assert tries < 200, "it is never in time"
            with ExitStack() as stack:
                with routing_lock_held():
                    helper = Thread(target=host.kernel.put, args=([assignment],))
                    helper.start()
                    has_asked = waits_for_the_lock(helper, HARMLESS_S / 2)
                    if has_asked:
                        stack.enter_context(busy(helper))
                if has_asked:
                    # It has let go, and whoever comes now is quicker than who was woken for it.
                    host.look.start()
                    time.sleep(PAUSE_S / 2)
            helper.join()
            if has_asked:
                assert host.told.get(timeout=WITHIN_S) == AddressesSeen(frozenset({address}))
                times += 1
            host.kernel.delete(host.interface.index, address, prefix)


@contextmanager
def busy_processor() -> Iterator[Callable[[Thread], AbstractContextManager[None]]]:
    """Yields what a thread is given to: for a while it gets no processor when woken in the
    kernel."""
    processors = os.sched_getaffinity(0)
    one = {min(processors)}
    with subprocess.Popen(("sh", "-c", "while :; do :; done")) as busy:

        @contextmanager
        def for_(thread: Thread) -> Iterator[None]:
            assert thread.native_id is not None
            os.sched_setaffinity(thread.native_id, one)
            os.sched_setscheduler(thread.native_id, os.SCHED_IDLE, os.sched_param(0))
            busy.send_signal(signal.SIGCONT)
            try:
                yield
            finally:
                busy.send_signal(signal.SIGSTOP)
                # Now it has to get one in time, on a busy machine, too.
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(thread.native_id, os.SCHED_OTHER, os.sched_param(0))
                    os.setpriority(os.PRIO_PROCESS, thread.native_id, -20)
                    os.sched_setaffinity(thread.native_id, processors)

        busy.send_signal(signal.SIGSTOP)
        os.sched_setaffinity(busy.pid, one)
        try:
            yield for_
        finally:
            busy.kill()


def waits_for_the_lock(thread: Thread, within_s: float) -> bool:
    """Whether it has asked the kernel by then: a busy machine may have had no processor for it."""
    until = time.monotonic() + within_s
    assert thread.native_id is not None
    while not (has_asked := state(thread.native_id) == "D") and time.monotonic() < until:
        time.sleep(0.001)
    return has_asked
