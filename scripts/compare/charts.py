"""Bar charts as SVG, readable on light and on dark ground: the median with its value, and a whisker
from the lowest to the highest round."""

from html import escape
from statistics import median

WIDTH, LETTER_WIDTH, VALUE_WIDTH, MARGIN = 760, 7.5, 110, 16
TITLE_HEIGHT, BAR_HEIGHT, BAR_GAP, AXIS_HEIGHT, FOOT_HEIGHT = 62, 22, 10, 14, 18

STYLE = """
  .ground { fill: #ffffff } .text { fill: #1f2328 } .dim { fill: #59636e } .bar { fill: #8c959f }
  .ours { fill: #0969da } .line { stroke: #1f2328 } .axis { stroke: #59636e }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } .text { fill: #f0f6fc } .dim { fill: #9198a1 } .bar { fill: #656c76 }
    .ours { fill: #4493f8 } .line { stroke: #f0f6fc } .axis { stroke: #9198a1 }
  }
  text { font: 13px system-ui, sans-serif } .title { font-size: 15px; font-weight: 600 }
  .foot { font-size: 11px }
"""


def bars(title: str, unit: str, digits: int, series: dict[str, list[float]], foot: str) -> str:
    """A chart of a figure that is better where it is less; the foot says what was measured."""
    left = MARGIN + int(max(map(len, series)) * LETTER_WIDTH)
    width = WIDTH - left - VALUE_WIDTH - MARGIN
    scale = width / max([max(values) for values in series.values()] + [1e-9])
    bottom = TITLE_HEIGHT + len(series) * (BAR_HEIGHT + BAR_GAP)
    height = bottom + AXIS_HEIGHT + FOOT_HEIGHT
    parts = [
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        f'<text class="text title" x="{MARGIN}" y="26">{escape(title)}</text>',
        f'<text class="dim" x="{MARGIN}" y="46">{escape(unit)}; less is better; the line goes '
        'from the lowest to the highest round</text>',
        f'<line class="axis" x1="{left}" x2="{left}" y1="{TITLE_HEIGHT - 4}" '
        f'y2="{bottom}"/>',
        f'<text class="dim foot" x="{MARGIN}" y="{height - 8}">{escape(foot)}</text>',
    ]
    for index, (label, values) in enumerate(series.items()):
        top = TITLE_HEIGHT + index * (BAR_HEIGHT + BAR_GAP)
        parts += bar(label, values, digits, left, top, scale)
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}, '
            f'{escape(unit)}">\n<style>{STYLE}</style>\n{body}\n</svg>\n')


def bar(label: str, values: list[float], digits: int, left: int, top: int,
        scale: float) -> list[str]:
    middle = top + BAR_HEIGHT / 2
    value, low, high = median(values), left + min(values) * scale, left + max(values) * scale
    ours = "ours" if label.startswith("fastlb") else "bar"
    parts = [
        f'<text class="text" x="{left - 8}" y="{middle + 4.5}" text-anchor="end">'
        f'{escape(label)}</text>',
        f'<rect class="{ours}" x="{left}" y="{top}" width="{max(value * scale, 1):.1f}" '
        f'height="{BAR_HEIGHT}" rx="2"/>',
        f'<text class="text" x="{high + 10:.1f}" y="{middle + 4.5}">{value:,.{digits}f}</text>',
    ]
    if high > low:
        parts.append(f'<path class="line" fill="none" d="M{low:.1f} {middle - 5}v10m0-5H{high:.1f}'
                     'm0-5v10"/>')
    return parts
