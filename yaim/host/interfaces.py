"""The interfaces of this host by name, looked at once (kernel_watch.py follows changes)."""

import socket


def shown_name(name: str) -> str | None:
    """The name that the kernel shows an interface by, which may have further ones; None if there is
    none of that name."""
    try:
        return socket.if_indextoname(socket.if_nametoindex(name))
    except OSError:
        return None


def why_missing(name: str) -> str:
    """Why there is no interface of this name, with those that there are; empty if there is one."""
    if shown_name(name) is not None:
        return ""
    there = ", ".join(each for _, each in socket.if_nameindex())
    return f"there is no {name} on this host (there are {there})"
