"""What stands in a store: the options of a pool's addresses and the advertisements of the nodes.

Reads bytes into values of the core, and writes them. Knows no store: under which keys the records
stand, and how they get there, is the store's (yaim/dcs/etcd/keys.py). Does no I/O.

What cannot be understood is never acted on: a pool entry whose options are wrong becomes an entry
with a fault, and an advertisement that cannot be read counts as that of an unhealthy node. An
option that is not known here, because it is misspelt or belongs to a newer yaim, is ignored and
told; unless the entry lists it as `critical`: then that is the entry's fault.

Versions of the records, as nodes advertise them (`schema`; a node that tells none has version 1):
    1   A pool entry with an option that is not known is wrong as a whole.
    2   Such an option is ignored, unless `critical` lists it.
Records of one version stay readable for the others: older nodes ignore what an advertisement tells
beyond what they know, and what it does not tell has a default. For nodes whose version does not
understand a pool entry there is no such entry, and the others know which nodes these are
(yaim/core/placement.py).
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from itertools import islice
from math import inf
from sys import maxsize

from yaim.core import bounds
from yaim.core.model import (
    SCHEMA,
    Address,
    Advertisement,
    Fence,
    Network,
    NodeName,
    PoolEntry,
    Revision,
    frozen_mapping,
)

OPTIONS = ("interface", "prefix", "exclude", "prefer")
"""The options of a pool entry. Beside them `critical` lists the options that nobody may ignore."""
MAX_VALUE_BYTES = 1024 * 1024
"""The longest value that is read. No advertisement is longer (yaim/core/bounds.py), and etcd takes
1.5 MiB."""
_INTERFACE = r"[^\s/:%]{1,127}"
_LATEST = 253402300799
"""The last second of the year 9999."""
_MOST_SHOWN, _MOST_LISTED = 60, 8
"""The most characters of each wrong thing, and the most wrong things, that a complaint quotes."""


class NotUnderstood(ValueError):
    """A key or value that is not of the form described above; the text says why."""


class NotKnown(NotUnderstood):
    """The key or value may be of a newer version."""


# --- addresses of the pool -----------------------------------------------------------------


@lru_cache(maxsize=65536)
def read_address(text: str) -> Address:
    """An address that can be held, written in its canonical form.

    Returns for one text always the same object, so that looking it up compares no numbers.
    Raises NotUnderstood.
    """
    try:
        address = ip_address(text)
    except ValueError:
        raise NotUnderstood(f"{_quoted(text)} is not an IPv4 or IPv6 address") from None
    if address.version == 6 and (address.scope_id is not None or address.ipv4_mapped is not None):
        raise NotUnderstood(f"{_quoted(text)}: an address with a scope, or IPv4 written as IPv6")
    if str(address) != text:
        raise NotUnderstood(f"{text!r} is not written as {str(address)!r}, its canonical form")
    if address.is_multicast or address.is_unspecified or text == "255.255.255.255":
        raise NotUnderstood(f"{text} is not the address of a host")
    return address


def read_pool_entry(address: Address, value: bytes) -> tuple[PoolEntry, str]:
    """The entry, and what is wrong with it; an empty text if nothing is."""
    try:
        options = _read_options(value)
        entry = _entry_with(address, options)
    except NotUnderstood as error:
        told = f"{error}; its holder keeps it as it is, and no other node takes it"
        schema = SCHEMA + 1 if isinstance(error, NotKnown) else 1
        return PoolEntry(address, fault=str(error), schema=schema), told
    unknown = sorted(options.keys() - {*OPTIONS, "critical"})
    if not unknown:
        return entry, ""
    words = f"unknown option{'s' if len(unknown) > 1 else ''} {_listed(unknown)}"
    return entry, f"{words}: ignored; expected {', '.join(OPTIONS)}"


def _read_options(value: bytes) -> dict[str, object]:
    if len(value) > MAX_VALUE_BYTES:
        raise NotUnderstood(f"its value has {len(value)} bytes, more than {MAX_VALUE_BYTES}")
    if not value.strip():
        return {}
    try:
        options = json.loads(value)
    except (ValueError, RecursionError):
        raise NotUnderstood("its value is neither empty nor a JSON object") from None
    if not isinstance(options, dict):
        raise NotUnderstood("its value is neither empty nor a JSON object")
    return options


def _entry_with(address: Address, options: Mapping[str, object]) -> PoolEntry:
    critical = sorted(_read_names(options, "critical", "an option") - {*OPTIONS})
    if critical:
        raise NotKnown(f"{_quoted(critical[0])} is critical, and this version does not know it")
    interface, prefix = options.get("interface"), options.get("prefix")
    if interface is not None and not (
        isinstance(interface, str) and re.fullmatch(_INTERFACE, interface)
    ):
        raise NotUnderstood(f"interface is {_quoted(interface)}, expected a name")
    # type(), because True is an int too.
    if prefix is not None and not (type(prefix) is int and 1 <= prefix <= address.max_prefixlen):
        raise NotUnderstood(f"prefix is {_quoted(prefix)}, expected 1 to {address.max_prefixlen}")
    return PoolEntry(
        address,
        interface,
        prefix,
        exclude=_read_names(options, "exclude"),
        prefer=_read_names(options, "prefer"),
        schema=1 if options.keys() <= {*OPTIONS} else 2,
    )


def _read_names(
    options: Mapping[str, object], key: str, what: str = "a node name"
) -> frozenset[NodeName]:
    names = options.get(key, [])
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NotUnderstood(f"{key} is {_quoted(names)}, expected {what} or a list of them")
    return frozenset(NodeName(name) for name in names)


def _quoted(what: object) -> str:
    """The value as Python writes it, cut to a length that fits into a complaint."""
    text = repr(what[: 2 * _MOST_SHOWN] if isinstance(what, str) else what)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(map(_quoted, names[:_MOST_LISTED])) + more


# --- advertisements of nodes ---------------------------------------------------------------


UNREADABLE = Advertisement(
    is_healthy=False,
    reason="its advertisement cannot be read",
    interface="",
    networks=frozen_mapping({}),
    refused=frozenset(),
    session="",
    version="",
    # The highest there are: what cannot be read here is of a newer version, or no node's.
    placement=maxsize,
    schema=maxsize,
)
"""The advertisement that stands for one that cannot be read."""


def write_advertisement(advertisement: Advertisement, written_at: float | None = None) -> bytes:
    """The JSON of an advertisement that is within its bounds (yaim/core/bounds.py). `written_at`:
    the wall clock of its host, in seconds since 1970; it is told to the millisecond."""
    return json.dumps(
        {
            "healthy": advertisement.is_healthy,
            "reason": advertisement.reason,
            "interface": advertisement.interface,
            "networks": {
                interface: [str(network) for network in networks]
                for interface, networks in advertisement.networks.items()
            },
            "refused": sorted(str(address) for address in advertisement.refused),
            "session": advertisement.session,
            "version": advertisement.version,
            "down": sorted(advertisement.down),
            "missing": sorted(advertisement.missing),
            "waits_s": advertisement.waits_s,
            "takes": advertisement.takes,
            "present": {str(address): where for address, where in advertisement.present.items()},
            "placement": advertisement.placement,
            "schema": advertisement.schema,
        }
        | _if_told("capacity", advertisement.capacity)
        | _if_told("ttl_s", advertisement.ttl_s)
        | _if_told("drained", advertisement.is_drained)
        | _if_told("control", advertisement.control)
        | _if_told("problems", list(advertisement.problems))
        | _if_told("written", round(written_at, 3) if written_at is not None else None)
        | _fence_to_write(advertisement.fence)
        | _if_told("connections_stay", advertisement.connections_stay),
        sort_keys=True,
    ).encode()


def _fence_to_write(fence: Fence | None) -> dict[str, object]:
    """Nothing, if there is nothing to tell."""
    if fence is None:
        return {}
    return {"fence": {"in_force": fence.is_in_force, "reason": fence.reason}}


def _if_told(name: str, value: object) -> dict[str, object]:
    """Nothing, if the value is the one that stands for nothing told."""
    return {name: value} if value or (value == 0 and name == "capacity") else {}


def read_advertisement(value: bytes) -> Advertisement:
    """The advertisement; UNREADABLE if it is none."""
    return read_node(value)[0]


def read_node(value: bytes) -> tuple[Advertisement, float | None]:
    """The advertisement, and when it was written by the clock of its host, if that is told.

    A list that is longer than a node writes it (yaim/core/bounds.py) is read only so far.
    """
    try:
        read = json.loads(value if len(value) <= MAX_VALUE_BYTES else b"{}")
        advertisement = Advertisement(
            is_healthy=read["healthy"] is True,
            reason=str(read["reason"])[: bounds.MOST_REASON],
            interface=str(read["interface"])[: bounds.MOST_INTERFACE],
            networks=_read_networks(read["networks"]),
            refused=frozenset(map(_read_host, read["refused"][: bounds.MOST_ADDRESSES])),
            session=str(read["session"])[: bounds.MOST_SESSION],
            version=str(read["version"])[: bounds.MOST_VERSION],
            down=_read_interfaces(read.get("down", [])),
            missing=_read_interfaces(read.get("missing", [])),
            waits_s=_read_seconds(read.get("waits_s", 0)),
            takes=read.get("takes", True) is not False,
            present=frozen_mapping(
                {
                    _read_host(address): bounds.where_in_short(str(where))
                    for address, where in islice(
                        read.get("present", {}).items(), bounds.MOST_ADDRESSES
                    )
                }
            ),
            placement=_read_version(read.get("placement", 1)),
            schema=_read_version(read.get("schema", 1)),
            fence=_read_fence(read.get("fence")),
            connections_stay=str(read.get("connections_stay", ""))[: bounds.MOST_WHY],
            capacity=_read_count(read.get("capacity")),
            ttl_s=_read_count(read.get("ttl_s")) or 0,
            is_drained=read.get("drained") is True,
            control=Revision(_read_count(read.get("control")) or 0),
            problems=_read_problems(read.get("problems", [])),
        )
        return advertisement, _read_written(read.get("written"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return UNREADABLE, None


def _read_fence(read: object) -> Fence | None:
    """What a node tells of its fence. Nothing depends on it, so what is of another form is as good
    as not told."""
    match read:
        case {"in_force": bool(is_in_force), "reason": str(reason)}:
            return bounds.fence_in_short(Fence(is_in_force, reason))
        case _:
            return None


def _read_seconds(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < inf:
        raise NotUnderstood(f"{_quoted(value)} is no time in seconds")
    return float(value)


def _read_count(value: object) -> int | None:
    """What is of another form is as good as not told."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def _read_written(value: object) -> float | None:
    """What is of another form is as good as not told."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < _LATEST else None


def _read_problems(read: object) -> tuple[str, ...]:
    if not isinstance(read, list):
        return ()
    return tuple(str(each)[: bounds.MOST_PROBLEM] for each in read[: bounds.MOST_PROBLEMS])


def _read_version(value: object) -> int:
    if type(value) is not int or value < 1:
        raise NotUnderstood(f"{_quoted(value)} is no version")
    return value


@lru_cache(maxsize=65536)
def _read_host(text: object) -> Address:
    """Any address that a host can have."""
    return ip_address(_text_of_ip(text))


@lru_cache(maxsize=65536)
def _read_network(text: object) -> Network:
    return ip_network(_text_of_ip(text))


def _text_of_ip(value: object) -> str:
    """The text of an address or a network. Python would take a number, too; no node writes one."""
    if not isinstance(value, str) or len(value) > _MOST_SHOWN:
        raise NotUnderstood(f"{_quoted(value)} is no address and no network")
    return value


def _read_networks(read: Mapping[str, list[object]]) -> Mapping[str, tuple[Network, ...]]:
    """The networks of each interface."""
    networks: dict[str, tuple[Network, ...]] = {}
    left = bounds.MOST_NETWORKS
    for interface, each in islice(read.items(), bounds.MOST_INTERFACES):
        found = tuple(_read_network(text) for text in each[:left])
        networks[interface[: bounds.MOST_NAME]] = found
        left -= len(found)
    return frozen_mapping(networks)


def _read_interfaces(read: list[object]) -> frozenset[str]:
    """The names of interfaces."""
    return frozenset(str(name)[: bounds.MOST_NAME] for name in read[: bounds.MOST_INTERFACES])
