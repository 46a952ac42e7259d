"""What tests find does not depend on the host, nor on whose terminal they are started from."""

import json
import subprocess
import sys

from tests.groups import ROOT
from tests.isolation import PATH

THEIRS = {
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "tr_TR.UTF-8",
    "TZ": "Asia/Kathmandu",
    "HOME": "/root",
    "PATH": f"/opt/theirs/bin:{PATH}",
    "http_proxy": "http://192.0.2.1:3128",
    "HTTPS_PROXY": "http://192.0.2.1:3128",
    "ALL_PROXY": "socks5://192.0.2.1:1080",
    "NO_PROXY": "example.org",
    "PGHOST": "192.0.2.1",
    "PGPASSFILE": "/root/.pgpass",
    "ETCDCTL_ENDPOINTS": "http://192.0.2.1:2379",
    "ETCD_NAME": "theirs",
    "SSL_CERT_FILE": "/root/ca.pem",
    "REQUESTS_CA_BUNDLE": "/root/ca.pem",
    "PYTHONWARNINGS": "error",
    "COLUMNS": "40",
    "NOTIFY_SOCKET": "/run/systemd/notify",
    "LISTEN_FDS": "1",
}
"""Variables as they could be in somebody's terminal, or in a service."""
KEPT = {"YAIM_CHAOS_MINUTES": "1", "COVERAGE_FILE": "/tmp/data", "TMPDIR": "/tmp", "CI": "true"}


def told(script: str, *around: str) -> dict[str, object]:
    """What a process prints that is started there, by the command around it."""
    done = subprocess.run(
        ("sh", "-ec", 'umask 077; exec "$@"', "sh", *around, sys.executable, "-c", script),
        cwd=ROOT,
        env={**THEIRS, **KEPT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


SETTINGS = """
import json, os, time
from tests.isolation import leave_the_users_settings
leave_the_users_settings()
umask = os.umask(0)
print(json.dumps({"environment": dict(os.environ), "umask": umask, "zone": time.tzname[0]}))
"""


def test_what_the_user_has_set_is_left_behind() -> None:
    assert told(SETTINGS) == {
        "environment": {
            **KEPT,
            "PATH": PATH,
            "HOME": "/nonexistent",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        },
        "umask": 0o022,
        "zone": "UTC",
    }


HOST = """
import json, os, subprocess
from pathlib import Path
from tests.isolation import leave_the_host, leave_the_users_settings
leave_the_users_settings()
leave_the_host()
print(json.dumps({
    "links": [each["ifname"] for each in json.loads(subprocess.check_output(("ip", "-j", "link")))],
    "run": os.listdir("/run"),
    "systemd": Path("/run/systemd/system").is_dir(),
    "keepalived": os.listdir("/etc/keepalived"),
    "yaim": os.listdir("/etc/yaim"),
    "ipv6": Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip(),
    "arp": Path("/proc/sys/net/ipv4/conf/all/arp_announce").read_text().strip(),
}))
"""
A_HOST = """
mount -t tmpfs tmpfs /etc
mkdir /etc/keepalived /etc/yaim
echo 'vrrp_instance A { virtual_ipaddress { 192.0.2.11 } }' >/etc/keepalived/keepalived.conf
echo 'dcs-clustername: theirs' >/etc/yaim/yaim.yml
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add docker0 type bridge
exec "$@"
"""


def test_what_runs_on_the_host_is_not_seen() -> None:
    """keepalived with an address of the lab's, yaim itself, systemd, Docker's bridge, IPv6 off."""
    assert told(HOST, "unshare", "--net", "--mount", "--", "sh", "-ec", A_HOST, "sh") == {
        "links": ["lo"],
        "run": ["mount"],  # which is mount(8)'s own
        "systemd": False,
        "keepalived": [],
        "yaim": [],
        "ipv6": "0",
        "arp": "0",
    }
