"""From the data, the machine and the minutes to a recipe: the rules of rules.py, applied. Read `choose` first."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Protocol

from pauserec.config import Recipe, Stage
from pauserec.fit import draft, rules
from pauserec.fit.draft import Chosen, Task
from pauserec.fit.machine import StagePace
from pauserec.fit.rules import Shape
from pauserec.records import Dataset
from pauserec.runs.progress import clock

ORDER = (
    "name",
    "data",
    "embedder",
    "quantizer",
    "model",
    "prompt",
    "baselines",
    "stages",
    "decoding",
    "evaluation",
    "budget",
)
"""Of a recipe's sections."""


class Measures(Protocol):
    """What is measured of the machine (see machine.Machine)."""

    @property
    def name(self) -> str:
        """The device, in words."""
        raise NotImplementedError

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        raise NotImplementedError

    def pace(self, stage: Stage) -> StagePace:
        """What a next-item stage costs."""
        raise NotImplementedError

    def tokens_per_epoch(self, stage: Stage) -> int:
        """Tokens of an epoch."""
        raise NotImplementedError


def choose(task: Task, dataset: Dataset, measure: Callable[[Recipe, Dataset], Measures]) -> Chosen:
    """The recipe for these data on this machine in this time. measure: makes the measurements for a recipe of one epoch."""
    shape = Shape.of(dataset)
    time = 60 * task.minutes * (1 - rules.RESERVE) - task.spent
    chosen = _counts(task, shape)
    time -= sum(chosen.expected.values())
    time -= _sasrec(chosen, task, shape, time)
    if not _language_model(chosen, task, shape, dataset, measure, time):
        for section in ("embedder", "quantizer", "model", "prompt", "decoding"):
            chosen.content.pop(section, None)
    used = {step: round(max(seconds, 0.1), 1) for step, seconds in chosen.expected.items()}
    chosen.content["budget"] = {"minutes": task.minutes, "spent": 0.0, "expected": used}
    chosen.content = {key: chosen.content[key] for key in ORDER if key in chosen.content}
    chosen.reasons["budget"] = (
        "Time for the whole run, and seconds that each step is expected to take. What trains gets its share of what is left, "
        "and shortens its schedule to it."
    )
    return chosen


def _counts(task: Task, shape: Shape) -> Chosen:
    """The data, and the rows that only count."""
    data = task.data.model_dump(mode="json", exclude_defaults=True)
    evaluation: dict[str, Any] = {"top_k": 20}
    tested = 2 * shape.users * shape.items * rules.COUNT_SECONDS
    expected = {"dataset": task.reading, "test-popularity": 1 + tested / 10, "test-co-occurrence": 2 + tested}
    reasons = {
        "data": "Your files and their columns. Wrong? Change them here, or give --set data.columns.user=NAME and so on.",
        "evaluation": "Every row ranks all items for each user.",
    }
    if task.data.min_interactions < 5:
        reasons["data.min_interactions"] = "With 5, the usual, too little would be left of these logs."
    return Chosen({"name": task.name, "data": data, "evaluation": evaluation}, reasons, [], expected)


