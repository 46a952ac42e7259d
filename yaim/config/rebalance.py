"""Reads the value of `rebalance`: a word, or a time of day."""

import re
from typing import Any

from yaim.config_keys import InvalidValue
from yaim.core.settings import Rebalance, Window

EXPECTED = "auto, never, or a time of day with two different ends, such as 02:00-04:00"
_WINDOW = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


def read_rebalance(value: Any) -> Rebalance | Window:
    if isinstance(value, str) and value.lower() in tuple(Rebalance):
        return Rebalance(value.lower())
    if isinstance(value, str) and (found := _WINDOW.fullmatch(value)):
        hour, minute, end_hour, end_minute = map(int, found.groups())
        window = Window(60 * hour + minute, 60 * end_hour + end_minute)
        if window.start != window.end:
            return window
    raise InvalidValue(EXPECTED)
