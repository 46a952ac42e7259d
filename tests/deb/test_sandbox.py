"""What the units deny, tried by a program in the place of yaim's."""

import itertools
import json
import re

import pytest

from tests.deb.hosts import SUITES, Host, Site
from yaim.lab.wait import wait_until

PROBE = """
import ctypes, errno, json, os, socket, struct, subprocess, sys, threading

def tried(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    except RuntimeError as error:
        return str(error)
    return "done"

def opened(family, kind, protocol=0):
    return lambda: socket.socket(family, kind, protocol).close()

def read(path):
    return lambda: open(path).read()

def written(path):
    return lambda: open(path, "w").close()

libc = ctypes.CDLL(None, use_errno=True)

def called(name, *arguments):
    def call():
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)
    return call

def status(key):
    lines = [line.split() for line in open("/proc/self/status")]
    (value,) = [words[1] for words in lines if words[0] == key + ":"]
    return value

def certificates_read():
    command = (sys.executable, "-I", "-m", "yaim.dcs.etcd.x509")
    done = subprocess.run(command, input=b'["MAA="]', capture_output=True)
    if done.stdout != b"[null]":
        raise RuntimeError(done.stderr.decode()[-200:])

CLONE_NEWUSER = 0x10000000
CLONE3 = 435

def nf_tables_changed():
    # Makes a table and removes it, in one transaction.
    def message(kind, flags, number, family, resource, name=b""):
        body = struct.pack("=BBH", family, 0, socket.htons(resource))
        if name:
            body += struct.pack("=HH", 4 + len(name), 1) + name
        return struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body
    BEGIN, END, NEW_TABLE, DELETE_TABLE, REQUEST, ACK, CREATE = 16, 17, 2560, 2562, 1, 4, 1024
    INET, SUBSYSTEM = 1, 10
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.settimeout(5)
        netlink.send(
            message(BEGIN, REQUEST, 1, 0, SUBSYSTEM)
            + message(NEW_TABLE, REQUEST | ACK | CREATE, 2, INET, 0, b"probe\\0\\0\\0")
            + message(DELETE_TABLE, REQUEST | ACK, 3, INET, 0, b"probe\\0\\0\\0")
            + message(END, REQUEST, 4, 0, SUBSYSTEM)
        )
        # struct nlmsgerr behind the header.
        if number := -struct.unpack_from("=i", netlink.recv(4096), 16)[0]:
            raise OSError(number, "nf_tables")

def connected(address):
    return lambda: socket.create_connection((address, 2379), 5).close()

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
    "connect to etcd": tried(connected("192.0.2.2")),
    "connect elsewhere": tried(connected("192.0.2.100")),
    "change nf_tables": tried(nf_tables_changed),
    "read /proc/loadavg": tried(read("/proc/loadavg")),
    "see process 1": tried(lambda: os.stat("/proc/1")),
    "fork": tried(lambda: os.fork() or os._exit(0)),
    "start a thread": tried(threading.Thread(target=int).start),
    "clone3": tried(called("syscall", CLONE3, 0, 0)),
    "kill 1": tried(lambda: os.kill(1, 0)),
    "see files of process 1": tried(lambda: os.listdir("/proc/1/root")),
    "open /dev/mem": tried(lambda: os.open("/dev/mem", os.O_RDONLY)),
    "mount": tried(called("mount", b"none", b"/tmp", b"tmpfs", 0, None)),
    "become root in a user namespace": tried(called("unshare", CLONE_NEWUSER)),
    "have certificates read": tried(certificates_read),
    **{key: status(key) for key in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")},
}
done = json.dumps({**found, "execute": "done"})
print(json.dumps({**found, "execute": tried(lambda: os.execv("/bin/echo", ["echo", done]))}))
"""


LEFT_OUT = (
    *("ExecStart", "ExecReload", "ExecStop", "Type=", "Notify", "Watchdog", "Restart"),
    *("Requires=", "After=", "Wants="),
)
"""What has nothing to do with a sandbox."""


NUMBERS = itertools.count(1)


