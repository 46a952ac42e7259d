"""Spans of time: unions, parts in common, what is left out. Pure."""

from collections.abc import Iterable, Sequence

Span = tuple[float, float]
"""A start and an end."""


def length_s(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)


def union(spans: Iterable[Span], bridging_s: float = 0.0) -> list[Span]:
    """Sorted and disjoint, as all here give. `bridging_s`: what is no further apart is joined."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + bridging_s:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def both(some: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    """The parts in common of some spans that are disjoint with others that are."""
    common = [(max(a, c), min(b, d)) for a, b in some for c, d in others]
    return sorted((start, end) for start, end in common if start < end)


def without(whole: Span, spans: Iterable[Span]) -> list[Span]:
    """What is left of a span."""
    found = []
    start, last = whole
    for left_out_start, left_out_end in union(spans):
        if start < min(left_out_start, last):
            found.append((start, min(left_out_start, last)))
        start = max(start, left_out_end)
    if start < last:
        found.append((start, last))
    return found
