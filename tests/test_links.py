"""The pages of this repository name only files and headings that exist. Reads files, nothing else.

Checked are relative links, their anchors, and paths that begin with a folder of this repository. A
heading's anchor is made as GitHub makes it. Addresses of web pages are not looked up.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("yaim", "helper", "tests", "docs", "bench", "packaging")
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md")))
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"(?ms)^```.*?^```$|``.+?``|`[^`]+`")
PATH = re.compile(rf"(?<![\w./~*-])((?:{'|'.join(FOLDERS)})/[\w./*-]*)")
"""A path such as tests/core or helper/PROTOCOL.md, in code or in plain text. Paths of a host, such
as /etc/yaim/yaim.yml, begin before these folders and do not match."""
MODULE = re.compile(r"`((?:\w+/)+\w+\.py)`")
"""A path that may begin at a folder within these, such as serve/server.py in helper/README.md."""


def read(page: str) -> str:
    return (ROOT / page).read_text()


def links_of(page: str) -> list[str]:
    """Returns the targets of a page's links, without those to other hosts."""
    return [
        link for link in LINK.findall(CODE.sub("", read(page))) if not re.match(r"[a-z]+:", link)
    ]


def anchors_of(text: str) -> set[str]:
    """Returns the anchors of a page's headings."""
    without_blocks = re.sub(r"(?ms)^```.*?^```$", "", text)
    anchors: set[str] = set()
    for heading in re.findall(r"(?m)^#+ +(.*)$", without_blocks):
        kept = re.sub(r"[^\w\s-]", "", heading.lower())
        anchor = re.sub(r"\s", "-", kept)
        repeated = (f"{anchor}-{count}" for count in range(1, len(anchors) + 1))
        anchors.add(
            anchor if anchor not in anchors else next(n for n in repeated if n not in anchors)
        )
    return anchors


def paths_in(text: str) -> list[str]:
    return [path.rstrip(".-") for path in PATH.findall(text)]


def exists(path: str) -> bool:
    """Whether the repository has a file or folder of this path, or one that matches its pattern."""
    return any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    dead = []
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text())):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_is_of_a_file_that_exists(page: str) -> None:
    assert [path for path in paths_in(read(page)) if not exists(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_module_is_a_file_that_exists(page: str) -> None:
    named = set(MODULE.findall(read(page)))
    found = {path for path in named for name in FOLDERS if any((ROOT / name).rglob(path))}
    assert named - {path for path in named if exists(path)} - found == set()


def test_all_pages_are_checked() -> None:
    assert {"README.md", "docs/operating.md", "helper/PROTOCOL.md"} <= set(PAGES)
    assert any(links_of(page) for page in PAGES)
    assert "set-it-up" in anchors_of(read("README.md"))


def test_anchors_are_those_of_the_headings() -> None:
    text = "# What it's for: a, `b`\n\n## Twice\n```\n# no heading\n```\n## Twice\n"
    assert anchors_of(text) == {"what-its-for-a-b", "twice", "twice-1"}


def test_paths_of_a_host_are_none_of_the_repository() -> None:
    text = "`/etc/yaim/yaim.yml` ~/yaim/x https://example.org/docs/x.md tests/core, (helper/a.py)."
    assert paths_in(text) == ["tests/core", "helper/a.py"]
