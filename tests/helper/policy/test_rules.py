"""The rules of helper.yml: what they allow."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yaim_helper.policy.read import read_policy
from yaim_helper.policy.rules import Network, Policy, Rule
from yaim_helper.protocol import Add, Address

from tests.helper.network import INTERFACE, present
from tests.helper.process import OK_ABSENT, Client, policy, refused, running
from yaim.lab.namespaces import Namespace


def read(directory: Path, text: str) -> Policy:
    path = directory / "helper.yml"
    path.write_text(text)
    return read_policy(path)


def rule(*networks: str, prefixes: tuple[int, ...] = (32, 128)) -> Rule:
    return Rule(1, "eth0", tuple(ip_network(each) for each in networks), prefixes)


def add(address: Address, *, interface: str = "eth0", prefix: int = 32) -> Add:
    return Add(1, interface, address, prefix, "", 1)


def test_connections_are_reset_only_where_a_rule_lets_them_be_and_allows_the_address() -> None:
    protected = replace(rule("198.51.100.0/24"), reset_connections=False)
    policy = Policy((0,), (rule("192.0.2.0/24"), protected), 1, 1, Path("/"), "", Path("/"))
    mine, kept, others = map(ip_address, ("192.0.2.1", "198.51.100.1", "203.0.113.1"))
    assert [policy.resets("eth0", each, 32) for each in (mine, kept, others)] == [
        *(True, False, False)
    ]
    assert not policy.resets("eth1", mine, 32)
    assert not policy.resets("eth0", mine, 24)
    assert [policy.clears(each) for each in (mine, kept, others)] == [True, False, False]
    assert not policy.clears(ip_address("192.0.2.255"))
    assert not policy.clears(ip_address("2001:db8::1"))


# --- what it allows ----------------------------------------------------------------------------


def allowed(network: Network) -> set[Address]:
    """Returns what is allowed of the network and one address on either side."""
    one = rule(str(network), prefixes=(network.max_prefixlen,))
    first, last = int(network.network_address), int(network.broadcast_address)
    make = type(network.network_address)
    return {
        address
        for number in range(max(0, first - 1), min(last + 1, 2**network.max_prefixlen - 1) + 1)
        if one.allows("eth0", address := make(number), network.max_prefixlen)
    }


NARROW_V4 = st.builds(
    lambda number, length: ip_network((number, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(24, 32),
)
NARROW_V6 = st.builds(
    lambda number, length: IPv6Network((number, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(120, 128),
)


def may_be(address: Address) -> bool:
    """Anywhere but on lo, as Python's `ipaddress` has it: an oracle."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return False
    is_this_network = address in ip_network("0.0.0.0/8")
    is_reserved = address in ip_network("240.0.0.0/4")
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or is_this_network
        or is_reserved
    )


@given(NARROW_V4 | NARROW_V6)
@example(ip_network("0.0.0.0/24"))
@example(ip_network("127.0.0.0/24"))
@example(ip_network("224.0.0.0/24"))
@example(ip_network("255.255.255.0/24"))
@example(ip_network("255.255.255.254/31"))
@example(ip_network("::/120"))
@example(ip_network("::ffff:192.0.2.0/120"))
@example(ip_network("ff02::/120"))
def test_the_hosts_of_a_network_are_allowed_and_nothing_else(network: Network) -> None:
    """`hosts` leaves out the network and broadcast addresses (IPv6: the subnet-router anycast
    address), but for /31, /32, /127 and /128."""
    assert allowed(network) == {each for each in network.hosts() if may_be(each)}


def test_network_and_broadcast_addresses_are_not_allowed() -> None:
    one = rule("192.0.2.0/24")
    addresses = ["192.0.2.0", "192.0.2.1", "192.0.2.254", "192.0.2.255", "192.0.3.0"]
    assert [one.allows("eth0", ip_address(each), 32) for each in addresses] == [
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("network", "prefix", "address", "expected"),
    [
        ("192.0.2.0/24", 28, "192.0.2.15", False),
        ("192.0.2.0/24", 28, "192.0.2.16", False),
        ("192.0.2.0/24", 28, "192.0.2.17", True),
        ("192.0.2.0/24", 28, "192.0.2.30", True),
        ("192.0.2.0/24", 28, "192.0.2.31", False),
        ("192.0.2.0/24", 31, "192.0.2.16", True),
        ("192.0.2.16/28", 24, "192.0.2.17", True),
        ("192.0.2.0/31", 24, "192.0.2.0", False),
        ("2001:db8::/64", 112, "2001:db8::1:0", False),
        ("2001:db8::/64", 112, "2001:db8::1:ffff", True),
        ("2001:db8::/64", 127, "2001:db8::2", True),
    ],
)
def test_nor_those_of_the_network_that_the_prefix_length_makes(
    network: str, prefix: int, address: str, expected: bool
) -> None:
    one = rule(network, prefixes=(prefix,))
    assert one.allows("eth0", ip_address(address), prefix) is expected


def test_loopback_addresses_are_for_lo_only() -> None:
    for name, expected in (("lo", True), ("eth0", False)):
        one = Rule(1, name, (ip_network("0.0.0.0/0"), ip_network("::/0")), (32, 128))
        assert one.allows(name, ip_address("127.0.0.5"), 32) is expected
        assert one.allows(name, ip_address("::1"), 128) is expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("192.0.2.6/31", {"192.0.2.6", "192.0.2.7"}),
        ("192.0.2.6/32", {"192.0.2.6"}),
        ("192.0.2.4/30", {"192.0.2.5", "192.0.2.6"}),
        ("2001:db8::6/127", {"2001:db8::6", "2001:db8::7"}),
        ("2001:db8::6/128", {"2001:db8::6"}),
        ("2001:db8::4/126", {"2001:db8::5", "2001:db8::6", "2001:db8::7"}),
    ],
)
def test_small_networks_have_these_hosts(network: str, expected: set[str]) -> None:
    assert {str(each) for each in allowed(ip_network(network))} == expected


