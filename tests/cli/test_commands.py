"""The commands as a user types them: each mistake is one line, and exit code 2."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from commands import cli
from pauserec.config import Recipe


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_recommend_for_users_of_a_file(tiny_run: Path, tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["i1", "i2", "i7"]})
    users, output = tmp_path / f"users.{suffix}", tmp_path / "found.parquet"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](users)
    done = cli("recommend", tiny_run, "--users", users, "-k", 3, "--format", "parquet", "--output", output)
    assert done.returncode == 0, done.stderr
    found = pl.read_parquet(output)
    assert found["user_id"].to_list() == ["a", "b"]
    assert found["items"].list.len().to_list() == [3, 3]


def test_a_changed_model_file_is_refused_in_one_line(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    weights = copy / "implicit_sft" / "difference.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = cli("recommend", copy, "--history", "i1", "--model", "pauserec")
    assert done.returncode == 2
    assert "difference.safetensors was changed" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstart", "--set", "model.layer=3"], "unknown setting 'model.layer'"),
        (["run", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["run", "quickstart", "--set", "stages.nope.epochs=1"], "stages.nope"),
        (["recommend", "/nonexistent", "--history", "1"], "is no run folder"),
        (["recommend", "/nonexistent", "--history", "1", "--output", "x"], "--output needs --format json or parquet"),
        (
            ["recommend", "/nonexistent", "--history", "1", "--format", "json", "--output", "/no/such/folder/x"],
            "there is no folder /no/such/folder",
        ),
        (["run", "quickstart", "--out", "/nonexistent/x", "--redo", "cpd"], "--redo cpd: no step of this recipe"),
        (["data", "check", "--interactions", "/nonexistent.csv"], "/nonexistent.csv"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_a_dry_run_counts_and_writes_nothing(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe, out = tmp_path / "tiny.toml", tmp_path / "out"
    recipe.write_text(tiny_recipe.dump())
    done = cli("run", recipe, "--out", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "60 users / 40 items / 720 interactions" in done.stdout
    assert not out.exists()


def test_a_model_that_cannot_be_read_is_one_line_before_anything_is_written(
    tiny_recipe: Recipe, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name, layers, said in (
        (tmp_path / "empty", None, "cannot be loaded"),
        (tiny_model, 9, "model.layers is 9, but"),
    ):
        model = tiny_recipe.model.model_copy(update={"name": str(name), "layers": layers})
        recipe = tmp_path / "tiny.toml"
        recipe.write_text(tiny_recipe.model_copy(update={"model": model}).dump())
        for options in ((), ("--dry-run",)):
            done = cli("run", recipe, "--out", tmp_path / "out", *options)
            assert done.returncode == 2
            assert said in done.stderr
            assert done.stderr.count("\n") == 1, done.stderr
            assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe.dump())
    command = [sys.executable, "-m", "pauserec", "run", str(recipe), "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not (tmp_path / "run" / "dataset").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "stopped; everything done so far is kept: the same command goes on from there"


def test_help_and_import_load_no_torch() -> None:
    code = "import sys, pauserec, pauserec.cli.commands; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, pauserec; pauserec.load; assert 'matplotlib' not in sys.modules, 'a service draws nothing'"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert cli("--help").returncode == 0


def test_a_place_that_cannot_be_written_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli("export", tiny_run, tmp_path / "file" / "model")
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_on_other_data_is_not_gone_on_with_unless_it_is_named(small_data: Path, tmp_path: Path) -> None:
    counts = tmp_path / "counts.toml"
    counts.write_text('name = "counts"\n[[baselines]]\nname = "hgn"\nkind = "hgn"\nepochs = 1\nwidth = 8\n')
    shutil.copytree(small_data, tmp_path / "other")
    (tmp_path / "link").symlink_to(small_data)
    other = tmp_path / "other"
    for data, out, code in ((small_data, (), 0), ("link", (), 0), (other, (), 2), (other, ("--out", "o"), 0)):
        done = cli("run", counts, "--set", f"data.source={data}", *out, folder=tmp_path)
        assert done.returncode == code, done.stderr
        if code:
            assert "runs/counts holds a run on" in done.stderr
            assert "give this one its own folder with --out" in done.stderr.replace("\n", " ")


def test_runs_of_two_seeds_are_one_row(small_data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "gates.toml"
    recipe.write_text('name = "gates"\n[[baselines]]\nname = "hgn"\nkind = "hgn"\nepochs = 1\nwidth = 8\n')
    for seed in (0, 1):
        done = cli("run", recipe, "--set", f"data.source={small_data}", "--seed", seed, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    done = cli("compare", "runs/gates-seed0", "runs/gates-seed1", "--format", "json", folder=tmp_path)
    rows = {row["model"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["hgn"]["runs"] == ["gates-seed0", "gates-seed1"]
    assert rows["hgn"]["deviation"]["ndcg@10"] > 0
    again = cli("run", "runs/gates-seed1/recipe.toml", "--out", "runs/gates-seed1", folder=tmp_path)
    assert "✓ hgn" in again.stderr, "its recipe.toml is seeded; nothing is trained again"


def test_a_terminal_that_lacks_a_letter_shows_its_code(tiny_run: Path) -> None:
    command = [sys.executable, "-m", "pauserec", "compare", str(tiny_run)]
    shown = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert b"\\u2013" in shown.stdout


def test_flex_attention_without_a_gpu_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    refused = cli("run", "quickstart", "--set", "stages.sft.attention=flex", "--out", tmp_path / "run", "--dry-run")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "stages.sft.attention: flex trains on a GPU only" in refused.stderr
