"""What comes from outside, as it is shown."""

import subprocess

from yaim.text import shell_word


def test_a_shell_reads_back_what_it_is_shown() -> None:
    """Also two words that differ in what cannot be shown, one of them not UTF-8."""
    words = (
        b"/service/yaim/nodes/a'\\\x1b[2J\xff \n",
        b"/service/yaim/nodes/a'\\\x1b[2J\xfe \n",
        *(b"/service/yaim/nodes/\\xff b", "é $(x) `x` *".encode(), b"", b"\x85", b"a\x0bcd"),
    )
    shown = [shell_word(each.decode(errors="surrogateescape")) for each in words]
    assert all(each.isprintable() for each in shown)
    script = "printf '%s\\0' " + " ".join(shown)
    done = subprocess.run(("bash", "-c", script), capture_output=True, check=True)
    assert tuple(done.stdout.split(b"\0")) == (*words, b"")
