"""The report in a real browser: it runs, asks nothing of any network, and obeys its reader."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wsss_probe.contracts import DefinitionCard, Figure, Gallery, Picture, Section, Table, Text
from wsss_probe.report import Document, figures, write

CHROMIUM = Path("/usr/bin/chromium")
REQUIRED = os.environ.get("WSSS_PROBE_REQUIRE_BROWSER") == "1"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by playwright."""
    if not CHROMIUM.exists() and not REQUIRED:
        pytest.skip("no chromium")
    if REQUIRED:
        import playwright.sync_api as api
    else:
        api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page with everything that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            self.page.locator(".plot:not([data-drawn])").first.wait_for(state="detached")

    def outside(self) -> list[str]:
        """Requests for anything but the file itself and data in it."""
        inside = re.compile(r"data:|blob:|file:.*report\.html$")
        return [url for url in self.asked if not inside.match(url)]


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """``visit(path, **options)`` opens a file in a fresh context."""
    visits: list[Visit] = []

    def opened(path: Path, **options: Any) -> Visit:
        visits.append(Visit(browser, path, **options))
        return visits[-1]

    yield opened
    for each in visits:
        each.context.close()


def sample() -> Document:
    """A document with every kind of block."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    overlay = rng.random((4, 4))
    frame = pd.DataFrame({"name": list("abcde"), "F1": [0.5, np.nan, 0.25, -1.0, 10.0]})
    ends = [(0.4, 0.6)] * 5
    blocks = (
        Text("*Text*"),
        Figure(
            figures.interval_plot(list("abcde"), [0.5] * 5, ends, axis="F1"), "intervals", "F1 is ...", frame
        ),
        Figure(figures.histogram({"audited": rng.random(50)}, axis="F1"), "histogram"),
        Figure(
            figures.bars_with_controls(list("abcde"), [0.5] * 5, {"reinit": [0.2] * 5}, axis="F1"), "bars"
        ),
        Figure(figures.scatter(rng.random(9), rng.random(9), axes=("x", "y")), "scatter"),
        Figure({"data": [{"type": "heatmap", "z": overlay}]}, "heatmap"),
        Table(frame, "a table"),
        Gallery(
            (("row", (Picture(pixels, "p", overlay, overlay > 0.5), Picture(pixels, "again"))),), "gallery"
        ),
    )
    return Document("Audit", "sub", (), (Section("where", "S", blocks),))


@pytest.fixture(scope="module")
def shared(browser: Any, report: Path) -> Iterator[Any]:
    """One open page of the sample, for tests that do not disturb each other."""
    opened = Visit(browser, report)
    yield opened.page
    opened.context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample document as a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(sample(), path)
    return path


def test_the_report_runs_in_silence(report: Path, visit: Callable[..., Visit]) -> None:
    """No violation, no error, no request; every plot is drawn and every picture decoded."""
    opened = visit(report)
    assert opened.said == []
    assert opened.outside() == []
    assert opened.page.locator(".plot .main-svg").count() >= 5
    broken = "[...document.images].filter((image) => !image.naturalWidth).length"
    assert opened.page.evaluate(broken) == 0
    assert opened.page.locator("figure[role=figure] .plot").count() == 5
    assert opened.page.locator("[role=img] .plot").count() == 0


def test_no_button_sends_a_figure_away(shared: Any) -> None:
    """Every plot offers exactly the buttons named by us, none of which shares its data with a server."""
    titles = "(plot) => [...plot.querySelectorAll('.modebar-btn')].map((button) => button.dataset.title)"
    wanted = ["Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"]
    plots = shared.locator(".plot").all()
    assert [plot.evaluate(titles) for plot in plots] == [wanted] * 5
    context = "(plot) => [plot._context.showSendToCloud, plot._context.plotlyServerURL]"
    assert [plot.evaluate(context) for plot in plots] == [[False, ""]] * 5


def test_the_theme_follows_system_and_button(report: Path, visit: Callable[..., Visit]) -> None:
    """Page and plots are dark in a dark system; the button turns both light."""
    opened = visit(report, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    tick = opened.page.locator(".xtick text").first
    color = "(text) => getComputedStyle(text).fill"
    dark = tick.evaluate(color), opened.page.evaluate(paper)
    opened.page.locator("#theme").click()
    opened.page.locator(".plot[data-theme=light]").nth(4).wait_for()
    light = tick.evaluate(color), opened.page.evaluate(paper)
    assert light == ("rgb(89, 97, 107)", "rgb(251, 250, 248)")
    assert dark == ("rgb(163, 171, 181)", "rgb(20, 23, 27)")
    assert opened.said == []


def test_tables_sort_by_keyboard_with_undefined_last(shared: Any) -> None:
    """Enter on a heading sorts up, then down; undefined cells stay at the end both times."""
    page = shared
    names = (
        "[...document.querySelectorAll('#table-1 tbody td:first-child')].map((e) => e.textContent).join('')"
    )
    button = page.locator("#table-1 th button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(names) == "dcaeb"
    page.keyboard.press("Enter")
    assert page.evaluate(names) == "eacdb"
    assert page.locator("#table-1 th").nth(1).get_attribute("aria-sort") == "descending"


def test_maps_and_outlines_can_be_switched(shared: Any) -> None:
    """The switches hide maps and outlines, the slider fades maps, a click enlarges, Escape closes."""
    page = shared
    overlay = page.locator("#gallery-1 .layer-overlay").first
    assert overlay.is_visible()
    page.locator("[data-switch=maps]").uncheck()
    assert overlay.is_hidden()
    page.locator("[data-switch=maps]").check()
    page.locator("[data-opacity]").fill("20")
    assert overlay.evaluate("(e) => getComputedStyle(e).opacity") == "0.2"
    assert overlay.evaluate("(e) => getComputedStyle(e).imageRendering") == "pixelated"
    page.locator("button.layers").first.click()
    assert page.locator("dialog[open] img").count() == 3
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_csv_downloads(shared: Any) -> None:
    """The link hands over the numbers under a name of ours."""
    page = shared
    with page.expect_download() as waiting:
        page.locator("#table-1 a[download]").click()
    assert waiting.value.suggested_filename == "table-1.csv"
    assert Path(waiting.value.path()).read_text().splitlines()[1] == "a,0.5"


def test_the_report_reads_without_scripts(report: Path, visit: Callable[..., Visit]) -> None:
    """With scripts off, texts, tables and first pictures are there, and nothing that needs scripts."""
    page = visit(report, java_script_enabled=False).page
    assert page.locator("#table-1 tbody tr").count() == 5
    assert page.locator("#theme").is_hidden()
    assert "The plot needs JavaScript" in page.locator("#figure-1 noscript").inner_text()


def test_small_screens_need_no_sideways_scrolling(report: Path, visit: Callable[..., Visit]) -> None:
    """On a telephone the page is as wide as the screen and the contents are folded."""
    page = visit(report, viewport={"width": 390, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.evaluate("document.querySelector('.contents details').open")


def passport() -> Document:
    """A wide table of which two rows open pictures."""
    rng = np.random.default_rng(0)
    f1 = np.linspace(0.95, 0, 20)
    f1[3] = np.nan
    frame = pd.DataFrame(
        {
            "channel": range(20),
            "F1 gland": f1,
            "F1 gland fine": f1[::-1],
            "black and white": np.arange(20) - 10.0,
            "sign": ["only gland" if i % 2 else "tie" for i in range(20)],
            **{f"further {i}": rng.random(20) for i in range(12)},
        }
    )
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Picture(pixels, "p", rng.random((4, 4)), np.eye(4, dtype=bool))
    details = {at: Gallery(((f"channel {at}", (picture, Picture(None, "lost"))),), "") for at in (0, 1)}
    table = Table(frame, "t", details, {name: f"meaning of {name}" for name in frame.columns})
    short = Table(frame.iloc[:12, :2], "twelve rows")
    return Document("Audit", "sub", (), (Section("channels", "Passport", (table, short)),))


@pytest.fixture(scope="module")
def passport_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The passport as a file."""
    path = tmp_path_factory.mktemp("passport") / "report.html"
    write(passport(), path)
    return path


