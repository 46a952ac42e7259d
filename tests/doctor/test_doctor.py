"""What `yaim doctor` finds, each point provoked as it happens."""

import json
import os
import pwd
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

import pytest

from tests.core.play import view
from yaim.cli.doctor import as_json, as_table, exit_status
from yaim.config.config import Config
from yaim.config.load import load
from yaim.core.model import NodeName, PoolEntry, frozen_mapping
from yaim.doctor import conflicts, helper, host
from yaim.doctor.commands import being, may
from yaim.doctor.configuration import look_at_access, look_at_libraries, look_at_users
from yaim.doctor.finding import (
    Finding,
    Verdict,
    not_looked_at,
    ok,
    problem,
    warning,
)
from yaim.doctor.run import pool_for
from yaim.lab.wait import wait_until

OK, WARNING, PROBLEM, NOT_LOOKED_AT = Verdict
NOBODY, DAEMON = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
POOL = tuple(ip_address(each) for each in ("192.0.2.10", "2001:db8::10"))
GOOD = """\
dcs-clustername: yaim
dcs-endpoints: http://127.0.0.1:1
interface: lo
checker-type: tcp
tcp-address: 127.0.0.1:1
retry-num: 0
"""
RULES = "users: [nobody]\nrules:\n  - interface: lo\n    networks: [192.0.2.0/28]\n"


