"""Which checks there are, as the configuration tells: one check of each kind that checker-type
names, with its keys beside all others; or the checks that are listed in `checks`, each with keys of
its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from yaim.checks.kinds import KINDS
from yaim.config.file import Given, Issue, Section
from yaim.config.values import Values, origins_of
from yaim.config_keys import (
    ConfigKey,
    Fault,
    KeyGroup,
    key,
    keys_in,
    one_of,
    required_of,
    text,
    whole,
)

MIN_ATTEMPT_MS = 100
DEFAULT_RETRY_NUM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTiming:
    """How often, how long and how patiently a check is made: for all checks, or for one of the
    list."""

    interval: int = key(
        "milliseconds from one check of the service to the next; the lease is refreshed at least as"
        " often",
        whole(100, 3_600_000),
        1000,
    )
    timeout: int = key(
        "milliseconds that a check may take, with all its tries; default: the ttl",
        whole(MIN_ATTEMPT_MS, 3_600_000),
    )
    retry_num: int = key(
        "how often a check that got no answer is repeated before it counts",
        whole(0, 100),
        DEFAULT_RETRY_NUM,
    )
    retry_after: int = key("milliseconds between such tries", whole(0, 60_000), 250)
    rise: int = key(
        "how many good results in a row make a failed check good again", whole(1, 100), 1
    )
    fall: int = key("how many bad results in a row make a good check fail", whole(1, 100), 1)

    def faults(self) -> Iterator[Fault]:
        num, after = self.retry_num, self.retry_after
        least = num * after + (num + 1) * MIN_ATTEMPT_MS
        if self.timeout < least:
            yield Fault(
                "timeout",
                f"at least {least} ms for {num + 1} tries (retry-num) of {MIN_ATTEMPT_MS} ms each"
                f" and {num} pauses (retry-after) of {after} ms; it is {self.timeout} ms (default:"
                " the ttl)",
                "retry-num" if num != DEFAULT_RETRY_NUM else "retry-after",
            )


TIMING_KEYS: Mapping[str, ConfigKey] = keys_in(CheckTiming)
KIND_KEYS: Mapping[str, Mapping[str, ConfigKey]] = {
    kind: keys_in(each.settings, f"{kind}-") for kind, each in KINDS.items()
}
KIND_OF: Mapping[str, str] = {name: kind for kind, keys in KIND_KEYS.items() for name in keys}
one_of_kinds = one_of(*KINDS)
_NAMING_KEYS: Mapping[str, ConfigKey] = {
    "type": ConfigKey("the kind of check", one_of_kinds),
    "name": ConfigKey(
        "what it is called in logs and status; default: its type",
        text(r"[A-Za-z0-9_.-]{1,40}", "letters, digits, _ . -, at most 40"),
    ),
}
LISTED_KEYS = (*_NAMING_KEYS, *TIMING_KEYS, *KIND_OF)
"""The keys that one of the listed checks may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig(CheckTiming):
    """One check."""

    name: str
    kind: str
    settings: KeyGroup
    is_listed: bool = False
    """A check of the list has keys of its own."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Key to the place that its value comes from, as in Config."""

    def shown(self) -> Iterator[tuple[str, str, str]]:
        """Key, value and origin of the check's keys, with secrets masked."""
        if self.is_listed:
            yield f"{self.name}: type", self.kind, self.origins["type"]
            for name, each in TIMING_KEYS.items():
                value = each.shown(getattr(self, _field(name)))
                yield f"{self.name}: {name}", value, self.origins.get(name, "")
        prefix = f"{self.name}: " if self.is_listed else ""
        for name, each in KIND_KEYS[self.kind].items():
            value = each.shown(getattr(self.settings, _field(name, f"{self.kind}-")))
            yield prefix + name, value, self.origins.get(name, "")


