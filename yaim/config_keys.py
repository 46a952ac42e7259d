"""The keys of the configuration: what each key is for, and which values it takes.

A group of keys is a dataclass whose fields are made by key() and required(): the configuration
itself, and the settings of each kind of check, store and manager. This file reads no configuration;
yaim/config/load.py does.
"""

import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

MASK = "********"


class InvalidValue(ValueError):
    """A key does not take this value; the text says what is expected."""


class Denied(InvalidValue):
    """It may be a good value, but we may not look."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with values that are each right by themselves."""

    key: str
    """The key that has to be changed or added."""
    expected: str
    because: str = ""
    """The other key. Its place in the file is told if the first key stands nowhere."""


class Applied(Enum):
    """What makes a changed key count."""

    RELOAD = "reload"
    """SIGHUP does, and a restart."""
    RESTART = "restart"
    """The process has to be started anew."""
    STOP = "stop and start"
    """The node has to be stopped, as a restart goes on with what it has."""


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """A key of the configuration."""

    help: str
    read: Callable[[Any], Any]
    """Makes the value from text, or from a list of texts. Raises InvalidValue."""
    is_secret: bool = False
    applied: Applied = Applied.RELOAD
    mask: Callable[[str], str] = str
    """Takes the secrets out of the value's text."""
    default: Any = None

    @property
    def is_reloaded(self) -> bool:
        return self.applied is Applied.RELOAD

    @property
    def expected(self) -> str:
        """Which values it takes, in the words that a wrong one is refused with."""
        try:
            self.read(None)
        except InvalidValue as invalid:
            return str(invalid)
        return ""

    def shown(self, value: Any) -> str:
        """The value for people, with its secrets masked."""
        if value is None:
            return ""
        if self.is_secret:
            return MASK
        if isinstance(value, tuple):
            return ",".join(str(each) for each in value)
        return self.mask(str(value))

    def quoted(self, given: Any) -> str:
        """A value that the key does not take, with its secrets masked: what stands before an @ may
        be a secret."""
        if self.is_secret:
            return MASK
        return self.mask(re.sub(r"(?s)^(\W*\w*://)?.*@", rf"\g<1>{MASK}@", repr(given)))


class KeyGroup(Protocol):
    """The values of a group of keys. Two are equal if nothing has changed between them."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong with values that are each right by themselves. A required value that
        is missing or wrong is None here."""


def key(
    help: str,
    read: Callable[[Any], Any],
    default: Any = None,
    *,
    secret: bool = False,
    applied: Applied = Applied.RELOAD,
    mask: Callable[[str], str] = str,
) -> Any:
    """A field of a group: a key that has a default."""
    return field(
        default=default, metadata={"key": ConfigKey(help, read, secret, applied, mask, default)}
    )


def required(help: str, read: Callable[[Any], Any], *, mask: Callable[[str], str] = str) -> Any:
    """A field of a group: a key without which the others of its group make no sense."""
    return field(metadata={"key": ConfigKey(help, read, mask=mask)})


def group_within(default: Callable[[], KeyGroup], *groups: type) -> Any:
    """A field of a group whose value is one of these groups: all their keys are keys of the outer
    group as well, at this place in the order."""
    return field(default_factory=default, metadata={"groups": groups})


def keys_in(group: type, prefix: str = "") -> Mapping[str, ConfigKey]:
    """The keys of a group by name, with dashes, in the order of its fields. Where several groups
    within it have a key of the same name, the first one's is told."""
    found: dict[str, ConfigKey] = {}
    for each in fields(group):
        if "key" in each.metadata:
            found[prefix + each.name.replace("_", "-")] = each.metadata["key"]
        for inner in each.metadata.get("groups", ()):
            for name, inner_key in keys_in(inner, prefix).items():
                found.setdefault(name, inner_key)
    return found


def required_of(group: type, prefix: str = "") -> Iterator[str]:
    """The names of the keys of a group that have no default."""
    for each in fields(group):
        if "key" in each.metadata and each.default is MISSING:
            yield prefix + each.name.replace("_", "-")