def _sasrec(chosen: Chosen, task: Task, shape: Shape, time: float) -> float:
    """Add SASRec where it fits; gives the seconds it is expected to take."""
    wanted = 10 + rules.SASREC_SECONDS * shape.events * max(1.0, shape.items / 12_000) ** 0.5
    testing = 1 + 2 * shape.users * rules.SASREC_RANK_SECONDS * max(1.0, shape.items / 12_000)
    if wanted + testing > rules.SHARE_OF_SASREC * time:
        chosen.left_out.append(
            f"sasrec: it would take about {clock(wanted + testing)}, more than {rules.SHARE_OF_SASREC:.0%} of the time"
        )
        return 0.0
    chosen.content["baselines"] = [
        {
            "name": "sasrec",
            "kind": "sasrec",
            "width": 128,
            "heads": 2,
            "loss": "sampled",
            "negatives": min(1024, max(64, shape.items // 2)),
            "epochs": 200,
            "batch_tokens": 2048 if shape.events > 50_000 else 1024,
            "validation_users": min(shape.users, 5000),
            "seed": task.seed,
        }
    ]
    chosen.reasons["baselines.sasrec"] = "The strongest of the classical models, as far as it fits the time."
    chosen.expected |= {"sasrec": 2 * wanted, "test-sasrec": testing}
    return float(2 * wanted + testing)


def _language_model(
    chosen: Chosen,
    task: Task,
    shape: Shape,
    dataset: Dataset,
    measure: Callable[[Recipe, Dataset], Measures],
    time: float,
) -> bool:
    """Add IDs, backbone, stages and their rows, as far as they fit; gives whether they do."""
    if time < rules.LEAST_SECONDS:
        chosen.left_out.append(
            f"the language model: it needs at least {rules.LEAST_SECONDS:.0f} seconds, and {max(0.0, time):.0f} are left; "
            "give more --minutes"
        )
        return False
    draft.ids_and_prompt(chosen, task, shape)
    fixed = {
        "vectors": 5 + task.embedding,
        "semantic_ids": 3 + shape.items * rules.ID_SECONDS,
        "base": 6 + shape.items * 2e-4,
    }
    time -= sum(fixed.values())
    stages = [draft.sft(task, shape), *draft.pauses(task, shape)]
    machine, recipe, sft, implicit = _measured(chosen, stages, task, dataset, measure, time)
    tests, tested = _tests(sft, implicit, shape, time)
    training = time - sum(tests.values()) + _tested_on(chosen, tested, shape)
    part = training * (1 - rules.SHARE_OF_PAUSES)
    shallow = chosen.content["model"]["layers"] == rules.SHALLOW_LAYERS
    most = rules.most_epochs(shape.events, shallow=shallow)
    epochs, users = epochs_that_fit(sft, part, most, shape)
    left = training - epochs * (sft.epoch_seconds + users * sft.rank_seconds)
    if shallow or epochs < rules.FEWEST_EPOCHS or not _pauses_fit(implicit, left, users):
        training += tests.pop("test-pauserec")
        part = training
        epochs, users = epochs_that_fit(sft, part, most, shape)
        chosen.left_out.append("pauses (pauserec): next-item fine-tuning alone takes all the time")
        stages = stages[:1]
    if epochs < rules.FEWEST_EPOCHS / 2:
        chosen.left_out[-1:] = [
            f"the language model: an epoch would take {sft.epoch_seconds / 60:.0f} minutes on {machine.name}; give --minutes"
        ]
        return False
    stages[0] |= {"epochs": epochs, "validation_users": users}
    chosen.expected |= fixed | tests | {"sft": min(part, epochs * (sft.epoch_seconds + users * sft.rank_seconds))}
    if len(stages) > 1:
        left = training - chosen.expected["sft"]
        _fill_pauses(chosen, stages, machine.tokens_per_epoch(recipe.stages[1]), sft, implicit, users, left)
    planned = task.spent + sum(chosen.expected.values())
    stages += _tries(chosen, stages[0], tests["test-sft"], 60 * task.minutes * rules.SHARE_OF_TRIES - planned)
    chosen.content["stages"] = stages
    chosen.content["evaluation"]["models"] = draft.rows(stages)
    return True


def _measured(
    chosen: Chosen,
    stages: list[dict[str, Any]],
    task: Task,
    dataset: Dataset,
    measure: Callable[[Recipe, Dataset], Measures],
    time: float,
) -> tuple[Measures, Recipe, StagePace, StagePace]:
    """The machine, the recipe of one epoch, and what SFT and implicit SFT cost, for as many layers as the time allows."""
    recipe = _recipe(chosen, stages, task.overrides)
    machine = measure(recipe, dataset)
    if machine.gpu and recipe.model.layers == rules.CPU_LAYERS:
        whole = _recipe(chosen, stages, ("model.layers=null", *task.overrides))
        deep = measure(whole, dataset)
        sft, implicit = deep.pace(whole.stages[0]), deep.pace(whole.stages[2])
        if rules.DEEP_EPOCHS * sft.epoch_seconds < time / 2:
            chosen.content["model"]["layers"] = None
            chosen.reasons["model.layers"] = f"{deep.name} has time for all layers. How good they are was not measured."
            return deep, whole, sft, implicit
    sft = machine.pace(recipe.stages[0])
    for_sft = time * (1 - rules.SHARE_OF_PAUSES)
    if recipe.model.layers == rules.CPU_LAYERS and rules.SHALLOW_EPOCHS * sft.epoch_seconds > for_sft:
        draft.shallow(chosen, stages)
        recipe = _recipe(chosen, stages, task.overrides)
        machine = measure(recipe, dataset)
        sft = machine.pace(recipe.stages[0])
    return machine, recipe, sft, machine.pace(recipe.stages[2])


def _tested_on(chosen: Chosen, tested: int, shape: Shape) -> float:
    """Test every row on so many users; gives the seconds that the rows tested before then no longer take."""
    if tested >= shape.users:
        return 0.0
    chosen.content["evaluation"]["users"] = tested
    chosen.reasons["evaluation.users"] = f"Of {shape.users:,} users: testing all would take too much of the time."
    chosen.left_out.append(f"tests of all users: {tested:,} of {shape.users:,} are drawn, the same for every row")
    freed = 0.0
    for step in ("test-popularity", "test-co-occurrence", "test-sasrec"):
        before = chosen.expected.get(step, 0.0)
        chosen.expected |= {step: before * tested / shape.users} if before else {}
        freed += before - chosen.expected.get(step, 0.0)
    return freed


def _tests(sft: StagePace, implicit: StagePace, shape: Shape, time: float) -> tuple[dict[str, float], int]:
    """What testing both rows takes, and the users that they are tested on: all, where their share of the time allows it."""
    ranking = 2 * (sft.rank_seconds + implicit.rank_seconds)
    tested = min(shape.users, max(rules.FEWEST_TESTED, int(rules.SHARE_OF_TESTS * time / ranking)))
    seconds = {"test-sft": 3 + 2 * tested * sft.rank_seconds, "test-pauserec": 3 + 2 * tested * implicit.rank_seconds}
    return seconds, tested


def _recipe(chosen: Chosen, stages: list[dict[str, Any]], overrides: tuple[str, ...]) -> Recipe:
    return Recipe.parse(deepcopy({**chosen.content, "stages": stages}), overrides)


def epochs_that_fit(pace: StagePace, seconds: float, most: float, shape: Shape) -> tuple[float, int]:
    """Epochs that fit, validated after each on as many users as their share of the time allows; and how many users."""
    allowed = (
        rules.SHARE_OF_VALIDATION * seconds / (min(most, max(1.0, seconds / pace.epoch_seconds)) * pace.rank_seconds)
    )
    users = min(shape.users, rules.MOST_VALIDATED, max(500, int(allowed)))
    fit = seconds / (pace.epoch_seconds + users * pace.rank_seconds)
    return round(min(most, fit), 1 if fit < 10 else 0), users


def _pauses_fit(implicit: StagePace, seconds: float, users: int) -> bool:
    """Whether implicit SFT has the steps that it needs in this time."""
    seconds *= 1 - rules.SHARE_OF_PAUSE_ROW
    epochs = seconds / (rules.TEACHER_COST * implicit.epoch_seconds + users * implicit.rank_seconds)
    return epochs >= max(rules.PAUSE_EPOCHS[0], rules.FEWEST_PAUSE_STEPS / implicit.steps_per_epoch)


def _fill_pauses(
    chosen: Chosen,
    stages: list[dict[str, Any]],
    tokens: int,
    sft: StagePace,
    implicit: StagePace,
    users: int,
    seconds: float,
) -> None:
    """Give both stages of the pauses their epochs."""
    text = rules.TEXT_TOKEN_COST * tokens * sft.step_seconds / stages[0]["batch_tokens"]
    row = min(1.0, rules.SHARE_OF_PAUSE_ROW * seconds / text)
    stages[1] |= {"epochs": round(max(row, 0.001), 3)}
    left = seconds - row * text
    low, high = rules.PAUSE_EPOCHS
    wanted = min(high, max(low, rules.PAUSE_STEPS / implicit.steps_per_epoch))
    epoch = rules.TEACHER_COST * implicit.epoch_seconds
    epochs = min(wanted, left / (epoch + users * implicit.rank_seconds))
    stages[2] |= {"epochs": round(epochs, 2), "validation_users": users, "validate_every": 0}
    chosen.expected |= {"pause_pretrain": 5 + row * text}
    chosen.expected |= {"implicit_sft": epochs * epoch + max(1.0, epochs) * users * implicit.rank_seconds}


def _tries(chosen: Chosen, sft: dict[str, Any], testing: float, seconds: float) -> list[dict[str, Any]]:
    """SFT with other regularisation, as often as the time that is left allows."""
    found: list[dict[str, Any]] = []
    shallow = chosen.content["model"]["layers"] == rules.SHALLOW_LAYERS
    for number, other in enumerate(rules.SHALLOW_TRIES if shallow else rules.TRIES, 2):
        name = f"sft-{number}"
        takes = chosen.expected["sft"] * other.get("epochs", sft["epochs"]) / sft["epochs"]
        seconds -= takes + testing
        if seconds < 0:
            break
        found.append(sft | {"name": name} | other)
        chosen.expected |= {name: takes, f"test-{name}": testing}
        chosen.reasons[f"stages.{name}"] = (
            "There is time to try another regularisation; validation says which is served."
        )
    return found
