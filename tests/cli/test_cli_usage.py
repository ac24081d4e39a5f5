"""The command line as a user meets it: help, exit codes, one clear line for a mistake."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hardmine.cli import console as failures
from hardmine.cli import main, options
from hardmine.cli.main import app, run
from hardmine.cli.option_flags import PANELS
from hardmine.device import count_workers
from hardmine.errors import CheckpointError, ConfigError, DataError, GateError, MissingExtraError
from hardmine.workflows.image_sets import DEFAULT_VAL_FRACTION

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "demo",
    "check",
    "train",
    "val",
    "mine",
    "loop",
    "predict",
    "convert",
    "recipe",
)
MODELS = ("export", "check-detector")

Cli = Callable[..., tuple[int, str, str]]


def one_line(text: str) -> str:
    """Return the only line of a text."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("hardmine: ")
    return lines[0]


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start Python; whatever happens, it is gone in the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [*COMMANDS, *MODELS])
def test_every_command_has_help(cli: Cli, command: str, flag: str) -> None:
    code, out, err = cli(command, flag)
    assert (code, err) == (0, "")
    assert f"hardmine {command}" in out
    assert "-h" in out


def test_help_lists_every_command_and_the_exit_codes(cli: Cli) -> None:
    code, out, err = cli("-h")
    assert (code, err) == (0, "")
    for command in (*COMMANDS, *MODELS):
        assert f"│ {command} " in out
    assert "3 a gate not met" in out


def test_no_command_shows_the_loop_in_five_lines_and_is_a_usage_error(cli: Cli) -> None:
    code, out, err = cli()
    assert (code, err) == (failures.USAGE, "")
    assert "Usage: hardmine" in out
    steps = [line.split() for line in out.splitlines() if re.match(r"  \d\. ", line)]
    assert [words[1] for words in steps] == ["train", "mine", "confirm", "retrain", "measure"]
    assert "hardmine -h" in out


def commands_shown(cli: Cli) -> list[str]:
    """Return the command lines that are shown without a command."""
    lines = re.findall(r"(?<=\s)hardmine [a-z].*", cli()[1])
    return [line for line in lines if " -h" not in line]


def test_what_is_shown_without_a_command_would_be_accepted(cli: Cli) -> None:
    shown = commands_shown(cli)
    assert len(shown) == 8
    for line in shown:
        name, *words = shlex.split(line)[1:]
        command = get_command(app).commands[name]
        known = {option for param in command.params for option in param.opts}
        assert {word for word in words if word.startswith("-")} <= known


def option_groups(words: str) -> dict[str, list[str]]:
    """Return the options of a command by the box that its help shows them in, in that order."""
    command: Any = get_command(app)
    for word in words.split():
        command = command.commands[word]
    groups: dict[str, list[str]] = {}
    for param in command.get_params(command.make_context(words, [], resilient_parsing=True)):
        if param.param_type_name == "option":
            groups.setdefault(param.rich_help_panel or "Options", []).append(param.opts[0])
    return groups


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("loop", ["--pool", "--negatives", "--rounds", "--weights", "--out"]),
        ("train", ["--val", "--negatives", "--train-negatives", "--weights", "--out"]),
        ("mine", ["--top", "--fraction", "--out", "--device", "--dry-run"]),
    ],
)
def test_the_five_options_that_everybody_needs_come_first(
    cli: Cli, command: str, first: list[str]
) -> None:
    groups = option_groups(command)
    assert groups["Options"] == [*first, "--help"]
    assert list(groups) == [panel for panel in PANELS if panel in groups]
    assert f" Example: hardmine {command} " in cli(command, "-h")[1]


def every_command() -> list[str]:
    """Return the words of every command, those of groups as well."""
    found: list[str] = []
    for name, command in get_command(app).commands.items():
        parts = getattr(command, "commands", {})
        found += [f"{name} {part}" for part in parts] or [name]
    return found


@pytest.mark.parametrize("words", every_command())
def test_help_shows_examples_that_would_be_accepted_and_no_type_of_python(
    cli: Cli, words: str
) -> None:
    command: Any = get_command(app)
    for word in words.split():
        command = command.commands[word]
    examples = re.findall(r"Example: hardmine (.*)", command.help)
    assert examples
    known = {option for param in command.params for option in param.opts}
    for example in examples:
        assert example.startswith(words)
        assert {word for word in shlex.split(example) if word.startswith("-")} <= known
    out = cli(*words.split(), "-h")[1]
    assert not re.search(r"<(str|path|Path|list)\b|\[\[", out)


