"""Times as people and programs are told them: UTC, whole seconds, RFC 3339. Pure."""

from datetime import UTC, datetime

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def written(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def read(text: str) -> datetime | None:
    """None: it is no such time."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def span(seconds: float) -> str:
    """A length of time in one or two units, such as `3 min` or `2 d 4 h`."""
    left = max(0, int(seconds))
    told: list[str] = []
    for unit, length in _UNITS:
        if left >= length and len(told) < 2:
            told.append(f"{left // length} {unit}")
            left %= length
        elif told:
            break
    return " ".join(told) or "0 s"


def since(text: str, now: datetime) -> str:
    """A time that stands in etcd, and how long ago that is; as it is, if it is none."""
    at = read(text)
    if at is None:
        return text
    return f"{written(at)} ({span((now - at).total_seconds())} ago)"
