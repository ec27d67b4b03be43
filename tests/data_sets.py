"""Data sets and models that are not in the repository.

A test that cannot have them is skipped with its reason and counted in the summary of the tests. Where the environment has
PAUSEREC_DATA=required, it fails.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from pauserec.errors import AssetError

SHARED = (Path(__file__).parents[1] / "../shared/data").resolve()
"""Data sets beside the repository."""
WANTING = "wants data: "
"""Begins the reason of every test that was skipped so."""
Found = TypeVar("Found")


def shared(name: str) -> Path:
    """The folder of a data set beside the repository."""
    folder = SHARED / name
    if not folder.is_dir():
        wanting(f"{name} is not in {SHARED}")
    return folder


def fetched(name: str, get: Callable[[], Found]) -> Found:
    """What `get` gives, which may have to be downloaded."""
    try:
        return get()
    except AssetError as error:
        wanting(f"{name}: {error}")


def wanting(reason: str) -> NoReturn:
    """Skip the test, or fail it where data are required."""
    if os.environ.get("PAUSEREC_DATA") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(WANTING + reason)
