"""Pause pretraining: teach one row, `<pause>`, to stand between text and SIDs.

Paper: PauseRec, Sections 5.2 and 5.3 (stage 1), example in Appendix F.1. From the CPT checkpoint; the CPT corpus with
pauses at random word boundaries, 10% of each sequence, seeded; only the `<pause>` row trains.
Inferred: the 10% are of words (F.1's example has 8 pauses in 80 words, an ID being one); positions whose next token is
`<pause>` carry no loss; pauses never split a word or an ID; they are drawn once per document, so every epoch meets the
same ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pauserec.config import PauseJob, PausePretrainConfig
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel, save_rows
from pauserec.llm.prompts import Corpus
from pauserec.llm.vocabulary import Vocabulary
from pauserec.runs import processes
from pauserec.runs.device import best_device
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.corpus import CorpusDocument, corpus_batches, corpus_documents, document_tokens
from pauserec.stages.cost import with_cost
from pauserec.stages.kind import Sight, Tokens
from pauserec.stages.objective import Objective, seed_everything, trains_in_bfloat16
from pauserec.training.batches import Batches
from pauserec.training.loop import fit

ROW = "pause_row.safetensors"


def pause_pretrain(
    job: PauseJob,
    cpt: FinishedStep,
    dataset_step: FinishedStep,
    ids_step: FinishedStep,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Train the `<pause>` row of `cpt`; leave it in `out` as pause_row.safetensors."""
    stage = job.stage
    seed_everything(stage.seed)
    dataset, ids = load_dataset(dataset_step.path), SemanticIds.load(ids_step.path)
    model = LanguageModel.load(cpt.path, ids)
    model.to(best_device())
    with torch.no_grad():
        model.table[model.vocabulary.pause] = first_pause_row(model, stage)

    def save(folder: Path) -> None:
        model.merge_rows()
        save_rows(folder / ROW, model.table[model.vocabulary.pause : model.vocabulary.pause + 1])

    if not stage.pretrained:
        if processes.is_main():
            save(out)
        return {"training_seconds": 0.0, "device_hours": 0.0, "tokens": 0, "targets": 0, "trainable_parameters": 0}
    batches = pause_batches(job, Sight(dataset, ids, model.tokenizer, model.vocabulary, model.positions))
    model.train_rows(range(model.vocabulary.pause, model.vocabulary.pause + 1))
    bfloat16 = trains_in_bfloat16(job.precision)
    objective = Objective(model, settings=stage)
    summary = fit(objective, objective.rows(batches), stage, out=out, save=save, log=log, bfloat16=bfloat16)
    return with_cost(summary, model, frozen=True, bfloat16=bfloat16)


def pause_batches(job: PauseJob, sight: Sight) -> Batches[CorpusDocument]:
    """The plan of the whole stage. Documents leave room for their pauses within the model's positions."""
    stage, pause = job.stage, sight.vocabulary.pause
    corpus = Corpus(sight.tokenizer, sight.vocabulary, sight.ids, sight.dataset.items, job.words)
    starts = word_starts(sight.tokenizer, sight.vocabulary)
    longest = int((min(stage.batch_size, sight.positions) - 1) / (1 + stage.share))  # a word is a token or more
    documents = corpus_documents(sight.dataset, corpus, job.history_length, longest)

    def with_pauses(document: CorpusDocument) -> list[int]:
        rng = np.random.default_rng([stage.seed, document.number])
        return insert_pauses(document_tokens(corpus, document), pause, starts, stage.share, rng)

    return corpus_batches(
        stage,
        documents,
        with_pauses,
        positions=sight.positions,
        is_target=lambda token: stage.loss_on_pauses or token != pause,
    )


def pause_tokens(job: PauseJob, sight: Sight) -> Tokens:
    """See StageKind.tokens; pauses, which carry no loss, are counted among the targets."""
    if not job.stage.pretrained:
        return Tokens(0, 0)
    batches = pause_batches(job, sight)
    return Tokens(batches.tokens, batches.tokens)


def first_pause_row(model: LanguageModel, stage: PausePretrainConfig) -> Tensor:
    """Where the row starts [D]: the mean of some rows plus noise; padding rows of the table never count."""
    vocabulary, table = model.vocabulary, model.table
    text, sid = table[: vocabulary.first_sid], table[vocabulary.first_sid : vocabulary.pause]
    rows = {
        "mean": torch.cat([text, sid]),
        "text_mean": text,
        "sid_mean": sid,
        "default": table[vocabulary.pause][None],
    }
    chosen = rows[stage.init]
    deviation = (stage.init_noise * table[: vocabulary.pause].var()).sqrt()
    generator = torch.Generator().manual_seed(stage.seed)
    return chosen.mean(0) + deviation * torch.randn(table.shape[1], generator=generator).to(table.device)


def word_starts(tokenizer: Any, vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether a token begins a word: it starts with a space, or is `<|sid_begin|>`. bool [rows in use]."""
    texts = tokenizer.convert_ids_to_tokens(range(vocabulary.used))
    starts = np.array([text is not None and text[:1] in ("Ġ", "▁") for text in texts])
    starts[vocabulary.begin] = True
    return starts


def insert_pauses(
    tokens: list[int],
    pause: int,
    starts: np.ndarray[Any, np.dtype[np.bool_]],
    share: float,
    rng: np.random.Generator,
) -> list[int]:
    """Put round(share * words) pauses, but at least one, before random words; a place may be drawn twice."""
    places = [place for place, token in enumerate(tokens) if place and starts[token]]
    if not places:
        return tokens
    words = len(places) + 1  # no pause stands before the first
    drawn = np.sort(rng.choice(places, size=max(1, round(share * words))))
    return np.insert(np.asarray(tokens), drawn, pause).tolist()
