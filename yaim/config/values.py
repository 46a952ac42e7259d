"""Makes the values of a group of keys from what was given, and tells what is wrong with them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yaim.config.file import NOTHING, Given, Issue
from yaim.config_keys import ConfigKey, Denied, Fault, InvalidValue
from yaim.host.password_file import PasswordFileError, read_password


def origins_of(given: Mapping[str, Given]) -> dict[str, str]:
    """Where each value comes from, a password's file included."""
    origins = {name: each.where for name, each in given.items()}
    for name, where in list(origins.items()):
        if name.endswith("-password-file"):
            origins[name.removesuffix("-file")] = where
    return origins


class Values(dict[str, Any]):
    """The values of those keys that were given and are right, by key name."""

    def __init__(
        self,
        keys: Mapping[str, ConfigKey],
        given: Mapping[str, Given],
        where: str,
        issues: list[Issue],
    ) -> None:
        """`where` is the place that is told for a key that stands nowhere. What is wrong is added
        to the issues."""
        super().__init__()
        self._keys = keys
        self._given = given
        self._where = where
        self._issues = issues
        self._first = len(issues)
        for name, key in keys.items():
            if name not in given:
                continue
            try:
                self[name] = key.read(given[name].value)
            except InvalidValue as invalid:
                shown, is_denied = key.quoted(given[name].value), isinstance(invalid, Denied)
                issues.append(Issue(given[name].where, name, shown, str(invalid), is_denied))
        for name in keys:
            if name.endswith("-password-file") and name in self:
                self._read_password(name.removesuffix("-file"), self[name])

    def is_wrong(self, name: str) -> bool:
        """Whether a fault of this key was told already."""
        return any(issue.key == name for issue in self._issues[self._first :])

    def require(self, name: str, expected: str) -> None:
        if name not in self and not self.is_wrong(name):
            self._issues.append(Issue(self._where, name, NOTHING, expected))

    def refuse(self, faults: Iterable[Fault]) -> None:
        """Tells what does not fit together, but not what only follows from what was told
        already."""
        for fault in faults:
            name = fault.key
            if any(map(self.is_wrong, (name, f"{name}-file", fault.because))):
                continue
            is_given = name in self._given and name in self._keys
            shown = self._keys[name].quoted(self._given[name].value) if is_given else NOTHING
            where = self.where(name, fault.because)
            self._issues.append(Issue(where, name, shown, fault.expected))

    def where(self, *names: str) -> str:
        """The place of the first of these keys that was given."""
        return next((self._given[name].where for name in names if name in self._given), self._where)

    def _read_password(self, name: str, file: Path) -> None:
        file_name = f"{name}-file"
        expected = f"either it or {name}, not both"
        if name not in self:
            try:
                self[name] = read_password(file)
                return
            except PasswordFileError as error:
                expected = str(error)
        self._issues.append(Issue(self.where(file_name), file_name, str(file), expected))
