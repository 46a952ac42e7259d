"""A real etcd for the tests of this directory."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Certificates
from yaim.dcs.etcd.access import EtcdAccess, EtcdError
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.lab.etcd import ELECTED_AT_ONCE
from yaim.lab.namespaces import DIES_WITH_US
from yaim.lab.wait import wait_until

PATIENT_S = 20.0
"""The time-out of clients that are expected to be answered: etcd may wait for its disk."""
BY_DEFAULT = ("--heartbeat-interval=100", "--election-timeout=1000")


class EtcdServer:
    """One member, on loopback in the tests' own network namespace. It elects itself at once, unless
    it is to do so as by default, when it takes a second and a half for it; its least TTL is 1 s
    then, and not 2 s."""

    def __init__(
        self,
        directory: Path,
        certificates: Certificates | None = None,
        *options: str,
        address: str = "127.0.0.1",
    ) -> None:
        """With certificates it speaks TLS only, and wants a client certificate."""
        self._directory = directory
        self._peer_url = f"http://{address}:2380"
        self.url = f"http://{address}:2379"
        self.access = EtcdAccess((self.url,))
        self._options = (*ELECTED_AT_ONCE, *options)
        self._ctl_options: tuple[str, ...] = ()
        if certificates is not None:
            ca, cert, key = certificates.ca, certificates.leaf, certificates.key
            self.url = f"https://{address}:2379"
            self.access = EtcdAccess((self.url,), ca_file=ca, cert_file=cert, key_file=key)
            self._ctl_options = (f"--cacert={ca}", f"--cert={cert}", f"--key={key}")
            self._options += (
                f"--cert-file={cert}",
                f"--key-file={key}",
                f"--trusted-ca-file={ca}",
                "--client-cert-auth",
            )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *DIES_WITH_US,
                    "etcd",
                    f"--data-dir={self._directory / 'data'}",
                    f"--listen-client-urls={self.url}",
                    f"--advertise-client-urls={self.url}",
                    f"--listen-peer-urls={self._peer_url}",
                    f"--initial-advertise-peer-urls={self._peer_url}",
                    f"--initial-cluster=default={self._peer_url}",
                    *self._options,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            wait_until(self._answers, 60.0, "etcd to answer")

    def _answers(self) -> bool:
        client = EtcdClient(self.access, 1.0)
        try:
            client.read_all(b"a", b"b")
        except EtcdError as error:
            return "authentication" in str(error) or "user name is empty" in str(error)
        else:
            return True
        finally:
            client.close()

    def add_options(self, *options: str) -> None:
        """Adds options from its next start on."""
        self._options += options

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Its data go, too: 128 MB of memory, where temporary files are."""
        self.stop()
        shutil.rmtree(self._directory / "data", ignore_errors=True)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def ctl(self, *arguments: str, user: str | None = None, text: str | None = None) -> str:
        """etcdctl, as an admin would use it."""
        login = (f"--user={user}",) if user is not None else ()
        return subprocess.run(
            ("etcdctl", f"--endpoints={self.url}", *self._ctl_options, *login, *arguments),
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            input=text,
            check=True,
            capture_output=True,
            text=True,
        ).stdout


class GrpcProxy:
    """etcd's own, in front of a server."""

    def __init__(self, server: EtcdServer, directory: Path) -> None:
        self.url = "http://127.0.0.1:23790"
        with (directory / "proxy.log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *DIES_WITH_US,
                    *("etcd", "grpc-proxy", "start"),
                    f"--endpoints={server.url.removeprefix('http://')}",
                    f"--listen-addr={self.url.removeprefix('http://')}",
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, 20.0, "the proxy to answer")

    def _answers(self) -> bool:
        client = EtcdClient(EtcdAccess((self.url,)), 1.0)
        try:
            client.read_all(b"a", b"b")
        except EtcdError:
            return False
        finally:
            client.close()
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def grpc_proxy(etcd: "EtcdServer", tmp_path: Path) -> Iterator[GrpcProxy]:
    proxy = GrpcProxy(etcd, tmp_path)
    yield proxy
    proxy.close()


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def client(etcd: EtcdServer) -> Iterator[EtcdClient]:
    client = EtcdClient(EtcdAccess((etcd.url,)), PATIENT_S)
    yield client
    client.close()


@pytest.fixture
def keys() -> Keys:
    return Keys.of("/service/", "yaim")
