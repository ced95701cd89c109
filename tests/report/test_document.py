"""A whole document: order, storage, size, file."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss_probe.contracts import DefinitionCard, Figure, Finding, Gallery, Picture, Section, Table
from wsss_probe.errors import CorruptRunError, UsageError
from wsss_probe.report import Document, dumps, loads, render, write
from wsss_probe.report.budget import Step, degrade
from wsss_probe.report.document import encode
from wsss_probe.report.sections import QUESTIONS, encode_findings

pytestmark = pytest.mark.usefixtures("small_plotly")


def test_sections_follow_the_questions_whatever_their_order() -> None:
    """Sections stand in the order of the questions, those of one question as they came."""
    sections = tuple(
        Section(question, f"{question} {i}", ()) for i in (1, 2) for question in reversed(QUESTIONS)
    )
    page = render(Document("T", "", (), sections))
    titles = re.findall(r"<h3 id=\"section-\d+-title\">(.*?)</h3>", page)
    assert titles == [f"{question} {i}" for question in QUESTIONS for i in (1, 2)]


def test_only_questions_with_an_answer_are_asked() -> None:
    """Headings without a section do not appear; the verdict always does."""
    page = render(Document("T", "", (), (Section("where", "S", ()),)))
    assert re.findall(r'<h2 id="(\w+)-title">', page) == ["verdict", "where"]


def test_findings_come_gravest_first() -> None:
    """Warnings stand before notices before what is in order; equals keep their order."""
    verdicts = ("ok", "notice", "warning", "ok", "warning")
    findings = tuple(("p", Finding(f"f{i}", verdict, f"s{i}")) for i, verdict in enumerate(verdicts))
    page = render(Document("T", "", findings, ()))
    assert re.findall(r'class="statement">(s\d)<', page) == ["s2", "s4", "s1", "s0", "s3"]
    assert re.findall(r"</svg>(Warning|Notice|OK)</span>", page) == ["Warning"] * 2 + ["Notice"] + ["OK"] * 2


def test_many_notices_are_folded() -> None:
    """More than six notices of plugins wait behind one line; every other finding stands open."""
    made = [("p", Finding(f"n{i}", "notice", f"notice {i}")) for i in range(7)]
    others = [("host", Finding("h", "notice", "of the host")), ("p", Finding("o", "ok", "fine"))]
    page = render(Document("T", "", (*made, *others), ()))
    strip, mark, folded = page.partition('<details class="more-findings">')
    folded, _, rest = folded.partition("</details>")
    assert mark
    assert "7 more notices" in folded
    assert re.findall(r'class="statement">(.*?)<', strip) == ["of the host", "fine"]
    assert re.findall(r'class="statement">(.*?)<', folded) == [f"notice {i}" for i in range(7)]
    assert 'class="statement"' not in rest


def test_a_few_notices_are_not_folded() -> None:
    """Six notices of plugins stand open."""
    page = render(Document("T", "", tuple(("p", Finding(f"n{i}", "notice", "x")) for i in range(6)), ()))
    assert 'class="more-findings"' not in page
    assert page.count('class="statement"') == 6


def test_a_finding_shows_number_interval_size_and_control() -> None:
    """The strip holds all that a reader needs to weigh a number."""
    finding = Finding("f", "ok", "S.", 0.7714, (0.65, 0.891), 240, 12, "F1", "random weights")
    encoded = encode(Document("T", "", (("channels", finding),), ())).findings[0]
    assert (encoded.effect, encoded.unit, encoded.interval) == ("0.771", "F1", "0.650 to 0.891")
    assert (encoded.size, encoded.control) == ("240 images in 12 independent groups", "random weights")


def test_undefined_effects_are_dashes() -> None:
    """An effect that is NaN is shown as undefined, one that is absent not at all."""
    nan, none = (Finding("f", "notice", "S.", effect) for effect in (float("nan"), None))
    assert [f.effect for f in encode(Document("T", "", (("p", nan), ("p", none)), ())).findings] == ["–", ""]


def test_equal_documents_give_equal_bytes(build: Callable[[str], Document]) -> None:
    """Rendering twice, and rendering what was stored, gives the same page."""
    first = render(build("x"))
    assert render(build("x")) == first
    assert render(loads(dumps(build("x")))) == first


def test_stored_reports_are_stable(build: Callable[[str], Document]) -> None:
    """Storing what was loaded gives the same text, in ASCII."""
    stored = dumps(build("é\udce9"))
    assert stored.isascii()
    assert dumps(loads(stored)) == stored


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stored: "",
        lambda stored: "{}",
        lambda stored: json.dumps(stored | {"format": "wsss-probe report 2"}),
        lambda stored: json.dumps(stored | {"album": ["https://example.org/x.png"]}),
        lambda stored: json.dumps(stored | {"album": ["data:image/svg+xml;base64,AAAA"]}),
        lambda stored: json.dumps(stored | {"album": stored["album"][:1]}),
        lambda stored: json.dumps(stored | {"sections": [{"question": "why", "title": "", "blocks": []}]}),
    ],
)
def test_what_is_not_a_stored_report_is_refused(spoil: Callable[[dict], str], build: Callable) -> None:
    """Truncated, foreign or tampered text ends with one clear line and the code for corrupt runs."""
    with pytest.raises(CorruptRunError, match=r"stored report cannot be read; found: .*; wanted: ") as caught:
        loads(spoil(json.loads(dumps(build("x")))))
    assert caught.value.exit_code == 8


def test_file_is_written_whole(tmp_path: Path, build: Callable[[str], Document]) -> None:
    """The page replaces an older one and leaves nothing beside it."""
    target = tmp_path / "report.html"
    target.write_text("old")
    write(build("x"), target)
    assert target.read_text(encoding="utf-8") == render(build("x"))
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new file cannot take its place, the old one stays and no other is left."""
    target = tmp_path / "report.html"
    target.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        write(Document("T", "", (), ()), target)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "old"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Writing into a folder that does not exist is one clear line."""
    with pytest.raises(UsageError, match="found: no such folder; remedy: create"):
        write(Document("T", "", (), ()), tmp_path / "none" / "report.html")


def noisy_gallery(rows: int) -> Document:
    """A document whose pictures do not compress."""
    rng = np.random.default_rng(0)
    pictures = [Picture(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8), f"p{i}") for i in range(rows)]
    gallery = Gallery(tuple((f"row {i}", (picture,)) for i, picture in enumerate(pictures)), "c")
    return Document("T", "", (), (Section("where", "S", (gallery,)),))


def size(page: str) -> int:
    """Bytes of a page."""
    return len(page.encode("utf-8"))


@pytest.mark.parametrize("share", [0.6, 0.3, 0.1])
def test_reports_keep_to_their_budget_and_say_what_they_gave_up(share: float) -> None:
    """A smaller budget gives a smaller file, with notes at the top and at the gallery."""
    document = noisy_gallery(30)
    budget = int(share * size(render(document)))
    page = render(document, budget_bytes=budget)
    assert size(page) <= budget
    assert "Parts were reduced to keep this file below" in page
    assert "Pictures are compressed" in page
    assert render(loads(dumps(document)), budget_bytes=budget) == page


def test_rows_that_were_dropped_are_counted() -> None:
    """When rows go, the gallery says how many of how many are left."""
    document = noisy_gallery(30)
    page = render(document, budget_bytes=int(0.1 * size(render(document))))
    found = re.search(r"(\d+) of 30 rows are shown", page)
    assert found is not None
    assert page.count('class="row-title"') == int(found[1]) < 30


def test_pictures_stay_with_their_labels_when_rows_go(section_of: Callable[..., Document]) -> None:
    """After rows of a first gallery are dropped, pictures of a second one are still their own."""

    def gallery(levels: range) -> Gallery:
        pictures = [(f"{v}", (Picture(np.full((8, 8, 3), v, np.uint8), f"{v}"),)) for v in levels]
        return Gallery(tuple(pictures), "c")

    step = Step(side=8, quality=90, rows=2, points=10, csv=10)
    small = degrade(encode(section_of(gallery(range(5)), gallery(range(100, 105)))), step, 1)
    shown = [row.pictures[0] for block in small.sections[0].blocks for row in block.rows]
    assert [picture.label for picture in shown] == ["0", "1", "100", "101"]
    assert len(small.album) == 4
    for picture in shown:
        image = Image.open(io.BytesIO(base64.b64decode(small.album[picture.base].partition(",")[2])))
        assert abs(np.asarray(image).mean() - int(picture.label)) < 3


def opening_table(rows: int, opened: int) -> Table:
    """A table of which the first rows open a picture each, all of one image."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    galleries = {
        at: Gallery(((f"channel {at}", (Picture(pixels, f"p{at}", rng.random((4, 4))),)),), "")
        for at in range(opened)
    }
    frame = pd.DataFrame({"channel": range(rows), "F1": rng.random(rows)})
    return Table(frame, "t", galleries, {"F1": "mean F1"})


