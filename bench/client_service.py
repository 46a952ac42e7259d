"""The service of a node for bench/clients.py, with its clients' words: on PORT of all addresses.

    python -m bench.client_service NODE

Over TCP and UDP, IPv4 and IPv6: whoever asks (ASK) is told the node's name at once; whoever waits
(WAIT) gets no answer, as from a query that takes long. Of HTTP, a GET of /now is answered at once,
any other never.
"""

import asyncio
import resource
import socket
import struct
import sys

PORT = 7000
ASK, WAIT = b"?", b"w"
_GET, _OK = b"GET /now ", b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"
_BACKLOG = 8192
_IP_PKTINFO = 8
"""linux/in.h; Python's socket module has it from 3.13 on."""
_IN_PKTINFO = struct.Struct("@I4s4s")
"""ip(7): interface, the local address, the destination in the header."""


class _Answers(asyncio.Protocol):
    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data == ASK:
            self._transport.write(self._name)
        elif data.startswith(_GET):
            self._transport.write(_OK)


def _answer_datagrams(listener: socket.socket, name: bytes) -> None:
    """Answers from the address that was asked: a reply from a socket that is bound to none leaves
    with the host's own."""
    _, ancillary, _, client = listener.recvmsg(64, 256)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, _, asked = _IN_PKTINFO.unpack(data)
            source = _IN_PKTINFO.pack(0, asked, bytes(4))
            try:
                listener.sendmsg([name], [(socket.IPPROTO_IP, _IP_PKTINFO, source)], 0, client)
            except OSError:
                pass  # the address has gone meanwhile


async def _serve(name: bytes) -> None:
    loop = asyncio.get_running_loop()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    datagrams.bind(("0.0.0.0", PORT))
    loop.add_reader(datagrams, _answer_datagrams, datagrams, name)
    server = await loop.create_server(lambda: _Answers(name), None, PORT, backlog=_BACKLOG)
    await server.serve_forever()


def allow_many_files() -> None:
    """Raises this process's limit of open files to what may be had."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    allow_many_files()
    asyncio.run(_serve(sys.argv[1].encode()))
