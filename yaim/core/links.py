"""The names of this host's interfaces, and what other nodes are told about them.

An interface can have further names (ip link property add altname). yaim.yml and pool entries may
use them; the helper's allowlist and the kernel's own messages have the one name that the kernel
shows. So the core resolves the one to the other, anew after each change that the kernel tells. A
node tells the others the same for each further name as for the interface itself: they look up what
an entry names, and older ones need not know what a further name is.
"""

from collections.abc import Mapping

from yaim.core.model import Network, frozen_mapping


def networks_by_all_names(
    networks: Mapping[str, tuple[Network, ...]], altnames: Mapping[str, str]
) -> Mapping[str, tuple[Network, ...]]:
    """`networks`: those that the helper allows. Networks under a further name are not in force."""
    if not altnames:
        return networks
    told = {name: each for name, each in networks.items() if name not in altnames}
    further = {alt: told[name] for alt, name in altnames.items() if name in told}
    return frozen_mapping({**told, **further})


def all_names(names: frozenset[str], altnames: Mapping[str, str]) -> frozenset[str]:
    return names | {alt for alt, name in altnames.items() if name in names}
