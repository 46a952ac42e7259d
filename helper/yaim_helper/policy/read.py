"""Reading helper.yml: YAML to a Policy (rules.py), or to all that is wrong with it.

The file belongs to root and nobody else can change it, else it is not read. What can never allow
anything, has no effect or contradicts itself is an error; what is odd but clear is a warning.
Knows nothing of the kernel, and decides about no address.
"""

import os
import pwd
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import yaml

from yaim_helper.ownership import what_others_can_change
from yaim_helper.policy.rules import Network, Policy, PolicyError, Rule, barred, edge
from yaim_helper.protocol import INTERFACE, Address

MAX_NETWORKS = 256
"""The most networks in all rules together: the reply to hello has room for them."""
MOST_ADDRESSES = 2000
"""The most that `max-addresses` may be: with more addresses each of them takes the kernel so long
that ACT_WITHIN_S is not enough."""
MAX_BYTES = 65536
"""The most bytes of the file: reading it anew must not keep the helper from its work."""
MIN_PREFIX = 8
"""No address is to bring a wider route than this prefix length; of IPv6 none up to 32."""
_MAX_UID = 2**32 - 2
_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"0|[1-9][0-9]{0,17}")
"""Without a leading 0, which makes a number octal for YAML 1.1, and for others not."""
_NUMBER = re.compile(r"[-+]?[0-9][0-9_.:]*")
"""What somebody meant for a number, and no user is called (useradd(8))."""
_TRUTH = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
"""The words of YAML 1.1 (https://yaml.org/type/bool.html)."""


