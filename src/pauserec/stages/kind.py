"""What a kind of stage can do: train, and say beforehand how many tokens that takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pauserec.llm.vocabulary import Vocabulary
from pauserec.records import Dataset
from pauserec.runs.steps import StepFunction
from pauserec.semantic_ids.codes import SemanticIds


@dataclass(frozen=True)
class Sight:
    """What a stage's samples are made from, without a model: a dry run has it too, with stand-ins for the IDs.

    positions: tokens in a row that the model was made for.
    """

    dataset: Dataset
    ids: SemanticIds
    tokenizer: Any
    vocabulary: Vocabulary
    positions: int


class Tokens(NamedTuple):
    """Tokens of all epochs, and how many of them carry loss."""

    tokens: int
    targets: int


class StageKind(NamedTuple):
    """train: the step's function. tokens: of what it is given, how many tokens it will train on."""

    train: StepFunction
    tokens: Callable[[Any, Sight], Tokens]
