"""benchmarks/gpu on a CPU: prepared, packed, run within a budget, gone on with, merged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "benchmarks" / "gpu"
PROOF = SCRIPTS / "proof.toml"


def script(name: str, *arguments: object, folder: Path) -> str:
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments), "--rows", str(PROOF)]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, timeout=900).stdout


def test_what_a_run_takes_over_is_what_it_would_have_made_itself() -> None:
    """A stage whose settings differed would be trained again, and a sweep would stand on different models."""
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from entries import read
entries = {entry.key: entry for entry in read(Path(sys.argv[1]) / "rows.toml")}
sweep = [entry for entry in entries.values() if entry.start]
assert len(sweep) > 5
for entry in sweep:
    mine, theirs = entry.load(), entries[entry.start].load()
    same = [a.job(mine).identity() == b.job(theirs).identity() for a, b in zip(mine.stages, theirs.stages)]
    assert same[:2] == [True, True] and not all(same), (entry.key, same)
    assert mine.embedder == theirs.embedder and mine.model == theirs.model
"""
    subprocess.run([sys.executable, "-c", code, str(SCRIPTS)], check=True)


def test_a_small_budget_goes_to_training() -> None:
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from run import training_limit
assert training_limit(60.0, minutes=0.7) == 45.0
assert training_limit(1080.0, minutes=7) == 840.0
assert training_limit(1080.0, minutes=20) == 930.0
"""
    subprocess.run([sys.executable, "-c", code, str(SCRIPTS)], check=True)


def test_a_finished_run_replaces_what_it_had_tested_when_it_was_cut_short(tmp_path: Path) -> None:
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from run import Rows
rows = Rows(Path(sys.argv[2]) / "rows.json")
row = {"data": "d", "method": "sft", "run": "r", "seed": 0, "seen": "keep"}
for more in ({"ndcg@10": .1, "partial": True}, {"ndcg@10": .2}, {"ndcg@10": .3, "partial": True}, {"ndcg@10": .4}):
    rows.add([row | more])
assert rows.content["rows"] == [row | {"ndcg@10": .2}], rows.content["rows"]
"""
    subprocess.run([sys.executable, "-c", code, str(SCRIPTS), str(tmp_path)], check=True, cwd=SCRIPTS.parents[1])


@pytest.mark.slow
def test_a_list_of_runs_within_a_budget(tmp_path: Path) -> None:
    packed = script("prepare.py", "--data", tmp_path, "--out", tmp_path / "build", "--part-mb", 60, folder=tmp_path)
    assert "part-00" in packed
    (tmp_path / "all").mkdir()
    subprocess.run("cat build/part-* | tar -xJ -C all", shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "all" / "COMMIT").read_text().strip()
    fixed = ("--prepared", tmp_path / "all" / "prepared", "--work", tmp_path / "work")

    script("run.py", *fixed, "--out", tmp_path / "none", "--budget", 20, folder=tmp_path)
    nothing = json.loads((tmp_path / "none" / "rows.json").read_text())
    assert nothing["rows"] == []
    assert set(nothing["not_done"]) == {"ml-100k-tiny", "ml-100k-too-long", "ml-100k-k1"}

    printed = script("run.py", *fixed, "--out", tmp_path / "out", "--budget", 300, folder=tmp_path)
    found = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert set(found["not_done"]) == {"ml-100k-too-long"}
    assert {"hardware", "commit", "date"} <= found.keys()
    expected = {"popularity", "co-occurrence", "next-item SFT", "PauseRec, k=5", "PauseRec, k=1"}
    for seen in ("keep", "drop"):
        methods = [row["method"] for row in found["rows"] if row["seen"] == seen]
        assert expected <= set(methods)
        assert methods.count("popularity") == 1
    assert all(row["train_seconds"] > 0 for row in found["rows"] if "PauseRec" in row["method"])
    assert "PauseRec, k=1" in printed

    code = """
import json, sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from entries import read
from run import tested
print(json.dumps(tested(read(Path(sys.argv[1]) / "proof.toml")[0], Path(sys.argv[2]))))
"""  # what a run that is cut short later would leave: every row that is tested by its own rule, the counts too
    command = [sys.executable, "-c", code, str(SCRIPTS), str(tmp_path / "work" / "ml-100k-tiny")]
    partial = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    whole = [row for row in found["rows"] if row["run"] == "ml-100k-tiny" and row["seen"] == row["selected_by"]]
    assert len(whole) == 5
    assert [row["method"] for row in partial] == [row["method"] for row in whole]
    for key in ("ndcg@10", "hit@10", "train_seconds", "ms_per_user"):
        assert [row[key] for row in partial] == pytest.approx([row[key] for row in whole]), key

    merge = ("--merge", tmp_path / "out" / "rows.json")
    script("run.py", *fixed, "--out", tmp_path / "merged", "--budget", 0, *merge, folder=tmp_path)
    assert (tmp_path / "merged" / "rows.md").read_text() == (tmp_path / "out" / "rows.md").read_text()
    rows = json.loads((tmp_path / "merged" / "rows.json").read_text())["rows"]
    assert rows[0]["commit"] == found["commit"]
