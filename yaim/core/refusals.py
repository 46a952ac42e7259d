"""Why an address is not on this host although it is to be: what the helper would not or could not
add, and until when that is left to other nodes."""

from dataclasses import dataclass
from enum import Enum

from yaim.core.model import Boottime


class Cause(Enum):
    """The helper's code for a refusal (helper/PROTOCOL.md), or one of ours."""

    EXPIRED = "expired"
    """The deadline: says nothing about the next try."""
    FOREIGN = "foreign"
    NOT_ALLOWED = "not-allowed"
    LIMIT = "limit"
    PRIMARY = "primary"
    OTHER = "other"
    """A code of a newer helper's."""
    FAILED = "failed"
    """Not refused: it could not be done."""

    @classmethod
    def of(cls, code: object) -> "Cause":
        return next((each for each in cls if each.value == code), cls.OTHER)


@dataclass(frozen=True, slots=True)
class Refusal:
    cause: Cause
    until: Boottime