@pytest.fixture
def directory() -> Iterator[Path]:
    """That others can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def loaded(file: Path) -> Config:
    return load({}, {}, file)


def verdicts(findings: object) -> list[Verdict]:
    assert isinstance(findings, list)
    return [each.verdict for each in findings]


def doctor(
    directory: Path, *arguments: str, through: tuple[str, ...] = ()
) -> tuple[int, dict[str, list[Finding]]]:
    """Exit status, and point to findings."""
    environment = {name: each for name, each in os.environ.items() if name[:5] != "YAIM_"}
    done = subprocess.run(
        (*through, sys.executable, "-m", "yaim", "doctor", "--json", *arguments),
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    found: dict[str, list[Finding]] = {}
    for each in json.loads(done.stdout)["findings"]:
        finding = Finding(each["point"], Verdict(each["verdict"]), each["text"], each["remedy"])
        found.setdefault(finding.point, []).append(finding)
    return done.returncode, found


# --- what is shown -------------------------------------------------------------------------------


def test_only_problems_make_the_exit_status_1() -> None:
    assert exit_status([ok("a", ""), warning("b", "", ""), not_looked_at("c", "")]) == 0
    assert exit_status([ok("a", ""), problem("b", "", "")]) == 1


def test_each_finding_is_told_with_what_to_do() -> None:
    findings = [ok("etcd", "answers"), problem("pool", "is empty", "etcdctl put\x1b")]
    assert as_table(findings).splitlines() == [
        "ok       etcd  answers",
        "problem  pool  is empty",
        "               -> etcdctl put?",
        "",
        "1 problem, 0 warnings, 0 not looked at.",
    ]
    shown = json.loads(as_json(findings))
    assert (shown["problems"], shown["warnings"]) == (1, 0)
    assert shown["findings"][0] == {
        "point": "etcd",
        "verdict": "ok",
        "text": "answers",
        "remedy": "",
    }


# --- the whole command ---------------------------------------------------------------------------


def test_without_a_configuration_all_else_is_told_all_the_same(directory: Path) -> None:
    absent = directory / "yaim.yml"
    status, found = doctor(
        directory, f"--config={absent}", f"--helper-config={directory / 'helper.yml'}"
    )
    assert status == 1
    assert found["configuration"][0].verdict is PROBLEM
    assert str(absent) in found["configuration"][0].remedy
    for point in (
        "file modes",
        "interface",
        "helper",
        "fence",
        "connections",
        "etcd",
        "checks",
        "network set-up",
        "record",
    ):
        assert verdicts(found[point]) == [NOT_LOOKED_AT]
    assert found["etcd"][0].text == "the configuration is not there", "it is not wrong either"
    assert found["helper.yml"][0].verdict is PROBLEM
    assert {"users", "libraries", "services", "keepalived"} <= found.keys()


def test_the_packages_file_is_looked_at_where_there_is_none_here(directory: Path) -> None:
    assert "/etc/yaim/yaim.yml" in doctor(directory)[1]["configuration"][0].text
    (directory / "yaim.yml").write_text("interfaces: lo\n")
    issues = doctor(directory)[1]["configuration"]
    assert f"{directory}/yaim.yml:1: interfaces: expected a known key" in issues[0].text
    assert len(issues) > 1


@pytest.mark.parametrize("content", [b"\xff", b"a: [", b"- a", b"\0", b"interface: {a: 1}"])
def test_a_broken_configuration_is_a_finding(content: bytes, directory: Path) -> None:
    (directory / "yaim.yml").write_bytes(content)
    (directory / "helper.yml").write_bytes(content)
    status, found = doctor(directory, f"--helper-config={directory / 'helper.yml'}")
    assert (status, found["configuration"][0].verdict) == (1, PROBLEM)
    assert found["helper.yml"][0].verdict is PROBLEM


def test_what_is_wrong_is_told_with_its_remedy(directory: Path) -> None:
    (directory / "yaim.yml").write_text(f"{GOOD}helper-socket: {directory}/none\n")
    (directory / "helper.yml").write_text(RULES)
    users = ("--user=nobody", "--helper-user=daemon")
    status, found = doctor(directory, f"--helper-config={directory / 'helper.yml'}", *users)
    assert status == 1
    for point in ("configuration", "file modes", "users", "libraries", "helper.yml", "interface"):
        assert set(verdicts(found[point])) == {OK}, found[point]
    assert found["etcd"][0].verdict is PROBLEM
    assert "127.0.0.1 refuses the connection" in found["etcd"][0].text
    for point in ("pool", "nodes", "addresses", "allowed here"):
        assert found[point] == [not_looked_at(point, "etcd could not be read")]
    assert (found["helper"][0].verdict, found["checks"][0].verdict) == (PROBLEM, PROBLEM)
    assert found["checks"][0].text.startswith("tcp: ")
    assert found["record"][0].verdict in (OK, WARNING)
    (fence,) = found["fence"]
    assert "the helper does not answer: No such file" in fence.text or fence.remedy


def test_another_user_than_root_is_told_what_only_root_sees(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir()
    (directory / "yaim.yml").write_text(f"{GOOD}helper-socket: {closed}/helper.sock\n")
    (directory / "helper.yml").write_text(f"{RULES}audit-log: {closed}/audit\n")
    closed.chmod(0o700)
    names = ("--user=daemon", "--helper-user=daemon")
    through = ("setpriv", "--reuid", "65534", "--clear-groups", "--")
    if subprocess.run((*through, sys.executable, "-c", "import yaim")).returncode != 0:
        pytest.skip("nobody can read the program here")
    arguments = (f"--helper-config={directory / 'helper.yml'}", *names)
    _, found = doctor(directory, *arguments, through=through)
    for point in ("file modes", "helper", "record"):
        assert found[point][0].verdict is NOT_LOOKED_AT, found[point]
        assert "root" in found[point][0].remedy
    assert all("as root" not in each.text for each in found["checks"])
    # The package has it like this.
    (directory / "yaim.yml").chmod(0o600)
    _, found = doctor(directory, *arguments, through=through)
    (unread,) = found["configuration"]
    assert (unread.verdict, "root" in unread.remedy) == (NOT_LOOKED_AT, True)
    assert "it is root:root 0600, and nobody is not root" in unread.text
    assert found["etcd"][0].text == "the configuration may not be read by us", "it is not wrong"


def test_what_a_node_is_excluded_from_is_not_asked_of_it() -> None:
    excluded = PoolEntry(POOL[0], exclude=frozenset({NodeName("n1")}))
    seen = view(1)
    seen = replace(seen, pool=frozen_mapping({POOL[0]: excluded, POOL[1]: PoolEntry(POOL[1])}))
    assert pool_for(NodeName("n1"), seen) == POOL[1:]
    assert pool_for(NodeName("n2"), seen) == POOL


def test_doctor_wants_no_other_arguments(directory: Path) -> None:
    command = (sys.executable, "-m", "yaim", "doctor", "now")
    assert subprocess.run(command, cwd=directory, capture_output=True).returncode == 2


# --- yaim.yml, users, libraries ------------------------------------------------------------------


def test_secrets_that_everybody_can_read_are_a_problem(directory: Path) -> None:
    file = directory / "yaim.yml"
    file.write_text(f"{GOOD}etcd-user: yaim\netcd-password: geheim\n")
    file.chmod(0o644)
    (found,) = look_at_access(file, loaded(file), NOBODY, frozenset())
    assert found.verdict is PROBLEM
    assert found.remedy == f"chgrp nobody {file} && chmod 640 {file}"
    file.chmod(0o600)
    (found,) = look_at_access(file, loaded(file), NOBODY, frozenset())
    assert found.text == f"user nobody cannot read {file}"
    (found,) = look_at_access(file, loaded(file), NOBODY, frozenset({file}))
    assert found.verdict is OK
    os.chown(file, 0, NOBODY.pw_gid)
    file.chmod(0o640)
    (found,) = look_at_access(file, loaded(file), NOBODY, frozenset())
    assert found.verdict is OK


def test_a_password_file_counts_too(directory: Path) -> None:
    file, password = directory / "yaim.yml", directory / "password"
    password.write_text("geheim\n")
    file.write_text(f"{GOOD}etcd-user: yaim\netcd-password-file: {password}\n")
    file.chmod(0o644)
    found = list(look_at_access(file, loaded(file), NOBODY, frozenset()))
    assert [each.text.split()[0] for each in found] == [str(password)]
    password.chmod(0o600)
    found = list(look_at_access(file, loaded(file), NOBODY, frozenset()))
    assert [each.text for each in found] == [f"user nobody cannot read {password}"]


def test_no_program_is_run_that_lies_in_roots_path_by_chance(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever became root by su(1) has his own PATH still."""
    trap = directory / "setpriv"
    trap.write_text(f"#!/bin/sh\ntouch {directory}/trapped\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    assert may("-x", Path("/bin/sh"), NOBODY)
    assert not (directory / "trapped").exists()


def test_a_configuration_that_everybody_can_change_is_a_problem(directory: Path) -> None:
    file = directory / "yaim.yml"
    file.write_text(GOOD)
    found_before = loaded(file)  # as root could not afterwards
    file.chmod(0o666)
    (found,) = look_at_access(file, found_before, NOBODY, frozenset())
    assert (found.verdict, found.remedy) == (PROBLEM, f"chmod o-w {file}")


def test_a_user_that_is_missing_is_told_with_the_command_that_makes_it() -> None:
    there, missing = look_at_users("nobody", "yaim-of-nowhere")
    assert there == ok("users", "nobody")
    assert missing.remedy.startswith("adduser --system --group")


def test_libraries_that_are_missing_are_told() -> None:
    assert verdicts(list(look_at_libraries(None))) == [OK]
    script = (
        "import sys; sys.modules['setproctitle'] = None\n"
        "from yaim.doctor.configuration import look_at_libraries\n"
        "print(*(each.remedy for each in look_at_libraries(None)))\n"
    )
    told = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True)
    assert told.stdout == "apt install python3-setproctitle\n"


