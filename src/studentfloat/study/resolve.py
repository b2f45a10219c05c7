"""What a study's names stand for here and now: hashes of models, texts, sets and libraries."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

from studentfloat.errors import StudentFloatError
from studentfloat.models import ModelSource, Trust, find_model
from studentfloat.records import TextSource
from studentfloat.study.options import StudyOptions
from studentfloat.study.variants import variants

__all__ = ["Resolution", "ResolvedModel", "described", "resolve"]

_MODEL_PACKAGES = ("torch", "transformers")
_LAW_PACKAGES = ("numpy", "scipy")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that was found, or why it was not.

    Attributes
    ----------
    sha256, settings_sha256
        Of the weight files, and of configuration and tokenizer.
    bytes
        Of the weight files.
    """

    id: str
    sha256: str = ""
    settings_sha256: str = ""
    bytes: int = 0
    description: str = ""
    cautions: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Resolution:
    """All that addresses depend on and that a study file only names.

    Attributes
    ----------
    texts
        That quality is measured on, in the order of the options.
    task_sha256, task_problems
        By task: of the items that are asked; or why they cannot be.
    versions
        Of packages whose version numbers may matter.
    """

    KIND: ClassVar[str] = "study-resolution"
    VERSION: ClassVar[int] = 2

    models: tuple[ResolvedModel, ...] = ()
    texts: tuple[TextSource, ...] = ()
    calibration_sha256: str | None = None
    task_sha256: dict[str, str] = field(default_factory=dict)
    task_problems: dict[str, str] = field(default_factory=dict)
    library: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def model(self, id: str) -> ResolvedModel | None:
        """The model of that id, None where it was not looked for."""
        return next((model for model in self.models if model.id == id), None)

    def size(self, id: str) -> int:
        """Bytes of weights; of a model that is not here, more than any."""
        found = self.model(id)
        return found.bytes if found and found.bytes else 1 << 62

    def model_key(self, id: str) -> list[str]:
        """What identifies the model; its name where it was not found."""
        found = self.model(id)
        if found is None or found.problem is not None:
            return ["unresolved", id]
        return [found.sha256, found.settings_sha256]

    def text_key(self, index: int) -> str:
        """What identifies a text; its place where it was not read."""
        return self.texts[index].sha256 if index < len(self.texts) else f"unresolved {index}"

    def task_key(self, name: str) -> str:
        """What identifies a task's items; its name where they were not found."""
        return self.task_sha256.get(name, f"unresolved {name}")

    @property
    def model_versions(self) -> dict[str, str]:
        """Of the packages that models run on."""
        return {key: self.versions[key] for key in _MODEL_PACKAGES if key in self.versions}

    @property
    def law_versions(self) -> dict[str, str]:
        """Of the packages that fit laws."""
        return {key: self.versions[key] for key in _LAW_PACKAGES if key in self.versions}

    @property
    def hardware_versions(self) -> dict[str, str]:
        """Of what makes silicon: Yosys, and our own method."""
        return {key: self.versions[key] for key in ("yosys", "method") if key in self.versions}


def resolve(options: StudyOptions, before: Resolution | None = None) -> Resolution:
    """Find everything that a study names, and hash it.

    A model or set that cannot be found is no error here: its cells will fail, and say why.

    Parameters
    ----------
    before
        An earlier resolution: models found then are not sought, nor hashed, again.
    """
    from studentfloat.models.text import load_calibration_text, load_text
    from studentfloat.study.tasks import task_hashes

    known = {m.id: m for m in (before.models if before else ()) if m.problem is None}
    needs_models = bool(options.quality or options.tasks or options.laws)
    models = tuple(
        known.get(entry.id) or _model(entry.id, options.trust)
        for entry in (options.models if needs_models else ())
    )
    names = () if options.quality is None else options.quality.texts
    texts = [load_text(name) for name in names]
    hashes, problems = ({}, {}) if options.tasks is None else task_hashes(options)
    return Resolution(
        models=models,
        texts=tuple(TextSource(text.source, text.sha256) for text in texts),
        calibration_sha256=load_calibration_text(options.calibration.text).sha256
        if any(variant.needs_inputs for variant in variants(options))
        else None,
        task_sha256=hashes,
        task_problems=problems,
        library=_library(options),
        versions=_versions(options),
    )


def _model(id: str, trust: Trust) -> ResolvedModel:
    try:
        source = find_model(id, trust)
        return described(id, source)
    except StudentFloatError as error:
        return ResolvedModel(id, problem=str(error))


def described(id: str, source: ModelSource) -> ResolvedModel:
    """A model that was found, hashed."""
    return ResolvedModel(
        id,
        sha256=source.sha256,
        settings_sha256=source.settings_sha256,
        bytes=sum(file.stat().st_size for file in source.weight_files),
        description=source.description,
        cautions=source.cautions,
    )


def _library(options: StudyOptions) -> str | None:
    if options.hardware is None:
        return None
    from studentfloat.hardware import load_library
    from studentfloat.hardware.cache import library_digest
    from studentfloat.hardware.generic_library import generic_liberty

    return library_digest(load_library(options.hardware.liberty).files, generic_liberty())


def _versions(options: StudyOptions) -> dict[str, str]:
    found = {}
    for package in (*_MODEL_PACKAGES, *_LAW_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if options.hardware is not None:
        from studentfloat.hardware.rows import METHOD_VERSION

        found["method"] = str(METHOD_VERSION)
        try:
            found["yosys"] = version("pyosys")
        except PackageNotFoundError:
            found["yosys"] = "not installed"
    return found
