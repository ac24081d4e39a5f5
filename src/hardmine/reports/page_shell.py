"""What pages of other packages share: the style, and pictures inside the page."""

from __future__ import annotations

import base64
import io
from importlib.resources import files
from typing import Any

from PIL import Image


def render_template(package: str, name: str, **values: Any) -> str:
    """Return the page of template ``name`` in ``package``'s folder ``templates``.

    The template gets ``style``, the report's style sheet, beside ``values``; all text is escaped.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = (files(package) / "templates" / name).read_text(encoding="utf-8")
    style = (files("hardmine.reports") / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(style=Markup(style), **values)


def jpeg_uri(image: Image.Image, quality: int = 86) -> str:
    """Return a picture as the source of an ``img`` element."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return data_uri(buffer.getvalue(), "jpeg")


def png_bytes(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Return an image file's bytes (``kind``: jpeg, png) as the source of an ``img`` element."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
