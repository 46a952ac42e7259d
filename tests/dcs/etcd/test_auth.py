"""Users, passwords, roles and tokens, in a real etcd."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from queue import SimpleQueue

import etcd3.etcdrpc as rpc
import grpc
import pytest

from tests.certificates import Certificates
from tests.dcs.etcd.conftest import EtcdServer
from tests.dcs.etcd.false_etcd import FalseEtcd
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import EtcdLeaseNotFound
from yaim.dcs.etcd.login import LOGIN_REFRESH_S
from yaim.lab.wait import wait_until

PREFIX = "/service/yaim/"
START, END = b"/service/yaim/", b"/service/yaim0"
KEY = b"/service/yaim/ips/192.0.2.10"
ROOT = "root:r"
TIMEOUT_S = 20.0
"""Generous: etcd takes a tenth of a second of a processor for each password."""


def secure(etcd: EtcdServer) -> None:
    """Turns authentication on, with a user whose role is good for one cluster only:
    docs/etcd.md."""
    etcd.ctl("user", "add", ROOT)
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("role", "add", "yaim")
    etcd.ctl("role", "grant-permission", "yaim", "--prefix=true", "readwrite", PREFIX)
    etcd.ctl("user", "add", "yaim:secret")
    etcd.ctl("user", "grant-role", "yaim", "yaim")
    etcd.ctl("auth", "enable")


def watching(client: EtcdClient, revision: int) -> SimpleQueue[bytes | EtcdError]:
    """What a watch tells: the values put, then how it ended."""
    seen: SimpleQueue[bytes | EtcdError] = SimpleQueue()

    def watch() -> None:
        try:
            for answer in client.watch(START, END, revision):
                for event in answer.events:
                    seen.put(event.kv.value)
        except EtcdError as error:
            seen.put(error)

    threading.Thread(target=watch, daemon=True).start()
    return seen


@pytest.fixture
def secured(etcd: EtcdServer) -> EtcdServer:
    secure(etcd)
    return etcd


@pytest.fixture
def client(secured: EtcdServer) -> Iterator[EtcdClient]:
    client = EtcdClient(EtcdAccess((secured.url,), user="yaim", password="secret"), TIMEOUT_S)
    yield client
    client.close()


def test_a_role_for_the_prefix_is_enough_for_all_that_a_node_does(client: EtcdClient) -> None:
    seen = watching(client, 1)
    client.put(KEY, b"one")
    assert seen.get(timeout=TIMEOUT_S) == b"one"
    assert client.read_all(START, END)[0][KEY].value == b"one"
    lease = client.grant(60)
    assert client.keep(lease.id).ttl_s == 60
    client.revoke(lease.id)
    client.delete(KEY)


@pytest.mark.parametrize("what", ["read", "write", "watch"])
def test_what_the_role_does_not_permit_is_told_with_the_key(client: EtcdClient, what: str) -> None:
    with pytest.raises(EtcdError) as raised:
        if what == "read":
            client.read_all(b"/service/pg/", b"/service/pg0")
        elif what == "write":
            client.put(b"/service/pg/ips/192.0.2.10", b"")
        else:
            next(client.watch(b"/service/pg/", b"/service/pg0", 1))
            next(client.watch(b"/service/pg/", b"/service/pg0", 1))
    assert "permission denied" in str(raised.value)
    assert "/service/pg/" in str(raised.value)


def test_a_token_that_expires_is_renewed(tmp_path: Path) -> None:
    """Tokens that live for 2 s, over plaintext."""
    key, public = tmp_path / "token.key", tmp_path / "token.pub"
    for command in (
        ("openssl", "genrsa", "-out", str(key), "2048"),
        ("openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public)),
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    token = f"jwt,pub-key={public},priv-key={key},sign-method=RS256,ttl=2s"
    etcd = EtcdServer(tmp_path, None, f"--auth-token={token}")
    try:
        etcd.start()
        secure(etcd)
        client = EtcdClient(EtcdAccess((etcd.url,), user="yaim", password="secret"), TIMEOUT_S)
        seen = watching(client, 1)
        lease = client.grant(60)
        for number in range(12):
            client.put(KEY, str(number).encode())
            assert client.keep(lease.id).ttl_s == 60
            assert seen.get(timeout=TIMEOUT_S) == str(number).encode()
            time.sleep(0.5)
        client.close()
    finally:
        etcd.close()


def test_a_restart_of_etcd_which_forgets_tokens_is_survived(
    secured: EtcdServer, client: EtcdClient
) -> None:
    lease = client.grant(60)
    secured.stop()
    secured.start()
    assert client.keep(lease.id).ttl_s == 60
    client.put(KEY, b"")


@pytest.fixture
def known(etcd: EtcdServer) -> Iterator[tuple[FalseEtcd, EtcdClient, int]]:
    """An etcd that tells how often it is asked for a token and keeps no secrets, a client that has
    a token of it, and the client's lease."""
    false = FalseEtcd(etcd.url)
    false.inventions["Authenticate"] = rpc.AuthenticateResponse(token="token.1")
    client = EtcdClient(EtcdAccess((false.url,), user="yaim", password="secret"), TIMEOUT_S)
    lease = client.grant(60).id
    assert false.asked["Authenticate"] == 1
    yield false, client, lease
    client.close()
    false.close()