@pytest.fixture
def table(passport_file: Path, visit: Callable[..., Visit]) -> Any:
    """The passport's page, opened afresh."""
    opened = visit(passport_file, viewport={"width": 1200, "height": 900})
    yield opened.page
    assert opened.said == []


SHOWN = (
    "[...document.querySelectorAll('#table-1 tbody tr:not(.detail)')].filter((row) => !row.hidden)"
    ".map((row) => Number(row.cells[0].textContent))"
)


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ("", range(20)),
        ("F1 gland > 0.5", [0, 1, 2, 4, 5, 6, 7, 8]),
        ("f1 GLAND>=.95", [0]),
        ("F1 gland ≥ 0,95", [0]),
        ("F1 gland < 0.1", [18, 19]),
        ("F1 gland fine > 0.9", [19]),
        ("F1 gland > 0.4 and F1 gland fine > 0.4", [9, 10]),
        ("F1 gland > 0.5, only gland", [1, 5, 7]),
        ("only gland and F1 gland > 0.5; channel <= 5", [1, 5]),
        ("black and white < -7.5", [0, 1, 2]),
        ("black and white < −7.5", [0, 1, 2]),
        ("black and white = −7", [3]),
        ("black and white != −7 & channel < 5", [0, 1, 2, 4]),
        ('sign = "only gland" and channel < 4', [1, 3]),
        ("sign = only gland and channel < 4", [1, 3]),
        ("channel < 4; sign ≠ only gland", [0, 2]),
        ("sign = tie and channel < 4", [0, 2]),
        ("sign = only and channel < 4", []),
        ("sign > 3", []),
        ("F1 gland >", range(20)),
        ("F1 gl", range(20)),
        ("channel = 3 and F1 gland < 1", []),
        ("channel = 3 and F1 gland != 1", []),
        ("nothing has this", []),
        ("(.*", []),
    ],
)
def test_rows_are_filtered_by_text_and_by_comparison(table: Any, asked: str, rows: list[int]) -> None:
    """Text in any cell, and comparisons with a column named whole, joined; undefined fits none."""
    table.locator("#table-1 .filter-input").fill(asked)
    assert table.evaluate(SHOWN) == list(rows)
    said = table.locator("#table-1 [role=status]").inner_text()
    assert said == (f"{len(rows)} of 20 rows" if asked else "")


