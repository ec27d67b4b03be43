"""Everything pauserec raises on purpose.

    PauserecError
    ├── RecipeError      a setting is unknown, out of bounds or contradicts another
    ├── DataError        raw data cannot be used as it is
    ├── AssetError       a named model or data set cannot be had
    ├── RunError         a run folder is missing, foreign, changed or incomplete
    ├── SemanticIdError  items do not fit the codebooks, or a code sequence is not an item
    └── ModelError       a language model cannot be used the way it was asked to

Each message is one line: the setting or row at fault, then the remedy. The command line prints it and exits with code 2.
"""

FULL = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing", "] . unexpected pos")
"""What Python, safetensors and torch say of a disk without room."""


class PauserecError(Exception):
    """Base of all errors a user can cause and mend."""


class RecipeError(PauserecError):
    """A setting is unknown, out of bounds or contradicts another."""


class DataError(PauserecError):
    """Raw data cannot be used as it is."""


class AssetError(PauserecError):
    """A named model or data set cannot be had."""


class RunError(PauserecError):
    """A run folder is missing, foreign, changed or incomplete."""


class SemanticIdError(PauserecError):
    """Items do not fit the codebooks, or a code sequence is not an item."""


class ModelError(PauserecError):
    """A language model cannot be used the way it was asked to."""


def in_a_line(error: Exception) -> str | None:
    """What to tell the user of an error that is theirs to mend; None for any other."""
    if isinstance(error, PauserecError):
        return str(error)
    if any(sign in str(error) for sign in FULL):
        return "the disk is full, or a quota used up: make room, then run the same command again to go on"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None
