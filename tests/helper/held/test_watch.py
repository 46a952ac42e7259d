"""With a fence: what somebody else does to addresses is seen, and renewals are done from memory."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from yaim_helper.held.holdings import Holdings
from yaim_helper.held.watch import LOOK_AGAIN_S, Watch
from yaim_helper.kernel.address_news import Change
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.owners import Owner
from yaim_helper.protocol import Add, Address, Ok, Refused, Reply

from tests.helper.holdings import OWNER, fail, holdings_in, on_interface, record_of
from tests.helper.network import INTERFACE, PEER, boottime, present, shown, wait_for
from tests.helper.process import deadline_in
from yaim.lab.namespaces import Namespace

V4, V6 = "192.0.2.10", "2001:db8::10"
SO_RCVBUFFORCE = 33
TAKEN = "the host has it now: left alone"
PUT_BACK = "somebody had removed it: put back"
both_versions = pytest.mark.parametrize("whole", [f"{V4}/32", f"{V6}/128"])


@pytest.fixture
def holdings(network: Namespace, tmp_path: Path) -> Iterator[Holdings]:
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        yield holdings


@pytest.fixture
def watch(holdings: Holdings) -> Watch:
    assert holdings.watch is not None
    return holdings.watch


def hold(holdings: Holdings, *addresses: str, in_s: float = 30.0, owner: Owner = OWNER) -> None:
    batch = holdings.batch({ip_address(each) for each in addresses})
    for number, text in enumerate(addresses):
        address = ip_address(text)
        whole = address.max_prefixlen
        add = Add(number, INTERFACE, address, whole, "", deadline_in(in_s))
        assert isinstance(batch.add(owner, add), Ok)
    assert batch.settle() == {}
    holdings.do_what_is_due()


def remove(holdings: Holdings, text: str) -> Reply:
    address = ip_address(text)
    batch = holdings.batch({address})
    reply = batch.remove(OWNER, address)
    batch.settle()
    return reply


def renew(holdings: Holdings, in_s: float = 60.0, owner: Owner = OWNER) -> Reply:
    return holdings.renew(owner, boottime() + in_s, holdings.batch(()))


def hear_of(watch: Watch, address: Address, *, is_there: bool) -> None:
    """Hears what the kernel tells, until that was about this address: of IPv6 it tells a moment
    later."""
    read = watch.news.read
    told: list[Change] | None = []

    def reading() -> list[Change] | None:
        nonlocal told
        told = read()
        return told

    def is_told() -> bool:
        watch.hear()
        return told is None or (address, is_there) in [
            (each.place.address, each.is_there) for each in told
        ]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch.news, "read", reading)
        wait_for(is_told, f"{address} is told of")


def see(holdings: Holdings, watch: Watch, text: str, *, is_there: bool) -> bool:
    """Hears of a change, does what is due, and returns whether that was a look."""
    hear_of(watch, ip_address(text), is_there=is_there)
    is_due = watch.is_look_due
    holdings.do_what_is_due()
    assert not watch.is_look_due
    return is_due


def missing(reply: Reply) -> object:
    assert isinstance(reply, Ok), reply
    return reply.fields["missing"]


def copies(reply: Reply) -> object:
    assert isinstance(reply, Ok), reply
    return reply.fields.get("copies")


# --- what the helper does itself ---------------------------------------------------------------


@both_versions
def test_what_the_helper_does_itself_is_not_looked_at(
    holdings: Holdings, watch: Watch, whole: str
) -> None:
    address, _, _ = whole.partition("/")
    hold(holdings, address)
    assert not see(holdings, watch, address, is_there=True)
    (it,) = holdings.inventory
    it.kernel_until = it.extend_at = 0.0
    holdings.do_what_is_due()
    assert it.kernel_until > 0.0
    assert not see(holdings, watch, address, is_there=True)
    assert missing(renew(holdings)) == []
    assert remove(holdings, address) == Ok({"was": "present"})
    assert not see(holdings, watch, address, is_there=False)
    hold(holdings, address)
    assert not see(holdings, watch, address, is_there=True)
    holdings.end_over(boottime() + 100)
    hear_of(watch, ip_address(address), is_there=False)
    holdings.do_what_is_due()
    assert missing(renew(holdings)) == [address]


def test_a_removal_that_is_heard_of_while_it_goes_on_is_not_looked_at(
    holdings: Holdings, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4)
    assert not see(holdings, watch, V4, is_there=True)
    delete = Kernel.delete

    def hearing(kernel: Kernel, index: int, address: Address, prefix: int) -> bool:
        was_there = delete(kernel, index, address, prefix)
        hear_of(watch, address, is_there=False)
        return was_there

    monkeypatch.setattr(Kernel, "delete", hearing)
    assert remove(holdings, V4) == Ok({"was": "present"})
    assert not watch.is_look_due


def test_what_is_not_held_is_not_looked_at(
    network: Namespace, holdings: Holdings, watch: Watch
) -> None:
    hold(holdings, V4)
    network.run("ip", "address", "add", "192.0.2.200/24", "dev", INTERFACE)
    assert not see(holdings, watch, "192.0.2.200", is_there=True)
    network.run("ip", "address", "delete", "192.0.2.200/24", "dev", INTERFACE)
    assert not see(holdings, watch, "192.0.2.200", is_there=False)


# --- what somebody else does -------------------------------------------------------------------


@both_versions
def test_what_somebody_removes_is_put_back(
    network: Namespace, holdings: Holdings, watch: Watch, tmp_path: Path, whole: str
) -> None:
    address, _, _ = whole.partition("/")
    hold(holdings, address)
    see(holdings, watch, address, is_there=True)
    network.run("ip", "address", "delete", whole, "dev", INTERFACE)
    assert present(network) == []
    assert see(holdings, watch, address, is_there=False)
    assert present(network) == on_interface(address)
    assert record_of(holdings, tmp_path) == [(address, PUT_BACK)]
    assert missing(renew(holdings)) == []
    assert not see(holdings, watch, address, is_there=True), "the helper has put it back"


@both_versions
def test_what_somebody_takes_over_is_given_up(
    network: Namespace, holdings: Holdings, watch: Watch, tmp_path: Path, whole: str
) -> None:
    address, _, prefix = whole.partition("/")
    hold(holdings, address)
    see(holdings, watch, address, is_there=True)
    network.run("ip", "address", "replace", whole, "dev", INTERFACE)
    assert see(holdings, watch, address, is_there=True)
    (it,) = shown(network)
    assert it["valid_life_time"] == 2**32 - 1
    assert (record_of(holdings, tmp_path), len(holdings)) == ([(address, TAKEN)], 0)
    reply = renew(holdings)
    assert missing(reply) == [address]
    place = {"address": address, "interface": INTERFACE, "prefix": int(prefix)}
    assert copies(reply) == [place]
    network.run("ip", "address", "delete", whole, "dev", INTERFACE)
    assert see(holdings, watch, address, is_there=False), "its owner does not know it yet"
    assert (missing(renew(holdings)), copies(renew(holdings))) == ([address], None)


@both_versions
def test_what_somebody_moves_is_put_back_and_the_copy_told(
    network: Namespace, holdings: Holdings, watch: Watch, whole: str
) -> None:
    address, _, prefix = whole.partition("/")
    nodad = ("nodad",) if ":" in address else ()
    hold(holdings, address)
    see(holdings, watch, address, is_there=True)
    network.run("ip", "address", "delete", whole, "dev", INTERFACE)
    network.run("ip", "address", "add", whole, "dev", PEER, *nodad)
    assert see(holdings, watch, address, is_there=True)
    assert sorted(present(network)) == sorted([f"{PEER} {whole}", *on_interface(address)])
    place = {"address": address, "interface": PEER, "prefix": int(prefix)}
    reply = renew(holdings)
    assert (missing(reply), copies(reply)) == ([], [place])
    network.run("ip", "address", "delete", whole, "dev", PEER)
    assert see(holdings, watch, address, is_there=False)
    assert copies(renew(holdings)) is None


def test_a_copy_that_goes_while_its_address_is_not_held_is_told_no_more(
    network: Namespace, holdings: Holdings, watch: Watch
) -> None:
    hold(holdings, V4)
    network.run("ip", "address", "add", f"{V4}/32", "dev", PEER)
    assert see(holdings, watch, V4, is_there=True)
    assert copies(renew(holdings)) is not None
    assert isinstance(remove(holdings, V4), Ok)
    hear_of(watch, ip_address(V4), is_there=False)
    network.run("ip", "address", "delete", f"{V4}/32", "dev", PEER)
    hear_of(watch, ip_address(V4), is_there=False)
    holdings.do_what_is_due()
    hold(holdings, V4)
    assert copies(renew(holdings)) is None


def test_copies_are_told_to_their_owner(
    network: Namespace, holdings: Holdings, watch: Watch
) -> None:
    another = Owner(0, "another")
    hold(holdings, V4)
    hold(holdings, V6, owner=another)
    network.run("ip", "address", "add", f"{V4}/32", "dev", PEER)
    assert see(holdings, watch, V4, is_there=True)
    assert copies(renew(holdings, owner=another)) is None
    assert copies(renew(holdings)) is not None


def test_when_the_kernel_has_lost_some_all_is_looked_at(
    network: Namespace, holdings: Holdings, watch: Watch
) -> None:
    hold(holdings, V4, "192.0.2.11")
    holdings.end_over(boottime() + 25)
    see(holdings, watch, V4, is_there=True)
    hold(holdings, "192.0.2.12", in_s=3.0)
    holdings.end_over(boottime() + 4.0)
    assert missing(renew(holdings)) == ["192.0.2.12"]
    news = watch.news.socket
    room = news.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    lines = [f"address add 192.0.2.{n}/32 dev {INTERFACE}" for n in range(100, 150)]
    lines += [f"address delete {V4}/32 dev {INTERFACE}", f"address add 192.0.2.12/32 dev {PEER}"]
    network.run("sh", "-ec", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
    news.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, room)
    watch.hear()
    assert watch.is_look_due
    holdings.do_what_is_due()
    assert on_interface(V4)[0] in present(network)
    place = {"address": "192.0.2.12", "interface": PEER, "prefix": 32}
    assert copies(renew(holdings)) == [place]


# --- what is not put back ----------------------------------------------------------------------


def test_what_is_about_to_be_removed_is_not_put_back(
    network: Namespace, holdings: Holdings, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4, V6)
    monkeypatch.setattr(Kernel, "delete", fail)
    with pytest.raises(KernelError):
        holdings.batch({ip_address(V4)}).remove(OWNER, ip_address(V4))
    network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
    network.run("ip", "address", "delete", f"{V6}/128", "dev", INTERFACE)
    hear_of(watch, ip_address(V6), is_there=False)
    watch._changed.add(ip_address(V4))
    holdings.do_what_is_due()
    assert present(network) == on_interface(V6)


def test_what_is_past_its_deadline_is_not_put_back(
    network: Namespace, holdings: Holdings, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4)
    network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
    hear_of(watch, ip_address(V4), is_there=False)
    later = boottime() + 31.0
    monkeypatch.setattr("yaim_helper.held.watch.boottime", lambda: later)
    watch.look()
    assert present(network) == []


@pytest.mark.parametrize("fails", ["addresses", "put"])
def test_what_is_missing_is_told_and_tried_again(
    network: Namespace,
    holdings: Holdings,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    """But not with each renewal."""
    hold(holdings, V4, V6)
    see(holdings, watch, V4, is_there=True)
    network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
    now = boottime()
    monkeypatch.setattr("yaim_helper.held.watch.boottime", lambda: now)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, fails, fail)
        assert see(holdings, watch, V4, is_there=False)
        assert missing(renew(holdings)) == [V4]
        assert not watch.is_look_due
        now += LOOK_AGAIN_S
        assert missing(renew(holdings)) == [V4]
        assert watch.is_look_due
        holdings.do_what_is_due()
        assert missing(renew(holdings)) == [V4]
    now += LOOK_AGAIN_S
    assert missing(renew(holdings)) == [V4]
    holdings.do_what_is_due()
    assert missing(renew(holdings)) == []
    assert present(network) == on_interface(V4, V6)


def test_what_is_gone_and_would_be_the_first_of_its_network_is_missing(
    network: Namespace, holdings: Holdings, watch: Watch
) -> None:
    """And put back when it would not be any more."""
    for name in ("all", INTERFACE):
        network.run("sysctl", "-qw", f"net.ipv4.conf.{name}.promote_secondaries=0")
    hosts = ("ip", "address", "add", "192.0.2.200/24", "dev", INTERFACE)
    network.run(*hosts)
    hold(holdings, V4)
    (it,) = holdings.inventory
    see(holdings, watch, V4, is_there=True)
    network.run("ip", "address", "delete", f"{V4}/32", "dev", INTERFACE)
    # It is of the host's network.
    network.run("ip", "address", "delete", "192.0.2.200/24", "dev", INTERFACE)
    it.prefix = 24
    assert see(holdings, watch, V4, is_there=False)
    assert missing(renew(holdings)) == [V4]
    network.run(*hosts)
    watch._looked_at = 0.0
    assert missing(renew(holdings)) == [V4]
    holdings.do_what_is_due()
    assert missing(renew(holdings)) == []


# --- renewals ----------------------------------------------------------------------------------


def test_a_renewal_asks_for_no_address(holdings: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(holdings, V4, V6)
    for each in ("addresses", "put", "delete", "interface"):
        monkeypatch.setattr(Kernel, each, fail)
    deadline = boottime() + 60
    assert holdings.renew(OWNER, deadline, holdings.batch(())) == Ok({"missing": []})
    assert holdings.deadlines() == {OWNER: deadline}
    assert [each.life_s > 59 for each in holdings.inventory] == [True, True]


@pytest.mark.parametrize(("in_s", "is_refused"), [(-0.1, True), (3700, True), (0.2, False)])
def test_a_deadline_that_is_over_or_too_far_away_is_refused(
    holdings: Holdings, in_s: float, is_refused: bool
) -> None:
    """One that is near needs no lifetime."""
    hold(holdings, V4)
    before = holdings.deadlines()
    reply = renew(holdings, in_s)
    if is_refused:
        assert isinstance(reply, Refused)
        assert (reply.code, holdings.deadlines()) == ("expired", before)
    else:
        assert missing(reply) == []
        assert holdings.deadlines()[OWNER] < before[OWNER]


def test_only_what_is_its_owners_and_stays_is_renewed(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = Owner(0, "another")
    hold(holdings, V4, "192.0.2.11", "192.0.2.12")
    hold(holdings, V6, owner=another)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "delete", fail)
        with pytest.raises(KernelError):
            holdings.batch({ip_address(V4)}).remove(OWNER, ip_address(V4))
    near = boottime() + 5
    fences = holdings.fencing.fences
    assert fences is not None
    fences.admit(OWNER, {ip_address("192.0.2.11"): near})
    fences._clock = lambda: near
    assert missing(renew(holdings, 100)) == []
    renewed = {str(each.address) for each in holdings.inventory if each.deadline > boottime() + 90}
    assert renewed == {"192.0.2.12"}


def test_a_renewal_that_the_fence_does_not_take_changes_no_deadline(
    holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4)
    before = holdings.deadlines()
    monkeypatch.setattr("yaim_helper.kernel.fence.Fence.renew", fail)
    with pytest.raises(KernelError):
        renew(holdings)
    assert holdings.deadlines() == before
