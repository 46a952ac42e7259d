"""The kernel watch in a real network namespace."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event as Flag

import pytest

from tests.helper.network import add_many_links, wait_for
from yaim.core.events import AddressesObserved, AddressGone, Event, LinksObserved
from yaim.core.model import Place
from yaim.host.kernel_watch import KernelWatch
from yaim.lab.namespaces import Namespace
from yaim.lab.wait import wait_until

WITHIN_S = 30.0
ALL = LinksObserved(frozenset({"lo", "eth0", "far"}))
LIFETIME = ("preferred_lft", "0", "valid_lft")


class Watched:
    """A network namespace with eth0, whose other end is `far`, and what the watch tells of it."""

    def __init__(self, namespace: Namespace) -> None:
        self.run = namespace.run
        self._told: SimpleQueue[Event] = SimpleQueue()
        self._own: SimpleQueue[AddressesObserved] = SimpleQueue()
        self.links = LinksObserved(frozenset())
        """The links as they were told last."""
        self._up: frozenset[str] | None = None
        self.may_tell = Flag()
        """Not set: the watch has to wait with what it tells."""
        self.may_tell.set()
        self.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
        self.run("ip", "link", "set", "far", "up")
        self.run("ip", "link", "set", "eth0", "up")
        # The kernel takes up to a second for what it tells of a carrier.
        wait_until(self._are_operational, WITHIN_S, "both ends to be up")
        with namespace.entered():
            KernelWatch(self._tell)
        self.wait_for(ALL)
        self.nothing_more()

    def _are_operational(self) -> bool:
        links = json.loads(self.run("ip", "-json", "link", "show", "type", "veth"))
        return [each["operstate"] for each in links] == ["UP", "UP"]

    def _tell(self, event: Event) -> None:
        self.may_tell.wait()
        if isinstance(event, AddressesObserved):
            self._own.put(event)
        elif isinstance(event, LinksObserved):
            # Most tests are about what is up.
            self.links = event
            if event.up != self._up:
                self._up = event.up
                self._told.put(LinksObserved(event.up))
        else:
            self._told.put(event)

    def next(self) -> Event:
        return self._told.get(timeout=WITHIN_S)

    def wait_until_own(self, *there: str) -> None:
        """Waits until these are the addresses that cannot be the helper's, as in `192.0.2.10 eth0,
        /24`, but for those that the kernel has made itself."""
        while sorted(there) != _listed(self._own.get(timeout=WITHIN_S)):
            pass

    def wait_for(self, event: Event) -> None:
        """Skips what comes before: a carrier comes and goes in several steps."""
        while self.next() != event:
            pass

    def nothing_more(self) -> list[Event]:
        more: list[Event] = []
        try:
            while True:
                more.append(self._told.get(timeout=0.3))
        except Empty:
            return more


def _listed(told: AddressesObserved) -> list[str]:
    return sorted(
        f"{address} {place}"
        for address, places in told.own.items()
        for place in places
        if not address.is_loopback and not address.is_link_local
    )


@pytest.fixture
def host() -> Iterator[Watched]:
    with _namespace() as namespace:
        yield Watched(namespace)


@contextmanager
def _namespace() -> Iterator[Namespace]:
    namespace = Namespace.new()
    try:
        yield namespace
    finally:
        namespace.close()


def test_of_many_links_all_are_told_together() -> None:
    """The kernel tells them in several datagrams."""
    many = 60
    with _namespace() as namespace:
        add_many_links(namespace, many // 2, "up")
        told: SimpleQueue[Event] = SimpleQueue()
        with namespace.entered():
            KernelWatch(told.put)
        first = told.get(timeout=WITHIN_S)
        assert isinstance(first, LinksObserved) and "lo" in first.up
        shown = namespace.run("ip", "-json", "link", "show")
        is_up = {each["ifname"] for each in json.loads(shown) if "LOWER_UP" in each["flags"]}
        assert len(is_up) > many / 2 and is_up <= first.up


@pytest.mark.parametrize("address", ["192.0.2.10/32", "2001:db8::10/128"])
def test_an_address_that_somebody_deletes_is_told(host: Watched, address: str) -> None:
    host.run("ip", "addr", "add", address, "dev", "eth0")
    host.run("ip", "addr", "del", address, "dev", "eth0")
    told, prefix_length = address.split("/")
    place = Place("eth0", int(prefix_length))
    assert host.next() == AddressGone(ip_address(told), place)


def test_an_address_that_the_kernel_removes_at_its_lifetimes_end_is_told(host: Watched) -> None:
    host.run("ip", "addr", "add", "192.0.2.10/32", "dev", "eth0", *LIFETIME, "1")
    assert host.next() == AddressGone(ip_address("192.0.2.10"), Place("eth0", 32))


def test_an_address_that_is_added_or_given_a_new_lifetime_is_not_told(host: Watched) -> None:
    for seconds in ("100", "200"):
        host.run("ip", "addr", "replace", "192.0.2.10/32", "dev", "eth0", *LIFETIME, seconds)
    assert host.nothing_more() == []


@pytest.mark.parametrize("address", ["192.0.2.10/24", "2001:db8::10/64"])
def test_an_address_that_is_not_the_helpers_is_told_until_it_goes(
    host: Watched, address: str
) -> None:
    bare, prefix = address.split("/")
    host.run("ip", "addr", "add", address, "dev", "eth0", "nodad")
    host.wait_until_own(f"{bare} eth0, /{prefix}")
    host.run("ip", "addr", "del", address, "dev", "eth0")
    host.wait_until_own()


def test_what_is_there_at_the_start_is_told_after_the_links() -> None:
    with _namespace() as namespace:
        namespace.run("ip", "link", "set", "lo", "up")
        namespace.run("ip", "addr", "add", "192.0.2.10/24", "dev", "lo")
        namespace.run("ip", "addr", "add", "192.0.2.11/32", "dev", "lo", *LIFETIME, "100")
        told: SimpleQueue[Event] = SimpleQueue()
        with namespace.entered():
            KernelWatch(told.put)
        assert told.get(timeout=WITHIN_S) == LinksObserved(frozenset({"lo"}), frozenset())
        own = told.get(timeout=WITHIN_S)
        assert isinstance(own, AddressesObserved)
        assert _listed(own) == ["192.0.2.10 lo, /24"]


def test_a_second_copy_of_what_the_helper_holds_is_told(host: Watched) -> None:
    host.run("ip", "addr", "add", "192.0.2.10/32", "dev", "eth0", *LIFETIME, "100")
    host.run("ip", "addr", "add", "192.0.2.10/24", "dev", "eth0")
    host.wait_until_own("192.0.2.10 eth0, /24")


def test_where_an_address_is_follows_the_name_of_its_interface(host: Watched) -> None:
    host.run("ip", "addr", "add", "192.0.2.10/24", "dev", "far")
    host.wait_until_own("192.0.2.10 far, /24")
    host.run("ip", "link", "set", "far", "down")
    host.run("ip", "link", "set", "far", "name", "near")
    host.wait_until_own("192.0.2.10 near, /24")


def test_an_interface_that_goes_down_and_comes_up_is_told(host: Watched) -> None:
    host.run("ip", "link", "set", "eth0", "down")
    host.wait_for(LinksObserved(frozenset({"lo"})))  # far has lost its carrier
    host.run("ip", "link", "set", "eth0", "up")
    host.wait_for(ALL)


def test_an_interface_without_carrier_is_not_up(host: Watched) -> None:
    host.run("ip", "link", "set", "far", "down")
    host.wait_for(LinksObserved(frozenset({"lo"})))


def test_an_interface_that_is_renamed_or_deleted_is_told(host: Watched) -> None:
    host.run("ip", "link", "set", "far", "name", "near")
    host.wait_for(LinksObserved(frozenset({"lo", "eth0", "near"})))
    host.run("ip", "link", "del", "eth0")
    host.wait_for(LinksObserved(frozenset({"lo"})))


def test_a_link_that_leaves_a_bridge_is_not_gone(host: Watched) -> None:
    host.run("ip", "link", "add", "br0", "type", "bridge")
    host.run("ip", "link", "set", "far", "master", "br0")
    host.run("ip", "link", "set", "far", "nomaster")
    assert host.nothing_more() == []


def test_messages_that_were_lost_do_not_end_the_watch(host: Watched, tmp_path: Path) -> None:
    """More changes at once than the socket's buffer takes. Nothing seems down meanwhile."""
    batch = tmp_path / "batch"
    addresses = [f"10.0.{n // 250}.{n % 250 + 1}/32 dev lo" for n in range(4000)]
    lines = [f"addr {verb} {each}" for verb in ("add", "del") for each in addresses]
    batch.write_text("\n".join([*lines, "link set lo down", *lines, ""]))
    host.may_tell.clear()
    host.run("ip", "-batch", str(batch))
    host.may_tell.set()
    while (event := host.next()) != LinksObserved(frozenset({"eth0", "far"})):
        assert isinstance(event, AddressGone) or event == ALL
    host.run("ip", "addr", "add", "192.0.2.10/24", "dev", "far")
    host.wait_until_own("192.0.2.10 far, /24")
    host.run("ip", "link", "set", "far", "down")
    host.wait_for(LinksObserved(frozenset()))


def test_further_names_of_interfaces_are_told_and_follow_a_rename(host: Watched) -> None:
    host.run("ip", "link", "property", "add", "dev", "eth0", "altname", "lan0", "altname", "uplink")
    wait_for(lambda: host.links.altnames == {"lan0": "eth0", "uplink": "eth0"}, "the names")
    host.run("ip", "link", "set", "eth0", "down")
    host.run("ip", "link", "set", "eth0", "name", "eth7")
    wait_for(lambda: host.links.altnames == {"lan0": "eth7", "uplink": "eth7"}, "the new name")
    # The kernel does not tell this of a link that is down.
    host.run("ip", "link", "set", "eth7", "up")
    host.run("ip", "link", "property", "del", "dev", "eth7", "altname", "lan0")
    wait_for(lambda: host.links.altnames == {"uplink": "eth7"}, "one name less")


def test_what_is_down_is_told_apart_from_what_is_missing(host: Watched) -> None:
    host.run("ip", "link", "set", "eth0", "down")
    wait_for(lambda: host.links.down == frozenset({"eth0", "far"}), "both ends to be down")
    host.run("ip", "link", "del", "eth0")
    wait_for(lambda: host.links.down == frozenset(), "both ends to be gone")
