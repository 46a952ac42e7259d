"""What `yaim doctor` finds in a real etcd."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.dcs.etcd.conftest import EtcdServer, GrpcProxy
from yaim.config.config import Config
from yaim.config.load import load
from yaim.core.model import (
    Advertisement,
    ClusterView,
    Control,
    Member,
    NodeName,
    Order,
    frozen_mapping,
)
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.connection import BREAKS_KEEPALIVES_OFF
from yaim.dcs.etcd.keys import Keys, KeyValue
from yaim.dcs.records import write_advertisement
from yaim.doctor.cluster import look_at_etcd, look_at_nodes, look_at_pool
from yaim.doctor.finding import Verdict

OK, WARNING, PROBLEM, NOT_LOOKED_AT = Verdict
KEYS = Keys.of("/service/", "yaim")
BOOT_ID = "0123"
ROOT = "root:secret"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


def settings(endpoint: str, **more: str) -> Config:
    given = {
        "dcs-clustername": "yaim",
        "dcs-endpoints": endpoint,
        "interface": "lo",
        "nodename": "db1",
        "checker-type": "tcp",
        "tcp-address": "127.0.0.1:1",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return load(given, {}, None)


def seen(server: EtcdServer) -> ClusterView:
    view, _ = look_at_etcd(settings(server.url))
    assert view is not None
    return view


def advertise(server: EtcdServer, session: str, **changed: object) -> None:
    is_healthy, refused = bool(changed.get("is_healthy", True)), changed.get("refused", ())
    assert isinstance(refused, tuple)
    advertisement = Advertisement(
        is_healthy=is_healthy,
        reason="Connection refused",
        interface="lo",
        networks=frozen_mapping({}),
        refused=frozenset(refused),
        session=session,
        version="1",
        waits_s=20.0 if changed.get("waits") else 0.0,
        present=frozen_mapping({ip_address("192.0.2.10"): "eth0, /24"} if "has" in changed else {}),
    )
    client = EtcdClient(server.access, 20.0)
    lease = client.grant(60).id
    client.put(KEYS.node(NodeName("db1")), write_advertisement(advertisement), lease)
    client.close()


def nodes(server: EtcdServer) -> list[tuple[Verdict, str]]:
    found = look_at_nodes(settings(server.url), seen(server), BOOT_ID)
    return [(each.verdict, each.text) for each in found]


def test_an_etcd_that_answers_is_left_as_it_is(server: EtcdServer) -> None:
    def revision() -> object:
        told = json.loads(server.ctl("endpoint", "status", "-w", "json"))
        return told[0]["Status"]["header"]["revision"]

    before = revision()
    view, (found,) = look_at_etcd(settings(server.url))
    assert (view is not None, found.verdict) == (True, OK)
    assert revision() == before
    assert server.ctl("get", "", "--prefix", "--keys-only") == ""


def test_an_etcd_that_is_full_is_a_problem_and_can_be_read(server: EtcdServer) -> None:
    advertise(server, f"{BOOT_ID}:1")
    server.stop()
    server.add_options("--quota-backend-bytes=1")
    server.start()
    view, (found,) = look_at_etcd(settings(server.url))
    assert view is not None and NodeName("db1") in view.nodes
    assert (found.verdict, found.text) == (PROBLEM, "has raised the alarm NOSPACE")
    assert "`etcdctl alarm disarm`" in str(found.remedy)


def test_etcds_grpc_proxy_is_a_problem(server: EtcdServer, tmp_path: Path) -> None:
    proxy = GrpcProxy(server, tmp_path)
    try:
        view, (found,) = look_at_etcd(settings(proxy.url))
    finally:
        proxy.close()
    assert view is not None
    assert found.verdict is PROBLEM
    assert found.text == f"{proxy.url}: {BREAKS_KEEPALIVES_OFF}"


def test_a_key_that_is_not_printable_is_told_as_a_shell_takes_it() -> None:
    """Red team: another key was told to be deleted."""
    put = {KEYS.node(NodeName("n2\x01")): KeyValue(b"x", 0, 1, 1)}
    stray, *_ = look_at_pool(settings("http://etcd1:2379"), KEYS.view(put, 1))
    key = r"$'/service/yaim/nodes/n2\x01'"
    assert stray.text == f"{key} counts as no node, as it has no lease: delete it"
    assert stray.remedy == f"etcdctl --endpoints=http://etcd1:2379 del {key}"


def test_an_etcd_that_is_not_there_is_a_problem() -> None:
    view, (found,) = look_at_etcd(settings("http://127.0.0.1:1"))
    assert (view, found.verdict) == (None, PROBLEM)
    assert "refuses the connection" in found.text


def test_an_endpoint_that_is_not_there_beside_one_that_is_is_a_warning(server: EtcdServer) -> None:
    view, (found,) = look_at_etcd(settings(f"{server.url},http://127.0.0.1:1"))
    assert (view is not None, found.verdict) == (True, WARNING)


def test_a_file_for_tls_that_is_none_is_a_problem(tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    view, (found,) = look_at_etcd(settings("https://127.0.0.1:1", etcd_ca_file=str(wrong)))
    assert (view, found.verdict, str(wrong) in found.text) == (None, PROBLEM, True)


def test_a_user_who_may_not_write_is_told_with_the_command_that_lets_it(server: EtcdServer) -> None:
    server.ctl("user", "add", ROOT)
    server.ctl("user", "grant-role", "root", "root")
    server.ctl("user", "add", "yaim:geheim")
    server.ctl("role", "add", "yaim")
    server.ctl("user", "grant-role", "yaim", "yaim")
    server.ctl("role", "grant-permission", "yaim", "--prefix=true", "read", KEYS.prefix)
    server.ctl("auth", "enable")
    access = settings(server.url, etcd_user="yaim", etcd_password="geheim")
    view, (found,) = look_at_etcd(access)
    assert (view, found.verdict) == (None, PROBLEM)
    assert found.text == f"user yaim may not read and write below {KEYS.prefix}"
    command = shlex.split(found.remedy.partition(": ")[2].replace("--user=root", f"--user={ROOT}"))
    subprocess.run(command, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}, check=True)
    assert [each.verdict for each in look_at_etcd(access)[1]] == [OK]
    wrong = settings(server.url, etcd_user="yaim", etcd_password="falsch")
    assert [each.verdict for each in look_at_etcd(wrong)[1]] == [PROBLEM]


def test_an_empty_pool_is_told_with_the_command_that_fills_it(server: EtcdServer) -> None:
    """Before a node has ever been there it is no problem: README's first `yaim doctor` was red for
    what its next lines do."""
    (found,) = look_at_pool(settings(server.url), seen(server))
    expected = (WARNING, "with your address: yaim pool add 192.0.2.10")
    assert (found.verdict, found.remedy) == expected
    server.ctl("put", f"{KEYS.prefix}ips/192.0.2.10", "")
    (found,) = look_at_pool(settings(server.url), seen(server))
    assert (found.verdict, found.text) == (OK, "has 1: 192.0.2.10")


def test_an_address_of_the_pool_that_a_node_has_not_by_yaim_is_a_problem(
    server: EtcdServer,
) -> None:
    server.ctl("put", f"{KEYS.prefix}ips/192.0.2.10", "")
    advertise(server, f"{BOOT_ID}:1", has="192.0.2.10")
    found = list(look_at_pool(settings(server.url), seen(server)))
    assert [each.verdict for each in found] == [OK, PROBLEM]
    told = "192.0.2.10 is on db1 already, not by yaim (eth0, /24): remove it there"
    assert found[-1].text == told
    assert found[-1].remedy == "on db1: ip address del 192.0.2.10/24 dev eth0"


def test_a_wrong_entry_and_an_address_without_a_holder_are_told(server: EtcdServer) -> None:
    server.ctl("put", f"{KEYS.prefix}ips/192.0.2.010", "")
    server.ctl("put", f"{KEYS.prefix}ips/192.0.2.10", "")
    advertise(server, f"{BOOT_ID}:1", is_healthy=False)
    found = list(look_at_pool(settings(server.url), seen(server)))
    assert [each.verdict for each in found] == [PROBLEM, OK, WARNING]
    assert found[0].remedy.endswith(" del /service/yaim/ips/192.0.2.010")
    assert found[2].text == "192.0.2.10 is held by nobody: unhealthy: db1"


def test_a_typo_in_an_entrys_options_is_mended_without_deleting_the_entry(
    server: EtcdServer,
) -> None:
    server.ctl("put", f"{KEYS.prefix}ips/192.0.2.10", '{"prefix": 24,}')
    advertise(server, f"{BOOT_ID}:1")
    found = next(look_at_pool(settings(server.url), seen(server)))
    assert found.verdict is PROBLEM
    assert found.remedy == "yaim pool set 192.0.2.10 --prefer ''"


def test_this_node_is_told_as_the_others_see_it(server: EtcdServer) -> None:
    assert nodes(server) == [(WARNING, "db1 takes no part (other nodes: none)")]
    advertise(server, f"{BOOT_ID}:1")
    assert nodes(server) == [WELL]
    advertise(server, f"{BOOT_ID}:1", is_healthy=False)
    assert nodes(server) == [(PROBLEM, "db1 is unhealthy: Connection refused")]
    advertise(server, f"{BOOT_ID}:1", waits=True)
    assert [verdict for verdict, _ in nodes(server)] == [WARNING, OK]


def test_a_name_that_another_host_has_is_a_warning(server: EtcdServer) -> None:
    advertise(server, "4567:1")
    ((verdict, text),) = nodes(server)
    assert (verdict, "in use by another host" in text) == (WARNING, True)


def test_addresses_for_which_the_same_is_wrong_are_one_line(server: EtcdServer) -> None:
    for number in range(10, 62):
        server.ctl("put", f"{KEYS.prefix}ips/192.0.2.{number}", "")
    advertise(server, f"{BOOT_ID}:1", is_healthy=False)
    found = list(look_at_pool(settings(server.url), seen(server)))
    assert [each.verdict for each in found] == [OK, WARNING]
    assert found[1].text.startswith("192.0.2.10 is held by nobody: unhealthy: db1 (also 192.0.2.11")
    assert found[1].text.endswith(" and 43 more)")


def told_of_nodes(**control: object) -> list[tuple[Verdict, str]]:
    """Of a healthy node with one address, which is this one."""
    put = {
        KEYS.node(NodeName("db1")): KeyValue(write_advertisement(HEALTHY), 1, 2, 2),
        KEYS.pool_entry(ip_address("192.0.2.10")): KeyValue(b"", 0, 1, 1),
    }
    view = KEYS.view(put, 3)
    view = replace(view, control=Control(**control))  # type: ignore[arg-type]
    found = look_at_nodes(settings("http://etcd1:2379"), view, BOOT_ID)
    return [(each.verdict, each.text) for each in found]


HEALTHY = Advertisement(
    is_healthy=True,
    reason="answers",
    interface="lo",
    networks=frozen_mapping({"lo": (ip_network("192.0.2.0/24"),)}),
    refused=frozenset(),
    session=f"{BOOT_ID}:1",
    version="1",
    placement=4,
)
WELL = (OK, "db1 is healthy and holds 0 addresses (other nodes: none)")


def test_what_status_tells_of_nodes_is_told_here_too() -> None:
    assert told_of_nodes() == [WELL]
    here = Member("2026-11-20T08:00:00Z", False, "2026-11-20T08:00:00Z")
    missing, well = told_of_nodes(members=frozen_mapping({NodeName("db2"): here}))
    text = "db2 is not there, and was not stopped: killed, frozen, cut off or without power"
    assert (missing, well) == ((WARNING, text), WELL)
    drained, well = told_of_nodes(drains=frozen_mapping({NodeName("db1"): Order(by="root@db1")}))
    assert (drained, well) == ((OK, "db1 is drained by root@db1"), WELL)


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        ("yaim.yml differs: systemctl reload yaim", "systemctl reload yaim"),
        ("192.0.2.9 is claimed by 52:54:00:12:34:56", "see the other points, and the log"),
    ],
)
def test_the_remedy_on_a_node_itself_is_not_to_look_there(told: str, remedy: str) -> None:
    """It was "there: yaim doctor", which is what had been called."""
    advertised = replace(HEALTHY, problems=(told,))
    put = {KEYS.node(NodeName("db1")): KeyValue(write_advertisement(advertised), 1, 2, 2)}
    found = look_at_nodes(settings("http://etcd1:2379"), KEYS.view(put, 3), BOOT_ID)
    assert [each.remedy for each in found if each.text == f"db1 {told}"] == [remedy]


def test_a_key_that_is_nobodys_is_told_here_too(server: EtcdServer) -> None:
    """`yaim status` told of it, doctor did not."""
    server.ctl("put", f"{KEYS.prefix}contrl/pause", "")
    found = list(look_at_pool(settings(server.url), seen(server)))
    assert [each.text for each in found if "contrl/pause" in each.text] == [
        "contrl/pause cannot be understood: yaim has no such key; expected ips/<address>"
    ]