def probed(host: Host, unit: str) -> dict[str, str]:
    """Returns what a probe finds in a unit that says all that this one says, but for what is
    started, and how its end is looked at."""
    # What it says reaches the journal a moment after its end: it is not taken for an earlier one's.
    probe_unit = f"probe-{next(NUMBERS)}.service"
    host.write("/usr/local/lib/probe.py", PROBE)
    text = host.run("systemctl", "cat", f"{unit}.service")
    kept = [line for line in text.splitlines() if not line.startswith(LEFT_OUT)]
    start = "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 -I /usr/local/lib/probe.py"
    probe = "\n".join(kept).replace("[Service]", start, 1)
    # A directory of its own: systemd removes it at the end.
    probe = probe.replace("RuntimeDirectory=yaim", "RuntimeDirectory=probe")
    probe = re.sub(r"(?ms)^\[Install\].*?(?=^\[|\Z)", "", probe)
    host.write(f"/etc/systemd/system/{probe_unit}", probe)
    host.systemctl("daemon-reload")
    started = host.try_("systemctl", "start", probe_unit)
    assert not started.returncode, host.journal(probe_unit)

    def said() -> list[str]:
        entries = host.run("journalctl", "-u", probe_unit, "-o", "cat", "--no-pager").splitlines()
        return [entry for entry in entries if entry.startswith("{")]

    wait_until(lambda: bool(said()), 20.0, "what the probe says", lambda: host.journal(probe_unit))
    (line,) = said()
    host.shell(f"rm /etc/systemd/system/{probe_unit} /usr/local/lib/probe.py")
    found: dict[str, str] = json.loads(line)
    return found


NET_ADMIN_AND_RAW = f"{0x3000:016x}"
NO_WAY_OUT = {
    "see files of process 1": "ENOENT",
    "open /dev/mem": "ENOENT",
    "mount": "EPERM",
    "become root in a user namespace": "EPERM",
    # No filter sees which namespaces it is to make; as if there were none, so that clone is called.
    "clone3": "ENOSYS",
    "start a thread": "done",
    "NoNewPrivs": "1",
    # Filtered (proc(5)).
    "Seccomp": "2",
}


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
        "connect to etcd": "EAFNOSUPPORT",
        "connect elsewhere": "EAFNOSUPPORT",
        "change nf_tables": "done",
        "read /proc/loadavg": "done",
        "see process 1": "ENOENT",
        # It has to start a thread. Then it forbids itself any other, and processes
        # (tests/helper/serve/test_privileges.py).
        "fork": "done",
        "kill 1": "EPERM",
        # Likewise: the unit lets Python be executed, which it is itself.
        "have certificates read": "done",
        **NO_WAY_OUT,
        "CapEff": NET_ADMIN_AND_RAW,
        "CapBnd": NET_ADMIN_AND_RAW,
        "execute": "EACCES",
    }


COORDINATORS_VIEW = {
    "connect to etcd": "done",
    # Nobody listens there.
    "connect elsewhere": "ECONNREFUSED",
    "read /proc/loadavg": "ENOENT",
    "see process 1": "ENOENT",
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
        "change nf_tables": "EPERM",
        **COORDINATORS_VIEW,
        "fork": "done",
        "kill 1": "EPERM",
        **NO_WAY_OUT,
        "have certificates read": "done",
        "CapEff": f"{0:016x}",
        "CapBnd": f"{0:016x}",
        "execute": "done",
    }


@pytest.mark.parametrize("name", ["db1", "db3"])
@pytest.mark.parametrize(
    ("example", "changed"),
    [
        ("shell-checks.conf", {"read /proc/loadavg": "done", "see process 1": "done"}),
        ("ip-allow.conf", {"connect elsewhere": "TimeoutError"}),
    ],
)
def test_a_drop_in_changes_what_it_says(
    cluster: Site, name: str, example: str, changed: dict[str, str]
) -> None:
    host = cluster.hosts[name]
    directory = "/etc/systemd/system/yaim.service.d"
    host.shell(
        f"install -D -t {directory} /usr/share/doc/yaim/examples/{example}; systemctl daemon-reload"
    )
    found = probed(host, "yaim")
    host.shell(f"rm -r {directory}; systemctl daemon-reload")
    assert {point: found[point] for point in COORDINATORS_VIEW} == {**COORDINATORS_VIEW, **changed}