def test_after_a_silence_a_keepalive_waits_for_no_login(
    known: tuple[FalseEtcd, EtcdClient, int],
) -> None:
    """It took etcd half a second, with all nodes at once, and the lease was over. Reads give the
    token up: an etcd that was restored waits in vain for what an old one refers to."""
    false, client, lease = known
    false.lies["Range"] = lambda _request, _answer: grpc.StatusCode.UNAVAILABLE
    with pytest.raises(EtcdError):
        client.read_all(START, END)
    del false.lies["Range"]
    assert client.keep(lease).ttl_s == 60
    assert false.asked["Authenticate"] == 1
    client.read_all(START, END)
    assert false.asked["Authenticate"] == 2
    assert client.keep(lease).ttl_s == 60
    assert false.asked["Authenticate"] == 2


def test_a_keepalive_whose_token_is_refused_logs_in_and_is_sent_again(
    known: tuple[FalseEtcd, EtcdClient, int],
) -> None:
    """No etcd up to 3.6 looks at the token of a keepalive. A later one may."""
    false, client, lease = known
    asked = count()
    false.lies["LeaseKeepAlive"] = lambda _request, answer: (
        answer if next(asked) else grpc.StatusCode.PERMISSION_DENIED
    )
    assert client.keep(lease).ttl_s == 60
    assert (next(asked), false.asked["Authenticate"]) == (2, 2)


def test_a_keepalive_of_a_lease_that_is_gone_asks_for_no_token(
    known: tuple[FalseEtcd, EtcdClient, int],
) -> None:
    false, client, lease = known
    client.revoke(lease)
    with pytest.raises(EtcdLeaseNotFound):
        client.keep(lease)
    assert false.asked["Authenticate"] == 1


def test_a_password_that_is_changed_in_its_file_first_costs_nothing(
    secured: EtcdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yaim.dcs.etcd.login.LOGIN_REFRESH_S", 20 * LOGIN_REFRESH_S)
    file = tmp_path / "password"
    file.write_text("secret\n")
    client = EtcdClient(EtcdAccess((secured.url,), user="yaim", password_file=file), TIMEOUT_S)
    lease = client.grant(60)
    file.write_text("new\n")
    assert not client.refresh()  # etcd does not know it yet
    assert client.keep(lease.id).ttl_s == 60
    change_password(secured, "new")
    client.keep_refreshed()
    assert client.keep(lease.id).ttl_s == 60
    client.put(KEY, b"")
    client.close()


def test_a_password_that_is_changed_in_etcd_first_is_told_until_the_file_follows(
    secured: EtcdServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    client = EtcdClient(EtcdAccess((secured.url,), user="yaim", password_file=file), TIMEOUT_S)
    client.put(KEY, b"")
    change_password(secured, "new")
    with pytest.raises(EtcdError, match=r"authentication failed.*: check etcd-user and etcd-passw"):
        client.put(KEY, b"")
    file.write_text("new\n")
    client.keep_refreshed()
    wait_until(lambda: succeeds(lambda: client.put(KEY, b"")), TIMEOUT_S, "the new password's use")
    client.close()


def succeeds(request: Callable[[], object]) -> bool:
    try:
        request()
    except EtcdError:
        return False
    return True


def change_password(etcd: EtcdServer, password: str) -> None:
    etcd.ctl("user", "passwd", "yaim", "--interactive=false", user=ROOT, text=f"{password}\n")


def test_a_permission_that_is_taken_and_given_again(
    secured: EtcdServer, client: EtcdClient
) -> None:
    seen = watching(client, 1)
    client.put(KEY, b"before")
    assert seen.get(timeout=TIMEOUT_S) == b"before"
    permission = ("yaim", "--prefix=true")
    secured.ctl("role", "revoke-permission", *permission, PREFIX, user=ROOT)
    with pytest.raises(EtcdError, match=r"permission denied \(writing /service/yaim/ips/192"):
        client.put(KEY, b"")
    secured.ctl("role", "grant-permission", *permission, "readwrite", PREFIX, user=ROOT)
    client.put(KEY, b"after")
    assert seen.get(timeout=TIMEOUT_S) == b"after"


def test_authentication_that_is_switched_on_and_off(
    etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A user may be configured before; without one it is told what is missing."""
    client = EtcdClient(EtcdAccess((etcd.url,), user="yaim", password="secret"), TIMEOUT_S)
    without = EtcdClient(EtcdAccess((etcd.url,)), TIMEOUT_S)
    client.put(KEY, b"")
    assert "authentication is not enabled in etcd" in caplog.text
    secure(etcd)
    client.put(KEY, b"")
    with pytest.raises(EtcdError, match="user name is empty: set etcd-user and etcd-password"):
        without.put(KEY, b"")
    etcd.ctl("auth", "disable", user=ROOT)
    client.put(KEY, b"")
    without.put(KEY, b"")
    client.close()
    without.close()


def test_authentication_that_is_switched_on_where_client_certificates_have_names(
    tmp_path: Path, certificates: Certificates
) -> None:
    """Whoever shows no token is to etcd the user whom the certificate names."""
    etcd = EtcdServer(tmp_path, certificates)
    try:
        etcd.start()
        client = EtcdClient(replace(etcd.access, user="yaim", password="secret"), TIMEOUT_S)
        client.put(KEY, b"")
        secure(etcd)
        client.put(KEY, b"")
        assert client.keep(client.grant(60).id).ttl_s == 60
        client.close()
    finally:
        etcd.close()


def test_everybody_may_ask_for_alarms(secured: EtcdServer) -> None:
    client = EtcdClient(EtcdAccess((secured.url,), user="yaim", password="secret"), TIMEOUT_S)
    assert client.alarms() == frozenset()
    client.close()


def test_a_wrong_password_is_told(secured: EtcdServer) -> None:
    client = EtcdClient(EtcdAccess((secured.url,), user="yaim", password="wrong"), TIMEOUT_S)
    with pytest.raises(EtcdError, match=r"authentication failed.*: check etcd-user"):
        client.read_all(START, END)
    client.close()
