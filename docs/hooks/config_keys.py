"""The page of every config key, made from configs/base.py: its defaults as they are, its comments as they stand."""

import ast
import io
import pathlib
import re
import tokenize

from discovr_jax.configs import base
from discovr_jax.method import fidelity
from discovr_jax.runs.workdir import flatten

PAGE = "reference/config.md"
_KEY = re.compile(r"(?<=<tr>\n<td><code>)[\w.]+(?=</code></td>)")  # in the first column
_HEAD = """# Config keys

Every key, made from `configs/base.py` when these pages are built. Set a key in a config file (`c.optim.lr = 3e-4`) or
on the command line (`--config.optim.lr=3e-4`); an unknown key is an error that names what is like it. The other files
of `configs/` start from these defaults and only override.

- *Durations* are text: `"400 epochs"`, `"2000 steps"`, `"1e6 examples"`, `"10 percent"` (of the run).
- *unset (float)* means `None`; what that does is said beside it.
- *by fidelity* means `None` too: `config.fidelity` chooses between the two values that are shown, the paper's and that
  of the public code ([paper and public code](../fidelity.md)).
"""


def on_files(files, config, **_):
    """mkdocs: adds the page to the files of the site."""
    from mkdocs.structure.files import File  # not above: tests read the rest without mkdocs

    files.append(File.generated(config, PAGE, content=page()))


def on_page_content(html, page, **_):
    """mkdocs: the HTML of the page, before its template."""
    return breakable(html) if page.file.src_uri == PAGE else html


def breakable(html: str) -> str:
    """HTML whose keys may break between words: on a phone the longest would leave no room for what they do."""
    return _KEY.sub(lambda found: re.sub(r"[._]", r"\g<0><wbr>", found[0]), html)


def page() -> str:
    """Markdown: one table per section of the config, one row per key."""
    about, parts, sections = comments(), [_HEAD], {}
    defaults = base.get_config()
    place = {key: index for index, key in enumerate(about)}
    keys = flatten(defaults.to_dict())
    keys |= {name: {} for name in about if not any(key == name or key.startswith(f"{name}.") for key in keys)}  # empty
    for key, value in sorted(keys.items(), key=lambda item: place[_known(item[0], place)]):
        section = key.partition(".")[0] if "." in key else ""
        row = f"| `{key}` | {_default(defaults, key, value)} | {_cell(about.get(key, ''))} |"
        sections.setdefault(section, []).append(row)
    for section, rows in sections.items():
        title = f"## `{section}`" if section else "## The run"
        parts.append(f"{title}\n\n{about.get(section, '')}\n\n| key | default | what it does |\n| --- | --- | --- |")
        parts[-1] += "\n" + "\n".join(rows)
    return "\n\n".join(parts) + "\n"


def _known(key: str, place: dict[str, int]) -> str:
    """The key, or the section above it, that configs/base.py sets by name."""
    while key not in place:
        key = key.rpartition(".")[0]
    return key


def comments() -> dict[str, str]:
    """{key or section: its comment} of configs/base.py.

    A comment stands on a key's own line and goes on in the comment lines below it; comment lines right above a section
    (`c.data = ConfigDict()`) belong to the section.
    """
    source = pathlib.Path(base.__file__).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    own = {line for line, token in found.items() if not token.line[: token.start[1]].strip()}  # nothing else on it
    function = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "get_config")
    result: dict[str, list[str]] = {}
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        names = [key for target in node.targets if (key := ast.unparse(target).removeprefix("c.")) != "c"]
        lines = [node.end_lineno] if node.end_lineno in found else []
        section = ast.unparse(node.value) == "ConfigDict()"
        if section:
            lines = _run(node.lineno - 1, own, -1)[::-1] + lines
        after = _run(node.end_lineno + 1, own, 1)
        if after and not _is_section(source, after[-1] + 1):
            lines += after
        for name in names:
            result[name] = [found[line].string.lstrip("# ") for line in lines]
    return {name: " ".join(lines) for name, lines in result.items()}


def _run(line: int, own: set[int], step: int) -> list[int]:
    """Neighbouring lines that hold nothing but a comment."""
    lines = []
    while line in own:
        lines.append(line)
        line += step
    return lines


def _is_section(source: str, line: int) -> bool:
    lines = source.splitlines()
    return line <= len(lines) and lines[line - 1].partition("#")[0].strip().endswith("= ConfigDict()")


def _default(config, key: str, value) -> str:
    if key in fidelity.OPTIONS:
        paper, public = fidelity.OPTIONS[key]
        return f"by fidelity: `{paper!r}`, `{public!r}`"
    if value is None:
        section, _, name = key.rpartition(".")
        for part in filter(None, section.split(".")):
            config = config[part]
        return f"unset ({config.get_ref(name).get_type().__name__})"
    return f"`{value!r}`"


def _cell(text: str) -> str:
    """A comment whose pipes do not end the cell. Within code they do not anyway, and a backslash would be shown."""
    parts = text.split("`")
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    return "`".join(parts)
