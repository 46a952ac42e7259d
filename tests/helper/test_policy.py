"""helper.yml: what it allows, and that nothing wrong in it goes unnoticed."""

import os
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.policy import MAX_NETWORKS, Network, Policy, PolicyError, Rule, read_policy
from yaim_helper.protocol import Add, Address

GOOD = """\
users: [root, 65534]
rules:
  - interface: eth0
    networks: [192.0.2.0/24, "2001:db8::/64"]
  - interface: eth1
    networks:
      - 198.51.100.7/32
    prefix-lengths: [24, 32]
max-addresses: 12
commands-per-second: 34
audit-log: /var/log/elsewhere/audit.log
"""
KNOWN = "audit-log, commands-per-second, max-addresses, rules, users"
A_RULE = "rules: [{interface: eth0, networks: [192.0.2.0/24]}]\n"


def read(directory: Path, text: str) -> Policy:
    path = directory / "helper.yml"
    path.write_text(text)
    return read_policy(path)


def errors(directory: Path, text: str) -> list[str]:
    """The lines of the error, without the file's name, each of which must have it."""
    with pytest.raises(PolicyError) as caught:
        read(directory, text)
    start = f"{directory}/helper.yml:"
    lines = str(caught.value).splitlines()
    assert [line for line in lines if not line.startswith(start)] == []
    return sorted(line.removeprefix(start) for line in lines)


def rule(*networks: str, prefixes: tuple[int, ...] = (32, 128)) -> Rule:
    return Rule(1, "eth0", tuple(ip_network(each) for each in networks), prefixes)


def add(address: Address, *, interface: str = "eth0", prefix: int = 32) -> Add:
    return Add(1, interface, address, prefix, "", 1)


# --- the file ----------------------------------------------------------------------------------


