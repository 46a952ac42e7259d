"""A connection to the helper: one message in each packet (unix(7), SOCK_SEQPACKET)."""

import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from yaim.managers.helper.messages import HelperError, HungUpError, read_reply, write_request

MAX_REPLY_BYTES = 65536
ANSWER_WITHIN_S = 2.0


class Connection:
    """Counts its requests: the number of each is its id."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._last_id = 0
        try:
            # A connect that does not block gives up at once if many others are waiting; one that
            # blocks gets its turn (unix(7) does not tell).
            limit = struct.pack("2l", int(ANSWER_WITHIN_S), 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self.socket.connect(str(path))
            self.socket.settimeout(ANSWER_WITHIN_S)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: Mapping[str, Any]) -> int:
        """Returns the request's id."""
        request_id = self._last_id + 1
        self.socket.send(write_request(request_id, message))
        self._last_id = request_id
        return request_id

    def receive(self) -> bytes:
        packet, _, flags, _ = self.socket.recvmsg(MAX_REPLY_BYTES)
        if not packet:
            raise HungUpError("it hung up")
        if flags & socket.MSG_TRUNC:
            raise HelperError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
        return packet

    def receive_all(self) -> list[bytes]:
        """Returns the packets that have come, on a socket that does not block."""
        packets = []
        try:
            while True:
                packets.append(self.receive())
        except BlockingIOError:
            return packets

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the reply to one request if it is ok. Raises HelperError if it is not."""
        request_id = self.send(message)
        reply = read_reply(self.receive(), request_id)
        if reply.get("result") != "ok":
            raise HelperError(str(reply.get("reason", "it refused without a reason")))
        return reply