def read_policy(path: Path) -> Policy:
    """Returns the policy of a file that nobody but root can change. Raises PolicyError, which names
    everything that is wrong."""
    try:
        fault = what_others_can_change(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error
    if fault is not None:
        raise PolicyError(fault)
    return read_draft(path)


def read_draft(path: Path) -> Policy:
    """Returns the policy of a file, whoever can change it. Raises PolicyError, which names
    everything that is wrong."""
    return _Reader(path, read_text(path)).policy()


def read_text(path: Path) -> bytes:
    """Returns what is in the file. Raises PolicyError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PolicyError(f"{path}: is not a file")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error
    if len(text) > MAX_BYTES:
        raise PolicyError(f"{path}: is larger than {MAX_BYTES} bytes; make it shorter")
    return text


def _unreadable(path: Path, error: Exception) -> PolicyError:
    """Returns why a file cannot be read. RuntimeError: links in a circle; ValueError: a name that
    cannot be."""
    if isinstance(error, PermissionError):
        closed = next(
            (each for each in reversed(path.absolute().parents) if _is_closed(each)), None
        )
        what = f"enter {closed} (chmod a+x" if closed else "read it (chmod a+r"
        return PolicyError(
            f"{path}: uid {os.geteuid()} may not {what}; there are no secrets in the file)"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return PolicyError(f"{path}: cannot be read: {reason}")


def _is_closed(directory: Path) -> bool:
    return not os.access(directory, os.X_OK, effective_ids=True)


@dataclass(frozen=True, slots=True)
class _ListedNetwork:
    """A network as a rule lists it, with the prefix lengths that count for it, and its line."""

    rule: Rule
    network: Network
    prefixes: frozenset[int]
    node: yaml.Node

    def __str__(self) -> str:
        return f"{self.network} of rule {self.rule.number} (line {_line(self.node)})"


class _Reader:
    """Reads helper.yml once, and collects errors with their lines."""

    def __init__(self, path: Path, text: bytes) -> None:
        self._path = path
        self._text = text
        self._errors: list[tuple[int, str]] = []
        self._warnings: list[tuple[int, str]] = []
        self._listed: list[_ListedNetwork] = []

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
            keys, {"users", "rules", "max-addresses", "commands-per-second", "audit-log", "fence"}
        )
        for key in ("users", "rules"):
            if key not in keys:
                self._errors.append((1, f"{key}: missing"))
        policy = Policy(
            users=tuple(self._users(keys.get("users"))),
            rules=tuple(self._rules(keys.get("rules"))),
            max_addresses=self._number(
                "max-addresses", keys.get("max-addresses"), 64, 1, MOST_ADDRESSES
            ),
            commands_per_second=self._number(
                "commands-per-second", keys.get("commands-per-second"), 1000, 1, 1_000_000
            ),
            audit_log=self._audit_log(keys.get("audit-log")),
            is_fence_wanted=self._is_fence_wanted(keys.get("fence")),
            sha256=sha256(self._text).hexdigest(),
            path=self._path,
        )
        if sum(len(rule.networks) for rule in policy.rules) > MAX_NETWORKS:
            self._errors.append((1, f"rules: more than {MAX_NETWORKS} networks; make them wider"))
        else:
            self._compare_listed()
        if self._errors:
            raise PolicyError("\n".join(self._located(self._errors)))
        self._look_for_what_is_odd(policy, keys)
        return replace(policy, warnings=tuple(self._located(self._warnings)))

    def _located(self, found: list[tuple[int, str]]) -> list[str]:
        return [f"{self._path}:{line}: {text}" for line, text in sorted(found)]

    def _error(self, node: yaml.Node, text: str) -> None:
        self._errors.append((_line(node), text))

    def _warn(self, node: yaml.Node, text: str) -> None:
        self._warnings.append((_line(node), text))

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

    def _scalar(self, node: yaml.Node) -> str | None:
        """Returns a value as it is written; None: there is none, or more than one. YAML 1.1 would
        make 90 of 1:30, 15 of 017, and true of an interface that is called `on`."""
        is_plain = isinstance(node, yaml.ScalarNode) and node.tag.startswith(_TAG)
        return str(node.value) if is_plain and node.tag != f"{_TAG}null" else None

    def _number(self, key: str, node: yaml.Node | None, default: int, least: int, most: int) -> int:
        if node is None:
            return default
        value = self._scalar(node)
        number = _whole(value)
        if number is None or not least <= number <= most:
            self._error(node, f"{key}: got {value!r}, expected a number from {least} to {most}")
            return default
        return number

    def _truth(self, key: str, node: yaml.Node | None, default: bool) -> bool:
        if node is None:
            return default
        value = self._scalar(node)
        truth = _TRUTH.get((value or "").lower())
        if truth is None:
            self._error(node, f"{key}: got {value!r}, expected true or false")
            return default
        return truth

    def _users(self, node: yaml.Node | None) -> Iterator[int]:
        for item in self._items(node, "users"):
            value = self._scalar(item)
            uid = _whole(value)
            if uid is not None and uid <= _MAX_UID:
                yield uid
            elif not value or _NUMBER.fullmatch(value):
                self._error(item, f"users: got {value!r}, expected a user name or id")
            else:
                try:
                    yield pwd.getpwnam(value).pw_uid
                except (KeyError, ValueError):
                    self._error(item, f"users: there is no user {value!r} on this host")

    def _audit_log(self, node: yaml.Node | None) -> Path:
        default = Path("/var/log/yaim-helper")
        if node is None:
            return default
        value = self._scalar(node)
        if value is None or not value.startswith("/"):
            self._error(node, f"audit-log: got {value!r}, expected an absolute path")
            return default
        return Path(value)

    def _is_fence_wanted(self, node: yaml.Node | None) -> bool:
        """To YAML 1.1 a bare `off` is false: so somebody may have written that."""
        if node is None:
            return True
        value = self._scalar(node)
        is_off = _TRUTH.get((value or "").lower()) is False
        if not is_off and value != "auto":
            self._error(node, f"fence: got {value!r}, expected auto or off")
        return not is_off

    def _rules(self, node: yaml.Node | None) -> Iterator[Rule]:
        for number, item in enumerate(self._items(node, "rules"), start=1):
            keys = self._mapping(item, f"rule {number}")
            self._refuse_unknown(
                keys, {"interface", "networks", "prefix-lengths", "reset-connections"}
            )
            missing = {"interface", "networks"} - keys.keys()
            if missing:
                self._error(item, f"rule {number}: {' and '.join(sorted(missing))} missing")
                continue
            interface = self._scalar(keys["interface"])
            if interface is None or INTERFACE.fullmatch(interface) is None:
                self._error(
                    keys["interface"], f"interface: got {interface!r}, expected an interface's name"
                )
                continue
            networks = list(self._networks(keys["networks"]))
            prefixes = self._prefixes(keys.get("prefix-lengths"))
            listed = tuple(network for network, _ in networks)
            resets = self._truth("reset-connections", keys.get("reset-connections"), True)
            rule = Rule(number, interface, listed, prefixes, _line(item), resets)
            if prefixes:
                for network, node in networks:
                    self._keep_listed(rule, network, node)
            yield rule

    def _networks(self, node: yaml.Node) -> Iterator[tuple[Network, yaml.Node]]:
        items = self._items(node, "networks")
        if not items and isinstance(node, yaml.SequenceNode):
            self._error(node, "networks: none; a rule needs one at least")
        for item in items:
            value = self._scalar(item)
            try:
                if value is None or "%" in value:
                    raise ValueError
                yield ip_network(value), item
            except ValueError:
                self._error(
                    item,
                    f"networks: got {value!r}, expected one like 192.0.2.0/24 or 2001:db8::/64",
                )

    def _prefixes(self, node: yaml.Node | None) -> tuple[int, ...]:
        """Returns the prefix lengths; none if one is wrong."""
        if node is None:
            return 32, 128
        before = len(self._errors)
        items = self._items(node, "prefix-lengths")
        if not items and isinstance(node, yaml.SequenceNode):
            self._error(
                node, "prefix-lengths: none, so nothing is allowed; without the key: 32 and 128"
            )
        found = [self._number("prefix-lengths", item, 0, MIN_PREFIX, 128) for item in items]
        for number, (length, item) in enumerate(zip(found, items, strict=True)):
            if length and length in found[:number]:
                self._error(item, f"prefix-lengths: {length} is given twice; take one out")
        return tuple(found) if len(self._errors) == before else ()

    # --- rules that can do nothing, or contradict others -------------------------------------

    def _keep_listed(self, rule: Rule, network: Network, node: yaml.Node) -> None:
        """Keeps a network to compare it with the others, unless it can never allow anything."""
        prefixes = rule.prefixes_for(network.version)
        overlapping = [
            (each, why) for each, why in barred(rule.interface) if each.overlaps(network)
        ]
        only: Address = network[0]
        if _is_covered(network, [each for each, _ in overlapping]):
            whys = "; ".join(why for _, why in overlapping)
            self._error(node, f"networks: {network} is of no use: {whys}; take it out")
        elif not prefixes:
            lengths = "8 to 32" if network.version == 4 else "33 to 128"
            self._error(
                node,
                f"networks: {network} is of no use: none of the rule's prefix-lengths is for"
                f" IPv{network.version} ({lengths}); add one, or take it out",
            )
        elif network.num_addresses == 1 and all(edge(only, each) for each in prefixes):
            made = ip_network((only, prefixes[0]), strict=False)
            self._error(
                node,
                f"networks: {network} is of no use: with prefix length {prefixes[0]} it is the"
                f" {edge(only, prefixes[0])} of {made}; allow {network.max_prefixlen}, or take it"
                " out",
            )
        else:
            self._listed.append(_ListedNetwork(rule, network, frozenset(prefixes), node))

    def _compare_listed(self) -> None:
        for number, one in enumerate(self._listed):
            for other in self._listed[:number]:
                if _is_within(one.network, other.network):
                    self._compare(one, other)
                elif _is_within(other.network, one.network):
                    self._compare(other, one)

    def _compare(self, inner: _ListedNetwork, outer: _ListedNetwork) -> None:
        """Tells what is wrong or odd about two networks that overlap."""
        few: list[Address] = list(inner.network) if inner.network.num_addresses <= 2 else []
        not_outers = [each for each in few if edge(each, outer.network.prefixlen)]
        if few and not_outers == few:
            # A network address, say, that is allowed on its own.
            return
        if inner.rule.interface != outer.rule.interface:
            self._warn(
                inner.node,
                f"networks: {inner.network} is for {inner.rule.interface}, and {outer} for"
                f" {outer.rule.interface}: what is in both may be put on either; is that meant?",
            )
        elif inner.prefixes != outer.prefixes:
            self._error(
                inner.node,
                f"networks: {inner.network} and {outer} overlap, for the same interface with"
                " different prefix-lengths; say in one of them only what is allowed",
            )
        elif inner.rule.reset_connections != outer.rule.reset_connections:
            self._error(
                inner.node,
                f"networks: {inner} and {outer} overlap, for the same interface with"
                " another reset-connections; say in one of them only what is allowed",
            )
        elif inner.network == outer.network:
            self._error(inner.node, f"networks: {outer} is the same; take one out")
        elif not not_outers:
            self._error(
                inner.node,
                f"networks: {inner.network} has no effect: it lies within {outer}; take it out",
            )

    def _look_for_what_is_odd(self, policy: Policy, keys: dict[str, yaml.Node]) -> None:
        if not policy.users:
            self._warn(keys["users"], "users: none, so nobody can connect; name yaim's user")
        if not policy.rules:
            self._warn(keys["rules"], "rules: none, so every address is refused; add one")
        singles = sum(each.network.num_addresses == 1 for each in self._listed)
        most = policy.max_addresses
        if singles > most:
            self._warn(
                keys.get("max-addresses", keys["rules"]),
                f"max-addresses: {most}, but the rules name {singles} single addresses, which"
                f" cannot all be held; make it {singles} at least",
            )
        per_second = policy.commands_per_second
        if per_second < most:
            key = "commands-per-second" if "commands-per-second" in keys else "max-addresses"
            self._warn(
                keys[key],
                f"{key}: {per_second} commands a second, but {most} addresses at most: taking over"
                f" all of them would have to wait; make commands-per-second {most} at least",
            )


def _whole(text: str | None) -> int | None:
    """Returns the number; None: it is none, or not written as everybody writes it."""
    return int(text) if text is not None and _WHOLE.fullmatch(text) else None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_within(inner: Network, outer: Network) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _is_covered(network: Network, by: Sequence[Network]) -> bool:
    """Whether each address of the network is in one of the others."""
    if any(_is_within(network, each) for each in by):
        return True
    return any(_is_within(each, network) for each in by) and all(
        _is_covered(half, by) for half in network.subnets()
    )
