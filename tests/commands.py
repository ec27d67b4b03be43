"""The command line as another program calls it."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def cli(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `pauserec ARGUMENTS` in a folder (the current one by default), whatever it ends with."""
    command = [sys.executable, "-m", "pauserec", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def together(count: int, *command: str) -> list[subprocess.Popen[bytes]]:
    """The same command in `count` processes that know of each other, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    here = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": here,
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
