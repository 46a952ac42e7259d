"""Who may not read a file is told which one, and which right is missing."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.config.samples import BASE
from yaim.cli.options import EX_CONFIG, EX_NO_PERMISSION, load_or_exit
from yaim.config.load import Purpose

DAEMON, ADM = 1, 4
"""A user and a group that every Debian has by these numbers."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that everybody can look into, which pytest's are not."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def being_daemon() -> Iterator[None]:
    """A user in no group but its own. Root takes it back at the end."""
    groups = os.getgroups()
    try:
        os.setgroups([])
        os.setegid(DAEMON)
        os.seteuid(DAEMON)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def refused(
    capsys: pytest.CaptureFixture[str], purpose: Purpose, **options: object
) -> tuple[object, str]:
    with being_daemon(), pytest.raises(SystemExit) as ended:
        load_or_exit(argparse.Namespace(**options), purpose)
    return ended.value.code, capsys.readouterr().err


def test_a_file_for_a_group_names_the_group(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was "expected to be able to read it", and 78, as if it were wrong."""
    file = directory / "yaim.yml"
    file.write_text("dcs-clustername: pg\n")
    file.chmod(0o640)
    os.chown(file, 0, ADM)
    assert refused(capsys, Purpose.CLUSTER, config=str(file)) == (
        EX_NO_PERMISSION,
        f"yaim: {file}: the file: expected to be able to read {file}: it is root:adm 0640, and"
        " daemon is neither root nor in group adm\n",
    )


def test_a_file_of_root_alone_says_that(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = directory / "yaim.yml"
    file.touch(mode=0o600)
    _, said = refused(capsys, Purpose.CLUSTER, config=str(file))
    assert said.endswith("it is root:root 0600, and daemon is not root\n")


def test_a_directory_that_is_closed_is_the_one_that_is_named(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / "yaim.yml").touch()
    _, said = refused(capsys, Purpose.CLUSTER, config=str(closed / "yaim.yml"))
    assert f"to be able to look into {closed}: it is root:root 0700" in said


def test_a_file_that_yaim_yml_names_is_no_mistake_in_it_either(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = directory / "password"
    secret.write_text("x\n")
    secret.chmod(0o600)
    flags = {"dcs_clustername": "pg", "etcd_user": "root", "etcd_password_file": str(secret)}
    status, said = refused(capsys, Purpose.CLUSTER, **flags)
    assert (status, said.splitlines()) == (
        EX_NO_PERMISSION,
        [
            f"yaim: --etcd-password-file: etcd-password-file: got {str(secret)!r}, expected to be"
            f" able to read {secret}: it is root:root 0600, and daemon is not root"
        ],
    )


def test_something_wrong_beside_it_is_still_a_wrong_configuration(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = directory / "key"
    secret.touch(mode=0o600)
    flags = {name.replace("-", "_"): value for name, value in BASE.items()}
    flags |= {"http_ca_file": str(secret), "ttl": "1"}
    assert refused(capsys, Purpose.NODE, **flags)[0] == EX_CONFIG
