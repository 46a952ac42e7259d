"""Values that must fit together."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.config.samples import (
    BASE,
    HERE,
    LEAST,
    NO_FILE,
    PASSWORD_FILE,
    TLS,
    base_for,
    file_in,
    issues_of,
    together,
)
from yaim.config.config import KEYS
from yaim.config.file import Issue
from yaim.config.load import load
from yaim.core.actions import AddAddress
from yaim.core.model import Boottime
from yaim.managers.helper.messages import command

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_user_and_password_and_certificate_and_key_are_given_together(
    prefix: str, tmp_path: Path
) -> None:
    pairs = {
        "user": ("password", "x"),
        "password": ("user", "x"),
        "cert-file": ("key-file", str(HERE)),
        "key-file": ("cert-file", str(HERE)),
    }
    for one, (other, value) in pairs.items():
        file = file_in(tmp_path, f"{prefix}-{one}: {value}\ndcs-endpoints: https://etcd1\n")
        expected = together(f"{prefix}-{other}", f"{prefix}-{one}")
        assert issues_of(file) == (Issue(f"{file}:1", f"{prefix}-{other}", "nothing", expected),)


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_a_password_from_a_file_is_given_together_with_the_user(
    prefix: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"{prefix}-password-file: {PASSWORD_FILE}\n")
    expected = together(f"{prefix}-user", f"{prefix}-password-file")
    assert issues_of(file) == (Issue(f"{file}:1", f"{prefix}-user", "nothing", expected),)


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_a_password_file_that_cannot_be_read_is_told_once(prefix: str) -> None:
    flags = {**BASE, f"{prefix}-user": "root", f"{prefix}-password-file": "/nowhere/password"}
    assert [issue.key for issue in issues_of(None, flags)] == [f"{prefix}-password-file"]


@pytest.mark.parametrize("kind", ["http", "patroni"])
def test_tls_files_that_cannot_work_are_told_before_they_are_used(
    kind: str, tmp_path: Path
) -> None:
    encrypted, (_, other_key) = TLS.encrypted_key(), TLS.make_leaf("other")
    flags = base_for(f"{kind}-user") | LEAST[kind]
    flags.pop(f"{kind}-password")
    pem, key = "certificates in PEM", f"the key of {kind}-cert-file, without a passphrase"
    for ca, cert, key_file, wrong in (
        (TLS.ca, TLS.leaf, TLS.key, []),
        (HERE, HERE, TLS.key, [("1", "ca-file", HERE, pem), ("2", "cert-file", HERE, pem)]),
        (TLS.ca, TLS.leaf, other_key, [("3", "key-file", other_key, key)]),
        (TLS.ca, TLS.leaf, encrypted, [("3", "key-file", encrypted, key)]),
        (TLS.key, TLS.leaf, HERE, [("1", "ca-file", TLS.key, pem), ("3", "key-file", HERE, key)]),
    ):
        text = f"{kind}-ca-file: {ca}\n{kind}-cert-file: {cert}\n{kind}-key-file: {key_file}\n"
        file = file_in(tmp_path, text)
        expected = tuple(
            Issue(f"{file}:{line}", f"{kind}-{name}", repr(str(given)), said)
            for line, name, given, said in wrong
        )
        assert (issues_of(file, flags) if wrong else ()) == expected
        assert wrong or load(flags, {}, file)


@pytest.mark.parametrize("endpoints", ["", "dcs-endpoints: [http://a, http://b]\n"])
def test_tls_files_that_would_not_be_used_are_refused(endpoints: str, tmp_path: Path) -> None:
    keys = ("etcd-ca-file", "etcd-cert-file", "etcd-key-file")
    file = file_in(tmp_path, "".join(f"{key}: {HERE}\n" for key in keys) + endpoints)
    given = "http://a:2379, http://b:2379" if endpoints else "http://127.0.0.1:2379"
    expected = f"https:// in dcs-endpoints as well ({given}: no TLS)"
    assert issues_of(file) == tuple(
        Issue(f"{file}:{line}", key, repr(str(HERE)), expected) for line, key in enumerate(keys, 1)
    )


def test_a_fault_because_of_another_key_has_the_line_of_that(tmp_path: Path) -> None:
    file = file_in(tmp_path, "dcs-clustername: yaim\ninterface: lo\npatroni-max-lag: 16MB\n")
    expected = "replica, together with patroni-max-lag"
    told = (Issue(f"{file}:3", "patroni-role", "nothing", expected),)
    assert issues_of(file, {"checker-type": "patroni"}) == told


def test_tls_files_are_used_if_one_endpoint_has_tls() -> None:
    """That is so while etcd is moved to TLS."""
    flags = {**BASE, "etcd-ca-file": str(HERE), "dcs-endpoints": "http://a,https://b"}
    assert load(flags, {}, None).value("etcd-ca-file") == HERE


def test_of_endpoints_that_are_wrong_it_is_not_told_that_they_have_no_tls() -> None:
    flags = {**BASE, "etcd-ca-file": str(HERE), "dcs-endpoints": "etcd1:2379"}
    assert [issue.key for issue in issues_of(None, flags)] == ["dcs-endpoints"]


def test_a_password_is_sent_in_plaintext_to_those_who_want_that() -> None:
    flags = {**BASE, "etcd-user": "root", "etcd-password": "x", "dcs-endpoints": "http://etcd1"}
    assert load(flags, {}, None).value("etcd-user") == "root"


def test_the_http_check_needs_a_url() -> None:
    flags = {key: value for key, value in BASE.items() if key != "http-url"}
    expected = f"for checker-type http: {KEYS['http-url'].help}"
    issue = Issue(NO_FILE, "http-url", "nothing", expected)
    assert issues_of(None, flags) == (issue,)


@pytest.mark.parametrize(
    ("interface", "label", "most"), [("lo", "a" * 13, 12), ("enp0s31f6v1", "yaim", 3)]
)
def test_a_label_that_does_not_fit_beside_the_interface_is_told(
    interface: str, label: str, most: int
) -> None:
    expected = f"at most {most} characters, 15 together with {interface}:"
    issue = Issue("--label", "label", repr(label), expected)
    assert issues_of(None, {**BASE, "interface": interface, "label": label}) == (issue,)


def test_a_label_that_just_fits_is_taken() -> None:
    assert load({**BASE, "label": "a" * 12}, {}, None).label == "a" * 12


@pytest.mark.parametrize(
    ("interface", "label", "sent"),
    [
        ("enp0s31f6v", "yaim", "yaim"),
        ("enp0s31f6v1", "yaim", ""),
        ("lo", "a" * 12, "a" * 12),
        ("lo", "a" * 13, ""),
        ("fifteen-letters", "", ""),
    ],
)
def test_a_label_that_does_not_fit_beside_the_interface_is_not_sent_to_the_helper(
    interface: str, label: str, sent: str
) -> None:
    """SIGHUP applies a new label at once, but the interface that it was made for not at all."""
    deadline = Boottime(1.0)
    action = AddAddress(1, ip_address("192.0.2.1"), interface, 32, deadline)
    assert command(action, label)["label"] == sent


def retries(num: int, after: int, ttl: int) -> dict[str, str]:
    return {**BASE, "retry-num": str(num), "retry-after": str(after), "ttl": str(ttl)}


def unfitting(num: int, after: int, least: int, timeout: int) -> str:
    return (
        f"at least {least} ms for {num + 1} tries (retry-num) of 100 ms each and {num} pauses"
        f" (retry-after) of {after} ms; it is {timeout} ms (default: the ttl)"
    )


def test_retries_that_do_not_fit_into_the_ttl_are_told() -> None:
    expected = unfitting(4, 651, 3104, 3000)
    issue = Issue("--retry-num", "timeout", "nothing", expected)
    assert issues_of(None, retries(4, 651, 3000)) == (issue,)


def test_retries_that_do_not_fit_into_the_timeout_are_told_once(tmp_path: Path) -> None:
    flags = {each: value for each, value in BASE.items() if each != "checker-type"}
    file = file_in(tmp_path, "retry-after: 50\ntimeout: 300\nchecker-type: http\n")
    issue = Issue(f"{file}:2", "timeout", "'300'", unfitting(3, 50, 550, 300))
    assert issues_of(file, flags) == (issue,)


def test_retries_that_just_fit_into_the_ttl_are_taken() -> None:
    """4 pauses of 625 ms and 5 tries of 100 ms at least are 3000 ms."""
    assert load(retries(4, 625, 3000), {}, None).retry_after == 625
