"""python -m yaim"""

import sys

from yaim.cli import main

if __name__ == "__main__":
    sys.exit(main())
