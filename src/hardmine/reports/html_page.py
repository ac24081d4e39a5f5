"""What every HTML page is made of: its shell, embedded pictures, and curves as inline SVG.

A page is one file that holds its styles and pictures, runs no script, and fetches nothing. It is a
template that extends ``page.html`` and fills its blocks ``title``, ``style``, ``header``, ``main``
and ``footer``. The shell brings the head, the content security policy and the style sheet.

matplotlib draws the curves with marker colours, which are replaced by CSS variables afterwards, so
that one picture serves both themes, light and dark. Nothing in the result refers to an address
outside the page.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image

from hardmine.evaluation.alarms import ALARM_RATES, RECALLS
from hardmine.plurals import counted
from hardmine.reports.content import CurveLine
from hardmine.reports.round_columns import ALARMS, RoundRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_REPORTS = "hardmine.reports"


def render_page(
    package: str,
    template: str,
    /,
    *,
    filters: Mapping[str, Callable[..., str]] | None = None,
    **values: Any,
) -> str:
    """Return a page as text.

    Args:
        package: the package in whose folder ``templates`` the template lies. Templates of
            ``hardmine.reports`` (the shell ``page.html`` and ``gallery.html``) can be used by all.
        filters: functions that the template may apply to its values, by name.
        values: what the template shows; all text is escaped, and an undefined name is an error.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def source(wanted: str) -> str | None:
        """Return the text of a template: the package's own, or one that all share."""
        places = (files(where) / "templates" / wanted for where in (package, _REPORTS))
        found = next((place for place in places if place.is_file()), None)
        return None if found is None else found.read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(source),
    )
    environment.filters.update(filters or {})
    style = (files(_REPORTS) / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=Markup(style), **values)


def jpeg_uri(image: Image.Image, quality: int = 86, *, sharp_colours: bool = True) -> str:
    """Return a picture as the source of an ``img`` element.

    Args:
        quality: of the JPEG, 1 to 95.
        sharp_colours: keep colours at full resolution, which thin coloured lines need.
    """
    buffer = io.BytesIO()
    options: dict[str, Any] = {"subsampling": 0} if sharp_colours else {}
    image.convert("RGB").save(buffer, format="JPEG", quality=quality, optimize=True, **options)
    return data_uri(buffer.getvalue(), "jpeg")


def png_bytes(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Return an image file's bytes (``kind``: jpeg, png) as the source of an ``img`` element."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


_LEAST_FPPI, _LEAST_MISS_RATE = 1e-3, 1e-3
"""Where the logarithmic axes end; a value of 0 is drawn there."""
_INK, _GRID = "#010203", "#010204"
_ARMS = tuple(f"#0102{shade:02x}" for shade in range(0x10, 0x16))
_LINE_STYLES = ("solid", "dashed", "dotted")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hardmine",
    "text.parse_math": False,  # names of arms are not formulas
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 6,
}


def arm_order(names: Sequence[str]) -> list[str]:
    """Return the arms, each once, in the order in which they first come: that of their colours."""
    return list(dict.fromkeys(names))


def alarms_figure(rows: Sequence[RoundRow]) -> str:
    """Return alarms per image against round, a line and an interval band per arm."""
    points = [
        (row, row.figures.get(ALARMS), row.figures.get("interval") or (None, None)) for row in rows
    ]
    return _by_round(points, "alarms per image at recall 0.8", "alarms", floor=0.0)


def ap50_figure(rows: Sequence[RoundRow]) -> str:
    """Return AP50 against round, a line and an interval band per arm."""
    points = [
        (row, row.figures.get("AP50"), row.figures.get("AP50_interval") or (None, None))
        for row in rows
    ]
    return _by_round(points, "AP50", "ap50")


