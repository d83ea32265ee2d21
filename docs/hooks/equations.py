"""Equations as MathML, made when the pages are built: browsers show it without a script or a font of another site."""

import html
import re

import latex2mathml.converter

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content, **_):
    """mkdocs: the HTML of a page, before it is put into the theme."""
    content = _BLOCK.sub(lambda found: f'<div class="equation">{_mathml(found[1], "block")}</div>', content)
    return _INLINE.sub(lambda found: _mathml(found[1], "inline"), content)


def _mathml(latex: str, display: str) -> str:
    return latex2mathml.converter.convert(html.unescape(latex).strip(), display=display)
