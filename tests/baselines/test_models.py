"""What each trained baseline computes, against a plain reading of its paper."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from torch import Tensor

from pauserec.baselines.bert4rec import Bert4rec
from pauserec.baselines.generative import IdBatches, TigerRecommender, code_rows
from pauserec.baselines.hgn import Hgn
from pauserec.baselines.item_loss import ItemLoss
from pauserec.baselines.rearec import Rearec
from pauserec.baselines.tiger import Tiger
from pauserec.baselines.trained import load_baseline
from pauserec.config import BaselineJob, Recipe
from pauserec.errors import RecipeError, RunError
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.training.batches import IGNORE

ITEMS = 20


def config(kind: str, **settings: Any) -> Any:
    content = {"kind": kind, "name": kind, "dropout": 0.0, "width": 8} | settings
    return BaselineJob.model_validate({"settings": content, "seen": "drop"}).settings


def loud(model: torch.nn.Module) -> Any:
    """Weights large enough for every part to matter."""
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    for table in model.modules():
        if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None:
            torch.nn.init.zeros_(table.weight[table.padding_idx])
    return model.eval()


def histories(batch: int = 3, n: int = 6) -> Tensor:
    items = torch.randint(1, ITEMS + 1, (batch, n), generator=torch.Generator().manual_seed(1))
    items[0, :3] = 0
    return items


def recording(seen: list[Tensor], settings: Any, table: Tensor) -> Any:
    def make(targets: Tensor) -> ItemLoss:
        seen.append(targets)
        return ItemLoss(settings, table, targets)

    return make


def test_a_latent_step_is_one_more_input_of_the_same_transformer() -> None:
    settings = config("rearec", steps=3, heads=2, layers=2)
    model = loud(Rearec(ITEMS, settings))
    items = histories()
    with torch.no_grad():
        together = model.think(items)
        for row in range(3):
            for place in range(3, 6):
                inputs = model.embed(items[row : row + 1])[:, : place + 1]
                mask = model.mask(items[row : row + 1])[:, :, : place + 1, : place + 1]
                for step in range(settings.steps + 1):
                    x, now = inputs, mask
                    for block in model.blocks:
                        x = block(x, now)
                    state = model.norm(x[:, -1])
                    assert together[step][row, place] == pytest.approx(state[0], abs=1e-4)
                    if step == settings.steps:
                        continue
                    inputs = torch.cat([inputs, (state + model.steps.weight[step])[:, None]], dim=1)
                    n = inputs.shape[1]
                    mask = torch.zeros(1, 1, n, n, dtype=torch.bool)
                    mask[..., : place + 1, : place + 1] = model.mask(items[row : row + 1])[
                        ..., : place + 1, : place + 1
                    ]
                    for extra in range(place + 1, n):
                        mask[0, 0, extra, : extra + 1] = True
                        mask[0, 0, extra, : place + 1] &= items[row, : place + 1] > 0


@pytest.mark.parametrize("objective", ["erl", "prl"])
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_rearec_trains_its_steps(objective: str, loss: str) -> None:
    settings = config("rearec", objective=objective, loss=loss, negatives=5)
    model = loud(Rearec(ITEMS, settings)).train()
    items = histories()
    labels = torch.where(items > 0, items - 1, IGNORE)
    total = model.loss(items, labels, lambda targets: ItemLoss(settings, model.rows(), targets))
    total.backward()
    assert total.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())  # type: ignore[union-attr]
    assert (model.steps.weight.grad.abs().sum(1) > 0).all()


def log_chances(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


@pytest.mark.parametrize("heat", [1.0, 0.5])
def test_losses_against_items_by_hand(heat: float) -> None:
    table, hidden, targets = torch.randn(5, 4), torch.randn(3, 4), torch.tensor([0, 4, 4])
    scores = (hidden @ table.T).numpy().astype(np.float64) / heat

    def loss(kind: str, **more: str) -> tuple[float, np.ndarray]:
        found = ItemLoss(config("sasrec", loss=kind, negatives=4, **more), table, targets)
        return float(found(hidden, heat)), found.drawn.numpy()

    full, _ = loss("full")
    assert full == pytest.approx(-sum(log_chances(scores)[row, target] for row, target in enumerate(targets)), rel=1e-5)
    for negatives_for, shape in (("batch", (4,)), ("target", (3, 4))):
        sampled, drawn = loss("sampled", negatives_for=negatives_for)
        assert drawn.shape == shape
        expected = 0.0
        for row, target in enumerate(targets.tolist()):
            others = [scores[row, item] for item in np.broadcast_to(drawn, (3, 4))[row] if item != target]
            expected -= log_chances(np.array([scores[row, target], *others]))[0]
        assert sampled == pytest.approx(expected, rel=1e-5)
    bce, drawn = loss("bce")
    expected = 0.0
    for row, target in enumerate(targets.tolist()):
        expected += np.log1p(np.exp(-scores[row, target]))
        expected += np.log1p(np.exp(scores[row, drawn[row]])) * (drawn[row] != target)
    assert bce == pytest.approx(expected, rel=1e-5)


def rearec_by_hand(objective: str, **settings: float) -> tuple[float, list[np.ndarray], np.ndarray, np.ndarray]:
    """The loss of a ReaRec, its states at the targets, their scores [steps + 1, M, I] and the targets [M]."""
    chosen = config("rearec", objective=objective, loss="full", steps=2, noise_std=0.0, temperature=0.5, **settings)
    model, items = loud(Rearec(ITEMS, chosen)), histories()
    labels = torch.where(items > 0, items - 1, IGNORE)
    with torch.no_grad():
        total = float(model.loss(items, labels, lambda targets: ItemLoss(chosen, model.rows(), targets)))
        states = [state[labels != IGNORE].numpy().astype(np.float64) for state in model.think(items)]
        table = model.rows().numpy()
    return total, states, np.stack([state @ table.T for state in states]), labels[labels != IGNORE].numpy()


def test_an_ensemble_ranks_by_its_mean_and_is_paid_for_members_that_differ() -> None:
    total, _, scores, targets = rearec_by_hand("erl", kl_weight=0.1)
    chances = log_chances(scores / 0.5)
    expected = -log_chances(scores.mean(0) / 0.5)[np.arange(len(targets)), targets].sum()
    pairs = [(p, q) for i, p in enumerate(chances) for j, q in enumerate(chances) if i != j]
    expected -= 0.1 * np.mean([(np.exp(q) * (q - p)).sum() for p, q in pairs])
    assert total == pytest.approx(expected, rel=1e-4)


def test_progressive_steps_grow_sharper_and_know_themselves_under_noise() -> None:
    total, states, scores, targets = rearec_by_hand("prl", temperature_factor=3.0, contrastive_weight=0.2)
    rows = np.arange(len(targets))
    expected = -log_chances(scores[-1] / 0.5)[rows, targets].sum()
    for step, heat in enumerate((0.5 * 9, 0.5 * 3)):
        expected -= log_chances(scores[step] / heat)[rows, targets].sum() / 2
    for state in states[1:]:  # without noise, a state meets itself
        unit = state / np.linalg.norm(state, axis=1, keepdims=True)
        expected -= 0.2 * log_chances(unit @ unit.T / 0.5)[rows, rows].sum() / 2
    assert total == pytest.approx(expected, rel=1e-4)


def test_rearec_needs_a_softmax() -> None:
    baseline = {"name": "r", "kind": "rearec", "loss": "bce"}
    with pytest.raises(RecipeError, match="ReaRec's objectives need a softmax"):
        Recipe.parse({"name": "x", "baselines": [baseline]})


def test_bert4rec_never_sees_what_it_fills_in_and_sees_both_ways() -> None:
    settings = config("bert4rec", heads=2)
    model = loud(Bert4rec(ITEMS, settings))
    items = histories()
    masked = items.clone()
    masked[:, 4] = model.mask
    other = masked.clone()
    other[:, 5] = other[:, 5] % ITEMS + 1
    with torch.no_grad():
        assert not torch.allclose(model(masked)[:, 4], model(other)[:, 4], atol=1e-3)
    targets: list[Tensor] = []
    labels = torch.where(items > 0, items - 1, IGNORE)
    labels[1] = IGNORE  # of several processes one may be handed rows without targets
    model.train().loss(items, labels, recording(targets, settings, model.rows()))
    whole = set((items[[0, 2]] - 1).flatten().tolist()) | set(labels[[0, 2], -1].tolist())
    assert len(targets[0]) > 0
    assert set(targets[0].tolist()) <= whole


def test_bert4rec_hides_the_share_it_was_told_and_never_nothing() -> None:
    settings = config("bert4rec", mask_probability=0.3)
    model = loud(Bert4rec(ITEMS, settings))
    items = torch.randint(1, ITEMS + 1, (400, 9))
    counts: list[Tensor] = []
    model.loss(items, items - 1, recording(counts, settings, model.rows()))
    expected = 0.3 * 10 + 0.7**10
    assert len(counts[0]) / 400 == pytest.approx(expected, rel=0.1)
    torch.manual_seed(1)
    summed = model.loss(items, items - 1, lambda targets: lambda states: states.new_tensor(float(len(targets))))  # type: ignore[arg-type,return-value]
    assert float(summed) == pytest.approx(items.numel(), rel=1e-4), "weighed as if every item were a target"
    rare = loud(Bert4rec(ITEMS, config("bert4rec", mask_probability=1e-6)))
    rare.loss(items, items - 1, recording(counts, settings, rare.rows()))
    assert counts[1].tolist() == (items[:, -1] - 1).tolist()


def test_hgn_is_its_equations() -> None:
    model = loud(Hgn(ITEMS, config("hgn", window=3)))
    items = histories()
    with torch.no_grad():
        states = model(items)
        for row, place in ((0, 3), (0, 5), (1, 1), (2, 5)):
            history = [int(item) for item in items[row, : place + 1] if item]
            user = torch.stack([model.tastes.weight[item] for item in history]).mean(0)
            window = [model.table.weight[item] for item in history[-3:]]
            gate_of_user = model.item_gate_of_user(user)[-len(window) :]
            chosen = [w * torch.sigmoid(model.feature_gate(w) + model.feature_gate_of_user(user)) for w in window]
            gates = [torch.sigmoid(model.item_gate(c)[0] + bias) for c, bias in zip(chosen, gate_of_user, strict=True)]
            pooled = torch.stack([c * gate for c, gate in zip(chosen, gates, strict=True)]).sum(0) / sum(gates)
            assert states[row, place] == pytest.approx(user + pooled + torch.stack(window).sum(0), abs=1e-4)


def small_ids() -> SemanticIds:
    return SemanticIds(np.array([(item % 3, item // 3 % 3, item // 9) for item in range(ITEMS)]), (3, 3, 3))


@pytest.mark.parametrize("encoder", ["bidirectional", "causal"])
def test_tiger_ranks_by_the_probability_it_trains(encoder: str) -> None:
    ids = small_ids()
    settings = config("tiger", layers=2, heads=2, head_width=4, feed_forward=16, beams=ITEMS, encoder=encoder)
    model = loud(Tiger(ids.sizes, settings))
    recommender = TigerRecommender(model, ids, settings)
    wanted = [np.array([3, 1, 4]), np.array([7]), np.empty(0, dtype=np.int64)]
    found = recommender.top(wanted, ITEMS, drop_seen=False)
    for row, history in enumerate(wanted):
        rows = torch.from_numpy(code_rows(ids)[history + 1 if len(history) else np.zeros(1, dtype=np.int64)])[None]
        with torch.no_grad():
            losses = np.array([float(model(rows, torch.from_numpy(ids.codes[[[item]]]))) for item in range(ITEMS)])
        assert found.items[row].tolist() == np.argsort(losses, kind="stable").tolist()
        assert -found.scores[row] == pytest.approx(np.sort(losses), rel=1e-4)


def test_a_causal_tiger_trains_all_targets_at_once_as_it_would_one_by_one() -> None:
    ids = small_ids()
    shape = {"layers": 2, "heads": 2, "head_width": 4, "feed_forward": 16, "history_length": 6, "epochs": 1}
    model = loud(Tiger(ids.sizes, config("tiger", encoder="causal", **shape)))
    sequences = [np.array([3, 1, 4, 1, 5, 9]), np.array([2, 6]), np.array([11, 12, 13, 14])]
    together, apart = (
        IdBatches(sequences, ids, config("tiger", encoder=way, **shape)) for way in ("causal", "bidirectional")
    )
    assert len(together) == 1
    sums = []
    for batches in (together, apart):
        losses, model.causal = [], True
        for number in range(len(batches)):
            batch = batches[number]
            losses.append(model(torch.from_numpy(batch["histories"]), torch.from_numpy(batch["labels"])))
        sums.append((torch.stack(losses).sum(), sum(batches[number]["count"] for number in range(len(batches)))))
    assert sums[0][1] == sums[1][1] == 5 + 1 + 3
    torch.testing.assert_close(sums[0][0], sums[1][0], rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss, _ in sums]
    for once, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(once, summed, rtol=1e-4, atol=1e-5)


def samples_of(batches: IdBatches, ids: SemanticIds) -> list[tuple[list[int], list[int]]]:
    """Items shown and targets of each sample."""
    item_of = {tuple(codes): item for item, codes in enumerate(ids.codes.tolist())}
    rows = {tuple(row): item for item, row in enumerate(code_rows(ids)[1:].tolist())}
    found = []
    for number in range(len(batches)):
        batch = batches[number]
        assert batch["count"] == (batch["labels"][..., 0] != IGNORE).sum()
        assert batch["histories"][..., 0].size * 3 <= 64
        for history, labels in zip(batch["histories"].tolist(), batch["labels"].tolist(), strict=True):
            read = [rows[tuple(codes)] for codes in history if codes[0]]
            found.append((read, [item_of[tuple(codes)] for codes in labels if codes[0] != IGNORE]))
    return found


def test_every_event_but_the_first_is_a_tiger_sample() -> None:
    ids = small_ids()
    settings = config("tiger", epochs=1, batch_tokens=64, history_length=4)
    sequences = [np.array([0, 1, 2, 3, 4, 5, 6]), np.array([7]), np.array([8, 9])]
    found = samples_of(IdBatches(sequences, ids, settings), ids)
    assert sorted(found) == sorted([(list(range(max(0, n - 4), n)), [n]) for n in range(1, 7)] + [([8], [9])])


def test_a_causal_tigers_samples_are_windows() -> None:
    ids = small_ids()
    settings = config("tiger", epochs=1, batch_tokens=64, history_length=4, encoder="causal")
    sequences = [np.array([0, 1, 2, 3, 4, 5, 6]), np.array([7]), np.array([8, 9])]
    found = samples_of(IdBatches(sequences, ids, settings), ids)
    assert sorted(found) == [([0, 1, 2, 3], [1, 2, 3, 4]), ([2, 3, 4, 5], [5, 6]), ([8], [9])]


def test_a_damaged_tiger_is_named(tmp_path: Path) -> None:
    ids, settings = small_ids(), config("tiger", layers=1, heads=2, head_width=4, feed_forward=16)
    TigerRecommender(Tiger(ids.sizes, settings), ids, settings).save(tmp_path)
    content = orjson.loads((tmp_path / "settings.json").read_bytes())
    for codes in ("text", [[0, 0]], [[9, 9, 9]], None):
        (tmp_path / "settings.json").write_bytes(orjson.dumps(content | {"codes": codes}))
        with pytest.raises(RunError, match="is damaged: train the baseline again"):
            load_baseline(tmp_path)
