"""Flags in code are not broken at their hyphens where a line is too long: `--workdir`, never `--` and `workdir`."""

import re

_CODE = re.compile(r"(<code[^>]*>)(.*?)(</code>)", re.DOTALL)
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


def on_page_content(html, **_):
    """mkdocs: the HTML of a page, before its template."""
    return whole_flags(html)


def whole_flags(html: str) -> str:
    """HTML whose flags within code are wrapped in an element that style.css keeps on one line."""

    def code(found: re.Match) -> str:
        return found[1] + _FLAG.sub(r'<span class="flag">\g<0></span>', found[2]) + found[3]

    return _CODE.sub(code, html)
