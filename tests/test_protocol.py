"""The recipes that stand for the paper have the paper's values, and its base repository's where it gives none.

docs/papers.md names the section or the file that each value was read in, and lists what departs on purpose.
"""

from typing import Any

import pytest

from pauserec.config import Recipe

PAPER = "PauseRec, arXiv 2606.14142"
BASE = "the base repository, OneRec-Think"

Claim = tuple[str, Any, str]
"""A setting, its value, and where that stands."""

SHARED: list[Claim] = [
    ("quantizer.codebook_sizes", (256, 256, 256, 256), f"{BASE}, train/scripts/train_beauty_sid_rec.py: four levels"),
    ("data.min_interactions", 5, f"{PAPER}, Section 6.1"),
    ("model.name", "Qwen/Qwen3-1.7B", f"{PAPER}, Section 6.1"),
    ("model.new_rows", "mean", f"{BASE}, basemodel/expand_vocab.py: resize_token_embeddings as it is"),
    ("prompt.history_length", 50, f"{BASE}, data/sequential_data_processed.txt: no user has more"),
    ("prompt.text_tokens", 512, f"{PAPER}, Appendix F.1: titles and categories whole"),
    ("prompt.entry.category_joint", " > ", f"{PAPER}, Appendix F.1"),
    ("prompt.entry.separator", ";", f"{PAPER}, Appendix F.1"),
    ("prompt.entry.id_separator", ";", f"{PAPER}, Appendix F.1"),
    ("prompt.template", "chat", f"{PAPER}, Appendix F.1"),
    ("prompt.brackets", "all", f"{PAPER}, Appendix F.1"),
    ("stages.cpt.corpus", "histories", f"{PAPER}, Appendix F.1"),
    ("stages.cpt.epochs", 3, f"{PAPER}, Section 6.1"),
    ("stages.cpt.learning_rate", 1e-4, f"{PAPER}, Section 6.1"),
    ("stages.cpt.weight_decay", 0.01, f"{PAPER}, Section 6.1"),
    ("stages.sft.targets", "last", f"{PAPER}, Section 6.1"),
    ("stages.sft.loss_on", "target", f"{PAPER}, eq. 3"),
    ("stages.sft.softmax", "full", f"{PAPER}, eq. 3"),
    ("stages.sft.text_rows", "train", f"{PAPER}, Section 2.2"),
    ("stages.sft.epochs", 6, f"{BASE}, train/scripts/run_training_rec.sh"),
    ("stages.sft.learning_rate", 1e-5, f"{BASE}, train/scripts/run_training_rec.sh"),
    ("stages.sft.weight_decay", 0.01, f"{BASE}, train/scripts/run_training_rec.sh"),
    ("stages.sft.warmup", 0.1, f"{BASE}, train/scripts/run_training_rec.sh"),
    ("stages.sft.max_grad_norm", 1.0, f"{BASE}, train/scripts/run_training_rec.sh"),
    ("stages.sft.schedule", "constant_with_warmup", f"{BASE}, train/scripts/ds_config_zero2.json: WarmupLR"),
    ("stages.sft.patience", 5, f"{BASE}, train/scripts/train_beauty_sid_rec.py: EarlyStoppingCallback"),
    ("decoding.beams", 20, f"{BASE}, test/test_model_hitrate.py: the default; eval_parallel_8gpu.sh has 10"),
    ("decoding.normalise", "full", f"{BASE}, test/test_model_hitrate.py: beam search of transformers"),
    ("evaluation.seen", "keep", f"{BASE}, test/test_model_hitrate.py: no item of the history is left out"),
]
PAUSES: list[Claim] = [
    ("stages.pause_pretrain.starts_from", ("cpt",), f"{PAPER}, Section 5.3"),
    ("stages.pause_pretrain.corpus", "histories", f"{PAPER}, Appendix F.1"),
    ("stages.pause_pretrain.share", 0.1, f"{PAPER}, Section 5.3"),
    ("stages.pause_pretrain.init", "mean", f"{PAPER}, Section 5.2"),
    ("stages.pause_pretrain.init_noise", 1e-9, f"{PAPER}, Section 5.2"),
    ("stages.pause_pretrain.epochs", 2, f"{PAPER}, Section 6.1"),
    ("stages.pause_pretrain.learning_rate", 1e-3, f"{PAPER}, Section 6.1"),
    ("stages.implicit_sft.starts_from", ("sft", "pause_pretrain"), f"{PAPER}, Section 5.3"),
    ("stages.implicit_sft.fields", ("title", "categories"), f"{PAPER}, Appendix F.1"),
    ("stages.implicit_sft.pauses", 5, f"{PAPER}, Section 6.1"),
    ("stages.implicit_sft.epochs", 5, f"{PAPER}, Section 6.1"),
    ("stages.implicit_sft.learning_rate", 5e-5, f"{PAPER}, Section 6.1"),
    ("stages.implicit_sft.weight_decay", 0.01, f"{PAPER}, Section 6.1"),
    ("stages.implicit_sft.targets", "last", f"{PAPER}, Section 6.1"),
    ("stages.implicit_sft.loss_on", "target", f"{PAPER}, eq. 6"),
    ("stages.implicit_sft.loss_on_end", False, f"{PAPER}, eq. 6"),
]


def value(recipe: Recipe, key: str) -> Any:
    node: Any = recipe
    for part in key.split("."):
        node = next(entry for entry in node if entry.name == part) if isinstance(node, tuple) else getattr(node, part)
    return node


@pytest.mark.parametrize(("name", "claims"), [("pauserec", [*SHARED, *PAUSES]), ("sft", SHARED)])
def test_the_recipe_has_the_published_values(name: str, claims: list[Claim]) -> None:
    recipe = Recipe.load(name)
    wrong = [
        (key, value(recipe, key), expected, where) for key, expected, where in claims if value(recipe, key) != expected
    ]
    assert wrong == []
