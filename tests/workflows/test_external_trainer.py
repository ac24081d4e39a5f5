"""A loop whose trainer is a script of somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGINT, SIGKILL, Signals, default_int_handler
from signal import signal as set_handler
from typing import Any

import pytest

from hardmine.cli.main import run as cli
from hardmine.data.formats.coco_writing import write_coco
from hardmine.errors import CheckpointError, CommandError, ConfigError, DataError
from hardmine.workflows.external_trainer import ExternalTrainer, make_trainer
from hardmine.workflows.train_options import TrainerCommands
from loop_fakes import World, rows_of, run, sheet_of, trained_on

TRAINER = """
import json, pathlib, sys, time
train, val, classes, init, out, seed, steps, number, arm = sys.argv[1:]
table = json.load(open(train))
boxed = {a["image_id"] for a in table["annotations"]}
empty = [i["file_name"] for i in table["images"] if i["id"] not in boxed]
assert len(json.load(open(val))["annotations"]) == 10
assert open(classes).read() == "thing\\n"
known = set() if init == "none" else set(json.load(open(init))["learned"])
learned = sorted(known | {pathlib.Path(name).stem.split("-")[0] for name in empty})
said = {"learned": learned, "seed": seed, "steps": steps, "number": number, "arm": arm}
if "FAIL" in learned or pathlib.Path(out).parents[3].joinpath("fail").exists():
    print("epoch 1 of 3")
    sys.exit("CUDA error: out of luck")
text = json.dumps(said)
hold = pathlib.Path(__file__).parent / "hold"
with open(out, "w") as file:
    file.write(text[:20])
    file.flush()
    while number == "1" and hold.exists():
        hold.with_name("holding").touch()
        time.sleep(0.05)
    file.write(text[20:])
print("written")
"""

PREDICTOR = """
import json, pathlib, sys
weights, listing, out = sys.argv[1:]
learned = json.load(open(weights))["learned"]
rows = []
for image in json.load(open(listing))["images"]:
    kind, number = pathlib.Path(image["file_name"]).stem.split("-")[:2]
    if kind in ("object", "val"):
        score = 0.9 - int(number) / 1000
    else:
        score = int(number) / 100 * (0.2 if kind in learned else 1)
    rows.append({"image_id": image["id"], "category_id": 1, "bbox": [8, 8, 16, 16], "score": score})
json.dump(rows, open(out, "w"))
"""

FIELDS = (
    "{train_json} {val_json} {classes} {init_weights} {weights_out} {seed} {steps} {round} {arm}"
)


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "train it.py").write_text(TRAINER)
    (tmp_path / "predict.py").write_text(PREDICTOR)
    return {
        "train_command": f"{sys.executable} '{tmp_path}/train it.py' {FIELDS}",
        "predict_command": f"{sys.executable} {tmp_path}/predict.py "
        "{weights} {images_json} {predict_json}",
        "weights_name": "weights.json",
    }


def external(inputs: dict[str, Any], out: Path, **more: Any) -> Any:
    from hardmine import run_loop

    keywords = {**inputs, "out": out, **more}
    return run_loop(keywords.pop("data"), **keywords)


@pytest.mark.usefixtures("no_page")
def test_the_loop_is_that_of_the_same_trainer_inside(
    tmp_path: Path, inputs: dict[str, Any], commands: dict[str, str]
) -> None:
    """The script learns as the tests' own trainer does, so both loops must hand out the same."""
    arms = {"arms": ("mined", "none"), "rounds": 2}
    external(inputs, tmp_path / "theirs", **arms, **commands)
    run(inputs, tmp_path / "ours", World(), **arms)
    theirs, ours = rows_of(tmp_path / "theirs"), rows_of(tmp_path / "ours")
    assert len(theirs) == 6
    for a, b in zip(theirs, ours, strict=True):
        assert {k: v for k, v in a.items() if k != "model"} == {
            k: v for k, v in b.items() if k != "model"
        }
    for number in (1, 2):
        assert sheet_of(tmp_path / "theirs", "mined", number) == sheet_of(
            tmp_path / "ours", "mined", number
        )
        assert trained_on(tmp_path / "theirs", "mined", number)
    written = [json.loads(p.read_text()) for p in tmp_path.glob("theirs/models/*/weights.json")]
    assert sorted((w["number"], w["arm"]) for w in written) == [
        ("0", "base"),
        ("1", "mined"),
        ("1", "none"),
        ("2", "mined"),
    ]
    assert {w["seed"] for w in written} == {"0", "7919"}


