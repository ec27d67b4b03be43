"""A finished run as a plain Hugging Face folder: weights, tokenizer, semantic IDs, catalogue and model card.

Nothing in the folder needs pauserec to be read: safetensors, JSON, JSON lines, TOML and Markdown.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pauserec.assets import named
from pauserec.config import CheckpointRow, Format, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.errors import RunError
from pauserec.evaluation.metrics import METRICS
from pauserec.llm.model import ADDED_ROWS, LanguageModel
from pauserec.llm.prompts import Prompts
from pauserec.llm.vocabulary import find_vocabulary
from pauserec.llm.weights import whole_checkpoint
from pauserec.records import Dataset
from pauserec.results.best import best_row
from pauserec.results.finished import RESULT, open_finished
from pauserec.results.testing import ModelTest, finished_checkpoint, row_test
from pauserec.runs.files import MANIFEST, fsync_folder, hashes, read_json
from pauserec.runs.folder import Run
from pauserec.runs.place import RECIPE
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codebooks import CODEBOOKS
from pauserec.semantic_ids.codes import HEADER, TABLE, SemanticIds

ITEMS = "items.jsonl"
CARD = "README.md"
NOT_EXPORTED = frozenset({MANIFEST, ADDED_ROWS, "tensorboard"})
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#!|~&:$])")


def export_run(run: Path, folder: Path, model: str | None = None) -> Path:
    """Write a trained model of `run` into `folder`, a new or empty one, all of it or nothing. Gives `folder`.

    model: a row of the run's table; None takes the language model that is best on validation. Raises RunError if the run
    is not finished, has no such model, or `folder` is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and is not an empty folder: choose another one")
    source = open_finished(run)
    test, stage = _chosen(source, model)
    checkpoint, ids_step = finished_checkpoint(source, stage), source.finished("semantic_ids")
    dataset = load_dataset(source.finished("dataset").path)
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise RunError(f"{folder} cannot be made ({error.strerror}): choose another folder") from None
    try:
        _fill(partial, source, test, stage, checkpoint, ids_step, dataset)
        partial.chmod(0o755)
        hashes(partial)  # syncs every file to disk
        partial.replace(target)
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def escape(text: str) -> str:
    """Foreign text as it is inside Markdown: one line, no markup, no HTML, no link."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _chosen(source: Run, model: str | None) -> tuple[ModelTest, str]:
    recipe = source.recipe
    if not recipe.stages:
        raise RunError(f"{source.path}: its recipe trains no model, so there is nothing to export")
    last = recipe.last_model
    rows = {entry.name: entry for entry in recipe.evaluation.models}
    model = model or best_row(read_json(source.path / RESULT).get("models", {}), rows.keys())
    if model is None:
        # The row that tests the stage as it was trained, if the table has one.
        tested = [entry for entry in rows.values() if entry.stage == last]
        tested.sort(key=lambda entry: entry.pauses is not None)
        entry = tested[0] if tested else CheckpointRow(name=last, stage=last)
        if entry.pauses is not None:
            entry = CheckpointRow(name=last, stage=last)
    elif model in rows:
        entry = rows[model]
    else:
        raise RunError(f"{source.path} has no model {model!r}: choose one of {', '.join(rows) or 'none'}")
    return row_test(recipe, entry), entry.stage


def _fill(
    out: Path,
    source: Run,
    test: ModelTest,
    stage: str,
    checkpoint: FinishedStep,
    ids_step: FinishedStep,
    dataset: Dataset,
) -> None:
    whole = whole_checkpoint(checkpoint.path)
    if not (whole / "config.json").is_file():
        raise RunError(f"stage {stage!r} leaves no whole model: choose a model of another stage")
    ids = SemanticIds.load(ids_step.path)
    if whole == checkpoint.path:
        for path in sorted(whole.iterdir()):
            if path.name not in NOT_EXPORTED and path.is_file():
                shutil.copyfile(path, out / path.name)
    else:
        LanguageModel.load(checkpoint.path, ids).save(out)
        (out / ADDED_ROWS).unlink()
    for name in (TABLE, HEADER, CODEBOOKS):
        shutil.copyfile(ids_step.path / name, out / name)
    shutil.copyfile(source.path / RECIPE, out / RECIPE)
    entries = (
        {
            "item_id": item.item_id,
            "title": item.title,
            "categories": item.categories,
            "semantic_id": ids.text(number),
        }
        for number, item in enumerate(dataset.items)
    )
    (out / ITEMS).write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in entries))
    content = orjson.loads((source.path / RESULT).read_bytes())
    prompt = _example_prompt(whole, test, ids, dataset)
    (out / CARD).write_text(_card(source.recipe, test, stage, content, prompt, ids), encoding="utf-8")


def _example_prompt(checkpoint: Path, test: ModelTest, ids: SemanticIds, dataset: Dataset) -> str:
    """The prompt for a history of the catalogue's first two items (nobody's own), decoded back to text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    form = Format(test.fields, test.pauses, test.history_length)
    prompts = Prompts(tokenizer, find_vocabulary(tokenizer, ids), ids, dataset.items, test.prompt, form)
    text: str = tokenizer.decode(prompts.prompt(np.arange(min(2, len(dataset.items)))), skip_special_tokens=False)
    return text