def test_help_of_the_loop_is_in_groups(cli: Cli) -> None:
    groups = option_groups("loop")
    panels = ["Options", "Data", "Pool", "Loop", "Ranking", "Training", "Output", "Advanced"]
    assert list(groups) == panels
    assert max(map(len, groups.values())) <= 9
    out = cli("loop", "-h")[1]
    boxes = [line.split()[1] for line in out.splitlines() if line.startswith("╭")]
    assert boxes == ["Arguments", *groups]


@pytest.mark.parametrize("command", [*COMMANDS, *MODELS, "split", "models", "inspect", "compare"])
def test_no_part_of_a_help_text_is_taken_for_markup(cli: Cli, command: str) -> None:
    params = get_command(app).commands[command].params
    out = re.sub(r"[\s│]+", "", cli(command, "-h")[1])
    for param in params:
        assert re.sub(r"\s+", "", param.help or "") in out, param.name


@pytest.mark.parametrize("command", [*COMMANDS, *MODELS, "split", "models", "inspect", "compare"])
def test_every_command_takes_the_short_names_that_people_expect(command: str) -> None:
    known = {flag for param in get_command(app).commands[command].params for flag in param.opts}
    assert {"-q", "--quiet", "-v", "--verbose"} <= known
    if command in ("train", "val", "mine", "loop", "predict", "compare"):
        assert {"--device", "--workers", "--out", "-o"} <= known
    if command in ("train", "loop"):
        assert {"--seed", "--batch"} <= known


