"""The keys of the configuration that say where the helper is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yaim.config_keys import Applied, Fault, absolute_path, key


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperSettings:
    helper_socket: Path = key(
        "socket of yaim-helper",
        absolute_path,
        Path("/run/yaim-helper/helper.sock"),
        applied=Applied.RESTART,
    )

    def faults(self) -> Iterator[Fault]:
        """No two of these keys can be wrong together."""
        yield from ()
