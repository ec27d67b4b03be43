"""Errors that are the user's to mend are one line; all others keep their traceback."""

from pathlib import Path

import pytest
import torch

from pauserec.errors import DataError, in_a_line
from pauserec.runs.files import write_atomically

full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


@full_disk
def test_a_full_disk_is_one_line_whoever_met_it() -> None:
    with pytest.raises(OSError, match="No space left") as written:
        write_atomically(Path("/dev/full"), b"x")
    with pytest.raises(Exception, match=r"unexpected pos|PytorchStreamWriter") as saved:
        torch.save(torch.ones(300_000), "/dev/full")
    for caught in (written, saved):
        assert "disk is full" in str(in_a_line(caught.value))


def test_what_is_no_user_s_fault_keeps_its_traceback() -> None:
    assert in_a_line(DataError("row 3: give an id")) == "row 3: give an id"
    assert in_a_line(FileNotFoundError(2, "No such file or directory", "x.csv")) == "x.csv: No such file or directory"
    for error in (OSError("of a library"), RuntimeError("shape mismatch"), KeyError("x")):
        assert in_a_line(error) is None
