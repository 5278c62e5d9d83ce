"""report.html in a real browser: every figure is drawn, nothing is asked for, nothing is complained about."""

import pytest

from sweeps import report
from sweeps.report.drawing import COLOURS
from tests.support.browser import chromium, watched_page
from tests.support.records import large_sweep, mixed_sweep, sweep

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("report")
    report.write(large_sweep(40), made)
    return made


def opened(watched, folder):
    watched.page.goto((folder / "report.html").as_uri())
    watched.page.wait_for_selector("#figure-best .main-svg")
    return watched.page


def rgb(colour):
    return "rgb({}, {}, {})".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))


def test_all_figures_are_drawn_and_nothing_is_loaded(browser, folder):
    with watched_page(browser) as watched:
        page = opened(watched, folder)
        for name in ("curves", "scatter", "importances", "best"):
            assert page.locator(f"#figure-{name} .main-svg").count() >= 1
        assert page.locator("#figure-curves .scatterlayer .js-line").count() == 40
        assert page.locator("#figure-scatter .scatterlayer .point").count() == 40
        assert page.locator("#figure-importances .bars path").count() == 5
        assert page.locator("#figure-best .scatterlayer .js-line").count() == 1
        outside = [url for url in watched.requests if not url.startswith(("file:", "data:", "blob:"))]
        assert outside == []
        assert sum(url.startswith("file:") for url in watched.requests) == 1
        assert watched.complaints == []


def test_curves_have_their_verdicts_colours(browser, folder):
    verdicts = {trial["trajectory"]: trial["verdict"] for trial in report.load_report(folder)["trials"]}
    expected = sorted(rgb(COLOURS[verdict]) for verdict in verdicts.values())
    with watched_page(browser) as watched:
        drawn = opened(watched, folder).eval_on_selector_all(
            "#figure-curves .scatterlayer .js-line", "lines => lines.map(line => line.style.stroke)"
        )
    assert sorted(drawn) == expected


def test_a_click_on_a_heading_sorts_numbers_as_numbers(browser, folder):
    trials = report.load_report(folder)["trials"]
    with watched_page(browser) as watched:
        page = opened(watched, folder)
        head = page.locator("table.sortable th", has_text="learning_rate")
        first = "table.sortable tbody tr:first-child td:first-child"
        rates = {str(trial["number"]): trial["params"]["learning_rate"] for trial in trials}
        head.click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert rates[page.inner_text(first)] == min(rates.values())
        head.click()
        assert rates[page.inner_text(first)] == max(rates.values())


def test_empty_cells_stay_last_whichever_way_is_sorted(browser, tmp_path):
    report.write(mixed_sweep(), tmp_path)
    with watched_page(browser) as watched:
        page = opened(watched, tmp_path)
        head = page.locator("table.sortable th", has_text="bn_momentum")
        for _ in range(2):
            head.click()
            cells = page.locator("table.sortable tbody tr td:nth-child(9)").all_inner_texts()
            assert [cell == "" for cell in cells] == sorted(cell == "" for cell in cells)
            assert any(cells)


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_on_a_phone_in_light_and_dark(browser, folder, dark):
    with watched_page(browser, width=360, height=740, dark=dark) as watched:
        page = opened(watched, folder)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, "no sideways scrolling"
        assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
        text = page.evaluate("getComputedStyle(document.body).color")
        label = page.eval_on_selector("#figure-best .xtick text", "label => label.style.fill")
        assert label == text, "the figures follow the theme"
        assert watched.complaints == []


def test_a_sweep_without_trials_has_a_page_without_figures(browser, tmp_path):
    report.write(sweep(), tmp_path)
    with watched_page(browser) as watched:
        watched.page.goto((tmp_path / "report.html").as_uri())
        watched.page.wait_for_selector("text=No trial has been started.")
        assert watched.page.locator(".plot").count() == 0
        assert watched.complaints == []
