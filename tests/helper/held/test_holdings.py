"""What the helper holds, step by step, in the test's own process."""

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, NoReturn

import pytest
from yaim_helper.held.expiry import RETRY_REMOVAL_S
from yaim_helper.held.holding import EXTEND_RETRY_S, WOKEN_WITHIN_S
from yaim_helper.held.holdings import Holdings
from yaim_helper.kernel.addresses import Assignment, Kernel, KernelError, UnansweredError
from yaim_helper.kernel.fence import Fence
from yaim_helper.kernel.lifetimes import (
    ACT_WITHIN_S,
    BROOM_S,
    EARLY_S,
    SWEEP_AGAIN_S,
    last_extension_s,
    lifetime_s,
)
from yaim_helper.kernel.links import Links
from yaim_helper.kernel.nftables import Family
from yaim_helper.neighbours.announce import frames
from yaim_helper.neighbours.conflicts import Conflicts, Sighting
from yaim_helper.neighbours.defence import MAX_TOLD, TOLD_FOR_S
from yaim_helper.owners import Owner
from yaim_helper.protocol import Add, Failed, Ok, Refused, Remove
from yaim_helper.record.recorder import Recorder

from tests.helper.holdings import OWNER, Deferred, added, fail, holdings_in, on_interface, record_of
from tests.helper.network import (
    INTERFACE,
    PEER,
    Address,
    add_many_links,
    boottime,
    capturing,
    is_readable,
    present,
    shown,
    wait_for,
)
from tests.helper.process import (
    deadline_in,
    leave,
    read_records,
)
from yaim.lab.namespaces import Namespace

V4 = "192.0.2.10"
SHORT_S = 3.5
"""A deadline that is a second farther away than it has to be, and soon over."""
RIVAL = bytes.fromhex("0200000000aa")


# --- between the steps -------------------------------------------------------------------------


@pytest.fixture
def holdings(network: Namespace, tmp_path: Path) -> Iterator[Holdings]:
    with holdings_in(network, tmp_path) as holdings:
        yield holdings


@dataclass
class Clock:
    """What the helper's own code takes for CLOCK_BOOTTIME, where a test has this; it stands still.
    The kernel's goes on."""

    now: float


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(boottime())
    for each in ("batch", "earlier", "expiry", "holdings", "leftovers", "renewal"):
        monkeypatch.setattr(f"yaim_helper.held.{each}.boottime", lambda: clock.now)
    monkeypatch.setattr("yaim_helper.neighbours.defence.boottime", lambda: clock.now)
    return clock


def wait_until_there_is_news(holdings: Holdings) -> None:
    sockets = holdings.defence.sightings.sockets()
    wait_for(lambda: any(map(is_readable, sockets)), "somebody claims an address")


def test_what_no_rule_allows_is_not_held(network: Namespace, holdings: Holdings) -> None:
    """Whoever asks."""
    add = Add(1, INTERFACE, IPv4Address("198.51.100.1"), 32, "", deadline_in(30))
    batch = holdings.batch({add.address})
    reply = batch.add(OWNER, add)
    assert isinstance(reply, Refused)
    assert reply.code == "not-allowed"
    assert (batch.settle(), len(holdings), present(network)) == ({}, 0, [])


def test_a_deadline_may_be_an_hour_away_and_no_more(holdings: Holdings, clock: Clock) -> None:
    def is_refused(away_s: float) -> bool:
        deadline_ns = int((clock.now + away_s) * 1e9)
        address = IPv4Address("192.0.2.1")
        refusal = holdings.refusal(Add(1, INTERFACE, address, 32, "", deadline_ns))
        assert refusal is None or refusal.code == "expired"
        return refusal is not None

    assert [is_refused(away_s) for away_s in (3599.9, 3600.1)] == [False, True]


def reasons(failed: dict[int, KernelError]) -> dict[int, str]:
    return {number: error.reason for number, error in failed.items()}


def test_nothing_is_put_there_before_it_is_settled(network: Namespace, holdings: Holdings) -> None:
    batch = holdings.batch({ip_address("192.0.2.1"), ip_address("192.0.2.2")})
    for number in (1, 2):
        added(batch, number)
    assert present(network) == []
    assert batch.settle() == {}
    assert present(network) == on_interface("192.0.2.1", "192.0.2.2")


