"""yaim-helper policy check and explain, and helper.yml.example."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.__main__ import main
from yaim_helper.policy.read import read_draft
from yaim_helper.tools import policy as policy_tools

from tests.helper.network import INTERFACE, new_network
from tests.helper.process import OK_ABSENT, Client, Helper, add, refused, running
from yaim.lab.namespaces import Namespace

EXAMPLE = Path(__file__).parents[3] / "helper.yml.example"
FINE, REFUSED, EX_IOERR, EX_CONFIG = 0, 1, 74, 78
FILE = f"""\
users: [0]
rules:
  - interface: {INTERFACE}
    networks: [192.0.2.0/24, "2001:db8::/64"]
  - interface: {INTERFACE}
    networks: [198.51.100.0/24]
    prefix-lengths: [28, 32]
  - interface: eth1
    networks: [203.0.113.0/24]
"""

MAY_BE_RESET = "its TCP connections may be reset when it goes"


@pytest.fixture(scope="module")
def a_network() -> Iterator[Namespace]:
    """A network in which nothing changes."""
    with new_network() as network:
        network.run("ip", "address", "add", "192.0.2.1/26", "dev", INTERFACE)
        yield network


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "helper.yml"
    path.write_text(FILE)
    return path


class Tool:
    """The tool, in this process."""

    def __init__(self, network: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
        self._network = network
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, list[str], list[str]]:
        """Exit status, and what it printed."""
        with self._network.entered():
            status = policy_tools.main([str(each) for each in arguments])
        printed = self._capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    def explain(self, file: Path, *arguments: str) -> tuple[int, list[str]]:
        status, out, err = self("explain", f"--config={file}", *arguments)
        assert err == []
        return status, [each.replace(str(file), "FILE") for each in out]


@pytest.fixture
def tool(a_network: Namespace, capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(a_network, capsys)


# --- check ---------------------------------------------------------------------------------------


def test_a_good_file_can_be_used(tool: Tool, file: Path) -> None:
    assert tool("check", file) == (FINE, [f"{file}: can be used", "fence: auto"], [])
    file.write_text(FILE + "fence: off\n")
    assert tool("check", file) == (FINE, [f"{file}: can be used", "fence: off"], [])


def test_warnings_are_told_and_the_file_can_be_used(tool: Tool, file: Path) -> None:
    file.write_text("users: []\nrules: []\n")
    assert tool("check", file) == (
        FINE,
        [f"{file}: can be used", "fence: auto"],
        [
            f"{file}:1: users: none, so nobody can connect; name yaim's user",
            f"{file}:2: rules: none, so every address is refused; add one",
        ],
    )


def test_all_errors_are_told_at_once(tool: Tool, file: Path) -> None:
    file.write_text("users: 0\nrules: 0\ncolour: red\n")
    status, out, err = tool("check", file)
    assert (status, out, len(err)) == (EX_CONFIG, [], 3)


def test_who_can_change_the_file_counts_unless_it_is_a_draft(tool: Tool, file: Path) -> None:
    os.chown(file, 65534, -1)
    complaint = f"{file}: belongs to uid 65534, expected root (chown root)"
    assert tool("check", file) == (EX_CONFIG, [], [complaint])
    assert tool("check", "--draft", file) == (FINE, [f"{file}: can be used", "fence: auto"], [])


def test_the_program_has_it(file: Path) -> None:
    command = (sys.executable, "-I", "-m", "yaim_helper", "policy", "check", str(file))
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (FINE, "")
    assert done.stdout == f"{file}: can be used\nfence: auto\n"


def test_the_program_has_it_in_this_process(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["yaim-helper", "policy", "check", str(file)])
    assert main() == FINE
    assert capsys.readouterr().out == f"{file}: can be used\nfence: auto\n"


# --- explain -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("192.0.2.10", INTERFACE), "192.0.2.10/32 on veth0: allowed by rule 1 (FILE:3)"),
        (("2001:DB8:0::10", INTERFACE), "2001:db8::10/128 on veth0: allowed by rule 1 (FILE:3)"),
        (
            ("198.51.100.17", INTERFACE, "--prefix=28"),
            "198.51.100.17/28 on veth0: allowed by rule 2 (FILE:5)",
        ),
    ],
)
def test_the_rule_that_allows_it_is_told(
    network: Namespace,
    capsys: pytest.CaptureFixture[str],
    file: Path,
    arguments: tuple[str, ...],
    rule: str,
) -> None:
    tool = Tool(network, capsys)
    network.run("sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.promote_secondaries=1")
    what, _, _ = rule.partition(": ")
    assert tool.explain(file, *arguments) == (FINE, [rule, f"{what}: {MAY_BE_RESET}"])


def test_so_is_a_rule_that_keeps_connections(tool: Tool, file: Path) -> None:
    file.write_text(
        file.read_text().replace("- interface", "- reset-connections: false\n    interface", 1)
    )
    _, (_, told) = tool.explain(file, "192.0.2.10", INTERFACE)
    never = "its TCP connections are never reset (reset-connections: false)"
    assert told == f"192.0.2.10/32 on veth0: {never}"


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        pytest.param(("192.0.2.10", "peer0"), ["rule 1 (FILE:3): it is for veth0"], id="interface"),
        pytest.param(
            ("192.0.2.10", INTERFACE, "--prefix=24"),
            ["rule 1 (FILE:3): its prefix lengths for IPv4: 32"],
            id="prefix length",
        ),
        pytest.param(
            ("2001:db8::10", INTERFACE, "--prefix=32"),
            ["rule 1 (FILE:3): its prefix lengths for IPv6: 128"],
            id="prefix length that is only for IPv4",
        ),
        pytest.param(
            ("10.0.0.1", INTERFACE),
            [
                "rule 1 (FILE:3): 10.0.0.1 is in none of its networks",
                "rule 2 (FILE:5): 10.0.0.1 is in none of its networks",
            ],
            id="network",
        ),
        pytest.param(
            ("192.0.2.255", INTERFACE),
            ["rule 1 (FILE:3): 192.0.2.255 is the broadcast address of its network 192.0.2.0/24"],
            id="broadcast address of the network",
        ),
        pytest.param(
            ("2001:db8::", INTERFACE),
            [
                "rule 1 (FILE:3): 2001:db8:: is the subnet-router anycast address of its network"
                " 2001:db8::/64"
            ],
            id="anycast address of the network",
        ),
        pytest.param(
            ("198.51.100.16", INTERFACE, "--prefix=28"),
            [
                "rule 2 (FILE:5): 198.51.100.16 is the network address of 198.51.100.16/28, which"
                " prefix length 28 makes"
            ],
            id="network address of what the prefix length makes",
        ),
        pytest.param(
            ("203.0.113.9", INTERFACE, "--prefix=24"),
            [
                "rule 3 (FILE:8): it is for eth1; its prefix lengths for IPv4: 32",
            ],
            id="all reasons of the rule that comes nearest",
        ),
        pytest.param(
            ("224.0.0.18", INTERFACE),
            ["multicast addresses (224.0.0.0/4) are never added"],
            id="never",
        ),
        pytest.param(
            ("::ffff:192.0.2.10", INTERFACE),
            ["IPv4-mapped addresses (::ffff:0:0/96) are never added"],
            id="IPv4-mapped",
        ),
    ],
)
def test_why_no_rule_allows_it_is_told(
    tool: Tool, file: Path, arguments: tuple[str, ...], reasons: list[str]
) -> None:
    status, lines = tool.explain(file, *arguments)
    assert (status, lines[1:]) == (REFUSED, [f"  {each}" for each in reasons])
    assert lines[0].endswith(": not allowed")


def test_without_rules_that_is_told(tool: Tool, file: Path) -> None:
    file.write_text("users: []\nrules: []\n")
    assert tool.explain(file, "192.0.2.10", INTERFACE) == (
        REFUSED,
        ["192.0.2.10/32 on veth0: not allowed", "  FILE: there are no rules"],
    )


def test_what_is_on_the_host_already_is_told(tool: Tool, file: Path) -> None:
    assert tool.explain(file, "192.0.2.1", INTERFACE) == (
        REFUSED,
        [
            "192.0.2.1/32 on veth0: allowed by rule 1 (FILE:3)",
            f"192.0.2.1/32 on veth0: {MAY_BE_RESET}",
            "  192.0.2.1/26 on veth0: it is on this host already, and not because of the helper",
        ],
    )


def test_what_is_no_host_in_a_network_of_the_interface_is_told(tool: Tool, file: Path) -> None:
    assert tool.explain(file, "192.0.2.63", INTERFACE) == (
        REFUSED,
        [
            "192.0.2.63/32 on veth0: allowed by rule 1 (FILE:3)",
            f"192.0.2.63/32 on veth0: {MAY_BE_RESET}",
            "  192.0.2.63 is the broadcast address of 192.0.2.0/26, which the host has there",
        ],
    )


def test_what_the_helper_has_put_there_is_told(
    network: Namespace, helper: Helper, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.add("192.0.2.10")
    file = helper.socket.parent / "helper.yml"
    assert Tool(network, capsys).explain(file, "192.0.2.10", INTERFACE) == (
        FINE,
        [
            "192.0.2.10/32 on veth0: it is there now, because of the helper unless the host gives"
            " such lifetimes",
            "192.0.2.10/32 on veth0: allowed by rule 1 (FILE:6)",
            f"192.0.2.10/32 on veth0: {MAY_BE_RESET}",
        ],
    )


def test_an_interface_that_the_host_does_not_have_is_told(tool: Tool, file: Path) -> None:
    assert tool("explain", f"--config={file}", "203.0.113.9", "eth1") == (
        REFUSED,
        [
            f"203.0.113.9/32 on eth1: allowed by rule 3 ({file}:8)",
            f"203.0.113.9/32 on eth1: {MAY_BE_RESET}",
            "  there is no interface eth1, on this host",
        ],
        [],
    )


def test_an_interface_that_is_down_is_told(
    network: Namespace, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    network.run("ip", "link", "set", INTERFACE, "down")
    status, told = Tool(network, capsys).explain(file, "192.0.2.10", INTERFACE)
    assert (status, told[-1]) == (REFUSED, "  veth0 is down")


def test_an_address_that_would_take_others_along_is_told(tool: Tool, file: Path) -> None:
    status, told = tool.explain(file, "198.51.100.17", INTERFACE, "--prefix=28")
    assert status == REFUSED
    assert told[-1].endswith("set the sysctl net.ipv4.conf.veth0.promote_secondaries to 1")


@pytest.mark.parametrize("prefix", ["-1", "129", "x", ""])
def test_what_is_no_prefix_length_is_refused(tool: Tool, file: Path, prefix: str) -> None:
    with pytest.raises(SystemExit) as caught:
        tool("explain", f"--config={file}", "192.0.2.10", INTERFACE, f"--prefix={prefix}")
    assert caught.value.code == 2


def test_what_is_no_interface_is_refused(tool: Tool, file: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        tool("explain", f"--config={file}", "192.0.2.10", "v\x1b[31m")
    assert caught.value.code == 2


def test_a_disk_that_is_full_is_told(file: Path) -> None:
    command = (sys.executable, "-m", "yaim_helper", "policy", "check", str(file))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        EX_IOERR,
        "yaim-helper: cannot write: No space left on device\n",
    )


@pytest.mark.parametrize("text", ["fe80::1%eth0", "192.0.2", "db1", "192.0.2.0/24"])
def test_what_is_no_address_is_refused(tool: Tool, file: Path, text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        tool("explain", f"--config={file}", text, INTERFACE)
    assert caught.value.code == 2


def test_a_wrong_file_explains_nothing(tool: Tool, file: Path) -> None:
    file.write_text("rules: []\n")
    assert tool("explain", f"--config={file}", "192.0.2.10", INTERFACE) == (
        EX_CONFIG,
        [],
        [f"{file}:1: users: missing"],
    )


def test_no_privileges_are_needed(a_network: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    with TemporaryDirectory() as name, a_network.entered():
        file = Path(name, "helper.yml")
        file.write_text(FILE)
        file.parent.chmod(0o755)
        os.seteuid(65534)
        try:
            status = policy_tools.main(["explain", f"--config={file}", "192.0.2.1", INTERFACE])
        finally:
            os.seteuid(0)
    assert status == REFUSED
    assert "it is on this host already" in capsys.readouterr().out


ASKED = st.tuples(
    st.sampled_from(["192.0.2.", "198.51.100.", "203.0.113."]),
    st.integers(0, 255),
    st.sampled_from([INTERFACE, "peer0", "lo"]),
    st.sampled_from([24, 26, 28, 31, 32]),
)


def test_the_tool_says_what_the_helper_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real helper on a host with addresses of its own, asked all kinds of things."""
    config = FILE + f"audit-log: {tmp_path}/audit.log\nmax-addresses: 1000\n"
    with new_network() as network:
        for each in ("192.0.2.1/26", "198.51.100.200/27"):
            network.run("ip", "address", "add", each, "dev", INTERFACE)
        network.run("sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.promote_secondaries=1")
        with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
            tool = Tool(network, capsys)

            @given(ASKED)
            def agree(asked: tuple[str, int, str, int]) -> None:
                start, last, interface, prefix = asked
                address = f"{start}{last}"
                status, _ = tool.explain(
                    tmp_path / "helper.yml", address, interface, f"--prefix={prefix}"
                )
                reply = client.ask("add", **add(address, interface=interface, prefix=prefix))
                client.remove(address)
                if status == FINE:
                    assert reply == OK_ABSENT
                else:
                    assert refused(reply) in ("not-allowed", "foreign")

            agree()


