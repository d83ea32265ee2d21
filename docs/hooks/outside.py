"""Pages that lie outside docs/, beside what they are about, and links of pages to them."""

import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PAGES |= {
    path.relative_to(ROOT).as_posix(): f"reference/datasets/{path.parent.name}.md"
    for path in sorted(ROOT.glob("tfds_builders/*/README.md"))
}
# Files that are no page of the site, and the page made of them (config_keys.py).
_MADE = {"configs/base.py": "reference/config.md"}
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


def on_config(config, **_):
    """mkdocs: the nav without the pages whose source a checkout has not."""
    absent = {page for source, page in PAGES.items() if not (ROOT / source).exists()}
    for section in config.nav:
        for pages in section.values():
            pages[:] = [page for page in pages if not isinstance(page, dict) or absent.isdisjoint(page.values())]


def on_files(files, config, **_):
    """mkdocs: adds the pages; their links are made anew from where they stand in the site."""
    from mkdocs.structure.files import File  # not above: tests read the rest without mkdocs

    for source, page in PAGES.items():
        if (ROOT / source).exists():
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=moved(text, source, page)))


def on_page_markdown(markdown, page, **_):
    """mkdocs: the Markdown of a page, whose links lead to where the other pages are in the site."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return moved(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def moved(text: str, source: str, page: str) -> str:
    """Markdown of `source` (a path in the repository), its links made for the place `page` in the site.

    Links to what is no page of the site stay as they are, and fail the build.
    """

    def link(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        pages = PAGES | _MADE
        if target not in pages and not target.startswith("docs/"):
            return found[1]
        wanted = pages.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(wanted, posixpath.dirname(page) or ".")

    return _LINK.sub(link, text)
