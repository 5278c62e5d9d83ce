"""The viewer in a real browser: the study's page shows trials, intermediate values and importances."""

import pytest

from tests.support.browser import chromium, watched_page
from tests.support.serving import served
from tests.support.studies import STUDY_NAME, write_study

pytestmark = pytest.mark.browser

NUM_TRIALS = 24
FOREIGN_NAME = "foreign.example"
STEPS = ("33", "100", "300")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.journal"
    return path, write_study(path, trials=NUM_TRIALS)


@pytest.fixture(scope="module")
def address(study):
    with served(study[0]) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    with chromium(f"--host-resolver-rules=MAP {FOREIGN_NAME} 127.0.0.1") as running:
        yield running


def expect_count(page, selector, count):
    """Wait until there are ``count`` elements, for a page that draws in steps."""
    page.wait_for_function("([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, count])


def test_from_the_list_of_studies_to_trials_intermediate_values_and_importances(browser, study, address):
    journal, written = study
    before = journal.read_bytes()
    with watched_page(browser, width=1400, height=1000) as watched:
        page = watched.page
        page.goto(f"{address}/")
        page.get_by_role("link", name=STUDY_NAME).first.click()
        page.wait_for_url("**/dashboard/studies/0**")

        best = written.best_trial
        page.wait_for_selector(f"text=Best Trial (number={best.number})")
        page.wait_for_selector(f"text={best.value}")

        expect_count(page, "#graph-intermediate-values .scatterlayer .trace", NUM_TRIALS)
        expect_count(page, "#graph-intermediate-values .scatterlayer .point", NUM_TRIALS * len(STEPS))

        expect_count(page, "#graph-hyperparameter-importances .bars .point", 3)
        labels = page.locator("#graph-hyperparameter-importances .ytick").all_text_contents()
        assert {label.strip() for label in labels} == {"learning_rate", "bn_placement", "bn_momentum"}

        page.locator("#plot-history .scatterlayer .point").first.wait_for()
        assert watched.complaints == []
        assert all(url.startswith((address, "data:", "blob:")) for url in watched.requests)
    assert journal.read_bytes() == before, "looking changed the study"


def test_the_page_of_trials_shows_one_trial_s_parameters_and_state(browser, study, address):
    pruned = study[1].trials[3]
    with watched_page(browser, width=1400, height=1000) as watched:
        page = watched.page
        page.goto(f"{address}/dashboard/studies/0/trials?numbers={pruned.number}")
        page.wait_for_selector(f"text=Trial {pruned.number} (trial_id={pruned._trial_id})")
        page.locator("text=Pruned").first.wait_for()
        page.locator(f"text={pruned.params['learning_rate']}").first.wait_for()
        assert watched.complaints == []


def test_a_name_that_was_rebound_to_this_machine_reads_nothing(browser, address):
    """DNS rebinding: a page of a foreign name whose address turns into 127.0.0.1 is of the same origin with us."""
    port = address.rpartition(":")[2]
    with watched_page(browser) as watched:
        response = watched.page.goto(f"http://{FOREIGN_NAME}:{port}/api/studies")
        assert response is not None
        assert response.status == 403
        assert STUDY_NAME not in response.text()
