"""Who asks the helper for something, and for whom an address is held. Plain values; nothing else.

The kernel vouches for the user of a connection (SO_PEERCRED, unix(7)); the name of the cluster is
what the connection's `hello` says.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as SO_PEERCRED told when it connected."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and the cluster for whom an address is held: only their connections can touch it."""

    uid: int
    cluster: str

    def __str__(self) -> str:
        return f"cluster {self.cluster} of uid {self.uid}"
