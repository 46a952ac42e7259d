"""yaim-helper: the privileged half of yaim.

Adds and removes addresses for the coordinator, within an allowlist, each with a deadline, and
records all of it. Imports nothing of yaim; the protocol is in helper/PROTOCOL.md.
"""

__version__ = "0.1.0"
"""That of yaim: both are released together."""
