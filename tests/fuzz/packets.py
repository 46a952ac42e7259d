"""Makes packets of a fuzzer's bytes: raw ones, or requests with something wrong in them.

Two thirds of random bytes would never get past the first brace; so most packets begin as a request
that is right, and the bytes say what is changed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VECTORS: Mapping[str, list[dict[str, str]]] = json.loads(
    (Path(__file__).parents[2] / "helper" / "vectors.json").read_text()
)
REQUESTS = tuple(
    each["packet"].encode() for kind in ("requests", "further_requests") for each in VECTORS[kind]
)
SEEDS = (*REQUESTS, *(each["packet"].encode() for each in VECTORS["malformed"]))
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 32, 33, 128, 129, 1.0, 1e308, [], {}, "", "\0", "\ud800", "."),
    *(2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400, "x" * 255, "x" * 256, "é" * 15),
    *("0.0.0.0", "192.0.2.10", "192.0.2.010", "255.255.255.255", "127.0.0.1", "224.0.0.1"),
    *("::", "::1", "2001:db8::10", "2001:db8:0::10", "2001:DB8::1", "::ffff:192.0.2.10"),
    *("fe80::1", "fe80::1%eth0", "eth0", "lo", "veth0", "peer0", "add", "hello", "yaim"),
    *("reset", "leave", "clear", "remove"),
)
KEYS = (
    *("op", "id", "address", "interface", "prefix", "label", "deadline_ns", "after", "version"),
    *("cluster", "node", "x", "connections"),
)


def kept(target: str) -> list[bytes]:
    """Inputs to begin with: what is valid, what reached something new, what was found once."""
    lines = (Path(__file__).parent / "corpus" / f"{target}.hex").read_text().splitlines()
    return [bytes.fromhex(line) for line in lines if not line.startswith("#")]


class Bytes:
    """What is left of the fuzzer's bytes. When there are none left, all is 0 and empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, values: tuple[Any, ...]) -> Any:
        return values[self.byte() % len(values)]

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data))


def packet_from(data: bytes) -> bytes:
    """One packet."""
    bytes_ = Bytes(data)
    kind = bytes_.byte() % 4
    if kind == 0:
        return bytes_.rest()
    packet: bytes = bytes_.one_of(REQUESTS)
    if kind == 1:
        return spliced(packet, bytes_)
    message = json.loads(packet)
    while bytes_:
        key = bytes_.one_of(KEYS)
        message[key] = (
            bytes_.one_of(VALUES) if bytes_.byte() % 4 else bytes_.take(8).decode("latin")
        )
    if kind == 2:
        return json.dumps(message).encode()
    return json.dumps(message, ensure_ascii=False).encode(errors="surrogatepass")


def spliced(packet: bytes, bytes_: Bytes) -> bytes:
    """Parts of it replaced."""
    while bytes_:
        at, gone, count = bytes_.byte(), bytes_.byte() % 16, bytes_.byte() % 32
        packet = packet[:at] + bytes_.take(count) + packet[at + gone :]
    return packet
