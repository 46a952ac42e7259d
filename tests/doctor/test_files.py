"""What the doctor reads in files of other programs, written as their manuals show them."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from yaim.doctor.foreign_files import (
    NetworkFile,
    VrrpInstance,
    interfaces_text,
    keepalived_text,
    network_texts,
    read_interfaces,
    read_keepalived,
    read_network,
    read_state,
)

TEN, ELEVEN, SIX = (ip_address(each) for each in ("192.0.2.10", "192.0.2.11", "2001:db8::10"))
KEEPALIVED = """\
! Configuration File for keepalived
global_defs {
   notification_email {
     admin@example.com
   }
   router_id LVS_DEVEL
}

vrrp_script chk {
    script "/usr/bin/killall -0 pgbouncer"   # exits 0 if it runs
}

vrrp_instance VI_1 {
    state MASTER
    interface eth0
    virtual_router_id 51
    authentication {
        auth_type PASS
        auth_pass 1111
    }
    virtual_ipaddress {
        192.0.2.10/24 brd 192.0.2.255 dev eth1 label eth1:1
        192.0.2.11
        # 192.0.2.12
    }
    virtual_ipaddress_excluded
    {
        2001:db8::10/64
    }
}
vrrp_instance "VI 2" { interface eth2
    virtual_ipaddress { 192.0.2.11 }
}
virtual_server 192.0.2.10 443 {
    real_server 192.0.2.11 443 { weight 1 }
}
"""
STATE = """\
# This is private data. Do not parse.
ADMIN_STATE=configured
OPER_STATE=routable
NETWORK_FILE=/etc/systemd/network/10-eth0.network
NETWORK_FILE_DROPINS=""
DNS=
"""
NETWORK = """\
[Match]
Name=eth0

[Network]
Address=192.0.2.201/24
Gateway=192.0.2.1
# KeepConfiguration=yes

[Address]
Address=192.0.2.10/32
"""
INTERFACES = """\
# The loopback network interface
auto lo
iface lo inet loopback
source {}

auto eth0
iface eth0 inet static
    address 192.0.2.201/24
    up ip addr add 192.0.2.11/32 dev $IFACE
#   address 192.0.2.12
"""


def test_the_addresses_of_vrrp_instances_are_read() -> None:
    assert read_keepalived(KEEPALIVED) == (
        VrrpInstance("VI_1", "eth0", ((TEN, "eth1"), (ELEVEN, "eth0"), (SIX, "eth0"))),
        VrrpInstance("VI 2", "eth2", ((ELEVEN, "eth2"),)),
    )


@pytest.mark.parametrize("text", ["", "}", "{{{", "vrrp_instance x {", "} {", "{ } }", "interface"])
def test_what_is_no_keepalived_conf_has_no_instances(text: str) -> None:
    assert read_keepalived(text) == ()


def test_what_keepalived_includes_counts(tmp_path: Path) -> None:
    directory = tmp_path / "etc/keepalived"
    (directory / "conf.d").mkdir(parents=True)
    (directory / "keepalived.conf").write_text(
        "include /etc/keepalived/conf.d/*.conf\ninclude here\ninclude keepalived.conf\n"
    )
    (directory / "here").write_text("vrrp_instance here {\n}\n")
    (directory / "conf.d/a.conf").write_text("vrrp_instance there {\n}\ninclude ../none\n")
    names = [each.name for each in read_keepalived(keepalived_text(tmp_path))]
    assert names[:2] == ["there", "here"]


def test_the_addresses_of_ifupdown_are_read_with_what_is_sourced(tmp_path: Path) -> None:
    more = tmp_path / "etc/network/interfaces.d"
    more.mkdir(parents=True)
    (more / "eth1").write_text("iface eth1 inet6 static\n  address 2001:db8::10/64\n")
    for line in ("/etc/network/interfaces.d/*", "interfaces.d/eth*"):
        (tmp_path / "etc/network/interfaces").write_text(INTERFACES.format(line))
        found = read_interfaces(interfaces_text(tmp_path))
        assert found == {ip_address("192.0.2.201"), ELEVEN, SIX}


def test_a_network_file_keeps_nothing_unless_it_says_so() -> None:
    assert read_network([NETWORK]) == NetworkFile("no", frozenset({TEN, ip_address("192.0.2.201")}))


@pytest.mark.parametrize(
    ("value", "keeps", "keeps_ours"),
    [
        ("yes", "yes", True),
        ("TRUE", "yes", True),
        ("dynamic", "dynamic", True),
        ("dhcp", "dynamic", True),
        ("dhcp-on-stop", "dynamic-on-stop", False),
        ("static", "static", False),
        ("no", "no", False),
        ("nonsense", "no", False),
    ],
)
def test_what_keeps_addresses_with_a_lifetime(value: str, keeps: str, keeps_ours: bool) -> None:
    read = read_network([NETWORK, f"[Network]\nKeepConfiguration={value}\n"])
    assert (read.keeps, read.keeps_ours) == (keeps, keeps_ours)


def test_drop_ins_count_in_order_and_those_of_etc_first(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    def keeps() -> str:
        return read_network(network_texts(tmp_path, Path(f"/{file}"))).keeps

    file = "run/systemd/network/10-netplan-eth0.network"
    write(file, NETWORK)
    assert keeps() == "no"
    write(f"etc/systemd/network/{Path(file).name}.d/50.conf", "[Network]\nKeepConfiguration=yes")
    assert keeps() == "yes"
    write(f"run/systemd/network/{Path(file).name}.d/60.conf", "[Network]\nKeepConfiguration=static")
    assert keeps() == "static"
    write(f"etc/systemd/network/{Path(file).name}.d/60.conf", "")
    assert keeps() == "yes"


def test_the_state_that_networkd_leaves_is_read() -> None:
    assert read_state(STATE)["NETWORK_FILE"] == "/etc/systemd/network/10-eth0.network"
    assert read_state("[device]\nmanaged=true\n") == {"managed": "true"}
