"""The exception tree. Every message says what was got, what was wanted and where."""


class HardmineError(Exception):
    """Root of all errors that a user's input can cause; the command line prints it as one line."""


class DataError(HardmineError):
    """An image, label file or dataset that cannot be used."""


class ConfigError(HardmineError):
    """A recipe or option with an unknown key, a wrong type or contradictory values."""


class CheckpointError(HardmineError):
    """Weights that do not fit the model, are truncated, or would execute code."""


class MissingExtraError(HardmineError):
    """An optional dependency is not installed; the message names the install command."""


class CommandError(HardmineError):
    """A user's own command (an external trainer) failed; the message holds its last lines."""


class GateError(HardmineError):
    """A measured value misses a gate that the user set (exit code 3)."""
