"""The local routes of addresses whose connections are reset: with real connections and clients that
come back at once, as the kernel makes routes of all kinds, and when something comes in between."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from yaim_helper.held.holdings import Holdings
from yaim_helper.held.reset import Resetting
from yaim_helper.kernel.addresses import Kernel
from yaim_helper.kernel.connections import Destroyed
from yaim_helper.protocol import Add, Address, Failed, Ok, Remove, Reply
from yaim_helper.record.entries import TAKEN

from tests.helper.held.test_reset import Fake, lose_route, own_entries, removed, route_of
from tests.helper.holdings import OWNER, fail, holdings_in
from tests.helper.kernel.test_connections import Hosts, hosts, many_clients, states  # noqa: F401
from tests.helper.network import INTERFACE, present
from tests.helper.process import deadline_in, leave
from yaim.lab.namespaces import Namespace

V4, OWN = ip_address("192.0.2.10"), ip_address("192.0.2.1")
CLIENTS = 50
FIRST = (24, False)
PLACES = [(32, True), (24, True), FIRST]
"""Prefix lengths, and whether the host has an address in the network: then ours is a secondary."""
RESET = {"reset": 7, "left": 2}
NONE = Destroyed(0, 0)


@pytest.fixture
def fake(network: Namespace) -> Fake:
    return Fake(network)


def prepare(network: Namespace, has_own: bool = True) -> None:
    for each in ("all", INTERFACE):
        network.run("sysctl", "-qw", f"net.ipv4.conf.{each}.promote_secondaries=1")
    if has_own:
        network.run("ip", "address", "add", f"{OWN}/24", "dev", INTERFACE)


def added(holdings: Holdings, prefix: int) -> Reply:
    batch = holdings.batch((V4,))
    reply = batch.add(OWNER, Add(1, INTERFACE, V4, prefix, "", deadline_in(30)))
    assert batch.settle() == {}
    return reply


def local_route(network: Namespace) -> str:
    return network.run("ip", "route", "show", "table", "local", "type", "local", str(V4)).strip()


def as_made(source: Address) -> str:
    return f"local {V4} dev {INTERFACE} proto kernel scope host src {source}"


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> tuple[int, bool]:
    found: tuple[int, bool] = request.param
    return found


@pytest.fixture(params=[each for each in PLACES if each != FIRST])
def withdrawn_place(request: pytest.FixtureRequest) -> tuple[int, bool]:
    """One where the route is withdrawn."""
    found: tuple[int, bool] = request.param
    return found


def source_at(prefix: int, has_own: bool) -> Address:
    return OWN if (prefix, has_own) == (24, True) else V4


def test_whoever_comes_back_at_once_does_not_come_to_this_host(
    hosts: Hosts,  # noqa: F811
    tmp_path: Path,
    withdrawn_place: tuple[int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("yaim_helper.held.batch.RESET_WITHIN_S", 10.0)  # of a busy machine
    prefix, has_own = withdrawn_place
    hosts.server.run("ip", "address", "flush", "dev", INTERFACE)
    prepare(hosts.server, has_own)
    resetting = Resetting(hosts.connections, "")
    with holdings_in(hosts.server, tmp_path, resetting=resetting, prefixes=[prefix]) as holdings:
        assert added(holdings, prefix) == Ok({"was": "absent"})
        assert local_route(hosts.server) == as_made(source_at(prefix, has_own))
        listener = hosts.listener(V4)
        listener.listen(CLIENTS)
        with many_clients(hosts, V4, CLIENTS) as told:
            for _ in range(CLIENTS):
                hosts.kept(listener.accept()[0])
            said = [told()]
            with hosts.server.entered():
                replies = removed(holdings, V4)
            found = states(hosts.server, V4), local_route(hosts.server)
        assert replies == [Ok({"was": "present", "reset": CLIENTS, "left": 0})]
        assert (said, found) == (["ready"], ({"LISTEN": 1}, ""))


def test_the_first_of_a_network_keeps_its_route_and_something_is_left(
    network: Namespace, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else, if the helper were killed just then, what is added beside it would have none."""
    other = ip_address("192.0.2.20")
    prepare(network, has_own=False)
    resetting = Resetting(fake, "")
    monkeypatch.setattr(fake, "destroy", lambda addresses, _: dict.fromkeys(addresses, NONE))
    with holdings_in(network, tmp_path, resetting=resetting, prefixes=[24]) as killed:
        added(killed, 24)
        killed.batch((V4,)).reset_together(OWNER, [Remove(1, V4, "reset")])
        assert local_route(network) == as_made(V4)
        batch = killed.batch((other,))
        add = Add(2, INTERFACE, other, 24, "", deadline_in(30))
        assert batch.add(OWNER, add) == Ok({"was": "absent"})
        assert batch.settle() == {}
        assert route_of(network, other)
        assert removed(killed, V4) == [Ok({"was": "present", "reset": 0, "left": 1})]
        assert local_route(network) == ""
        assert route_of(network, other)


@pytest.fixture
def holdings(network: Namespace, tmp_path: Path, fake: Fake) -> Iterator[Holdings]:
    with holdings_in(
        network, tmp_path, resetting=Resetting(fake, ""), prefixes=[24, 32]
    ) as holdings:
        yield holdings


