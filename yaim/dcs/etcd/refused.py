"""What an operator is told when etcd does not do what was asked: which right is missing, that etcd
is full, or why no endpoint has answered. Asks etcd for that; changes nothing."""

from yaim.dcs.etcd.access import EtcdError, EtcdUnreachable
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import (
    EtcdFull,
    EtcdLoginFailed,
    EtcdPermissionDenied,
    EtcdTokenRefused,
)
from yaim.dcs.etcd.diagnose import explain_all
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.transactions import check_may_write
from yaim.dcs.store import NotPermitted, StoreError, StoreFull, Unreachable

EXPLAIN_WITHIN_S = 2.0


class Refusals:
    """Makes a StoreError of an error of etcd's."""

    def __init__(self, client: EtcdClient, keys: Keys, within_s: float = EXPLAIN_WITHIN_S) -> None:
        """`within_s`: how long it takes at most to find out why an endpoint does not answer."""
        self._client = client
        self._keys = keys
        self._within_s = within_s

    def of_reading(self, error: EtcdError) -> StoreError:
        if isinstance(error, EtcdPermissionDenied):
            return self._not_permitted("read", "read", [self._keys.prefix])
        return self._of_any(error)

    def of_writing(self, error: EtcdError, *, is_about_pool: bool) -> StoreError:
        if not isinstance(error, EtcdPermissionDenied):
            return self._of_any(error)
        rooms = ["control", "timeline", *(["ips"] if is_about_pool else [])]
        missing = [
            f"{self._keys.prefix}{room}/" for room in sorted(rooms) if not self._may_write(room)
        ]
        return self._not_permitted("change", "readwrite", missing or [self._keys.prefix])

    def _may_write(self, room: str) -> bool:
        try:
            check_may_write(self._client, f"{self._keys.prefix}{room}/x".encode())
        except EtcdPermissionDenied:
            return False
        except EtcdError:
            return True
        return True

    def _not_permitted(self, verb: str, right: str, where: list[str]) -> NotPermitted:
        user, role = self._user_and_role()
        lines = "; ".join(
            f"etcdctl role grant-permission {role} --prefix=true {right} {each}" for each in where
        )
        return NotPermitted(
            f"etcd user {user} may not {verb} {' and '.join(where)}. As etcd's root: {lines}"
            " (docs/etcd.md, Who may do what)"
        )

    def _user_and_role(self) -> tuple[str, str]:
        """The user and its role, as far as they are known."""
        try:
            user = self._client.access.user
            if user is None:
                return "of the client certificate", "<its role>"
            roles = self._client.roles(user)
        except EtcdError:
            return "of this configuration", "<its role>"
        return user, roles[0] if len(roles) == 1 else "<its role>"

    def _of_any(self, error: EtcdError) -> StoreError:
        if isinstance(error, EtcdLoginFailed | EtcdTokenRefused | EtcdPermissionDenied):
            return NotPermitted(str(error))
        if isinstance(error, EtcdFull):
            return StoreFull(
                f"{error}. Until then what is there can be deleted (undrain, resume, unpin, pool"
                " remove), and nothing put"
            )
        if isinstance(error, EtcdUnreachable):
            try:
                told = explain_all(error, self._client.access, self._within_s)
            except EtcdError:
                told = str(error)
            return Unreachable(told)
        return StoreError(str(error))