def read_by_kind(
    kinds: Sequence[str],
    timing: CheckTiming,
    given: Mapping[str, Given],
    where: str,
    issues: list[Issue],
) -> tuple[CheckConfig, ...]:
    """One check of each of these kinds, which has the kind's name. Adds to the issues what is wrong
    with the keys of the kinds."""
    for name, each in given.items():
        if kinds and name in KIND_OF and KIND_OF[name] not in kinds:
            expected = f"checker-type {KIND_OF[name]} as well, or not this key"
            issues.append(Issue(each.where, name, "", expected))
    return tuple(
        CheckConfig(
            name=kind,
            kind=kind,
            settings=_settings(
                kind, Values(KIND_KEYS[kind], given, where, issues), "checker-type", given, issues
            ),
            origins=origins_of(given),
            **_timing_of(timing),
        )
        for kind in kinds
    )


def read_listed(
    timing: CheckTiming, given: Mapping[str, Given], issues: list[Issue]
) -> tuple[CheckConfig, ...]:
    """The checks of the list. Adds to the issues what is wrong with it, and which keys stand beside
    it that belong into it."""
    listed = given["checks"]
    for name, each in given.items():
        if name in KIND_OF or name == "checker-type":
            expected = f"it in one of the checks of the list ({listed.where}), not beside it"
            issues.append(Issue(each.where, name, "", expected))
    sections = listed.value
    is_list = isinstance(sections, list) and sections != []
    if not is_list or not all(isinstance(each, Section) for each in sections):
        expected = "a list of checks, each with its type and the keys of that type"
        issues.append(Issue(listed.where, "checks", "", expected))
        return ()
    checks: list[CheckConfig] = []
    names: dict[str, str] = {}
    for section in sections:
        naming = Values(_NAMING_KEYS, section.keys, section.where, issues)
        naming.require("type", f"the kind of check, one of {', '.join(KINDS)}")
        if "type" not in naming:
            continue
        kind, name = naming["type"], naming.get("name", naming["type"])
        if name in names and not naming.is_wrong("name"):
            expected = f"a name of its own (the check at {names[name]} has this one)"
            issues.append(Issue(naming.where("name"), "name", repr(name), expected))
        if not naming.is_wrong("name"):
            names[name] = section.where
        for each, value in section.keys.items():
            if KIND_OF.get(each, kind) != kind:
                issues.append(Issue(value.where, each, "", f"a key of a check of type {kind}"))
        values = Values({**TIMING_KEYS, **KIND_KEYS[kind]}, section.keys, section.where, issues)
        own = {_field(each): values[each] for each in TIMING_KEYS if each in values}
        inherited = {each: value for each, value in given.items() if each in TIMING_KEYS}
        check = CheckConfig(
            name=name,
            kind=kind,
            settings=_settings(kind, values, "type", section.keys, issues),
            is_listed=True,
            origins=origins_of({**inherited, **section.keys}),
            **{**_timing_of(timing), **own},
        )
        values.refuse(check.faults())
        checks.append(check)
    return tuple(checks)


def _timing_of(timing: CheckTiming) -> dict[str, Any]:
    return {each.name: getattr(timing, each.name) for each in fields(CheckTiming)}


def _settings(
    kind: str, values: Values, told_by: str, given: Mapping[str, Given], issues: list[Issue]
) -> KeyGroup:
    """The values of a kind's keys. `told_by` is the key that says which kind it is."""
    group, prefix = KINDS[kind].settings, f"{kind}-"
    fields = {_field(name, prefix): values[name] for name in KIND_KEYS[kind] if name in values}
    for name in required_of(group, prefix):
        values.require(name, f"for {told_by} {kind}: {KIND_KEYS[kind][name].help}")
        fields.setdefault(_field(name, prefix), None)
    settings = group(**fields)
    for fault in settings.faults():
        if fault.key == "checker-type":
            issues.append(Issue(given[told_by].where, told_by, kind, fault.expected))
        else:
            values.refuse((fault,))
    return settings


def _field(name: str, prefix: str = "") -> str:
    return name.removeprefix(prefix).replace("-", "_")
