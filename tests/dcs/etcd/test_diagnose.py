"""What is said of endpoints that cannot be used: real etcd, real sockets, and every message."""

import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.certificates import Certificates
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.certificates import certificates_in
from yaim.dcs.etcd.diagnose import all_expiries, explain, server_expiries
from yaim.dcs.expiry import Expiry
from yaim.lab.namespaces import DIES_WITH_US

PATIENT_S = 30.0
IMPATIENT_S = 0.5
PARTLY_S = 2.0
"""The bound on a look at servers some of which are expected to answer."""
SLACK_S = 0.5
NOBODY = EtcdAccess(())
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
NOT_ETCD = "this is not etcd's client port (usually 2379)"
HTTP1 = f"speaks HTTP/1 only, like a web server or etcd's port for metrics: {NOT_ETCD}"
CLOSES = f"closes the connection without an answer: {NOT_ETCD}, or etcd is just ending"
SSHD = f"does not speak HTTP/2, its answer begins with 'SSH-2.0-OpenSSH_9.2p': {NOT_ETCD}"
SILENT = (
    "takes connections, but does not answer within 0.5 s: etcd is stopped or overloaded, or this is"
    " not its client port (usually 2379)"
)


def told(endpoint: str, access: EtcdAccess = NOBODY, timeout_s: float = PATIENT_S) -> str | None:
    """Must keep within its bound."""
    started = time.monotonic()
    found = explain(endpoint, access, timeout_s)
    assert time.monotonic() - started < timeout_s + SLACK_S
    assert found is None or (found.isprintable() and len(found) < 400)
    return found


# --- servers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Etcd:
    """One member."""

    client: str
    """Host and port."""
    peers: str
    metrics: str
    log: Path


@contextmanager
def etcd(directory: Path, first_port: int, scheme: str, *options: str) -> Iterator[Etcd]:
    client, peers, metrics = (f"127.0.0.1:{first_port + each}" for each in range(3))
    made = Etcd(client, peers, metrics, directory / "log")
    command = (
        *DIES_WITH_US,
        "etcd",
        f"--data-dir={directory / 'data'}",
        f"--listen-client-urls={scheme}://{client}",
        f"--advertise-client-urls={scheme}://{client}",
        f"--listen-peer-urls={scheme}://{peers}",
        f"--initial-advertise-peer-urls={scheme}://{peers}",
        f"--initial-cluster=default={scheme}://{peers}",
        f"--listen-metrics-urls=http://{metrics}",
        *options,
    )
    with made.log.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        ends_at = time.monotonic() + 60
        while not is_well(metrics):
            assert time.monotonic() < ends_at, made.log.read_text()
            time.sleep(0.05)
        yield made
    finally:
        process.kill()
        process.wait()


def is_well(metrics: str) -> bool:
    connection = http.client.HTTPConnection(metrics, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="module")
def plain_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with etcd(tmp_path_factory.mktemp("plain"), 2379, "http") as made:
        yield made


@pytest.fixture(scope="module")
def tls_etcd(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Etcd]:
    """It wants client certificates, and so do its peers."""
    files = (
        f"cert-file={certificates.leaf}",
        f"key-file={certificates.key}",
        f"trusted-ca-file={certificates.ca}",
        "client-cert-auth",
    )
    options = [f"--{which}{each}" for which in ("", "peer-") for each in files]
    with etcd(tmp_path_factory.mktemp("tls"), 3379, "https", *options) as made:
        yield made


