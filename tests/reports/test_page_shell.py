"""One shell for all pages, and pictures as text."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

import hardmine
from hardmine.reports.html_page import data_uri, jpeg_uri, render_page

TEMPLATES = sorted(Path(hardmine.__file__).parent.rglob("templates/*.html"))
PAGES = [path for path in TEMPLATES if path.name not in ("page.html", "gallery.html")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_page_is_made_in_the_shell(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{% extends "page.html" %}')
    for part in ("<html", "<head", "<body", "Content-Security-Policy", "{{ style }}"):
        assert part not in text
    for block in ("title", "header", "main"):
        assert f"{{% block {block} %}}" in text


def test_a_page_has_the_shell_around_its_blocks_and_escapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "somewhere"
    (package / "templates").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "templates" / "one.html").write_text(
        '{% extends "page.html" %}{% block title %}{{ name }}{% endblock %}'
        "{% block main %}{{ name | loud }}{% endblock %}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = render_page("somewhere", "one.html", filters={"loud": str.upper}, name="<b>")
    assert text.startswith("<!DOCTYPE html>")
    assert "<title>&lt;b&gt;</title>" in text
    assert "&lt;B&gt;" in text
    assert "default-src 'none'" in text
    assert ".gallery" in text
    with pytest.raises(UndefinedError):
        render_page("somewhere", "one.html", filters={"loud": str.upper})


def test_a_picture_as_the_source_of_an_img_element() -> None:
    image = Image.new("RGB", (16, 8))
    image.paste((255, 0, 0), (0, 0, 5, 8))
    uris = [jpeg_uri(image, 95), jpeg_uri(image, 95, sharp_colours=False)]
    sharp, soft = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), np.int16)
        for uri in uris
    )
    assert sharp.shape == (8, 16, 3)
    assert sharp[4, 4, 0] - sharp[4, 5, 0] > 200  # the edge between two columns stays sharp
    assert soft[4, 4, 0] - soft[4, 5, 0] < 150
    assert data_uri(b"abc", "png") == "data:image/png;base64,YWJj"
