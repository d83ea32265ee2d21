"""What the tab of a browser holds, without a browser: points, filters, selection, the clip of a click."""

import io
import threading

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("bokeh")

from bokeh.document import Document

from discovr_jax.explore import colours, page, projection, run_heads, selection
from discovr_jax.predictor import Outline
from tests.explore import explore_case


class Heads:
    """Says the same of every clip, when it is let."""

    def __init__(self):
        self.let = threading.Event()

    def of(self, frames, fps):
        assert self.let.wait(30)
        mask = np.ones(frames.shape[1:], bool)
        maps = np.zeros((2, 2, 2), int)
        return run_heads.Said(["EF 50 %"], [Outline(0, mask)], (np.array([0, 4]), maps, np.uint8([[255, 0, 0]])), 8)


def make_page(**more) -> page.Page:
    videos = explore_case.made_up(**more)
    return page.Page(page.Pages(videos, *projection.project(videos.features)), Document())


@pytest.fixture
def tab():
    return make_page()


def colour_of(shown, row):
    return shown.points.data["colour"][list(shown.rows).index(row)]


def test_all_points_are_there_and_coloured_by_label(tab):
    data = tab.points.data
    assert len(data["x"]) == explore_case.COUNT and data["id"][7] == "v007" and data["value"][7] == "abnormal"
    assert tab.colour_by.value == "label" and len(set(data["colour"])) == 2
    assert "normal (30)" in tab.legend.text and "abnormal (30)" in tab.legend.text
    groups = data["x"][0::2], data["x"][1::2]
    assert max(groups[0]) < min(groups[1]) or max(groups[1]) < min(groups[0])


def test_colour_by_a_number_has_a_scale_and_grey_for_unknown(tab):
    tab.colour_by.value = "ef"
    assert colour_of(tab, 0) == colour_of(tab, 5) == int(f"{colours.UNKNOWN[1:]}ff", 16)
    assert colour_of(tab, 1) != colour_of(tab, 2)
    assert "gradient" in tab.legend.text and "unknown (12)" in tab.legend.text


def test_errors_are_coloured_about_zero():
    colour, _ = colours.by_number(np.array([-2.0, 0.0, 1.0, 2.0, np.nan]), "lvef_error")
    blue, middle, _, red, unknown = (f"{each:08x}" for each in colour)
    assert (blue, red) == ("2166acff", "b2182bff") and middle[:2] == middle[4:6]
    assert unknown == f"{colours.UNKNOWN[1:]}ff"


def test_filters_hide_points_and_join(tab):
    tab.choices["label"].value = ["abnormal"]
    assert list(tab.rows) == list(range(1, 60, 2))
    tab.choices["split"].value = ["test"]
    assert set(tab.rows) == {row for row in range(60) if row % 2 and row % 3 == 2}
    tab.search.value = "V01"
    assert [tab.points.data["id"][n] for n in range(len(tab.rows))] == ["v011", "v017"]
    assert tab.status.text.startswith("2 of 60 shown")


def test_a_range_hides_what_is_unknown_only_once_it_is_moved(tab):
    tab.range_of.value = "ef"
    assert len(tab.rows) == 60 and tab.range.visible
    tab.range.value = (tab.range.start, 45)
    tab.range.trigger("value_throttled", None, tab.range.value)
    assert set(tab.rows) == {row for row in range(60) if row % 2 and row % 5}
    tab.range_of.value = "any"
    assert len(tab.rows) == 60 and not tab.range.visible


def test_the_selection_as_csv_holds_its_rows(tab):
    tab.choices["label"].value = ["abnormal"]
    tab.points.selected.indices = [4, 1]
    assert "2 selected" in tab.status.text and tab.save.label == "Save 2 selected as CSV"
    table = pd.read_csv(io.StringIO(tab.selected_csv()), dtype={"id": str})
    assert list(table["id"]) == ["v003", "v009"] and list(table["label"]) == ["abnormal"] * 2
    assert {"ef", "split", "map_x", "map_y"} <= set(table)
    tab.choices["label"].value = []  # hidden points must not stay selected
    assert tab.points.selected.indices == [] and tab.selected_csv().count("\n") == 61


def test_the_same_selection_can_be_saved_twice(tab):
    tab._download()
    first = list(tab.save.tags)
    tab._download()
    assert first[0] == tab.save.tags[0] and first != tab.save.tags


def test_a_click_takes_the_nearest_point_on_the_screen(tab):
    x, y = tab.points.data["x"][7], tab.points.data["y"][7]
    tab.click(float(x) + 1e-4, float(y))
    assert tab.clicked == 7 and "data:image/webp" in tab.clip.text and "v007" in tab.said.text
    assert "end-diastole, expert" in tab.clip.text
    tab.click(float(tab.plot.x_range.start), float(tab.plot.y_range.end))
    assert tab.clicked == 7  # nothing is near


def test_neighbours_are_of_the_same_group_and_lead_on(tab):
    tab.show(7)
    assert len(tab._nearest) == 6 and all(row % 2 for row, _ in tab._nearest) and 7 not in dict(tab._nearest)
    similarities = [value for _, value in tab._nearest]
    assert similarities == sorted(similarities, reverse=True) and tab.links[0].label.endswith("abnormal")
    nearest = tab._nearest[0][0]
    tab._follow(0)
    assert tab.clicked == nearest


def test_a_clip_that_cannot_be_read_says_why_and_is_escaped(tab):
    tab.show(3)
    assert "No clip: &lt;b&gt;its&lt;/b&gt; file is gone" in tab.clip.text and "<b>" not in tab.clip.text


