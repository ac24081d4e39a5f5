"""What the command line writes: results and tables to stdout; progress and errors to stderr."""

from __future__ import annotations

import errno
import json
import logging
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from hardmine.device import process_index
from hardmine.errors import (
    NOTICE,
    ConfigError,
    GateError,
    HardmineError,
    did_you_mean,
    on_one_line,
)
from hardmine.finding_kinds import FindingKind
from hardmine.option_fields import option
from hardmine.plurals import counted

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID

    from hardmine.evaluation.measurement import Measurement
    from hardmine.loop.loop import LoopResult
    from hardmine.mining.mine import MiningResult

MIN_WIDTH = 120
PIPE_WIDTH = 400
MIN_SECONDS = 1.0
"""A step shows its rate only after so many seconds."""
PLAIN_SECONDS = 10.0
"""Without a terminal a step prints at most one progress line in this time."""

Step = Callable[[str, int, int], None]
"""``step(name, done, total)``: where the work stands; total 0 means unknown."""


class Console:
    """One command's output: ``quiet`` leaves results and errors, ``verbose`` adds notes.

    ``log=False`` drops what the library logs.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, log: bool = True) -> None:
        from rich.console import Console as RichConsole

        silent = process_index() > 0  # process 0 reports for all that share a run
        self.quiet = quiet or silent
        # Names of files and classes may hold [brackets] or :words:, which rich would take for its own.
        plain = partial(RichConsole, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.out: RichConsole = plain(quiet=silent)
        # A table cut to the width of a pipe or a narrow terminal would lose figures.
        self.out.width = max(self.out.width, MIN_WIDTH) if self.out.is_terminal else PIPE_WIDTH
        self.err: RichConsole = plain(stderr=True)
        level = logging.ERROR if quiet else logging.INFO if verbose else NOTICE
        self._handler = _ConsoleHandler(self.err)
        self._logger = logging.getLogger("hardmine")
        shown = log and not silent
        self._logger.handlers = [self._handler if shown else logging.NullHandler()]
        self._logger.setLevel(level)
        self._logger.propagate = False

    def result(self, text: str) -> None:
        """Print a result on stdout, whole and without markup; it may have several lines."""
        self.out.print(_plain(text))

    def note(self, text: str) -> None:
        """Say what happens, on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(_plain(text))

    def json(self, value: Any) -> None:
        """Print a value as JSON on stdout."""
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """Print a table on stdout; the first column is a name, the others are figures."""
        from rich import box
        from rich.table import Table

        table = Table(
            title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False
        )
        for index, column in enumerate(columns):
            name = index == 0
            table.add_column(
                column, justify="left" if name else "right", no_wrap=not name, overflow="fold"
            )
        for row in rows:
            table.add_row(*map(on_one_line, row))
        self.out.print(table, soft_wrap=False)

    @contextmanager
    def progress(self) -> Iterator[Step]:
        """Give a ``step`` function: bars on a terminal, else plain lines, nothing when quiet."""
        if self.quiet:
            yield _ignore
        elif self.err.is_terminal:
            from rich.progress import Progress

            with Progress(*_columns(), console=self.err, transient=False) as bars:
                yield _Bars(bars)
        else:
            yield _Lines(self.note)


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """How much a command says, the same for every command."""

    quiet: bool = option(
        False, "Print only results and errors.", flags=("--quiet", "-q"), panel="Output"
    )
    verbose: bool = option(
        False, "Print more about what happens.", flags=("--verbose", "-v"), panel="Output"
    )

    def console(self, *, log: bool = True) -> Console:
        """Return the command's output; ``log=False`` drops what the library logs."""
        return Console(quiet=self.quiet, verbose=self.verbose, log=log)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a command says what it found: as text or as JSON, and how much beside it."""

    as_json: bool = option(False, "Print JSON instead of text.", flags=("--json",), panel="Output")
    talk: ConsoleOptions = option(ConsoleOptions, "How much is said.")

    def console(self, *, log: bool = True) -> Console:
        """Return the command's output; ``log=False`` drops what the library logs."""
        return self.talk.console(log=log)


def _plain(text: str) -> str:
    """Return a text of one or more lines without other control characters."""
    return "\n".join(map(on_one_line, text.split("\n")))


def _columns() -> tuple[Any, ...]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    rate = TextColumn("{task.fields[rate]}", markup=False)
    return text, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()


