"""yaim-helper: starts the helper, or one of its tools, which need no privileges.

Chooses by the first argument, and loads only what that needs: the helper at work has loaded
nothing of tools/, and a tool nothing that serves.
"""

import sys


def main() -> int:
    """Does what the command line says, and returns the exit status."""
    match sys.argv[1:]:
        case ["audit", *rest]:
            from yaim_helper.tools import audit

            return audit.main(rest)
        case ["policy", *rest]:
            from yaim_helper.tools import policy

            return policy.main(rest)
        case rest:
            from yaim_helper.serve import start

            return start.serve(rest)


if __name__ == "__main__":
    sys.exit(main())
