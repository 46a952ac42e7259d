"""Which kind of store, or of manager, is chosen, and the values of its keys.

The keys of all kinds may be given as flags, in the environment and in the file; those that only
other kinds have are told.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from yaim.config.file import Given, Issue
from yaim.config.values import Values
from yaim.config_keys import InvalidValue, KeyGroup, keys_in, one_of


class Kind(Protocol):
    """An entry of STORES or MANAGERS."""

    @property
    def settings(self) -> type[KeyGroup]: ...


def chosen_kind(
    told_by: str, kinds: Mapping[str, Kind], given: Mapping[str, Given], default: str
) -> str:
    """The kind that the key `told_by` names; the default where it is not given or wrong."""
    if told_by not in given:
        return default
    try:
        return one_of(*kinds)(given[told_by].value)
    except InvalidValue:
        return default


def group_of(kind: Kind, values: Values) -> KeyGroup:
    """The values of the keys of this kind, which are taken out of `values`."""
    names = [name for name in keys_in(kind.settings) if name in values]
    return kind.settings(**{name.replace("-", "_"): values.pop(name) for name in names})


def foreign_keys(
    told_by: str, kinds: Mapping[str, Kind], chosen: str, given: Mapping[str, Given]
) -> Iterator[Issue]:
    """Yields the given keys that only other kinds have."""
    own = keys_in(kinds[chosen].settings)
    for name, each in given.items():
        having = [kind for kind, entry in kinds.items() if name in keys_in(entry.settings)]
        if having and name not in own:
            expected = f"{told_by} {' or '.join(having)}, or not this key"
            yield Issue(each.where, name, "", expected)
