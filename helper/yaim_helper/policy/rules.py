"""What the helper may do: the rules of the allowlist, and what no rule can allow.

This is what an auditor reads. Decides about addresses, purely; reads no file (read.py does) and
knows nothing of the kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TypeAlias

from yaim_helper.protocol import Add, Address

Network: TypeAlias = IPv4Network | IPv6Network

_NEVER: tuple[tuple[Network, str], ...] = (
    (ip_network("0.0.0.0/8"), "addresses of 0.0.0.0/8 are never added"),
    (ip_network("224.0.0.0/4"), "multicast addresses (224.0.0.0/4) are never added"),
    (ip_network("240.0.0.0/4"), "reserved and broadcast addresses (240.0.0.0/4) are never added"),
    (ip_network("::/128"), "the unspecified address (::) is never added"),
    (ip_network("::ffff:0:0/96"), "IPv4-mapped addresses (::ffff:0:0/96) are never added"),
    (ip_network("ff00::/8"), "multicast addresses (ff00::/8) are never added"),
)
_LOOPBACK: tuple[tuple[Network, str], ...] = (
    (ip_network("127.0.0.0/8"), "loopback addresses (127.0.0.0/8) are added to lo only"),
    (ip_network("::1/128"), "the loopback address (::1) is added to lo only"),
)


class PolicyError(Exception):
    """helper.yml cannot be used. The text has a line for each thing that is wrong: file:line: key:
    what."""


def never(address: Address, interface: str) -> str | None:
    """Returns why an address is never added there, whatever the rules say; None: they decide."""
    return next((why for network, why in barred(interface) if address in network), None)


def barred(interface: str) -> tuple[tuple[Network, str], ...]:
    """Returns the networks whose addresses are never added there, each with the reason."""
    return _NEVER if interface == "lo" else _NEVER + _LOOPBACK


def edge(address: Address, prefix: int) -> str | None:
    """Returns what the address is in its network of this prefix length; None: it is a host.

    Networks of one or two addresses have hosts only (RFC 3021, RFC 6164); in IPv6 the first
    address is the subnet-router anycast address (RFC 4291 2.6.1), and the last a host.
    """
    host_bits = address.max_prefixlen - prefix
    if host_bits <= 1:
        return None
    last = (1 << host_bits) - 1
    number = int(address) & last
    if number == 0:
        return "network address" if address.version == 4 else "subnet-router anycast address"
    return "broadcast address" if address.version == 4 and number == last else None


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows addresses of these networks, with these prefix lengths, on this interface."""

    number: int
    """Counted from 1, in the order of the file."""
    interface: str
    networks: tuple[Network, ...]
    prefixes: tuple[int, ...]

    line: int = field(default=0, compare=False)
    """The line of the file in which it begins."""
    reset_connections: bool = True
    """Whether the TCP connections of these addresses may be ended."""

    def prefixes_for(self, version: int) -> tuple[int, ...]:
        """Returns the prefix lengths for IPv4 or IPv6. Those up to 32 are meant for IPv4: no IPv6
        address is to bring such a route."""
        return tuple(each for each in self.prefixes if (each <= 32) is (version == 4))

    def allows(self, interface: str, address: Address, prefix: int) -> bool:
        return next(self.objections(interface, address, prefix), None) is None

    def objections(self, interface: str, address: Address, prefix: int) -> Iterator[str]:
        """Returns why the rule does not allow this address there; nothing: it does."""
        if interface != self.interface:
            yield f"it is for {self.interface}"
        networks = [network for network in self.networks if address in network]
        edges = [edge(address, network.prefixlen) for network in networks]
        if not networks:
            yield f"{address} is in none of its networks"
        elif all(edges):
            yield f"{address} is the {edges[0]} of its network {networks[0]}"
        prefixes = self.prefixes_for(address.version)
        if prefix not in prefixes:
            allowed = ", ".join(map(str, prefixes)) or "none"
            yield f"its prefix lengths for IPv{address.version}: {allowed}"
        elif what := edge(address, prefix):
            network = ip_network((address, prefix), strict=False)
            yield f"{address} is the {what} of {network}, which prefix length {prefix} makes"
        if why := never(address, self.interface):
            yield why


@dataclass(frozen=True, slots=True)
class Policy:
    """All that helper.yml says."""

    users: tuple[int, ...]
    """User ids that may connect, in the order of the file."""
    rules: tuple[Rule, ...]
    max_addresses: int
    commands_per_second: int
    audit_log: Path
    sha256: str
    """The hash of the file."""
    path: Path
    is_fence_wanted: bool = True
    """Whether the kernel is to fence the held addresses, where it can (kernel/fence.py)."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What is odd in the file: file:line: key: what."""

    def rule_for(self, add: Add) -> Rule | None:
        """Returns the first rule that allows an add; None: no rule does."""
        return next(
            (rule for rule in self.rules if rule.allows(add.interface, add.address, add.prefix)),
            None,
        )

    def resets(self, interface: str, address: Address, prefix: int) -> bool:
        """Whether the connections of an address may be reset when it is removed from there."""
        return any(
            rule.reset_connections and rule.allows(interface, address, prefix)
            for rule in self.rules
        )

    def clears(self, address: Address) -> bool:
        """Whether the connections of an address that is not on this host may be ended: one could be
        put there whose connections may be reset."""
        return any(
            rule.reset_connections and rule.allows(rule.interface, address, prefix)
            for rule in self.rules
            for prefix in rule.prefixes_for(address.version)
        )


def shown_fence(policy: Policy) -> str:
    """Returns what helper.yml says about the fence, as it is written there."""
    return "auto" if policy.is_fence_wanted else "off"