def test_rows_open_pictures_that_stand_once(section_of: Callable[..., Document]) -> None:
    """Every opened row is on the page; the image that they share is embedded once."""
    page = render(section_of(opening_table(30, 24)))
    assert page.count('class="opener"') == page.count('class="detail"') == 24
    assert page.count("data:image/webp") == 1
    assert page.count('aria-controls="table-1-detail-23"') == page.count('id="table-1-detail-23"') == 1
    assert re.search(r'<button[^>]* title="mean F1">F1<', page)
    assert "<dt>F1</dt><dd>mean F1</dd>" in page


def test_details_of_rows_below_those_shown_are_left_out(section_of: Callable[..., Document]) -> None:
    """A row that is not on the page opens nothing, and its pictures are not in the file."""
    gallery = Gallery((("r", (Picture(np.zeros((4, 4, 3), np.uint8), "p"),)),), "")
    encoded = encode(section_of(Table(pd.DataFrame({"x": range(501)}), "t", {500: gallery, 499: gallery})))
    assert [at for at, _ in encoded.sections[0].blocks[0].details] == [499]


def test_opened_rows_shrink_with_the_report(section_of: Callable[..., Document]) -> None:
    """When a report must shrink, rows and the pictures that they open go from the end, each with a note."""
    table = encode(section_of(opening_table(300, 24), opening_table(3, 1)))
    step = Step(side=16, quality=50, rows=6, points=10, csv=10, lines=100)
    small = degrade(table, step, 1)
    first, second = small.sections[0].blocks
    assert [at for at, _ in first.details] == list(range(6))
    assert len(first.rows) == len(first.order) == 100
    assert {
        "100 of 300 rows are shown, to keep this file small.",
        "6 of 24 rows open their pictures, to keep this file small.",
    } <= set(first.notes)
    labels = [gallery.rows[0].pictures[0].label for _, gallery in (*first.details, *second.details)]
    assert labels == ["p0", "p1", "p2", "p3", "p4", "p5", "p0"]
    assert len(small.album) == 1 + 6  # one image, six maps; those of the second table are the same
    assert render(small).count('class="detail"') == 7


