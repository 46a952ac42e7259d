"""What the units deny, tried by a program in the place of yaim's."""

import json

import pytest

from tests.deb.hosts import SUITES, Host, Site

PROBE = """
import errno, json, os, socket, sys

def tried(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def opened(family, kind, protocol=0):
    return lambda: socket.socket(family, kind, protocol).close()

def read(path):
    return lambda: open(path).read()

def written(path):
    return lambda: open(path, "w").close()

def connected():
    socket.create_connection(("192.0.2.2", 2379), 2).close()

found = {
    "read /etc/shadow": tried(read("/etc/shadow")),
    "read yaim.yml": tried(read("/etc/yaim/yaim.yml")),
    "write helper.yml": tried(written("/etc/yaim/helper.yml")),
    "write /usr/bin": tried(written("/usr/bin/mine")),
    "read root's home": tried(lambda: os.listdir("/root")),
    "AF_INET": tried(opened(socket.AF_INET, socket.SOCK_STREAM)),
    "AF_PACKET": tried(opened(socket.AF_PACKET, socket.SOCK_RAW)),
    "AF_NETLINK": tried(opened(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    "AF_VSOCK": tried(opened(socket.AF_VSOCK, socket.SOCK_STREAM)),
    "connect": tried(connected),
    "fork": tried(lambda: os.fork() or os._exit(0)),
    "kill 1": tried(lambda: os.kill(1, 0)),
    "mount": tried(lambda: os.listdir("/proc/1/root")),
    "unshare": tried(lambda: os.open("/dev/mem", os.O_RDONLY)),
}
done = json.dumps({**found, "execute": "done"})
print(json.dumps({**found, "execute": tried(lambda: os.execv("/bin/echo", ["echo", done]))}))
"""


LEFT_OUT = (
    *("ExecStart", "ExecReload", "Type=", "Notify", "Watchdog", "Restart"),
    *("Requires=", "After=", "Wants="),
)
"""What has nothing to do with a sandbox."""


def probed(host: Host, unit: str) -> dict[str, str]:
    """With all that the unit says, but for what is started, and how its end is looked at."""
    host.write("/usr/local/lib/probe.py", PROBE)
    text = host.run("systemctl", "cat", f"{unit}.service")
    kept = [line for line in text.splitlines() if not line.startswith(LEFT_OUT)]
    start = "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 -I /usr/local/lib/probe.py"
    probe = "\n".join(kept).replace("[Service]", start, 1).partition("[Install]")[0]
    host.write("/etc/systemd/system/probe.service", probe)
    host.systemctl("daemon-reload")
    started = host.try_("systemctl", "start", "probe")
    assert not started.returncode, host.journal("probe")
    (line,) = [
        entry
        for entry in host.run("journalctl", "-u", "probe", "-o", "cat", "--no-pager").splitlines()
        if entry.startswith("{")
    ][-1:]
    host.shell("rm /etc/systemd/system/probe.service /usr/local/lib/probe.py")
    found: dict[str, str] = json.loads(line)
    return found


@pytest.mark.parametrize("name", SUITES)
def test_the_helper_can_work_on_the_network_and_do_nothing_else(cluster: Site, name: str) -> None:
    found = probed(cluster.hosts[name], "yaim-helper")
    assert found == {
        "read /etc/shadow": "EACCES",
        "read yaim.yml": "EACCES",
        "write helper.yml": "EROFS",
        "write /usr/bin": "EROFS",
        "read root's home": "EACCES",
        "AF_INET": "EAFNOSUPPORT",
        "AF_PACKET": "done",
        "AF_NETLINK": "done",
        "AF_VSOCK": "EAFNOSUPPORT",
        "connect": "EAFNOSUPPORT",
        "fork": "EPERM",
        "kill 1": "EPERM",
        "mount": "ENOENT",
        "unshare": "ENOENT",
        "execute": "EACCES",
    }


@pytest.mark.parametrize("name", SUITES)
def test_the_coordinator_can_connect_and_start_checks_and_has_no_power(
    cluster: Site, name: str
) -> None:
    found = probed(cluster.hosts[name], "yaim")
    assert found == {
        "read /etc/shadow": "EACCES",
        "read yaim.yml": "EACCES",
        "write helper.yml": "EROFS",
        "write /usr/bin": "EROFS",
        "read root's home": "EACCES",
        "AF_INET": "done",
        "AF_PACKET": "EAFNOSUPPORT",
        "AF_NETLINK": "done",
        "AF_VSOCK": "EAFNOSUPPORT",
        "connect": "done",
        "fork": "done",
        "kill 1": "EPERM",
        "mount": "ENOENT",
        "unshare": "ENOENT",
        "execute": "done",
    }
