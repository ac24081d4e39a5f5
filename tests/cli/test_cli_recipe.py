"""``hardmine recipe`` and ``--set``: what is printed is what is read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardmine.cli import console as failures
from hardmine.errors import ConfigError
from hardmine.recipes.checkpoint import save_checkpoint
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import load_recipe
from hardmine.workflows.cached_models import choose_recipe
from hardmine.workflows.train_options import NetworkOptions
from tf_configs import MINER, PLAIN

Cli = Callable[..., tuple[int, str, str]]


def test_a_printed_recipe_reads_back_as_itself(cli: Cli, files: Path) -> None:
    code, out, err = cli("recipe small160 --set epochs=3")
    assert (code, err) == (0, "")
    (files / "mine.yaml").write_text(out)
    assert load_recipe(files / "mine.yaml") == replace(named_recipe("small160"), epochs=3.0)
    assert cli("recipe", "--recipe mine.yaml")[1] == out


def test_the_recipe_of_a_checkpoint(cli: Cli, files: Path) -> None:
    recipe = replace(named_recipe("small160"), epochs=9.0)
    save_checkpoint(files / "last.safetensors", {"w": torch.zeros(1)}, recipe, ("a",))
    code, out, _ = cli("recipe last.safetensors")
    (files / "mine.yaml").write_text(out)
    assert (code, load_recipe(files / "mine.yaml")) == (0, recipe)
    assert cli("recipe", files)[1] == out


def test_compile_is_a_choice_of_the_recipe() -> None:
    assert not choose_recipe(NetworkOptions(model="small160")).compile
    assert choose_recipe(NetworkOptions(model="small160", compile=True)).compile


@pytest.mark.parametrize("command", ["train", "loop", "compare"])
def test_what_trains_takes_compile(cli: Cli, command: str) -> None:
    assert "--compile" in cli(f"{command} --help")[1]


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ("recipe ssd9000", failures.USAGE, "model: got 'ssd9000', wanted one of"),
        ("recipe auto", failures.USAGE, "model 'auto' is chosen by the data of a training"),
        ("priors show auto", failures.USAGE, "model 'auto' is chosen by the data of a training"),
        ("priors coverage data --model auto", failures.USAGE, "model 'auto' is chosen by the data"),
        ("recipe weights.safetensors", failures.FAILURE, "not a readable checkpoint"),
        ("recipe --set batch.sise=1", failures.USAGE, "unknown key 'batch.sise'"),
        ("train data --set batch.size", failures.USAGE, "wanted KEY=VALUE"),
        ("train data --set batch.size=0", failures.USAGE, "batch.size: got 0, wanted >= 1"),
        ("train data --epochs 3 --set epochs=4", failures.USAGE, "'epochs' is set already"),
        ("loop data --pool pool --set los.floor=1", failures.USAGE, "unknown key 'los'"),
    ],
)
def test_faults_are_one_line(cli: Cli, files: Path, line: str, code: int, part: str) -> None:
    (files / "x.yaml").write_text("epochs: 2\n")
    got, out, err = cli(line)
    assert (got, out) == (code, "")
    assert part in err
    assert err.count("\n") == 1
    assert not (files / "runs").exists()


@pytest.mark.parametrize("kind", ["per_class", "argmax", "agnostic", "soft_nms"])
def test_every_decoder_is_one_setting_away(cli: Cli, kind: str) -> None:
    code, out, _ = cli(f"recipe --set decode.kind={kind} --set decode.score_threshold=0")
    assert code == 0
    assert f"  kind: {kind}\n" in out
    assert "  score_threshold: 0.0\n" in out
    code, _, err = cli("recipe fasterrcnn_resnet50_fpn --set", f"decode.kind={kind}")
    assert (code == 0) == (kind == "per_class"), err


def test_a_short_option_of_the_network_is_a_setting_of_the_recipe() -> None:
    chosen = choose_recipe(NetworkOptions(model="small160", epochs=3, batch=5))
    assert (chosen.epochs, chosen.batch.size) == (3.0, 5)
    assert choose_recipe(NetworkOptions(model="small160")) == named_recipe("small160")
    with pytest.raises(ConfigError, match="'size' is set already"):
        choose_recipe(NetworkOptions(batch=5, set=("batch.size=6",)))


def test_a_configuration_of_tensorflow_becomes_a_recipe(cli: Cli, files: Path) -> None:
    """Comments name what is not carried over; the YAML below them reads back."""
    (files / "pipeline.config").write_text(PLAIN.replace("HERE", MINER))
    code, out, _ = cli("recipe --from pipeline.config --set epochs=7")
    assert code == 0
    assert "#   train_config.num_steps: 5000 -> set epochs" in out
    (files / "mine.yaml").write_text(out)
    again = load_recipe(files / "mine.yaml")
    assert (again.epochs, again.batch.size, again.loss.selection.kind) == (7, 12, "hard_examples")
    assert cli("recipe small160 --from pipeline.config")[0] == failures.USAGE
    (files / "pipeline.config").write_text("model { faster_rcnn { } }")
    code, _, err = cli("recipe --from pipeline.config")
    assert code == failures.USAGE
    assert "the model is faster_rcnn; Hardmine translates 'ssd' alone" in err
