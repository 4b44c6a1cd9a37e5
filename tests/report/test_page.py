"""The report of a folder of results: as text, and in a real browser where there is one."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch

import ectorch as ec
from ectorch.errors import DataError
from ectorch.report.gather import front, gather, tasks_of
from ectorch.report.page import WRITERS, markdown, page

SIZES = {0.1: (900, 3.5), 0.3: (700, 5.0), 0.5: (800, 6.0), 1.0: (500, 9.0)}
SMALLEST_LETTERS = """Math.min(...[...document.querySelectorAll("svg text")].map(text => {
    const { a, b } = text.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b) || Infinity; }))"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of four runs of a tiny network, one of them behind the front, and baselines."""
    folder = tmp_path_factory.mktemp("results")
    draw = np.random.default_rng(0)
    for at, (alpha, (size, error)) in enumerate(SIZES.items()):
        run = folder / f"point-{at + 1}"
        run.mkdir()
        before = {"a.weight": draw.normal(size=(300, 40)), "a.bias": draw.normal(size=40)}
        before = {name: values.astype(np.float32) for name, values in before.items()}
        after = {name: torch.tensor(values / 2).round() for name, values in before.items()}
        ec.save_file(after, run / "model.ect")
        safetensors.numpy.save_file(before, run / "float.safetensors")
        result = {
            "name": "tiny <network>",
            "network": "tiny",
            "data": "none",
            "seed": 0,
            "evaluated_on": "held-out",
            "float_bytes": 48160,
            "file_bytes": size,
            "float_error_percent": 3.25,
            "decoded_error_percent": error,
            "seconds": 60.0 * (at + 1),
            "recipe": {"constrain": {"alpha": alpha}},
            "versions": {"ectorch": "1.2.3"},
            "machine": {"processor": "x", "threads": 1, "device": "cuda", "card": "Big Card"},
            "devices": ["cpu, 1 threads", "cuda (Big Card), 1 threads"],
        }
        (run / "result.json").write_text(json.dumps(result))
        epochs = [
            {"stage": "constrain", "epoch": epoch + 1, "loss": 1.0 / (epoch + 1), "alpha": alpha}
            | {"error_percent": 9.0, "size_bytes": 900 - epoch, "gap_percent": None}
            for epoch in range(3)
        ]
        (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*epochs, {"x": 1}]))
    task = {"network": "tiny", "data": "none", "on": "held-out"}
    rows = [{"name": "float32", "file_bytes": 48160, "error_percent": 3.25}]
    rows.append({"name": "int8 + zstd", "file_bytes": 9000, "error_percent": 3.5})
    (folder / "baselines.json").write_text(json.dumps([task | row for row in rows]))
    return folder


def test_points_come_in_their_order_with_the_front_marked(results):
    points = gather(results)
    assert [point.name for point in points] == [f"tiny <network> point-{at}" for at in (1, 2, 3, 4)]
    assert [point.first.result["alpha"] for point in points] == list(SIZES)
    assert [point.mean("file_bytes") for point in front(points)] == [500, 700, 900]
    assert len(tasks_of(points)) == 1


def test_seeds_of_a_kept_table_make_one_point(tmp_path):
    runs = [
        {"seed": seed, "evaluated_on": "test", "file_bytes": 100 + seed}
        | {"decoded_error_percent": 2.0 + seed, "float_error_percent": 1.0, "seconds": 9.0}
        for seed in (0, 2)
    ]
    point = {"curve": "c", "name": "alpha-1", "network": "n", "data": "d", "float_bytes": 4000}
    runs[0]["commit"] = "c0ffee" * 7
    table = {"points": [point | {"alpha": 1.0, "runs": runs}]}
    (tmp_path / "results.json").write_text(json.dumps(table))
    (gathered,) = gather(tmp_path)
    assert gathered.mean("file_bytes") == 101
    assert gathered.text("file_bytes", ",.0f") == "101 ± 1"
    assert markdown([gathered]).endswith("commit c0ffeec0ff\n")
    assert gathered.spread("decoded_error_percent") == pytest.approx(2**0.5)
    assert gathered.first.model == tmp_path / "c-alpha-1-seed-0.ect"


