"""Pages of the documentation that are made, not written: `mkdocs.yml` names this file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# The repository's own pages, and where they stand in the site.
HOMES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
PACKAGES = (
    *("studentfloat.formats", "studentfloat.statistics", "studentfloat.quantize"),
    *("studentfloat.kernels", "studentfloat.models", "studentfloat.models.exchange"),
    *(
        "studentfloat.evaluate",
        "studentfloat.evaluate.tasks",
        "studentfloat.profile",
        "studentfloat.hardware",
        "studentfloat.study",
    ),
    *("studentfloat.report", "studentfloat.records", "studentfloat.errors"),
    "studentfloat.progress",
)
COMMAND_LINE = """# Command line

What `studentfloat COMMAND --help` says. Results go to stdout, progress to stderr; exit status 0 is
done, 1 failed, 2 misuse, 3 a study of which some cells failed.

::: mkdocs-click
    :module: studentfloat.cli.main
    :command: cli
    :prog_name: studentfloat
    :depth: 1
    :style: table
    :list_subcommands: false
"""
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(#[^)]*)?\)")
_FETCHED = re.compile(r'<(?:script|link|img|iframe)\b(?![^>]*rel="canonical")[^>]*'
                      r'(?:src|href)="(?:https?:)?//')  # fmt: skip


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every decision and every package has its place in the navigation."""
    for entry in config.nav or []:
        if "Decisions" in entry:
            entry["Decisions"] = [entry["Decisions"], *(f"decisions/{p.name}" for p in _notes())]
        for part in entry.get("Reference", []):
            if "Python" in part:
                part["Python"] = [{name: f"reference/{name}.md"} for name in PACKAGES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made of the repository: its own pages, decisions, notebooks, reference."""
    made = {home: _linked((ROOT / name).read_text(encoding="utf-8"), ROOT, home)
            for name, home in HOMES.items()}  # fmt: skip
    made["decisions/index.md"] = _decisions()
    made["reference/cli.md"] = COMMAND_LINE
    made |= {f"reference/{name}.md": f"# {name}\n\n::: {name}\n" for name in PACKAGES}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = _notebook(path)
    for path in _sources():
        made[_home(path)] = path.read_text(encoding="utf-8")
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ lead to where those files are in the site."""
    path = DOCS / page.file.src_uri
    return _linked(markdown, path.parent, page.file.src_uri) if path.is_file() else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Options without a default have none, whatever click calls that."""
    return html.replace("<code>Sentinel.UNSET</code>", "")


def on_post_build(config: MkDocsConfig) -> None:
    """A page that would fetch something from another site is a failure."""
    for path in Path(config.site_dir).rglob("*.html"):
        if found := _FETCHED.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path} is not self-contained: {found[0]}")


def _linked(text: str, base: Path, page: str) -> str:
    """The links of a page that lies in `base`, as they are from its place in the site."""

    def moved(match: re.Match[str]) -> str:
        path = (base / match[1]).resolve()
        if not path.exists() or (path.is_relative_to(DOCS) and base != ROOT):
            return match[0]  # one within docs/, or one that the strict build complains of
        return f"]({os.path.relpath(_home(path), Path(page).parent)}{match[2] or ''})"

    return _LINK.sub(moved, text)


def _home(path: Path) -> str:
    """Where a file of the repository is in the site."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_relative_to(DOCS):
        inside = path.relative_to(DOCS).as_posix()
        return f"{inside}/index.md" if path.is_dir() else inside
    if path.suffix == ".ipynb":
        return f"notebooks/{path.stem}.md"
    return HOMES.get(name, f"source/{name}.txt")


def _sources() -> list[Path]:
    """Files that pages link to and that have no page: they go along as plain text."""
    pages = [*DOCS.rglob("*.md"), *(ROOT / name for name in HOMES)]
    linked = {(page.parent / match[1]).resolve() for page in pages
              for match in _LINK.finditer(page.read_text(encoding="utf-8"))}  # fmt: skip
    return sorted(path for path in linked if path.is_file() and _home(path).startswith("source/"))


def _decisions() -> str:
    lines = ["# Decisions", "", "What a newcomer would question, and why it is so.", ""]
    for path in _notes():
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        number = int(path.name[:4])
        lines.append(f"{number}. [{title.removeprefix(f'{number}. ')}]({path.name})")
    return "\n".join([*lines, ""])


def _notes() -> list[Path]:
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def _notebook(path: Path) -> str:
    """A notebook's cells as they are stored: text, and code without outputs."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join([*parts, ""])
