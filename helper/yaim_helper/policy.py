"""What the helper may do: the allowlist, read from helper.yml.

The file belongs to root and nobody else can change it, else it is not read. Decides about
addresses; knows nothing of the kernel.
"""

import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from yaim_helper.protocol import Add, Address

Network: TypeAlias = IPv4Network | IPv6Network

MAX_NETWORKS = 256
"""In all rules together, so that the hello reply holds them."""
_MAX_UID = 2**32 - 2


class PolicyError(Exception):
    """helper.yml cannot be used. One line for each thing that is wrong: file:line: what."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Addresses of these networks, with these prefix lengths, may be on this interface."""

    number: int
    """From 1, in the order of the file."""
    interface: str
    networks: tuple[Network, ...]
    prefixes: tuple[int, ...]

    def allows(self, interface: str, address: Address, prefix: int) -> bool:
        return (
            interface == self.interface
            and prefix in self.prefixes
            # Up to 32 they are meant for IPv4: no IPv6 address is to bring such a route.
            and (address.version == 4 or prefix > 32)
            and any(_is_host_of(address, network) for network in self.networks)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    users: tuple[int, ...]
    """User ids that may connect, in the order of the file."""
    rules: tuple[Rule, ...]
    max_addresses: int
    commands_per_second: int
    audit_log: Path
    sha256: str
    """Of the file."""

    def rule_for(self, add: Add) -> Rule | None:
        """The first rule that allows it."""
        return next(
            (rule for rule in self.rules if rule.allows(add.interface, add.address, add.prefix)),
            None,
        )


def _is_host_of(address: Address, network: Network) -> bool:
    """In the network, and not its network or broadcast address (for IPv6: not its subnet-router
    anycast address, RFC 4291 2.6.1)."""
    if address not in network:
        return False
    if network.num_addresses <= 2:
        return True
    if address == network.network_address:
        return False
    return network.version == 6 or address != network.broadcast_address


def read_policy(path: Path) -> Policy:
    """Raises PolicyError, naming everything that is wrong."""
    try:
        real_path = path.resolve(strict=True)
        for each in (real_path, *real_path.parents, path.absolute().parent):
            _check_ownership(each)
        text = real_path.read_bytes()
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: links in a circle; ValueError: a name that cannot be.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PolicyError(f"{path}: cannot be read: {reason}") from error
    return _Reader(path, text).policy()


def _check_ownership(path: Path) -> None:
    """Nobody but root can change this file, or exchange what is in this directory."""
    status = path.stat()
    if status.st_uid != 0:
        raise PolicyError(f"{path}: belongs to uid {status.st_uid}, expected root (chown root)")
    is_sticky = bool(status.st_mode & stat.S_ISVTX) and stat.S_ISDIR(status.st_mode)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
        raise PolicyError(
            f"{path}: can be written by others than root (mode {status.st_mode & 0o7777:04o});"
            " use chmod go-w"
        )


class _Reader:
    """One reading of helper.yml; collects errors with their lines."""

    def __init__(self, path: Path, text: bytes) -> None:
        self._path = path
        self._text = text
        self._errors: list[str] = []

    def policy(self) -> Policy:
        try:
            root = yaml.compose(self._text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise PolicyError(f"{self._path}:{line}: not YAML: {error.problem}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PolicyError(f"{self._path}:1: not YAML: {error}") from None
        except RecursionError:
            raise PolicyError(f"{self._path}:1: not YAML: nested too deeply") from None
        keys = self._mapping(root, "the file") if root is not None else {}
        self._refuse_unknown(
            keys, {"users", "rules", "max-addresses", "commands-per-second", "audit-log"}
        )
        for key in ("users", "rules"):
            if key not in keys:
                self._errors.append(f"{self._path}:1: {key}: missing")
        policy = Policy(
            users=tuple(self._users(keys.get("users"))),
            rules=tuple(self._rules(keys.get("rules"))),
            max_addresses=self._number(keys.get("max-addresses"), 64, 1, 100_000),
            commands_per_second=self._number(keys.get("commands-per-second"), 1000, 1, 1_000_000),
            audit_log=self._audit_log(keys.get("audit-log")),
            sha256=sha256(self._text).hexdigest(),
        )
        if sum(len(rule.networks) for rule in policy.rules) > MAX_NETWORKS:
            self._errors.append(f"{self._path}:1: rules: more than {MAX_NETWORKS} networks")
        if self._errors:
            raise PolicyError("\n".join(self._errors))
        return policy

    def _error(self, node: yaml.Node, text: str) -> None:
        self._errors.append(f"{self._path}:{node.start_mark.line + 1}: {text}")

    def _mapping(self, node: yaml.Node, what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self._error(node, f"{what}: expected keys with values")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                self._error(key, f"{name}: given twice")
            found[name] = value
        return found

    def _refuse_unknown(self, keys: dict[str, yaml.Node], known: set[str]) -> None:
        for name in keys.keys() - known:
            self._error(keys[name], f"{name}: unknown key; expected {', '.join(sorted(known))}")

    def _items(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self._error(node, f"{what}: expected a list")
            return []
        return list(node.value)

    def _scalar(self, node: yaml.Node) -> Any:
        """What YAML makes of it; of what it cannot make anything of, the text."""
        if not isinstance(node, yaml.ScalarNode):
            return None
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            return node.value

    def _number(self, node: yaml.Node | None, default: int, least: int, most: int) -> int:
        if node is None:
            return default
        value = self._scalar(node)
        if type(value) is not int or not least <= value <= most:
            self._error(node, f"got {value!r}, expected a number from {least} to {most}")
            return default
        return value

    def _users(self, node: yaml.Node | None) -> Iterator[int]:
        for item in self._items(node, "users"):
            value = self._scalar(item)
            if type(value) is int and 0 <= value <= _MAX_UID:
                yield value
            elif isinstance(value, str):
                try:
                    yield pwd.getpwnam(value).pw_uid
                except (KeyError, ValueError):
                    self._error(item, f"users: there is no user {value!r} on this host")
            else:
                self._error(item, f"users: got {value!r}, expected a user name or id")

    def _audit_log(self, node: yaml.Node | None) -> Path:
        default = Path("/var/log/yaim-helper/audit.log")
        if node is None:
            return default
        value = self._scalar(node)
        if not isinstance(value, str) or not value.startswith("/"):
            self._error(node, f"audit-log: got {value!r}, expected an absolute path")
            return default
        return Path(value)

    def _rules(self, node: yaml.Node | None) -> Iterator[Rule]:
        for number, item in enumerate(self._items(node, "rules"), start=1):
            keys = self._mapping(item, f"rule {number}")
            self._refuse_unknown(keys, {"interface", "networks", "prefix-lengths"})
            missing = {"interface", "networks"} - keys.keys()
            if missing:
                self._error(item, f"rule {number}: {' and '.join(sorted(missing))} missing")
                continue
            interface = self._scalar(keys["interface"])
            if not isinstance(interface, str) or not 1 <= len(interface) <= 15:
                self._error(keys["interface"], f"got {interface!r}, expected an interface's name")
                continue
            networks = tuple(self._networks(keys["networks"]))
            if not networks and not keys["networks"].value:
                self._error(keys["networks"], f"rule {number}: no networks")
            yield Rule(number, interface, networks, self._prefixes(keys.get("prefix-lengths")))

    def _networks(self, node: yaml.Node) -> Iterator[Network]:
        for item in self._items(node, "networks"):
            value = self._scalar(item)
            try:
                if not isinstance(value, str) or "%" in value:
                    raise ValueError
                yield ip_network(value)
            except ValueError:
                self._error(
                    item,
                    f"networks: got {value!r}, expected one like 192.0.2.0/24 or 2001:db8::/64",
                )

    def _prefixes(self, node: yaml.Node | None) -> tuple[int, ...]:
        if node is None:
            return 32, 128
        return tuple(self._number(item, 32, 1, 128) for item in self._items(node, "prefix-lengths"))
