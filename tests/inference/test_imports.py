"""What a part of the package needs installed: accelerate is for training alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hardmine

ROOT = Path(hardmine.__file__).parent


def modules_outside_training() -> list[str]:
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if "training" not in parts and parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def import_without_accelerate(*names: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import sys; sys.modules['accelerate'] = None\n"
        "from importlib import import_module\n"
        "for name in sys.argv[1:]:\n"
        "    import_module(name)\n"
        "print([name for name in sys.modules if name.startswith('hardmine.training')])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, text=True, check=False
    )


def test_only_training_needs_accelerate() -> None:
    """In a process where accelerate cannot be imported, everything else imports."""
    done = import_without_accelerate(*modules_outside_training())
    assert done.returncode == 0, done.stderr[-2000:]


def test_inference_imports_nothing_of_training() -> None:
    names = [name for name in modules_outside_training() if ".inference" in name]
    assert len(names) > 10
    done = import_without_accelerate(*names)
    assert done.stdout == "[]\n", done.stderr[-2000:]


def test_training_does_need_it() -> None:
    """So the test above blocks what it says."""
    done = import_without_accelerate("hardmine.training.trainer")
    assert done.returncode == 1
    assert "accelerate" in done.stderr
