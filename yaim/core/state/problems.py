"""What is wrong on this host and does not show otherwise, as adapters tell it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from yaim.core.model import frozen_mapping, thawed


@dataclass(frozen=True, slots=True)
class Problems:
    by_source: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: frozen_mapping({}))

    @property
    def all(self) -> tuple[str, ...]:
        """All of them, by the order of their sources."""
        return tuple(each for source in sorted(self.by_source) for each in self.by_source[source])

    def after_told(self, source: str, problems: tuple[str, ...]) -> "Problems":
        if self.by_source.get(source, ()) == problems:
            return self
        return Problems(frozen_mapping(thawed(self.by_source) | {source: problems}))