# --- helper.yml ----------------------------------------------------------------------------------


def allowlist(file: Path, text: str) -> list[Finding]:
    file.write_text(text)
    file.chmod(0o644)
    return helper.look_at_allowlist(file, "lo", NOBODY, DAEMON)[1]


def test_an_allowlist_that_is_not_there_is_told_with_one_that_would_do(directory: Path) -> None:
    file = directory / "yaim" / "helper.yml"
    none, (found,) = helper.look_at_allowlist(file, "lo", NOBODY, DAEMON)
    assert none is None
    command = found.remedy.partition(": ")[2]
    assert subprocess.run(("sh", "-c", command)).returncode == 0
    made, found_now = helper.look_at_allowlist(file, "lo", NOBODY, DAEMON)
    assert made == helper.Allowlist(("nobody",), Path("/var/log/yaim-helper"), reset_rules=(True,))
    assert verdicts(found_now) == [OK]


def test_an_allowlist_that_cannot_be_used_or_is_of_no_use_is_a_problem(directory: Path) -> None:
    file = directory / "helper.yml"
    assert verdicts(allowlist(file, RULES)) == [OK]
    assert set(verdicts(allowlist(file, RULES.replace("networks", "network")))) == {PROBLEM}
    (found,) = allowlist(file, "users: [nobody]\nrules: []\n")
    assert (found.verdict, "rules: none" in found.text) == (PROBLEM, True)
    (found,) = allowlist(file, RULES + "max-addresses: 64\ncommands-per-second: 63\n")
    assert found.verdict is WARNING
    (found,) = allowlist(file, RULES.replace("nobody", "daemon"))
    assert (found.verdict, "nobody may ask for nothing" in found.text) == (PROBLEM, True)
    assert verdicts(allowlist(file, RULES.replace("nobody", str(NOBODY.pw_uid)))) == [OK]
    file.chmod(0o666)
    assert helper.look_at_allowlist(file, "lo", NOBODY, DAEMON)[1][0].remedy


