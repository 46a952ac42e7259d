"""A Unix datagram socket by which anybody on this host can ask for all checks at once
(`yaim check --now`), as Patroni's callbacks do when a role changes.

Nothing else can be asked for, nothing is answered, and nothing of a datagram is used: it is
compared with one word. Then all checks are made, and again each ROUND_S for SETTLES_S, as what has
changed may take a moment to show: Patroni calls back when PostgreSQL is promoted, and some
milliseconds or more later it is the primary. However many come, it is no more often than that; what
comes meanwhile waits in the kernel, which keeps few and has further senders wait (unix(7)).
"""

import logging
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

WORD = b"check"
NAME = "check.sock"
DIRECTORY = "yaim-check"
"""How the name of the directory begins that the unit has systemd make (RuntimeDirectory=)."""
ROUND_S, SETTLES_S = 0.2, 2.0
_ROUNDS = 1 + round(SETTLES_S / ROUND_S)
_MOST_TAKEN = 64
"""More than the kernel keeps (net.unix.max_dgram_qlen is 10), so that a flood ends a round."""
_SO_PASSRIGHTS = 83
"""Whether files can be passed along (include/uapi/asm-generic/socket.h, Linux 6.16)."""


def path_of(value: str, environment: Mapping[str, str]) -> Path | None:
    """Returns where the coordinator listens, for a value of check-socket; None: nowhere."""
    if value == "off":
        return None
    if value != "auto":
        return Path(value)
    directories = map(Path, environment.get("RUNTIME_DIRECTORY", "").split(":"))
    return next((each / NAME for each in directories if each.name.startswith(DIRECTORY)), None)


class CheckSocket:
    """Listens from its construction on. If it cannot, it says so; the node works without."""

    def __init__(self, path: Path, make_checks: Callable[[], None]) -> None:
        """`make_checks` does not block."""
        self._make_checks = make_checks
        try:
            self._socket = _listening(path)
        except OSError as error:
            logger.warning("check-socket: cannot listen at %s: %s", path, error.strerror or error)
            return
        threading.Thread(target=self._work, name="listener of checks", daemon=True).start()

    def _work(self) -> None:
        rounds = 0
        while True:
            if self._is_asked(waits=not rounds):
                logger.debug("asked for all checks")
                rounds = _ROUNDS
            if rounds:
                self._make_checks()
                rounds -= 1
            time.sleep(ROUND_S)

    def _is_asked(self, *, waits: bool) -> bool:
        """Takes all that has come; `waits`: for the first of it."""
        size, taken = len(WORD) + 1, set[bytes]()
        # A shortage of memory, for example, is none that must end the coordinator.
        with suppress(OSError):
            taken.add(self._socket.recv(size, 0 if waits else socket.MSG_DONTWAIT))
            for _ in range(_MOST_TAKEN):
                taken.add(self._socket.recv(size, socket.MSG_DONTWAIT))
        return WORD in taken


def _listening(path: Path) -> socket.socket:
    """Raises OSError. What an earlier life has left there is replaced, if it is a socket."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    listening.bind(str(path))
    path.chmod(0o666)
    return listening