def test_a_rule_is_for_one_interface_and_some_prefix_lengths() -> None:
    one = rule("192.0.2.0/24", prefixes=(24, 32))
    address = ip_address("192.0.2.10")
    asked = [("eth0", 24), ("eth0", 32), ("eth0", 25), ("eth1", 32), ("eth", 32), ("eth0:1", 32)]
    assert [one.allows(interface, address, prefix) for interface, prefix in asked] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_an_address_is_not_in_a_network_of_the_other_family() -> None:
    everything = rule("0.0.0.0/0", prefixes=(32, 128))
    assert everything.allows("eth0", ip_address("192.0.2.10"), 32)
    assert not everything.allows("eth0", ip_address("2001:db8::10"), 128)
    assert not everything.allows("eth0", ip_address("::c000:20a"), 128)


def test_the_first_rule_that_allows_it_counts(tmp_path: Path) -> None:
    """Two can, if each allows something that the other does not."""
    policy = read(
        tmp_path,
        "users: []\nrules:\n"
        "  - {interface: eth1, networks: [192.0.2.0/24]}\n"
        "  - {interface: eth0, networks: [192.0.2.0/31]}\n"
        "  - {interface: eth0, networks: [192.0.2.0/24]}\n"
        "  - {interface: eth0, networks: [198.51.100.0/24], prefix-lengths: [24, 32]}\n",
    )
    found = [
        policy.rule_for(add(ip_address("192.0.2.1"))),
        policy.rule_for(add(ip_address("192.0.2.0"))),
        policy.rule_for(add(ip_address("192.0.2.12"))),
        policy.rule_for(add(ip_address("192.0.2.12"), prefix=24)),
        policy.rule_for(add(ip_address("192.0.2.12"), interface="eth1")),
        policy.rule_for(add(ip_address("198.51.100.1"), prefix=24)),
        policy.rule_for(add(ip_address("203.0.113.1"))),
    ]
    assert [each.number if each else None for each in found] == [2, 2, 3, None, 1, 4, None]


# --- on a host that has networks of its own ------------------------------------------------------


@pytest.fixture
def wide(network: Namespace, tmp_path: Path) -> Iterator[Client]:
    """A client of a helper that may put much on veth0."""
    networks = ("192.0.0.0/16", "2001:db8::/32")
    config = policy(tmp_path / "audit", networks=networks, prefixes=(24, 32))
    network.run("sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.promote_secondaries=1")
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        yield client


@pytest.mark.parametrize(
    ("own", "address", "what"),
    [
        ("192.0.2.1/26", "192.0.2.63", "the broadcast address of 192.0.2.0/26"),
        ("192.0.2.1/26", "192.0.2.0", "the network address of 192.0.2.0/26"),
        (
            "2001:db8:0:1::1/64",
            "2001:db8:0:1::",
            "the subnet-router anycast address of 2001:db8:0:1::/64",
        ),
    ],
)
def test_what_is_no_host_in_a_network_of_the_host_is_refused(
    network: Namespace, wide: Client, own: str, address: str, what: str
) -> None:
    network.run("ip", "address", "add", own, "dev", INTERFACE)
    before = present(network)
    assert wide.add(address) == {
        "result": "refused",
        "code": "not-allowed",
        "reason": f"{address} is {what}, which the host has there",
    }
    assert present(network) == before
    network.run("ip", "address", "del", own, "dev", INTERFACE)
    assert wide.add(address) == OK_ABSENT


@pytest.mark.parametrize("own", ["192.0.2.62/31", "192.0.2.62/32", "192.0.2.1/25"])
def test_hosts_in_a_network_of_the_host_are_added(
    network: Namespace, wide: Client, own: str
) -> None:
    network.run("ip", "address", "add", own, "dev", INTERFACE)
    assert wide.add("192.0.2.63") == OK_ABSENT


def test_a_network_on_another_interface_or_of_the_helpers_own_does_not_count(
    network: Namespace, wide: Client
) -> None:
    network.run("ip", "address", "add", "192.0.2.1/26", "dev", "peer0")
    assert wide.add("192.0.2.63") == OK_ABSENT
    assert wide.add("192.0.3.1", prefix=24) == OK_ABSENT
    assert wide.add("192.0.3.255") == OK_ABSENT


def test_lo_takes_addresses_when_a_rule_names_it(network: Namespace, tmp_path: Path) -> None:
    config = (
        f"users: [0]\nrules: [{{interface: lo, networks: [192.0.2.0/24, 127.0.0.0/8]}}]\n"
        f"audit-log: {tmp_path}/audit.log\n"
    )
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        assert client.add("192.0.2.10", interface="lo") == OK_ABSENT
        assert client.add("127.0.0.5", interface="lo") == OK_ABSENT
        assert refused(client.add("127.0.0.1", interface="lo")) == "foreign"
        assert refused(client.add("127.255.255.255", interface="lo")) == "not-allowed"
        assert refused(client.add("127.0.0.6")) == "not-allowed"
    assert present(network) == ["lo 127.0.0.5/32", "lo 192.0.2.10/32"]