class Server:
    """Does the same with each connection."""

    def __init__(self, serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        self._serve = serve
        self._listener = socket.create_server((host, 0))
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                try:
                    connection.settimeout(PATIENT_S)
                    self._serve(connection)
                except OSError:
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[Server]:
    server = Server(serve)
    yield server
    server.close()


def sends(answer: bytes, listens: bool = True) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        if listens:
            connection.recv(65536)
        connection.sendall(answer)
        connection.recv(65536)

    return serve


def through_tls(context: ssl.SSLContext, answer: bytes) -> Callable[[socket.socket], None]:
    """Like etcd, if the answer is SETTINGS."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.sendall(answer)
            while secure.recv(65536):
                pass

    return serve


def like_etcd(certificate: Path, key: Path) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return through_tls(context, SETTINGS)


def is_silent(connection: socket.socket) -> None:
    time.sleep(PATIENT_S)


def closes(connection: socket.socket) -> None:
    connection.recv(65536)


@pytest.fixture
def access(certificates: Certificates) -> EtcdAccess:
    return EtcdAccess(
        (), ca_file=certificates.ca, cert_file=certificates.leaf, key_file=certificates.key
    )


# --- nothing is wrong ----------------------------------------------------------------------------


def test_nothing_is_found_to_be_wrong_with_etcd_in_plaintext(plain_etcd: Etcd) -> None:
    assert told(f"http://{plain_etcd.client}") is None


def test_nothing_is_found_to_be_wrong_with_etcd_and_tls(tls_etcd: Etcd, access: EtcdAccess) -> None:
    assert told(f"https://{tls_etcd.client}", access) is None


def test_etcds_log_says_nothing_of_being_looked_at(
    plain_etcd: Etcd, tls_etcd: Etcd, access: EtcdAccess
) -> None:
    """What else it says, of its start or of a slow disk, is not said each time."""

    def logs() -> list[str]:
        time.sleep(0.3)
        return [each.log.read_text() for each in (plain_etcd, tls_etcd)]

    for _ in range(20):
        before = logs()
        told(f"http://{plain_etcd.client}")
        told(f"https://{tls_etcd.client}", access)
        server_expiries(replace(access, endpoints=(f"https://{tls_etcd.client}",)), PATIENT_S)
        after = logs()
        added = "".join(now[len(then) :] for now, then in zip(after, before, strict=True))
        assert not re.search("reject|remote|TLS handshake", added), added
        if not added:
            break
    assert after == before


def test_one_connection_is_made(access: EtcdAccess, certificates: Certificates) -> None:
    with (
        serving(sends(SETTINGS)) as plain,
        serving(like_etcd(certificates.leaf, certificates.key)) as tls,
    ):
        assert told(f"http://{plain.address}") is None
        assert told(f"https://{tls.address}", access) is None
        assert (plain.connections, tls.connections) == (1, 1)


def test_an_answer_in_small_pieces_is_put_together() -> None:
    def drips(connection: socket.socket) -> None:
        for position in range(len(SETTINGS)):
            connection.sendall(SETTINGS[position : position + 1])
            time.sleep(0.01)
        connection.recv(65536)

    with serving(drips) as server:
        assert told(f"http://{server.address}") is None


def test_nothing_is_found_to_be_wrong_with_tls_1_2(
    access: EtcdAccess, certificates: Certificates
) -> None:
    context = certificates.server_that_asks_for_a_certificate()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    with serving(through_tls(context, SETTINGS)) as server:
        assert told(f"https://{server.address}", access) is None


# --- on the way there ----------------------------------------------------------------------------

ELSEWHERE = """
import sys, time
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.diagnose import explain
started = time.monotonic()
found = explain(sys.argv[1], EtcdAccess(()), float(sys.argv[2]))
print(time.monotonic() - started, found)
"""
RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
ROOT = Path(__file__).parents[3]


def told_where(
    file: str, text: str, endpoint: str, directory: Path, timeout_s: float = PATIENT_S
) -> str:
    """Returns what is told in a process for which a file of the system has another content."""
    other = directory / "other"
    other.write_text(text)
    printed = subprocess.run(
        (
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", str(other), file),
            *(sys.executable, "-c", ELSEWHERE, endpoint, str(timeout_s)),
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    seconds, found = printed.strip().split(" ", 1)
    assert float(seconds) < timeout_s + SLACK_S
    return found


def refused(port: int, address: str = "127.0.0.1") -> str:
    return (
        f"{address} refuses the connection: does etcd run there, and is this address and port in"
        " its --listen-client-urls?"
    )


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_name_that_does_not_resolve_is_told(tmp_path: Path) -> None:
    """Nobody listens at port 53."""
    found = told_where("/etc/resolv.conf", RESOLVER, "http://etcd1.example:2379", tmp_path)
    assert found == (
        "the name etcd1.example cannot be looked up (Temporary failure in name resolution): see"
        " getent hosts"
    )


@pytest.mark.parametrize("name", ["etcd1..example", f"{'long' * 16}.example", "."])
def test_a_name_that_cannot_be_one_is_told(name: str) -> None:
    assert told(f"https://{name}:2379") == (
        f"the name {name} cannot be looked up (it cannot be one): see getent hosts"
    )


def test_a_name_server_that_does_not_answer_is_told_in_time(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        endpoint = "https://etcd1.example:2379"
        found = told_where("/etc/resolv.conf", RESOLVER, endpoint, tmp_path, IMPATIENT_S)
    assert found == (
        "the name etcd1.example cannot be looked up (no answer within 0.5 s): see getent hosts"
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_port_that_refuses_is_told(scheme: str) -> None:
    port = closed_port()
    assert told(f"{scheme}://127.0.0.1:{port}") == refused(port)


def test_each_address_of_a_name_is_told_of(tmp_path: Path) -> None:
    hosts = "127.0.0.2 etcd1.example\n127.0.0.1 etcd1.example\n"
    port = closed_port()
    found = told_where("/etc/hosts", hosts, f"http://etcd1.example:{port}", tmp_path)
    assert sorted(found.split("; ")) == [refused(port), refused(port, "127.0.0.2")]


def test_the_address_that_answers_is_the_one_that_counts(tmp_path: Path) -> None:
    hosts = "127.0.0.2 etcd1.example\n127.0.0.1 etcd1.example\n"
    with serving(sends(SETTINGS)) as server:
        port = server.address.partition(":")[2]
        found = told_where("/etc/hosts", hosts, f"http://etcd1.example:{port}", tmp_path)
    assert found == "None"


def test_an_address_without_a_route_is_told() -> None:
    assert told("http://192.0.2.1:2379") == (
        "there is no way to 192.0.2.1 (Network is unreachable): see ip route, ip neighbour"
    )


def test_an_address_that_cannot_be_connected_to_is_told() -> None:
    found = told("http://255.255.255.255:2379")
    assert found is not None
    assert found.startswith(
        ("cannot connect to 255.255.255.255: ", "there is no way to 255.255.255.255 (")
    )


def test_a_connection_that_is_not_taken_is_told_in_time() -> None:
    """The queue of those that wait to be taken is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        for _ in range(3):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        found = told(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=IMPATIENT_S)
        for each in waiting:
            each.close()
    assert found == (
        "127.0.0.1 takes no connection within 0.5 s: is the host up, and does no firewall drop it?"
    )


# --- something else is there ---------------------------------------------------------------------


def test_http_where_etcd_speaks_tls_is_told(tls_etcd: Etcd) -> None:
    found = told(f"http://{tls_etcd.client}")
    assert found == f"speaks TLS: use https://{tls_etcd.client} in dcs-endpoints"


def test_http_where_another_server_speaks_tls_is_told(certificates: Certificates) -> None:
    """OpenSSL sends an alert where Go just closes the connection."""
    alert = b"\x15\x03\x01\0\2\2\x46"
    with serving(sends(alert)) as server:
        found = told(f"http://{server.address}")
        assert found == f"speaks TLS: use https://{server.address} in dcs-endpoints"


def no_tls(address: str) -> str:
    return (
        f"speaks no TLS: use http://{address} in dcs-endpoints, or let etcd use TLS (--cert-file,"
        " --key-file, https in --listen-client-urls)"
    )


def test_https_where_etcd_speaks_plaintext_is_told(plain_etcd: Etcd) -> None:
    assert told(f"https://{plain_etcd.client}") == no_tls(plain_etcd.client)


def test_https_where_another_http_2_server_speaks_plaintext_is_told() -> None:
    with serving(sends(SETTINGS)) as server:
        assert told(f"https://{server.address}") == no_tls(server.address)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_etcds_port_for_metrics_is_told(scheme: str, plain_etcd: Etcd) -> None:
    assert told(f"{scheme}://{plain_etcd.metrics}") == HTTP1


def test_etcds_port_for_peers_is_told(tls_etcd: Etcd, access: EtcdAccess) -> None:
    assert told(f"https://{tls_etcd.peers}", access) == (
        "is etcd's port for its peers: name the one for clients in dcs-endpoints (it is in etcd's"
        " --advertise-client-urls, usually 2379)"
    )


def test_etcds_port_for_peers_in_plaintext_is_as_good_as_that_for_clients(
    plain_etcd: Etcd,
) -> None:
    assert told(f"http://{plain_etcd.peers}") is None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_speaks_first_is_told(scheme: str) -> None:
    with serving(sends(b"SSH-2.0-OpenSSH_9.2p1\r\n", listens=False)) as server:
        assert told(f"{scheme}://{server.address}") == SSHD


def test_what_a_server_says_is_shown_in_a_form_that_does_no_harm() -> None:
    with serving(sends(b"\x1b[2J\n\xff" * 10)) as server:
        shown = "'?[2J???[2J???[2J???['"
        assert told(f"http://{server.address}") == (
            f"does not speak HTTP/2, its answer begins with {shown}: {NOT_ETCD}"
        )


def test_a_short_answer_is_shown_though_the_server_waits_for_more() -> None:
    with serving(sends(b"ok")) as server:
        assert told(f"http://{server.address}", timeout_s=PARTLY_S) == (
            f"does not speak HTTP/2, its answer begins with 'ok': {NOT_ETCD}"
        )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_just_closes_is_told(scheme: str) -> None:
    """PostgreSQL does that."""
    with serving(closes) as server:
        assert told(f"{scheme}://{server.address}") == CLOSES


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_is_silent_is_told_in_time(scheme: str) -> None:
    """etcd is silent when it is stopped."""
    with serving(is_silent) as server:
        assert told(f"{scheme}://{server.address}", timeout_s=IMPATIENT_S) == SILENT


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_ends_is_left_in_time(
    scheme: str, access: EtcdAccess, certificates: Certificates
) -> None:
    def babbles(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"\x16\x03\x01\0\0" * 1000)

    with serving(babbles) as server:
        assert told(f"{scheme}://{server.address}", access, IMPATIENT_S) is not None


def test_a_web_server_with_tls_is_told(access: EtcdAccess, certificates: Certificates) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with serving(through_tls(certificates.server(), answer)) as server:
        assert told(f"https://{server.address}", access) == HTTP1


def test_tls_without_a_choice_of_http_2_is_told(
    access: EtcdAccess, certificates: Certificates
) -> None:
    with serving(through_tls(certificates.server(), SETTINGS)) as server:
        assert told(f"https://{server.address}", access) == (
            "speaks TLS, but does not offer HTTP/2 in it (ALPN h2): this is not etcd's client port"
        )


# --- etcd's certificate --------------------------------------------------------------------------


def test_a_certificate_of_another_ca_is_told(
    tls_etcd: Etcd, access: EtcdAccess, certificates: Certificates
) -> None:
    stranger = replace(access, ca_file=certificates.stranger)
    assert told(f"https://{tls_etcd.client}", stranger) == (
        f"etcd's certificate is not signed by a CA in etcd-ca-file {certificates.stranger} but by"
        " 'yaim test ca': put that CA's certificate there or, if it is an intermediate CA, into"
        " etcd's --cert-file"
    )


def test_a_certificate_of_a_ca_that_was_made_anew_is_told(
    access: EtcdAccess, certificates: Certificates
) -> None:
    """The two CAs have the same name, and different keys."""
    leaf, key = certificates.make_leaf("other", signed_by=certificates.make_ca("twin"))
    anew, _ = certificates.make_ca("twin")
    with serving(like_etcd(leaf, key)) as server:
        found = told(f"https://{server.address}", replace(access, ca_file=anew))
    assert found is not None
    assert found.startswith(f"etcd's certificate is not signed by a CA in etcd-ca-file {anew} but")


def test_a_certificate_of_a_ca_that_the_host_does_not_know_is_told(tls_etcd: Etcd) -> None:
    assert told(f"https://{tls_etcd.client}") == (
        "etcd's certificate is not signed by a CA that this host trusts but by 'yaim test ca': set"
        " etcd-ca-file to a file with that CA's certificate"
    )


def test_a_certificate_that_signed_itself_is_told(certificates: Certificates) -> None:
    key = certificates.stranger.with_suffix(".key")
    with serving(like_etcd(certificates.stranger, key)) as server:
        assert told(f"https://{server.address}") == (
            "etcd's certificate is not signed by a CA that this host trusts but by 'yaim test"
            " stranger': set etcd-ca-file to a file with that CA's certificate"
        )


@pytest.mark.parametrize(
    ("in_days", "why"),
    [(-10, "has expired on {:%Y-%m-%d}"), (10, "is not valid before {:%Y-%m-%d} (here it is ")],
)
def test_a_certificate_that_is_not_valid_now_is_told(
    in_days: int, why: str, access: EtcdAccess, certificates: Certificates
) -> None:
    leaf, key = certificates.make_leaf("other", in_days=in_days)
    (made,) = certificates_in(leaf.read_bytes())
    with serving(like_etcd(leaf, key)) as server:
        found = told(f"https://{server.address}", access)
    assert found is not None
    day = made.not_after if in_days < 0 else made.not_before
    assert found.startswith(f"etcd's certificate {why.format(day)}")
    assert found.endswith(": give etcd a new one, or set the clock")


def test_a_ca_that_has_expired_is_told(access: EtcdAccess, certificates: Certificates) -> None:
    ca = certificates.make_ca("old", in_days=-10)
    leaf, key = certificates.make_leaf("other", signed_by=ca)
    with serving(like_etcd(leaf, key)) as server:
        assert told(f"https://{server.address}", replace(access, ca_file=ca[0])) == (
            "a CA certificate above etcd's certificate is not valid now: renew it (etcd-ca-file"
            f" {ca[0]})"
        )


@pytest.mark.parametrize("hosts", ["DNS:etcd1.example,IP:192.0.2.1,IP:2001:db8::1", "email:a@b"])
def test_a_certificate_for_other_hosts_is_told(
    hosts: str, access: EtcdAccess, certificates: Certificates
) -> None:
    names = "etcd1.example, 192.0.2.1, 2001:db8::1" if "DNS" in hosts else "no host at all"
    leaf, key = certificates.make_leaf("other", hosts=hosts)
    with serving(like_etcd(leaf, key)) as server:
        port = server.address.partition(":")[2]
        for host in ("127.0.0.1", "localhost"):
            assert told(f"https://{host}:{port}", access) == (
                f"etcd's certificate is for {names}, not for {host}: use a name of the certificate"
                " in dcs-endpoints, or give etcd a certificate with this one"
            )


def test_a_certificate_for_clients_is_told(access: EtcdAccess, certificates: Certificates) -> None:
    leaf, key = certificates.make_leaf("other", usage="clientAuth")
    with serving(like_etcd(leaf, key)) as server:
        assert told(f"https://{server.address}", access) == (
            "etcd's certificate is not for servers: give etcd one whose extended key usage has"
            " serverAuth"
        )


def test_a_certificate_that_cannot_be_trusted_for_another_reason_is_told(
    access: EtcdAccess, certificates: Certificates
) -> None:
    """Signed by one that is no CA."""
    leaf, key = certificates.make_leaf("other", signed_by=(certificates.leaf, certificates.key))
    chain = leaf.with_name("chain.pem")
    chain.write_bytes(leaf.read_bytes() + certificates.leaf.read_bytes())
    with serving(like_etcd(chain, key)) as server:
        found = told(f"https://{server.address}", access)
    assert found is not None
    assert found.startswith("etcd's certificate cannot be trusted: ")


# --- our certificate -----------------------------------------------------------------------------


def test_a_client_certificate_that_is_missing_is_told(tls_etcd: Etcd, access: EtcdAccess) -> None:
    without = replace(access, cert_file=None, key_file=None)
    found = whatever_the_alert(told(f"https://{tls_etcd.client}", without))
    assert found == (
        "etcd wants a client certificate (alert ...): set etcd-cert-file and etcd-key-file"
    )


def whatever_the_alert(found: str | None) -> str | None:
    """Older etcds say "bad certificate" to everything, newer ones what is wrong with it."""
    return found and re.sub(r"\(alert [a-z ]+\)", "(alert ...)", found)


def refuses(file: Path) -> str:
    return (
        f"etcd refuses the client certificate in etcd-cert-file {file} (alert ...): is"
        " it signed by the CA of etcd's --trusted-ca-file, and does its extended key usage have"
        " clientAuth?"
    )


def test_a_client_certificate_of_another_ca_is_told(
    tls_etcd: Etcd, access: EtcdAccess, certificates: Certificates
) -> None:
    ca = certificates.stranger, certificates.stranger.with_suffix(".key")
    cert, key = certificates.make_leaf("other", signed_by=ca)
    access = replace(access, cert_file=cert, key_file=key)
    assert whatever_the_alert(told(f"https://{tls_etcd.client}", access)) == refuses(cert)


def test_a_client_certificate_for_servers_is_told(
    tls_etcd: Etcd, access: EtcdAccess, certificates: Certificates
) -> None:
    cert, key = certificates.make_leaf("other", usage="serverAuth")
    access = replace(access, cert_file=cert, key_file=key)
    assert whatever_the_alert(told(f"https://{tls_etcd.client}", access)) == refuses(cert)


def test_a_client_certificate_that_has_expired_is_told(
    tls_etcd: Etcd, access: EtcdAccess, certificates: Certificates
) -> None:
    cert, key = certificates.make_leaf("other", in_days=-10)
    (made,) = certificates_in(cert.read_bytes())
    ours = replace(access, cert_file=cert, key_file=key)
    assert whatever_the_alert(told(f"https://{tls_etcd.client}", ours)) == (
        "etcd refuses the client certificate (alert ...): that in etcd-cert-file"
        f" {cert} has expired on {made.not_after:%Y-%m-%d}"
    )


def test_a_client_certificate_that_is_refused_in_tls_1_2_is_told(
    access: EtcdAccess, certificates: Certificates
) -> None:
    """Before the handshake ends, not after it as in TLS 1.3. OpenSSL's word for it is another."""
    context = certificates.server_that_asks_for_a_certificate()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ca = certificates.stranger, certificates.stranger.with_suffix(".key")
    cert, key = certificates.make_leaf("other", signed_by=ca)
    with serving(through_tls(context, SETTINGS)) as server:
        found = told(f"https://{server.address}", replace(access, cert_file=cert, key_file=key))
    assert found == refuses(cert).replace("...", "unknown ca")


def test_a_server_with_other_tls_versions_is_told(
    access: EtcdAccess, certificates: Certificates
) -> None:
    with serving(sends(b"\x15\x03\x01\0\2\2\x46")) as server:
        assert told(f"https://{server.address}", access) == (
            "etcd breaks off the TLS handshake (alert protocol version): its log says why; do the"
            " TLS versions and its --cipher-suites fit?"
        )


def test_a_handshake_that_breaks_off_is_told(access: EtcdAccess) -> None:
    with serving(lambda connection: connection.sendall(b"\x16\x03\x03\0\x10")) as server:
        found = told(f"https://{server.address}", access)
    assert found is not None
    assert found.startswith("the TLS handshake fails: ")


# --- our files -----------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_told(access: EtcdAccess) -> None:
    missing = replace(access, key_file=Path("/nowhere/key"))
    assert told("https://127.0.0.1:1", missing) == (
        "cannot read /nowhere/key: No such file or directory"
    )


def test_a_file_that_cannot_be_used_is_told(access: EtcdAccess) -> None:
    """Every such message is tested in test_certificates.py."""
    found = told("https://127.0.0.1:1", replace(access, key_file=access.cert_file))
    assert found is not None
    assert found.startswith(f"etcd-key-file {access.cert_file}: expected a private key")


def test_files_do_not_matter_in_plaintext(plain_etcd: Etcd, access: EtcdAccess) -> None:
    missing = replace(access, key_file=Path("/nowhere/key"))
    assert told(f"http://{plain_etcd.client}", missing) is None


# --- until when etcd's certificates are valid ----------------------------------------------------


def test_the_end_of_each_endpoints_certificate_is_told(
    plain_etcd: Etcd, tls_etcd: Etcd, certificates: Certificates, access: EtcdAccess
) -> None:
    """Also of one that cannot be trusted; nothing of those that show none."""
    expired = certificates.make_leaf("other", in_days=-10)
    with (
        serving(like_etcd(*expired)) as other,
        serving(is_silent) as silent,
        serving(closes) as closing,
    ):
        endpoints = (
            f"http://{plain_etcd.client}",
            f"https://{tls_etcd.client}",
            f"https://{other.address}",
            f"https://{silent.address}",
            f"https://{closing.address}",
            f"https://127.0.0.1:{closed_port()}",
        )
        started = time.monotonic()
        found = server_expiries(replace(access, endpoints=endpoints), PARTLY_S)
        assert time.monotonic() - started < PARTLY_S + SLACK_S
    (leaf,) = certificates_in(certificates.leaf.read_bytes())
    (old,) = certificates_in(expired[0].read_bytes())
    assert found == (
        Expiry(endpoints[1], "yaim test leaf", leaf.not_after),
        Expiry(endpoints[2], "yaim test other", old.not_after),
    )
    assert datetime.now(UTC) - old.not_after > timedelta(days=7)


def test_with_files_that_cannot_be_used_no_end_is_told(tls_etcd: Etcd) -> None:
    endpoints = (f"https://{tls_etcd.client}",)
    wrong = EtcdAccess(endpoints, ca_file=Path("/nowhere/ca"))
    assert server_expiries(wrong, PATIENT_S) == ()


def test_without_tls_there_is_no_end(plain_etcd: Etcd) -> None:
    assert all_expiries(EtcdAccess((f"http://{plain_etcd.client}",)), PATIENT_S) == ()


def test_files_that_cannot_be_read_have_no_end(tls_etcd: Etcd, access: EtcdAccess) -> None:
    endpoints = (f"https://{tls_etcd.client}",)
    wrong = replace(access, endpoints=endpoints, ca_file=Path("/nowhere/ca"))
    assert all_expiries(wrong, PATIENT_S) == ()


def status(access: EtcdAccess, endpoint: str) -> tuple[int, list[dict[str, object]], str]:
    """Exit status, certificates and complaints of `yaim status --json`."""
    files = ("ca", access.ca_file), ("cert", access.cert_file), ("key", access.key_file)
    done = subprocess.run(
        (
            *(sys.executable, "-m", "yaim", "status", "--json", "--dcs-clustername=yaim"),
            f"--dcs-endpoints={endpoint}",
            *(f"--etcd-{name}-file={file}" for name, file in files if file is not None),
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)["certificates"], done.stderr


def test_status_shows_the_certificates(tls_etcd: Etcd, access: EtcdAccess) -> None:
    endpoint = f"https://{tls_etcd.client}"
    code, shown, complaints = status(access, f"{endpoint},https://127.0.0.1:{closed_port()}")
    assert (code, complaints) == (78, "")  # nothing is there
    assert [(each["where"], each["subject"]) for each in shown] == [
        (f"etcd-ca-file {access.ca_file}", "yaim test ca"),
        (f"etcd-cert-file {access.cert_file}", "yaim test leaf"),
        (endpoint, "yaim test leaf"),
    ]


def test_status_shows_no_certificates_without_tls(plain_etcd: Etcd) -> None:
    assert status(NOBODY, f"http://{plain_etcd.client}") == (78, [], "")