def test_a_row_that_is_cut_opens_nothing(section_of: Callable[..., Document]) -> None:
    """Pictures of rows that had to go are not in the file either."""
    step = Step(side=16, quality=50, rows=6, points=10, csv=10, lines=4)
    (table,) = degrade(encode(section_of(opening_table(30, 24))), step, 1).sections[0].blocks
    assert [at for at, _ in table.details] == list(range(len(table.rows))) == [0, 1, 2, 3]


def test_stored_details_name_pictures_of_the_album(section_of: Callable[..., Document]) -> None:
    """A stored report whose opened row names a picture that is not there is refused."""
    stored = json.loads(dumps(section_of(opening_table(2, 1))))
    stored["sections"][0]["blocks"][0]["details"][0][1]["rows"][0]["pictures"][0]["base"] = 99
    with pytest.raises(CorruptRunError, match="not in its album"):
        loads(json.dumps(stored))


def test_reports_stored_before_rows_opened_can_be_read(section_of: Callable[..., Document]) -> None:
    """A stored table without details and meanings is a table without them."""
    stored = json.loads(dumps(section_of(Table(pd.DataFrame({"x": [1]}), "t"))))
    for name in ("details", "meanings"):
        del stored["sections"][0]["blocks"][0][name]
    assert render(loads(json.dumps(stored))) == render(section_of(Table(pd.DataFrame({"x": [1]}), "t")))