@pytest.mark.usefixtures("no_page")
def test_a_failing_command_says_why_and_the_run_goes_on_from_there(
    tmp_path: Path, inputs: dict[str, Any], commands: dict[str, str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fail").touch()
    with pytest.raises(CommandError, match=r"ended with code 1: …epoch 1 of 3 \| CUDA error: out"):
        external(inputs, out, rounds=1, **commands)
    assert not list(out.glob("models/*/train.step.json"))
    (out / "fail").unlink()
    result = external(inputs, out, rounds=1, resume=True, **commands)
    assert len(result.rows) == 2
    trained = {p: p.stat().st_mtime_ns for p in out.glob("models/*/weights.json")}
    external(inputs, out, rounds=1, resume=True, **commands)
    assert {p: p.stat().st_mtime_ns for p in trained} == trained


def test_other_faults_are_one_line(
    tmp_path: Path, inputs: dict[str, Any], commands: dict[str, str]
) -> None:
    quiet = f"{sys.executable} -c pass {{weights_out}}"
    cases = {
        "ended well but wrote no": {**commands, "train_command": quiet},
        "nowhere-to-be-found: cannot be started": {
            **commands,
            "train_command": "nowhere-to-be-found {weights_out}",
        },
    }
    for number, (message, faulty) in enumerate(cases.items()):
        with pytest.raises(CommandError, match=message):
            external(inputs, tmp_path / f"out{number}", **faulty)


def left(out: Path) -> dict[str, str]:
    """Return what a run leaves, without its own path."""
    names = ["rounds.json", "rounds/mined-1/candidates.json", "rounds/mined-1/train.coco.json"]
    files = [out / name for name in names] + sorted(out.glob("models/*/weights.json"))
    return {str(f.relative_to(out)): f.read_text().replace(str(out), "OUT") for f in files}


def wait_for_size(path: Path) -> None:
    """Wait until the trainer that was left alone has written its weights."""
    for _ in range(2000):
        if path.stat().st_size > 20:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} stays half written")


def heed_interrupts() -> None:
    """Take SIGINT as from a terminal; where tests run in the background it is ignored."""
    set_handler(SIGINT, default_int_handler)


def wait_for(path: Path) -> None:
    for _ in range(2000):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} does not come")


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("signal", [SIGINT, SIGKILL])
def test_interrupted_while_the_trainer_writes(
    tmp_path: Path, inputs: dict[str, Any], commands: dict[str, str], signal: Signals
) -> None:
    """Ctrl-C reaches both, kill -9 the loop alone: its trainer lives on and writes too late."""
    for name in ("data", "val"):
        write_coco(inputs[name], tmp_path / name / "labels.json")
    words = [f"{tmp_path}/data/labels.json", "--pool", f"{inputs['pool']}", "--rounds", "1", "-q"]
    words += ["--val", f"{tmp_path}/val/labels.json", "--negatives", f"{inputs['negatives']}"]
    words += ["--stop", "never", "--draws", "5", "--weights-name", "weights.json"]
    for name in ("train_command", "predict_command"):
        words += [f"--{name.replace('_', '-')}", commands[name]]
    hold, holding = tmp_path / "hold", tmp_path / "holding"
    hold.touch()
    line = [sys.executable, "-m", "hardmine", "loop", *words, "--out", f"{tmp_path}/cut"]
    process = subprocess.Popen(
        line,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509  (one thread, and nothing but a signal is set)
    )
    wait_for(holding)
    if signal == SIGINT:
        os.killpg(process.pid, signal)
    else:
        process.kill()
    _, said = process.communicate()
    assert process.returncode == (130 if signal == SIGINT else -SIGKILL)
    wanted = "hardmine: interrupted; what was finished is kept" if signal == SIGINT else ""
    assert said.startswith(wanted)
    assert said.count("\n") == (signal == SIGINT)
    (half,) = (tmp_path / "cut").glob("models/*/attempt-*/weights.json")
    assert len(half.read_text()) == 20
    assert not (half.parents[1] / "weights.json").exists()
    assert not (half.parents[1] / "train.step.json").exists()
    hold.unlink()
    if signal == SIGKILL:
        wait_for_size(half)
    assert cli(["loop", *words, "--out", f"{tmp_path}/cut", "--resume"]) == 0
    assert not list((tmp_path / "cut").glob("models/*/attempt-*"))
    assert cli(["loop", *words, "--out", f"{tmp_path}/whole"]) == 0
    assert left(tmp_path / "cut") == left(tmp_path / "whole")


