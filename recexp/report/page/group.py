"""Rankings of the test split: the metrics by cutoff, and by group of users and of items."""

from recexp.metric.table import format_value, rank_metric
from recexp.report.leaderboard import Leaderboard
from recexp.report.page.element import Html, element, join
from recexp.report.page.plot import Scale, frame, look, spread, swatch
from recexp.report.page.ranking import row_name
from recexp.report.row import Row

CURVES = ("hr", "ndcg")
WIDTH, HEIGHT = 310, 215
EXPLAINED = (
    "Means over seeds. Users are grouped by how many events they had before those to predict, items by popularity in "
    "training: the head has half of all events, a cold item has none, so it cannot be found."
)


def groups(board: Leaderboard) -> Html | None:
    """A curve over K for each row, and a table of groups. None if no row has rankings by group."""
    keys = [key.split(".") for row in board.rows for key in row.metrics if key.startswith("groups.")]
    columns = dict.fromkeys((kind, group) for _, kind, group, _ in keys)
    if not columns:
        return None
    protocols = dict.fromkeys(metric.rpartition("/")[2] for row in board.rows for metric, _ in _at_cutoffs(row, "ndcg"))
    panels = [_panel(board, f"{name}@K/{protocol}") for protocol in protocols for name in CURVES]
    tables = [_table(board, list(columns), protocol) for protocol in protocols]
    return join(element("p", EXPLAINED, class_="note"), element("div", *panels, class_="panels"), *tables)


def _at_cutoffs(row: Row, name: str, protocol: str = "") -> list[tuple[str, float]]:
    """Metric and mean on test, by ascending K."""
    named = [key.partition(".")[2] for key in row.metrics if key.startswith(f"test.{name}@")]
    return [(metric, row.metrics[f"test.{metric}"].mean) for metric in named if metric.endswith(protocol)]


def _cutoff(metric: str) -> int:
    known = rank_metric(metric)
    return known.cutoff if known and known.cutoff else 0


def _panel(board: Leaderboard, title: str) -> Html:
    name, _, protocol = title.partition("@K/")
    rows = {index: _at_cutoffs(row, name, f"/{protocol}") for index, row in enumerate(board.rows)}
    points = [(_cutoff(metric), mean) for row in rows.values() for metric, mean in row]
    x, y = Scale(*spread(k for k, _ in points), 48, WIDTH - 8), Scale(*spread(v for _, v in points), HEIGHT - 38, 8)
    drawn = [_curve(index, [(x(_cutoff(m)), y(mean)) for m, mean in row]) for index, row in rows.items() if row]
    svg = element("svg", frame(x, y, "K", whole=True), *reversed(drawn), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
                  aria_label=f"test {title} by K, a curve a row")  # fmt: skip
    return element("figure", element("figcaption", f"test {title}"), svg, class_="panel")


def _curve(index: int, points: list[tuple[float, float]]) -> Html:
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = [element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.5", class_="dot") for x, y in points]
    return element("g", element("path", d=line, class_="line"), *dots, class_=f"row{index} {look(index)}")


def _table(board: Leaderboard, columns: list[tuple[str, str]], protocol: str) -> Html:
    cutoffs = [_cutoff(metric) for row in board.rows for metric, _ in _at_cutoffs(row, "ndcg", f"/{protocol}")]
    k = 10 if 10 in cutoffs else max(cutoffs)
    metric = f"ndcg@{k}/{protocol}"
    head = [element("th", "row", scope="col")]
    head += [element("th", f"{kind} {group}", class_="number", scope="col") for kind, group in columns]
    body = [_line(index, row, columns, metric) for index, row in enumerate(board.rows)]
    table = element(
        "table", element("caption", f"test {metric}"), element("thead", element("tr", *head)), element("tbody", *body)
    )
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"{metric} by group")


def _line(index: int, row: Row, columns: list[tuple[str, str]], metric: str) -> Html:
    name = element(
        "th", element("span", swatch(index), element("span", row_name(row.name))), class_="name", scope="row"
    )
    estimates = [row.metrics.get(f"groups.{kind}.{group}.{metric}") for kind, group in columns]
    cells = [format_value(f"test.{metric}", estimate.mean if estimate else None) for estimate in estimates]
    return element("tr", name, *(element("td", cell, class_="number") for cell in cells))