def test_a_comparison_with_an_unknown_column_says_what_is_needed(table: Any) -> None:
    """Where nothing is found because no column has that name, the count says so."""
    table.locator("#table-1 .filter-input").fill("gland > 0.5")
    assert table.locator("#table-1 [role=status]").inner_text() == (
        "0 of 20 rows; a comparison needs a column's whole name"
    )


def test_only_tables_of_more_than_twelve_rows_have_a_filter(table: Any) -> None:
    """Twelve rows are seen at a glance."""
    assert table.locator("#table-1 .filter-input").count() == 1
    assert table.locator("#table-2 .filter-input").count() == 0


def test_rows_open_and_close_by_keyboard(table: Any) -> None:
    """Enter on a row's first cell shows its pictures and says so; once more hides them."""
    button, detail = table.locator("#table-1 button.opener").nth(1), table.locator("#table-1-detail-1")
    assert detail.is_hidden()
    button.focus()
    table.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    assert detail.is_visible()
    assert table.locator("#table-1-detail-0").is_hidden()
    assert detail.locator("img.layer-base").evaluate("(image) => image.naturalWidth") == 16
    table.keyboard.press("Enter")
    assert (button.get_attribute("aria-expanded"), detail.is_hidden()) == ("false", True)


def test_pictures_stay_below_their_row(table: Any) -> None:
    """Sorting takes an opened row's pictures along, filtering hides them with it."""
    table.locator("#table-1 button.opener").nth(0).click()
    table.locator("#table-1 th button").first.click()
    table.locator("#table-1 th button").first.click()
    last = "[...document.querySelectorAll('#table-1 tbody tr')].slice(-4)"
    assert table.evaluate(f"{last}.map((row) => row.id || row.cells[0].textContent)") == [
        "1",
        "table-1-detail-1",
        "0",
        "table-1-detail-0",
    ]
    table.locator("#table-1 .filter-input").fill("channel > 3")
    assert table.locator("#table-1-detail-0").is_hidden()
    table.locator("#table-1 .filter-input").fill("")
    assert table.locator("#table-1-detail-0").is_visible()


def test_wide_tables_scroll_in_their_box_below_a_column_that_stays(table: Any) -> None:
    """The box scrolls sideways, the page does not; the first column and the opened pictures stay in sight."""
    table.locator("#table-1 button.opener").nth(0).click()
    grid = table.locator("#table-1 .grid")
    left = "(e) => e.getBoundingClientRect().left"
    cell, picture = grid.locator("tbody td").first, grid.locator(".picture").first
    before = cell.evaluate(left), picture.evaluate(left)
    grid.evaluate("(e) => { e.scrollLeft = 400; }")
    assert grid.evaluate("(e) => e.scrollLeft") == 400
    assert (cell.evaluate(left), picture.evaluate(left)) == before
    assert table.evaluate("document.documentElement.scrollWidth") == 1200
    assert grid.locator(".detail-body").first.evaluate("(e) => e.offsetWidth") <= grid.evaluate(
        "(e) => e.clientWidth"
    )


