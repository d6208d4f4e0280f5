"""One self-contained HTML page of text, tables, videos and pictures: it opens from disk and needs no network."""

from __future__ import annotations

import base64
import html
import numbers
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from tools.files import write_text

_IMAGES = {".gif": "image/gif", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
           ".webp": "image/webp", ".svg": "image/svg+xml"}
_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}
_SMALL = 420  # small media are enlarged towards this width by a whole factor, so that pixels stay squares

_STYLE = """
:root { color-scheme: light dark; --back: #fcfcfa; --ink: #1d1f21; --soft: #6b7075; --line: #dcdcd6; --card: #f3f3ef; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181a; --ink: #e4e5e3; --soft: #9a9fa3; --line: #34383b; --card: #1f2224; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--back); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .5rem 0; }
code { font: .9em ui-monospace, monospace; background: var(--card); padding: .1em .3em; border-radius: .25em;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1rem .4rem 0; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; }
.media { display: flex; flex-wrap: wrap; gap: 1.25rem; margin: 1rem 0; }
figure { margin: 0; max-width: 100%; }
img, video { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
.pixels { image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .875rem; margin-top: .35rem; }
"""


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        title: its heading.
        text: paragraphs, parted by empty lines; `backquotes` make code.
        table: one dict a row; the columns are all keys, in the order of their first appearance.
        media: (caption, path) of mp4, webm, gif, png, jpg, webp or svg files, shown side by side.
        body: HTML that is put in as it is, after all else; what it quotes must be escaped already.
    """

    title: str
    text: str = ""
    table: Sequence[dict] | None = None
    media: Sequence[tuple[str, str | os.PathLike]] = ()
    body: str = ""


def write_page(path: str | os.PathLike, title: str, sections: Sequence[Section], *, style: str = "", script: str = "") -> None:
    """Write the page as one file: media are embedded, styles are inline, and there is no script but the one given.

    Args:
        style: more CSS, after the page's own.
        script: JavaScript that runs when the page is there; what it adds must be dispensable.

    Raises:
        ValueError: a media file is missing, or of a kind that browsers do not show.
    """
    body = "\n".join(_section(section) for section in sections)
    write_text(path, f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{body}{f"<script>{script}</script>" if script else ""}
</body>
</html>
""")


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{_inline(p)}</p>" for p in re.split(r"\n\s*\n", section.text.strip()) if p]
    if section.table:
        parts.append(_table(section.table))
    if section.media:
        parts.append('<div class="media">' + "\n".join(_figure(c, Path(p)) for c, p in section.media) + "</div>")
    if section.body:
        parts.append(section.body)
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _table(rows: Sequence[dict]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {c for c in columns if all(_is_number(row[c]) for row in rows if row.get(c) is not None)}

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag}{" class=number" * (c in numeric)}>{cell}</{tag}>'
                                for c, cell in zip(columns, cells)) + "</tr>"

    head = line("th", [html.escape(str(c)) for c in columns])
    body = "\n".join(line("td", [_cell(row.get(c)) for c in columns]) for row in rows)
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>{body}</tbody>\n</table></div>'


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "&ndash;"
    if _is_number(value) and not isinstance(value, numbers.Integral):
        return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    return _inline(str(value))


def _figure(caption: str, path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in _IMAGES | _VIDEOS:
        raise ValueError(f'{path}: a page cannot show a file of kind "{path.suffix}"; '
                         f"wanted {' '.join(sorted(_IMAGES | _VIDEOS))}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file to show on the page; write it first")
    data = f"data:{(_IMAGES | _VIDEOS)[kind]};base64,{base64.b64encode(path.read_bytes()).decode()}"
    width = None if kind == ".svg" else _width(path)
    size = f' class="pixels" width="{width * (_SMALL // width)}"' if width and width <= _SMALL // 2 else ""
    text = html.escape(caption, quote=True)
    if kind in _VIDEOS:
        shown = f'<video src="{data}" aria-label="{text}"{size} autoplay loop muted playsinline></video>'
    else:
        shown = f'<img src="{data}" alt="{text}"{size}>'
    return f"<figure>{shown}<figcaption>{_inline(caption)}</figcaption></figure>"


def _width(path: Path) -> int:
    try:
        if path.suffix.lower() in _VIDEOS:
            with av.open(str(path)) as container:
                return container.streams.video[0].width
        with Image.open(path) as image:
            return image.width
    except (OSError, IndexError, av.error.FFmpegError) as error:
        raise ValueError(f"{path}: damaged, cannot be shown on the page ({error}); write it again") from None
