"""What mkdocs.yml asks of every build: files outside of docs/ that pages link to become pages, and lists are GitHub's.

The pages of docs/ are Markdown that reads well on its own, so they link to examples, sources and the README where those
are. A linked file PATH becomes the page source/PATH.md, and so do the files that it links to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from markdown import Markdown
from markdown.extensions import Extension
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?\[[^\]]*\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(\))")
FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
DOCTEST = re.compile(r"((?:^ *(?:>>>|\.\.\.).*\n?(?:^ *\S.*\n?)*)+)", re.MULTILINE)
LANGUAGES = {".py": "python", ".json": "json", ".hpp": "cpp", ".cpp": "cpp", ".toml": "toml", ".ipynb": "json"}


class Doctests(griffe.Extension):
    """Shows the doctests of docstrings as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put a fence around each; another line that begins with > is no quotation."""
        if obj.docstring:
            fenced = DOCTEST.sub(r"```pycon\n\1\n```\n", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)>(?!>)", r"\1\\>", fenced, flags=re.MULTILINE)


class ShortIndents(Extension):
    """Two spaces continue a list's item, as on GitHub."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Python-Markdown wants four."""
        md.tab_length = 2


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the extension, and search that needs no server."""
    config.markdown_extensions.append(ShortIndents())  # type: ignore[arg-type]
    config.extra["polyfills"] = ["assets/iframe-worker.js"]  # or the plugin would ask another server for one
    return config


def links(path: str, text: str) -> Iterator[str]:
    """The files in this tree, relative to its root, that the Markdown file `path` links to."""
    for _, target, _, _ in LINK.findall(FENCED.sub("", text)):
        yield os.path.normpath(PurePosixPath(path).parent / target)


def page_of(path: str) -> str:
    """Where a file of the tree is on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make a page of every file outside of docs/ that is linked to."""
    todo = [path for file in files.documentation_pages() for path in links(f"docs/{file.src_uri}", file.content_string)]
    while todo:
        path = todo.pop()
        if path.startswith("docs/") or files.get_file_from_path(page_of(path)) or not (ROOT / path).is_file():
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            todo += links(path, text)
        else:
            text = f"# {path}\n\n````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}````\n"
        files.append(File.generated(config, page_of(path), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the pages that were made."""
    here = page.file.src_uri
    path = here.removeprefix("source/") if here.startswith("source/") else f"docs/{here}"

    def moved(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        to = page_of(os.path.normpath(PurePosixPath(path).parent / target))
        return f"{before}{os.path.relpath(to, PurePosixPath(here).parent)}{anchor or ''}{after}"

    return LINK.sub(moved, markdown)
