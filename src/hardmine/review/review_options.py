"""What the review page is asked for; light, so that a command line can import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hardmine.data.formats.format_table import WRITTEN
from hardmine.errors import ConfigError, not_one_of
from hardmine.option_fields import check_options, option

PORT = 8017
"""Where the page is served if no port is asked for; the next free one if it is taken."""


def export_formats() -> list[str]:
    """Return the formats of labelling programs."""
    return [row.name for row in WRITTEN if row.for_labelling]


@dataclass(frozen=True, slots=True)
class ReviewOptions:
    """Where the page is served, who decides, and what is exported instead."""

    port: int | None = option(
        None,
        f"The port to serve the page on; 0 takes any free one. If not given: {PORT}, or the next free "
        "one.",
        metavar="N",
        minimum=0,
        maximum=65535,
    )
    host: str = option(
        "127.0.0.1",
        "The address to serve the page on. Any other than this machine's own makes the page need the "
        "token in the address that is printed; the connection is not encrypted.",
        metavar="ADDRESS",
        panel="Advanced",
    )
    who: str | None = option(
        None,
        "The name that decisions are kept under; the name of the user if not given. The page can "
        "change it.",
        metavar="NAME",
    )
    open_browser: bool = option(
        True,
        "Print the address of the page and open no browser.",
        flags=("--no-open",),
        negated=True,
    )
    export: str | None = option(
        None,
        "Serve no page; write the images that hold an object and have no box yet, with the alarms as "
        f"predictions, for a labelling program ({', '.join(export_formats())}), into the folder --out.",
        metavar="FORMAT",
        complete=export_formats,
        panel="Output",
    )
    out: Path | None = option(
        None,
        "The folder for --export; it must be new or empty.",
        metavar="DIR",
        panel="Output",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.export is not None and self.export not in export_formats():
            raise ConfigError(not_one_of("export", self.export, export_formats()))
        if (self.export is None) != (self.out is None):
            raise ConfigError("export and out belong together: a format, and the folder to write")
