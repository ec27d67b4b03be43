"""A new kind of stage is settings, a file and a line of a dict: nothing else need know of it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import pauserec
from pauserec.config import Recipe

SETTINGS = """
class EchoConfig(_NextItem):
    \"\"\"Next-item fine-tuning with two pauses and titles: a kind that only this test knows.\"\"\"

    kind: Literal["echo"]
    starts_from: tuple[str] = ("cpt",)
    epochs: Epochs = 1
    learning_rate: float = Field(default=1e-3, gt=0)
    pauses: int = 2

    def form(self, prompt: PromptConfig) -> Format:
        return Format(("title",), self.pauses, 4)


Stage = Annotated[EchoConfig | """
FILE = """
from pauserec.llm.model import LanguageModel
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item import train_next_item
from pauserec.stages.objective import seed_everything


def echo(job, start, dataset_step, ids_step, *, out, log):
    seed_everything(job.stage.seed)
    ids = SemanticIds.load(ids_step.path)
    return train_next_item(job, LanguageModel.load(start.path, ids), start, dataset_step, ids, out=out, log=log)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that knows one kind of stage more."""
    source = tmp_path_factory.mktemp("source")
    copy = source / "pauserec"
    shutil.copytree(Path(pauserec.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    settings, line = copy / "config" / "stages.py", copy / "stages" / "__init__.py"
    settings.write_text(settings.read_text().replace("Stage = Annotated[", SETTINGS.lstrip(), 1))
    (copy / "stages" / "echo.py").write_text(FILE)
    changed = line.read_text().replace(
        "StageKind] = {", 'StageKind] = {\n    "echo": StageKind(echo, next_item_tokens),', 1
    )
    line.write_text(f"from pauserec.stages.echo import echo\n{changed}")
    return source


def pauserec_command(package: Path, *arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pauserec", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_new_kind_runs_dry_runs_resumes_and_is_exported_and_reported(
    package: Path, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = tiny_settings(save_every=1)
    cpt, sft = content["stages"][:2]
    plain = Recipe.parse(content | {"stages": [cpt], "evaluation": {}}).dump()
    stage = {key: sft[key] for key in ("epochs", "batch_tokens", "targets", "learning_rate", "save_every")}
    lines = [f"{key} = {orjson.dumps(value).decode()}" for key, value in (stage | {"epochs": 4.0}).items()]
    recipe, out = tmp_path / "echo.toml", tmp_path / "run"
    models = '[[evaluation.models]]\nname = "echo"\nstage = "echo"\n'
    recipe.write_text("\n".join([plain, '[[stages]]\nname = "echo"\nkind = "echo"\nvalidation_users = 20', *lines]))
    recipe.write_text(recipe.read_text().replace("models = []\n", "") + "\n" + models)

    def said(*arguments: object) -> str:
        process = pauserec_command(package, *arguments)
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return printed

    planned = said("run", recipe, "--out", out, "--dry-run")
    assert "would run: dataset" in planned
    assert "echo, test-echo" in planned

    killed = pauserec_command(package, "run", recipe, "--out", out)
    log = out / "log.jsonl"
    while killed.poll() is None and not (log.exists() and b'"echo","global_step":3' in log.read_bytes()):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (out / "echo").exists(), "it was over before it was killed"
    said("run", recipe, "--out", out)
    lines_of = [line for line in map(orjson.loads, log.read_bytes().splitlines()) if line["step"] == "echo"]
    steps = [line["global_step"] for line in lines_of if "loss" in line]
    assert steps.count(1) == 1, "the rerun went on from a checkpoint"
    result = orjson.loads((out / "result.json").read_bytes())
    assert result["models"]["echo"]["test"]["users"] == 60
    tokens = f"{result['stages']['echo']['tokens']:,}"
    assert tokens in planned, "the dry run counted what the run trained on"

    page = (out / "report.html").read_text()
    assert page.count("echo") > 5
    said("export", out, tmp_path / "model")
    assert "pauses in the prompt: 2" in (tmp_path / "model" / "README.md").read_text()
    assert "i" in said("recommend", out, "--history", "i1,i2", "-k", "3")
    assert "Every rank equals" in said("evaluate", out)
