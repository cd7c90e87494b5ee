"""What was seen, as HTML for a notebook: no scripts, and legible on light and dark backgrounds.

Colours are one hue over whatever is behind it, as strong as the number is high, and text has the
notebook's own colour.
"""

import base64
import struct
import zlib
from html import escape

import numpy as np
from numpy.typing import NDArray

from hornbook.language import tr
from hornbook.lens.seen import Floats, Seen, likeliest

# Of longer texts the last positions are shown: a picture of each head has a pixel a pair.
MOST_MAPPED, MOST_COLOURED = 256, 2000
LENS_ROWS, PROPOSALS, MOVERS = 10, 5, 8
MAP_WIDTH = 96
BLUE, ORANGE = (48, 142, 208), (226, 130, 20)
# A loss of so many nats has the full colour: a guess among 400 tokens.
FULL_NATS = 6.0
CELL = "padding:1px 8px;white-space:pre"


def picture(seen: Seen) -> str:
    """The text by its losses, all heads at a glance, the lens, the votes, and the attribution."""
    last = seen.vocabulary[seen.targets[-1]]
    sections = {
        tr("How surprised it was"): surprise(seen),
        tr("Where it looks"): maps(seen),
        tr("What it would have said after each layer"): lens(seen),
        tr("What comes next"): votes(seen),
        tr("What adds to the logit of {token}", token=name(last)): movers(seen),
    }
    parts = [
        f'<div style="margin:12px 0 4px"><b>{escape(title)}</b></div>{body}'
        for title, body in sections.items()
        if body
    ]
    return f'<div style="font-size:13px;line-height:1.5;max-width:900px">{"".join(parts)}</div>'


def surprise(seen: Seen) -> str:
    """The text, each token coloured by its loss."""
    first = max(0, len(seen.ids) - MOST_COLOURED)
    losses = [0.0, *seen.losses.tolist()]
    spans = []
    for t in range(first, len(seen.ids)):
        loss = losses[t]
        colour = tint(ORANGE, min(loss, FULL_NATS) / FULL_NATS)
        title = tr("no prediction") if t == 0 else tr("{loss:.2f} nats", loss=loss)
        shown = escape(seen.tokens[t]).replace("\n", "↵\n")
        spans.append(f'<span style="background:{colour}" title="{title}">{shown}</span>')
    style = "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere"
    return f'<div style="{style}">{"".join(spans)}</div>'


def maps(seen: Seen) -> str:
    """A small picture of each head's attention: rows attend to columns."""
    layers, heads, T, _ = seen.attention.shape
    first = max(0, T - MOST_MAPPED)
    size = "image-rendering:pixelated;border:1px solid rgba(128,128,128,.5)"
    rows = []
    for layer in range(layers):
        cells = [f'<td style="{CELL}">{tr("layer {layer}", layer=layer)}</td>']
        for head in range(heads):
            image = png(seen.attention[layer, head, first:, first:])
            label = tr("attention of layer {layer}, head {head}", layer=layer, head=head)
            cells.append(
                f'<td style="padding:2px"><img alt="{label}" title="{label}" width="{MAP_WIDTH}" '
                f'height="{MAP_WIDTH}" style="{size}" src="data:image/png;base64,{image}"></td>'
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return grid(rows)


def lens(seen: Seen) -> str:
    """A row for each of the last positions: the likeliest token after each layer."""
    if not len(seen.logit_lens):
        return ""
    layers = (tr("layer {layer}", layer=layer) for layer in range(len(seen.logit_lens)))
    titles = [tr("after"), *layers, tr("model")]
    rows = [f"<tr>{''.join(f'<th style={CELL!r}>{title}</th>' for title in titles)}</tr>"]
    for t in range(max(0, len(seen.ids) - LENS_ROWS), len(seen.ids)):
        cells = [f'<td style="{CELL}">{escape(name(seen.tokens[t]))}</td>']
        for probs_V in (*np.exp(seen.logit_lens[:, t]), seen.probs[t]):
            [(token, p)] = likeliest(probs_V, seen.vocabulary, 1)
            cells.append(
                f'<td style="{CELL};background:{tint(BLUE, p)}">{escape(name(token))} {p:.0%}</td>'
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return grid(rows)


def votes(seen: Seen) -> str:
    """What the model, and each part of a joined one, proposes after the last position."""
    shown = [(tr("model"), "", seen.probs[-1])]
    if len(seen.votes) > 1:
        for who, vote in seen.votes.items():
            weight = tr("weight {weight:.2f}", weight=vote.weight[-1])
            shown.append((who, weight, vote.probs[-1]))
    rows = []
    for who, weight, probs_V in shown:
        bars = [
            bar(name(token), p, f"{p:.1%}", BLUE, "4em")
            for token, p in likeliest(probs_V, seen.vocabulary, PROPOSALS)
            if p > 0
        ]
        label = f'<td style="{CELL};vertical-align:top">{who}<br><small>{weight}</small></td>'
        rows.append(f"<tr>{label}<td>{''.join(bars)}</td></tr>")
    return grid(rows)


def movers(seen: Seen) -> str:
    """The components that add most to the logit of the last target, or take most from it."""
    added = seen.attribution[:, -1]
    largest = float(np.abs(added).max()) or 1.0
    bars = []
    for i in np.argsort(-np.abs(added), kind="stable")[:MOVERS]:
        value = float(added[i])
        colour = BLUE if value > 0 else ORANGE
        bars.append(bar(seen.components[i], abs(value) / largest, f"{value:+.2f}", colour))
    return "".join(bars)


def bar(
    label: str, share: float, value: str, colour: tuple[int, int, int], label_width: str = "13em"
) -> str:
    """One horizontal bar between its label and its value."""
    filled = f"width:{200 * min(share, 1):.0f}px;height:10px;background:rgb{colour}"
    return (
        '<div style="display:flex;align-items:center;gap:8px;white-space:pre">'
        f'<span style="min-width:{label_width};text-align:right;font-family:monospace">'
        f'{escape(label)}</span><span style="{filled}"></span><span>{value}</span></div>'
    )


def grid(rows: list[str]) -> str:
    """A table; nothing for no rows. Wide ones scroll in themselves."""
    if not rows:
        return ""
    table = f'<table style="border-collapse:collapse;font-family:monospace">{"".join(rows)}</table>'
    return f'<div style="overflow-x:auto">{table}</div>'


def name(token: str) -> str:
    """A token in quotes, its control characters escaped."""
    return repr(token)


def tint(colour: tuple[int, int, int], share: float) -> str:
    """A colour that lets text through, at most 60% of it."""
    return "rgba({},{},{},{:.2f})".format(*colour, 0.6 * share)


def png(map_TS: Floats) -> str:
    """Numbers from 0 to 1 as a picture of one pixel each, in base64: the higher, the less clear.

    A map of 64 x 64 takes 2 kB; as rectangles of an SVG it would take 656.
    """
    levels = np.rint(map_TS * 255).astype(np.uint8)
    height, width = levels.shape
    rows: NDArray[np.uint8] = np.pad(levels, ((0, 0), (1, 0)))  # each row begins with its filter
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": bytes(BLUE) * 256,
        b"tRNS": bytes(range(256)),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks.items():
        made += struct.pack(">I", len(data)) + kind + data
        made += struct.pack(">I", zlib.crc32(kind + data))
    return base64.b64encode(made).decode()
