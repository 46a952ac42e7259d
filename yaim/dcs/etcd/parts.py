"""Makes all parts that have to do with etcd from one configuration (yaim/dcs/store.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from yaim.core.events import Event
from yaim.core.model import NodeName
from yaim.dcs.etcd.access import EtcdAccess, EtcdError, read_secrets
from yaim.dcs.etcd.certificates import expiries, faults
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.diagnose import all_expiries
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.look import look
from yaim.dcs.etcd.operate import EtcdOperations
from yaim.dcs.etcd.refused import Refusals
from yaim.dcs.etcd.settings import EtcdSettings
from yaim.dcs.etcd.store import EtcdStore
from yaim.dcs.expiry import warnings_of
from yaim.dcs.operate import Operations
from yaim.dcs.store import Cluster, InvalidStoreFile, Store, StoreError, StoreSeen
from yaim.text import shell_word

TIMEOUT_S = (1.0, 5.0)
"""Bounds on the time-out of a call to etcd, which is a third of the TTL."""

CLUSTER_MEMORY_TTLS = 1.5
"""A silent etcd cluster is taken to be still there for so many TTLs: until no node has an address
under a lease of it, also one whose last keepalive came after ours."""


@dataclass(frozen=True, slots=True)
class EtcdParts:
    settings: EtcdSettings
    cluster: Cluster

    @property
    def keys(self) -> Keys:
        return Keys.of(self.cluster.namespace, self.cluster.name)

    @property
    def prefix(self) -> str:
        return self.keys.prefix

    @property
    def access(self) -> EtcdAccess:
        given = self.settings
        return EtcdAccess(
            endpoints=given.dcs_endpoints,
            user=given.etcd_user,
            password=None if given.etcd_password_file is not None else given.etcd_password,
            password_file=given.etcd_password_file,
            ca_file=given.etcd_ca_file,
            cert_file=given.etcd_cert_file,
            key_file=given.etcd_key_file,
        )

    def client(self) -> EtcdClient:
        least, most = TIMEOUT_S
        return EtcdClient(
            self.access,
            min(max(self.cluster.ttl_s / 3, least), most),
            CLUSTER_MEMORY_TTLS * self.cluster.ttl_s,
        )

    def start(self, node: NodeName, post: Callable[[Event], None]) -> Store:
        return EtcdStore(self.client(), self.keys, node, post)

    def apply_to(self, store: Store) -> None:
        if not isinstance(store, EtcdStore):
            raise TypeError(f"{store!r} is another kind of store")
        store.use(self.access)

    def by_hand(self, *arguments: str) -> str:
        access = self.access
        options = [f"--endpoints={','.join(access.endpoints)}"]
        files: tuple[tuple[str, Path | None], ...] = (
            ("--cacert", access.ca_file),
            ("--cert", access.cert_file),
            ("--key", access.key_file),
        )
        options += [f"{name}={file}" for name, file in files if file is not None]
        if access.user is not None:
            options.append("--user=root")
        return " ".join(map(shell_word, ("etcdctl", *options, *arguments)))

    def look(self, within_s: float) -> StoreSeen:
        client = self.client()
        try:
            view = look(client, self.keys)
        except EtcdError as error:
            raise Refusals(client, self.keys, within_s).of_reading(error) from error
        try:
            alarms = client.alarms()
        except EtcdError:  # it has just answered, so the permission for this may be missing
            alarms = frozenset()
        return StoreSeen(view, alarms, all_expiries(self.access, within_s))

    def operations(self) -> Operations:
        return EtcdOperations(self.client, self.keys)

    def look_at_files(self, now: datetime) -> tuple[Sequence[InvalidStoreFile], Sequence[str]]:
        try:
            secrets = read_secrets(self.access)
        except EtcdError as error:
            raise StoreError(str(error)) from error
        invalid = [
            InvalidStoreFile(each.key, each.path, each.expected)
            for each in faults(self.access, secrets)
        ]
        return invalid, [] if invalid else warnings_of(expiries(self.access, secrets), now)
