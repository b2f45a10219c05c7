"""The page of one or more profiles."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from studentfloat.records import Profile
from studentfloat.report.page import definitions, figure_html, page, table
from studentfloat.report.profile_figures import profile_figures
from studentfloat.report.profile_table import profile_notes, role_rows, summary_rows

__all__ = ["profile_page"]

_TEXT_COLUMNS = ("model", "of", "layer", "best law")


def profile_page(profiles: Sequence[Profile], not_run: Mapping[str, str]) -> str:
    """Tables, figures, notes and provenance in one self-contained page.

    Parameters
    ----------
    profiles
        One model's, or several: then the figures are of the first of them.
    not_run
        Models that could not be profiled, and why.
    """
    title = "Which law do the numbers follow?"
    before = [f"<h1>{title}</h1>"]
    before += [
        f'<p class="faint">{html.escape(p.model)}: {html.escape(p.source)}</p>' for p in profiles
    ]
    before.append(_table(*summary_rows(profiles)))
    if len(profiles) == 1:
        before += ["<h2>By kind of layer</h2>", _table(*role_rows(profiles[0]))]
    for line in profile_notes(profiles, not_run):
        caution = ' class="caution"' if line.startswith("Caution") else ""
        before.append(f"<p{caution}>{html.escape(line)}</p>")
    figures = [figure_html(f) for f in profile_figures(profiles[0])] if profiles else []
    after = [part for profile in profiles for part in _provenance(profile)]
    return page(f"studentfloat: {title}", [*before, *figures, *after])


def _table(headings: list[str], rows: list[list[str]]) -> str:
    return table(headings, rows, text_columns=_TEXT_COLUMNS)


def _provenance(profile: Profile) -> list[str]:
    entries = {
        "made": profile.created,
        "took": f"{profile.seconds:.1f} s",
        "settings": ", ".join(f"{k}={v}" for k, v in profile.settings.items()),
        "versions": ", ".join(f"{k} {v}" for k, v in profile.versions.items()),
        "machine": ", ".join(str(v) for v in profile.machine.values()),
        "not profiled": f"{len(profile.skipped)} vectors and tensors of other types",
    }
    return [f"<h2>Provenance: {html.escape(profile.model)}</h2>", definitions(entries)]
