"""The public names are what they say, whatever was imported before."""

import subprocess
import sys
from pathlib import Path

import pauserec


def test_the_public_names_are_functions_whatever_was_imported() -> None:
    code = (
        "import pauserec\nfor _ in range(2):\n    assert callable(pauserec.run) and callable(pauserec.load)\n"
        "import pauserec.results.testing\nfrom pauserec import load, run\nassert callable(load) and callable(run)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_has_the_name_of_a_public_function() -> None:
    modules = {path.stem for path in Path(pauserec.__file__).parent.iterdir()}
    assert not modules & set(pauserec.__all__)
