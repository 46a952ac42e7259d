"""The decisions of the coordinator, and nothing else.

Everything here is a pure function of its arguments: no clock, no randomness, no I/O, no logging.
The same state, event and instant give the same new state and the same actions. What is done with
the actions, and where the events come from, is the business of the adapters around it.
"""