# --- helper.yml.example --------------------------------------------------------------------------


def loaded(directory: Path, text: str) -> tuple[str, ...]:
    """Its warnings. There may be no user yaim here."""
    path = directory / "helper.yml"
    path.write_text(text.replace("users: [yaim]", "users: [root]"))
    return read_draft(path).warnings


def test_the_example_loads_as_it_is(tmp_path: Path) -> None:
    assert loaded(tmp_path, EXAMPLE.read_text()) == ()


def test_the_example_tells_the_defaults(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    (tmp_path / "before.yml").write_text(text.replace("users: [yaim]", "users: [root]"))
    before = read_draft(tmp_path / "before.yml")
    everything = re.sub(r"(?m)^( *)#( *[a-z-]+: )", r"\1\2", text)
    assert loaded(tmp_path, everything) == ()
    after = read_draft(tmp_path / "helper.yml")
    assert after.rules == before.rules
    assert (after.max_addresses, after.commands_per_second, after.audit_log) == (
        before.max_addresses,
        before.commands_per_second,
        before.audit_log,
    )
    assert after.is_fence_wanted == before.is_fence_wanted


def test_the_example_names_every_key() -> None:
    named = set(re.findall(r"(?m)^[ -]*#? *([a-z-]+):(?: |$)", EXAMPLE.read_text()))
    known = {"users", "rules", "interface", "networks", "prefix-lengths", "max-addresses"}
    assert named == known | {"commands-per-second", "audit-log", "fence", "reset-connections"}