def test_the_switches_of_a_table_rule_its_pictures(table: Any) -> None:
    """Maps and outlines of opened rows are switched for the whole table; a click enlarges."""
    table.locator("#table-1 button.opener").nth(1).click()
    layer = table.locator("#table-1-detail-1 .layer-overlay")
    assert layer.is_visible()
    table.locator("#table-1 [data-switch=maps]").uncheck()
    assert layer.is_hidden()
    table.locator("#table-1-detail-1 button.layers").first.click()
    assert table.locator("dialog[open] img").count() == 3


def test_headings_say_what_they_mean(table: Any) -> None:
    """A heading is described by its meaning; the legend lists them all once it is opened."""
    described = table.locator("#table-1 th button").nth(1)
    assert described.get_attribute("title") == "meaning of F1 gland"
    legend = table.locator("#table-1 .legend")
    assert legend.locator("dd").first.is_hidden()
    legend.locator("summary").click()
    assert legend.locator("dd").nth(1).inner_text() == "meaning of F1 gland"


def test_printing_shows_opened_rows(table: Any) -> None:
    """On paper every row shows its pictures, whether it was open or not."""
    table.emulate_media(media="print")
    assert table.locator("#table-1-detail-1").is_visible()


def test_without_scripts_all_rows_are_open(passport_file: Path, visit: Callable[..., Visit]) -> None:
    """With scripts off pictures are simply shown, the legend opens, and there is no filter."""
    page = visit(passport_file, java_script_enabled=False).page
    assert page.locator("#table-1-detail-1").is_visible()
    assert page.locator("#table-1 .filter-input").is_hidden()
    page.locator("#table-1 .legend summary").click()
    assert page.locator("#table-1 .legend dd").first.is_visible()


def many_maps() -> Document:
    """A gallery as an audit with many explainers has it: maps on two grids, scores, one common scale."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def row(at: int) -> tuple[Picture, ...]:
        maps = [rng.random((4, 4)) * (at + 1) / 6 - 0.1 * (number % 2) for number in range(20)]
        names = [f"method{number}, layer{1 + number % 2}" for number in range(20)]
        shown = zip(names, maps, strict=True)
        return (
            Picture(pixels, "original", outline=np.eye(8, dtype=bool)),
            *(Picture(pixels, name, each, note="Dice 0.61", common=(-0.1, 1.0)) for name, each in shown),
        )

    gallery = Gallery(tuple((f"image {at}", row(at)) for at in range(6)), "many maps")
    return Document("Audit", "sub", (), (Section("where", "S", (gallery,)),))


@pytest.fixture
def crowded(tmp_path: Path, visit: Callable[..., Visit]) -> Iterator[Any]:
    """The gallery of many maps, opened afresh."""
    path = tmp_path / "report.html"
    write(many_maps(), path)
    opened = visit(path, viewport={"width": 1300, "height": 900})
    yield opened.page
    assert opened.said == []


def test_one_scale_for_all_maps_of_an_explainer(crowded: Any) -> None:
    """The switch, by keyboard, puts the common picture and its range in the place of the map's own."""
    first = crowded.locator("#gallery-1 .picture").nth(1)
    own, common = first.locator(".layer-own"), first.locator(".layer-common")
    assert (own.is_visible(), common.is_visible()) == (True, False)
    assert first.locator(".extent-common").is_hidden()
    crowded.get_by_label("Common scale").focus()
    crowded.keyboard.press("Space")
    assert (own.is_visible(), common.is_visible()) == (False, True)
    assert first.locator(".extent:visible").inner_text() == "±1.00"
    crowded.get_by_label("Maps", exact=True).uncheck()
    assert (own.is_visible(), common.is_visible()) == (False, False)


