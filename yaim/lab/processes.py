"""What the kernel tells of a process (proc(5)): its children and its command line."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """The child processes of all threads of a process."""
    found = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += (thread / "children").read_text().split()
    except OSError:
        pass
    return [int(child) for child in found]


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def command_line(pid: int) -> str:
    """The arguments of a process, with spaces between them; empty if it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()
