"""One bound on everything that an attempt does over the network through requests.

requests bounds each connect and each read by itself: a server that sends a byte now and then, or a
name with many addresses, would hold it for ever.
"""

import http
import http.client
import os
import socket
import threading
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from yaim.name_lookup import look_up

MAX_INTERIM = 100


class TimeLimit:
    """Shuts down the connections of an attempt when its time is up."""

    def __init__(self, seconds: float) -> None:
        self.target = ""
        """Host and port that were, or are to be, connected to last."""
        self._ends_at = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    @property
    def left_s(self) -> float:
        return self._ends_at - time.monotonic()

    @property
    def has_passed(self) -> bool:
        return self.left_s <= 0

    def __enter__(self) -> "TimeLimit":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def connect(self, host: str, port: int) -> socket.socket:
        """To the first address of the host that takes the connection; one that is silent leaves
        time for the others. Raises OSError."""
        failure: OSError = OSError("the host name has no address")
        addresses = look_up(host, port, self.left_s)
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            connection = socket.socket(family, kind, protocol)
            try:
                share_s = self.left_s / (len(addresses) - number)
                connection.settimeout(max(share_s, 0.001))
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
                continue
            connection.settimeout(max(self.left_s, 0.001))
            self._apply_to(connection)
            return connection
        raise failure

    def _apply_to(self, connected: socket.socket) -> None:
        """Keeps a duplicate: TLS takes the original's file descriptor away."""
        duplicate = socket.socket(fileno=os.dup(connected.fileno()))
        with self._lock:
            self._sockets.append(duplicate)
        if self.has_passed:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            for each in self._sockets:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class _Final(http.client.HTTPResponse):
    """Not an interim answer, like 103 (RFC 9110 section 15.2). http.client passes over 100 only,
    and over any number of it."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM + 1):
            version, code, reason = super()._read_status()  # type: ignore[misc]
            if code == http.HTTPStatus.SWITCHING_PROTOCOLS or code >= http.HTTPStatus.OK:
                return version, code, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"got more than {MAX_INTERIM} interim answers")


class LimitedAdapter(HTTPAdapter):
    """Makes every connection under a time limit."""

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        limit = self._limit

        class Connection(HTTPConnection):
            response_class = _Final

            def _new_conn(self) -> socket.socket:
                return limit.connect(self.host, self.port)

        class SecureConnection(HTTPSConnection):
            response_class = _Final

            def _new_conn(self) -> socket.socket:
                return limit.connect(self.host, self.port)

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
