"""Pages of the documentation that are made, not written: `mkdocs.yml` names this file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Where files outside of docs/ stand in the site.
HOMES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "constraints.txt": "constraints.txt",
    "studies/paper.toml": "studies/paper.toml",
    "studies/quick.toml": "studies/quick.toml",
    "studies/sensitivity.toml": "studies/sensitivity.toml",
}
PACKAGES = (
    *("studentfloat.formats", "studentfloat.statistics", "studentfloat.quantize"),
    *("studentfloat.kernels", "studentfloat.models", "studentfloat.models.exchange"),
    *("studentfloat.evaluate", "studentfloat.hardware", "studentfloat.study"),
    *("studentfloat.report", "studentfloat.records", "studentfloat.errors"),
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
    made = {home: (ROOT / name).read_text(encoding="utf-8") for name, home in HOMES.items()}
    made = {home: _moved(text) if home.endswith(".md") else text for home, text in made.items()}
    made["decisions/index.md"] = _decisions()
    made["reference/cli.md"] = COMMAND_LINE
    made |= {f"reference/{name}.md": f"# {name}\n\n::: {name}\n" for name in PACKAGES}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"] = _notebook(path)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from docs/ to the repository's own pages lead to where those are in the site."""
    up = "../" * page.file.src_uri.count("/")
    for name, home in HOMES.items():
        markdown = markdown.replace(f"]({up}../{name})", f"]({up}{home})")
    return re.sub(rf"\]\({re.escape(up)}\.\./notebooks/([\w-]+)\.ipynb\)",
                  rf"]({up}notebooks/\1.md)", markdown)  # fmt: skip


def on_page_content(html: str, **_: Any) -> str:
    """Options without a default have none, whatever click calls that."""
    return html.replace("<code>Sentinel.UNSET</code>", "")


def on_post_build(config: MkDocsConfig) -> None:
    """A page that would fetch something from another site is a failure."""
    for path in Path(config.site_dir).rglob("*.html"):
        if found := _FETCHED.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path} is not self-contained: {found[0]}")


def _moved(text: str) -> str:
    """The links of a page at the root, as the site has them."""
    text = text.replace("](docs/decisions)", "](decisions/index.md)").replace("](docs/", "](")
    text = re.sub(r"\]\(notebooks/([\w-]+)\.ipynb\)", r"](notebooks/\1.md)", text)
    for name, home in HOMES.items():
        text = text.replace(f"]({name})", f"]({home})")
    return text


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
