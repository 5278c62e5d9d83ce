"""The lattice maps in a real browser: drawn from the report's numbers, chosen by the reader, readable anywhere."""

import math
import re

import pytest
from playwright.sync_api import expect

from sweeps import report
from tests.support.browser import chromium, watched_page
from tests.support.records import cell, shared_sweep, sweep, trial

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("lattice")
    report.write(shared_sweep(), made)
    return made


def opened(watched, folder):
    watched.page.goto((folder / "report.html").as_uri())
    watched.page.wait_for_selector("#lattice-map tbody tr")
    return watched.page


def choose(page, trajectory):
    label = next(
        text
        for text in page.locator("#lattice-choice option").all_inner_texts()
        if re.match(rf"trajectory {trajectory}\b", text)
    )
    page.select_option("#lattice-choice", label=label)


def drawn(page):
    """Eval loss, accuracy and trial by readout, as the cells' own descriptions tell them."""
    found = {}
    for title in page.eval_on_selector_all("#lattice-map td[title]", "cells => cells.map(cell => cell.title)"):
        loss = re.search(r"eval loss ([-\d.e]+)", title)
        accuracy = re.search(r"accuracy ([\d.]+)%", title)
        number = re.search(r"trial (\d+)", title)
        found[title.split(";")[0]] = (
            float(loss[1]) if loss else None,
            float(accuracy[1]) if accuracy else None,
            int(number[1]) if number else None,
        )
    return found


def expected(folder, trajectory):
    lattice = next(x for x in report.load_report(folder)["lattices"] if x["trajectory"] == trajectory)
    names = ("ema_decay", "bn_momentum")
    return {
        ", ".join(f"{name} {c['params'][name]:g}" for name in names if name in c["params"]): (
            c["eval_loss"] and pytest.approx(c["eval_loss"], rel=1e-3),
            c["eval_accuracy"] and pytest.approx(100 * c["eval_accuracy"], abs=0.01),
            c["trial"],
        )
        for c in lattice["cells"]
    }


def test_the_best_trials_lattice_is_drawn_first_and_another_when_it_is_chosen(browser, folder):
    with watched_page(browser) as watched:
        page = opened(watched, folder)
        assert drawn(page) == expected(folder, 0)
        assert page.inner_text("#lattice-about") == "learning_rate 0.001, bn_placement conv"
        choose(page, 4)
        assert drawn(page) == expected(folder, 4) != expected(folder, 0)
        assert page.inner_text("#lattice-about") == "learning_rate 0.005, bn_placement conv"
        assert watched.complaints == []


def test_the_lowest_loss_and_the_trials_are_marked_and_named(browser, folder):
    found = report.load_report(folder)
    with watched_page(browser) as watched:
        page = opened(watched, folder)
        assert page.locator("#lattice-map td.best").count() == 1
        assert page.locator("#lattice-map td.trial").count() == sum(t["trajectory"] == 0 for t in found["trials"])
        assert f"trial {found['best']['number']}" in page.get_attribute("#lattice-map td.best", "title")
        assert f"the lowest loss here; trial {found['best']['number']}" in page.inner_text("#lattice-cell")
        page.locator("#lattice-map td.trial:not(.best)").first.click()
        assert "lowest" not in page.inner_text("#lattice-cell")
        assert watched.complaints == []


def test_cells_without_a_finite_loss_are_dashes_and_those_not_scored_are_blank(browser, folder):
    with watched_page(browser) as watched:
        page = opened(watched, folder)
        choose(page, 1)
        texts = page.locator("#lattice-map tbody td").all_inner_texts()
        assert (len(texts), texts.count(""), texts.count("–")) == (42, 1, 6)
        assert drawn(page) == expected(folder, 1)
        assert watched.complaints == []


def test_one_readout_parameter_is_a_single_row(browser, folder):
    with watched_page(browser) as watched:
        page = opened(watched, folder)
        choose(page, 5)
        assert page.locator("#lattice-map tbody tr").count() == 1
        assert page.locator("#lattice-map tbody td").count() == 7
        assert watched.complaints == []


def test_three_parameters_and_no_finite_loss_at_all(browser, tmp_path):
    lattices = {
        0: tuple(cell(0.1 * a + b + c, a=a, b=b, c=c) for a in (1, 2) for b in (1, 2) for c in (3, 4)),
        1: (cell(math.nan, 1, accuracy=math.nan, a=1, b=1), cell(math.inf, a=2, b=1)),
        2: (cell(0.5, a=1), cell(0.25, b=2)),
    }
    roles = dict.fromkeys("abc", "readout")
    report.write(sweep(*(trial(i, params={}) for i in range(3)), roles=roles, lattices=lattices), tmp_path)
    with watched_page(browser) as watched:
        page = opened(watched, tmp_path)
        losses = page.locator("#lattice-map td:nth-child(4)").all_inner_texts()
        assert losses == ["4.1", "4.2", "5.1", "5.1", "5.2", "5.2", "6.1", "6.2"]
        assert page.is_hidden("#lattice-scale")
        choose(page, 1)
        assert page.locator("#lattice-map tbody td").all_inner_texts() == ["–", "–"]
        assert page.locator("#lattice-map td.best").count() == 0
        assert page.is_hidden("#lattice-scale")
        choose(page, 2)
        assert page.locator("#lattice-map tbody tr").all_inner_texts() == [
            "\t2\t0.25\t90.00%\t",
            "1\t\t0.5\t90.00%\t",
        ]
        assert watched.complaints == []


CONTRAST = """cells => cells.map(cell => {
  const light = (text) => {
    const [r, g, b] = text.match(/\\d+/g).slice(0, 3).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const css = getComputedStyle(cell);
  const [a, b] = [light(css.color), light(css.backgroundColor)];
  return Math.max(a, b) / Math.min(a, b);
})"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1200])
def test_every_number_can_be_read_in_light_and_dark_and_the_page_never_scrolls_sideways(
    browser, folder, width, dark
):
    with watched_page(browser, width=width, dark=dark) as watched:
        page = opened(watched, folder)
        for trajectory in (0, 1, 5):
            choose(page, trajectory)
            contrasts = page.eval_on_selector_all("#lattice-map td[title]", CONTRAST)
            assert min(contrasts) >= 4.5, "WCAG AA"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert watched.complaints == []


def test_a_change_of_theme_recolours_the_map(browser, folder):
    with watched_page(browser) as watched:
        page = opened(watched, folder)
        best = page.locator("#lattice-map td.best")
        expect(best).to_have_css("background-color", "rgb(11, 74, 125)")
        page.emulate_media(color_scheme="dark")
        expect(best).to_have_css("background-color", "rgb(191, 238, 214)")
