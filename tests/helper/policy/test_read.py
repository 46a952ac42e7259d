"""Reading helper.yml: nothing that is wrong in it goes unnoticed."""

import os
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yaim_helper.policy.read import MAX_BYTES, MAX_NETWORKS, read_draft, read_policy
from yaim_helper.policy.rules import Network, Policy, PolicyError, Rule
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
fence: off
"""
KNOWN = "audit-log, commands-per-second, fence, max-addresses, rules, users"
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
    return [line.removeprefix(start) for line in lines]


def warnings(directory: Path, text: str) -> list[str]:
    """Returns the warnings without the file's name."""
    return [
        each.removeprefix(f"{directory}/helper.yml:") for each in read(directory, text).warnings
    ]


def rules(*lines: str) -> str:
    """A file with rules from line 3 on."""
    return "users: [0]\nrules:\n" + "".join(f"  - {{{line}}}\n" for line in lines)


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
        is_fence_wanted=False,
        sha256=sha256(GOOD.encode()).hexdigest(),
        path=tmp_path / "helper.yml",
    )


def test_what_is_not_given_has_a_default(tmp_path: Path) -> None:
    text = "users: []\nrules: []\n"
    assert read(tmp_path, text) == Policy(
        users=(),
        rules=(),
        max_addresses=64,
        commands_per_second=1000,
        audit_log=Path("/var/log/yaim-helper"),
        is_fence_wanted=True,
        sha256=sha256(text.encode()).hexdigest(),
        path=tmp_path / "helper.yml",
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
                "3: users: got '1.5', expected a user name or id",
                "4: users: got '-1', expected a user name or id",
                "5: users: there is no user 'true' on this host",
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
            [
                "5: vlan: unknown key; expected interface, networks, prefix-lengths,"
                " reset-connections"
            ],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: abcdefghijklmnop\n    networks: [192.0.2.0/24]\n",
            ["3: interface: got 'abcdefghijklmnop', expected an interface's name"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - networks: [192.0.2.0/24]\n    interface: 0/0\n",
            ["4: interface: got '0/0', expected an interface's name"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0:1\n    networks: [192.0.2.0/24]\n",
            ["3: interface: got 'eth0:1', expected an interface's name"],
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n    networks: []\n",
            ["4: networks: none; a rule needs one at least"],
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
                    (6, "'192.0.2.1/24'"),
                    (7, "'192.0.2.0/33'"),
                    (8, "'3221225984'"),
                    (9, "'db1'"),
                    (10, "'2001:db8::1/64'"),
                )
            ],
            id="networks",
        ),
        pytest.param(
            "users: [0]\nrules:\n  - interface: eth0\n    networks: [192.0.2.0/24]\n"
            "    prefix-lengths:\n      - 7\n      - 129\n      - /32\n",
            [
                f"{line}: prefix-lengths: got {value}, expected a number from 8 to 128"
                for line, value in ((6, "'7'"), (7, "'129'"), (8, "'/32'"))
            ],
            id="prefix lengths",
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}max-addresses: 0\n",
            ["3: max-addresses: got '0', expected a number from 1 to 2000"],
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}max-addresses: yes\n",
            ["3: max-addresses: got 'yes', expected a number from 1 to 2000"],
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}commands-per-second: fast\n",
            ["3: commands-per-second: got 'fast', expected a number from 1 to 1000000"],
        ),
        pytest.param(
            f"users: [0]\n{A_RULE}audit-log: audit.log\n",
            ["3: audit-log: got 'audit.log', expected an absolute path"],
        ),
        *(
            pytest.param(
                rules(f"interface: eth0, networks: [192.0.2.0/24], reset-connections: {written}"),
                [f"3: reset-connections: got {read!r}, expected true or false"],
                id=f"reset-connections: {written}",
            )
            for written, read in (("1", "1"), ("never", "never"), ("", None), ("[]", None))
        ),
        *(
            pytest.param(
                f"users: [0]\n{A_RULE}fence: {written}\n",
                [f"3: fence: got {read!r}, expected auto or off"],
                id=f"fence: {written}",
            )
            for written, read in (
                ("on", "on"),
                ("yes", "yes"),
                ("true", "true"),
                ('"on"', "on"),
                ("Auto", "Auto"),
                ("0", "0"),
                ("1", "1"),
                ("0.0", "0.0"),
                ("", None),
                ("[]", None),
            )
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


@pytest.mark.parametrize(
    ("written", "is_wanted"),
    [("auto", True), ('"auto"', True), ("off", False), ('"off"', False), ("false", False)],
)
def test_a_fence_is_wanted_unless_it_is_off(tmp_path: Path, written: str, is_wanted: bool) -> None:
    """YAML takes a bare `off` for false."""
    policy = read(tmp_path, f"users: [0]\n{A_RULE}fence: {written}\n")
    assert policy.is_fence_wanted is is_wanted


def test_connections_may_be_reset_unless_a_rule_says_otherwise(tmp_path: Path) -> None:
    text = rules(
        "interface: eth0, networks: [192.0.2.0/25]",
        "interface: eth0, networks: [192.0.2.128/25], reset-connections: false",
        "interface: eth1, networks: [192.0.2.0/25], reset-connections: true",
    )
    policy = read(tmp_path, text)
    assert [each.reset_connections for each in policy.rules] == [True, False, True]


def test_rules_that_overlap_cannot_differ_in_whether_connections_may_be_reset(
    tmp_path: Path,
) -> None:
    text = rules(
        "interface: eth0, networks: [192.0.2.0/24]",
        "interface: eth0, networks: [192.0.2.8/32], reset-connections: false",
    )
    assert errors(tmp_path, text) == [
        "4: networks: 192.0.2.8/32 of rule 2 (line 4) and 192.0.2.0/24 of rule 1 (line 3) overlap,"
        " for the same interface with another reset-connections; say in one of them only what is"
        " allowed"
    ]


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
        "5: max-addresses: got 'many', expected a number from 1 to 2000",
        "6: audit-log: got '7', expected an absolute path",
        f"7: colour: unknown key; expected {KNOWN}",
    ]