def both_or_neither(group: Any, prefix: str, one: str, other: str) -> Iterator[Fault]:
    """Faults of two keys that make no sense without each other."""
    values = {name: getattr(group, name.replace("-", "_")) for name in (one, other)}
    for name, missing in ((one, other), (other, one)):
        if values[name] is not None and values[missing] is None:
            is_from_file = getattr(group, f"{name.replace('-', '_')}_file", None) is not None
            given = f"{prefix}{name}-file" if is_from_file else f"{prefix}{name}"
            or_file = f", or {prefix}{missing}-file," if missing.endswith("password") else ""
            yield Fault(f"{prefix}{missing}", f"one{or_file} together with {given}", given)


# --- what a value may be -------------------------------------------------------------------


def whole(least: int, most: int) -> Callable[[Any], int]:
    """Reads a whole number."""

    def read(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
            number = int(value)
            if least <= number <= most:
                return number
        raise InvalidValue(f"a whole number from {least} to {most}")

    return read


def prefix_length(least: int, most: int) -> Callable[[Any], int]:
    """Reads a prefix length, and tells which one a mask of IPv4 is."""

    def read(value: Any) -> int:
        try:
            return whole(least, most)(value)
        except InvalidValue as invalid:
            mask = re.fullmatch(r"[0-9]+(\.[0-9]+){3}", value) if isinstance(value, str) else None
            try:
                given = ip_network(f"0.0.0.0/{value}").prefixlen if mask else None
            except ValueError:
                given = None
            if given is None:
                raise
            raise InvalidValue(f"{invalid} (for this mask: {given})") from None

    return read


def text(
    pattern: str = r"(?s).+", expected: str = "text that is not empty"
) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise InvalidValue(expected)
        if "\0" in value:
            raise InvalidValue(f"{expected}, without a NUL character")
        if re.search("[\ud800-\udfff]", value):
            raise InvalidValue(f"{expected}, all of it Unicode: no halves of surrogate pairs")
        return value

    return read


any_text = text(r"(?s).*", "text")


def one_of(*choices: str) -> Callable[[Any], str]:
    """Reads one of these words, in upper or lower case."""

    def read(value: Any) -> str:
        for choice in choices:
            if isinstance(value, str) and value.lower() == choice.lower():
                return choice
        raise InvalidValue(f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])

    return read


def several(read_one: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Reads a list, or text with commas."""

    def read(value: Any) -> tuple[Any, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list) or not items:
            raise InvalidValue("a list, or text with commas")
        if not all(isinstance(item, str) for item in items):
            raise InvalidValue("a list without lists in it, or text with commas")
        found = [read_one(item.strip()) for item in items]
        return tuple(dict.fromkeys(found))

    return read


def url(value: Any) -> str:
    try:
        parts = urlsplit(value if isinstance(value, str) and not re.search(r"\s", value) else "")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return str(value)
    except ValueError:
        pass
    raise InvalidValue("a URL that begins with http:// or https://")


def mask_url(shown: str) -> str:
    """The URL with its password masked, also one with a slash in it."""
    return re.sub(r"(://[^:/@]*:).*@", rf"\g<1>{MASK}@", shown)


def readable_file(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise InvalidValue("the path of a file")
    path = Path(value).absolute()
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InvalidValue("a regular file")
        with path.open("rb"):
            return path
    except PermissionError:
        raise Denied(why_denied(path)) from None
    except OSError as error:
        raise InvalidValue(f"a file that can be read ({error.strerror})") from None
    except ValueError:
        raise InvalidValue("the path of a file") from None


def why_denied(file: Path) -> str:
    """Which right is missing to read a file, on it or on a directory above it, and who gives it.
    Reads as what is expected."""
    at = next((each for each in reversed(file.absolute().parents) if not _may(each, os.X_OK)), file)
    what = "look into" if at != file else "read"
    try:
        status = at.stat()
    except OSError:
        return f"to be able to {what} {at}"
    owner, group = _user_of(status.st_uid), _group_of(status.st_gid)
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    is_for_group = status.st_mode & (stat.S_IXGRP if at != file else stat.S_IRGRP)
    missing = f"is neither root nor in group {group}" if is_for_group else "is not root"
    me = _user_of(os.geteuid())
    return f"to be able to {what} {at}: it is {owner}:{group} {mode}, and {me} {missing}"


def _may(path: Path, right: int) -> bool:
    return os.access(path, right, effective_ids=True)


def _user_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group_of(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"


def absolute_path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidValue("an absolute path")
    return Path(value)
