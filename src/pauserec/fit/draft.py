"""The settings that a choice is made of: IDs, prompt, stages and rows as nested dicts, each with its reason."""

from dataclasses import dataclass, field
from typing import Any

from pauserec.config import DataConfig
from pauserec.fit import rules
from pauserec.fit.rules import Shape


@dataclass
class Chosen:
    """A recipe's nested dicts, the reason of each choice by dotted key, what was left out and why, expected seconds."""

    content: dict[str, Any]
    reasons: dict[str, str]
    left_out: list[str] = field(default_factory=list)
    expected: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is asked: a name, data, minutes in all, settings; and what is known: seconds spent, of reading, of embedding."""

    name: str
    data: DataConfig
    minutes: float
    spent: float
    reading: float
    embedding: float
    seed: int = 0
    overrides: tuple[str, ...] = ()


def ids_and_prompt(chosen: Chosen, task: Task, shape: Shape) -> None:
    sizes = rules.codes(shape.items)
    one = len(sizes) == 1
    long = shape.median_length > rules.LONG_HISTORY
    chosen.content |= {
        "embedder": {
            "cooccurrence_dims": min(rules.COOCCURRENCE_DIMS, max(8, shape.items // 4)),
            "cooccurrence_weight": 0.5,
        },
        "quantizer": {"codebook_sizes": sizes},
        "model": {"name": rules.BACKBONE, "layers": rules.CPU_LAYERS, "new_rows": "centroids"},
        "prompt": {"template": "ids", "history_length": rules.HISTORY_LENGTHS[long]},
        "decoding": {"normalise": "codebook"},
    }
    chosen.reasons |= {
        "embedder": "An item's vector: its text, and what it was chosen together with.",
        "quantizer.codebook_sizes": (
            f"{shape.items:,} items: one code for each, and room for new ones. So few codes are remembered best one by one."
            if one
            else f"{shape.items:,} items: two codes each, for a softmax over one code an item would cost more than the model."
        ),
        "model.layers": "On a CPU two layers learn as much by epoch as four, at half the cost.",
        "model.new_rows": "Items that are alike begin alike.",
        "prompt.template": "Prompts of IDs alone: a third of the tokens of a chat, with the same quality.",
        "prompt.history_length": f"Half of the users have at least {shape.median_length:.0f} events.",
    }


def _next_item(task: Task, shape: Shape) -> dict[str, Any]:
    """What both next-item stages have in common."""
    many = max(rules.codes(shape.items)) > rules.NEGATIVES
    dropout, layer_dropout = rules.DROPOUTS[shape.events > rules.MANY_EVENTS]
    return ({"negatives": rules.NEGATIVES} if many else {}) | {
        "targets": "all",
        "loss_on": "history",
        "softmax": "codebook",
        "text_rows": "freeze",
        "window_overlap": 0.0,
        "weight_decay": 0.5,
        "dropout": dropout,
        "layer_dropout": layer_dropout,
        "patience": rules.patience(shape.events),
        "epochs": 1.0,
        "seed": task.seed,
    }


def sft(task: Task, shape: Shape) -> dict[str, Any]:
    tokens = shape.events * len(rules.codes(shape.items))
    batch = rules.batch_tokens(tokens)
    head: dict[str, Any] = {"name": "sft", "kind": "sft", "starts_from": ["base"]}
    return head | _next_item(task, shape) | {"learning_rate": rules.LEARNING_RATE, "batch_tokens": batch}


def pauses(task: Task, shape: Shape) -> list[dict[str, Any]]:
    tokens = shape.events * len(rules.codes(shape.items)) * (1 + rules.PAUSES)
    row: dict[str, Any] = {
        "name": "pause_pretrain",
        "kind": "pause_pretrain",
        "starts_from": ["sft"],
        "corpus": "items",
        "epochs": 1.0,
        "seed": task.seed,
    }
    head: dict[str, Any] = {"name": "implicit_sft", "kind": "implicit_sft", "fields": [], "pauses": rules.PAUSES}
    own = {"loss_on": "target", "distill": rules.DISTILL, "learning_rate": rules.PAUSE_RATE}
    implicit = head | _next_item(task, shape) | own | {"batch_tokens": rules.batch_tokens(tokens)}
    return [row, implicit]


def shallow(chosen: Chosen, stages: list[dict[str, Any]]) -> None:
    """One layer with little dropout, for many data and little time."""
    chosen.content["model"]["layers"] = rules.SHALLOW_LAYERS
    chosen.reasons["model.layers"] = (
        f"Fewer than {rules.SHALLOW_EPOCHS} epochs of {rules.CPU_LAYERS} layers fit the time: one layer learns more in it."
    )
    dropout, layer_dropout = rules.SHALLOW_DROPOUTS
    for stage in stages:
        if "dropout" in stage:
            stage |= {"dropout": dropout, "layer_dropout": layer_dropout}


def rows(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    named = {"implicit_sft": "pauserec"}
    tested = [stage["name"] for stage in stages if stage["kind"] != "pause_pretrain"]
    return [{"name": named.get(name, name), "stage": name} for name in tested]
