"""Files of other programs that put addresses on interfaces, as far as they matter here.

keepalived.conf(5), interfaces(5), systemd.network(5) (252 to 257), and the states that networkd and
NetworkManager leave below /run. Text in, values out; what is not understood is passed over.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from yaim.core.model import Address

_MAX_DEPTH = 10
"""So deep files that include each other are followed."""
_NETWORK_DIRECTORIES = (
    "usr/lib/systemd/network",
    "usr/local/lib/systemd/network",
    "run/systemd/network",
    "etc/systemd/network",
)
"""A drop-in in a later directory is read instead of one of the same name in an earlier one."""


# --- keepalived ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VrrpInstance:
    name: str
    interface: str
    addresses: tuple[tuple[Address, str], ...]
    """Each address with the interface that it is put on."""


_ADDRESS_BLOCKS = ("virtual_ipaddress", "virtual_ipaddress_excluded")


def read_keepalived(text: str) -> tuple[VrrpInstance, ...]:
    """The VRRP instances in a text with includes put in. Comments begin with # or !; braces may
    stand on lines of their own."""
    found = []
    path: list[tuple[str, ...]] = []
    pending: tuple[str, ...] = ()
    interface, addresses = "", list[tuple[Address, str]]()
    for words in _keepalived_lines(text):
        if words == ("{",):
            path.append(pending)
            if len(path) == 1:
                interface, addresses = "", []
        elif words == ("}",):
            closed = path.pop() if path else ()
            if not path and closed[:1] == ("vrrp_instance",):
                placed = tuple((each, dev or interface) for each, dev in addresses)
                found.append(VrrpInstance(" ".join(closed[1:]), interface, placed))
        elif [each[:1] for each in path] == [("vrrp_instance",)] and words[0] == "interface":
            interface = "".join(words[1:2])
        elif len(path) == 2 and path[1][:1] in [(each,) for each in _ADDRESS_BLOCKS]:
            address = _address(words[0])
            if address is not None:
                after_dev = words[words.index("dev") + 1 :] if "dev" in words else ()
                addresses.append((address, "".join(after_dev[:1])))
        pending = words
    return tuple(found)


def _keepalived_lines(text: str) -> Iterator[tuple[str, ...]]:
    for line in text.splitlines():
        words = re.sub(r"([{}])", r" \1 ", re.split(r"[#!]", line)[0]).replace('"', "").split()
        kept: list[str] = []
        for word in words:
            if word in "{}":
                if kept:
                    yield tuple(kept)
                yield (word,)
                kept = []
            else:
                kept.append(word)
        if kept:
            yield tuple(kept)


def keepalived_text(root: Path, file: str = "etc/keepalived/keepalived.conf") -> str:
    """The text of keepalived.conf with what it includes in the place of `include`. Raises OSError
    for the file itself."""
    return _included(root, root / file, 0)


def _included(root: Path, file: Path, depth: int) -> str:
    lines = []
    for line in file.read_text(errors="replace").splitlines():
        words = line.split()
        if len(words) == 2 and re.fullmatch(r"include[rmwba]?", words[0]) and depth < _MAX_DEPTH:
            lines += [_included(root, each, depth + 1) for each in _named(root, file, words[1])]
        else:
            lines.append(line)
    return "\n".join(lines)


def _named(root: Path, file: Path, pattern: str) -> list[Path]:
    """The files that a pattern in another one is about."""
    start = root if pattern.startswith("/") else file.parent
    try:
        return sorted(each for each in start.glob(pattern.lstrip("/")) if each.is_file())
    except (OSError, ValueError, NotImplementedError):
        return []


# --- ifupdown ------------------------------------------------------------------------------


def read_interfaces(text: str) -> frozenset[Address]:
    """The addresses that ifupdown puts on interfaces, by `address` lines and by commands such as
    `up ip addr add`."""
    found = set()
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if words[:1] == ["address"]:
            found |= _addresses(words[1:2])
        elif words[:1] and words[0] in ("up", "post-up", "pre-up"):
            found |= _addresses(words[1:])
    return frozenset(found)


def interfaces_text(root: Path, file: str = "etc/network/interfaces") -> str:
    """The text of /etc/network/interfaces with what it sources. Raises OSError for the file
    itself."""
    return _sourced(root, root / file, 0)


def _sourced(root: Path, file: Path, depth: int) -> str:
    text = file.read_text(errors="replace")
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and depth < _MAX_DEPTH:
            if words[0] == "source":
                patterns = words[1:]
            elif words[0] == "source-directory":
                patterns = [f"{each}/*" for each in words[1:]]
            else:
                continue
            for pattern in patterns:
                for each in _named(root, file, pattern):
                    text += "\n" + _sourced(root, each, depth + 1)
    return text


# --- systemd-networkd ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A .network file with its drop-ins."""

    keeps: str
    """The value of KeepConfiguration=, as the manual writes it; "no" where there is none."""
    addresses: frozenset[Address]

    @property
    def keeps_ours(self) -> bool:
        """The helper's addresses have a lifetime: networkd counts them as dynamic, which `static`
        does not keep (link_address_is_dynamic in networkd-address.c)."""
        return self.keeps in ("yes", "dynamic")


def read_network(texts: Iterable[str]) -> NetworkFile:
    """Reads the file's text and those of its drop-ins, in their order."""
    keeps, addresses = "no", set[Address]()
    for text in texts:
        for section, key, value in _settings(text):
            if (section, key) == ("Network", "KeepConfiguration"):
                keeps = _keeping(value) or keeps
            elif section in ("Network", "Address") and key == "Address":
                addresses |= _addresses([value])
    return NetworkFile(keeps, frozenset(addresses))


def _keeping(value: str) -> str | None:
    """The value of KeepConfiguration= in one form; None for one that networkd ignores. `dhcp` is
    what 257 calls `dynamic`."""
    word = value.lower()
    if word in ("yes", "y", "true", "t", "on", "1"):
        return "yes"
    if word in ("no", "n", "false", "f", "off", "0"):
        return "no"
    word = value.replace("dhcp", "dynamic")
    return word if word in ("static", "dynamic", "dynamic-on-stop") else None


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields section, key and value of each line (systemd.syntax(7))."""
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped[1:-1]
        elif "=" in stripped and stripped[0] not in "#;":
            key, _, value = stripped.partition("=")
            yield section, key.strip(), value.strip().strip('"')


def network_texts(root: Path, file: Path) -> list[str]:
    """The texts of a .network file and its drop-ins. Raises OSError for the file itself."""
    drop_ins: dict[str, Path] = {}
    for directory in _NETWORK_DIRECTORIES:
        for each in (root / directory / f"{file.name}.d").glob("*.conf"):
            drop_ins[each.name] = each
    texts = [_below(root, file).read_text(errors="replace")]
    for _, each in sorted(drop_ins.items()):
        try:
            texts.append(each.read_text(errors="replace"))
        except OSError:
            continue
    return texts


def read_state(text: str) -> dict[str, str]:
    """The keys and values of a file of networkd's or NetworkManager's below /run."""
    return {key: value for _, key, value in _settings(text)}


def _below(root: Path, file: Path) -> Path:
    return root / str(file).lstrip("/")


def _addresses(words: Iterable[str]) -> set[Address]:
    return {address for each in words if (address := _address(each)) is not None}


def _address(word: str) -> Address | None:
    """The address in a text, with or without a prefix length."""
    try:
        return ip_interface(word).ip
    except ValueError:
        return None
