"""The helper's own tests, and how much of the helper they cover, its processes included.

    python -m tests.helper.covered [PYTEST ARGUMENT ...]

Exit status 0 only if all tests pass and each line and branch of helper/yaim_helper was taken. What
a process did that was killed does not count: coverage is told when a process ends.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = str(Path(__file__).parent)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="yaim-coverage-") as directory:
        # Helpers write there as the users that they are.
        Path(directory).chmod(0o1777)
        os.environ["COVERAGE_FILE"] = f"{directory}/data"
        tests = _coverage("run", "-m", "pytest", *(arguments or [TESTS]))
        _coverage("combine", "--quiet")
        report = _coverage("report")
        return tests or report


def _coverage(*arguments: str) -> int:
    return subprocess.call((sys.executable, "-m", "coverage", *arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