def test_workers_are_the_threads_that_read_images(
    cli: Cli, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARDMINE_WORKERS", "")
    assert count_workers(2) == 2
    cli("train data --workers 5")
    assert count_workers(2) == 5
    code, _, err = cli("train data --workers 0")
    assert code == failures.USAGE
    assert "'--workers': Input should be greater than or equal to 1" in err


def test_version(cli: Cli) -> None:
    assert cli("--version") == (0, "hardmine 0.1.0\n", "")


def test_a_group_of_commands_alone_shows_its_help_and_no_error(cli: Cli) -> None:
    code, out, err = cli("priors")
    assert (code, err) == (failures.USAGE, "")
    assert "Usage: hardmine priors" in out


@pytest.mark.parametrize("command", ["train", "loop", "compare"])
def test_help_says_what_is_held_back_where_val_is_not_given(cli: Cli, command: str) -> None:
    out = " ".join(cli(f"{command} -h")[1].replace("│", " ").split())
    assert f"the part 'val' of DATA, or {DEFAULT_VAL_FRACTION:g} of DATA where it has none" in out


def test_module_and_exit_status_of_the_process() -> None:
    with process("-m", "hardmine", "train", "nowhere") as started:
        out, err = started.communicate(timeout=60)
    assert started.returncode == failures.USAGE
    assert out == ""
    assert "'nowhere' does not exist" in one_line(err)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("fly", "No such command 'fly'; 'hardmine -h' lists all commands"),
        ("traim data", "No such command 'traim'. Did you mean 'train'?"),
        ("--colour", "No such option: --colour; 'hardmine -h' lists all options"),
        ("train data --epoch 3", "No such option: --epoch; did you mean '--epochs'?"),
        ("loop data --pol pool", "No such option: --pol; did you mean '--pool'?"),
        ("train data -x", "No such option: -x; 'hardmine train -h' lists all options"),
        ("train data --lr 1", "No such option: --lr; did you mean '--set optim.lr=0.001'?"),
        ("train data --conf 1", "No such option: --conf; 'hardmine train -h' lists all"),
        ("predict weights.safetensors pool --conf 1", "did you mean '--min-score'?"),
        ("train", "Missing argument 'DATA'"),
        ("train nowhere", "path 'nowhere' does not exist"),
        ("train data --epochs 0", "'--epochs': 0.0 is not above 0"),
        ("train data --epochs many", "'--epochs': Input should be a valid number"),
        ("train data --val 1.5", "1.5 is not between 0 and 1"),
        ("train data --val 0", "0 is not between 0 and 1"),
        ("train data --val nan", "nan is not between 0 and 1"),
        ("train data --val nowhere", "no file or folder 'nowhere', and not a fraction"),
        ("train data --recipe nowhere.yaml", "file 'nowhere.yaml' does not exist"),
        ("train data --negatives nowhere", "'nowhere' does not exist"),
        ("val weights.safetensors", "Missing argument 'DATA'"),
        ("val weights.safetensors data --max-alarms 1", "'--max-alarms' needs '--negatives'"),
        (
            "val weights.safetensors data --min-ap50 50",
            "'--min-ap50': Input should be less than or equal to 1",
        ),
        ("mine weights.safetensors pool --top 3 --fraction 0.1", "exclude each other"),
        ("mine weights.safetensors pool --top 0", "'--top': Input should be greater"),
        ("mine weights.safetensors pool --fraction 0", "0.0 is not above 0 and at most 1"),
        ("mine weights.safetensors pool --fraction 1.1", "1.1 is not above 0 and at most 1"),
        (
            "mine weights.safetensors pool --min-score -0.1",
            "'--min-score': Input should be greater",
        ),
        ("loop data", "Missing option '--pool'"),
        ("loop data --pool nowhere", "'nowhere' does not exist"),
        ("loop data --pool pool --add 0", "add: got 0.0, wanted auto, a share above 0"),
        (
            "loop data --pool pool --retrain contine",
            "'--retrain': 'contine' is not one of 'branch', 'fresh', 'continue'; did you mean "
            "'continue'?",
        ),
        ("mine weights.safetensors nowhere", "'POOL': path 'nowhere' does not exist"),
        ("mine weights.safetensors nowhere.tar", "path 'nowhere.tar' does not exist"),
        ("compare default auto nowhere", "'DATA': path 'nowhere' does not exist"),
        ("compare default auto data --pool nowhere", "'--pool': path 'nowhere' does not exist"),
        (
            "compare default auto data --train-negatives nowhere",
            "'--train-negatives': path 'nowhere' does not exist",
        ),
        ("mine weights.safetensors pool --rank sums", "; did you mean 'sum'?"),
        (
            "loop data --pool pool --arms mined,lucky",
            "arms: got 'lucky', wanted one of mined, random, none",
        ),
        ("loop data --pool pool --arms mined,mined", "each once"),
        ("loop data --pool pool --rounds 0", "'--rounds': Input should be greater"),
        ("loop data --pool pool --device tpu", "device: got 'tpu', wanted cpu, mps, cuda"),
        ("predict weights.safetensors", "Missing argument 'IMAGE|VIDEO|DIR"),
        ("predict weights.safetensors nowhere.jpg", "'nowhere.jpg' does not exist"),
        ("convert data out", "Missing option '--to'"),
        ("convert data out --to csv", "got 'csv', wanted one of voc"),
        ("split data out --copy --link", "copy and link exclude each other: give one of them"),
        ("check data --link", "link goes with fix"),
        (
            "val weights.safetensors data --max-known-alarms 3",
            "max_known_alarms goes with known_alarms",
        ),
    ],
)
def test_usage_mistakes(cli: Cli, files: Path, line: str, part: str) -> None:
    code, out, err = cli(line)
    assert (code, out) == (failures.USAGE, "")
    assert part in one_line(err)


@pytest.mark.parametrize("line", ["val {} data", "mine {} pool", "predict {} image.jpg"])
def test_a_file_that_is_no_checkpoint(cli: Cli, files: Path, line: str) -> None:
    (files / "image.jpg").write_bytes(b"")
    code, out, err = cli(line.format("weights.safetensors"))
    assert (code, out) == (failures.FAILURE, "")
    assert "weights.safetensors: not a readable checkpoint" in one_line(err)


def test_data_that_is_not_recognised(cli: Cli, files: Path) -> None:
    for line in ("check data", "train data --weights none", "convert data out --to coco"):
        code, _, err = cli(line)
        assert code == failures.FAILURE
        assert "data" in one_line(err)