def test_a_good_file_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD) == Policy(
        users=(0, 65534),
        rules=(
            Rule(
                1,
                "eth0",
                (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/64")),
                (32, 128),
            ),
            Rule(2, "eth1", (IPv4Network("198.51.100.7/32"),), (24, 32)),
        ),
        max_addresses=12,
        commands_per_second=34,
        audit_log=Path("/var/log/elsewhere/audit.log"),
        sha256=sha256(GOOD.encode()).hexdigest(),
    )


def test_what_is_not_given_has_a_default(tmp_path: Path) -> None:
    text = "users: []\nrules: []\n"
    assert read(tmp_path, text) == Policy(
        users=(),
        rules=(),
        max_addresses=64,
        commands_per_second=1000,
        audit_log=Path("/var/log/yaim-helper/audit.log"),
        sha256=sha256(text.encode()).hexdigest(),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", ["1: rules: missing", "1: users: missing"], id="empty"),
        pytest.param("# nothing\n", ["1: rules: missing", "1: users: missing"], id="comment"),
        pytest.param(
            f"users: [0]\n{A_RULE}limit: 3\n", [f"3: limit: unknown key; expected {KNOWN}"]
        ),
        pytest.param(f"users: [0]\n{A_RULE}users: [1]\n", ["3: users: given twice"]),
        pytest.param(f"{A_RULE}users: 0\n", ["2: users: expected a list"]),
        pytest.param(
            f"{A_RULE}users:\n  - nobody\n  - no-such-user\n",
            ["4: users: there is no user 'no-such-user' on this host"],
            id="unknown user",
        ),
        pytest.param(
            f"{A_RULE}users:\n  - 1.5\n  - -1\n  - true\n  - [0]\n",
            [
                "3: users: got 1.5, expected a user name or id",
                "4: users: got -1, expected a user name or id",
                "5: users: got True, expected a user name or id",
                "6: users: got None, expected a user name or id",
            ],
        ),
        pytest.param("users: [0]\nrules: eth0\n", ["2: rules: expected a list"]),
        pytest.param(
            "users: [0]\nrules:\n  - eth0\n",
            ["3: rule 1: expected keys with values", "3: rule 1: interface and networks missing"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n  - networks: [192.0.2.0/24]\n",
            ["3: rule 1: networks missing", "4: rule 2: interface missing"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n    networks: [192.0.2.0/24]\n    vlan: 3\n",
            ["5: vlan: unknown key; expected interface, networks, prefix-lengths"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: abcdefghijklmnop\n    networks: [192.0.2.0/24]\n",
            ["3: got 'abcdefghijklmnop', expected an interface's name"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - networks: [192.0.2.0/24]\n    interface: 0\n",
            ["4: got 0, expected an interface's name"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n    networks: []\n",
            ["4: rule 1: no networks"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n    networks: 192.0.2.0/24\n",
            ["4: networks: expected a list"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n    networks:\n"
            "      - 192.0.2.0/24\n      - 192.0.2.1/24\n      - 192.0.2.0/33\n"
            "      - 3221225984\n      - db1\n      - 2001:db8::1/64\n",
            [
                f"{line}: networks: got {value}, expected one like 192.0.2.0/24 or 2001:db8::/64"
                for line, value in (
                    (10, "'2001:db8::1/64'"),
                    (6, "'192.0.2.1/24'"),
                    (7, "'192.0.2.0/33'"),
                    (8, "3221225984"),
                    (9, "'db1'"),
                )
            ],
            id="networks",
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n    networks: [192.0.2.0/24]\n"
            "    prefix-lengths:\n      - 0\n      - 129\n      - /32\n",
            [f"{n}: got {v}, expected a number from 1 to 128" for n, v in ((6, 0), (7, 129))]
            + ["8: got '/32', expected a number from 1 to 128"],
            id="prefix lengths",
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}max-addresses: 0\n",
            ["3: got 0, expected a number from 1 to 100000"],
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}max-addresses: yes\n",
            ["3: got True, expected a number from 1 to 100000"],
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}commands-per-second: fast\n",
            ["3: got 'fast', expected a number from 1 to 1000000"],
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}audit-log: audit.log\n",
            ["3: audit-log: got 'audit.log', expected an absolute path"],
        ),
        pytest.param(
            "- users\n",
            ["1: rules: missing", "1: the file: expected keys with values", "1: users: missing"],
        ),
        pytest.param(
            f"{A_RULE}users: [0\n", ["3: not YAML: expected ',' or ']', but got '<stream end>'"]
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}---\nusers: [1]\n",
            ["3: not YAML: but found another document"],
            id="two documents",
        ),
        pytest.param("[" * 500, ["1: not YAML: nested too deeply"], id="deep nesting"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    assert errors(tmp_path, text) == expected


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    text = (
        "users: [no-such-user]\n"
        "rules:\n"
        "  - interface: eth0\n"
        "    networks: [here]\n"
        "max-addresses: many\n"
        "audit-log: 7\n"
        "colour: red\n"
    )
    assert errors(tmp_path, text) == [
        "1: users: there is no user 'no-such-user' on this host",
        "4: networks: got 'here', expected one like 192.0.2.0/24 or 2001:db8::/64",
        "5: got 'many', expected a number from 1 to 100000",
        "6: audit-log: got 7, expected an absolute path",
        f"7: colour: unknown key; expected {KNOWN}",
    ]


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.write_bytes(b"users: [\xff]\n")
    with pytest.raises(PolicyError, match=f"^{path}:1: not YAML: "):
        read_policy(path)


@pytest.mark.parametrize(
    "line",
    [
        "max-addresses: !new 3",
        "max-addresses: 2024-13-45",
        "max-addresses: 0b_",
        "audit-log: 2024-13-45",
    ],
)
def test_a_value_that_yaml_cannot_make_is_refused_with_the_line(tmp_path: Path, line: str) -> None:
    (found,) = errors(tmp_path, f"users: [0]\n{A_RULE}{line}\n")
    assert found.startswith("3: ")


@pytest.mark.parametrize("user", [r'"a\0b"', r'"\uD800"', "2024-13-45"])
def test_a_user_name_that_cannot_be_is_refused_with_the_line(tmp_path: Path, user: str) -> None:
    (found,) = errors(tmp_path, f"{A_RULE}users: [{user}]\n")
    assert found.startswith("2: ")


@pytest.mark.parametrize(
    "text",
    [
        'users: [0]\nrules: [{interface: eth0, networks: ["fe80::%eth0/64"]}]\n',
        f"{A_RULE}users: [99999999999]\n",
    ],
)
def test_a_value_that_can_never_match_is_refused(tmp_path: Path, text: str) -> None:
    assert len(errors(tmp_path, text)) == 1


def test_256_networks_are_accepted_and_257_are_not(tmp_path: Path) -> None:
    def file(count: int) -> str:
        rules = (
            f"  - {{interface: eth{number % 2}, networks: [10.0.{number}.0/24]}}\n"
            for number in range(count - 2)
        )
        return (
            "users: [0]\nrules:\n"
            + "".join(rules)
            + ("  - {interface: eth0, networks: [192.0.2.0/24, 198.51.100.0/24]}\n")
        )

    assert MAX_NETWORKS == 256
    assert sum(len(each.networks) for each in read(tmp_path, file(256)).rules) == 256
    assert errors(tmp_path, file(257)) == ["1: rules: more than 256 networks"]


# --- who can change it -------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        read_policy(path)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o622, 0o602, 0o4620])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "helper.yml"
    path.write_text(GOOD)
    path.chmod(mode)
    assert refusal(path) == (
        f"{path}: can be written by others than root (mode {mode:04o}); use chmod go-w"
    )


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o440])
def test_a_file_that_only_root_can_write_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "helper.yml"
    path.write_text(GOOD)
    path.chmod(mode)
    assert read_policy(path).max_addresses == 12


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.write_text(GOOD)
    os.chown(path, 65534, -1)
    assert refusal(path) == f"{path}: belongs to uid 65534, expected root (chown root)"


def test_a_file_in_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.write_text(GOOD)
    tmp_path.chmod(0o777)
    assert refusal(path) == (
        f"{tmp_path}: can be written by others than root (mode 0777); use chmod go-w"
    )


def test_a_file_in_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.write_text(GOOD)
    os.chown(tmp_path, 65534, -1)
    assert refusal(path) == f"{tmp_path}: belongs to uid 65534, expected root (chown root)"


def test_a_file_in_a_sticky_directory_is_read(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.write_text(GOOD)
    tmp_path.chmod(0o1777)
    assert read_policy(path).max_addresses == 12


def test_a_link_into_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "real.yml").write_text(GOOD)
    theirs.chmod(0o777)
    (tmp_path / "helper.yml").symlink_to(theirs / "real.yml")
    assert f"{theirs}: can be written by others" in refusal(tmp_path / "helper.yml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    assert refusal(path) == f"{path}: cannot be read: No such file or directory"


def test_a_directory_instead_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.mkdir(mode=0o755)
    assert refusal(path) == f"{path}: cannot be read: Is a directory"


# --- what it allows ----------------------------------------------------------------------------


def allowed(network: Network) -> set[Address]:
    """Of the network and one address on either side."""
    one = rule(str(network), prefixes=(network.max_prefixlen,))
    first, last = int(network.network_address), int(network.broadcast_address)
    make = type(network.network_address)
    return {
        address
        for number in range(max(0, first - 1), min(last + 1, 2**network.max_prefixlen - 1) + 1)
        if one.allows("eth0", address := make(number), network.max_prefixlen)
    }


NARROW_V4 = st.builds(
    lambda number, length: ip_network((number, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(24, 32),
)
NARROW_V6 = st.builds(
    lambda number, length: IPv6Network((number, length), strict=False),
    st.integers(0, 2**128 - 1),
    st.integers(120, 128),
)


@given(NARROW_V4 | NARROW_V6)
def test_the_hosts_of_a_network_are_allowed_and_nothing_else(network: Network) -> None:
    """`hosts` leaves out the network and broadcast addresses (IPv6: the subnet-router anycast
    address), but for /31, /32, /127 and /128."""
    assert allowed(network) == set(network.hosts())


def test_network_and_broadcast_addresses_are_not_allowed() -> None:
    one = rule("192.0.2.0/24")
    addresses = ["192.0.2.0", "192.0.2.1", "192.0.2.254", "192.0.2.255", "192.0.3.0"]
    assert [one.allows("eth0", ip_address(each), 32) for each in addresses] == [
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("192.0.2.6/31", {"192.0.2.6", "192.0.2.7"}),
        ("192.0.2.6/32", {"192.0.2.6"}),
        ("192.0.2.4/30", {"192.0.2.5", "192.0.2.6"}),
        ("2001:db8::6/127", {"2001:db8::6", "2001:db8::7"}),
        ("2001:db8::6/128", {"2001:db8::6"}),
        ("2001:db8::4/126", {"2001:db8::5", "2001:db8::6", "2001:db8::7"}),
        ("255.255.255.254/31", {"255.255.255.254", "255.255.255.255"}),
    ],
)
def test_small_networks_have_these_hosts(network: str, expected: set[str]) -> None:
    assert {str(each) for each in allowed(ip_network(network))} == expected


def test_a_rule_is_for_one_interface_and_some_prefix_lengths() -> None:
    one = rule("192.0.2.0/24", prefixes=(24, 32))
    address = ip_address("192.0.2.10")
    asked = [("eth0", 24), ("eth0", 32), ("eth0", 25), ("eth1", 32), ("eth", 32), ("eth0:1", 32)]
    assert [one.allows(interface, address, prefix) for interface, prefix in asked] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_an_address_is_not_in_a_network_of_the_other_family() -> None:
    everything = rule("0.0.0.0/0", prefixes=(32, 128))
    assert everything.allows("eth0", ip_address("192.0.2.10"), 32)
    assert not everything.allows("eth0", ip_address("2001:db8::10"), 128)
    assert not everything.allows("eth0", ip_address("::c000:20a"), 128)


def test_the_first_rule_that_allows_it_counts(tmp_path: Path) -> None:
    policy = read(
        tmp_path,
        "users: []\nrules:\n"
        "  - {interface: eth1, networks: [192.0.2.0/24]}\n"
        "  - {interface: eth0, networks: [192.0.2.0/24], prefix-lengths: [24]}\n"
        "  - {interface: eth0, networks: [192.0.2.10/32, 192.0.2.10/31]}\n"
        "  - {interface: eth0, networks: [192.0.2.0/24]}\n",
    )
    found = [
        policy.rule_for(add(ip_address("192.0.2.10"))),
        policy.rule_for(add(ip_address("192.0.2.12"))),
        policy.rule_for(add(ip_address("192.0.2.12"), prefix=24)),
        policy.rule_for(add(ip_address("192.0.2.12"), interface="eth1")),
        policy.rule_for(add(ip_address("198.51.100.1"))),
    ]
    assert [each.number if each else None for each in found] == [3, 4, 2, 1, None]
