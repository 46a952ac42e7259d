"""What is made from one configuration of etcd."""

from pathlib import Path

from yaim.dcs.etcd.parts import EtcdParts
from yaim.dcs.etcd.settings import EtcdSettings
from yaim.dcs.store import Cluster


def test_a_command_by_hand_says_endpoints_files_and_user() -> None:
    settings = EtcdSettings(
        dcs_endpoints=("https://etcd1:2379", "https://etcd2:2379"),
        etcd_user="yaim",
        etcd_ca_file=Path("/etc/yaim/ca.pem"),
    )
    parts = EtcdParts(settings, Cluster("/service/", "pg", 5))
    assert parts.by_hand("del", "/service/pg/ips/a b") == (
        "etcdctl --endpoints=https://etcd1:2379,https://etcd2:2379 --cacert=/etc/yaim/ca.pem"
        " --user=root del '/service/pg/ips/a b'"
    )
