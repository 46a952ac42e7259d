"""Links and addresses of the lab's network namespaces, by way of pyroute2.

Every function works in the namespace that it is given; None is the one of this process. They raise
LabError where the kernel refuses.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from ipaddress import ip_interface
from typing import Any

from yaim.lab.namespaces import LabError, Namespace

_IFA_F_NODAD = 0x02
"""IPv6: the address is used at once, without looking for another one (linux/if_addr.h)."""


@contextmanager
def _kernel(what: str, namespace: Namespace | None) -> Iterator[Any]:
    """pyroute2's IPRoute in a namespace. `what`: what cannot be done should the kernel refuse."""
    from pyroute2 import IPRoute, NetlinkError

    with namespace.entered() if namespace is not None else nullcontext():
        kernel = IPRoute()
    with kernel:
        try:
            yield kernel
        except NetlinkError as error:
            raise LabError(f"cannot {what}: {error}") from error


def _index(kernel: Any, name: str) -> int:
    for found in kernel.link_lookup(ifname=name):
        return int(found)
    raise LabError(f"there is no interface {name}")


def add_bridge(name: str, mac: str) -> None:
    """Makes a bridge that is up, without multicast snooping."""
    with _kernel(f"make the bridge {name}", None) as kernel:
        kernel.link("add", ifname=name, kind="bridge", address=mac, br_mcast_snooping=0)
        kernel.link("set", index=_index(kernel, name), state="up")


def add_cable(name: str, bridge: str, interface: str, namespace: Namespace) -> None:
    """Makes a veth pair: one end, `name`, at a bridge of this process's namespace, the other one as
    an interface of another namespace. Both are up."""
    with _kernel(f"make the cable {name}", None) as kernel:
        peer = {"ifname": interface, "net_ns_fd": namespace.fd}
        kernel.link("add", ifname=name, kind="veth", peer=peer)
        end, master = _index(kernel, name), _index(kernel, bridge)
        kernel.link("set", index=end, master=master, state="up")
    set_state(interface, "up", namespace)


def delete_link(name: str) -> None:
    with _kernel(f"delete {name}", None) as kernel:
        kernel.link("del", index=_index(kernel, name))


def set_state(name: str, state: str, namespace: Namespace | None = None) -> None:
    """Sets an interface `up` or `down`."""
    with _kernel(f"set {name} {state}", namespace) as kernel:
        kernel.link("set", index=_index(kernel, name), state=state)


def set_bridge(name: str, bridge: str | None) -> None:
    """Puts a link on a bridge; None: takes it off the one that it is on."""
    with _kernel(f"put {name} on {bridge or 'no bridge'}", None) as kernel:
        master = _index(kernel, bridge) if bridge is not None else 0
        kernel.link("set", index=_index(kernel, name), master=master)


def put_address(address: str, name: str, namespace: Namespace | None = None) -> None:
    """Puts an address with its prefix length on an interface, where it may be already. An IPv6
    address is used at once."""
    with _kernel(f"put {address} on {name}", namespace) as kernel:
        parsed = ip_interface(address)
        index, length = _index(kernel, name), parsed.network.prefixlen
        what = {"index": index, "address": str(parsed.ip), "prefixlen": length}
        if parsed.version == 6:
            kernel.addr("replace", flags=_IFA_F_NODAD, **what)
        else:
            kernel.addr("replace", **what)