@pytest.mark.parametrize("written", ["1:30", "017", "0x10", "0b11", "1_000", "+5", "!!float 5.0"])
@pytest.mark.parametrize(
    "key", ["max-addresses: {}", "commands-per-second: {}", "users: [{}]", "users: [0, {}]"]
)
def test_a_number_that_yaml_1_1_would_make_is_none(tmp_path: Path, key: str, written: str) -> None:
    """1:30 was 90 addresses, and 017 the user 15."""
    given = {"users": "users: [0]", "rules": A_RULE.strip()}
    name = key.partition(":")[0]
    lines = [*(text for each, text in given.items() if each != name), key.format(written)]
    (found,) = errors(tmp_path, "\n".join(lines) + "\n")
    told = written.rpartition(" ")[2]
    assert f"{name}: got {told!r}, expected" in found or f"no user {told!r}" in found


def test_names_and_addresses_are_as_they_are_written(tmp_path: Path) -> None:
    """YAML 1.1 makes a number of them, a truth value or a date."""
    text = rules(
        "interface: 007, networks: [1:2:3:4:5:6:7:8], prefix-lengths: [128]",
        "interface: on, networks: [192.0.2.1]",
        "interface: 1e3, networks: [192.0.2.2]",
        "interface: 2026-01-01, networks: [192.0.2.3]",
    )
    assert [(each.interface, str(each.networks[0])) for each in read(tmp_path, text).rules] == [
        ("007", "1:2:3:4:5:6:7:8/128"),
        ("on", "192.0.2.1/32"),
        ("1e3", "192.0.2.2/32"),
        ("2026-01-01", "192.0.2.3/32"),
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
    assert errors(tmp_path, file(257)) == ["1: rules: more than 256 networks; make them wider"]


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


def test_a_link_that_leads_through_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """It ends in a directory of root's, as long as he wants that."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / "real.yml").write_text(GOOD)
    (theirs / "link.yml").symlink_to(tmp_path / "real.yml")
    os.chown(theirs, 65534, -1)
    (tmp_path / "helper.yml").symlink_to(theirs / "link.yml")
    told = f"{theirs}: belongs to uid 65534, expected root (chown root)"
    assert refusal(tmp_path / "helper.yml") == told


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    assert refusal(path) == f"{path}: cannot be read: No such file or directory"


def test_a_directory_instead_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.mkdir(mode=0o755)
    assert refusal(path) == f"{path}: is not a file"


@pytest.mark.parametrize("name", ["/dev/null", "/proc/self/fd"])
def test_what_is_not_a_file_is_named(name: str) -> None:
    with pytest.raises(PolicyError, match=f"^{name}: is not a file$"):
        read_draft(Path(name))


def test_a_file_too_large_to_be_read_while_at_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    padding = MAX_BYTES - len(GOOD) - 2
    path.write_text(GOOD + "#" + "x" * padding + "\n")
    assert read_policy(path).max_addresses == 12
    path.write_text(GOOD + "#" + "x" * padding + "x\n")
    assert refusal(path) == f"{path}: is larger than 65536 bytes; make it shorter"


@pytest.mark.parametrize(
    ("directory_mode", "mode", "what"),
    [(0o755, 0o600, "read it (chmod a+r"), (0o700, 0o644, "enter {} (chmod a+x")],
)
def test_a_file_that_the_helpers_user_may_not_read_is_named(
    directory_mode: int, mode: int, what: str
) -> None:
    """The helper runs as a user without privileges."""
    with TemporaryDirectory() as name:
        path = Path(name, "helper.yml")
        path.write_text(GOOD)
        path.chmod(mode)
        path.parent.chmod(directory_mode)
        os.seteuid(65534)
        try:
            told = refusal(path)
        finally:
            os.seteuid(0)
    assert told == (
        f"{path}: uid 65534 may not {what.format(path.parent)}; there are no secrets in the file)"
    )


def test_a_draft_may_be_anybodys(tmp_path: Path) -> None:
    path = tmp_path / "helper.yml"
    path.write_text(GOOD)
    os.chown(path, 65534, -1)
    assert read_draft(path).max_addresses == 12


# --- rules that can do nothing, or contradict each other -----------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            ["interface: eth0, networks: [192.0.2.0/24], prefix-lengths: [64, 128]"],
            [
                "3: networks: 192.0.2.0/24 is of no use: none of the rule's prefix-lengths is for"
                " IPv4 (8 to 32); add one, or take it out"
            ],
            id="no prefix length for IPv4",
        ),
        pytest.param(
            ['interface: eth0, networks: ["2001:db8::/64"], prefix-lengths: [24]'],
            [
                "3: networks: 2001:db8::/64 is of no use: none of the rule's prefix-lengths is for"
                " IPv6 (33 to 128); add one, or take it out"
            ],
            id="no prefix length for IPv6",
        ),
        pytest.param(
            ["interface: eth0, networks: [192.0.2.16/32], prefix-lengths: [28]"],
            [
                "3: networks: 192.0.2.16/32 is of no use: with prefix length 28 it is the network"
                " address of 192.0.2.16/28; allow 32, or take it out"
            ],
            id="a network address only",
        ),
        pytest.param(
            ["interface: eth0, networks: [192.0.2.0/24], prefix-lengths: []"],
            ["3: prefix-lengths: none, so nothing is allowed; without the key: 32 and 128"],
            id="no prefix lengths",
        ),
        pytest.param(
            ["interface: eth0, networks: [192.0.2.0/24], prefix-lengths: 24"],
            ["3: prefix-lengths: expected a list"],
            id="prefix lengths that are no list",
        ),
        pytest.param(
            ["interface: eth0, networks: [192.0.2.0/24], prefix-lengths: [24, 32, 24]"],
            ["3: prefix-lengths: 24 is given twice; take one out"],
            id="a prefix length twice",
        ),
        pytest.param(
            ["interface: eth0, networks: [192.0.2.0/24, 192.0.2.0/24]"],
            ["3: networks: 192.0.2.0/24 of rule 1 (line 3) is the same; take one out"],
            id="a network twice in a rule",
        ),
        pytest.param(
            [
                "interface: eth0, networks: [192.0.2.0/24]",
                "interface: eth0, networks: [192.0.2.0/24]",
            ],
            ["4: networks: 192.0.2.0/24 of rule 1 (line 3) is the same; take one out"],
            id="a network in two rules",
        ),
        pytest.param(
            [
                "interface: eth0, networks: [192.0.2.128/25]",
                'interface: eth0, networks: ["2001:db8::/64", 192.0.2.0/24]',
            ],
            [
                "3: networks: 192.0.2.128/25 has no effect: it lies within 192.0.2.0/24 of rule 2"
                " (line 4); take it out"
            ],
            id="a rule within another",
        ),
        pytest.param(
            [
                "interface: eth0, networks: [192.0.2.0/24]",
                "interface: eth0, networks: [192.0.2.10/32], prefix-lengths: [24, 32]",
            ],
            [
                "4: networks: 192.0.2.10/32 and 192.0.2.0/24 of rule 1 (line 3) overlap, for the"
                " same interface with different prefix-lengths; say in one of them only what is"
                " allowed"
            ],
            id="different prefix lengths",
        ),
    ],
)
def test_a_rule_without_effect_or_against_another_is_refused(
    tmp_path: Path, lines: list[str], expected: list[str]
) -> None:
    assert errors(tmp_path, rules(*lines)) == expected


@pytest.mark.parametrize(
    ("interface", "network", "why"),
    [
        ("eth0", "224.0.1.0/24", "multicast addresses (224.0.0.0/4) are never added"),
        ("eth0", "240.0.0.0/5", "reserved and broadcast addresses (240.0.0.0/4) are never added"),
        (
            "eth0",
            "224.0.0.0/3",
            "multicast addresses (224.0.0.0/4) are never added; reserved and broadcast addresses"
            " (240.0.0.0/4) are never added",
        ),
        ("lo", "0.0.0.0/8", "addresses of 0.0.0.0/8 are never added"),
        ("eth0", "127.0.0.0/24", "loopback addresses (127.0.0.0/8) are added to lo only"),
        ("eth0", "::1/128", "the loopback address (::1) is added to lo only"),
        ("eth0", "::ffff:c000:200/120", "IPv4-mapped addresses (::ffff:0:0/96) are never added"),
        ("eth0", "ff02::/16", "multicast addresses (ff00::/8) are never added"),
    ],
)
def test_a_network_that_holds_nothing_else_than_what_is_never_added_is_refused(
    tmp_path: Path, interface: str, network: str, why: str
) -> None:
    text = rules(f'interface: {interface}, networks: ["{network}"]')
    shown = ip_network(network)
    assert errors(tmp_path, text) == [f"3: networks: {shown} is of no use: {why}; take it out"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(
            ["interface: eth0, networks: [192.0.2.0/24, 192.0.2.0/32, 192.0.2.254/31]"],
            id="what is no host of the larger one",
        ),
        pytest.param(
            [
                "interface: eth0, networks: [192.0.2.0/24]",
                "interface: eth0, networks: [192.0.2.0/32], prefix-lengths: [24, 32]",
            ],
            id="with other prefix lengths",
        ),
        pytest.param(
            [
                "interface: eth0, networks: [192.0.2.0/24], prefix-lengths: [32]",
                'interface: eth0, networks: ["2001:db8::/64"], prefix-lengths: [64]',
            ],
            id="two families",
        ),
        pytest.param(['interface: eth0, networks: [0.0.0.0/0, "::/0"]'], id="everything"),
        pytest.param(['interface: lo, networks: [127.0.0.0/8, "::1/128"]'], id="loopback"),
    ],
)
def test_rules_that_overlap_without_a_common_host_are_fine(
    tmp_path: Path, lines: list[str]
) -> None:
    assert warnings(tmp_path, rules(*lines)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"users: []\n{A_RULE}",
            ["1: users: none, so nobody can connect; name yaim's user"],
        ),
        ("users: [0]\nrules: []\n", ["2: rules: none, so every address is refused; add one"]),
        (
            rules(
                "interface: eth0, networks: [192.0.2.0/24]",
                "interface: eth1, networks: [198.51.100.0/24, 192.0.2.128/25]",
            ),
            [
                "4: networks: 192.0.2.128/25 is for eth1, and 192.0.2.0/24 of rule 1 (line 3) for"
                " eth0: what is in both may be put on either; is that meant?"
            ],
        ),
        (
            rules("interface: eth0, networks: [192.0.2.1/32, 192.0.2.2/32]") + "max-addresses: 1\n",
            [
                "4: max-addresses: 1, but the rules name 2 single addresses, which cannot all be"
                " held; make it 2 at least"
            ],
        ),
        (
            rules(
                f"interface: eth0, networks: [{', '.join(f'192.0.2.{n}/32' for n in range(65))}]"
            ),
            [
                "3: max-addresses: 64, but the rules name 65 single addresses, which cannot all be"
                " held; make it 65 at least"
            ],
        ),
        (
            f"users: [0]\n{A_RULE}max-addresses: 1001\n",
            [
                "3: max-addresses: 1000 commands a second, but 1001 addresses at most: taking over"
                " all of them would have to wait; make commands-per-second 1001 at least"
            ],
        ),
        (
            f"users: [0]\n{A_RULE}commands-per-second: 63\n",
            [
                "3: commands-per-second: 63 commands a second, but 64 addresses at most: taking"
                " over all of them would have to wait; make commands-per-second 64 at least"
            ],
        ),
    ],
)
def test_what_is_odd_is_told_and_used_all_the_same(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    assert warnings(tmp_path, text) == expected


def test_rules_are_the_same_wherever_they_stand_in_the_file(tmp_path: Path) -> None:
    before = read(tmp_path, f"users: [0]\n{A_RULE}")
    after = read(tmp_path, f"# moved\n\nusers: [0]\n{A_RULE}")
    assert before.rules == after.rules
    assert [each.line for each in (*before.rules, *after.rules)] == [2, 4]


SMALL_V4 = st.builds(
    lambda number, length: ip_network((0xC0000200 + number, length), strict=False),
    st.integers(0, 63),
    st.integers(26, 32),
)
LISTED = st.lists(
    st.tuples(SMALL_V4, st.sets(st.sampled_from((26, 28, 30, 31, 32)), min_size=1)),
    min_size=1,
    max_size=4,
)


@given(LISTED)
def test_a_rule_is_refused_exactly_if_it_adds_nothing_or_overlaps_with_other_prefix_lengths(
    tmp_path_factory: pytest.TempPathFactory, listed: list[tuple[Network, set[int]]]
) -> None:
    """Against all addresses, one by one."""

    def hosts(network: Network) -> set[Address]:
        return set(network.hosts()) if network.num_addresses > 1 else {network[0]}

    def allowed(network: Network, prefixes: set[int]) -> set[tuple[Address, int]]:
        return {
            (address, prefix)
            for address in hosts(network)
            for prefix in prefixes
            if address in hosts(ip_network((address, prefix), strict=False))
        }

    def are_at_odds(one: tuple[Network, set[int]], other: tuple[Network, set[int]]) -> bool:
        if one[1] != other[1]:
            return bool(hosts(one[0]) & hosts(other[0]))
        return hosts(one[0]) <= hosts(other[0]) or hosts(other[0]) <= hosts(one[0])

    useful = [each for each in listed if allowed(*each)]
    is_good = len(useful) == len(listed) and not any(
        are_at_odds(one, other) for n, one in enumerate(listed) for other in listed[:n]
    )
    text = rules(
        *(
            f"interface: eth0, networks: [{network}], prefix-lengths: {sorted(prefixes)}"
            for network, prefixes in listed
        )
    )
    path = tmp_path_factory.getbasetemp() / "random.yml"
    path.write_text(text)
    try:
        policy = read_draft(path)
    except PolicyError:
        assert not is_good
    else:
        assert is_good
        assert {
            (address, prefix)
            for address in map(ip_address, range(0xC0000200 - 1, 0xC0000200 + 65))
            for prefix in range(24, 33)
            if policy.rule_for(add(address, prefix=prefix))
        } == set().union(*(allowed(*each) for each in listed))
