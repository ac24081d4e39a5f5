"""Shell completion: the words a shell is offered, without importing torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardmine.augment.chain import AUGMENT_PRESETS
from hardmine.cli.option_flags import detector_words, listed, recipe_names, setting_words
from hardmine.inference.graph.graph_config import PRESETS
from hardmine.recipes.named_recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import sys
from hardmine.cli.main import main
try:
    main()
finally:
    sys.stderr.write("torch" if "torch" in sys.modules else "light")
"""


def ask(line: str) -> tuple[list[str], str]:
    """Return what bash is offered for a half-written line, and whether torch was imported."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "_HARDMINE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("hardmine train data --model ssd512", ["ssd512_vgg16", "ssd512_resnet50"]),
        ("hardmine recipe small", ["small160"]),
        ("hardmine mine w pool --rank un", ["uncertainty"]),
        ("hardmine loop data --pool pool --arms mined,ra", ["mined,random"]),
        ("hardmine mo", ["models"]),
        ("hardmine train data --set augment.preset=s", ["augment.preset=ssd", "augment.preset=strong"]),
    ],
)  # fmt: skip
def test_a_shell_is_offered_names_quickly(line: str, wanted: list[str]) -> None:
    words, imported = ask(line)
    assert sorted(words) == sorted(wanted)
    assert imported == "light"


def test_recipe_names_are_those_of_the_recipes() -> None:
    assert sorted(recipe_names()) == sorted(RECIPES)


def test_presets_follow_the_colon_of_a_graph() -> None:
    assert detector_words("best.onnx:") == [f"best.onnx:{name}" for name in PRESETS]
    assert detector_words("best.onnx:yolov8") == ["best.onnx:yolov8"]
    assert detector_words("best.onnx") == []
    assert detector_words("torchvision:ssd") == []


def test_settings() -> None:
    assert setting_words("aug") == ["augment.preset="]
    assert setting_words("augment.preset=") == [f"augment.preset={n}" for n in AUGMENT_PRESETS]
    assert setting_words("epochs=") == []


def test_a_list_with_commas_is_completed_at_its_end() -> None:
    complete = listed(lambda: ["mined", "random", "none"])
    assert complete("") == ["mined", "random", "none"]
    assert complete("random,") == ["random,mined", "random,none"]
    assert complete("random,m") == ["random,mined"]
