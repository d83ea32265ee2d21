"""Bokeh's document of one browser tab: points, filters, selection, and the clip of the point that was clicked.

Clips are read, drawn and sent when asked for, so that many videos cost nothing at the start. What takes seconds (a
run's heads) is computed beside the page, and joins the clip when it is there.
"""

import concurrent.futures
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jinja2
import numpy as np
from bokeh import events
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    ColumnDataSource,
    CustomJS,
    Div,
    HoverTool,
    LassoSelectTool,
    MultiChoice,
    Range1d,
    RangeSlider,
    Select,
    TextInput,
)
from bokeh.plotting import figure

from discovr_jax.explore import clips as clips_lib
from discovr_jax.explore import colours, details, selection
from discovr_jax.explore.videos import NEIGHBOURS, Neighbours, Videos

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")
_NO_RANGE = "any"
_SETTLED = 250  # milliseconds without panning or zooming, after which points of the new view are sent
_NEAR = 18  # pixels of the screen from a click to its point
_MARGIN = 0.05
_FIRST = ("label", "ef", "dataset", "split")  # what points are coloured by at the start: the first that is there
_DOWNLOAD = """
const link = document.createElement("a")
link.href = URL.createObjectURL(new Blob([cb_obj.tags[0]], {type: "text/csv"}))
link.download = "selection.csv"
link.click()
setTimeout(() => URL.revokeObjectURL(link.href), 10000)
"""


class Pages:
    """What all tabs share."""

    def __init__(self, videos: Videos, places: np.ndarray, axes: tuple[str, str]):
        """
        Args:
          places: float32 [N, 2] of `projection.project`; axes: their names.
        """
        self.videos, self.places, self.axes = videos, places, axes
        self.neighbours = Neighbours(videos.features)
        self.order = np.random.default_rng(0).permutation(len(videos))  # in which points are drawn
        self.beside = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._template = jinja2.Environment(autoescape=False).from_string(_TEMPLATE.read_text(encoding="utf-8"))

    def add_to(self, document: Any) -> None:
        """Fill a new tab's document."""
        page = Page(self, document)
        document.title, document.template = f"{self.videos.name}: {len(self.videos)} videos", self._template
        document.template_variables.update(name=self.videos.name, about=page.about)
        for name, root in page.roots().items():
            root.name = name
            document.add_root(root)
        document.on_session_destroyed(lambda _: page.close())


