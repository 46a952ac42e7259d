"""The alarm that makes an effect come in time, or never: setitimer(2), signal(7).

Ends this process from outside of it, by a signal of the kernel. Knows nothing of addresses.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def act_within(limit_s: float) -> Iterator[None]:
    """What is inside has its effect before `limit_s` has passed, or never: the kernel ends this
    process then.

    That is so even if the process is stopped inside and continued much later: SIGALRM, which is
    pending meanwhile, ends it before it runs on (signal(7): the default action). If what is done
    depends on the time, the clock has to be read inside.
    """
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
