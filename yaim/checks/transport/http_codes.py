"""Which status codes count as right."""

from dataclasses import dataclass
from typing import Any

from yaim.config_keys import InvalidValue, several, text


@dataclass(frozen=True, slots=True)
class Codes:
    patterns: tuple[str, ...]
    """The codes as they were given: single codes like 204 and classes like 2xx."""

    def __contains__(self, code: int) -> bool:
        return str(code) in self.patterns or f"{code // 100}xx" in self.patterns

    def __str__(self) -> str:
        return ",".join(self.patterns)

    @property
    def told(self) -> str:
        """The codes in a sentence: "2xx, 301 or 404"."""
        *others, last = self.patterns
        return f"{', '.join(others)} or {last}" if others else last


_CLASSES = text(r"[1-5]([0-9]{2}|[xX]{2})", "")


def codes(value: Any) -> Codes:
    try:
        return Codes(several(lambda each: _CLASSES(each).lower())(value))
    except InvalidValue:
        expected = (
            "status codes from 100 to 599 or classes like 2xx: one, a list, or text with commas"
        )
        raise InvalidValue(expected) from None
