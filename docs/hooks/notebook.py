"""Notebooks as pages: their cells and the outputs that are saved in them, without a converter's scripts."""

import base64
import json
import pathlib


def on_files(files, config, **_):
    """mkdocs: the files of the site. NAME.ipynb becomes the page NAME.md, with its pictures beside it."""
    from mkdocs.structure.files import File  # not above: tests read the rest without mkdocs

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = file.src_uri.removesuffix(".ipynb")
        notebook = json.loads(pathlib.Path(file.abs_src_path).read_text(encoding="utf-8"))
        text, pictures = as_markdown(notebook, name.rpartition("/")[2])
        folder = name.rpartition("/")[0]
        files.append(File.generated(config, f"{name}.md", content=text))
        for picture, content in pictures.items():
            files.append(File.generated(config, f"{folder}/{picture}".lstrip("/"), content=content))


def on_config(config, **_):
    """mkdocs: the nav names notebooks; what stands there is their page."""
    config.nav = _pages(config.nav)


def _pages(nav):
    if isinstance(nav, list):
        return [_pages(each) for each in nav]
    if isinstance(nav, dict):
        return {title: _pages(each) for title, each in nav.items()}
    return nav.removesuffix(".ipynb") + ".md" if nav.endswith(".ipynb") else nav


def as_markdown(notebook: dict, name: str) -> tuple[str, dict[str, bytes]]:
    """(Markdown of a page, {file name of a picture: PNG}) of a notebook of format 4."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(_printed("".join(output["text"])))
                continue
            data = output["data"]
            if "image/png" in data:
                picture = f"{name}_{len(pictures)}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![output of the cell above]({picture})")
            elif "text/html" in data:
                # A table; a blank line inside would end the HTML.
                lines = "".join(data["text/html"]).splitlines()
                parts.append("\n".join(line for line in lines if line.strip()))
            else:
                parts.append(_printed("".join(data["text/plain"])))
    return "\n\n".join(parts) + "\n", pictures


def _printed(text: str) -> str:
    return f'``` {{ .text .output }}\n{text.rstrip()}\n```'
