"""The page in a real browser: points, a click that plays the clip, a selection that is saved; nothing else is asked."""

import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

pytest.importorskip("bokeh")

from tests import chromium, run_case

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium: apt-get install chromium"),
]

SERVE = """
from discovr_jax.explore import page, projection, server
from tests.explore import explore_case
videos = explore_case.made_up()
running, address = server.start(page.Pages(videos, *projection.project(videos.features)).add_to)
print(address, flush=True)
running.run_until_shutdown()
"""
# Whatever its depth in shadow trees.
ALL = """(pick) => {
  const found = [], walk = (node) => { for (const each of node.querySelectorAll("*")) {
    if (pick(each)) found.push(each)
    if (each.shadowRoot) walk(each.shadowRoot)
  }}
  walk(document)
  return found
}"""
PLOT = """(() => {
  const find = (view) => view.model.type == "Figure" ? view : (view.child_views ?? []).map(find).find(Boolean)
  return [...Bokeh.index.roots].map(find).find(Boolean)
})()"""


@pytest.fixture(scope="module")
def address():
    """Of the page of made-up videos, served by a process of its own."""
    command = [sys.executable, "-c", SERVE]
    environment = os.environ | {"PYTHONPATH": str(run_case.ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture
def browser(address, tmp_path):
    with chromium.Browser(tmp_path) as browser:
        browser.open(address)
        browser.wait("window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
        yield browser


def on_screen(browser, row):
    """Where the point of a row is."""
    return browser.value(
        f"""(() => {{
          const plot = {PLOT}, box = plot.canvas_view.el.getBoundingClientRect(), points = plot.model.renderers[0]
          const x = points.data_source.data.x[{row}], y = points.data_source.data.y[{row}]
          return [box.left + plot.frame.x_scale.compute(x), box.top + plot.frame.y_scale.compute(y)]
        }})()"""
    )


def place_of(browser, pick):
    """The middle of the first element that `pick` (JavaScript) takes."""
    x, y = browser.value(
        f"""(() => {{
          const each = ({ALL})({pick})[0]
          each.scrollIntoView({{block: "nearest"}})
          const box = each.getBoundingClientRect()
          return [box.left + box.width / 2, box.top + box.height / 2]
        }})()"""
    )
    return x, y


def shows(pick):
    return f"({ALL})({pick}).length"


def test_a_click_plays_the_clip_and_a_selection_is_saved(browser, address, tmp_path):
    assert browser.value(f"{PLOT}.model.renderers[0].data_source.data.id.length") == 60
    browser.press(*on_screen(browser, 7))
    browser.wait(shows("(each) => each.tagName == 'IMG' && each.alt == 'clip' && each.naturalWidth == 240"))
    browser.wait(shows("(each) => each.tagName == 'H3' && each.textContent == 'v007'"))
    # A neighbour's button leads to its clip.
    browser.press(*place_of(browser, "(each) => each.tagName == 'BUTTON' && / abnormal$/.test(each.textContent)"))
    browser.wait(shows("(each) => each.tagName == 'H3' && /^v0/.test(each.textContent) && each.textContent != 'v007'"))

    # All of the abnormal half, by a box about its points.
    browser.press(*place_of(browser, "(each) => /Box Select/i.test(each.title ?? '')"))
    places = [on_screen(browser, row) for row in range(1, 60, 2)]
    (left, right), (top, bottom) = ((min(each) - 6, max(each) + 6) for each in zip(*places, strict=True))
    browser.press(left, top, ((left + right) / 2, (top + bottom) / 2), (right, bottom))
    saves = "(each) => each.tagName == 'BUTTON' && /^Save 30 selected/.test(each.textContent.trim())"
    browser.wait(shows(saves))
    browser.press(*place_of(browser, saves))
    file = tmp_path / "selection.csv"
    chromium.until(file.is_file, "the selection is saved", 60)
    table = pd.read_csv(file, dtype={"id": str})
    assert list(table["id"]) == [f"v{row:03d}" for row in range(1, 60, 2)]
    assert set(table["label"]) == {"abnormal"}

    host = address.split("/")[2]
    asked = {each for each in browser.requests if not each.startswith(("data:", "blob:", "about:"))}
    assert len(asked) > 3 and all(each.split("/")[2] == host for each in asked), asked
    assert browser.errors == []


def test_a_lasso_selects_what_it_holds(browser):
    """Once, when it is whole: it tells nothing on its way (`continuous` is off)."""
    browser.press(*place_of(browser, "(each) => /Lasso Select/i.test(each.title ?? '')"))
    places = [on_screen(browser, row) for row in range(1, 60, 2)]
    (left, right), (top, bottom) = ((min(each) - 6, max(each) + 6) for each in zip(*places, strict=True))
    browser.press(left, top, (right, top), (right, bottom), (left, bottom), (left, top + 1))
    browser.wait(shows("(each) => each.tagName == 'BUTTON' && /^Save 30 selected/.test(each.textContent.trim())"))
    browser.press(*on_screen(browser, 7))  # a click still plays a clip
    browser.wait(shows("(each) => each.tagName == 'H3' && each.textContent == 'v007'"))
    assert browser.errors == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off(browser, width):
    browser.press(*on_screen(browser, 7))
    browser.wait(shows("(each) => each.tagName == 'IMG' && each.alt == 'clip' && each.naturalWidth"))
    browser.resize(width, 844)
    browser.wait(f"document.documentElement.scrollWidth <= {width}")
    sections = browser.value(
        "[...document.querySelectorAll('main > section')].map((each) => each.getBoundingClientRect())"
        ".map((box) => [box.left, box.right])"
    )
    assert len(sections) == 3 and all(0 <= left < right <= width for left, right in sections)
    stacked = len({left for left, _ in sections}) == 1
    assert stacked == (width == 390)


def test_without_the_token_there_is_no_page(address, tmp_path):
    with chromium.Browser(tmp_path) as browser:
        browser.open("/".join(address.split("/")[:3]) + "/")
        browser.wait("document.body?.textContent.includes('403')")
        assert not browser.value("Boolean(window.Bokeh)")
