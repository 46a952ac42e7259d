"""Secrets are read as they are, and never shown."""

from pathlib import Path

import pytest

from tests.config.samples import BASE, SECRET, base_for, file_in, issues_of, told, value_of
from yaim.config.checks import KIND_OF
from yaim.config.file import ConfigError, Issue
from yaim.config.load import load, variable
from yaim.config_keys import MASK
from yaim.dcs.etcd.access import EtcdAccess, EtcdError, read_secrets

pytestmark = pytest.mark.quick

PASSWORDS = (
    (b"geheim\n", "geheim"),
    (b"geheim\r\n", "geheim"),
    (b"geheim", "geheim"),
    (b" a b \n", " a b "),
    (b"a\tb\r\r\n", "a\tb\r"),
    (b"a\r", "a\r"),
    ("pä€\n".encode(), "pä€"),
)
WRONG_PASSWORDS = (
    (b"", "a password in it"),
    (b"\n", "a password in it"),
    (b"\r\n", "a password in it"),
    (b"geheim\n\n", "one line, the password"),
    (b"geheim\r\nb\r\n", "one line, the password"),
    (b"\n\n", "one line, the password"),
    (b"\xef\xbb\xbfgeheim\n", "text without a byte order mark at its beginning"),
    ("geheim\n".encode("utf-16"), "text in UTF-8 (at byte 0 it is not)"),
    (b"geheim\xff", "text in UTF-8 (at byte 6 it is not)"),
    (b"geheim\0\n", "a password without a NUL character"),
)


@pytest.mark.parametrize("kind", ["etcd", "http", "postgres", "pgbouncer", "patroni"])
@pytest.mark.parametrize(("content", "password"), PASSWORDS)
def test_a_password_is_read_from_its_file_without_the_line_end(
    kind: str, content: bytes, password: str, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content)
    name = f"{kind}-password-file"
    flags = {**base_for(name), f"{kind}-user": "root", name: str(secret)}
    assert value_of(load(flags, {}, None), f"{kind}-password") == password


@pytest.mark.parametrize(("content", "password"), PASSWORDS)
def test_etcds_password_is_the_same_when_its_file_is_read_anew(
    content: bytes, password: str, tmp_path: Path
) -> None:
    """Found in use: of a file with Windows' line end, a carriage return became part of it."""
    secret = tmp_path / "password"
    secret.write_bytes(content)
    assert read_secrets(EtcdAccess((), password_file=secret)).password == password


