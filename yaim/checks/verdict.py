"""What one attempt of a check found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Healthy:
    reason: str


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """The service gave a definite wrong answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class CannotTell:
    """No answer: worth another try, and never healthy."""

    reason: str


Verdict = Healthy | Unhealthy | CannotTell