# Exceptions to exit codes and lines.


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a.json[3]: got -1,\nwanted 0"), 1, "a.json[3]: got -1, wanted 0"),
        (CheckpointError("w: truncated"), 1, "w: truncated"),
        (ConfigError("recipe: unknown key 'lrr'"), 2, "recipe: unknown key 'lrr'"),
        (GateError("gate not met: AP50"), 3, "gate not met: AP50"),
        (OSError(errno.ENOSPC, "x", "/a/b"), 1, "/a/b: no space left on the device"),
        (OSError(errno.ENOSPC, "x"), 1, "no space left on the device"),
        (FileNotFoundError(errno.ENOENT, "x", "/a"), 1, "/a: no such file or folder"),
        (PermissionError(errno.EACCES, "x", "/a", None, "/b"), 1, "/b: permission denied"),
        (OSError("a bare message"), 1, "a bare message"),
        (failures.usage_error("'--a' and '--b'"), 2, "'--a' and '--b'"),
        (DataError("x" * 600), 1, "x" * 498 + " …"),
        (DataError("words " * 100), 1, "words " * 83 + "…"),
        (DataError("a" * 498 + " bc"), 1, "a" * 498 + " …"),
        (MemoryError(), 1, "out of memory; a smaller batch or input helps (no detail)"),
    ],
)
def test_expected_errors(error: Exception, code: int, line: str) -> None:
    assert failures.is_expected(error)
    assert failures.exit_code(error) == code
    assert failures.explain(error) == line


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "train",
            "interrupted; what was finished is kept, and the same command with --resume goes on",
        ),
        ("mine", "interrupted; what was finished is kept, and the same command goes on"),
        ("convert", "interrupted"),
    ],
)
def test_an_interruption_says_how_the_command_goes_on(
    command: str, line: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: object, **named: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupted)
    assert cli(command, "a b") == (130, "", f"hardmine: {line}\n")


def test_an_interruption_while_a_library_loads_is_not_a_missing_library(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: object, **named: object) -> int:
        try:
            raise ImportError("initialization failed") from KeyboardInterrupt()
        except ImportError:
            raise MissingExtraError("OpenVINO is not installed") from None

    monkeypatch.setattr(main, "app", interrupted)
    code, _, said = cli("mine", "a b")
    assert (code, said.split(";")[0]) == (130, "hardmine: interrupted")


def test_an_interruption_names_resume_only_where_a_command_has_it(cli: Cli) -> None:
    for command, how in failures._GOES_ON.items():
        assert ("--resume" in how) == ("--resume" in cli(command, "-h")[1])


def test_a_fault_names_the_way_to_its_traceback() -> None:
    error = ZeroDivisionError("division by zero")
    assert not failures.is_expected(error)
    assert failures.exit_code(error) == failures.FAILURE
    text = failures.explain(error)
    assert text.startswith("unexpected ZeroDivisionError: division by zero")
    assert "--debug" in text


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (DataError("cam1/0042.xml[3]: xmax 12 <= xmin 40"), 1, "cam1/0042.xml[3]"),
        (OSError(errno.ENOSPC, "No space", "/out/state.pt"), 1, "no space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("boom"), 1, "fault: unexpected RuntimeError: boom"),
    ],
)
def test_errors_out_of_a_command_are_one_line(
    cli: Cli,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    part: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("hardmine.workflows.check_data.check", fail)
    got, out, err = cli("check", "data")
    assert (got, out) == (code, "")
    assert part in one_line(err)


@pytest.mark.parametrize("line", ["--debug check data", "check data --debug"])
def test_debug_lets_the_traceback_through(
    files: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("hardmine.workflows.check_data.check", fail)
    with pytest.raises(RuntimeError, match="boom"):
        run(line.split())


def test_ctrl_c_in_a_real_process(tmp_path: Path) -> None:
    """A signal while the process works: exit code 130 and one line."""
    code = (
        # A job in a shell's background starts with this signal ignored; a person's terminal does not.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time, hardmine.cli.data_commands as commands\n"
        "import hardmine.data.quality.check_dataset as check\n"
        "def wait(*a, **k):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "check.check_dataset = wait\n"
        f"sys.argv = ['hardmine', 'check', {str(tmp_path)!r}]\n"
        "from hardmine.cli.main import main\nmain()\n"
    )
    with process("-c", code) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=60)
    assert started.returncode == failures.INTERRUPTED
    assert "interrupted" in one_line(err)


# Option values.


def test_a_path_named_like_a_fraction_is_a_path(files: Path) -> None:
    (files / "0.2").mkdir()
    assert options.data_or_fraction("0.2") == Path("0.2")
    assert options.data_or_fraction("0.25") == 0.25
    assert options.data_or_fraction(None) is None


@pytest.mark.parametrize("command", ["check", "train", "loop"])
def test_the_help_of_data_names_every_format(cli: Cli, command: str) -> None:
    text = " ".join(cli(command, "-h")[1].replace("│", " ").split())
    for name in ("Pascal VOC", "YOLO", "COCO", "LabelMe", "KITTI", "CreateML", "Label Studio"):
        assert f"{name}, " in text
    for name in ("CVAT for images 1.1", "FiftyOne's image detection dataset", "(VIA), CSV."):
        assert name in text