def _ignore(name: str, done: int, total: int) -> None:
    del name, done, total


class Pace:
    """The rate of one step since its first report, and the time left at that rate.

    A step that falls back begins again, as the next of several trainings does.
    """

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None
        self._done = 0

    def tell(self, now: float, done: int, total: int) -> str:
        """Return such as ``85/s, 7 s left``; nothing while the rate is not known."""
        if self._start is None or done < self._done:
            self._start = now, done
        self._done = done
        start, first = self._start
        if done <= first or now - start < MIN_SECONDS:
            return ""
        rate = (done - first) / (now - start)
        digits = 0 if rate >= 10 else 1
        left = f", {_duration((total - done) / rate)} left" if total > done else ""
        return f"{rate:.{digits}f}/s{left}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Bars:
    """One bar per name; where a name starts again, so does its time."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total or None, rate="")
        elif done < self._bars.tasks[self._tasks[name]].completed:
            self._bars.reset(self._tasks[name])
        rate = self._paces.setdefault(name, Pace()).tell(time.monotonic(), done, 0)
        self._bars.update(self._tasks[name], completed=done, total=total or None, rate=rate)


class _Lines:
    """Plain lines: a step's first and last one, and between them one in ``PLAIN_SECONDS``; none that
    repeats the line before. Where the total is not known, no line is the last.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = ""
        self._last: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        pace = self._paces.setdefault(name, Pace()).tell(now, done, total)
        last = self._last.get(name)
        is_last = total and done >= total
        if last is not None and not is_last and now - last < PLAIN_SECONDS:
            return
        self._last[name] = now
        line = _describe(name, done, total) + (f" ({pace})" if pace and total != 1 else "")
        if line != self._said:
            self._said = line
            self._say(line)


def _describe(name: str, done: int, total: int) -> str:
    if total == 1:
        return f"{name}: done" if done else f"{name} …"
    return f"{name}: {done}/{total}" if total else f"{name}: {done}"


class _ConsoleHandler(logging.Handler):
    """Log records on the console that draws the bars, so that neither breaks the other.

    A line that is shown without ``verbose`` is said once: whoever trains many times logs it each time.
    """

    def __init__(self, err: RichConsole) -> None:
        super().__init__()
        self._err = err
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record of the log on stderr; from a warning on with its level."""
        prefix = "" if record.levelno <= NOTICE else f"{record.levelname.lower()}: "
        line = prefix + on_one_line(" ".join(record.getMessage().splitlines()))
        if record.levelno >= NOTICE:
            if line in self._said:
                return
            self._said.add(line)
        self._err.print(line)


DONE: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
GATE: Final = 3
INTERRUPTED: Final = 130

MAX_LENGTH: Final = 500
"""Longest error line, in characters; --debug shows all."""

_REASONS: Final = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EISDIR: "is a folder, a file was wanted",
    errno.ENOTDIR: "is no folder, a folder was wanted",
}


def usage_error(message: str) -> typer.TyperException:
    """Return the exception for options that contradict each other (exit code 2)."""
    error = typer.TyperException(message)
    error.exit_code = USAGE
    return error


def exit_code(error: BaseException) -> int:
    """Return the exit code for an exception that ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, typer.TyperException):
        return error.exit_code
    if isinstance(error, GateError):
        return GATE
    return USAGE if isinstance(error, ConfigError) else FAILURE


def is_expected(error: BaseException) -> bool:
    """True when the message says all: the input, machine or call is at fault, not the code."""
    expected = (HardmineError, typer.TyperException, OSError, MemoryError, KeyboardInterrupt)
    return isinstance(error, expected) or type(error).__name__ == "OutOfMemoryError"


_GOES_ON: Final = {
    "train": "the same command with --resume goes on",
    "loop": "the same command with --resume goes on",
    "mine": "the same command goes on",
    "compare": "the same command goes on",
    "demo": "the same command goes on",
}
"""How a command that was interrupted goes on; the others start again."""