def test_folders_that_are_shown_together_keep_their_curves_apart(results, tmp_path, run):
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "other/first"
    for folder in (first, second, third):
        shutil.copytree(results, folder)
    (first / "baselines.json").unlink()
    points = gather(first, second)
    assert len(points) == 8
    assert {len(point.runs) for point in points} == {1}
    curves = {point.first.curve for point in points}
    assert curves == {"first: tiny <network>", "second: tiny <network>"}
    assert len(tasks_of(points)) == 1
    assert "| int8 + zstd | 9,000 |" in markdown(points)
    assert "<title>Results in first, second</title>" in page(points)
    alike = {point.first.curve for point in gather(first, third)}
    assert alike == {f"{folder}: tiny <network>" for folder in (first, third)}
    code, text, _ = run("report", first, second, "--out", tmp_path / "both.html")
    assert (code, text) == (0, f"report  {tmp_path / 'both.html'}\n")


def test_a_folder_that_is_named_twice_is_shown_once(results):
    twice = gather(results, results.parent / "." / results.name)
    assert [point.name for point in twice] == [point.name for point in gather(results)]
    assert {len(point.runs) for point in twice} == {1}


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        gather(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json"):
        gather(tmp_path)


def test_markdown_has_every_point_and_baseline(results):
    text = markdown(gather(results))
    assert "| tiny &lt;network&gt; point-4 | 1 | 1 | 500 | 96 | 9.00 | 3.25 | 4.0 |" in text
    assert "| int8 + zstd | 9,000 | 5.4 | 3.50 |" in text
    assert "ectorch 1.2.3, x, 1 threads, cuda Big Card" in text
    assert "trained on cpu, 1 threads, then cuda (Big Card), 1 threads" in text


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_curve_is_a_picture_of_its_own(results, tmp_path, form):
    WRITERS[form](gather(results), tmp_path / f"curve.{form}")
    assert (tmp_path / f"curve.{form}").stat().st_size > 10_000


def test_a_curve_is_drawn_with_its_alphas(results):
    text = page(gather(results))
    assert all(f">alpha {alpha:.2g}<" in text for alpha in SIZES)


def test_the_page_needs_nothing_else_and_escapes_what_is_not_its_own(results):
    text = page(gather(results))
    assert "<network>" not in text
    assert "tiny &lt;network&gt;" in text
    outside = [part for part in text.split('"') if part.startswith(("http:", "https:", "//"))]
    assert all(part.startswith("http://www.w3.org/") for part in outside)
    assert text.count("<details") == len(front(gather(results)))
    assert text == page(gather(results))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as control:
        yield control.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.mark.parametrize(("width", "colours"), [(1200, "light"), (390, "dark")])
def test_in_a_browser_tables_sort_and_marks_show_their_values(
    browser, results, tmp_path, width, colours
):
    WRITERS["html"](gather(results), tmp_path / "report.html")
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
    said = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: said.append(request.url))
    view.goto(f"file://{tmp_path / 'report.html'}")

    def column(at):
        cells = view.locator(f"section table >> nth=0 >> tbody td:nth-child({at})")
        return cells.all_inner_texts()

    heading = view.locator("section table >> nth=0 >> th:nth-child(4) button")
    assert column(4) == ["500", "700", "800", "900"]
    heading.click()
    heading.click()
    assert column(4) == ["900", "800", "700", "500"]
    assert heading.locator("..").get_attribute("aria-sort") == "descending"
    view.locator("section table >> nth=0 >> th:nth-child(1) button").click()
    assert column(1) == sorted(column(1))

    view.locator(".mark").first.hover()
    tip = view.locator("#tip")
    assert tip.inner_text() == "tiny <network> point-1: 900 bytes (x54), 3.50 %"
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    view.mouse.move(1, 1)
    assert tip.is_hidden()

    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(SMALLEST_LETTERS) >= 10
    table = view.locator(".wide >> nth=0")
    hint = view.locator(".hint >> nth=0")
    assert hint.is_visible() == (width == 390)
    table.evaluate("table => { table.scrollLeft = table.scrollWidth; }")
    hint.wait_for(state="hidden")
    dark = view.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (colours == "dark")
    assert said == [f"file://{tmp_path / 'report.html'}"] * len(said)
    view.close()