def test_the_helpers_user_has_to_be_able_to_read_it(directory: Path) -> None:
    file = directory / "helper.yml"
    file.write_text(RULES)
    file.chmod(0o600)
    (found,) = helper.look_at_allowlist(file, "lo", NOBODY, DAEMON)[1]
    assert found.remedy.endswith(f": chmod a+r {file}")


def test_what_the_allowlist_does_not_allow_is_told_for_each_address(directory: Path) -> None:
    (directory / "yaim.yml").write_text(GOOD)
    file = directory / "helper.yml"
    file.write_text(RULES)
    names = ("192.0.2.10", "192.0.2.11", "198.51.100.1")
    pool = [PoolEntry(ip_address(each)) for each in names]
    pool.append(PoolEntry(ip_address("192.0.2.12"), prefix_length=24))
    found = list(helper.look_at_allowed(file, loaded(directory / "yaim.yml"), pool))
    assert verdicts(found) == [PROBLEM, PROBLEM, OK]
    assert "198.51.100.1 is in none of its networks" in found[0].text
    assert "its prefix lengths for IPv4: 32" in found[1].text
    assert found[2].text == "2 of 4 addresses can be put here by the helper"


# --- the interface and addresses -----------------------------------------------------------------


@pytest.fixture
def link() -> Iterator[str]:
    subprocess.run(
        ["ip", "link", "add", "doctor0", "type", "veth", "peer", "name", "doctor1"], check=True
    )
    yield "doctor0"
    subprocess.run(["ip", "link", "del", "doctor0"], check=True)


def test_an_interface_is_there_up_and_has_a_carrier(link: str) -> None:
    assert host.look_at_interface("lo") == ok("interface", "lo is up")
    missing = host.look_at_interface("nope0")
    assert (missing.verdict, "lo" in missing.text) == (PROBLEM, True)
    assert host.look_at_interface(link).remedy == f"ip link set {link} up"
    subprocess.run(f"ip link set {link} up".split(), check=True)
    # The kernel takes up to a second for what it tells of a carrier.
    told = f"{link} has no carrier"
    wait_until(lambda: host.look_at_interface(link).text == told, 20.0, "the carrier to be missed")
    subprocess.run(["ip", "link", "set", "doctor1", "up"], check=True)
    wait_until(lambda: host.look_at_interface(link).verdict is OK, 20.0, "the carrier")


def test_an_address_of_the_pool_that_somebody_else_put_here_is_a_problem(link: str) -> None:
    lifetime = ("valid_lft", "60", "preferred_lft", "0")
    for address, more in (("192.0.2.10/24", ()), ("2001:db8::10/128", ("nodad", *lifetime))):
        command = ("ip", "addr", "add", address, "dev", link, *more)
        subprocess.run(command, check=True)
    foreign, *others = host.look_at_addresses(host.addresses_on_host(), POOL)
    assert (foreign.verdict, others) == (PROBLEM, [])
    assert foreign.remedy.endswith(f": ip addr del 192.0.2.10/24 dev {link}")
    subprocess.run(("ip", "addr", "del", "192.0.2.10/24", "dev", link), check=True)
    assert list(host.look_at_addresses(host.addresses_on_host(), POOL)) == [
        ok("addresses", "1 of the pool here, none that somebody else put here")
    ]


def test_a_kernel_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not answer while something holds its routing lock."""
    monkeypatch.setattr(host, "_KERNEL_WITHIN_S", 0.05)
    is_free = threading.Event()
    told = "the kernel does not tell its addresses within 0.05 s"
    with pytest.raises(TimeoutError, match=told):
        host._ask_kernel("addresses", lambda _: is_free.wait(60.0))
    is_free.set()


def test_ipv6_that_is_disabled_is_a_problem_for_ipv6_addresses(link: str) -> None:
    setting = Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6")
    root = Path("/")
    assert list(host.look_at_ipv6(root, link, POOL[:1])) == []
    assert verdicts(list(host.look_at_ipv6(root, link, POOL))) == [OK]
    setting.write_text("1")
    (found,) = host.look_at_ipv6(root, link, POOL)
    assert found.remedy.endswith(f": sysctl -w net.ipv6.conf.{link}.disable_ipv6=0")
    assert verdicts(list(host.look_at_ipv6(root, "nope0", POOL))) == [PROBLEM]


# --- the helper's socket -------------------------------------------------------------------------


@contextmanager
def listening(path: Path, answer: bytes | None) -> Iterator[None]:
    """None: it never answers; empty: it hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        os.chown(path, 0, NOBODY.pw_gid)
        path.chmod(0o660)
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                if answer:
                    connection.recv(1024)
                    connection.send(answer)

        thread = Thread(target=serve)
        if answer is not None:
            thread.start()
        yield
        if answer is not None:
            thread.join()


