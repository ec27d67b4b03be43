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

from pauserec.config import CorpusJob, PausePretrainConfig
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel, save_rows
from pauserec.llm.prompts import Corpus
from pauserec.llm.vocabulary import Vocabulary
from pauserec.runs.device import best_device
from pauserec.runs.folder import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.corpus import CorpusDocument, corpus_batches, corpus_documents, document_tokens
from pauserec.stages.cost import with_cost
from pauserec.stages.objective import Objective, seed_everything, trains_in_bfloat16
from pauserec.training.loop import fit

ROW = "pause_row.safetensors"


def pause_pretrain(
    job: CorpusJob,
    cpt: FinishedStep,
    dataset_step: FinishedStep,
    ids_step: FinishedStep,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Train the `<pause>` row of `cpt`; leave it in `out` as pause_row.safetensors."""
    assert isinstance(job.stage, PausePretrainConfig)
    stage = job.stage
    seed_everything(stage.seed)
    dataset, ids = load_dataset(dataset_step.path), SemanticIds.load(ids_step.path)
    model = LanguageModel.load(cpt.path, ids)
    model.to(best_device())
    corpus = Corpus(model.tokenizer, model.vocabulary, ids, dataset.items)
    documents = corpus_documents(dataset, corpus, job.history_length, min(stage.batch_tokens, model.positions))
    starts = word_starts(model.tokenizer, model.vocabulary)

    def with_pauses(document: CorpusDocument) -> list[int]:
        rng = np.random.default_rng([stage.seed, document.number])
        return insert_pauses(document_tokens(corpus, document), model.vocabulary.pause, starts, stage.share, rng)

    batches = corpus_batches(
        documents,
        with_pauses,
        epochs=stage.epochs,
        batch_tokens=stage.batch_tokens,
        seed=stage.seed,
        is_target=lambda token: token != model.vocabulary.pause,
    )
    with torch.no_grad():
        model.table[model.vocabulary.pause] = first_pause_row(model, stage)
    model.train_rows(range(model.vocabulary.pause, model.vocabulary.pause + 1))
    bfloat16 = trains_in_bfloat16(job.precision)
    objective = Objective(model, settings=stage)

    def save(folder: Path) -> None:
        model.merge_rows()
        save_rows(folder / ROW, model.table[model.vocabulary.pause : model.vocabulary.pause + 1])

    summary = fit(objective, batches, stage, out=out, save=save, log=log, bfloat16=bfloat16)
    return with_cost(summary, model, frozen=True, bfloat16=bfloat16)


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
