"""In which order an address goes whose connections are reset, step by step. The connections
are none: what is to be ended, and what is on the interface just then, is looked at."""

import errno
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from yaim_helper.held import reset
from yaim_helper.held.batch import Batch
from yaim_helper.held.holdings import Holdings
from yaim_helper.held.reset import RESET_WITHIN_S, Resetting
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.connections import Connections, Destroyed
from yaim_helper.kernel.fence import Fence
from yaim_helper.owners import Owner
from yaim_helper.protocol import Add, Address, Failed, Ok, Refused, Remove, Reply

from tests.helper.held.test_holdings import held_in_fence
from tests.helper.holdings import OWNER, Slow, fail, holdings_in, on_interface
from tests.helper.network import INTERFACE, PEER, boottime, present, watching
from tests.helper.process import deadline_in, leave, read_records
from yaim.lab.namespaces import Namespace

V4, V6, OTHER = ip_address("192.0.2.10"), ip_address("2001:db8::10"), ip_address("192.0.2.11")
ANOTHER = Owner(0, "another")
ENDED = Destroyed(7, 2)
RESET = {"reset": 7, "left": 2}


@dataclass
class Seen:
    """What was there when connections were to be ended."""

    addresses: set[Address]
    within_s: float
    on_interface: list[str]
    routes: str
    """The local routes of the pool."""
    answering: dict[str, bool]
    """What is in fences, and whether it answers."""


class Fake(Connections):
    """All addresses have connections."""

    def __init__(self, network: Namespace) -> None:
        self._network = network
        self.seen: list[Seen] = []
        self.holdings: Holdings | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def why_not(self) -> str:
        return ""

    def destroy(self, addresses: Collection[Address], until: float) -> dict[Address, Destroyed]:
        within_s = until - boottime()
        routes = self._network.run("ip", "route", "show", "table", "local", "root", "192.0.2.0/24")
        self.seen.append(
            Seen(
                set(addresses),
                within_s,
                present(self._network),
                routes,
                held_in_fence(self.holdings) if self.holdings is not None else {},
            )
        )
        self.meanwhile()
        return dict.fromkeys(addresses, ENDED)


@pytest.fixture
def fake(network: Namespace) -> Fake:
    return Fake(network)


@pytest.fixture
def holdings(network: Namespace, tmp_path: Path, fake: Fake) -> Iterator[Holdings]:
    with holdings_in(network, tmp_path, resetting=Resetting(fake, "")) as holdings:
        yield holdings


@pytest.fixture
def fenced(network: Namespace, tmp_path: Path, fake: Fake) -> Iterator[Holdings]:
    resetting = Resetting(fake, "")
    with holdings_in(network, tmp_path, is_fenced=True, resetting=resetting) as fenced:
        fake.holdings = fenced
        yield fenced


def hold(holdings: Holdings, *addresses: Address, in_s: float = 30.0) -> None:
    batch = holdings.batch(addresses)
    for number, each in enumerate(addresses):
        add = Add(number, INTERFACE, each, each.max_prefixlen, "", deadline_in(in_s))
        assert isinstance(batch.add(OWNER, add), Ok)
    assert batch.settle() == {}


def removed(
    holdings: Holdings, *addresses: Address, how: str = "reset", owner: Owner = OWNER
) -> list[Reply]:
    """As the server does it."""
    batch = holdings.batch(addresses)
    batch.reset_together(owner, [Remove(n, a, how) for n, a in enumerate(addresses)])  # type: ignore[arg-type]
    replies = [_removed(batch, owner, each) for each in addresses]
    assert batch.settle() == {}
    return replies


def _removed(batch: Batch, owner: Owner, address: Address) -> Reply:
    try:
        return batch.remove(owner, address)
    except KernelError as error:
        return Failed(error.errno, error.reason)


def route_of(network: Namespace, address: Address) -> str:
    return network.run("ip", "route", "show", "table", "local", str(address))


def lose_route(network: Namespace, address: Address) -> None:
    """As a helper that was killed while it reset connections."""
    network.run("ip", "route", "del", "local", str(address), "dev", INTERFACE, "table", "local")


# --- removals that are asked for -----------------------------------------------------------------


