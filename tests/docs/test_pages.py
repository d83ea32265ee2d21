"""The pages of docs/: their links, the config of the tutorial, and what their hooks make."""

import posixpath
import re

import pytest

from discovr_jax.configs import archive, base
from discovr_jax.runs.workdir import flatten
from docs.hooks import commands, config_keys, doctests, fetched, notebook, outside
from tests.test_configs import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tfds_builders/*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
        assert (page.parent / link).exists(), link


def test_links_stay_in_the_site():
    """`make docs` says the same, but needs packages that the tests do not."""
    pages = {path.relative_to(DOCS).as_posix(): path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")}
    pages |= {page: source for source, page in outside.PAGES.items()}
    for page, source in pages.items():
        text = re.sub(r"```.*?```", "", (ROOT / source).read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", outside.moved(text, source, page)):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            assert target in pages or target == config_keys.PAGE or (DOCS / target).is_file(), (source, link)


def test_every_page_from_outside_is_in_the_menu():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in outside.PAGES.values() if f": {page}\n" not in text] == []


def test_code_in_lists_and_tables_is_shown_as_it_is_meant():
    """In lists MkDocs wants four spaces, and a blank line above, where GitHub is content with less. In a cell GitHub
    takes `\\|` for a pipe, MkDocs shows both: <code>&#124;</code> serves either.
    """
    wrong = []
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        wrong += [(page.name, line) for line in lines if re.match(r"( {1,3}|\s*(\d+\.|[-*]) +)```", line)]
        wrong += [(page.name, line) for line in lines if re.match(r"\|.*`[^`]*\\\|[^`]*`", line)]
        opening = [index for index, line in enumerate(lines) if line.startswith("    ```")][::2]
        above = [lines[index - 1] for index in opening]
        wrong += [(page.name, line) for line in above if line and not line.startswith("!!!")]
    assert wrong == []


def test_the_config_page_has_every_key_once_with_its_comment():
    page, keys = config_keys.page(), flatten(base.get_config().to_dict()) | {"data.mixture": {}}
    assert sorted(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)) == sorted(keys)
    about = config_keys.comments()
    sections = {key.rsplit(".", count)[0] for key in keys for count in range(1, key.count(".") + 1)}
    assert about.keys() <= keys.keys() | sections
    assert about["checkpoint.keep"] == "newest checkpoints kept"
    assert "factorised" in about["model.positions"] and about["model.position_grid"].startswith("(tubelets")
    assert about["eval.evaluators"].startswith("name -> options") and about["eval.resamples"] == "of the bootstrap"
    assert "| `scd.targets` | by fidelity: `'soft'`, `'hard'` |" in page
    assert "| `optim.lr` | unset (float) |" in page
    assert "`'cls_token|mask_token|prototypes'`" in page
    assert config_keys._cell("a | b, `c|d`") == "a \\| b, `c|d`"
    html = "<tr>\n<td><code>a.b_c</code></td>\n<td><code>0.5</code></td>"
    assert config_keys.breakable(html) == html.replace("a.b_c", "a.<wbr>b_<wbr>c")


def test_a_notebook_becomes_its_cells_and_outputs():
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "display_data", "data": {"image/png": "aGk=", "text/plain": ["<Figure>"]}},
                {"output_type": "execute_result", "data": {"text/html": ["<table>\n\n</table>"], "text/plain": ["x"]}},
            ],
        },
    ]
    text, pictures = notebook.as_markdown({"cells": cells}, "quick")
    assert pictures == {"quick_0.png": b"hi"}
    assert text == (
        "# Title\n\n```python\nprint(1)\n```\n\n``` { .text .output }\n1\n```\n\n"
        "![output of the cell above](quick_0.png)\n\n<table>\n</table>\n"
    )


def test_examples_of_docstrings_become_blocks_of_code():
    text = "What.\n\n>>> f(1)  # doctest: +ELLIPSIS\n[4, 8]\n\nMore.\n\n```pycon\n>>> g()\n```\n"
    code = "```pycon\n>>> f(1)\n[4, 8]\n```"
    assert doctests.fenced(text) == text.replace(">>> f(1)  # doctest: +ELLIPSIS\n[4, 8]", code)


def test_flags_in_code_stay_whole():
    html = "<p>a --b</p><pre><code>x --config.a.b=1 -- y --z\n--w</code></pre><code>a--b</code>"
    flags = [f'<span class="flag">--{name}</span>' for name in ("config.a.b", "z", "w")]
    code = f"<pre><code>x {flags[0]}=1 -- y {flags[1]}\n{flags[2]}</code></pre>"
    assert commands.whole_flags(html) == f"<p>a --b</p>{code}<code>a--b</code>"


def test_links_to_pages_outside_docs_are_made_for_the_site():
    text = "[a](../SECURITY.md#promised) [b](data.md) [c](../setup.py) [d](https://x.org/a.md)"
    assert outside.moved(text, "docs/notes/x.md", "notes/x.md") == text.replace("../SECURITY.md", "../SECURITY.md")
    assert outside.moved(text, "docs/x.md", "x.md") == text.replace("../SECURITY.md", "security.md")
    assert outside.moved("[k](../configs/base.py)", "docs/x.md", "x.md") == "[k](reference/config.md)"
    moved = outside.moved("[e](docs/reliability.md)", "SECURITY.md", "security.md")
    assert moved == "[e](reliability.md)"


def test_what_a_page_would_fetch_is_seen():
    own = '<a href="https://x.org">x</a> <script src="assets/a.js"></script> <link rel="stylesheet" href="style.css">'
    assert fetched.fetched(own) == []
    others = '<script src="https://unpkg.com/a.js"></script><link rel="stylesheet" href="//fonts.org/b.css"><img src=http://c>'
    assert len(fetched.fetched(others)) == 3


def test_the_tutorial_lists_the_sizes_of_its_config():
    page = (ROOT / "docs" / "tutorials" / "own_archive.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) GB \| ViT-(\w+), (\d+) \|", page, re.MULTILINE)
    assert listed == [(str(gb), name.title(), str(clips)) for gb, (name, clips) in archive.SIZES.items()]
