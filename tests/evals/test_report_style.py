import re

from evals.report_style import DARK, LIGHT, SCRIPT, style


def colours(text):
    return re.findall(r"--s(\d+): ([^;]+);", text)


def test_as_many_colours_as_are_asked_for_in_light_and_dark():
    text = style(12)
    light, dark = text.split("@media (prefers-color-scheme: dark)", 1)
    assert [int(i) for i, _ in colours(light)] == [int(i) for i, _ in colours(dark)] == list(range(12))
    assert [c for _, c in colours(light)][:8] == list(LIGHT) and [c for _, c in colours(dark)][:8] == list(DARK)
    assert len({c for _, c in colours(light)}) == 12


def brightness(colour):
    """Relative luminance (WCAG 2)."""
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts))


def contrast(a, b):
    high, low = sorted((brightness(a), brightness(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_lines_can_be_told_from_the_page():
    for chosen, card in ((LIGHT, "#f3f3ef"), (DARK, "#1f2224")):
        assert min(contrast(colour, card) for colour in chosen) >= 3


def test_nothing_is_fetched():
    assert not re.search(r"https?:|@import|url\(|fetch|import\(", style(3) + SCRIPT)