def test_a_helper_that_answers_or_hangs_up_is_there(directory: Path) -> None:
    for number, answer in enumerate((b'{"id":1,"result":"refused"}', b"")):
        path = directory / f"{number}.sock"
        with listening(path, answer):
            assert helper.look_at_socket(path, NOBODY, "start") == ok(
                "helper", f"answers at {path}"
            )


def test_a_helper_that_is_not_there_or_silent_is_a_problem(directory: Path) -> None:
    path = directory / "helper.sock"
    found = helper.look_at_socket(path, NOBODY, "start it")
    assert (found.verdict, found.remedy) == (PROBLEM, "start it")
    with listening(path, None):
        assert "nobody answers within 2 s" in helper.look_at_socket(path, NOBODY, "").text
        path.chmod(0o600)
        assert "user nobody cannot connect" in helper.look_at_socket(path, NOBODY, "").text
    assert "takes no connection" in helper.look_at_socket(path, None, "").text
    path.unlink()
    path.touch()
    assert "is not a socket" in helper.look_at_socket(path, None, "").text


# --- its record ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "verdict"), [("500k", PROBLEM), ("50m", WARNING), ("300m", OK)])
def test_little_room_for_the_record_is_told(size: str, verdict: Verdict, directory: Path) -> None:
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory), check=True)
    try:
        assert helper.look_at_record(directory / "not" / "yet", DAEMON).verdict is verdict
    finally:
        subprocess.run(("umount", directory), check=True)


def test_a_record_of_another_user_is_a_problem(directory: Path) -> None:
    os.chown(directory, NOBODY.pw_uid, 0)
    found = helper.look_at_record(directory, DAEMON)
    assert (found.verdict, found.remedy) == (PROBLEM, f"chown -R daemon: {directory}")


# --- services ------------------------------------------------------------------------------------

SHOWN = """\
Id=yaim-helper.socket
LoadState=loaded
ActiveState={socket}
UnitFileState=enabled
Result=success
ConditionResult=yes
ConditionTimestampMonotonic=4711

Id=yaim.service
LoadState=loaded
ActiveState={yaim}
UnitFileState={enabled}
Result=exit-code
ConditionResult={condition}
ConditionTimestampMonotonic={tried}

Id=yaim-helper.service
LoadState=loaded
ActiveState=active
UnitFileState=static
Result=success
ConditionResult=yes
ConditionTimestampMonotonic=4713
"""
ROOT = Path(__file__).parents[2]
WELL = {
    "socket": "active",
    "yaim": "active",
    "enabled": "enabled",
    "condition": "yes",
    "tried": "4712",
}


def services(**changed: str) -> list[Finding]:
    units = host.read_units(SHOWN.format(**{**WELL, **changed}))
    found = list(host.look_at_services(units, (), "yaim supervise"))
    return [each for each in found if each.verdict is not OK]


def test_systemds_units_are_active_and_enabled() -> None:
    assert services() == []
    (found,) = services(yaim="failed")
    assert (found.verdict, found.text) == (PROBLEM, "yaim.service has failed (exit-code)")
    (found,) = services(yaim="inactive")
    assert (found.verdict, found.remedy) == (PROBLEM, "systemctl start yaim.service")
    (found,) = services(yaim="inactive", condition="no")
    assert "a condition of it is not met" in found.text
    (found,) = services(yaim="activating\nNRestarts=12")
    assert (found.verdict, "(12 restarts)" in found.text) == (PROBLEM, True)
    assert services(yaim="activating\nNRestarts=0") == []
    (found,) = services(enabled="disabled")
    assert (found.verdict, found.remedy) == (WARNING, "systemctl enable yaim.service")
    (found,) = services(socket="inactive")
    assert found.text == "yaim-helper.socket is inactive"