@pytest.mark.parametrize("text", ["", "no network"])
def test_weights_that_are_none_are_not_taken(
    tmp_path: Path, inputs: dict[str, Any], text: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(f"import sys; open(sys.argv[1], 'w').write({text!r})")
    command = f"{sys.executable} {script} {{weights_out}}"
    message = "ended well but wrote no" if not text else "written by train_command, loaded as"
    for _ in range(2):  # and again: nothing was stamped as done
        with pytest.raises((CommandError, CheckpointError), match=message):
            external(inputs, tmp_path / "out", train_command=command, resume=True)
    assert not list(tmp_path.glob("out/models/*/train.step.json"))
    assert not list(tmp_path.glob("out/models/*/last.safetensors"))


def test_what_an_earlier_attempt_left_is_not_taken(
    tmp_path: Path, inputs: dict[str, Any], commands: dict[str, str]
) -> None:
    out = tmp_path / "out"
    script = tmp_path / "train.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write('half'); sys.exit(3)")
    more = {**commands, "train_command": f"{sys.executable} {script} {{weights_out}}"}
    with pytest.raises(CommandError, match="ended with code 3"):
        external(inputs, out, **more)
    script.write_text("pass")
    with pytest.raises(CommandError, match="ended well but wrote no"):
        external(inputs, out, resume=True, **more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train_command": "x {weights}"},
            r"train_command: unknown field \{weights\}, wanted some of",
        ),
        ({"train_command": "x {train_json}"}, r"\{weights_out\} is not in it"),
        ({"predict_command": "x {weights}"}, r"predict_command: \{predict_json\} is not in it"),
        ({"train_command": "x 'y {weights_out}"}, "train_command: no closing quotation in"),
        (
            {"predict_command": "x {weights} {predict_json} \\"},
            "predict_command: no escaped character in",
        ),
        ({"detector": "model.onnx"}, r"detector: \{weights_out\} is not in it"),
        ({"weights_name": "a/b"}, "wanted a file name"),
        ({"weights_name": ".."}, "wanted a file name"),
    ],
)
def test_templates_are_checked_before_anything_runs(
    given: dict[str, str], message: str, tmp_path: Path
) -> None:
    commands = TrainerCommands(**{"train_command": "x {weights_out}", **given})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        make_trainer(commands, tmp_path)


def test_options_without_a_trainer_are_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="go with train_command"):
        external(inputs, tmp_path / "out", detector="{weights_out}:yolov8")


def test_trained_weights_are_loaded_as_the_detector_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
    import numpy as np
    from graph_files import constant_graph

    graph = {"out": np.array([[[8, 8, 24, 24, 0.75, 0.1]]], np.float32)}
    path = constant_graph(tmp_path / "best.onnx", graph)
    trainer = ExternalTrainer("x {weights_out}", None, "{weights_out}:yolov5", "w.onnx", tmp_path)
    trainer.classes.parent.mkdir()
    trainer.classes.write_text("thing\n")
    assert trainer.load(path).categories == ("thing",)
    with pytest.raises(DataError, match=r"has classes 2 \(a, b\), the dataset has 1 \(thing\)"):
        (tmp_path / "best.yaml").write_text("classes: [a, b]\n")
        ExternalTrainer("x {weights_out}", None, "{weights_out}", "w.onnx", tmp_path).load(path)


@pytest.mark.usefixtures("no_page")
def test_the_command_line_ends_with_one_line_and_code_1(
    tmp_path: Path, inputs: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    write_coco(inputs["data"], tmp_path / "data" / "data.json")
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no GPU here')")
    command = f"{sys.executable} {script} {{weights_out}}"
    words = ["loop", str(tmp_path / "data" / "data.json"), "--pool", str(inputs["pool"])]
    code = cli([*words, "--train-command", command, "--out", str(tmp_path / "o"), "-q"])
    assert code == 1
    err = capfd.readouterr().err.strip()
    assert "no GPU here" in err
    assert len(err.splitlines()) == 1
