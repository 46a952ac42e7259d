"""The alarm that makes an effect come in time, or never: setitimer(2), signal(7).

Ends this process from outside of it, by a signal of the kernel. Knows nothing of addresses.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def act_within(limit_s: float) -> Iterator[None]:
    """Act before `limit_s` has passed, or never: the kernel ends this process then.

    Even if the process is stopped inside and continued much later: SIGALRM, pending meanwhile, ends
    it before it runs on (signal(7): the default action). What is done depends on the time? Then
    read the clock inside.
    """
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
