import base64
import re

import numpy as np
import pytest
from outline import Outline

from tools.page import Section, write_page
from tools.video import write_gif, write_mp4, write_png


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)


def written(tmp_path, *sections, title="A run"):
    write_page(tmp_path / "new" / "index.html", title, sections)
    return (tmp_path / "new" / "index.html").read_text(encoding="utf-8")


def test_media_are_embedded_byte_for_byte(tmp_path, frames):
    write_mp4(tmp_path / "a.mp4", frames)
    write_gif(tmp_path / "b.gif", frames)
    write_png(tmp_path / "c.png", frames[0])
    media = [("made", tmp_path / "a.mp4"), ("true", tmp_path / "b.gif"), ("loss", str(tmp_path / "c.png"))]
    page = Outline(written(tmp_path, Section("Videos", media=media)))
    sources = [tag["src"] for tag in page.all("video") + page.all("img")]
    for source, name, kind in zip(sources, ("a.mp4", "b.gif", "c.png"), ("video/mp4", "image/gif", "image/png")):
        head, data = source.split(",")
        assert head == f"data:{kind};base64" and base64.b64decode(data) == (tmp_path / name).read_bytes()
    video = page.all("video")[0]
    assert {"autoplay", "loop", "muted", "playsinline"} <= video.keys() and video["aria-label"] == "made"
    assert [tag["alt"] for tag in page.all("img")] == ["true", "loss"]


def test_small_media_grow_by_a_whole_factor(tmp_path, frames):
    write_png(tmp_path / "small.png", frames[0])
    write_png(tmp_path / "large.png", np.zeros((300, 400, 3), np.uint8))
    small, large = Outline(written(tmp_path, Section("s", media=[("a", tmp_path / "small.png"),
                                                                 ("b", tmp_path / "large.png")]))).all("img")
    assert int(small["width"]) == 408 and small["class"] == "pixels" and "width" not in large


def test_needs_nothing_from_elsewhere(tmp_path):
    page = written(tmp_path, Section("One", "text", [{"a": 1}]))
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", page)


def test_more_html_style_and_script_come_as_they_are(tmp_path):
    sections = [Section("One", body="<i>x & y</i>")]
    write_page(tmp_path / "a.html", "t", sections, style="i { color: red }", script="let a = 1 < 2")
    page = (tmp_path / "a.html").read_text()
    assert "<i>x & y</i>\n</section>" in page and "i { color: red }</style>" in page
    assert "<script>let a = 1 < 2</script>\n</body>" in page


def test_table_has_all_columns_and_aligns_numbers(tmp_path):
    rows = [{"method": "ours", "PSNR": 27.123456}, {"method": "repeat", "PSNR": None, "evaluations": 50, "t": 0.00123}]
    page = Outline(written(tmp_path, Section("Numbers", table=rows)))
    assert page.words[-30:].count("27.12") == 1 and {"50", "0.00123", "–"} <= set(page.words)
    heads = page.all("th")
    assert len(heads) == 4 and [h.get("class") for h in heads] == [None, "number", "number", "number"]
    assert len(page.all("tr")) == 3 and len(page.all("td")) == 8


def test_text_is_escaped_and_split_into_paragraphs(tmp_path):
    section = Section("a < b", "x <script>alert(1)</script> & y\n\nrun `make <demo>`", [{"<k>": "<v>"}])
    page = written(tmp_path, section, title="<title> & co")
    assert "<script" not in page and "<v>" not in page and "<k>" not in page
    outline = Outline(page)
    assert len(outline.all("p")) == 2 and len(outline.all("code")) == 1
    assert "make <demo>" in outline.words and "<title> & co" in outline.words


def test_captions_cannot_leave_their_attribute(tmp_path, frames):
    write_png(tmp_path / "a.png", frames[0])
    page = Outline(written(tmp_path, Section("s", media=[('" onerror="x', tmp_path / "a.png")])))
    assert page.all("img")[0]["alt"] == '" onerror="x' and "onerror" not in page.all("img")[0]


def test_missing_damaged_and_unknown_media_are_errors_and_leave_no_page(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.png").write_text("x")
    (tmp_path / "b.mp4").write_text("x")
    for name, words in (("absent.mp4", "no such file"), ("a.txt", "cannot show"), ("b.png", "damaged"),
                        ("b.mp4", "damaged")):
        with pytest.raises(ValueError, match=words):
            write_page(tmp_path / "index.html", "t", [Section("s", media=[("c", tmp_path / name)])])
    assert not (tmp_path / "index.html").exists()
