"""The rules by which `pauserec fit` chooses: from the shape of the data, this machine's pace and the minutes, a recipe.

Each number has the measurement behind it beside it; docs/own-data.md tells the same in words, docs/log.md has the tables.
"""

from dataclasses import dataclass

from pauserec.records import Dataset

BACKBONE = "smollm2-135m-q4"
"""Small enough for two cores, and it comes as a Python package."""
CPU_LAYERS, DEEP_EPOCHS = 2, 6
"""Four layers learned no faster by epoch and cost twice (log, 22 and 29 November). A GPU takes all thirty where so many epochs
of SFT fit into half of the time; how good they are was not measured."""
SHALLOW_LAYERS, SHALLOW_EPOCHS, SHALLOW_DROPOUTS = 1, 6, (0.1, 0.0)
"""Where fewer than so many epochs of two layers fit beside the pauses, one layer without pauses learns more in the time: on
43,900 items and 390,000 events, validation NDCG@10 .066 with one layer and these dropouts after three epochs, .049 with two
layers and .2 after two (log, 30 November)."""
SHALLOW_MOST_EPOCHS = 4.0
"""Of one layer with so little dropout: with a schedule of twelve epochs its validation falls from the fifth on."""
SHALLOW_TRIES: tuple[dict[str, float], ...] = ({"dropout": 0.3, "layer_dropout": 0.2, "epochs": 8.0},)
"""What is tried besides with one layer, where time is left: on that log .055, the first .061; validation chooses."""
ONE_CODE_UP_TO = 56_000
"""Items up to which each gets a code of its own. On 800 items one code has NDCG@10 .139 where two codes of 32 x 64 have .098,
in half the time; on 43,900 items .020 where two of 1,024 have .003, after as many events (log, 29 November)."""
SPARE = 1.15
"""Codes for each item, so that new items find one."""
NEGATIVES = 2048
"""Where more codes than this are to be told apart, so many drawn ones stand for them in the loss."""
TWO_CODES = (1024, 1024)
"""Beyond that: best of those tried on 12,101 items (log, 22 November)."""
LONG_HISTORY, HISTORY_LENGTHS = 40, (20, 50)
"""From this median length on a prompt holds 50 items instead of 20: on 165 films a user, 50 (quickstart)."""
COOCCURRENCE_DIMS = 96
"""Width of the co-occurrence part of an item's vector (amazon-small's search)."""
LEARNING_RATE, PAUSE_RATE = 2e-3, 1e-3
"""SFT: 1e-5, the paper's, does not move a cut model. 2e-3 with rows that start at centroids has .147 on 800 items after five
epochs, where 1e-3 and noise had .049 on a log of the same kind (log, 29 November). Implicit SFT goes on from a trained one."""
STEPS_PER_EPOCH, BATCH_TOKENS = 24, (256, 2048)
"""Few data are cut into smaller batches, within these bounds."""
PAUSES = 1
"""Each pause costs every target a token."""
DROPOUTS = (0.4, 0.3), (0.2, 0.2)
"""On embeddings and in layers, for few data and for many. On 800 items .173 after 12 epochs with the first, .171 after 8 and
falling with the second (log, 29 November); amazon-small has the second."""
TRIES: tuple[dict[str, float], ...] = (
    {"dropout": 0.3, "layer_dropout": 0.3, "learning_rate": 1e-3},
    {"dropout": 0.5, "layer_dropout": 0.4},
)
"""What is tried besides where time is left: validation says which regularisation suits the data. Each takes 15 MB of the run
folder, so they are two."""
SHARE_OF_TRIES = 0.85
"""Of the time, which they may fill up together with all before them."""
PATIENCE = 8
"""Validation is a bumpy road on few users: the best of 60 epochs came at the 17th, after two dips of four."""
FEW_EVENTS, LONG_PATIENCE = 20_000, 24
"""Below so many events an epoch takes seconds, and time is left for a longer wait."""
EPOCHS = ((20_000, 60.0), (150_000, 24.0), (10**12, 12.0))
"""Most epochs of SFT by the number of events: more of them only make up for few data."""
FEWEST_EPOCHS = 2.0
"""Where fewer epochs of SFT fit, the pauses are left out; where not even half of it fits, the language model is."""
SHARE_OF_TESTS, SHARE_OF_VALIDATION = 0.12, 0.10
"""Of the time."""
FEWEST_TESTED, MOST_VALIDATED = 1000, 5000
SHARE_OF_PAUSES = 0.4
"""Of what the language model's stages have."""
SHARE_OF_PAUSE_ROW, TEXT_TOKEN_COST = 0.05, 3.0
"""Of the time for pauses; and what a token of running text costs, whose softmax is over the vocabulary, in tokens of SFT."""
DISTILL, PAUSE_STEPS, PAUSE_EPOCHS = 0.9, 400, (0.5, 25.0)
"""Implicit SFT goes on from SFT and must learn to predict from a pause. On 800 items, one pause, validation NDCG@10 after 31,
62, 93 and 124 steps: .070 .126 .134 .150, then falling, by labels alone; .084 .150 .162 .166 with SFT's own predictions as nine
tenths of the target; SFT has .171 (log, 29 November). So many steps are wanted, within these bounds of epochs."""
FEWEST_PAUSE_STEPS = 150
"""Where fewer steps of implicit SFT fit, or less than the lower bound of its epochs, the pauses are left out: after 86 steps
`pauserec` had .76 of what SFT has (log, 30 November)."""
TEACHER_COST = 1.3
"""What a step of implicit SFT costs with SFT's predictions beside it."""
SHARE_OF_SASREC = 0.15
SASREC_SECONDS = 270.0 / 198_502
"""Seconds an event until SASRec's best validation on one core (Amazon Beauty, benchmarks/results/baselines-2026-11-21.json)."""
RESERVE = 0.08
"""Of the minutes, for starting, reading again and the report."""


