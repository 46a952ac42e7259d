"""What may stand in a configuration and is likely not meant: told by `yaim config check`, by `yaim
doctor`, and in the log at a start. Nothing of it keeps a node from starting. Does no I/O."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from yaim.checks.http import HttpCheck
from yaim.checks.patroni import PatroniCheck
from yaim.checks.transport.libpq_keys import LibpqKeys, is_socket
from yaim.config.checks import CheckConfig
from yaim.config.file import Given, Section

_MAY_HAVE_A_HASH = re.compile(
    r".*(password|user|query|response|contains|command|send|expect|conn-url)"
)
"""The keys of which a part may begin with a blank and a #."""
_HAS_DOLLARS = re.compile(r".*(password|query|response|contains|command|send|expect)")
"""The keys in which ${NAME} may be meant as it is written."""
_VARIABLE = re.compile(r"\$\{\w+\}|\$\(\w+\)")
PATIENCE = 10
"""A check's timeout that is longer than so many ttl is pointed out."""


class Timed(Protocol):
    """What of the configuration is wanted here."""

    @property
    def ttl(self) -> int: ...
    @property
    def checks(self) -> tuple[CheckConfig, ...]: ...


@dataclass(frozen=True, slots=True)
class Doubt:
    where: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.text}"


def doubts_of(config: Timed, given: Mapping[str, Given], default_where: str) -> tuple[Doubt, ...]:
    """`given`: all that was given, also in the list of checks."""
    of_checks = (_of_check(check, config.ttl, default_where) for check in config.checks)
    # Several checks have what stands beside the list.
    return tuple(dict.fromkeys(chain(_of_writing(given), *of_checks)))


def _of_writing(given: Mapping[str, Given]) -> Iterator[Doubt]:
    for name, each in given.items():
        if name == "checks" and isinstance(each.value, list):
            for section in each.value:
                if isinstance(section, Section):
                    yield from _of_writing(section.keys)
            continue
        if each.is_cut and _MAY_HAVE_A_HASH.fullmatch(name):
            text = "ends before the blank and #, which begin a comment: put it in 'quotes' if not"
            yield Doubt(each.where, name, text)
        texts = each.value if isinstance(each.value, list) else [each.value]
        found = [_VARIABLE.search(text) for text in texts if isinstance(text, str)]
        if any(found) and not _HAS_DOLLARS.fullmatch(name):
            variable = next(match[0] for match in found if match)
            text = f"{variable} is taken as it is written: yaim.yml has no variables"
            yield Doubt(each.where, name, text)


def _of_check(check: CheckConfig, ttl: int, default_where: str) -> Iterator[Doubt]:
    def doubt(key: str, text: str) -> Doubt:
        return Doubt(check.origins.get(key, default_where), key, text)

    if check.timeout > PATIENCE * ttl:
        text = (
            f"a service that hangs costs {check.timeout / 1000:g} s before it counts, as the check"
            f" may take so long; the ttl is {ttl / 1000:g} s"
        )
        yield doubt("timeout", text)
    prefix = f"{check.kind}-"
    match check.settings:
        case HttpCheck() | PatroniCheck():
            yield from _of_url(check.settings, prefix, doubt)
        case LibpqKeys():
            yield from _of_servers(check.settings, prefix, doubt)


class _Doubting(Protocol):
    def __call__(self, key: str, text: str, /) -> Doubt: ...


def _of_url(settings: HttpCheck | PatroniCheck, prefix: str, doubt: _Doubting) -> Iterator[Doubt]:
    url = settings.url or ""
    if settings.user is not None and "@" in url.partition("://")[2].partition("/")[0]:
        yield doubt(f"{prefix}user", f"goes before the user in {prefix}url, which is not used")
    if url.lower().startswith("http://"):
        yield from _unused(settings, prefix, f"{prefix}url is http://, without TLS", doubt)


def _of_servers(settings: LibpqKeys, prefix: str, doubt: _Doubting) -> Iterator[Doubt]:
    servers = settings.servers()
    if len(servers) > 1:
        text = (
            f"names {len(servers)} servers: whichever answers first counts, so this node may be"
            " healthy by the service of another"
        )
        yield doubt(f"{prefix}conn-url", text)
    if servers and all(map(is_socket, servers)):
        yield from _unused(settings, prefix, f"{prefix}conn-url is a socket, without TLS", doubt)


def _unused(settings: object, prefix: str, because: str, doubt: _Doubting) -> Iterator[Doubt]:
    for name in ("ca-file", "cert-file", "key-file"):
        if getattr(settings, name.replace("-", "_"), None) is not None:
            yield doubt(prefix + name, f"is not used: {because}")
