"""Commands with fields in them: filled in, run without a shell, their output kept."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hardmine.errors import CommandError, ConfigError

_TAIL = 12
"""Lines of a failed command's output that are shown."""

_FIELD = re.compile(r"\{(\w+)\}")


def run_command(template: str, values: Mapping[str, object], log: Path, folder: Path) -> None:
    """Run a command; what it prints goes into ``log``.

    Raises:
        CommandError: there is no such program, or it ended with another code than 0.
    """
    words = [fill(word, values) for word in shlex.split(template)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        output.write(f"$ {shlex.join(words)}\n")
        output.flush()
        try:
            code = subprocess.run(
                words,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            ).returncode
        except OSError as error:
            raise CommandError(f"{words[0]}: cannot be started ({error.strerror})") from None
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
        last = " | ".join(line.strip() for line in lines[-_TAIL:] if line.strip())
        raise CommandError(
            f"{words[0]} ended with code {code}: …{last[-320:]} (all of it in {log}; what was "
            "finished before is kept, --resume goes on)"
        )


def fill(text: str, values: Mapping[str, object]) -> str:
    """Return ``text`` with every known ``{field}`` replaced; others stay."""
    return _FIELD.sub(
        lambda m: str(values[m.group(1)]) if m.group(1) in values else m.group(0), text
    )


def check_fields(template: str, name: str, known: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a template with an unknown field or without a needed one.

    Raises:
        ConfigError: which field, and the known ones.
    """
    fields = set(_FIELD.findall(template))
    unknown = sorted(fields - set(known))
    if unknown:
        raise ConfigError(
            f"{name}: unknown field {{{unknown[0]}}}, wanted some of "
            + ", ".join(f"{{{field}}}" for field in known)
        )
    lacking = [field for field in needed if field not in fields]
    if lacking:
        raise ConfigError(f"{name}: {{{lacking[0]}}} is not in it: {template!r}")
    if not template.strip():
        raise ConfigError(f"{name}: is empty")