def test_a_unit_that_was_never_started_is_no_problem_yet() -> None:
    """README has `yaim doctor` before `systemctl start`."""
    (found,) = services(yaim="inactive", tried="0")
    assert (found.verdict, found.text, found.remedy) == (
        WARNING,
        "yaim.service has not been started yet",
        "systemctl start yaim.service",
    )


def test_without_systemd_a_supervisor_does() -> None:
    (found,) = host.look_at_services({}, ("yaim: supervisor", "yaim: coordinator"), "")
    assert found.verdict is OK
    (found,) = host.look_at_services({}, ("yaim: coordinator n1 healthy 2/6",), "")
    assert found.verdict is OK
    absent = host.read_units("Id=yaim.service\nLoadState=not-found\nActiveState=inactive\n")
    assert host.installed(absent) == []
    (found,) = host.look_at_services(absent, ("cat",), "yaim supervise")
    assert (found.verdict, found.remedy) == (WARNING, "yaim supervise")
    units = host.read_units(SHOWN.format(**WELL))
    found_both = list(host.look_at_services(units, ("yaim: supervisor",), ""))
    assert verdicts(found_both) == [OK, PROBLEM]


def test_systemctl_is_asked_where_systemd_runs_and_cannot_hang(tmp_path: Path) -> None:
    systemctl = tmp_path / "systemctl"
    assert host.units_of(tmp_path, str(systemctl), "yaim.service") == {}
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    why = host.units_of(tmp_path, str(systemctl), "yaim.service")
    assert isinstance(why, str)
    (found,) = host.look_at_services(why, (), "")
    assert found.verdict is NOT_LOOKED_AT
    systemctl.write_text(f"#!/bin/sh\ncat <<E\n{SHOWN.format(**WELL)}E\n")
    systemctl.chmod(0o755)
    units = host.units_of(tmp_path, str(systemctl), "yaim.service")
    assert isinstance(units, dict)
    assert units["yaim.service"]["ActiveState"] == "active"
    systemctl.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    assert host.units_of(tmp_path, str(systemctl), "yaim.service") == "systemctl show: no bus"
    assert host.credentials_of(str(systemctl), "yaim.service") == frozenset()
    unit = ROOT / "packaging/deb/yaim.service"
    systemctl.write_text(f"#!/bin/sh\ncat {shlex.quote(str(unit))}\n")
    assert host.credentials_of(str(systemctl), "yaim.service") == {Path("/etc/yaim/yaim.yml")}
    lines = "#LoadCredential=no:/etc/yaim/no\\nLoadCredential=%i.yml:/etc/yaim/%i.yml\\n"
    systemctl.write_text(f"#!/bin/sh\nprintf '{lines.replace('%', '%%')}'\n")
    handed_over = host.credentials_of(str(systemctl), "yaim@web.service")
    assert handed_over == {Path("/etc/yaim/web.yml")}


# --- other programs ------------------------------------------------------------------------------

VRRP = "vrrp_instance VI_1 {\n interface eth0\n virtual_ipaddress {\n 192.0.2.%d/24\n }\n}\n"
RUNS = ("/usr/sbin/keepalived --dont-fork",)


def test_keepalived_with_an_address_of_the_pool_is_a_problem(tmp_path: Path) -> None:
    def found(*titles: str) -> list[Finding]:
        return list(conflicts.look_at_keepalived(tmp_path, "eth0", POOL, titles))

    assert verdicts(found()) == [OK]
    assert verdicts(found(*RUNS)) == [WARNING]
    file = tmp_path / "etc/keepalived/keepalived.conf"
    file.parent.mkdir(parents=True)
    file.write_text(VRRP % 10)
    assert verdicts(found()) == [WARNING]
    assert verdicts(found(*RUNS)) == [PROBLEM]
    assert "VI_1 has addresses of the pool: 192.0.2.10" in found(*RUNS)[0].text
    enabled = tmp_path / conflicts.ENABLED_AT
    enabled.parent.mkdir(parents=True)
    enabled.symlink_to("/lib/systemd/system/keepalived.service")
    assert "keepalived is enabled" in found()[0].text
    file.write_text(VRRP % 99)
    assert verdicts(found(*RUNS)) == [WARNING, OK]


