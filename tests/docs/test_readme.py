"""README, CONTRIBUTING, CHANGELOG and CITATION: short, and everything that they point to is there."""

import importlib.util
import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")


def test_the_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_two_commands_do_all_set_up():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links or page == "CHANGELOG.md"
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), f"{page}: python -m {module}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    for target in re.findall(r"(?:^|`|=\S+ )make ([\w-]+)", text, flags=re.M):
        assert target in targets, f"{page}: make {target}"


def test_pictures_are_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".svg", ".jpg")]
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 300_000, path


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert f'version="{citation["version"]}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert citation["preferred-citation"]["doi"].endswith("2506.11777")