class Page:
    """One tab."""

    def __init__(self, pages: Pages, document: Any):
        self._pages, self._document = pages, document
        self._videos = videos = pages.videos
        self.about = f"{len(videos):,} videos, placed by {videos.readout}. For research use only; not a medical device."
        self.rows = np.arange(len(videos))  # that pass the filters
        self.drawn = self.rows[:0]  # of these, the points of the browser
        self.selected = self._before = np.zeros(len(videos), bool)
        self._sending, self._waiting = False, None
        self.clicked: int | None = None
        self._closed = False
        self.points = ColumnDataSource({"x": [], "y": [], "colour": [], "id": [], "value": []})
        self.marks = ColumnDataSource({"x": [], "y": [], "width": []})
        self.colour_by = self._colour_choice()
        self.legend, self.status = (Div(sizing_mode="stretch_width") for _ in range(2))
        self.choices = {name: self._choice(name) for name in videos.categories()}
        self.search = TextInput(title="id contains", sizing_mode="stretch_width")
        self.range_of = Select(title="Range of", options=[_NO_RANGE, *videos.numbers()], value=_NO_RANGE)
        self.range_of.sizing_mode = "stretch_width"
        self.range = RangeSlider(start=0, end=1, value=(0, 1), step=0.01, sizing_mode="stretch_width", visible=False)
        self.save = Button(button_type="primary", sizing_mode="stretch_width")
        self.clip, self.said, self.drawing = (
            Div(sizing_mode="stretch_width", stylesheets=[details.STYLE]) for _ in range(3)
        )
        self.pictures = [Div(width=100, height=104) for _ in range(NEIGHBOURS)]
        self.links = [Button(width=100, visible=False) for _ in range(NEIGHBOURS)]
        self.plot = self._plot()
        self._nearest: list[tuple[int, float]] = []
        self._connect()
        self.clip.text = details.HOW_TO
        self._set_colours()
        self._filter()

    def roots(self) -> dict[str, Any]:
        """What page.html places, by name."""
        tiles = [column(*each) for each in zip(self.pictures, self.links, strict=True)]
        rows = [row(*tiles[first : first + 3]) for first in range(0, len(tiles), 3)]
        filters = [*self.choices.values(), self.search, self.range_of, self.range]
        stretch = {"sizing_mode": "stretch_width"}
        return {
            "map_head": column(self.colour_by, self.legend, self.drawing, **stretch),
            "plot": self.plot,
            "detail": column(self.clip, self.said, *rows, **stretch),
            "side": column(self.status, self.save, *filters, **stretch),
        }

    def close(self) -> None:
        """The tab is gone: what is computed for it is dropped."""
        self._closed = True

    def _colour_choice(self) -> Select:
        names = [*self._videos.categories(), *self._videos.numbers()]
        first = next((name for name in _FIRST if name in names), names[0] if names else "")
        return Select(title="Colour by", options=names, value=first, sizing_mode="stretch_width")

    def _choice(self, name: str) -> MultiChoice:
        values = sorted(self._videos.columns[name].unique())
        options = [(value, value or "unknown") for value in values]
        return MultiChoice(title=name, options=options, value=[], placeholder="all", sizing_mode="stretch_width")

    def _plot(self) -> Any:
        low, high = self._pages.places.min(0), self._pages.places.max(0)
        low, high = low - _MARGIN * (high - low) - 1e-6, high + _MARGIN * (high - low) + 1e-6
        plot = figure(
            x_range=Range1d(*map(float, (low[0], high[0]))),
            y_range=Range1d(*map(float, (low[1], high[1]))),
            x_axis_label=self._pages.axes[0],
            y_axis_label=self._pages.axes[1],
            tools="pan,wheel_zoom,box_select,lasso_select,reset",
            active_scroll="wheel_zoom",
            sizing_mode="stretch_both",
            min_height=300,
        )
        plot.toolbar.logo = None
        plot.select_one(LassoSelectTool).continuous = False  # tells its region once, when it is whole
        plot.grid.grid_line_alpha = 0.4
        count = len(self._videos)
        size, alpha = (9, 0.85) if count <= 2000 else (6, 0.7) if count <= 20_000 else (4, 0.5)
        points = plot.scatter(
            "x", "y", source=self.points, color="colour", size=size, alpha=alpha, line_color=None,
            nonselection_alpha=0.12, nonselection_line_color=None,
        )  # fmt: skip
        ring = {"size": 15, "fill_color": None, "line_color": "#111", "line_width": "width"}
        plot.scatter("x", "y", source=self.marks, level="overlay", **ring)
        plot.add_tools(HoverTool(renderers=[points], tooltips=[("id", "@id"), ("value", "@value")], limit=1))
        return plot

    def _connect(self) -> None:
        self.colour_by.on_change("value", _then(self._recolour))
        for widget in (*self.choices.values(), self.search):
            widget.on_change("value", _then(self._filter))
        self.range_of.on_change("value", _then(self._set_range))
        self.range.on_change("value_throttled", _then(self._filter))
        self.points.selected.on_change("indices", _then(self._take_selection))
        self.plot.on_event(events.SelectionGeometry, lambda event: self.take_region(event.geometry, event.final))
        self.plot.on_event(events.RangesUpdate, lambda event: self._wait())
        self.plot.on_event(events.Tap, lambda event: self.click(event.x, event.y))
        self.save.on_click(self._download)
        self.save.js_on_change("tags", CustomJS(code=_DOWNLOAD))
        for number, link in enumerate(self.links):
            link.on_click(functools.partial(self._follow, number))

    # Points.

    def _set_range(self) -> None:
        name = self.range_of.value
        self.range.visible = name != _NO_RANGE
        if name != _NO_RANGE:
            values = self._videos.columns[name]
            low, high = float(values.min()), float(values.max())
            self.range.update(start=low, end=high, value=(low, high), step=(high - low) / 200)
        self._filter()

    def _shown(self) -> np.ndarray:
        """Rows that pass all filters."""
        frame, keep = self._videos.columns, np.ones(len(self._videos), bool)
        for name, widget in self.choices.items():
            if widget.value:
                keep &= frame[name].isin(widget.value).to_numpy()
        if self.search.value:
            keep &= frame["id"].str.contains(self.search.value, case=False, regex=False).to_numpy()
        low, high = self.range.value
        if self.range_of.value != _NO_RANGE and (low > self.range.start or high < self.range.end):
            keep &= frame[self.range_of.value].between(low, high).to_numpy()  # unknown values are outside
        return np.flatnonzero(keep)

    def _set_colours(self) -> None:
        name = self.colour_by.value
        if name in self._videos.numbers():
            self._values = self._videos.columns[name].to_numpy(float)
            self._colours, self.legend.text = colours.by_number(self._values, name)
        else:
            self._values = np.asarray(self._videos.columns[name] if name else np.full(len(self._videos), "", object))
            self._colours, self.legend.text = colours.by_text(self._values)

    def _recolour(self) -> None:
        self._set_colours()
        self._draw()

    def _filter(self) -> None:
        self.rows, self.selected = self._shown(), np.zeros(len(self._videos), bool)
        self._before = self.selected
        self._draw()

    def _wait(self) -> None:
        """The view moves: when it rests, the points in it are drawn."""
        if len(self.rows) > selection.MOST_DRAWN:
            if self._waiting is not None:
                self._document.remove_timeout_callback(self._waiting)
            self._waiting = self._document.add_timeout_callback(self._draw, _SETTLED)

    def _draw(self) -> None:
        """Send the points that are drawn, and which of them are selected."""
        self._waiting, corners = None, [(each.start, each.end) for each in (self.plot.x_range, self.plot.y_range)]
        places, view = self._pages.places, np.sort(np.array(corners, float)).T
        self.drawn = selection.drawn(self.rows, places, view, self._pages.order)
        self._sending = True
        self.points.selected.indices = []
        self.points.data = {
            "x": places[self.drawn, 0], "y": places[self.drawn, 1], "colour": self._colours[self.drawn],
            "id": self._videos.columns["id"].to_numpy()[self.drawn].tolist(),
            "value": [details.number(value) for value in self._values[self.drawn]],
        }  # fmt: skip
        self.points.selected.indices = np.flatnonzero(self.selected[self.drawn]).tolist()
        self._sending = False
        self._tell()

    def _take_selection(self) -> None:
        """The browser selected among the points that are drawn."""
        if not self._sending:
            self._before, self.selected = self.selected, np.zeros(len(self._videos), bool)
            self.selected[self.drawn[self.points.selected.indices]] = True
            self._tell()

    def take_region(self, geometry: dict[str, Any], final: bool = True) -> None:
        """A box or lasso, of which the browser has told already what it holds of the points that are drawn.

        Args:
          geometry: of Bokeh's SelectionGeometry; final: it is whole.
        """
        if final and len(self.drawn) < len(self.rows):
            region, chosen = np.zeros(len(self._videos), bool), np.zeros(len(self.drawn), bool)
            region[self.rows] = selection.inside(self._pages.places[self.rows], geometry)
            chosen[self.points.selected.indices] = True
            self.selected = selection.extended(self._before, region, self.drawn, chosen)
            self._tell()
        self._before = self.selected

    def _tell(self) -> None:
        chosen, shown, all_drawn = int(self.selected.sum()), len(self.rows), len(self.drawn) == len(self.rows)
        self.status.text = f"{shown:,} of {len(self._videos):,} shown, {chosen:,} selected"
        self.save.label = f"Save {chosen:,} selected as CSV" if chosen else f"Save {shown:,} shown as CSV"
        self.drawing.visible = not all_drawn
        self.drawing.text = "" if all_drawn else details.drawing(len(self.drawn), shown)

    def selected_csv(self) -> str:
        """The selected videos, or all that are shown, as CSV."""
        chosen = np.flatnonzero(self.selected) if self.selected.any() else self.rows
        frame = self._videos.columns.iloc[chosen]
        places = {f"map_{axis}": self._pages.places[chosen, number] for number, axis in enumerate("xy")}
        return frame.assign(**places).to_csv(index=False, lineterminator="\n")

    def _download(self) -> None:
        self.save.tags = [self.selected_csv(), str(int((self.save.tags or ["", "0"])[1]) + 1)]

    # The clip.

    def click(self, x: float, y: float) -> None:
        """Show the video of the point nearest to a place of the map, if one is near on the screen."""
        if not len(self.drawn):
            return
        ranges = [self.plot.x_range, self.plot.y_range]
        scale = self._pixels() / np.array([float(each.end - each.start) for each in ranges])
        distance = np.linalg.norm((self._pages.places[self.drawn] - [x, y]) * scale, axis=1)
        if distance.min() <= _NEAR:
            self.show(int(self.drawn[distance.argmin()]))

    def _pixels(self) -> np.ndarray:
        """Width and height of the map on the screen."""
        try:
            return np.array([self.plot.inner_width, self.plot.inner_height], float)
        except UnsetValueError:  # the browser has not told yet
            return np.array([600.0, 600.0])

    def _follow(self, number: int) -> None:
        if number < len(self._nearest):
            self.show(self._nearest[number][0])

    def show(self, row: int) -> None:
        """Play the clip of a video, with its neighbours; what the run's heads say of it follows."""
        self.clicked, self._nearest = row, self._pages.neighbours.of(row)
        marked = [row, *(each for each, _ in self._nearest)]
        places = self._pages.places[marked]
        self.marks.data = {"x": places[:, 0], "y": places[:, 1], "width": [3.0] + [1.0] * len(self._nearest)}
        self.said.text = details.facts(self._videos.columns, row)
        for number, (picture, link) in enumerate(zip(self.pictures, self.links, strict=True)):
            link.visible = number < len(self._nearest)
            if link.visible:
                each, similarity = self._nearest[number]
                picture.text = self._thumbnail(each)
                link.label = f"{similarity:.3f} {self._videos.columns.get('label', {}).get(each, '')}".strip()
        clips, heads = self._videos.clips, self._videos.heads
        if clips is None:
            self.clip.text = details.note(self._videos.why_no_clips)
            return
        try:
            clip = clips.read(row)
        except clips_lib.ClipError as error:
            self.clip.text = details.note(f"No clip: {error}")
            return
        self.clip.text = details.clip(clip, waits=heads is not None)
        if heads is not None:
            self._pages.beside.submit(self._ask, row, clip, heads)

    def _thumbnail(self, row: int) -> str:
        try:
            return details.picture(self._videos.clips.thumbnail(row), "similar video") if self._videos.clips else ""
        except clips_lib.ClipError:
            return ""

    def _ask(self, row: int, clip: clips_lib.Clip, heads: Any) -> None:
        """In the thread beside the page."""
        if self._closed or self.clicked != row:  # somebody clicked on
            return
        try:
            text = details.clip(clip, heads.of(clip.frames, clip.fps))
            if self._videos.columns.get("split", {}).get(row) == "train":
                text += details.note("The heads were fitted on the training videos, of which this is one.")
        except Exception as error:  # the clip stays; a thread that dies tells nobody
            text = details.clip(clip) + details.note(f"No predictions: {type(error).__name__}: {error}")

        def put() -> None:
            if self.clicked == row:
                self.clip.text = text

        if not self._closed:
            self._document.add_next_tick_callback(put)


def _then(act: Callable[[], None]) -> Callable[[str, Any, Any], None]:
    """What Bokeh calls when a property has changed."""

    def changed(attr: str, old: Any, new: Any) -> None:
        act()

    return changed