@pytest.mark.slow
def test_a_passport_of_512_channels_keeps_the_budget(section_of: Callable[..., Document]) -> None:
    """512 rows of 30 columns with 72 pictures of 24 images stand whole on a page of a few megabytes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 224, 224, 3), dtype=np.uint8)  # noise: nothing compresses less

    def picture(number: int) -> Picture:
        return Picture(images[number % 24], f"p{number}", rng.random((28, 28)))

    galleries = {at: Gallery((("c", tuple(map(picture, range(at, at + 3)))),), "") for at in range(24)}
    frame = pd.DataFrame(rng.random((512, 30)).astype(np.float32), columns=[f"column {i}" for i in range(30)])
    page = render(section_of(Table(frame, "t", galleries, dict.fromkeys(frame.columns, "meaning"))))
    assert size(page) < 7_500_000
    assert page.count("data-order=") == 512 * 30
    assert page.count('class="detail"') == 24
    assert "Parts were reduced" not in page


def test_a_report_within_its_budget_is_complete() -> None:
    """At exactly its own size nothing is reduced; one byte less and something is."""
    document = noisy_gallery(2)
    whole = render(document)
    assert render(document, budget_bytes=size(whole)) == whole
    assert "reduced" in render(document, budget_bytes=size(whole) - 1)


def test_an_impossible_budget_is_admitted() -> None:
    """If not even text fits, the page says that it is too large."""
    assert "This file is larger than" in render(noisy_gallery(1), budget_bytes=1000)


def test_figures_and_tables_shrink_too(section_of: Callable[..., Document]) -> None:
    """Points and CSVs give way with notes of their own when pictures are not what is large."""
    n = 20_000
    frame = pd.DataFrame({"x": np.arange(n) + 0.5})
    figure = Figure({"data": [{"type": "scatter", "y": list(range(n))}]}, "", "", frame)
    document = section_of(figure, Table(frame, "t"))
    page = render(document, budget_bytes=120_000)
    assert re.search(r"Drawn with \d+ of 20000 points", page)
    assert page.count("The CSV is left out, to keep this file small.") == 2


def test_a_hundred_thousand_rows_stay_small(section_of: Callable[..., Document]) -> None:
    """A table of 100,000 rows gives a file far below the budget, cut with notes."""
    frame = pd.DataFrame({"image": [f"folder/image_{i:06d}.png" for i in range(100_000)], "f1": 0.123456789})
    page = render(section_of(Table(frame, "t")))
    assert size(page) < 5_000_000
    assert "The first 500 of 100000 rows are shown" in page
    assert "The CSV holds the first" in page


def test_cards_and_provenance_make_the_last_part() -> None:
    """Methods and provenance stand under 'How was this made?', each reference once."""
    card = DefinitionCard("CAM", "L = w A", "Zhou (2016)", bibtex="@article{zhou}")
    document = Document(
        "T", "", (), (), (("a", card), ("b", card)), {"seed": 1, "run": {"torch": {"version": "2"}}}
    )
    encoded = encode(document)
    assert [(f.group, f.name, f.value) for f in encoded.provenance] == [
        ("", "seed", "1"),
        ("run", "torch.version", "2"),
    ]
    page = render(document)
    assert re.findall(r'<h2 id="(\w+)-title">', page) == ["verdict", "how"]
    assert "QGFydGljbGV7emhvdX0=" in page  # @article{zhou}, once, in base64


def test_plotly_comes_only_with_a_figure(build: Callable[[str], Document], text_document: Callable) -> None:
    """A document without a figure carries no plotting library, one with a figure carries it once."""
    assert "window.Plotly" not in render(text_document("x"))
    assert render(build("x")).count("window.Plotly") == 1


def test_repeated_pictures_stand_once_in_the_page(section_of: Callable[..., Document]) -> None:
    """The same pixels in several pictures are embedded once and copied by script."""
    picture = Picture(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), "p")
    page = render(section_of(Gallery((("r", (picture, replace(picture, label="q"))),), "c")))
    assert page.count("data:image/webp") == 1
    assert page.count('data-same="picture-0"') == 1


@pytest.mark.parametrize("maps", [True, False])
def test_switches_for_maps_only_where_there_are_maps(section_of: Callable[..., Document], maps: bool) -> None:
    """A gallery of bare pictures has no opacity to change and no maps to pick by name."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    pictures = tuple(Picture(pixels, f"p{i}", np.eye(4) if maps else None) for i in range(7))
    page = render(section_of(Gallery((("r", pictures),), "c")))
    body = page[page.index("<body") :]
    assert ("data-opacity min" in body) == maps
    assert ("Show maps named" in body) == maps


@pytest.mark.parametrize(
    ("effect", "interval", "shown"),
    [(4.0, None, "4"), (-2.0, None, "−2"), (1.0, (0.9, 1.0), "1.00"), (0.25, None, "0.250")],
)
def test_counts_are_written_as_counts(effect: float, interval: Any, shown: str) -> None:
    """A whole number without an interval has no decimals; a measurement keeps its digits."""
    (found,) = encode_findings([("p", Finding("n", "ok", "s", effect=effect, interval=interval))])
    assert found.effect == shown
