"""What a row cost, and what it was fitted on, is counted back to everything that made it."""

import pytest

from pauserec.config import Recipe
from pauserec.results.ledger import fit_of, ledger

HOUR = {"device_hours": 1.0, "training_seconds": 3600.0, "tokens": 10, "trainable_parameters": 5}
RECIPE = Recipe.parse(
    {
        "name": "x",
        "embedder": {"baseline": "sas"},
        "baselines": [
            {"name": "sas", "kind": "sasrec", "final_fit": "train+validation"},
            {"name": "gru", "kind": "gru4rec"},
            {"name": "tiger", "kind": "tiger", "final_fit": "train+validation"},
        ],
        "stages": [
            {"name": "cpt", "kind": "cpt"},
            {"name": "sft", "kind": "sft", "final_fit": "train+validation"},
            {"name": "other", "kind": "cpt", "starts_from": ["base"]},
        ],
        "evaluation": {"models": [{"name": "llm", "stage": "sft"}, {"name": "grounded", "stage": "cpt"}]},
    }
)
CONTENT = {"stages": dict.fromkeys(("sas", "gru", "tiger", "cpt", "sft", "other"), HOUR)}


@pytest.mark.parametrize(
    ("row", "hours"), [("llm", 3.0), ("grounded", 2.0), ("tiger", 2.0), ("sas", 1.0), ("gru", 1.0), ("popularity", 0.0)]
)
def test_hours_include_what_the_ids_were_made_with(row: str, hours: float) -> None:
    assert ledger(RECIPE, CONTENT, row)["device_hours"] == hours


@pytest.mark.parametrize(
    ("row", "fit"),
    [("llm", "train+validation"), ("grounded", "train+validation"), ("gru", "train"), ("popularity", "train")],
)
def test_a_row_was_fitted_on_what_anything_behind_it_saw(row: str, fit: str) -> None:
    assert fit_of(RECIPE, row) == fit
