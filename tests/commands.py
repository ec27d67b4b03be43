"""The command line as another program calls it."""

import subprocess
import sys
from pathlib import Path


def cli(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `pauserec ARGUMENTS` in a folder (the current one by default), whatever it ends with."""
    command = [sys.executable, "-m", "pauserec", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
