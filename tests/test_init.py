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


def test_importing_the_pipeline_costs_little_more_than_importing_torch() -> None:
    """transformers, accelerate, faiss, matplotlib and scipy are imported where they are used; a busy machine is allowed for."""
    seconds = {}
    for module in ("torch", "pauserec.pipeline") * 3:
        code = f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
        took = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        seconds[module] = min(float(took), seconds.get(module, 99.0))
    assert seconds["pauserec.pipeline"] <= 2 * seconds["torch"], seconds
    heavy = "transformers accelerate faiss matplotlib scipy peft torch.distributed.tensor"
    code = f"import sys, pauserec.pipeline; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_no_module_needs_a_library_that_the_install_does_not_bring() -> None:
    """Extras are imported where they are used, what the tests compare with not at all."""
    root = Path(pauserec.__file__).parent
    modules = [
        ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for path in root.rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    code = (
        "import sys, importlib\n"
        "absent = 'peft tensorboard sklearn sentence_transformers vector_quantize_pytorch einops ranx pandas'.split()\n"
        "sys.modules |= dict.fromkeys(absent)\n"
        "for module in sys.stdin.read().split():\n    importlib.import_module(module)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, input=" ".join(modules), text=True)


def test_settings_records_and_errors_import_neither_torch_nor_polars() -> None:
    code = (
        "import sys, pauserec.config, pauserec.records, pauserec.errors; "
        "print([name for name in ('torch', 'transformers', 'polars') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