def test_maps_are_smoothed_on_request_only(crowded: Any) -> None:
    """Cells are drawn as cells until the reader asks for interpolation; the slider works by keyboard."""
    layer = crowded.locator("#gallery-1 .layer-overlay").first
    drawn = "(e) => [getComputedStyle(e).imageRendering, getComputedStyle(e).opacity]"
    assert layer.evaluate(drawn) == ["pixelated", "0.75"]
    crowded.get_by_label("Smooth").check()
    crowded.get_by_label("Opacity").focus()
    crowded.keyboard.press("ArrowLeft")
    assert layer.evaluate(drawn) == ["auto", "0.7"]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [("", 120), ("layer1", 60), ("Method19", 6), ("method1 LAYER2", 36), ("method2,, method3", 12), ("x", 0)],
)
def test_maps_are_picked_by_name(crowded: Any, asked: str, shown: int) -> None:
    """Words of a part must all be in the name, parts between commas are alternatives; originals stay."""
    crowded.locator("#gallery-1 details").evaluate("(e) => { e.open = true; }")
    crowded.get_by_label("Show maps named").fill(asked)
    assert crowded.locator("#gallery-1 .picture:visible").count() == 6 + shown
    said = crowded.locator("#gallery-1 [role=status]").inner_text()
    assert said == (f"{shown} of 120 maps" if asked else "")


def test_many_maps_wrap_and_the_later_images_fold(crowded: Any) -> None:
    """Twenty maps stand in several lines without sideways scrolling; two images are open, four wait."""
    assert crowded.evaluate("document.documentElement.scrollWidth") == 1300
    assert crowded.locator("#gallery-1 .row:visible").count() == 2
    assert crowded.locator("#gallery-1 summary").inner_text() == "4 more rows"
    tops = "[...document.querySelectorAll('#gallery-1 .row:first-of-type .picture')].map((e) => e.offsetTop)"
    assert len(set(crowded.evaluate(tops))) == 3


def test_scores_stand_under_the_map(crowded: Any) -> None:
    """The note is a line of its own between the map's name and its range."""
    label = crowded.locator("#gallery-1 .picture-label").nth(1)
    assert label.inner_text().splitlines()[:2] == ["method0, layer1", "Dice 0.61"]


def chapters() -> Document:
    """Five sections of one question, three of another, and six definition cards."""
    rng = np.random.default_rng(0)

    def section(question: Any, number: int) -> Section:
        figure = Figure(figures.scatter(rng.random(9), rng.random(9), axes=("x", "y")), f"plot {number}")
        frame = pd.DataFrame({"a": [1]})
        return Section(
            question, f"Part {number}", (Text("said"), figure, Table(frame, "t"), Table(frame, "u"))
        )

    sections = [section("channels", number) for number in range(5)] + [
        section("chance", 5 + n) for n in range(3)
    ]
    cards = tuple(("p", DefinitionCard(f"Card {number}", "a = b", "Nobody")) for number in range(6))
    return Document("Audit", "sub", (), tuple(sections), cards)


@pytest.fixture(scope="module")
def folded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chapters as a file."""
    path = tmp_path_factory.mktemp("folded") / "report.html"
    write(chapters(), path)
    return path


@pytest.fixture
def folded(folded_file: Path, visit: Callable[..., Visit]) -> Iterator[Any]:
    """The chapters' page, opened afresh."""
    opened = visit(folded_file, viewport={"width": 1300, "height": 900})
    yield opened.page
    assert opened.said == []


