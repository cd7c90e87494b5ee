"""Charts and bars as SVG, coloured by the page's style sheet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log2, log10

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 56
MOST_POINTS = 240


@dataclass(frozen=True)
class Line:
    """A curve; `style` is a CSS class. The axes are scaled to the `framed` lines only."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False
    framed: bool = True
    spread: Sequence[float] = ()  # half the length of each point's error bar


def chart(
    lines: Sequence[Line],
    levels: Sequence[tuple[str, float]] = (),
    *,
    description: str,
    x_label: str,
    y_label: str = "nats per character",
    doubling_x: bool = False,
    x_names: Sequence[str] = (),
) -> str:
    """Lines over a common x axis, with named horizontal levels, as one self-contained SVG.

    With `doubling_x` the x axis is logarithmic, and `x_names` labels the points of the first line.
    """
    lines = [line for line in lines if line.points]
    framed = [y for line in lines if line.framed for _, y in line.points]
    for line in lines:
        for (_, y), d in zip(line.points, line.spread, strict=False):
            framed += [y - d, y + d]
    values = [y for y in (*framed, *(level for _, level in levels)) if isfinite(y)]
    scale_x: Callable[[float], float] = (lambda x: log2(max(x, 1))) if doubling_x else float
    xs = [scale_x(x) for line in lines for x, _ in line.points]
    if not values or not xs:
        return ""
    room = 0.06 * (max(values) - min(values)) or 0.1
    low, high = min(values) - room, max(values) + room
    first, last = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (scale_x(x) - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return right, down

    floor_y = HEIGHT - BOTTOM
    label = escape(description)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for tick in ticks(low, high, 5):
        _, y = place(0, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{tick:g}</text>'
        )
    marks = [(tick, f"{tick:,g}") for tick in ticks(first, last, 5)]
    if doubling_x:
        marks = [(x, name) for (x, _), name in zip(lines[0].points, x_names, strict=True)]
    for x, name in marks:
        right, _ = place(x, low)
        anchor = "end" if right > WIDTH - RIGHT - 20 else "middle"
        parts.append(
            f'<text class="tick" x="{right:.1f}" y="{floor_y + 22}" text-anchor="{anchor}">'
            f"{escape(name)}</text>"
        )
    for name, level in levels:
        _, y = place(0, level)
        parts.append(
            f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="level-name" x="{WIDTH - RIGHT}" y="{y - 6:.1f}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
    for line in lines:
        placed = [place(x, y) for x, y in line.points if low <= y <= high]
        path = " ".join(f"{right:.1f},{down:.1f}" for right, down in placed)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        for (x, y), spread in zip(line.points, line.spread, strict=False):
            right, top = place(x, min(y + spread, high))
            _, bottom = place(x, max(y - spread, low))
            parts.append(
                f'<line class="spread {line.style}" x1="{right:.1f}" x2="{right:.1f}" '
                f'y1="{top:.1f}" y2="{bottom:.1f}"/>'
            )
        if line.dots:
            parts += [
                f'<circle class="dot {line.style}" cx="{right:.1f}" cy="{down:.1f}" r="4"/>'
                for right, down in placed
            ]
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor_y}" y2="{floor_y}"/>'
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="label" transform="translate(16 {(TOP + floor_y) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text></svg>'
    )
    return "".join(parts)


def legend(lines: Sequence[Line]) -> str:
    """The legend as HTML text, which wraps on a narrow screen."""
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 28 10" aria-hidden="true"><line class="line '
        f'{line.style}" x1="1" x2="27" y1="5" y2="5"/></svg> {escape(line.name)}</span>'
        for line in lines
        if line.points
    )
    return f'<p class="legend">{keys}</p>'


def bar(share: float, style: str) -> str:
    """A bar that fills its share of the width; an SVG, because printers drop backgrounds."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<svg class="bar" aria-hidden="true"><rect class="track" width="100%" height="100%"/>'
        f'<rect class="{style}" width="{width:.2f}%" height="100%"/></svg>'
    )


def ticks(low: float, high: float, about: int) -> list[float]:
    """About `about` round numbers from low to high."""
    step = (high - low) / max(1, about)
    unit = 10 ** floor(log10(step)) if step > 0 else 1.0
    step = next(unit * nice for nice in (1, 2, 2.5, 5, 10) if unit * nice >= step)
    count = floor(high / step) - ceil(low / step) + 1
    return [round((ceil(low / step) + i) * step, 10) for i in range(count)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS points: each the mean of neighbouring ones."""
    size = ceil(len(points) / MOST_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups if len(group)]
