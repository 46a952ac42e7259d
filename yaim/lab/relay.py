"""A way to an etcd member that can be made slow, or silently dead: a process that relays TCP.

Started by Relay as: python -m yaim.lab.relay ADDRESS TARGET PORT
It obeys lines on its standard input, and answers each with one:

    delay SECONDS SECONDS   so long everything takes, to the target and back from it
    swallow WAY [WAY]       `there`, `back`: what is sent this way is taken and never arrives; the
                            connection stays open; a new connection is taken likewise
    restore                 neither; connections that something was taken from are reset
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from yaim.lab.namespaces import DIES_WITH_US, LabError

_CHUNK = 65536
_WAYS = ("there", "back")


class Relay:
    """The relay's process, as the lab sees it. It is in the lab's own network namespace."""

    def __init__(self, address: str, target: str, port: int, log_file: Path) -> None:
        self.address = address
        arguments = (address, target, str(port))
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                (*DIES_WITH_US, sys.executable, "-P", "-m", "yaim.lab.relay", *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._wait_for_answer("relaying")

    def delay(self, there_s: float, back_s: float) -> None:
        self._order(f"delay {there_s} {back_s}")

    def swallow(self, ways: Iterable[str] = _WAYS) -> None:
        """Swallows what is sent `there`, to the member, or `back` from it."""
        self._order(f"swallow {' '.join(ways)}")

    def restore(self) -> None:
        self._order("restore")

    def _order(self, order: str) -> None:
        if self._process.stdin is None:
            raise AssertionError
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        self._wait_for_answer(order)

    def _wait_for_answer(self, wanted: str) -> None:
        if self._process.stdout is None:
            raise AssertionError
        if self._process.stdout.readline() != f"{wanted}\n":
            raise LabError(f"the relay at {self.address} has failed")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class _Server:
    """The relay, within its process."""

    def __init__(self, target: str, port: int) -> None:
        self._target, self._port = target, port
        self._delay_s = dict.fromkeys(_WAYS, 0.0)
        self._swallowed: set[str] = set()
        self._robbed: set[asyncio.StreamWriter] = set()
        """The ends of the connections that something was taken from."""

    def obey(self, order: str) -> None:
        word, *words = order.split()
        match word:
            case "delay":
                self._delay_s = dict(zip(_WAYS, map(float, words), strict=True))
            case "swallow":
                self._swallowed = set(words)
            case "restore":
                self._delay_s = dict.fromkeys(_WAYS, 0.0)
                self._swallowed = set()
                for writer in self._robbed:
                    writer.transport.abort()
                self._robbed.clear()
            case _:
                raise ValueError(order)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target, self._port)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, far_writer)
        await asyncio.gather(
            self._pump("there", reader, far_writer, ends),
            self._pump("back", far_reader, writer, ends),
        )
        for end in ends:
            end.close()

    async def _pump(
        self,
        way: str,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        """Passes bytes on until the source ends, and passes its end on; if that is swallowed, goes
        on for ever."""
        loop = asyncio.get_running_loop()
        last_due = 0.0
        try:
            while data := await source.read(_CHUNK):
                if way in self._swallowed:
                    self._robbed.update(ends)
                    continue
                # Timers of the same instant go off in any order.
                last_due = max(last_due + 1e-6, loop.time() + self._delay_s[way])
                loop.call_at(last_due, _write, sink, data)
            end = _end
        except OSError:
            end = _abort
        if way in self._swallowed:
            self._robbed.update(ends)
            await asyncio.Event().wait()
        await asyncio.sleep(max(0.0, last_due - loop.time()) + 0.001)
        end(sink)


def _write(sink: asyncio.StreamWriter, data: bytes) -> None:
    if not sink.is_closing():
        sink.write(data)


def _end(sink: asyncio.StreamWriter) -> None:
    if not sink.is_closing():
        sink.write_eof()


def _abort(sink: asyncio.StreamWriter) -> None:
    sink.transport.abort()


async def _main(address: str, target: str, port: int) -> None:
    relay = _Server(target, port)
    await asyncio.start_server(relay.relay, address, port)
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("relaying", flush=True)
    while line := await orders.readline():
        order = line.decode().strip()
        relay.obey(order)
        print(order, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
