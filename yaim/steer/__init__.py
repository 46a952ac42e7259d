"""What operators' commands come to: the change, its plan, what refuses it, and whether it is done.

Pure but for wait.py's bell; shows nothing and reads no options (yaim/cli/steering.py does).
"""
