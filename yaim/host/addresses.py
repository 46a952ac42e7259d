"""Which addresses of this host cannot be the helper's, from what rtnetlink(7) tells of all.

The helper gives each of its addresses a finite lifetime and no preferred one, from the first
instant on (helper/PROTOCOL.md): so its adds and renewals are never taken for somebody else's,
whoever is told first. What once was the host's own stays so until it goes, also if it looks like
the helper's later, which leaves what somebody has made his own. Decides nothing, reads nothing.
"""

import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from yaim.core.model import Address, Place

ADDRESS = struct.Struct("=BBBBI")
"""Family, prefix length, flags, scope, index (struct ifaddrmsg)."""
_ATTRIBUTE = struct.Struct("=HH")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO = 1, 2, 6
_LIFETIMES = struct.Struct("=II")
"""Preferred and valid, in seconds (struct ifa_cacheinfo)."""
FOREVER = 0xFFFFFFFF


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """Type to value of the attributes (struct rtattr) behind a message's fixed part."""
    return dict(each_attribute(body, offset))


def each_attribute(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Type and value, from there on."""
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        yield kind, body[offset + _ATTRIBUTE.size : offset + length]
        offset += max(_ATTRIBUTE.size, (length + 3) & ~3)


def address_of(body: bytes) -> Address | None:
    """The address that an RTM_NEWADDR or RTM_DELADDR is about: of a point-to-point link, the one at
    our end."""
    packed = _packed(attributes(body, ADDRESS.size))
    return ip_address(packed) if packed is not None else None


def _packed(found: Mapping[int, bytes]) -> bytes | None:
    return found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)


_Key = tuple[int, int, bytes]
"""Index of the interface, prefix length, address."""


class HostAddresses:
    """Kept from messages; `begin` and `end` stand around a dump of all."""

    def __init__(self) -> None:
        self._seen: dict[_Key, bool] = {}
        """To whether it is the host's own."""
        self._of_this_dump: set[_Key] | None = None
        self.is_whole = False
        """All have been told."""
        self.is_changed = True
        """What `own` tells, since this was set to False."""

    def begin(self) -> None:
        self._of_this_dump = set()

    def end(self) -> list[Address]:
        """What has gone without a message, as some were lost."""
        told = self._of_this_dump
        gone = [key for key in self._seen if told is not None and key not in told]
        for key in gone:
            self.is_changed = self._seen.pop(key) or self.is_changed
        self._of_this_dump = None
        self.is_whole = True
        return [ip_address(packed) for _, _, packed in gone]

    def note(self, body: bytes) -> None:
        """RTM_NEWADDR: new, or anew."""
        found = attributes(body, ADDRESS.size)
        key = _key(body, found)
        if key is None:
            return
        times = found.get(_IFA_CACHEINFO, b"")
        preferred_s, valid_s = FOREVER, FOREVER
        if len(times) >= _LIFETIMES.size:
            preferred_s, valid_s = _LIFETIMES.unpack_from(times)
        was_own = self._seen.get(key, False)
        self._seen[key] = was_own or valid_s == FOREVER or preferred_s > 0
        self.is_changed = self.is_changed or self._seen[key] != was_own
        if self._of_this_dump is not None:
            self._of_this_dump.add(key)

    def note_gone(self, body: bytes) -> Address | None:
        """RTM_DELADDR: which address it is."""
        key = _key(body, attributes(body, ADDRESS.size))
        if key is None:
            return None
        self.is_changed = self._seen.pop(key, False) or self.is_changed
        return ip_address(key[2])

    def own(self, names: Mapping[int, str]) -> dict[Address, tuple[Place, ...]]:
        """Those that cannot be the helper's, and where; `names`: of interfaces, by their index."""
        return self._places(names, is_own=True)

    def others(self, names: Mapping[int, str]) -> dict[Address, tuple[Place, ...]]:
        """Those that look like the helper's."""
        return self._places(names, is_own=False)

    def _places(
        self, names: Mapping[int, str], *, is_own: bool
    ) -> dict[Address, tuple[Place, ...]]:
        found: dict[Address, tuple[Place, ...]] = {}
        for (index, prefix_length, packed), each_is_own in sorted(self._seen.items()):
            if each_is_own is is_own:
                address = ip_address(packed)
                place = Place(names.get(index, f"interface {index}"), prefix_length)
                found[address] = (*found.get(address, ()), place)
        return found

    def like_the_helpers(self) -> frozenset[Address]:
        """All the others, wherever."""
        return frozenset(ip_address(key[2]) for key, is_own in self._seen.items() if not is_own)


def _key(body: bytes, found: Mapping[int, bytes]) -> _Key | None:
    family, prefix_length, _, _, index = ADDRESS.unpack_from(body)
    packed = _packed(found)
    if family not in (socket.AF_INET, socket.AF_INET6) or packed is None:
        return None
    return index, prefix_length, packed
