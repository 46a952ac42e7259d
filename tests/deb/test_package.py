"""The package file itself."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.deb.conftest import Packages
from tests.deb.hosts import ROOT
from yaim import __version__


def test_lintian_has_nothing_to_say(packages: Packages) -> None:
    done = subprocess.run(
        (
            *("lintian", "--display-info", "--tag-display-limit", "0"),
            *("--fail-on", "error,warning,info", str(packages.present)),
        ),
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_two_builds_are_the_same(packages: Packages, tmp_path: Path) -> None:
    """The checkouts are of different days."""
    checkout = tmp_path / "checkout"
    listed = subprocess.run(
        ("git", "-c", f"safe.directory={ROOT}", "ls-files"),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        copy = checkout / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy, follow_symlinks=False)
        os.utime(copy, (1e9, 1e9))
    for command in (("git", "init", "-q"), ("git", "add", "-f", ".")):
        subprocess.run(command, cwd=checkout, check=True)
    subprocess.run((str(checkout / "packaging/build-deb"), str(tmp_path)), check=True)
    (again,) = tmp_path.glob("*.deb")
    assert hashlib.sha256(again.read_bytes()).digest() == (
        hashlib.sha256(packages.present.read_bytes()).digest()
    )


def test_its_version_is_that_of_the_program(packages: Packages) -> None:
    show = ("dpkg-deb", "--field", str(packages.present), "Version")
    assert subprocess.run(show, capture_output=True, text=True).stdout == f"{__version__}\n"