def test_who_is_killed_before_the_address_goes_leaves_one_that_an_add_has_answer(
    network: Namespace, tmp_path: Path, fake: Fake, withdrawn_place: tuple[int, bool]
) -> None:
    """The kernel has made its route, so it goes with the address."""
    prefix, has_own = withdrawn_place
    prepare(network, has_own)
    resetting = Resetting(fake, "")
    with holdings_in(network, tmp_path, resetting=resetting, prefixes=[prefix]) as killed:
        added(killed, prefix)
        before = local_route(network)
        killed.batch((V4,)).reset_together(OWNER, [Remove(1, V4, "reset")])
        assert local_route(network) == ""
        assert added(killed, prefix) == Ok({"was": "present"})
        assert local_route(network) == before == as_made(source_at(prefix, has_own))
        assert own_entries(killed, tmp_path) == []
        assert removed(killed, V4) == [Ok({"was": "present", **RESET})]
        assert local_route(network) == ""


def test_so_does_an_earlier_life(
    network: Namespace, tmp_path: Path, fake: Fake, place: tuple[int, bool]
) -> None:
    prefix, has_own = place
    prepare(network, has_own)
    leave(network, tmp_path, f"{V4}/{prefix}")
    before = local_route(network)
    lose_route(network, V4)
    resetting = Resetting(fake, "")
    with holdings_in(network, tmp_path, resetting=resetting, prefixes=[prefix]) as holdings:
        assert added(holdings, prefix) == Ok({"was": "present"})
        assert local_route(network) == before == as_made(source_at(prefix, has_own))
        assert removed(holdings, V4) == [Ok({"was": "present", **RESET})]
        assert local_route(network) == ""


def test_what_the_host_makes_its_own_meanwhile_has_the_route_that_it_had(
    network: Namespace, holdings: Holdings, fake: Fake, withdrawn_place: tuple[int, bool]
) -> None:
    prefix, has_own = withdrawn_place
    prepare(network, has_own)
    added(holdings, prefix)
    before = local_route(network)
    fake.meanwhile = lambda: take_over(network, prefix)
    copy = {"address": str(V4), "interface": INTERFACE, "prefix": prefix}
    assert removed(holdings, V4) == [Ok({"was": "absent", **RESET, "copies": [copy]})]
    assert f"local {V4}" not in fake.seen[0].routes
    assert local_route(network) == before
    network.run("ip", "address", "del", f"{V4}/{prefix}", "dev", INTERFACE)
    assert local_route(network) == ""


def take_over(network: Namespace, prefix: int) -> None:
    where = (f"{V4}/{prefix}", "dev", INTERFACE)
    network.run("ip", "address", "change", *where, "valid_lft", "forever")


def test_so_has_what_an_earlier_life_had_left(
    network: Namespace, tmp_path: Path, fake: Fake
) -> None:
    prepare(network)
    leave(network, tmp_path, f"{V4}/24")
    before = local_route(network)
    fake.meanwhile = lambda: take_over(network, 24)
    with holdings_in(network, tmp_path, resetting=Resetting(fake, ""), prefixes=[24]) as holdings:
        (reply,) = removed(holdings, V4)
        assert isinstance(reply, Ok)
        assert (reply.fields["was"], local_route(network)) == ("absent", before)


def test_so_has_what_a_new_policy_does_not_allow(
    network: Namespace, holdings: Holdings, fake: Fake, tmp_path: Path
) -> None:
    prepare(network)
    added(holdings, 24)
    before = local_route(network)
    fake.meanwhile = lambda: take_over(network, 24)
    holdings.obey(replace(holdings.policy, rules=()))
    assert local_route(network) == before
    assert f"{INTERFACE} {V4}/24" in present(network)
    assert own_entries(holdings, tmp_path)[-1]["outcome"] == TAKEN


def test_what_the_host_makes_its_own_and_removes_is_not_answered_for(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the route: it is taken out again, also if the interface is down."""
    prepare(network)
    added(holdings, 24)
    fake.meanwhile = lambda: take_over(network, 24)
    restore = Kernel.restore_route

    def late(kernel: Kernel, *place: object) -> None:
        network.run("ip", "address", "del", f"{V4}/24", "dev", INTERFACE)
        network.run("ip", "link", "set", INTERFACE, "down")
        restore(kernel, *place)  # type: ignore[arg-type]

    monkeypatch.setattr(Kernel, "restore_route", late)
    removed(holdings, V4)
    assert (local_route(network), present(network)) == ("", [f"{INTERFACE} {OWN}/24"])


def test_a_route_that_is_not_in_the_local_table_stays_and_something_is_left(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a VRF: who comes just then is left, so it has to be told."""
    prepare(network)
    added(holdings, 32)
    lose_route(network, V4)
    network.run(
        *("sh", "-ec"),
        f"ip rule add oif {INTERFACE} lookup 1000 pref 0\nip route add {as_made(V4)} table 1000\n",
    )
    monkeypatch.setattr(Fake, "destroy", lambda _, addresses, __: dict.fromkeys(addresses, NONE))
    assert removed(holdings, V4) == [Ok({"was": "present", "reset": 0, "left": 1})]
    assert present(network) == [f"{INTERFACE} {OWN}/24"]
    assert str(V4) in network.run("ip", "route", "show", "table", "1000")


def test_what_cannot_be_removed_stays_without_a_route_until_it_is_added(
    network: Namespace, holdings: Holdings, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(network)
    added(holdings, 24)
    before = local_route(network)
    with monkeypatch.context() as patched:
        patched.setattr(Kernel, "delete", fail)
        assert isinstance(removed(holdings, V4)[0], Failed)
    assert (local_route(network), len(holdings)) == ("", 1)
    assert added(holdings, 24) == Ok({"was": "present"})
    assert local_route(network) == before
    assert route_of(network, V4)
