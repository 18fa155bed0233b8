"""The report's page in headless Chromium: what a reader with a mouse, a keyboard, a phone, dark eyes or paper gets."""

import itertools
import shutil

import pytest
from boards import board, rates, record

from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.page import page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
INSTALLED = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
NAMES = ".sortable tbody th"
VISIBLE = "element => element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})"
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const paper = (element) => {
    for (let ancestor = element; ancestor; ancestor = ancestor.parentElement) {
      const color = rgba(getComputedStyle(ancestor).backgroundColor);
      if (color[3] === 255) return color;
    }
    throw new Error("no background");
  };
  const luminance = (color) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const value = color[i] / 255;
    return sum + weight * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  }, 0.05);
  const contrasts = {};
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = luminance(rgba(element instanceof SVGElement ? style.fill : style.color));
    const [low, high] = [ink, luminance(paper(element))].sort((a, b) => a - b);
    contrasts[`${element.tagName}.${element.getAttribute("class")}`] = high / low;
  }
  return contrasts;
}"""


@pytest.fixture(scope="module")
def browser():
    own = next(filter(None, map(shutil.which, INSTALLED)), None)
    with playwright.sync_playwright() as tools:
        try:
            started = tools.chromium.launch(executable_path=own)
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """14 rows, more than curves are shown of, in a board with every section."""
    folder = tmp_path_factory.mktemp("page")
    settings = [{"model.name": name, **rate} for name in ("din", "a_model_of_a_very_long_name") for rate in rates(7)]
    path = folder / "page.html"
    path.write_text(page(board(folder / "runs", settings), "A title that is long enough for two lines on a phone"))
    return path


@pytest.fixture
def visit(browser, file):
    """visit(color_scheme="dark"): the page opened in a new context; fails on errors and on requests."""
    contexts, wrong = [], []

    def visit(path=file, **options):
        contexts.append(browser.new_context(**options))
        opened = contexts[-1].new_page()
        opened.on("console", lambda message: wrong.append(message.text))
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("request", lambda request: request.url == path.as_uri() or wrong.append(request.url))
        opened.goto(path.as_uri())
        return opened

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def _column(opened, name):
    heads = [text.strip(" \u2191\u2193") for text in opened.locator(".sortable thead th").all_inner_texts()]
    return opened.locator(".sortable thead th").nth(heads.index(name))


def test_nothing_is_requested_and_no_script_complains(visit):
    opened = visit()
    opened.hover(".curves svg")
    opened.mouse.wheel(0, 3000)
    assert opened.locator("section").count() == 7


def test_without_scripts_all_is_there(visit):
    opened = visit(java_script_enabled=False)
    assert opened.locator(NAMES).count() == 14
    assert opened.locator("[data-show]").first.is_hidden()  # a button that would do nothing
    assert opened.locator(".curves .row13").first.is_hidden()
    opened.get_by_label("14 model=").check()
    assert opened.locator(".curves .row13").first.is_visible()


@pytest.mark.parametrize("press", ["click", "Enter", "Space"])
def test_a_column_sorts_by_mouse_and_keyboard(visit, press):
    opened = visit()
    column = _column(opened, "parameters")
    before = opened.locator(NAMES).all_inner_texts()
    shown = []
    for _ in range(2):
        button = column.locator("button")
        button.click() if press == "click" else button.press(press)
        shown.append((column.get_attribute("aria-sort"), opened.locator(NAMES).all_inner_texts()))
    assert shown == [("descending", before), ("ascending", before[::-1])]
    assert opened.locator("[aria-sort]").count() == 1


def test_names_sort_as_people_count_and_what_is_missing_comes_last(visit, tmp_path):
    runs = [record(tmp_path / str(n), {"x": f"v{n}"}, 0.7 + n / 1000) for n in (2, 10, 1)]
    del runs[0].metrics["seconds"]
    (tmp_path / "page.html").write_text(page(leaderboard(runs, Choice()), "t"))
    opened = visit(tmp_path / "page.html")
    _column(opened, "row").locator("button").click()
    assert opened.locator(NAMES).all_inner_texts() == ["x=v1", "x=v2", "x=v10"]
    for _ in range(2):
        _column(opened, "seconds").locator("button").click()
        assert opened.locator(NAMES).all_inner_texts()[-1] == "x=v2"


def test_the_legend_shows_and_hides_rows(visit):
    opened = visit()
    first, last = (opened.locator(f".curves .row{index}").first for index in (0, 13))
    assert first.is_visible() and last.is_hidden()
    opened.locator("#show0").press("Space")
    assert first.is_hidden()
    opened.get_by_role("button", name="all", exact=True).click()
    assert first.is_visible() and last.is_visible()
    opened.get_by_role("button", name="none").click()
    assert first.is_hidden() and last.is_hidden()
    opened.get_by_role("button", name="best 12").press("Enter")
    assert first.is_visible() and last.is_hidden()


def test_arrow_keys_tell_the_values_of_each_epoch(visit):
    opened = visit()
    chart = opened.locator(".curves svg").first
    chart.focus()
    for key, epoch in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 4), ("ArrowRight", 4), ("Home", 1)):
        chart.press(key)
        assert opened.locator("#tip").inner_text().startswith(f"epoch {epoch}\n")
    lines = opened.locator("#tip div").all_inner_texts()
    assert len(lines) == 12 and lines[0].endswith("0.6033")  # 0.7033 - 0.1 / 1, the mean of the best row's seeds
    chart.press("Escape")
    assert opened.locator("#tip").is_hidden()


def test_the_tab_key_reaches_every_control_in_the_order_of_the_page(visit):
    opened = visit()
    wanted = opened.evaluate("""() => {
        const all = [...document.querySelectorAll("a, button, input, summary, [tabindex='0']")];
        all.forEach((element, index) => { element.dataset.stop = index; });
        return all.filter((element) => element.checkVisibility()).map((element) => element.dataset.stop);
    }""")
    reached = []
    for _ in wanted:
        opened.keyboard.press("Tab")
        reached.append(opened.evaluate("document.activeElement.dataset.stop"))
        assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached == wanted and len(wanted) > 40


def test_a_phone_scrolls_tables_and_not_the_page(visit):
    opened = visit(viewport={"width": 360, "height": 740})
    opened.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    assert opened.locator(".scroll").first.evaluate("table => table.scrollWidth > table.clientWidth")
    widths = opened.locator("figure svg").evaluate_all("all => all.map((svg) => svg.getBoundingClientRect().width)")
    assert min(widths) > 140 and max(widths) <= 340
    sizes = opened.locator("figure svg text").evaluate_all(
        "all => all.map((text) => text.getBoundingClientRect().height)"
    )
    assert min(sizes) > 8  # pixels of a line


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(visit, scheme):
    opened = visit(color_scheme=scheme)
    opened.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    opened.locator(".curves svg").first.press("ArrowRight")
    contrasts = opened.evaluate(CONTRASTS)
    assert len(contrasts) > 20 and {kind: ratio for kind, ratio in contrasts.items() if ratio < 4.5} == {}
    background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_paper_is_white_unfolded_and_whole(visit):
    opened = visit(color_scheme="dark")
    opened.emulate_media(media="print")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(opened.locator("h1, h2, figure, .note, tr, td, dt, dd").evaluate_all(f"all => all.map({VISIBLE})"))
    assert opened.locator(".scroll").evaluate_all(
        "all => all.every((element) => getComputedStyle(element).overflow === 'visible')"
    )
    shown = opened.locator(".boxes label").evaluate_all(f"all => all.map({VISIBLE})")
    assert shown == [True] * 12 + [False] * 2  # the legend of what is drawn
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("details:not([open])").count() == 0
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("details[open]").count() == 0


def test_nothing_moves_for_those_who_asked(visit):
    for wish, behaviour in (("reduce", "auto"), ("no-preference", "smooth")):
        opened = visit(reduced_motion=wish)
        assert opened.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def test_hostile_names_stay_text(visit, tmp_path):
    evil = "</script><img src=x onerror=hacked=1><svg onload=hacked=1>"
    settings = [{"x": f"{evil}{index}"} for index in range(2)]
    (tmp_path / "page.html").write_text(page(board(tmp_path / "runs", settings), evil))
    opened = visit(tmp_path / "page.html")
    opened.locator(".curves svg").first.press("ArrowRight")
    assert evil in opened.locator("#tip").inner_text() and evil in opened.title()
    assert opened.evaluate("typeof hacked") == "undefined"


def test_interval_and_dots_share_an_axis(visit):
    opened = visit()
    drawn = opened.locator("tbody .drawn")
    means = [drawn.nth(index).locator(".dot").bounding_box()["x"] for index in range(14)]
    steps = [a - b for a, b in itertools.pairwise(means)]
    assert max(steps) - min(steps) < 0.5 and min(steps) > 1  # each row is 0.01 worse than the one before it
