"""A page that would fetch something of another site when it is read fails the build."""

import logging
import re

logger = logging.getLogger("mkdocs.hooks.fetched")
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|icon)[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
)


def on_post_page(output, page, **_):
    """mkdocs: the HTML of a page as it is written."""
    for found in fetched(output):
        logger.warning("%s fetches from another site: %s", page.file.src_uri, found)
    return output


def fetched(html: str) -> list[str]:
    """The tags of a page that load something of another site; links that a reader follows are not among them."""
    return [found[0] for found in _FETCHED.finditer(html)]
