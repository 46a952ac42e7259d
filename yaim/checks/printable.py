"""What comes from outside, made fit for a reason: it goes to the log, to etcd and to terminals."""

MOST = 160


def printable(text: str | bytes) -> str:
    """In one line, of bounded length, without anything that steers a terminal."""
    if isinstance(text, bytes):
        text = text[: 4 * MOST].decode(errors="replace")
    return "".join(each if each.isprintable() else "?" for each in text[:MOST])