def test_ipv4_has_its_address_and_no_route_when_connections_are_ended_and_ipv6_has_gone(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    """So resets go out, and nobody comes in. It is done for all addresses at once."""
    hold(holdings, V4, V6, OTHER)
    ok = Ok({"was": "present", **RESET})
    assert removed(holdings, V4, V6) == [ok, ok]
    (seen,) = fake.seen
    assert seen.addresses == {V4, V6}
    assert 0 < seen.within_s <= RESET_WITHIN_S
    assert seen.on_interface == on_interface(str(V4), str(OTHER))
    assert str(OTHER) in seen.routes
    assert str(V4) not in seen.routes
    assert present(network) == on_interface(str(OTHER))
    assert len(holdings) == 1


def test_without_being_asked_for_it_none_are_ended(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    hold(holdings, V4, V6)
    assert removed(holdings, V4, V6, how="leave") == [Ok({"was": "present"})] * 2
    assert (fake.seen, present(network)) == ([], [])


def test_of_the_same_batch_all_have_a_tenth_of_a_second_together(
    holdings: Holdings, fake: Fake
) -> None:
    hold(holdings, V4, OTHER)
    fake.meanwhile = lambda: time.sleep(0.02)
    batch = holdings.batch((V4, OTHER))
    for each in (V4, OTHER):
        batch.reset_together(OWNER, [Remove(1, each, "reset")])
        assert batch.remove(OWNER, each) == Ok({"was": "present", **RESET})
    assert fake.seen[1].within_s < RESET_WITHIN_S - 0.02
    assert holdings.resets.take_s() > 0.04
    assert holdings.resets.take_s() == 0.0


def test_whose_time_it_takes(holdings: Holdings, fake: Fake) -> None:
    """Another user's renewal paid for it, which the loop did meanwhile."""
    fake.meanwhile = lambda: time.sleep(0.02)
    took: list[float] = []

    def job() -> None:
        cleared(holdings, V4)
        took.extend(holdings.resets.take_s() for _ in range(2))

    thread = threading.Thread(target=job)
    thread.start()
    while thread.is_alive():
        assert holdings.resets.take_s() == 0.0
        thread.join(0.001)
    assert took[0] >= 0.02
    assert took[1] == 0.0


def test_what_is_added_before_in_the_same_batch_is_reset_too(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    batch = holdings.batch((V4,))
    assert batch.add(OWNER, Add(1, INTERFACE, V4, 32, "", deadline_in(30))) == Ok({"was": "absent"})
    batch.reset_together(OWNER, [Remove(2, V4, "reset")])
    assert batch.remove(OWNER, V4) == Ok({"was": "present", **RESET})
    assert batch.settle() == {}
    assert present(network) == []


def test_no_reset_goes_out_later_than_the_deadline(holdings: Holdings, fake: Fake) -> None:
    """After that another node may have the address."""
    hold(holdings, V4)
    (holding,) = holdings.inventory
    holding.deadline = boottime() + 0.03
    removed(holdings, V4)
    assert fake.seen[0].within_s <= 0.03
    hold(holdings, V4)
    (holding,) = holdings.inventory
    holding.deadline = boottime()
    assert removed(holdings, V4) == [Ok({"was": "present"})]
    assert len(fake.seen) == 1


def test_what_no_rule_lets_be_reset_is_removed_without(
    network: Namespace, tmp_path: Path, fake: Fake
) -> None:
    with holdings_in(network, tmp_path, resetting=Resetting(fake, ""), resets=False) as holdings:
        hold(holdings, V4, V6)
        assert removed(holdings, V4, V6) == [Ok({"was": "present"})] * 2
        assert (fake.seen, present(network)) == ([], [])


def test_so_it_is_where_the_kernel_cannot(network: Namespace, tmp_path: Path, fake: Fake) -> None:
    with holdings_in(network, tmp_path, resetting=Resetting(fake, "it cannot")) as holdings:
        hold(holdings, V4, V6)
        assert removed(holdings, V4, V6) == [Ok({"was": "present"})] * 2
        assert (fake.seen, present(network)) == ([], [])
        assert holdings.resets.resetting.told == {"can_reset": False, "reason": "it cannot"}


def test_a_kernel_that_tells_nothing_of_sockets_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Connections:
        raise KernelError(errno.EPROTONOSUPPORT, "the kernel has no sock_diag")

    monkeypatch.setattr(reset, "Connections", refuse)
    found = reset.begin()
    assert found.told == {"can_reset": False, "reason": "the kernel has no sock_diag"}


def test_what_the_host_has_elsewhere_too_is_not_reset(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    """The address stays on the host."""
    hold(holdings, V4, V6)
    network.run("ip", "address", "add", f"{V4}/24", "dev", PEER)
    network.run("ip", "address", "add", f"{V6}/64", "dev", PEER, "nodad")
    replies = removed(holdings, V4, V6)
    assert [r.fields.keys() for r in replies if isinstance(r, Ok)] == [{"was", "copies"}] * 2
    assert fake.seen == []
    assert present(network) == [f"{PEER} {V4}/24", f"{PEER} {V6}/64"]


def test_what_is_held_for_another_is_untouched(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    hold(holdings, V4)
    assert removed(holdings, V4, owner=ANOTHER) == [Ok({"was": "absent"})]
    assert (fake.seen, present(network)) == ([], on_interface(str(V4)))
    assert route_of(network, V4)


def test_what_is_not_there_is_not_reset(holdings: Holdings, fake: Fake) -> None:
    assert removed(holdings, V4, V6) == [Ok({"was": "absent"})] * 2
    assert fake.seen == []


def test_what_an_earlier_life_has_left_is_reset(
    network: Namespace, tmp_path: Path, fake: Fake
) -> None:
    leave(network, tmp_path, f"{V4}/32", f"{V6}/128")
    with holdings_in(network, tmp_path, resetting=Resetting(fake, "")) as holdings:
        ok = Ok({"was": "present", **RESET})
        assert removed(holdings, V4, V6) == [ok, ok]
        assert fake.seen[0].on_interface == on_interface(str(V4))
        assert present(network) == []


def test_what_has_gone_a_moment_before_is_told_as_gone(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V6)
    monkeypatch.setattr(Kernel, "delete", lambda *_: False)
    assert removed(holdings, V6) == [Ok({"was": "absent", **RESET})]


# --- what goes wrong -----------------------------------------------------------------------------


def test_an_address_that_cannot_be_removed_is_not_reached_any_more(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to go anyway."""
    hold(holdings, V4)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "delete", fail)
        (reply,) = removed(holdings, V4)
    assert isinstance(reply, Failed)
    assert str(V4) not in fake.seen[0].routes
    assert route_of(network, V4) == ""
    assert removed(holdings, V4) == [Ok({"was": "present", **RESET})]
    assert route_of(network, V4) == ""


def test_one_that_the_host_has_made_its_own_meanwhile_gets_its_route_back(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    hold(holdings, V4)
    before = route_of(network, V4)
    batch = holdings.batch((V4,))
    batch.reset_together(OWNER, [Remove(1, V4, "reset")])
    assert route_of(network, V4) == ""
    network.run("ip", "address", "change", f"{V4}/32", "dev", INTERFACE, "valid_lft", "forever")
    assert batch.remove(OWNER, V4) == Ok(
        {
            **{"was": "absent", **RESET},
            "copies": [{"address": str(V4), "interface": INTERFACE, "prefix": 32}],
        }
    )
    assert route_of(network, V4) == before


def test_an_ipv6_address_that_cannot_be_removed_is_not_reset(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects just then would come to this host."""
    hold(holdings, V6)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "delete", fail)
        assert isinstance(removed(holdings, V6)[0], Failed)
    assert fake.seen == []
    assert removed(holdings, V6) == [Ok({"was": "present", **RESET})]


def test_a_route_that_stays_keeps_no_connection(
    holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4)
    monkeypatch.setattr(Kernel, "withdraw_route", fail)
    assert removed(holdings, V4) == [Ok({"was": "present", **RESET})]
    assert fake.seen[0].addresses == {V4}


def test_what_the_kernel_does_not_tell_of_is_removed_all_the_same(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "addresses", fail)
        batch = holdings.batch((V4,))
        batch.reset_together(OWNER, [Remove(1, V4, "reset")])
        assert batch.remove(OWNER, V4) == Ok({"was": "present"})
    assert (fake.seen, present(network)) == ([], [])


# --- an address without its route ----------------------------------------------------------------


def test_an_address_that_is_added_has_its_route_whoever_was_killed_before(
    network: Namespace, tmp_path: Path
) -> None:
    leave(network, tmp_path, f"{V4}/32", f"{V6}/128")
    before = route_of(network, V4)
    lose_route(network, V4)
    with holdings_in(network, tmp_path) as holdings:
        hold(holdings, V4, V6)
        assert route_of(network, V4) == before
        assert removed(holdings, V4) == [Ok({"was": "present"})]
        assert route_of(network, V4) == ""


def test_one_whose_helper_is_killed_while_it_resets_is_gone_in_time_with_its_route(
    network: Namespace, holdings: Holdings
) -> None:
    with watching(network) as watch:
        hold(holdings, V4, in_s=2.6)
        (holding,) = holdings.inventory
        holdings.batch((V4,)).reset_together(OWNER, [Remove(1, V4, "reset")])
        assert watch.still_there({V4}, holding.deadline + 0.2) == set()
        assert route_of(network, V4) == ""


def test_an_add_that_cannot_tell_whether_there_is_one_has_failed(
    network: Namespace, holdings: Holdings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4)
    lose_route(network, V4)
    monkeypatch.setattr(Kernel, "local_source", fail)
    batch = holdings.batch((V4, V6))
    for number, each in enumerate((V4, V6)):
        add = Add(number, INTERFACE, each, each.max_prefixlen, "", deadline_in(30))
        assert isinstance(batch.add(OWNER, add), Ok)
    assert {n: e.reason for n, e in batch.settle().items()} == {0: "No buffer space available"}
    assert present(network) == on_interface(str(V4), str(V6))
    assert len(holdings) == 2


# --- of itself -----------------------------------------------------------------------------------


def own_entries(holdings: Holdings, directory: Path) -> list[dict[str, Any]]:
    assert holdings._recorder.drain(20.0)
    keys = ("address", "outcome", "reset", "left", "fence")
    return [
        {key: each[key] for key in keys if key in each}
        for each in read_records(directory / "audit")
        if each["type"] == "own"
    ]


def test_what_a_new_policy_does_not_allow_is_reset_as_the_old_one_lets(
    network: Namespace, holdings: Holdings, fake: Fake, tmp_path: Path
) -> None:
    hold(holdings, V4, V6)
    holdings.obey(replace(holdings.policy, rules=()))
    (seen,) = fake.seen
    assert seen.addresses == {V4, V6}
    assert seen.on_interface == on_interface(str(V4))
    assert str(V4) not in seen.routes
    assert present(network) == []
    why = "no rule allows it any more: removing"
    assert own_entries(holdings, tmp_path) == [
        {"address": str(V4), "outcome": why},
        {"address": str(V6), "outcome": why},
        {"address": str(V4), "outcome": "removed", **RESET},
        {"address": str(V6), "outcome": "removed", **RESET},
    ]
    assert holdings.inventory.expired(OWNER) == [V4, V6]


def test_so_is_what_belongs_to_a_user_who_is_not_in_it(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    hold(holdings, V4)
    holdings.obey(replace(holdings.policy, users=(1,)))
    assert [each.addresses for each in fake.seen] == [{V4}]
    assert present(network) == []


def test_a_rule_that_forbade_it_still_counts_when_it_has_gone(
    network: Namespace, tmp_path: Path, fake: Fake
) -> None:
    with holdings_in(network, tmp_path, resetting=Resetting(fake, ""), resets=False) as holdings:
        hold(holdings, V4)
        holdings.obey(replace(holdings.policy, rules=()))
        assert (fake.seen, present(network)) == ([], [])


def test_a_fence_lets_the_reset_out_before_it_mutes(
    network: Namespace, fenced: Holdings, fake: Fake, tmp_path: Path
) -> None:
    hold(fenced, V4, V6)
    fenced.obey(replace(fenced.policy, rules=()))
    assert fake.seen[0].answering == {str(V4): True, str(V6): True}
    assert (present(network), held_in_fence(fenced)) == ([], {})
    removed_entries = own_entries(fenced, tmp_path)[2:]
    assert [each["fence"] for each in removed_entries] == [True, True]


def test_a_reset_of_itself_that_leaves_an_address_mutes_it_all_the_same(
    network: Namespace, fenced: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(fenced, V4)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "delete", fail)
        fenced.obey(replace(fenced.policy, rules=()))
    assert fake.seen[0].answering == {str(V4): True}
    assert held_in_fence(fenced) == {str(V4): False}
    assert route_of(network, V4) == ""


def test_addresses_that_cannot_be_looked_at_are_removed_without(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(holdings, V4)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "addresses", fail)
        holdings.obey(replace(holdings.policy, rules=()))
    assert (fake.seen, present(network)) == ([], [])


def test_at_a_deadline_and_after_a_pause_nothing_is_reset(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    hold(holdings, V4, V6)
    for each in holdings.inventory:
        each.deadline = boottime() if each.address == V4 else each.deadline
    holdings.do_what_is_due()
    assert present(network) == on_interface(str(V6))
    holdings.draw_deadlines_nearer(60.0, "the host was paused")
    assert present(network) == []
    assert fake.seen == []


# --- what has gone -------------------------------------------------------------------------------


def cleared(holdings: Holdings, address: Address) -> Reply:
    return holdings.batch((address,)).clear(OWNER, address)


def test_what_is_left_of_an_ipv4_address_is_ended(holdings: Holdings, fake: Fake) -> None:
    assert cleared(holdings, V4) == Ok({"cleared": 7, "left": 2})
    assert fake.seen[0].addresses == {V4}
    assert 0 < fake.seen[0].within_s <= RESET_WITHIN_S


def test_without_a_fence_what_is_left_of_ipv6_stays(holdings: Holdings, fake: Fake) -> None:
    """A reset would go out."""
    with pytest.raises(KernelError, match="without a fence"):
        cleared(holdings, V6)
    assert fake.seen == []


@pytest.mark.parametrize("address", [V4, V6])
def test_a_fence_mutes_the_address_meanwhile(
    fenced: Holdings, fake: Fake, address: Address
) -> None:
    assert cleared(fenced, address) == Ok({"cleared": 7, "left": 2})
    assert fake.seen[0].answering == {str(address): False}
    assert held_in_fence(fenced) == {}
    hold(fenced, OTHER)
    assert cleared(fenced, address) == Ok({"cleared": 7, "left": 2})
    assert fake.seen[1].answering == {str(address): False, str(OTHER): True}
    assert held_in_fence(fenced) == {str(OTHER): True}


def test_what_cannot_be_muted_is_not_ended(
    fenced: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fence, "make", fail)
    with pytest.raises(KernelError):
        cleared(fenced, V6)
    assert fake.seen == []


def test_nothing_is_ended_of_an_address_that_is_on_this_host_or_held(
    network: Namespace, holdings: Holdings, fake: Fake
) -> None:
    hold(holdings, V4)
    network.run("ip", "address", "add", f"{OTHER}/32", "dev", PEER)
    network.run("ip", "address", "add", f"{V6}/128", "dev", "lo", "nodad")
    for each in (V4, OTHER, V6):
        reply = cleared(holdings, each)
        assert isinstance(reply, Refused)
        assert reply.code == "foreign"
    batch = holdings.batch((V4 + 5,))
    batch.add(OWNER, Add(1, INTERFACE, V4 + 5, 32, "", deadline_in(30)))
    assert isinstance(batch.clear(OWNER, V4 + 5), Refused)
    assert fake.seen == []


@pytest.mark.parametrize(
    "address", [ip_address("198.51.100.1"), ip_address("192.0.2.255"), IPv6Address("2001:db9::1")]
)
def test_nor_of_one_that_no_rule_allows(holdings: Holdings, fake: Fake, address: Address) -> None:
    reply = cleared(holdings, address)
    assert isinstance(reply, Refused)
    assert (reply.code, fake.seen) == ("not-allowed", [])


def test_nor_of_one_whose_connections_a_rule_protects(
    network: Namespace, tmp_path: Path, fake: Fake
) -> None:
    with holdings_in(network, tmp_path, resetting=Resetting(fake, ""), resets=False) as holdings:
        reply = cleared(holdings, V4)
        assert isinstance(reply, Refused)
        assert (reply.code, fake.seen) == ("not-allowed", [])


def test_where_the_kernel_cannot_a_clear_fails(network: Namespace, tmp_path: Path) -> None:
    with holdings_in(network, tmp_path) as holdings:
        with pytest.raises(KernelError, match="started without"):
            cleared(holdings, V4)
        assert holdings.resets.resetting.told["can_reset"] is False


# --- time ----------------------------------------------------------------------------------------


def test_a_reset_that_takes_all_its_time_keeps_no_other_address_too_long(
    network: Namespace, tmp_path: Path
) -> None:
    """Without a fence the loop waits for it, and another address's deadline passes meanwhile."""
    with (
        watching(network) as watch,
        holdings_in(network, tmp_path, resetting=Resetting(Slow(), "")) as holdings,
    ):
        hold(holdings, V4)
        hold(holdings, OTHER, in_s=2.6)
        over_at = max(each.deadline for each in holdings.inventory if each.address == OTHER)
        while boottime() < over_at - 0.05:
            holdings.do_what_is_due()
            time.sleep(0.005)
        assert removed(holdings, V4) == [Ok({"was": "present", "reset": 0, "left": 1})]
        assert boottime() > over_at
        assert watch.still_there({OTHER}, over_at + 0.2) == set()


def test_a_renewal_waits_for_a_reset_if_its_fence_has_the_time(fenced: Holdings) -> None:
    assert fenced.waits_for_resets_until(OWNER, boottime()) == 0.0
    before = boottime()
    hold(fenced, V4, in_s=5.0)
    after = boottime()
    for now in (after, before + 4.65):
        assert fenced.waits_for_resets_until(OWNER, now) == now + RESET_WITHIN_S
    assert fenced.waits_for_resets_until(OWNER, after + 4.75) == 0.0


def test_without_a_fence_it_does_not(holdings: Holdings) -> None:
    hold(holdings, V4)
    assert holdings.waits_for_resets_until(OWNER, boottime()) == 0.0