def until(page: Any, expression: str) -> None:
    """Wait for what the page does after the click; the policy forbids what playwright would do."""
    for _ in range(500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(expression)


OPEN = "[...document.querySelectorAll('#channels details.fold')].map((e) => Number(e.open)).join('')"


def test_sections_of_a_long_chapter_fold(folded: Any) -> None:
    """Of five sections the first is open; every heading is seen, with what waits below it; three do not."""
    assert folded.evaluate(OPEN) == "10000"
    assert folded.locator("#channels h3:visible").count() == 5
    assert folded.locator("#channels .fold-holds").nth(1).inner_text() == "1 figure, 2 tables"
    assert folded.locator("#chance details.fold").count() == 0
    assert folded.locator("#chance .plot:visible").count() == 3


def test_the_contents_open_what_they_lead_to(folded: Any) -> None:
    """A link of the contents unfolds its section and brings it into sight."""
    folded.locator(".contents a[href='#section-4']").click()
    assert folded.evaluate(OPEN) == "10010"
    until(folded, "Math.abs(document.querySelector('#section-4').getBoundingClientRect().top) < 200")


@pytest.mark.parametrize("place", ["section-3", "section-3-title", "figure-3", "table-5"])
def test_an_address_with_a_place_opens_it(folded_file: Path, visit: Callable[..., Visit], place: str) -> None:
    """A link to a folded section, or to anything in it, opens the page unfolded there."""
    opened = visit(folded_file)
    opened.page.goto("about:blank")
    opened.page.goto(f"{folded_file.as_uri()}#{place}")
    assert opened.page.evaluate(OPEN) == "10100"
    assert opened.page.locator(f"#{place}").is_visible()


def test_all_sections_of_a_chapter_open_and_fold_at_once(folded: Any) -> None:
    """The button says what it will do, for which chapter, and does it."""
    button = folded.locator("[data-fold=channels]")
    assert button.get_attribute("aria-label") == "Open all: Which channels?"
    button.focus()
    folded.keyboard.press("Enter")
    folded.get_by_role("button", name="Fold all: Which channels?").wait_for()
    assert folded.evaluate(OPEN) == "11111"
    button.click()
    assert folded.evaluate(OPEN) == "00000"
    folded.get_by_role("button", name="Open all: Which channels?").wait_for()


def test_a_plot_unfolds_at_its_full_width(folded: Any) -> None:
    """A plot that was folded away is as wide as one that was not, also after the window has changed."""
    width = "(plot) => plot.querySelector('.main-svg').getBoundingClientRect().width"
    folded.set_viewport_size({"width": 1100, "height": 900})
    folded.locator("#section-2 summary").click()
    until(
        folded,
        "document.querySelector('#figure-2 .main-svg').getBoundingClientRect().width"
        " === document.querySelector('#figure-1 .main-svg').getBoundingClientRect().width",
    )
    assert folded.locator("#figure-2 .plot").evaluate(width) > 400


def test_printing_unfolds_everything(folded: Any) -> None:
    """While it prints every section and card is open; afterwards they are as they were."""
    folded.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.locator("details:not([open])").count() == 0
    folded.evaluate("dispatchEvent(new Event('afterprint'))")
    assert folded.evaluate(OPEN) == "10000"


def test_paper_shows_folded_sections_without_scripts(folded_file: Path, visit: Callable[..., Visit]) -> None:
    """With scripts off paper shows what is folded on the screen, and a click unfolds it there."""
    page = visit(folded_file, java_script_enabled=False).page
    height = "document.querySelector('#section-2').offsetHeight"
    before = page.evaluate(height)
    page.emulate_media(media="print")
    assert page.evaluate(height) > before + 200
    page.emulate_media(media="screen")
    page.locator("#section-2 summary").click()
    assert page.locator("#table-3").is_visible()


def test_many_cards_fold(folded: Any, report: Path) -> None:
    """Six definitions stand as six lines that open; the reader sees every name."""
    assert folded.locator("#methods .card[open]").count() == 0
    assert folded.locator("#methods h4:visible").count() == 6
    folded.locator("#methods .card summary").nth(2).click()
    assert folded.locator("#methods .formula:visible").count() == 1


def with_all(build: Callable[[str], Document], payloads: dict[str, str]) -> Document:
    """One document with the texts of many."""
    documents = [build(payload) for payload in payloads.values()]
    return Document(
        title=" ".join(document.title for document in documents),
        subtitle=" ".join(document.subtitle for document in documents),
        findings=tuple(finding for document in documents for finding in document.findings),
        sections=tuple(section for document in documents for section in document.sections),
        cards=tuple(card for document in documents for card in document.cards),
        provenance={f"{i}": document.provenance for i, document in enumerate(documents)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", [True, False])
def test_payloads_do_nothing(
    policy: bool, tmp_path: Path, visit: Callable[..., Visit], build: Callable, payloads: dict[str, str]
) -> None:
    """With every payload in every field, with and without the policy: no script, no request, same title."""
    path = tmp_path / "report.html"
    write(with_all(build, payloads), path)
    page = path.read_text(encoding="utf-8")
    if not policy:
        path.write_text(re.sub(r'<meta http-equiv="Content.*?>', "", page, count=1), encoding="utf-8")
    opened = visit(path)
    opened.page.locator(".plot").first.hover()
    assert opened.page.title().startswith("Audit ")
    assert opened.page.evaluate("document.scripts.length") == 3 + len(payloads)
    assert opened.page.locator(".plot a, [onerror], [onload], [onmouseover], [onfocus]").count() == 0
    assert not [text for text in opened.said if re.search("policy|refused|blocked", text, re.IGNORECASE)]
    assert opened.outside() == []
