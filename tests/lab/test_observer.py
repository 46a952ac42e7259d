"""What is yaim's of the addresses that a kernel tells of, with a real one."""

import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from yaim.lab.namespaces import Namespace
from yaim.lab.observer import Holdings, address_messages, watch_addresses

A = ip_address("192.0.2.11")
AS_YAIM = ("valid_lft", "60", "preferred_lft", "0")


class Host:
    def __init__(self, namespace: Namespace) -> None:
        self._run = namespace.run
        self._watch = watch_addresses(namespace.fd)
        self._holdings = Holdings()
        self._run("ip", "link", "set", "lo", "up")

    def told_of(self, *command: str) -> list[bool]:
        """What changes for address A when this is done with `ip address`."""
        self._run("ip", "address", *command, "dev", "lo")
        time.sleep(0.05)
        told = []
        try:
            while True:
                for message in address_messages(self._watch.recv(1 << 16)):
                    has = self._holdings.note(message)
                    if has is not None and message.copy.address == A:
                        told.append(has)
        except BlockingIOError:
            return told


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Namespace.new()) as namespace:
        yield Host(namespace)


def test_an_address_with_yaims_lifetimes_is_yaims_until_it_is_gone(host: Host) -> None:
    assert host.told_of("add", f"{A}/32", *AS_YAIM) == [True]
    assert host.told_of("change", f"{A}/32", *AS_YAIM) == []
    assert host.told_of("del", f"{A}/32") == [False]


def test_an_address_added_by_hand_is_not(host: Host) -> None:
    assert host.told_of("add", f"{A}/32") == []
    assert host.told_of("del", f"{A}/32") == []
    assert host.told_of("add", f"{A}/32", "valid_lft", "60", "preferred_lft", "60") == []


def test_a_second_copy_by_hand_changes_nothing(host: Host) -> None:
    assert host.told_of("add", f"{A}/32", *AS_YAIM) == [True]
    assert host.told_of("add", f"{A}/24") == []
    assert host.told_of("del", f"{A}/24") == []
    assert host.told_of("add", f"{A}/24") == []
    assert host.told_of("del", f"{A}/32") == [False]


def test_an_address_that_somebody_makes_permanent_is_no_longer_yaims(host: Host) -> None:
    assert host.told_of("add", f"{A}/32", *AS_YAIM) == [True]
    forever = ("valid_lft", "forever", "preferred_lft", "forever")
    assert host.told_of("change", f"{A}/32", *forever) == [False]
    assert host.told_of("del", f"{A}/32") == []


def test_a_thousand_addresses_that_are_renewed_while_nobody_reads_lose_nothing() -> None:
    """It is so when a busy machine has no processor for the observer."""
    with closing(Namespace.new()) as namespace:
        namespace.run("ip", "link", "set", "lo", "up")
        with closing(watch_addresses(namespace.fd)) as watch:
            for how in ("add", *("replace",) * 5):
                command = f"address {how} 2001:db8::1:$n/128 dev lo {' '.join(AS_YAIM)}"
                namespace.run(
                    "sh", "-ec", f'for n in $(seq 1000); do echo "{command}"; done | ip -batch -'
                )
            told = 0
            with pytest.raises(BlockingIOError):
                while True:
                    told += len(list(address_messages(watch.recv(1 << 18))))
    assert told >= 6000
