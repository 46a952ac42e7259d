"""What comes from outside, made fit to be shown: it goes to the log, to etcd and to terminals."""


def printable(text: str, most: int | None = 160) -> str:
    """In one line, without anything that steers a terminal; of at most so many characters."""
    return "".join(each if each.isprintable() else "?" for each in text[:most])