def _card(
    recipe: Recipe, test: ModelTest, stage: str, content: Mapping[str, Any], prompt: str, ids: SemanticIds
) -> str:
    base, data = recipe.model.name, content["data"]
    licence = next((asset.licence for asset in named.known() if asset.name == base), None)
    layers = (content.get("model") or {}).get("layers")
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [recommendation, semantic-ids, pauserec]",
            "---",
            f"# {escape(test.name)} ({escape(recipe.name)})",
            "",
            "A language model that recommends items by writing their semantic IDs, trained with pauserec.",
            "",
            "## Model",
            f"- Base model: {escape(base)}" + (f", {layers} layers" if layers else ""),
            f"- Stage: {escape(stage)}; pauses in the prompt: {test.pauses}",
            f"- Semantic IDs: {len(ids):,} items, codes per level {' x '.join(map(str, ids.sizes))}",
            "",
            "## Data",
            f"- {data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions",
            f"- Fingerprint: `{data['fingerprint']}`",
            "",
            "## Results",
            *(
                _results(test, content)
                if was_tested(recipe, test, stage)
                else ["This model was not tested in the run."]
            ),
            "",
            "## Prompt",
            "A history of two items, as the tokenizer decodes it. Item text is encoded apart from control tokens: a title",
            "that spells `<pause>` must not become that token.",
            "",
            *_indented(prompt),
            "",
            "## Decoding",
            "The codes follow the prompt. Generate exactly one code token per level, and at each level allow only",
            f"codes that lead to an item of `{ITEMS}`; unconstrained generation can write IDs of no item. `{TABLE}` holds",
            "the codes (int64, items x levels), one row per line of the catalogue file. Plain beam search over summed",
            f"log-probabilities was used: {max(test.decoding.beams, test.ranking.top_k)} beams, log-softmax over"
            f" {_NORMALISERS[test.decoding.normalise]}. Ignore sampling settings in `generation_config.json`.",
            "",
            "Load with `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`; no custom code.",
            "",
            "## Licence",
            (f"The base model's licence as far as pauserec knows it: {escape(licence)}. " if licence else "")
            + f"These weights derive from {escape(base)}: its licence applies to them. The data set's own terms apply to"
            " what stands in the catalogue file; check them before you pass this folder on.",
            "",
            "## Intended use and limits",
            "Next-item recommendation over this catalogue, for research and evaluation. The model knows no item outside the",
            "catalogue file, repeats the biases of the interactions it was trained on (popular items above all), and its",
            "text answers were neither trained nor tested. The results hold for this data set and split only.",
            "",
        ]
    )


_NORMALISERS = {
    "full": "the vocabulary, padding rows left out",
    "codebook": "the codes of the level",
    "legal": "the legal codes",
}


def was_tested(recipe: Recipe, test: ModelTest, stage: str) -> bool:
    """Whether the row of this name tests this stage with these pauses."""
    return any(entry.stage == stage and row_test(recipe, entry) == test for entry in recipe.evaluation.models)


def _results(test: ModelTest, content: Mapping[str, Any]) -> Sequence[str]:
    model = content["models"][test.name]
    lines = [f"| split | users | {' | '.join(METRICS)} |", "|---|---|" + "---|" * len(METRICS)]
    for split in [split for split in ("validation", "test") if split in model]:
        values = " | ".join(f"{model[split][metric]:.4f}" for metric in METRICS)
        lines.append(f"| {split} | {model[split]['users']:,} | {values} |")
    seen = "kept" if content["seen"] == "keep" else "dropped"
    fit = ", ".join(content.get("final_fit", ["train"]))
    return [*lines, "", f"Full ranking over all items, leave-last-out; seen items {seen}; final fit: {fit}."]


def _indented(text: str) -> list[str]:
    """A Markdown code block by indentation, which no content can close; line breaks of any kind stay inside it."""
    return ["    " + line for line in text.splitlines()]
