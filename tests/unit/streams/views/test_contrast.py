"""Colours of the dashboard in both themes: the contrast of text is at least 4.5:1 (WCAG 2.2, 1.4.3)."""

import re

import pytest

from streams.views.pages import STATIC

_TEXT_ON = {
    "surface": ("ink", "muted", "accent", "up", "down", "mid", "late", "outage"),
    "bg": ("ink", "muted", "accent"),
    "raised": ("ink", "muted", "up", "down", "late"),
    "ok-bg": ("ok",),
    "late-bg": ("late",),
    "outage-bg": ("outage",),
    "band": ("accent",),
}


def tokens(theme: str) -> dict[str, str]:
    """The colours of a theme; the dark theme overrides the light one."""
    css = (STATIC / "style.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): ([^;]+);", css.split(start, 1)[1].split("}", 1)[0]))
        for start in (":root {", ':root[data-theme="dark"] {')
    )
    return light if theme == "light" else light | dark


def channels(colour: str, below: tuple[float, ...] = (255, 255, 255)) -> tuple[float, ...]:
    """Red, green and blue, 0 to 255; a transparent colour is blended with `below`."""
    if colour.startswith("#"):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        return tuple(int(digits[at : at + 2], 16) for at in (0, 2, 4))
    *own, alpha = (float(number) for number in re.findall(r"[\d.]+", colour))
    return tuple(value * alpha + under * (1 - alpha) for value, under in zip(own, below, strict=True))


def luminance(colour: tuple[float, ...]) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(theme: str) -> None:
    colours = tokens(theme)
    surface = channels(colours["surface"])
    weak = {}
    for behind, texts in _TEXT_ON.items():
        back = luminance(channels(colours[behind], surface))
        for text in texts:
            front = luminance(channels(colours[text]))
            ratio = (max(front, back) + 0.05) / (min(front, back) + 0.05)
            if ratio < 4.5:
                weak[text, behind] = round(ratio, 2)
    assert weak == {}
