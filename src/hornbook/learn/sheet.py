"""A sheet to draw on, in SVG and in one language, for light and dark pages alike.

Lines and letters have the page's own colour, and areas are transparent hues.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from hornbook.language import Language

WIDTH = 640
LEAST = 500  # on a phone a drawing scrolls, so that its words can be read
FONT = "font-family:system-ui,'Noto Sans KR',sans-serif"
HUES = {
    "blue": "59,130,246",
    "orange": "234,120,20",
    "green": "22,160,90",
    "red": "220,60,80",
    "gray": "128,128,128",
}


def colours(hue: str, strength: float = 0.22) -> str:
    """A transparent area of a hue with a border."""
    return f'fill="rgba({HUES[hue]},{strength:.2f})" stroke="rgb({HUES[hue]})"'


@dataclass
class Sheet:
    """What is drawn so far, in one language."""

    language: Language
    height: int
    parts: list[str] = field(default_factory=list)

    def say(self, en: str, ko: str) -> str:
        """The words in the sheet's language."""
        return ko if self.language == "ko" else en

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: int = 14,
        at: str = "middle",
        mono: bool = False,
    ) -> None:
        """Words around a point."""
        family = ' style="font-family:ui-monospace,monospace;white-space:pre"' if mono else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y + size * 0.35:.1f}" font-size="{size}" text-anchor="{at}" '
            f'fill="currentColor"{family}>{escape(words)}</text>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str = "",
        *,
        hue: str = "blue",
        strength: float = 0.22,
        size: int = 14,
        mono: bool = False,
    ) -> None:
        """A rectangle with words in its middle."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" '
            f"{colours(hue, strength)}/>"
        )
        if words:
            self.text(x + width / 2, y + height / 2, words, size=size, mono=mono)

    def arrow(
        self, x1: float, y1: float, x2: float, y2: float, *, hue: str = "gray", width: float = 1.5
    ) -> None:
        """A line with a head at its end."""
        angle = math.atan2(y2 - y1, x2 - x1)
        wings = [
            f"{x2 - 8 * math.cos(angle + turn):.1f},{y2 - 8 * math.sin(angle + turn):.1f}"
            for turn in (0.45, -0.45)
        ]
        self.parts.append(
            f'<path d="M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}" fill="none" stroke="rgb({HUES[hue]})" '
            f'stroke-width="{width}"/><path d="M{x2:.1f},{y2:.1f}L{wings[0]}L{wings[1]}Z" '
            f'fill="rgb({HUES[hue]})"/>'
        )

    def line(self, points: Sequence[tuple[float, float]], *, hue: str = "gray") -> None:
        """A line through points."""
        path = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(
            f'<path d="M{path}" fill="none" stroke="rgb({HUES[hue]})" stroke-width="1.5"/>'
        )

    def circle(self, x: float, y: float, radius: float, *, hue: str = "gray") -> None:
        """A circle."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" {colours(hue, 0.08)}/>'
        )

    def svg(self, words: str) -> str:
        """The drawing, with words for those who do not see it."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(words)}" '
            f'style="width:100%;min-width:{LEAST}px;max-width:{WIDTH}px;height:auto;{FONT}">{"".join(self.parts)}</svg>'
        )