def test_without_clips_the_page_says_so():
    tab = make_page(clips=None, why_no_clips="The files are elsewhere.")
    tab.show(7)
    assert "The files are elsewhere." in tab.clip.text and tab.pictures[0].text == ""


def test_ids_are_escaped():
    videos = explore_case.made_up()
    videos.columns.loc[7, "id"] = "<img src=x onerror=alert(1)>"
    tab = page.Page(page.Pages(videos, *projection.project(videos.features)), Document())
    tab.show(7)
    assert "<img src=x" not in tab.said.text and "&lt;img src=x" in tab.said.text


def test_what_the_heads_say_joins_the_clip_unless_somebody_clicked_on():
    heads = Heads()
    tab = make_page(heads=heads)
    tab.show(7)
    assert "are computing" in tab.clip.text
    tab.show(9)
    heads.let.set()
    tab._pages.beside.shutdown(wait=True)
    for callback in list(tab._document.session_callbacks):
        callback.callback()
    assert "EF 50 %" in tab.clip.text and "are computing" not in tab.clip.text and "prototype" in tab.clip.text
    assert tab.clicked == 9 and "v009" in tab.said.text


def test_heads_that_fail_leave_the_clip():
    class Broken:
        def of(self, frames, fps):
            raise RuntimeError("out of memory")

    tab = make_page(heads=Broken())
    tab.show(7)
    tab._pages.beside.shutdown(wait=True)
    for callback in list(tab._document.session_callbacks):
        callback.callback()
    assert "data:image/webp" in tab.clip.text and "RuntimeError: out of memory" in tab.clip.text


def geometry_of(tab, rows):
    """A box about the places of these rows, as Bokeh tells it."""
    low, high = tab._pages.places[rows].min(0) - 1e-4, tab._pages.places[rows].max(0) + 1e-4
    return {"type": "rect", "x0": float(low[0]), "x1": float(high[0]), "y0": float(high[1]), "y1": float(low[1])}


def choose(tab, geometry, mode=lambda old, new: new):
    """What the browser tells of a box: first which of the drawn points are selected, then the box."""
    held = selection.inside(tab._pages.places[tab.drawn], geometry)
    chosen = np.isin(np.arange(len(tab.drawn)), tab.points.selected.indices)
    tab.points.selected.indices = np.flatnonzero(mode(chosen, held)).tolist()
    tab.take_region(geometry)


def test_of_many_points_a_sample_is_drawn_and_a_selection_takes_all(monkeypatch):
    monkeypatch.setattr(selection, "MOST_DRAWN", 20)
    tab = make_page()
    assert len(tab.points.data["x"]) == 20 and "Drawing 20 of 60 points" in tab.drawing.text and tab.drawing.visible
    assert len(pd.read_csv(io.StringIO(tab.selected_csv()))) == 60  # nothing is selected: all that are shown
    abnormal, normal = np.arange(1, 60, 2), np.arange(0, 60, 2)
    choose(tab, geometry_of(tab, abnormal))
    assert 0 < len(tab.points.selected.indices) < 20 and tab.save.label == "Save 30 selected as CSV"
    assert set(pd.read_csv(io.StringIO(tab.selected_csv()))["label"]) == {"abnormal"}
    choose(tab, geometry_of(tab, normal[:3]), np.logical_or)  # with shift
    assert set(np.flatnonzero(tab.selected)) >= {*abnormal, *normal[:3]}
    tab.points.selected.indices = []  # Escape
    assert tab.status.text == "60 of 60 shown, 0 selected"


def test_zooming_in_draws_what_is_there_and_keeps_the_selection(monkeypatch):
    monkeypatch.setattr(selection, "MOST_DRAWN", 30)
    tab = make_page()
    before = set(tab.drawn)
    choose(tab, geometry_of(tab, np.arange(1, 60, 2)))
    low, high = tab._pages.places[1::2].min(0), tab._pages.places[1::2].max(0)
    tab.plot.x_range.update(start=float(low[0]), end=float(high[0]))
    tab._wait()
    tab._wait()  # still moving
    (callback,) = tab._document.session_callbacks
    callback.callback()
    assert set(tab.drawn) == set(range(1, 60, 2)) and before & set(tab.drawn) == {row for row in before if row % 2}
    assert len(tab.points.selected.indices) == 30 == tab.selected.sum()
    tab.choices["label"].value = ["normal"]  # few enough: all are drawn, wherever they are
    assert set(tab.drawn) == set(range(0, 60, 2)) and not tab.drawing.visible and not tab.selected.any()
    tab.points.selected.indices = [0]
    tab.colour_by.value = "ef"
    assert tab.points.selected.indices == [0] and tab.selected[tab.drawn[0]]


def test_a_lasso_holds_what_it_surrounds():
    places = np.random.default_rng(0).uniform(-2, 2, (500, 2))
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ring = {"type": "poly", "x": [*np.cos(angle), *0.5 * np.cos(angle)], "y": [*np.sin(angle), *0.5 * np.sin(angle)]}
    radius = np.linalg.norm(places, axis=1)
    clear = (abs(radius - 1) > 0.01) & (abs(radius - 0.5) > 0.01)
    held = selection.inside(places, ring)
    np.testing.assert_array_equal(held[clear], ((radius < 1) & (radius > 0.5))[clear])


@pytest.mark.parametrize("mode", range(5))
def test_the_mode_of_a_selection_is_known_from_what_is_drawn(mode):
    rng = np.random.default_rng(mode)
    before, region = rng.random((2, 200)) < 0.5
    rows = np.sort(rng.permutation(200)[:50])
    wanted = selection._MODES[mode](before, region)
    np.testing.assert_array_equal(selection.extended(before, region, rows, wanted[rows]), wanted)
