"""Somebody who passes for etcd, and a node that believes it: the real core and store, and a helper
that does everything at once."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from queue import Empty, SimpleQueue
from threading import Event as Flag
from typing import Any
from urllib.parse import urlsplit

import etcd3.etcdrpc as rpc
import grpc

from yaim.core.actions import (
    Action,
    AddAddress,
    ClearConnections,
    End,
    LookForAddresses,
    RemoveAddress,
    RenewAddresses,
    Report,
)
from yaim.core.events import (
    HAS_NO_FENCE,
    AddressAdded,
    AddressesRenewed,
    AddressesSeen,
    AddressRemoved,
    CheckAnswered,
    Event,
    HelperReady,
)
from yaim.core.model import Address, Boottime, Fence, NodeName, frozen_mapping
from yaim.core.settings import Settings
from yaim.core.state.host import Host
from yaim.core.state.state import State
from yaim.core.step import step
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.store import EtcdStore
from yaim.host.boottime import boottime

Lie = Callable[[Any, Any], Any]
"""Request and true answer to what is told. Bytes are sent as they are; a status code is an error.
Of a watch: the true answer to several."""
_UNARY = {
    "KV": ("Range", "Put", "DeleteRange", "Txn"),
    # A stream; but one request and one answer look the same on the wire.
    "Lease": ("LeaseGrant", "LeaseRevoke", "LeaseKeepAlive"),
    "Maintenance": ("Status", "Alarm"),
    "Auth": ("Authenticate",),
}


class FalseEtcd:
    """Between a client and a real etcd: tells what that does, but for the lies."""

    def __init__(self, target: str) -> None:
        self.lies: dict[str, Lie] = {}
        """The lie that is told for each method."""
        self.inventions: dict[str, Any] = {}
        """What is told without asking, by method."""
        self.asked: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self._is_closed = Flag()
        self._channel = grpc.insecure_channel(
            urlsplit(target).netloc, (("grpc.use_local_subchannel_pool", 1),)
        )
        options = (("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0))
        self._server = grpc.server(ThreadPoolExecutor(32), options=options)
        for service, methods in _UNARY.items():
            handlers = {method: self._relayed(service, method) for method in methods}
            self._add(service, handlers)
        watch = grpc.stream_stream_rpc_method_handler(
            self._watched, rpc.WatchRequest.FromString, _serialized
        )
        self._add("Watch", {"Watch": watch})
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _add(self, service: str, handlers: dict[str, Any]) -> None:
        generic = grpc.method_handlers_generic_handler(f"etcdserverpb.{service}", handlers)
        self._server.add_generic_rpc_handlers((generic,))

    def _relayed(self, service: str, method: str) -> Any:
        request_type = getattr(rpc, f"{method}Request")
        answer_type = getattr(rpc, f"{method}Response")
        call = self._channel.unary_unary(
            f"/etcdserverpb.{service}/{method}",
            request_serializer=request_type.SerializeToString,
            response_deserializer=answer_type.FromString,
        )

        def handle(request: Any, context: Any) -> Any:
            self.asked[method] += 1
            if method in self.inventions:
                return self.inventions[method]
            try:
                answer = call(request, timeout=10.0)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
            lie = self.lies.get(method)
            told = answer if lie is None else lie(request, answer)
            if isinstance(told, grpc.StatusCode):
                context.abort(told, "a lie\x1b[2J\nof two lines")
            return told

        return grpc.unary_unary_rpc_method_handler(handle, request_type.FromString, _serialized)

    def _watched(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self.asked["Watch"] += 1
        call = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )(requests)
        context.add_callback(call.cancel)
        try:
            for answer in call:
                lie = self.lies.get("Watch")
                for told in (answer,) if lie is None else lie(None, answer):
                    if self._is_closed.is_set() or not context.is_active():
                        return
                    self.told["Watch"] += 1
                    yield told
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())

    def close(self) -> None:
        self._is_closed.set()
        self._server.stop(None).wait()
        self._channel.close()


def _serialized(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


class TrustingNode:
    """One node's core and store. It takes what its core wants for done at once."""

    def __init__(
        self,
        url: str,
        keys: Keys,
        name: str = "n1",
        ttl_s: int = 3,
        fence: Fence = HAS_NO_FENCE,
    ) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        settings = Settings(NodeName(name), "eth0", 32, 128, ttl_s, 1.0, "1")
        self.state = State(settings, host=Host(own=frozen_mapping({})))
        self.client = EtcdClient(EtcdAccess((url,)), 1.0)
        self.store = EtcdStore(self.client, keys, settings.node, self._events.put)
        self.steps = 0
        self.reports: list[str] = []
        self.deadlines: dict[Address, Boottime] = {}
        """The deadlines of what is on its interface."""
        self.latest = Boottime(0.0)
        """The latest deadline that it has handed on."""
        networks = (("eth0", (ip_network("192.0.2.0/24"),)),)
        self._events.put(HelperReady("boot:1", networks, (), fence=fence))
        self._events.put(CheckAnswered("service", True, "", Boottime(1e12)))

    def run(self, for_s: float, is_enough: Callable[["TrustingNode"], bool] | None = None) -> None:
        until = boottime() + for_s
        wake_at: float | None = boottime()
        while (now := boottime()) < until and (is_enough is None or not is_enough(self)):
            events: list[Event] = []
            try:
                events.append(
                    self._events.get(timeout=max(0.0, min(wake_at or until, until) - now))
                )
                while True:
                    events.append(self._events.get_nowait())
            except Empty:
                pass
            taken = step(self.state, events, boottime())
            self.steps += 1
            self.state, wake_at = taken.state, taken.wake_at
            for action in taken.actions:
                self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case AddAddress(request, address, deadline=deadline):
                self.deadlines[address] = deadline
                self.latest = max(self.latest, deadline)
                self._events.put(AddressAdded(request, address))
            case RemoveAddress(request, address):
                self.deadlines.pop(address, None)
                self._events.put(AddressRemoved(request, address))
            case RenewAddresses(deadline):
                self.deadlines = dict.fromkeys(self.deadlines, deadline)
                self.latest = max(self.latest, deadline)
                self._events.put(AddressesRenewed(frozenset()))
            case LookForAddresses():
                now = boottime()
                there = frozenset(a for a, until in self.deadlines.items() if until > now)
                self._events.put(AddressesSeen(there))
            case ClearConnections():
                pass
            case Report(_, text):
                self.reports.append(text)
            case End():
                raise AssertionError(action)
            case _:
                self.store.submit(action)

    def has_reported(self, text: str) -> bool:
        return any(text in each for each in self.reports)

    def close(self) -> None:
        self.client.close()
