"""The shell of every HTML page: one file that holds its styles and pictures, runs no script, and
fetches nothing.

A page is a template that extends ``page.html`` and fills its blocks ``title``, ``style``, ``header``,
``main`` and ``footer``. The shell brings the head, the content security policy and the style sheet.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from PIL import Image

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
