"""The package file itself."""

import hashlib
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
    subprocess.run((str(ROOT / "packaging/build-deb"), str(tmp_path)), check=True)
    (again,) = tmp_path.glob("*.deb")
    assert hashlib.sha256(again.read_bytes()).digest() == (
        hashlib.sha256(packages.present.read_bytes()).digest()
    )


def test_its_version_is_that_of_the_program(packages: Packages) -> None:
    show = ("dpkg-deb", "--field", str(packages.present), "Version")
    assert subprocess.run(show, capture_output=True, text=True).stdout == f"{__version__}\n"
