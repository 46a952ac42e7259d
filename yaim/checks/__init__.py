"""Whether the service on this node is well.

One file for each kind of check, with one function that makes one attempt; run.py repeats it and
tells the core.
"""
