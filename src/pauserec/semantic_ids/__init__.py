"""Items to semantic IDs: vectors, quantizers, the ID table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pauserec.config import QuantizerConfig
from pauserec.records import Step
from pauserec.semantic_ids.rqkmeans import rqkmeans


def _rqvae(
    config: QuantizerConfig, vectors_step: Step, dataset_step: Step, *, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    # Imported when used: this package is read by commands that need no torch.
    from pauserec.semantic_ids.rqvae import rqvae

    return rqvae(config, vectors_step, dataset_step, out=out, log=log)


QUANTIZERS: dict[str, Callable[..., dict[str, Any]]] = {"rqkmeans": rqkmeans, "rqvae": _rqvae}