def explain(error: BaseException, command: str = "") -> str:
    """Return the one line that a user sees; ``command`` is the one that failed."""
    if isinstance(error, KeyboardInterrupt):
        how = _GOES_ON.get(command)
        return f"interrupted; what was finished is kept, and {how}" if how else "interrupted"
    if isinstance(error, typer.TyperException):
        return _one_line(_explain_usage(error))
    if isinstance(error, HardmineError):
        return _one_line(str(error))
    if isinstance(error, OSError):
        return _explain_os_error(error)
    detail = _one_line(str(error)) or "no detail"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory; a smaller batch or input helps ({detail})"
    return (
        f"unexpected {type(error).__name__}: {detail} "
        "(a fault in hardmine; run again with --debug for the traceback)"
    )


_NO_CHOICE = re.compile(r"Value error, (?P<got>'.*') is not one of (?P<choices>'.*')\.")
_ELSEWHERE: Final = {
    "--conf": "--min-score",
    "--gpu": "--device",
    "--iterations": "--epochs",
    "--learning-rate": "--set optim.lr=0.001",
    "--lr": "--set optim.lr=0.001",
    "--pretrained": "--weights",
    "--project": "--out",
    "--threads": "--workers",
}
"""Options of other programs, and what says the same here."""


def _explain_usage(error: typer.TyperException) -> str:
    """Return a usage message that names the option or choice which is nearest to what was typed."""
    wrong = getattr(error, "option_name", None)
    if wrong is not None and error.message.startswith("No such option"):
        return error.message + _nearest_option(wrong, error)
    text = error.format_message()
    if text.startswith("No such command") and text.endswith("."):
        return f"{text[:-1]}; '{_command_of(error)} -h' lists all commands"
    found = _NO_CHOICE.search(text)
    if found is None:
        return text
    choices = [choice.strip("' ") for choice in found["choices"].split(",")]
    near = did_you_mean(found["got"].strip("'"), choices)
    return f"{text[: found.start()]}{found['got']} is not one of {found['choices']}{near}"


