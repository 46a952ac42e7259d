"""`yaim doctor`: what is missing on this node, or wrong with it. Changes nothing.

Each point is a function that returns findings; `run.py` has their order. What has to be known for a
point and is not makes it "not looked at", with the reason.
"""
