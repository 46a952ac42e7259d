"""Web servers for tests, most of them misbehaving, over real sockets."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

PATIENT_S = 30.0
OK = b"HTTP/1.1 200 OK\r\n"
Answer = Callable[[socket.socket, "Server"], None]
Reads = Callable[[socket.socket], bytes]
"""How a server takes a request."""


def reads_all(connection: socket.socket) -> bytes:
    return connection.recv(65536)


def reads_a_part(connection: socket.socket) -> bytes:
    """Its kernel resets the connection, when that is closed, in place of ending it."""
    return connection.recv(10)


def reads_nothing(connection: socket.socket) -> bytes:
    """Leaves the request unread, once it is there, as those do that inetd starts."""
    return connection.recv(65536, socket.MSG_PEEK)


def does_not_wait(_: socket.socket) -> bytes:
    """Whether the request comes before it has answered, before it has closed or later is chance."""
    return b""


class Server:
    """Reads a request from each connection and answers it, in a thread for each."""

    def __init__(
        self, answer: Answer, host: str, port: int, tls: ssl.SSLContext | None, reads: Reads
    ) -> None:
        self._answer = answer
        self._reads = reads
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self.host = f"[{host}]" if ":" in host else host
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://{self.host}:{self.port}/"
        self.requests: list[bytes] = []
        self.sent_bytes = 0
        self.is_closing = threading.Event()
        self._flooding: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(PATIENT_S)
        try:
            with plain, self._encrypted(plain) as connection:
                self.requests.append(self._reads(connection))
                self._answer(connection, self)
        except OSError:
            pass  # the client has gone, or does not like our certificate

    def _encrypted(self, plain: socket.socket) -> socket.socket:
        return plain if self._tls is None else self._tls.wrap_socket(plain, server_side=True)

    def shut_down_at_the_end(self, connection: socket.socket) -> None:
        """The kernel may go on for a minute waiting for a client that reads no more."""
        self._flooding.append(connection)

    def close(self) -> None:
        self.is_closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._flooding:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(PATIENT_S)


@contextmanager
def serving(
    answer: Answer,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    reads: Reads = reads_all,
) -> Iterator[Server]:
    with closing(Server(answer, host, port, tls, reads)) as server:
        yield server


def sends(content: bytes) -> Answer:
    def answer(connection: socket.socket, _: Server) -> None:
        connection.sendall(content)

    return answer


def resets_behind(content: bytes) -> Answer:
    """Whatever has been read. All of it has left when the reset does."""

    def answer(connection: socket.socket, _: Server) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(content)
        linger_not = b"\x01\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)

    return answer


def drips(start: bytes, again: bytes = b"x", pause_s: float = 0.02) -> Answer:
    """Sends something now and then, for ever."""

    def answer(connection: socket.socket, server: Server) -> None:
        connection.sendall(start)
        while not server.is_closing.wait(pause_s):
            connection.sendall(again)

    return answer


def floods(start: bytes, block: bytes = b"x" * 65536, blocks: int = 1024) -> Answer:
    """Sends 64 MiB."""

    def answer(connection: socket.socket, server: Server) -> None:
        server.shut_down_at_the_end(connection)
        connection.sendall(start)
        for _ in range(blocks):
            connection.sendall(block)
            server.sent_bytes += len(block)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """One after the other; the last for ever."""

    def answer(connection: socket.socket, server: Server) -> None:
        answers[min(len(server.requests), len(answers)) - 1](connection, server)

    return answer


def response(body: bytes = b"", code: int = 200, *headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {code} Whatever",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def redirect(location: str) -> bytes:
    return response(b"", 302, f"Location: {location}")


def redirect_with(body: str) -> bytes:
    """A redirect to /; the server does not say how it ends the body."""
    return f"HTTP/1.1 302 Found\r\nLocation: /\r\n{body}".encode()


@contextmanager
def refusing() -> Iterator[str]:
    """The URL of a port that nobody listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


@contextmanager
def ignoring(*hosts: str) -> Iterator[int]:
    """A port that answers no SYN at these addresses: nobody accepts, and the queue is full."""
    with ExitStack() as stack:
        port = 0
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = stack.enter_context(socket.socket(family))
            listener.bind((host, port))
            listener.listen(0)
            port = listener.getsockname()[1]
            for _ in range(3):
                waiting = stack.enter_context(socket.socket(family))
                waiting.setblocking(False)
                waiting.connect_ex((host, port))
            _wait_until_full(listener)
        yield port


def _wait_until_full(listener: socket.socket) -> None:
    """Waits until the queue is full. tcp_info of a socket that listens tells how many wait to be
    accepted, and how many may."""
    give_up_at = time.monotonic() + PATIENT_S
    while True:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        waiting, most = struct.unpack_from("=II", info, 24)
        if waiting > most:
            return
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