@pytest.mark.parametrize(("content", "expected"), WRONG_PASSWORDS)
def test_a_file_that_is_no_password_is_told_without_its_content(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_bytes(content)
    for kind in ("etcd", "http"):
        name = f"{kind}-password-file"
        flags = {**BASE, f"{kind}-user": "root", name: str(secret)}
        (issue,) = issues_of(None, flags)
        assert issue == Issue(f"--{name}", name, str(secret), expected)
        assert SECRET not in told(None, flags)
    with pytest.raises(EtcdError) as caught:
        read_secrets(EtcdAccess((), password_file=secret))
    assert str(caught.value) == f"etcd-password-file {secret}: expected {expected}"


@pytest.mark.parametrize("prefix", ["etcd", "http"])
def test_a_password_given_both_ways_is_told(prefix: str, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    flags = {
        **BASE,
        f"{prefix}-user": "root",
        f"{prefix}-password": SECRET,
        f"{prefix}-password-file": str(secret),
    }
    name = f"{prefix}-password-file"
    expected = f"either it or {prefix}-password, not both"
    assert issues_of(None, flags) == (Issue(f"--{name}", name, str(secret), expected),)


@pytest.mark.parametrize(
    "text",
    [
        f"etcd-user: root\netcd-password: {SECRET}\n",
        f"etcd-password: {SECRET}\n",
        f"etcd-password: [{SECRET}]\n",
        f"etcd-password: {SECRET}\netcd-password: {SECRET}\n",
        f"etcd-pasword: {SECRET}\n",
        f"http-password: {{{SECRET}: {SECRET}}}\n",
        f"etcd-password: {SECRET}: {SECRET}\n",
        f"etcd-password: '{SECRET}\n",
        f'etcd-password: "{SECRET}\\h"\n',
        f"etcd-password: %{SECRET}\n",
        f"etcd-password: !!int {SECRET}\n",
        f"http-url: http://root:{SECRET}@127.0.0.1/\n",
        f"http-url: http://:{SECRET}@127.0.0.1/\n",
        f"http-url: ftp://root:{SECRET}@127.0.0.1/\n",
        f"http-url: [http://root:{SECRET}@127.0.0.1/]\n",
        f"dcs-endpoints: http://root:{SECRET}@a,http://root:{SECRET}@b\n",
        f"dcs-endpoints: [http://root:{SECRET}@a, http://root:{SECRET}@b]\n",
        f"etcd-password: *{SECRET}\n",
        f"etcd-password: &{SECRET}\n",
        f"etcd-password: &{SECRET} x\netcd-user: &{SECRET} y\n",
        f"etcd-password: !{SECRET}!1\n",
        f"etcd-password: !{SECRET}\n",
        f"etcd-password: !<{SECRET}\n",
        f"etcd-password: {SECRET}\n  {SECRET}: {SECRET}\n",
        f"etcd-password: |{SECRET}\n",
        f"etcd-password: @{SECRET}\n",
        f"etcd-password: `{SECRET}\n",
        f"etcd-password: ]{SECRET}\n",
        f"etcd-password: {{{SECRET}\n",
        f"etcd-password: [{SECRET}\n",
        f"etcd-password: '{SECRET}' '{SECRET}'\n",
        f"etcd-password {SECRET}\n",
        f"http-url: http://root:a/{SECRET}@127.0.0.1/\n",
        f"http-url: http://root:a@{SECRET}@127.0.0.1/\n",
        f"http-url: http://root:a {SECRET}@127.0.0.1/\n",
        f"http-url: http://root:{SECRET}@127.0.0.1:x/\n",
        f"http-url: http://root:{SECRET}@[127.0.0.1/\n",
        f'http-url: "http://root:a\\n{SECRET}@127.0.0.1/"\n',
        f"http-url: root:{SECRET}@127.0.0.1/\n",
        f"dcs-endpoints: root:{SECRET}@a\n",
        f"{{etcd-password:{SECRET}}}\n",
        f"postgres-conn-url: postgresql://a:{SECRET}@b/\n",
        f"postgres-conn-url: host=a password={SECRET}\n",
        f"postgres-conn-url: host=a password='{SECRET}\n",
        f"postgres-conn-url: host=a pasword={SECRET}\n",
        f"postgres-conn-url: [password={SECRET}]\n",
        f"pgbouncer-conn-url: host=a password = '{SECRET} {SECRET}'\n",
    ],
)
def test_a_secret_is_never_shown(text: str, tmp_path: Path) -> None:
    key = text.partition(":")[0]
    flags = base_for(key) if key in KIND_OF else BASE
    flags = {key: value for key, value in flags.items() if not text.startswith(key)}
    assert SECRET not in told(file_in(tmp_path, text), flags)


def test_a_secret_in_a_flag_or_a_variable_is_never_shown() -> None:
    wrong = {"http-url": f"ftp://root:{SECRET}@a/", "dcs-endpoints": f"http://root:{SECRET}@a"}
    from_flags = issues_of(None, {**BASE, **wrong, "http-password": SECRET})
    flags = {key: value for key, value in BASE.items() if key not in wrong}
    variables = {variable(key): value for key, value in wrong.items()}
    from_environment = issues_of(None, flags, {**variables, "YAIM_HTTP_PASSWORD": SECRET})
    assert (len(from_flags), len(from_environment)) == (3, 3)
    assert SECRET not in f"{from_flags} {from_environment}"


def test_secrets_are_masked_and_a_url_keeps_the_rest() -> None:
    flags = {
        **BASE,
        "etcd-user": "root",
        "etcd-password": SECRET,
        "http-url": f"http://monitor:{SECRET}@127.0.0.1:8008/a",
    }
    shown = {key: value for key, value, _ in load(flags, {}, None).shown()}
    assert {key: shown[key] for key in ("etcd-user", "etcd-password", "http-url")} == {
        "etcd-user": "root",
        "etcd-password": MASK,
        "http-url": f"http://monitor:{MASK}@127.0.0.1:8008/a",
    }


def test_a_password_from_a_file_is_masked_too(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    flags = {**BASE, "http-user": "monitor", "http-password-file": str(secret)}
    rows = load(flags, {}, None).shown()
    assert [row for row in rows if row[0].startswith("http-password")] == [
        ("http-password", MASK, "--http-password-file"),
        ("http-password-file", str(secret), "--http-password-file"),
    ]


@pytest.mark.parametrize("password", ["012345", "1_000", "1:30", "0x1F", "!geheim"])
def test_a_password_without_quotes_is_taken_as_it_is_written_or_refused(
    password: str, tmp_path: Path
) -> None:
    file = file_in(tmp_path, f"etcd-user: root\netcd-password: {password}\n")
    try:
        loaded = load(BASE, {}, file)
    except ConfigError:
        return
    assert loaded.value("etcd-password") == password
