"""Parts of all charts: scales, their ticks, the frame, and the colour and dashes of a row."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from recexp.report.page.element import Html, element, join

N_HUES, N_DASHES = 7, 3  # as many as page.css defines
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Scale:
    """Maps values from low to high to positions from start to stop."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, n: int = 5) -> list[tuple[float, str]]:
        """About n round values on the scale, ascending, with their labels."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1,) if self.high / self.low > 300 else (1, 3)
            values = [factor * 10.0**power for power in powers for factor in factors]
            return [(value, short(value)) for value in values if self.low <= value <= self.high]
        step = _step(self.high - self.low, n)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        values = [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [(value, short(value) if step >= 100 else f"{value:.{decimals}f}") for value in values]


def spread(values: Iterable[float]) -> tuple[float, float]:
    """The range of values with a margin, never empty. Raises ValueError if there are no values."""
    values = list(values)
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def spread_log(values: Iterable[float]) -> tuple[float, float]:
    """The range of positive values with a margin on a logarithmic scale."""
    low, high = spread(map(math.log10, values))
    return 10**low, 10**high


def frame(x: Scale, y: Scale, name: str, whole: bool = False, ticks: list[tuple[float, str]] | None = None) -> Html:
    """Grid lines, tick labels and the name of the horizontal axis.

    whole: that axis has only whole numbers. ticks: of that axis, where they are no round numbers.
    """
    round_ones = [(value, label) for value, label in x.ticks() if not whole or value == round(value)]
    across = round_ones if ticks is None else ticks
    up = y.ticks()
    lines = [element("path", d=f"M{x.start} {y(value):.1f}H{x.stop}", class_="grid") for value, _ in up]
    texts = [element("text", label, x=x.start - 6, y=f"{y(value):.1f}", dy=".32em", text_anchor="end")
             for value, label in up]  # fmt: skip
    texts += [element("text", label, x=f"{x(value):.1f}", y=y.start + 15, text_anchor="middle")
              for value, label in across]  # fmt: skip
    base = element("path", d=f"M{x.start} {y.start}H{x.stop}", class_="axis")
    title = element("text", name, x=(x.start + x.stop) / 2, y=y.start + 30, text_anchor="middle", class_="label")
    return join(*lines, base, *texts, title)


def short(value: float) -> str:
    """Thousands as k, millions as M."""
    unit, suffix = next(((unit, suffix) for unit, suffix in UNITS if abs(value) >= unit), (1, ""))
    return f"{value / unit:g}{suffix}"


def look(row: int) -> str:
    """The classes that give a row of the leaderboard, counted from 0, its colour and its dashes."""
    return f"hue{row % N_HUES} dash{row // N_HUES % N_DASHES}"


def swatch(row: int) -> Html:
    """A short line in the look of a row."""
    line = element("path", d="M1 5H21", class_="line")
    return element("svg", line, class_=f"swatch {look(row)}", viewBox="0 0 22 10", aria_hidden="true")


def share_bar(share: float, text: str) -> Html:
    """A bar of a share from 0 to 1, and the share in words beside it."""
    bar = element("svg", element("rect", width=f"{100 * share:.1f}%", height="100%"), class_="bar", aria_hidden="true")
    return element("div", bar, element("span", text), class_="share")


def _step(width: float, n: int) -> float:
    """The round step nearest to width / n in ratio."""
    rough = width / n
    power = 10.0 ** math.floor(math.log10(rough))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
