"""Threads beside the server's: each does what may take as long as somebody else likes."""

import signal
import threading
from collections.abc import Callable


def start(name: str, work: Callable[[], None]) -> threading.Thread:
    """Starts a thread, which ends with the process. Raises RuntimeError if there may be no further
    one."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    # Signals are the server's.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return thread
