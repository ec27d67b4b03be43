"""Continual pretraining (CPT): ground the SID tokens in item text.

Paper: PauseRec, Section 2.2 and eq. 2; corpus of Appendix F.1. Next-token loss on everything; only the SID rows train.
Deviation: the "items" corpus (eq. 2, each item in both directions) beside the histories of the appendix, because it is
far shorter; the wording of the running text is our own.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pauserec.config import CorpusJob
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import Corpus
from pauserec.runs.device import best_device
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.corpus import CorpusDocument, corpus_batches, corpus_documents, document_tokens
from pauserec.stages.cost import with_cost
from pauserec.stages.kind import Sight, Tokens
from pauserec.stages.objective import Objective, kept_beside, seed_everything, trains_in_bfloat16
from pauserec.training.batches import Batches
from pauserec.training.loop import fit


def continual_pretrain(
    job: CorpusJob,
    base: FinishedStep,
    dataset_step: FinishedStep,
    ids_step: FinishedStep,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Train the SID rows of `base` on the corpus; leave a checkpoint folder in `out`."""
    stage = job.stage
    seed_everything(stage.seed)
    dataset, ids = load_dataset(dataset_step.path), SemanticIds.load(ids_step.path)
    model = LanguageModel.load(base.path, ids)
    model.to(best_device())
    batches = cpt_batches(job, Sight(dataset, ids, model.tokenizer, model.vocabulary, model.positions))
    model.train_rows(range(model.vocabulary.sid_rows.start, model.vocabulary.sid_rows.stop))
    bfloat16 = trains_in_bfloat16(job.precision)
    objective = Objective(model, settings=stage)
    save = partial(model.save, start=kept_beside(job.keep, base))
    summary = fit(objective, objective.rows(batches), stage, out=out, save=save, log=log, bfloat16=bfloat16)
    return with_cost(summary, model, frozen=True, bfloat16=bfloat16)


def cpt_batches(job: CorpusJob, sight: Sight) -> Batches[CorpusDocument]:
    """The plan of the whole stage."""
    corpus = Corpus(sight.tokenizer, sight.vocabulary, sight.ids, sight.dataset.items, job.words)
    longest = min(job.stage.batch_size, sight.positions)
    documents = corpus_documents(sight.dataset, corpus, job.history_length, longest)
    return corpus_batches(
        job.stage, documents, lambda document: document_tokens(corpus, document), positions=sight.positions
    )


def cpt_tokens(job: CorpusJob, sight: Sight) -> Tokens:
    """See StageKind.tokens: every token but a document's first is a target."""
    batches = cpt_batches(job, sight)
    return Tokens(batches.tokens, batches.tokens)