@dataclass(frozen=True)
class Shape:
    """What of a data set the rules look at."""

    users: int
    items: int
    events: int
    median_length: float
    with_text: float
    """Share of the items that have a title or categories."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Shape":
        """The shape of a prepared data set."""
        lengths = sorted(map(len, dataset.sequences))
        texts = sum(bool(item.title or item.categories) for item in dataset.items)
        median = float(lengths[len(lengths) // 2])
        return cls(len(dataset.users), len(dataset.items), dataset.interactions, median, texts / len(dataset.items))


UPDATE_RATE, UPDATE_EPOCHS = 0.5, 4
"""Of an update: its learning rate as a part of the first one, and its most epochs."""
COUNT_SECONDS = 3.5e-8
"""Seconds to rank a user by co-occurrence, for each item of the catalogue: 1.5 ms at 43,900 items."""
SASREC_RANK_SECONDS = 4.4e-4
"""Seconds to rank a user by SASRec at 12,000 items: 22,363 users and two splits in 19.5 s (the same file)."""
ID_SECONDS = 4e-4
"""Seconds to give an item its ID."""
LEAST_SECONDS = 100.0
"""Less time than this leaves nothing for training once the language model is read, tested and measured."""
MANY_EVENTS = 150_000
"""Events from which data are many."""


def most_epochs(events: int, *, shallow: bool = False) -> float:
    """Of SFT."""
    return SHALLOW_MOST_EPOCHS if shallow else next(epochs for bound, epochs in EPOCHS if events < bound)


def patience(events: int) -> int:
    """Validations to wait for a better one."""
    return LONG_PATIENCE if events < FEW_EVENTS else PATIENCE


def codes(items: int) -> list[int]:
    """Codebook sizes: one code an item with room for new ones, or two levels."""
    if items <= ONE_CODE_UP_TO:
        return [-(-int(items * SPARE + 16) // 64) * 64]
    sizes = list(TWO_CODES)
    while sizes[0] * sizes[1] < 8 * items:
        sizes = [2 * size for size in sizes]
    return sizes


def batch_tokens(tokens_per_epoch: int) -> int:
    """Tokens of a batch, so that an epoch has some steps."""
    low, high = BATCH_TOKENS
    return min(high, max(low, tokens_per_epoch // STEPS_PER_EPOCH // 64 * 64))