def test_an_add_whose_deadline_came_too_near_meanwhile_has_failed(
    network: Namespace, holdings: Holdings
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1"), ip_address("192.0.2.2")})
    life_s = last_extension_s(2.5) + 1.0
    added(batch, 1, life_s)
    added(batch, 2)
    until = boottime() + life_s
    wait_for(lambda: not lifetime_s(until - boottime(), life_s), "no lifetime is short enough")
    assert reasons(batch.settle()) == {1: "the deadline came too near meanwhile"}
    assert present(network) == on_interface("192.0.2.2")
    assert len(holdings) == 1


def test_an_add_that_somebody_undoes_before_it_is_read_back_has_failed(
    network: Namespace, holdings: Holdings
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1"), ip_address("192.0.2.2")})
    for number in (1, 2):
        added(batch, number)
    batch._put_waiting()
    network.run("ip", "address", "delete", "192.0.2.1/32", "dev", INTERFACE)
    assert reasons(batch.settle()) == {1: "the address is not on the interface as it should be"}
    assert len(holdings) == 1


def test_an_add_that_was_removed_since_is_not_read_back(
    network: Namespace, holdings: Holdings
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1)
    batch._put_waiting()
    assert batch.remove(OWNER, address) == Ok({"was": "present"})
    assert batch.settle() == {}
    assert present(network) == []


def test_an_add_that_somebody_makes_permanent_is_taken_off(
    network: Namespace, holdings: Holdings
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    added(batch, 1)
    batch._put_waiting()
    network.run("ip", "address", "change", "192.0.2.1/32", "dev", INTERFACE)
    assert list(batch.settle()) == [1]
    assert present(network) == []


def test_what_is_removed_after_its_deadline_is_not_missing(holdings: Holdings) -> None:
    batch = holdings.batch({ip_address("192.0.2.1"), ip_address("192.0.2.2")})
    one, two = (added(batch, number) for number in (1, 2))
    batch.settle()
    holdings.end_over(boottime() + 100)
    assert holdings.batch({one}).remove(OWNER, one) == Ok({"was": "absent"})
    assert holdings.batch(()).renew(OWNER, boottime() + 30) == Ok({"missing": [str(two)]})


def test_a_nearer_deadline_makes_the_lifetime_shorter(
    network: Namespace, holdings: Holdings
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    added(batch, 1, 600)
    batch.settle()
    assert holdings.batch(()).renew(OWNER, boottime() + 30) == Ok({"missing": []})
    assert [each["valid_life_time"] <= 30 for each in shown(network)] == [True]


def test_nothing_is_announced_after_its_deadline(network: Namespace, holdings: Holdings) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1, SHORT_S)
    assert batch.settle() == {}
    deadline = holdings.deadlines()[OWNER]
    with capturing(network) as capture:
        wait_for(lambda: boottime() > deadline, "the deadline has passed")
        capture.frames()
        assert holdings.batch(()).announce(OWNER, address) == Ok({})
        assert capture.announced() == []


def test_what_cannot_be_removed_at_its_deadline_is_tried_again(
    network: Namespace, holdings: Holdings, clock: Clock
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    added(batch, 1)
    batch.settle()
    os.seteuid(65534)
    try:
        holdings.draw_deadlines_nearer(100, "the host was paused")
    finally:
        os.seteuid(0)
    clock.now += 0.99 * RETRY_REMOVAL_S
    holdings.do_what_is_due()
    assert present(network) == on_interface("192.0.2.1")
    clock.now = holdings.next_at()
    holdings.do_what_is_due()
    assert present(network) == []


def test_nothing_is_defended_after_its_deadline(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be when the disk hangs just then."""
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1, SHORT_S)
    assert batch.settle() == {}
    deadline = holdings.deadlines()[OWNER]
    holdings.do_what_is_due()
    claim, _ = frames(RIVAL, address)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)) as neighbour:
        neighbour.bind((PEER, 0))
        neighbour.send(claim)
        wait_until_there_is_news(holdings)
    holdings.hear()

    def hang(*_: object) -> None:
        wait_for(lambda: boottime() > deadline, "the deadline has passed")
        capture.frames()

    with capturing(network) as capture:
        monkeypatch.setattr(Recorder, "note", hang)
        holdings.do_what_is_due()
        assert capture.announced() == []


def test_claims_that_are_heard_cost_the_same_however_many_interfaces_there_are(
    network: Namespace, holdings: Holdings
) -> None:
    """Found in a review: anybody on the link could have all interfaces listed ten times a
    second."""
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1, 600)
    batch.settle()
    holdings.do_what_is_due()
    claim, _ = frames(RIVAL, address)

    def cost_s() -> float:
        """Returns the processor time of this process and the kernel for a hundred batches."""
        while holdings.defence.links.read().names or holdings.defence.links.mac_addresses() is None:
            time.sleep(0.01)
        heard_s = 0.0
        for _ in range(100):
            neighbour.send(claim)
            wait_until_there_is_news(holdings)
            began = time.process_time()
            holdings.hear()
            heard_s += time.process_time() - began
        return heard_s

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)) as neighbour:
        neighbour.bind((PEER, 0))
        cost_s()
        few_s = min(cost_s() for _ in range(3))
        add_many_links(network, pairs=100)
        many_s = min(cost_s() for _ in range(3))
    # Listing them took 17 us for each of them, in each batch.
    assert (many_s - few_s) / 100 / 200 < 5e-6
    assert holdings.defence.conflict(address).seen == 700


def test_claims_do_not_count_before_all_interfaces_are_known(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be this host's own."""
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1)
    batch.settle()
    monkeypatch.setattr(Conflicts, "read", lambda _: [Sighting(address, INTERFACE, RIVAL)])
    for known, seen in ((None, 0), (frozenset({RIVAL}), 0), (frozenset(), 1)):
        monkeypatch.setattr(Links, "mac_addresses", lambda _, known=known: known)
        holdings.hear()
        assert holdings.defence.conflict(address).seen == seen


def test_the_first_conflicts_are_told_for_a_while(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = holdings.batch({ip_address(f"192.0.2.{number}") for number in range(1, 21)})
    addresses = [added(batch, number, 600) for number in range(1, 21)]
    batch.settle()
    claims = [Sighting(each, INTERFACE, RIVAL) for each in addresses]
    monkeypatch.setattr(Conflicts, "read", lambda _: claims)
    monkeypatch.setattr(Links, "mac_addresses", lambda _: frozenset())
    holdings.hear()
    held, now = holdings.inventory.by_address, boottime()
    told = holdings.defence.told(OWNER, held, now)
    assert len(told) == MAX_TOLD == 16
    assert {each["mac"] for each in told} == {RIVAL.hex(":")}
    assert holdings.defence.told(OWNER, held, now + TOLD_FOR_S) == []
    assert holdings.defence.told(Owner(7, "another"), held, now) == []


def test_what_is_about_to_be_removed_is_not_defended(
    holdings: Holdings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as long as the kernel does not remove it."""
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1)
    batch.settle()
    monkeypatch.setattr(Conflicts, "read", lambda _: [Sighting(address, INTERFACE, RIVAL)])
    monkeypatch.setattr(Links, "mac_addresses", lambda _: frozenset())
    holdings.hear()
    monkeypatch.setattr(Kernel, "delete", fail)
    with pytest.raises(KernelError):
        holdings.batch({address}).remove(OWNER, address)
    holdings.hear()
    assert holdings.defence.conflict(address).seen == 0
    holdings.do_what_is_due()
    assert holdings._recorder.drain(20.0)
    assert [each for each in read_records(tmp_path / "audit") if each["type"] == "conflict"] == []


def test_an_add_that_goes_wrong_leaves_what_was_held_before(
    network: Namespace, holdings: Holdings
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1)
    batch.settle()
    near_s = last_extension_s(30) + 1.5
    batch = holdings.batch({address})
    add = Add(2, INTERFACE, address, 32, "", deadline_in(near_s))
    assert batch.add(OWNER, add) == Ok({"was": "present"})
    os.seteuid(65534)
    try:
        failed = batch.settle()
    finally:
        os.seteuid(0)
    assert list(failed) == [2]
    assert present(network) == on_interface("192.0.2.1")
    assert holdings.deadlines()[OWNER] > boottime() + near_s


def test_an_add_that_goes_wrong_is_announced_as_before(
    network: Namespace, holdings: Holdings
) -> None:
    """What was held is on the interface still."""
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1)
    batch.settle()
    batch = holdings.batch({address})
    add = Add(2, INTERFACE, address, 32, "thirteenchars", deadline_in(600))
    assert batch.add(OWNER, add) == Ok({"was": "present"})
    assert reasons(batch.settle()) == {2: "Numerical result out of range"}
    with capturing(network) as capture:
        wait_for(lambda: holdings.next_at() <= boottime(), "it is to be announced again")
        holdings.do_what_is_due()
        wait_for(lambda: capture.frames(), "it is announced")


# --- the host puts there its own ------------------------------------------------------------------


TAKEN = "the host has it now: left alone"


def host_takes(network: Namespace) -> None:
    """V4 is on the interface, and the host's now."""
    network.run("ip", "address", "replace", f"{V4}/32", "dev", INTERFACE)


def is_permanent(network: Namespace) -> bool:
    (it,) = shown(network)
    return bool(it["valid_life_time"] == 2**32 - 1)


@pytest.mark.parametrize("is_extended", [True, False])
def test_what_is_the_hosts_by_its_deadline_stays(
    network: Namespace, holdings: Holdings, clock: Clock, tmp_path: Path, is_extended: bool
) -> None:
    """Also if it is time to give it another lifetime before."""
    batch = holdings.batch({ip_address(V4)})
    added(batch, 10)
    batch.settle()
    host_takes(network)
    if is_extended:
        clock.now = holdings.inventory.by_address[ip_address(V4)].extend_at
        holdings.do_what_is_due()
    holdings.end_over(boottime() + 100)
    assert is_permanent(network)
    ending = [] if is_extended else [(V4, "the deadline has passed: removing")]
    assert record_of(holdings, tmp_path) == [*ending, (V4, TAKEN)]
    copy = {"address": V4, "interface": INTERFACE, "prefix": 32}
    told = Ok({"missing": [V4], "copies": [copy]})
    assert holdings.batch(()).renew(OWNER, boottime() + 30) == told


def test_what_is_the_hosts_stays_after_a_pause(network: Namespace, holdings: Holdings) -> None:
    batch = holdings.batch({ip_address(V4)})
    added(batch, 10, 600)
    batch.settle()
    host_takes(network)
    holdings.draw_deadlines_nearer(100, "the host was paused")
    assert is_permanent(network)
    assert len(holdings) == 0


@pytest.mark.parametrize("how", ["add", "renew"])
def test_what_the_host_puts_there_after_a_look_is_not_changed(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The helper has seen that nothing is there: then it puts its own there, or nothing."""
    put = Kernel.put

    def put_late(kernel: Kernel, assignments: list[Assignment]) -> dict[Address, KernelError]:
        network.run("ip", "address", "add", f"{V4}/32", "dev", INTERFACE)
        return put(kernel, assignments)

    if how == "renew":
        batch = holdings.batch({ip_address(V4)})
        added(batch, 10)
        batch.settle()
        network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
        time.sleep(0.02)
        monkeypatch.setattr(Kernel, "put", put_late)
        reply = holdings.batch(()).renew(OWNER, boottime() + 60)
        assert isinstance(reply, Ok)
        assert reply.fields["missing"] == [V4]
    else:
        monkeypatch.setattr(Kernel, "put", put_late)
        batch = holdings.batch({ip_address(V4)})
        added(batch, 10)
        assert reasons(batch.settle()) == {10: "File exists"}
    assert is_permanent(network)
    assert len(holdings) == 0


def test_what_the_host_changes_before_it_is_read_back_is_given_up(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = holdings.batch({ip_address(V4)})
    address = added(batch, 10)
    batch.settle()
    batch = holdings.batch({address})
    add = Add(2, INTERFACE, address, 32, "", deadline_in(600))
    assert batch.add(OWNER, add) == Ok({"was": "present"})
    batch._put_waiting()
    host_takes(network)
    assert list(batch.settle()) == [2]
    assert is_permanent(network)
    assert len(holdings) == 0


def test_what_goes_between_a_look_and_its_removal_was_gone(
    network: Namespace, holdings: Holdings
) -> None:
    batch = holdings.batch({ip_address(V4)})
    address = added(batch, 10)
    batch.settle()
    assert [each.prefix for each in batch._host.places(address)] == [32]
    network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
    assert batch.remove(OWNER, address) == Ok({"was": "absent"})


def test_an_interface_that_has_just_gone_is_told_by_its_number(holdings: Holdings) -> None:
    assert Kernel().name(4711) == "4711"


# --- the kernel does not answer ------------------------------------------------------------------


def test_a_batch_that_does_not_get_to_the_kernel_has_failed(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1"), ip_address("192.0.2.2")})
    for number in (1, 2):
        added(batch, number)
    monkeypatch.setattr(Kernel, "put", fail)
    told = "No buffer space available"
    assert reasons(batch.settle()) == {1: told, 2: told}
    assert (len(holdings), present(network)) == (0, [])


@pytest.mark.parametrize("is_removable", [True, False])
def test_an_add_that_cannot_be_read_back_is_taken_off(
    network: Namespace,
    holdings: Holdings,
    monkeypatch: pytest.MonkeyPatch,
    is_removable: bool,
) -> None:
    """It is taken off at its deadline at the latest."""
    batch = holdings.batch({ip_address("192.0.2.1")})
    added(batch, 1)
    batch._put_waiting()
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "addresses", fail)
        if not is_removable:
            patched.setattr(Kernel, "delete", fail)
        assert reasons(batch.settle()) == {1: "No buffer space available"}
    assert len(holdings) == (0 if is_removable else 1)
    holdings.end_over(boottime() + 100)
    assert (len(holdings), present(network)) == (0, [])


def test_an_extension_that_the_kernel_does_not_confirm_is_tried_again(
    network: Namespace, holdings: Holdings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    added(batch, 1)
    batch.settle()
    (before,) = holdings.inventory
    clock.now = before.extend_at
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "addresses", fail)
        holdings.do_what_is_due()
    assert clock.now < before.extend_at <= clock.now + EXTEND_RETRY_S
    clock.now = before.extend_at
    holdings.do_what_is_due()
    assert before.extend_at > clock.now + EXTEND_RETRY_S
    assert present(network) == on_interface("192.0.2.1")


def test_the_last_extension_is_one_also_for_who_is_woken_a_little_late(
    holdings: Holdings, clock: Clock
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    clock.now = boottime()
    added(batch, 1, 2.75)
    batch.settle()
    (it,) = holdings.inventory
    assert clock.now < it.extend_at < it.kernel_until
    clock.now = it.extend_at + 0.9 * WOKEN_WITHIN_S
    holdings.do_what_is_due()
    assert it.kernel_until > clock.now + 0.9


def test_a_deadline_is_not_drawn_nearer_without_its_lifetime(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the helper be killed then, nobody would remove the address in time."""
    batch = holdings.batch({ip_address("192.0.2.1")})
    added(batch, 1, 600)
    batch.settle()
    with monkeypatch.context() as patched:
        for name in ("put", "addresses"):
            patched.setattr(Kernel, name, fail)
        with pytest.raises(KernelError):
            holdings.batch(()).renew(OWNER, boottime() + 30)
    assert present(network) == []


def test_why_extensions_fail_is_told_once(
    holdings: Holdings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1")})
    address = added(batch, 1)
    batch.settle()
    with monkeypatch.context() as patched:
        for _ in range(3):
            patched.setattr(Kernel, "put", fail)
            for _ in range(3):
                assert holdings.batch(()).renew(OWNER, boottime() + 60) == Ok({"missing": []})
            patched.undo()
            assert holdings.batch(()).renew(OWNER, boottime() + 60) == Ok({"missing": []})
    told = (str(address), "failed: No buffer space available")
    assert record_of(holdings, tmp_path) == [told] * 3


def test_a_slow_machine_does_not_end_a_test(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper would have ended itself. pytest's own alarm stays set."""
    put = Kernel.put

    def slow(kernel: Kernel, assignments: list[Assignment]) -> dict[Address, KernelError]:
        time.sleep(2 * ACT_WITHIN_S)
        return put(kernel, assignments)

    monkeypatch.setattr(Kernel, "put", slow)
    batch = holdings.batch({ip_address("192.0.2.1")})
    added(batch, 1)
    batch.settle()
    assert present(network) == on_interface("192.0.2.1")
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 2 * ACT_WITHIN_S


def test_what_the_kernel_does_not_tell_of_after_a_pause_goes(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = holdings.batch({ip_address("192.0.2.1"), ip_address("192.0.2.2")})
    added(batch, 1)
    added(batch, 2, 600)
    batch.settle()
    monkeypatch.setattr(Kernel, "addresses", fail)
    holdings.draw_deadlines_nearer(100, "the host was paused")
    monkeypatch.undo()
    assert present(network) == []


@pytest.mark.parametrize(
    ("delete", "outcome"),
    [
        (None, "removed"),
        (lambda *_: False, "the kernel had removed it"),
        (fail, "cannot remove it: No buffer space available"),
    ],
)
def test_what_an_earlier_life_left_does_not_outlive_a_pause(
    network: Namespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    delete: Any,
    outcome: str,
) -> None:
    """Nobody knows until when it may stay."""
    leave(network, tmp_path, f"{V4}/32")
    network.run("ip", "address", "add", "192.0.2.200/24", "dev", INTERFACE)
    with holdings_in(network, tmp_path) as holdings:
        if delete is not None:
            monkeypatch.setattr(Kernel, "delete", delete)
        holdings.draw_deadlines_nearer(100, "the host was paused")
        monkeypatch.undo()
        told = record_of(holdings, tmp_path)
    assert told == [
        (V4, "the host was paused: removing"),
        (V4, outcome),
    ]
    is_there = delete is not None
    assert present(network) == sorted(
        [*on_interface("192.0.2.200", prefix=24), *(on_interface(V4) if is_there else ())]
    )


# --- what is held --------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1])
def test_no_more_is_told_as_expired_than_a_user_could_hold(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """The bound is that of each user, whatever becomes of the others."""
    monkeypatch.setattr(
        holdings.inventory, "policy", replace(holdings.inventory.policy, max_addresses=2)
    )
    another = Owner(65534, "test")
    for number in range(1, others + 1):
        address = IPv4Address("192.0.2.100") + number
        batch = holdings.batch({address})
        add = Add(number, INTERFACE, address, 32, "", deadline_in(30))
        assert batch.add(another, add) == Ok({"was": "absent"})
        batch.settle()
        holdings.end_over(boottime() + 100)
    expired = []
    for number in range(1, 5):
        batch = holdings.batch({IPv4Address("192.0.2.0") + number})
        expired.append(str(added(batch, number)))
        batch.settle()
        holdings.end_over(boottime() + 100)
    assert holdings.batch(()).renew(OWNER, boottime() + 30) == Ok({"missing": expired[-2:]})
    missing = ["192.0.2.101"] if others else []
    assert holdings.batch(()).renew(another, boottime() + 30) == Ok({"missing": missing})


def test_what_moves_to_another_prefix_was_not_removed_by_somebody(
    network: Namespace, holdings: Holdings, tmp_path: Path
) -> None:
    batch = holdings.batch({ip_address(V4)})
    address = added(batch, 10)
    batch.settle()
    network.run("ip", "address", "add", "192.0.2.200/24", "dev", INTERFACE)
    rule = replace(holdings.inventory.policy.rules[0], prefixes=(24, 32, 128))
    holdings.inventory.policy = replace(holdings.inventory.policy, rules=(rule,))
    batch = holdings.batch({address})
    add = Add(2, INTERFACE, address, 24, "", deadline_in(30))
    assert batch.add(OWNER, add) == Ok({"was": "present"})
    assert batch.settle() == {}
    assert present(network) == on_interface(V4, "192.0.2.200", prefix=24)
    assert record_of(holdings, tmp_path) == []


def test_what_is_left_on_an_interface_that_has_another_name_now_is_in_doubt(
    network: Namespace, tmp_path: Path
) -> None:
    leave(network, tmp_path, f"{V4}/32")
    for change in (("down",), ("name", "other0"), ("up",)):
        network.run("ip", "link", "set", "other0" if change == ("up",) else INTERFACE, *change)
    with holdings_in(network, tmp_path) as holdings:
        page = holdings.batch(()).page(OWNER, None)
        assert page == Ok({"addresses": [], "more": False})
        address = ip_address(V4)
        assert isinstance(holdings.batch({address}).remove(OWNER, address), Failed)
    assert present(network) == [f"other0 {V4}/32"]


# --- with a fence --------------------------------------------------------------------------------


ANOTHER = Owner(0, "another")


@pytest.fixture
def fenced(network: Namespace, tmp_path: Path) -> Iterator[Holdings]:
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        yield holdings


@pytest.fixture
def jobs() -> Deferred:
    return Deferred()


@pytest.fixture
def deferred(network: Namespace, tmp_path: Path, jobs: Deferred) -> Iterator[Holdings]:
    """What may wait for the kernel is done when the test says so."""
    with holdings_in(network, tmp_path, is_fenced=True, jobs=jobs) as holdings:
        yield holdings


def held_in_fence(holdings: Holdings) -> dict[str, bool]:
    """Returns what stands in its tables, and whether each answers still."""
    assert holdings.fencing.tables is not None
    ruleset = holdings.fencing.tables.ruleset
    found = {}
    for table in ruleset.tables():
        muted = {
            ip_address(key)
            for family, name in ((Family.ARP, "muted"), (Family.INET, "muted6"))
            for key in ruleset._elements(family, table, name)
        }
        for each in ruleset.held(table):
            found[str(each)] = ruleset.is_live(table) and each not in muted
    return found


def hold(holdings: Holdings, *numbers: int, in_s: float = 30.0) -> None:
    batch = holdings.batch({ip_address(f"192.0.2.{number}") for number in numbers})
    for number in numbers:
        added(batch, number, in_s)
    assert batch.settle() == {}


def fence_entries(holdings: Holdings, directory: Path) -> list[tuple[str, int]]:
    assert holdings._recorder.drain(20.0)
    return [
        (each["outcome"], each["addresses"])
        for each in read_records(directory / "audit")
        if each["type"] == "fence"
    ]


def test_it_stands_in_the_fence_before_it_is_on_the_interface_and_until_it_is_off(
    network: Namespace, fenced: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def seeing(what: str) -> Any:
        real = getattr(Kernel, what)

        def see(*given: Any) -> Any:
            before = (present(network), held_in_fence(fenced))
            done = real(*given)
            seen.append((what, before, (present(network), held_in_fence(fenced))))
            return done

        return see

    for each in ("put", "delete"):
        monkeypatch.setattr(Kernel, each, seeing(each))
    hold(fenced, 1, 2)
    assert fenced.batch({ip_address("192.0.2.1")}).remove(OWNER, ip_address("192.0.2.1")) == Ok(
        {"was": "present"}
    )
    both = {"192.0.2.1": True, "192.0.2.2": True}
    there = on_interface("192.0.2.1", "192.0.2.2")
    assert seen == [
        ("put", ([], both), (there, both)),
        ("delete", (there, both), (there[1:], both)),
    ]
    assert held_in_fence(fenced) == {"192.0.2.2": True}


def test_what_the_fence_does_not_take_is_not_put_on_the_interface(
    network: Namespace, fenced: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(fenced, 1)
    batch = fenced.batch({ip_address("192.0.2.2"), ip_address("192.0.2.3")})
    added(batch, 2)
    added(batch, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Fence, "admit", fail)
        told = "No buffer space available"
        assert reasons(batch.settle()) == {2: told, 3: told}
    assert present(network) == on_interface("192.0.2.1")
    assert [str(each.address) for each in fenced.inventory] == ["192.0.2.1"]
    assert held_in_fence(fenced) == {"192.0.2.1": True}


def test_what_is_to_go_is_not_renewed_though_it_was_admitted_once_more(
    fenced: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal has failed, and then the kernel does not take the add either."""
    hold(fenced, 1, 2)
    address = ip_address("192.0.2.1")
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "delete", fail)
        with pytest.raises(KernelError):
            fenced.batch({address}).remove(OWNER, address)
        patched.setattr(Kernel, "put", fail)
        batch = fenced.batch({address})
        add = Add(1, INTERFACE, address, 32, "", deadline_in(30))
        assert batch.add(OWNER, add) == Ok({"was": "present"})
        assert batch.settle().keys() == {1}
    assert isinstance(fenced.renew(OWNER, boottime() + 60, fenced.batch(())), Ok)
    assert held_in_fence(fenced) == {"192.0.2.1": False, "192.0.2.2": True}


def test_what_may_have_been_put_there_is_let_go_of_when_it_surely_is_not(
    network: Namespace, fenced: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has done it, and its answer was lost."""
    put = Kernel.put

    def unanswered(kernel: Kernel, assignments: list[Assignment]) -> NoReturn:
        put(kernel, assignments)
        raise UnansweredError(errno.ENOBUFS, "No buffer space available")

    batch = fenced.batch({ip_address("192.0.2.1")})
    added(batch, 1)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "put", unanswered)
        assert list(batch.settle()) == [1]
    assert held_in_fence(fenced).keys() == {"192.0.2.1"}
    assert len(fenced) == 1
    fenced.do_what_is_due()
    assert (len(fenced), present(network), held_in_fence(fenced)) == (0, [], {})


def test_what_is_past_its_deadline_is_mute_before_it_is_off_the_interface(
    network: Namespace, deferred: Holdings, jobs: Deferred
) -> None:
    """Also when that comes nearer, or the policy does not allow it any more."""
    hold(deferred, 1, 2)
    for each in deferred.inventory:
        each.deadline -= 100 if each.address == ip_address("192.0.2.1") else 0
    deferred.do_what_is_due()
    assert held_in_fence(deferred) == {"192.0.2.1": False, "192.0.2.2": True}
    assert present(network) == on_interface("192.0.2.1", "192.0.2.2")
    deferred.obey(replace(deferred.policy, rules=()))
    assert held_in_fence(deferred) == {"192.0.2.1": False, "192.0.2.2": False}
    jobs.do_all()
    assert (present(network), held_in_fence(deferred)) == ([], {})


def test_the_end_of_what_cannot_be_muted_goes_on(
    network: Namespace, fenced: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its deadline it is mute by itself."""
    hold(fenced, 1)
    monkeypatch.setattr(Fence, "renew", fail)
    fenced.end_over(boottime() + 100)
    assert (present(network), len(fenced)) == ([], 0)


def test_what_was_removed_or_added_anew_while_its_end_waited_is_left_alone(
    network: Namespace, deferred: Holdings, jobs: Deferred, tmp_path: Path
) -> None:
    hold(deferred, 1, 2)
    deferred.end_over(boottime() + 100)
    assert len(jobs.started) == 1
    deferred.end_over(boottime() + 100)
    assert len(jobs.started) == 1, "each is ended once"
    one, two = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    assert deferred.batch({one}).remove(OWNER, one) == Ok({"was": "present"})
    batch = deferred.batch({two})
    add = Add(3, INTERFACE, two, 32, "", deadline_in(60))
    assert batch.add(OWNER, add) == Ok({"was": "present"})
    assert batch.settle() == {}
    jobs.do_all()
    assert present(network) == on_interface("192.0.2.2")
    assert held_in_fence(deferred) == {"192.0.2.2": True}
    assert record_of(deferred, tmp_path) == []


@pytest.mark.parametrize("is_told", [True, False])
def test_deadlines_are_drawn_nearer_without_waiting_for_the_kernel(
    network: Namespace,
    deferred: Holdings,
    jobs: Deferred,
    monkeypatch: pytest.MonkeyPatch,
    is_told: bool,
) -> None:
    """If the fence cannot be told, what is over is so at its deadline of before."""
    hold(deferred, 1)
    hold(deferred, 2, in_s=600)
    with monkeypatch.context() as patched:
        for each in ("addresses", "put", "delete"):
            patched.setattr(Kernel, each, fail)
        if not is_told:
            patched.setattr(Fence, "renew", fail)
        deferred.draw_deadlines_nearer(100, "the host was paused")
    assert held_in_fence(deferred) == {"192.0.2.1": not is_told, "192.0.2.2": True}
    assert 499 < max(deferred.deadlines().values()) - boottime() < 501
    jobs.do_all()
    assert present(network) == on_interface("192.0.2.2")


def test_what_an_earlier_life_left_goes_after_a_pause_with_a_fence(
    network: Namespace, tmp_path: Path
) -> None:
    leave(network, tmp_path, f"{V4}/32")
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        holdings.draw_deadlines_nearer(100, "the host was paused")
        assert present(network) == []


def test_lifetimes_are_set_anew_together_long_before_they_are_over(
    deferred: Holdings, jobs: Deferred, clock: Clock
) -> None:
    clock.now = boottime()
    hold(deferred, 1, in_s=3000.0)
    hold(deferred, 2, in_s=0.5)
    one, two = deferred.inventory
    assert two.kernel_until == clock.now + BROOM_S - EARLY_S
    assert one.kernel_until > clock.now + 3000 - EARLY_S
    assert two.extend_at == two.kernel_until - SWEEP_AGAIN_S
    two.deadline += 1000.0
    clock.now = two.extend_at
    deferred.do_what_is_due()
    assert deferred.next_at() > clock.now, "nobody is woken for it again"
    deferred.do_what_is_due()
    assert len(jobs.started) == 1
    before = two.kernel_until
    jobs.do_all()
    assert two.kernel_until > before
    assert two.extend_at > clock.now + SWEEP_AGAIN_S


def test_what_is_held_is_described_without_asking_the_kernel(
    fenced: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(fenced, 1)
    monkeypatch.setattr(Kernel, "addresses", fail)
    (told,) = fenced.describe()
    assert [row[:3] for row in told["addresses"]] == [["192.0.2.1", INTERFACE, 32]]
    page = fenced.batch(()).page(OWNER, None)
    assert isinstance(page, Ok)
    assert [each["address"] for each in page.fields["addresses"]] == ["192.0.2.1"]


def test_the_record_is_told_whose_addresses_are_fenced(fenced: Holdings) -> None:
    hold(fenced, 1)
    address = ip_address("192.0.2.1")
    deadline = fenced.deadlines()[OWNER]
    assert set(fenced.fenced() or ()) == {OWNER}
    assert fenced.fenced_until(OWNER, address) == (True, deadline)
    assert fenced.fenced_until(ANOTHER, address) is None
    assert fenced.fenced_until(OWNER, ip_address(V4)) is None


def test_without_a_fence_none_is(holdings: Holdings) -> None:
    hold(holdings, 1)
    assert holdings.fenced() is None
    assert holdings.fenced_until(OWNER, ip_address("192.0.2.1")) is None


def test_a_removal_is_expected_with_a_fence(fenced: Holdings) -> None:
    hold(fenced, 1, 2)
    remove = Remove(1, ip_address("192.0.2.1"))
    assert fenced.expect_removal(OWNER, remove)
    assert isinstance(fenced.renew(OWNER, boottime() + 60, fenced.batch(())), Ok)
    assert held_in_fence(fenced) == {"192.0.2.1": False, "192.0.2.2": True}
    fenced.end_removal(OWNER, remove)
    assert isinstance(fenced.renew(OWNER, boottime() + 60, fenced.batch(())), Ok)
    assert held_in_fence(fenced) == {"192.0.2.1": True, "192.0.2.2": True}
    assert fenced.waits_for_kernel


def test_and_not_without_one(holdings: Holdings) -> None:
    hold(holdings, 1)
    remove = Remove(1, ip_address("192.0.2.1"))
    assert not holdings.expect_removal(OWNER, remove)
    holdings.end_removal(OWNER, remove)
    assert not holdings.waits_for_kernel


# --- what others do to the fence -----------------------------------------------------------------


def test_a_fence_that_somebody_flushes_is_made_anew_and_on_record(
    network: Namespace, fenced: Holdings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(fenced, 1, 2)
    fenced.see_tables()
    assert fence_entries(fenced, tmp_path) == [], "its own changes are none of others"
    network.run("nft", "flush", "ruleset")
    assert held_in_fence(fenced) == {}
    fenced.see_tables()
    assert held_in_fence(fenced) == {"192.0.2.1": True, "192.0.2.2": True}
    assert fence_entries(fenced, tmp_path) == [("lost", 2), ("made", 2)]
    assert "made anew for" in capsys.readouterr().err
    fenced.see_tables()
    assert len(fence_entries(fenced, tmp_path)) == 2


def test_a_fence_that_cannot_be_made_anew_is_told_as_lost(
    network: Namespace,
    fenced: Holdings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hold(fenced, 1)
    network.run("nft", "flush", "ruleset")
    with monkeypatch.context() as patched:
        patched.setattr(Fence, "make", fail)
        fenced.see_tables()
    assert fence_entries(fenced, tmp_path) == [("lost", 1)]
    assert "cannot be made anew" in capsys.readouterr().err
    assert isinstance(fenced.renew(OWNER, boottime() + 60, fenced.batch(())), Ok)
    assert held_in_fence(fenced) == {"192.0.2.1": True}


def test_without_a_fence_there_are_no_tables_to_see(
    network: Namespace, holdings: Holdings, tmp_path: Path
) -> None:
    hold(holdings, 1)
    network.run("nft", "add", "table", "inet", "yaim-8")
    holdings.see_tables()
    assert fence_entries(holdings, tmp_path) == []
