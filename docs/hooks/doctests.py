"""Examples of docstrings as code: Markdown would take `>>>` for a quotation, and `[4, 8, 10]` below it for a link."""

import re

# A block of code stays as it is; an example ends at an empty line.
_EXAMPLE = re.compile(r"(?m)^```[\s\S]*?^```|^>>> .*(?:\n.+)*")
_OPTION = re.compile(r" *# doctest: .*")


def on_config(config, **_):
    """mkdocs: hands the Markdown of pages, and of docstrings in them, to `fenced` first."""
    from markdown import Extension  # not above: tests read the rest without mkdocs
    from markdown.preprocessors import Preprocessor

    class Examples(Preprocessor):
        def run(self, lines):
            return fenced("\n".join(lines)).split("\n")

    class Doctests(Extension):
        def extendMarkdown(self, md):
            md.preprocessors.register(Examples(md), "doctests", 100)  # before blocks of code are read

    config.markdown_extensions.append(Doctests())


def fenced(text: str) -> str:
    """Markdown whose examples are blocks of code, without the options of doctest."""

    def block(found: re.Match) -> str:
        return found[0] if found[0].startswith("`") else f"```pycon\n{_OPTION.sub('', found[0])}\n```"

    return _EXAMPLE.sub(block, text)
