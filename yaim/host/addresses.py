"""Keeps which addresses of this host cannot be the helper's, from what rtnetlink(7) tells of all.

The helper gives each of its addresses a finite lifetime and no preferred one, from the first
instant on (helper/PROTOCOL.md): so its adds and renewals are never taken for somebody else's,
whoever is told first. An address that once was the host's own stays so until it goes, also if it
looks like the helper's later: the helper leaves an address that somebody has made his own. Decides
nothing, reads nothing.
"""

import socket
import struct
from collections.abc import Mapping
from ipaddress import ip_address

from yaim.core.model import Address, Place
from yaim.host.netlink import ADDRESS, IFA_CACHEINFO, attributes, packed_address

_LIFETIMES = struct.Struct("=II")
"""Preferred and valid, in seconds (struct ifa_cacheinfo)."""
FOREVER = 0xFFFFFFFF


_Key = tuple[int, int, bytes]
"""Index of the interface, prefix length, address."""


class HostAddresses:
    """Takes in messages; `begin` and `end` stand around a dump of all addresses."""

    def __init__(self) -> None:
        self._seen: dict[_Key, bool] = {}
        """Whether each address is the host's own."""
        self._of_this_dump: set[_Key] | None = None
        self.is_whole = False
        """All addresses have been told."""
        self.is_changed = True
        """What `own` tells has changed since this was set to False."""

    def begin(self) -> None:
        self._of_this_dump = set()

    def end(self) -> list[Address]:
        """Returns the addresses that have gone without a message, because messages were lost."""
        told = self._of_this_dump
        gone = [key for key in self._seen if told is not None and key not in told]
        for key in gone:
            self.is_changed = self._seen.pop(key) or self.is_changed
        self._of_this_dump = None
        self.is_whole = True
        return [ip_address(packed) for _, _, packed in gone]

    def note(self, body: bytes) -> None:
        """Takes in an RTM_NEWADDR: the address is new, or is told again."""
        found = attributes(body, ADDRESS.size)
        key = _key(body, found)
        if key is None:
            return
        times = found.get(IFA_CACHEINFO, b"")
        preferred_s, valid_s = FOREVER, FOREVER
        if len(times) >= _LIFETIMES.size:
            preferred_s, valid_s = _LIFETIMES.unpack_from(times)
        was_own = self._seen.get(key, False)
        self._seen[key] = was_own or valid_s == FOREVER or preferred_s > 0
        self.is_changed = self.is_changed or self._seen[key] != was_own
        if self._of_this_dump is not None:
            self._of_this_dump.add(key)

    def note_gone(self, body: bytes) -> Address | None:
        """Takes in an RTM_DELADDR, and returns its address."""
        key = _key(body, attributes(body, ADDRESS.size))
        if key is None:
            return None
        self.is_changed = self._seen.pop(key, False) or self.is_changed
        return ip_address(key[2])

    def own(self, names: Mapping[int, str]) -> dict[Address, tuple[Place, ...]]:
        """The addresses that cannot be the helper's, and where they are. `names` are those of the
        interfaces, by index."""
        return self._places(names, is_own=True)

    def others(self, names: Mapping[int, str]) -> dict[Address, tuple[Place, ...]]:
        """The addresses that look like the helper's, and where they are."""
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
        """The addresses that look like the helper's, wherever they are."""
        return frozenset(ip_address(key[2]) for key, is_own in self._seen.items() if not is_own)


def _key(body: bytes, found: dict[int, bytes]) -> _Key | None:
    family, prefix_length, _, _, index = ADDRESS.unpack_from(body)
    packed = packed_address(found)
    if family not in (socket.AF_INET, socket.AF_INET6) or packed is None:
        return None
    return index, prefix_length, packed
