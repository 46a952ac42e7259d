"""The pages in the package are the project's, and their links lead somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "packaging/deb"
HERE = re.compile(r"\]\(([^()\s#:]+)(?:#[^()\s]*)?\)")


def listed(name: str) -> list[list[str]]:
    return [line.split() for line in (DEBIAN / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's directory of documents, as debhelper makes it: dh_installdocs(1) puts each file
    there under its own name, dh_install(1) where the line says."""
    directory = tmp_path_factory.mktemp("package") / "usr/share/doc/yaim"
    directory.mkdir(parents=True)
    places = [(source, directory) for (source,) in listed("yaim.docs")]
    places += [(source, directory / "examples") for (source,) in listed("yaim.examples")]
    places += [
        (source, directory.parents[3] / to)
        for *sources, to in listed("yaim.install")
        for source in sources
        if to.startswith("usr/share/doc/")
    ]
    for source, to in places:
        for each in (DEBIAN if source.startswith("debian/") else ROOT).glob(
            source.removeprefix("debian/")
        ):
            to.mkdir(parents=True, exist_ok=True)
            assert not (to / each.name).exists(), f"two files called {each.name}"
            if each.is_dir():
                shutil.copytree(each, to / each.name)
            else:
                shutil.copy(each, to)
    program = (sys.executable, str(ROOT / "packaging/manual/links.py"), str(directory))
    for _ in range(2):
        subprocess.run(program, check=True)
    # dh_compress(1)
    (directory / "changelog.gz").touch()
    return directory


def test_its_readme_is_the_projects(pages: Path) -> None:
    def head(file: Path) -> list[str]:
        return file.read_text().splitlines()[:6]

    assert head(pages / "README.md") == head(ROOT / "README.md")
    assert head(pages / "helper/README.md") == head(ROOT / "helper/README.md")


def test_each_link_leads_to_something_in_the_package(pages: Path) -> None:
    found = [
        (page, target) for page in pages.rglob("*.md") for target in HERE.findall(page.read_text())
    ]
    assert len(found) > 50
    assert [(str(p), to) for p, to in found if not (p.parent / to).exists()] == []


def test_what_is_elsewhere_is_found_there_and_source_code_is_only_named(pages: Path) -> None:
    readme = (pages / "README.md").read_text()
    assert "[helper.yml](examples/helper.yml.example)" in readme
    assert "(changelog.gz)" in readme
    assert "](../tests/" not in (pages / "docs/testing.md").read_text()


def test_each_link_leads_to_something_in_the_repository() -> None:
    tracked = subprocess.run(
        ("git", "ls-files", "*.md"), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    found = [(page, to) for page in tracked for to in HERE.findall((ROOT / page).read_text())]
    assert [(page, to) for page, to in found if not ((ROOT / page).parent / to).exists()] == []