def _nearest_option(wrong: str, error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    known = [] if context is None else [o for p in context.command.params for o in p.opts]
    other = _ELSEWHERE.get(wrong)
    if other is not None and other.split()[0] in known:
        return f"; did you mean {other!r}?"
    return did_you_mean(wrong, known) or f"; '{_command_of(error)} -h' lists all options"


def _command_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return "hardmine" if context is None else str(context.command_path)


def _explain_os_error(error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    where = error.filename2 or error.filename
    text = f"{where}: {reason}" if where is not None else reason
    return _one_line(text)


def _one_line(text: str) -> str:
    """Return a text as one line, cut after a whole word where it is too long."""
    line = on_one_line(" ".join(text.split()))
    if len(line) <= MAX_LENGTH:
        return line
    whole_words = line[: MAX_LENGTH - 1].rpartition(" ")[0]
    is_enough = len(whole_words) > MAX_LENGTH // 2  # a path may be one long word
    return (whole_words if is_enough else line[: MAX_LENGTH - 2]) + " …"


MINED_SHOWN = 10


def figure(value: float | None, digits: int = 3) -> str:
    """Return a figure with fixed digits; an undefined one is a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(limits: Sequence[float | None] | None) -> str:
    """Return ``low–high``; an open or undefined end is a question mark."""
    from hardmine.reports.wording import OPEN_END

    if limits is None:
        return "–"
    low, high = (OPEN_END if limit is None else f"{limit:.3f}" for limit in limits)
    return f"{low}–{high}"


def _table_of_alarms(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a table with intervals, and what an end that is not known means where there is one."""
    from hardmine.reports.wording import OPEN_END, OPEN_END_NOTE

    console.table(columns, rows)
    if any(OPEN_END in cell for row in rows for cell in row[1:]):
        console.note(OPEN_END_NOTE)


def show_measurement(console: Console, measurement: Measurement, *, as_json: bool = False) -> None:
    """Print a measurement: AP, recall, a row per negative set, and what makes them doubtful."""
    from hardmine.reports.advice import warning_lines
    from hardmine.reports.wording import class_alarms, score

    values = measurement.to_dict()
    if as_json:
        console.json(values)
        return
    columns = ("images", "objects", "AP", "AP50", "AP75", "threshold", "recall")
    row = (
        str(values["images"]),
        str(values["objects"]),
        *(figure(values[name]) for name in ("AP", "AP50", "AP75")),
        score(values["score_threshold"]),
        figure(values["recall"]),
    )
    console.table(columns, [row])
    for name, part in values["negatives"].items():
        if part["alarms_per_hour"] is not None:
            console.result(f"{name}: {part['alarms_per_hour']:.1f} alarms per hour of video")
    if values["negatives"]:
        key = f"alarms_per_image_at_recall_{values['recall_wanted']:g}"
        _table_of_alarms(
            console,
            ("negatives", "images", "alarms/image at recall .8", "95 %", "images that fire"),
            [_negatives_row(name, part, key) for name, part in values["negatives"].items()],
        )
        for name, part in values["negatives"].items():
            for at in part["alarms_at_class_recalls"]:
                if at["recall"] == values["recall_wanted"]:
                    console.result(f"{name}: {class_alarms(at)}")
    if values["errors"] is not None:
        console.table(
            ("mistake", "count", "AP50 gained without them"), _mistake_rows(values["errors"])
        )
    if measurement.known_alarms is not None:
        console.result(str(measurement.known_alarms))
        for line in measurement.known_alarms.unreadable:
            console.note(f"not looked at: {line}")
    show_warnings(console, warning_lines(values))


def _mistake_rows(errors: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the kinds of mistakes that cost something or come up, the dearest first."""
    counts, gains = errors["total"]["errors"], errors["total"]["AP50_gained"]
    kinds = [kind for kind in gains if counts.get(kind) or gains[kind]]
    kinds.sort(key=lambda kind: (kind not in counts, -gains[kind]))
    titles = {"false_positive": "all false detections", "false_negative": "all objects not found"}
    return [
        (titles.get(kind, kind), str(counts.get(kind, "")), figure(gains[kind])) for kind in kinds
    ]


def show_warnings(console: Console, lines: Sequence[str]) -> None:
    """Print what makes figures doubtful, one line each."""
    for line in lines:
        console.note(f"warning: {line}")


def _negatives_row(name: str, part: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return (
        name,
        str(part["images"]),
        figure(part[key]),
        interval(part["interval"]),
        figure(part["share_of_images_that_fire"]),
    )


def show_loop(console: Console, result: LoopResult) -> None:
    """Print a loop's rounds, why it ended or what it waits for, and where its report is."""
    show_rounds(console, result.rows)
    for verdict in result.verdicts:
        console.result(verdict)
    show_warnings(console, result.warnings)
    if result.stopped is not None:
        console.result(f"stopped: {result.stopped}")
    if result.waiting is not None:
        console.result(str(result.waiting))
    if result.checkpoint is not None:
        console.result(f"checkpoint: {result.checkpoint}")
    console.result(f"report: {result.report}" if result.report else f"written: {result.out}")


def show_rounds(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per arm and round, as ``rounds.json`` holds them."""
    from hardmine.reports.round_columns import table_of

    _table_of_alarms(console, *table_of(rows))


def show_mining(
    console: Console, result: MiningResult, categories: Sequence[str], out: Path
) -> None:
    """Print the hardest images, what was left out and why, and where the list is."""
    shown = result.candidates[:MINED_SHOWN]
    if shown:
        console.table(
            ("image", "score", "class", "alarms"),
            [
                (
                    s.image,
                    figure(s.score),
                    categories[s.label - 1] if s.label else "",  # 0: found nothing
                    str(result.alarms.get(s.image, s.num_alarms)),
                )
                for s in shown
            ],
        )
    more = len(result.candidates) - len(shown)
    number = len(result.candidates)
    handed_out = f"{counted(number, 'image')} handed out"
    handed_out += f" ({more} more than shown)" if more else ""
    copies = counted(len(result.leaks), "copy", "copies")
    passed_over = [p for p in result.problems if p.kind == FindingKind.FILES_PASSED_OVER]
    unreadable = [p for p in result.problems if p.kind != FindingKind.FILES_PASSED_OVER]
    console.result(
        (not result.candidates and result.why_nothing())
        or f"{handed_out}; {result.scanned} scanned, {result.duplicates_grouped} near-duplicates and "
        f"{copies} of excluded images left out, {len(unreadable)} unreadable"
    )
    if (per_hour := result.per_hour()) is not None:
        console.result(per_hour)
    for problem in unreadable:
        console.note(f"unreadable: {problem}")
    for problem in passed_over:
        console.note(str(problem))
    console.result(f"the list: {out / 'candidates.csv'}")
    if shown:
        where = shlex.quote(str(out))
        console.note(f"to decide which of them are really empty: hardmine review {where}")
