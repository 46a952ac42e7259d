"""The commands of README.md: what a reader types is what the tests do."""

import re

from tests.deb.hosts import ROOT


def commands(heading: str) -> str:
    """The indented lines below a heading, up to the next one."""
    text = (ROOT / "README.md").read_text()
    _, found, rest = text.partition(f"\n### {heading}\n")
    assert found, f"README.md has no heading {heading!r}"
    section = re.split(r"\n#+ ", rest)[0]
    lines = [line for line in section.splitlines() if line.startswith("    ") or not line]
    return "\n".join(line.removeprefix("    ") for line in lines) + "\n"