def miss_rate_figure(lines: Sequence[CurveLine], arms: Sequence[str]) -> str:
    """Return miss rate against false alarms per image, both axes logarithmic.

    A line named ``ARM`` or ``ARM, …`` has its arm's colour; others are dashed.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    def draw(axes: Axes) -> None:
        """Draw miss rate over false alarms, both on logarithmic axes."""
        floor = 1.0
        for line in lines:
            xs = [max(x, _LEAST_FPPI) for x, _ in line.points]
            ys = [max(y, _LEAST_MISS_RATE) for _, y in line.points]
            floor = min([floor, *ys])
            arm = line.name.partition(",")[0]
            color = _ARMS[arms.index(arm) % len(_ARMS)] if arm in arms else _INK
            suffix = "" if line.log_average is None else f" ({line.log_average:.3f})"
            style = "solid" if arm in arms else "dashed"
            label = f"{line.name}{suffix}"
            axes.step(xs, ys, where="post", color=color, linestyle=style, label=label)
        axes.set(xscale="log", yscale="log", xlim=(_LEAST_FPPI, 1e1), ylim=(floor * 0.8, 1.0))
        axes.set(xlabel="false alarms per negative image", ylabel="miss rate")
        axes.axvspan(1e-2, 1e0, color=_GRID, alpha=0.3, linewidth=0)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(FixedLocator([0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(loc="lower left")

    return draw_chart("missrate", "miss rate against false alarms per image", 4.1, draw)


def recall_figure(lines: Sequence[CurveLine], arms: Sequence[str]) -> str:
    """Return recall against false alarms per negative image, a line per round.

    A line named ``ARM, round N`` has its arm's colour, the fainter the earlier; others are dashed.
    """

    def draw(axes: Axes) -> None:
        """Draw recall over false alarms; the last round of each arm stands out."""
        last = {line.name.partition(",")[0]: line.name for line in lines}
        for line in lines:
            arm = line.name.partition(",")[0]
            color = _ARMS[arms.index(arm) % len(_ARMS)] if arm in arms else _INK
            final = last[arm] == line.name
            axes.step(
                [max(x, _LEAST_FPPI) for x, _ in line.points],
                [1.0 - y for _, y in line.points],
                where="post",
                color=color,
                linestyle="solid" if arm in arms else "dashed",
                alpha=1.0 if final else 0.45,
                linewidth=2.2 if final else 1.4,
                label=line.name,
            )
        for recall in RECALLS:
            axes.axhline(recall, color=_INK, linestyle="dotted", linewidth=0.9)
        for alarms in ALARM_RATES:
            axes.axvline(alarms, color=_INK, linestyle="dotted", linewidth=0.9)
        axes.set(xscale="log", xlim=(_LEAST_FPPI, 1e1), ylim=(0.0, 1.02))
        axes.set(xlabel="false alarms per negative image", ylabel="recall")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(loc="lower right")

    return draw_chart("recall", "recall against false alarms per image", 4.3, draw)


def score_figure(
    name: str, title: str, histogram: Mapping[str, Any], score_threshold: float | None
) -> str:
    """Return the shares of objects and of empty images by their best score, with the threshold.

    Args:
        histogram: the fields of ``ScoreHistogram`` as a plain mapping.
    """

    def draw(axes: Axes) -> None:
        """Draw the scores of objects and those of images without objects."""
        sets = (("objects", "missed", "objects"), ("images", "silent", "images without objects"))
        for index, (key, rest, label) in enumerate(sets):
            counts = histogram[key]
            total = max(1, sum(counts) + histogram[rest])
            edges = [k / len(counts) for k in range(len(counts) + 1)]
            shares = [count / total for count in counts]
            text = f"{label} ({total}; {counted(histogram[rest], *_WITHOUT[key])})"
            axes.stairs(shares, edges, color=_ARMS[index], fill=True, alpha=0.25)
            axes.stairs(shares, edges, color=_ARMS[index], linewidth=1.8, label=text)
        if score_threshold is not None:
            axes.axvline(score_threshold, color=_INK, linestyle="dotted", linewidth=1.8)
        top = axes.get_ylim()[1]
        axes.set(xlim=(0.0, 1.03), ylim=(0.0, top * 1.35), xlabel="best score", ylabel="share")
        axes.legend(loc="upper right", fontsize=9)

    return draw_chart(name, title, 3.4, draw)


_WITHOUT = {
    "objects": ("is never found", "are never found"),
    "images": ("has no detection", "have no detection"),
}


def _by_round(
    points: Sequence[tuple[RoundRow, float | None, Sequence[float | None]]],
    label: str,
    name: str,
    floor: float | None = None,
) -> str:
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        """Draw a figure of each arm round by round, with its interval."""
        starts = [point for point in points if point[0].round == 0]
        for index, arm in enumerate(arm_order([row.arm for row, _, _ in points])):
            mine = [point for point in points if point[0].arm == arm]
            if len(starts) == 1 and starts[0] not in mine:
                mine = [starts[0], *mine]  # every arm branches from round 0's weights
            _draw_arm(axes, arm, mine, _ARMS[index % len(_ARMS)])
        axes.set(xlabel="round", ylabel=label)
        if floor is not None:
            # A wide band may run off the top rather than flatten the lines.
            highest = max((value for _, value, _ in points if value is not None), default=1.0)
            axes.set_ylim(floor, min(axes.get_ylim()[1], 2.5 * highest or 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")

    return draw_chart(name, f"{label} against round", 3.6, draw)


def _draw_arm(
    axes: Axes,
    arm: str,
    points: Sequence[tuple[RoundRow, float | None, Sequence[float | None]]],
    color: str,
) -> None:
    known = sorted(
        ((row.round, value, ends) for row, value, ends in points if value is not None),
        key=lambda point: point[0],
    )
    rounds, values = [point[0] for point in known], [point[1] for point in known]
    axes.plot(rounds, values, color=color, marker="o", label=arm)
    banded = [(x, ends[0], ends[1]) for x, _, ends in known if None not in ends]
    if banded:
        xs, low, high = zip(*banded, strict=True)
        axes.fill_between(xs, low, high, color=color, alpha=0.16, linewidth=0)


def series_color(index: int) -> str:
    """Return the colour of a chart's line ``index``: that of the arms, in their order."""
    return _ARMS[index % len(_ARMS)]


def series_style(index: int) -> str:
    """Return the style of a chart's line ``index``: another one each time that the colours repeat."""
    return _LINE_STYLES[index // len(_ARMS) % len(_LINE_STYLES)]


def legend_rows(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return name, colour and style of a chart's lines, as CSS takes them, for a legend below it.

    Names of any length and number fit there.
    """
    return [
        (name, f"var(--arm-{index % len(_ARMS)})", series_style(index))
        for index, name in enumerate(names)
    ]


def draw_chart(name: str, title: str, height: float, fill: Callable[[Axes], None]) -> str:
    """Return a chart that ``fill`` draws, as an element of the page: ``height`` in inches."""
    # The object interface: no pyplot, hence no display and no figures that outlive the call.
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    empty: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, height))
        bottom = 0.52 / height  # inches for the numbers and the name of the axis
        fill(figure.add_axes((0.115, bottom, 0.87, 0.965 - bottom)))
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    return _inline(buffer.getvalue(), name, title)


def _inline(text: str, name: str, title: str) -> str:
    """Return an SVG file's text as an element of the page, in the page's colours."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    # Several figures share a page: ids and the references to them get the figure's name.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    attributes = f'class="chart" role="img" aria-label="{title}"'
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', attributes, text, count=1)
    for index, marker in enumerate(_ARMS):
        text = text.replace(marker, f"var(--arm-{index})")
    return text.replace(_INK, "var(--ink-2)").replace(_GRID, "var(--line)")