def test_of_a_pool_that_is_not_known_keepalived_is_not_said_to_have_nothing(tmp_path: Path) -> None:
    file = tmp_path / "etc/keepalived/keepalived.conf"
    file.parent.mkdir(parents=True)
    file.write_text(VRRP % 10)
    (found,) = conflicts.look_at_keepalived(tmp_path, "", None, RUNS)
    assert (found.verdict, "has 192.0.2.10; it runs" in found.text) == (WARNING, True)
    file.write_text("global_defs {\n}\n")
    assert verdicts(list(conflicts.look_at_keepalived(tmp_path, "", None, RUNS))) == [OK]


def test_another_manager_that_runs_is_told() -> None:
    assert verdicts(list(conflicts.look_at_others(("/bin/sh vip-manager",)))) == [OK]
    (found,) = conflicts.look_at_others(("/usr/bin/vip-manager --config /etc/vip.yml",))
    assert found.verdict is WARNING


def network(root: Path, *titles: str) -> list[Finding]:
    return list(conflicts.look_at_network(root, "eth0", 7, POOL, titles))


def test_networkd_that_drops_what_is_not_its_own_is_told_with_the_line_to_add(
    tmp_path: Path,
) -> None:
    state, file = tmp_path / "run/systemd/netif/links/7", tmp_path / "etc/systemd/network/e.network"
    for each in (state, file):
        each.parent.mkdir(parents=True)
    assert verdicts(network(tmp_path)) == [OK]
    state.write_text("ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/e.network\n")
    file.write_text("[Match]\nName=eth0\n[Network]\nDHCP=yes\n")
    (found,) = network(tmp_path)
    assert found.verdict is WARNING
    command = found.remedy.replace("/etc/", f"{tmp_path}/etc/").replace("networkctl reload", "true")
    assert subprocess.run(("sh", "-c", command)).returncode == 0
    assert verdicts(network(tmp_path)) == [OK]
    drop_in = tmp_path / "etc/systemd/network/e.network.d/yaim.conf"
    drop_in.write_text("[Network]\nKeepConfiguration=static\n")
    assert "yaim's have one" in network(tmp_path)[0].text
    file.write_text("[Network]\nAddress=192.0.2.10/24\nKeepConfiguration=yes\n")
    drop_in.unlink()
    assert verdicts(network(tmp_path)) == [PROBLEM, OK]
    file.unlink()
    assert "cannot be read" in network(tmp_path)[0].text
    state.write_text("ADMIN_STATE=unmanaged\nNETWORK_FILE=/etc/systemd/network/e.network\n")
    assert network(tmp_path)[0].verdict is OK


def test_network_manager_is_told_where_it_manages_the_interface(tmp_path: Path) -> None:
    device = tmp_path / "run/NetworkManager/devices/7"
    device.parent.mkdir(parents=True)
    device.write_text("[device]\nmanaged=true\nnm-owned=false\n")
    assert verdicts(network(tmp_path)) == [OK]
    assert verdicts(network(tmp_path, "/usr/sbin/NetworkManager --no-daemon")) == [WARNING]


def test_ifupdown_with_an_address_of_the_pool_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "etc/network/interfaces"
    file.parent.mkdir(parents=True)
    file.write_text("iface eth0 inet static\n  address 192.0.2.201/24\n")
    assert verdicts(network(tmp_path)) == [OK]
    file.write_text("iface eth0 inet6 static\n  address 2001:db8::10/64\n")
    (found,) = network(tmp_path)
    assert (found.verdict, "2001:db8::10" in found.text) == (PROBLEM, True)


@pytest.mark.parametrize(
    ("file", "unit"),
    [
        ("/etc/yaim/yaim.yml", "yaim.service"),
        ("/etc/yaim/web.yml", "yaim@web.service"),
        ("/root/web.yml", "yaim.service"),
    ],
)
def test_the_unit_is_that_which_reads_the_file(file: str, unit: str) -> None:
    assert host.unit_of(Path(file)) == unit


def test_root_makes_the_checks_as_the_coordinators_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db1")
    user, environment = pwd.getpwnam("nobody"), dict(os.environ)
    before = os.getresuid(), os.getresgid(), os.getgroups()
    with being(user):
        assert os.geteuid() == user.pw_uid
        told = subprocess.run(("id", "-ru"), capture_output=True, text=True).stdout
        assert told == f"{user.pw_uid}\n"
        with pytest.raises(PermissionError):
            Path("/etc/shadow").read_text()
        assert (os.environ["HOME"], "PGHOST" in os.environ) == (user.pw_dir, False)
    assert dict(os.environ) == environment
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
