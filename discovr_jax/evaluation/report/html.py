"""HTML pieces of the report: one file, no outside resources, all text escaped."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

_STYLE = """
:root { --ink: #1f2933; --muted: #5b6672; --line: #e3e7ec; --accent: #1f6feb; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.2rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 18px 0 6px; } figure h3 { margin-top: 4px; }
p { margin: 0 0 10px; max-width: 72ch; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 20px;
  margin: 18px 0; }
.muted, figcaption { color: var(--muted); font-size: .9rem; }
.absent { border-left: 3px solid var(--line); padding-left: 10px; color: var(--muted); overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 20px; }
.wide { display: grid; gap: 26px; } .wide + .grid { margin-top: 26px; } .grid + .absent { margin-top: 14px; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; max-width: 480px; height: auto; }
.wide figure img { max-width: 100%; }
.wide figure img.small { max-width: 336px; margin-top: 8px; }
figcaption { margin-top: 4px; max-width: 60ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: 12px; margin: 0 0 16px; }
.tiles figure img { max-width: 224px; border-radius: 3px; }
.tiles figure.query img { outline: 3px solid var(--accent); outline-offset: 1px; }
.tiles figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.tiles figcaption b { color: var(--ink); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; margin: 0 0 10px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { color: var(--muted); font-weight: 600; }
td small { color: var(--muted); display: block; }
td.name { white-space: normal; min-width: 8.5rem; max-width: 15rem; position: sticky; left: 0; background: #fff; }
td.wrap { white-space: normal; min-width: 12ch; overflow-wrap: anywhere; }
th.wrap { white-space: normal; min-width: 7rem; max-width: 16rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); gap: 14px;
  margin: 14px 0 8px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 10px 2px; min-width: 0; }
.card h3 { margin: 0; } .card .value { font-weight: 600; }
.card p { margin: 0 0 8px; font-size: .92rem; line-height: 1.35; } .card .value { font-size: 1.5rem; margin: 0; }
.card small { font-size: .78rem; color: var(--muted); display: inline-block; } .card b { font-weight: 500; }
.better { color: #2b8a3e; } .worse { color: #c92a2a; }
.glance figure img { max-width: 290px; }
.value small { font-size: .85rem; font-weight: 400; color: var(--muted); }
.healthy, .sick { border-left: 3px solid #2b8a3e; padding-left: 10px; margin-top: 10px; font-size: .92rem; }
.sick { border-color: #c92a2a; }
summary { cursor: pointer; color: var(--accent); margin: 4px 0 12px; }
@media (max-width: 600px) {
  main { padding: 16px 10px 40px; } section { padding: 14px; } h1 { font-size: 1.4rem; } }
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; padding: 0; } }
"""


def escape(value: object) -> str:
    """Text safe inside an element or an attribute."""
    return html.escape(str(value), quote=True)


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """The whole document. `title` and `lead` are plain text; sections are HTML of `section`."""
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="muted">{escape(lead)}</p>\n{body}\n</main>\n</body>\n</html>\n'
    )


def section(title: str, *parts: str) -> str:
    """A titled card; parts are HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def text(content: str, css: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{css}">{escape(content)}</p>' if css else f"<p>{escape(content)}</p>"


def absent(reason: str) -> str:
    """Says why something is not shown."""
    return text(f"Not shown: {reason}.", "absent")


def figure(title: str, caption: str, *images: tuple[bytes, str]) -> str:
    """One or more images with a title and a line on how to read them.

    Args:
      images: (bytes, "png" or "webp"); what follows the first is shown smaller.
    """
    shown = "\n".join(
        f'<img{" class=small" if number else ""} alt="{escape(title)}" '
        f'src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
        for number, (data, kind) in enumerate(images)
    )
    caption = f"<figcaption>{escape(caption)}</figcaption>\n" if caption else ""
    return f"<figure>\n<h3>{escape(title)}</h3>\n{shown}\n{caption}</figure>"


def tiles(items: Iterable[tuple[bytes, Sequence[str]]], css: str = "") -> str:
    """Small pictures that flow into rows, each (PNG, lines of its caption: the first in bold); `css` of the first."""
    shown = []
    for number, (picture, lines) in enumerate(items):
        caption = "<br>".join([f"<b>{escape(lines[0])}</b>", *map(escape, lines[1:])])
        shown.append(
            f'<figure class="{css if number == 0 else ""}"><img alt="{escape(", ".join(lines))}" '
            f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return '<div class="tiles">\n' + "\n".join(shown) + "\n</div>"


def heading(title: str) -> str:
    """A title within a section."""
    return f"<h3>{escape(title)}</h3>"


def grid(figures: Sequence[str], css: str = "grid") -> str:
    """Figures side by side where there is room."""
    return f'<div class="{css}">\n' + "\n".join(figures) + "\n</div>"


def details(summary: str, *parts: str) -> str:
    """Folded away until asked for."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways on a narrow screen. Cells are HTML of `cell`; the head is plain text."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "\n".join("<tr>" + "".join(row) + "</tr>" for row in rows)
    top = f"<thead><tr>{cells}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>\n{lines}\n</tbody></table></div>'


def cell(value: object, small: str = "", css: str = "") -> str:
    """A cell: a value and a smaller line below it."""
    below = f"<small>{escape(small)}</small>" if small else ""
    return f'<td class="{css}">{escape(value)}{below}</td>' if css else f"<td>{escape(value)}{below}</td>"


def pairs(content: Mapping[str, object]) -> str:
    """A two-column table of facts."""
    names = (f'<th class="wrap">{escape(key)}</th>' for key in content)
    return table((), zip(names, (cell(value, css="wrap") for value in content.values()), strict=True))
