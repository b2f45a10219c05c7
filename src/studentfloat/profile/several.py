"""Profiles of several models: what ``studentfloat profile`` does with its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studentfloat.errors import ConfigError, FailureError, StudentFloatError
from studentfloat.models.sources import Trust
from studentfloat.profile.files import SEVERAL, profile_to_json, read_profile
from studentfloat.profile.merge import merge_profiles
from studentfloat.profile.model import profile_model
from studentfloat.profile.settings import ActivationSettings, ProfileSettings
from studentfloat.progress import Progress
from studentfloat.records import Profile
from studentfloat.untrusted import read_toml

__all__ = ["ProfileResult", "models_in", "profile_models", "result_to_json", "settings_of"]

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class ProfileResult:
    """What was profiled, and what was not: model name to the reason."""

    profiles: tuple[Profile, ...]
    not_run: dict[str, str]


def settings_of(options: dict[str, Any]) -> ProfileSettings:
    """Settings from the options of the command line.

    Raises
    ------
    ConfigError
        Naming the option that makes no sense.
    """
    index, slash, of = options["shard"].partition("/")
    if not (slash and index.isdigit() and of.isdigit()):
        raise ConfigError(f"--shard {options['shard']}: two numbers such as 2/8")
    activations = None
    if options["activations"]:
        activations = ActivationSettings(
            text=str(options["text"]) if options["text"] else None,
            images=str(options["images"]) if options["images"] else None,
            windows=options["windows"],
            window_length=options["window_length"],
            capture=tuple(name.strip() for name in options["capture"].split(",") if name.strip()),
            keep_sketches=options["keep_sketches"],
        )
    elif options["capture"] != "linear" or any(
        options[name] for name in ("text", "images", "keep_sketches")
    ):
        raise ConfigError(
            "--text, --images, --capture and --keep-sketches go with --activations: add it"
        )
    return ProfileSettings(
        free_location=options["location"] == "free",
        block_size=options["blocks"],
        channels=options["channels"],
        shard=(int(index), int(of)),
        activations=activations,
    )


def models_in(path: Path) -> tuple[list[str], dict[str, str]]:
    """Models of a study file: ``[[network]]`` tables with a key ``id``, or ``not_run``.

    Returns
    -------
    names
        The ids, to be run.
    not_run
        Name to the reason, of the networks that the file only speaks of.

    Raises
    ------
    ConfigError
        If the file is not one.
    """
    data = read_toml(path, error=ConfigError, unreadable=FailureError)
    networks = data.get("network")
    sound = isinstance(networks, list) and all(map(_is_network, networks))
    if not networks or not sound:
        raise ConfigError(
            f"{path} lists no models: it needs [[network]] tables with an id each, or with a "
            "name and the reason why it is not_run"
        )
    return (
        [network["id"] for network in networks if "id" in network],
        {network["name"]: network["not_run"] for network in networks if "id" not in network},
    )


def _is_network(network: Any) -> bool:
    if not isinstance(network, dict):
        return False
    wanted = ("id",) if "id" in network else ("name", "not_run")
    return all(isinstance(network.get(key), str) for key in wanted)


def profile_models(
    models: tuple[str, ...],
    settings: ProfileSettings,
    *,
    listed: Path | None,
    merge: bool,
    output: Path | None,
    trust: Trust,
    progress: Progress,
) -> ProfileResult:
    """Profile each model; of several, one that cannot be profiled is told and passed over."""
    if merge:
        if len(models) < 2:
            raise ConfigError("--merge needs the profile.json files of two or more parts")
        return ProfileResult((merge_profiles([read_profile(name) for name in models]),), {})
    on_list, not_run = models_in(listed) if listed else ([], {})
    names = [*models, *on_list] or ([] if listed else [DEFAULT_MODEL])
    journal = output.with_name(f".{output.name}.partial") if output else None
    profiles: list[Profile] = []
    for index, name in enumerate(names):

        def report(share: float, what: str, index: int = index, name: str = name) -> None:
            progress((index + share) / len(names), f"{name}: {what}" if len(names) > 1 else what)

        try:
            profiles.append(
                profile_model(
                    name,
                    settings,
                    trust=trust,
                    journal=journal.with_suffix(f".{index}") if journal else None,
                    progress=report,
                )
            )
        except ConfigError:
            raise
        except StudentFloatError as error:
            if len(names) == 1 and not not_run:
                raise
            not_run[name] = str(error)
    progress(1.0, "done")
    return ProfileResult(tuple(profiles), not_run)


def result_to_json(result: ProfileResult) -> dict[str, Any]:
    """One model's profile as the contract has it; several under ``models``."""
    if len(result.profiles) == 1 and not result.not_run:
        return profile_to_json(result.profiles[0])
    return {
        "schema": SEVERAL,
        "models": [profile_to_json(profile) for profile in result.profiles],
        "not_run": [{"model": name, "reason": why} for name, why in result.not_run.items()],
    }
