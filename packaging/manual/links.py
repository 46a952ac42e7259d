"""Makes the links in the packaged pages lead somewhere: packaging/manual/links.py DIRECTORY

In the repository they lead to files beside the page. Examples and the changelog are elsewhere in a
Debian package, and the source code is not in it: a link to that becomes its text. Run when the
pages are where they are to be; what it has changed once it leaves as it is.
"""

import os
import re
import sys
from functools import partial
from pathlib import Path

LINK = re.compile(r"(!?)\[([^]]*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
CHANGELOG = {"CHANGELOG.md": "changelog.gz"}
"""dh_installchangelogs and dh_compress give it another name, later."""


def main(directory: Path) -> None:
    for page in sorted(directory.rglob("*.md")):
        page.write_text(LINK.sub(partial(_leading, page, directory), page.read_text()))


def _leading(page: Path, directory: Path, link: re.Match[str]) -> str:
    """The link as it is to stand there."""
    mark, text, target, fragment = link.groups(default="")
    if re.match(r"[a-z]+:", target) or target in CHANGELOG.values():
        return link[0]
    if (page.parent / target).exists():
        return link[0]
    name = target.rpartition("/")[2]
    elsewhere = directory / CHANGELOG.get(name, f"examples/{name}")
    if name in CHANGELOG or elsewhere.exists():
        return f"{mark}[{text}]({os.path.relpath(elsewhere, page.parent)}{fragment})"
    return text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIRECTORY")
    main(Path(sys.argv[1]))
