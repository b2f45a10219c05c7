"""What to profile, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from studentfloat.errors import ConfigError

__all__ = ["ActivationSettings", "ProfileSettings"]


@dataclass(frozen=True)
class ActivationSettings:
    """Which activations to profile, and on what.

    Attributes
    ----------
    text
        A UTF-8 file, or None for the text that every CPython carries.
    images
        For a vision model: a ``.npy`` file of shape ``(n, channels, height, width)`` as the
        model takes them, or None for noise of the standard normal law.
    windows, window_length
        How many, and tokens in each; a text too short for them gives what it has. Of
        images as many as windows.
    capture
        Of :data:`~studentfloat.models.capture.CAPTURE_KINDS`.
    keep_sketches
        Whether the profile holds the sketches too, to be merged with that of another text.
        Shards always do.
    """

    text: str | None = None
    images: str | None = None
    windows: int = 8
    window_length: int = 512
    capture: tuple[str, ...] = ("linear",)
    keep_sketches: bool = False

    def __post_init__(self) -> None:
        if self.windows < 1 or self.window_length < 2:
            raise ConfigError(
                f"{self.windows} windows of {self.window_length} tokens: at least 1 of 2 tokens"
            )
        from studentfloat.models.capture import CAPTURE_KINDS  # with torch, needed from here on

        for kind in self.capture:
            if kind not in CAPTURE_KINDS:
                raise ConfigError(f"cannot capture {kind!r}: known are {', '.join(CAPTURE_KINDS)}")


@dataclass(frozen=True)
class ProfileSettings:
    """What to profile.

    Attributes
    ----------
    free_location
        Whether to fit the center too; else it is 0.
    block_size
        Also fit the numbers over the largest magnitude of their block of this size.
    channels
        Also fit the numbers over the root mean square of their row.
    shard
        ``(i, n)``: only every n-th weight, and every n-th window of the activations' text,
        from the i-th (1 to n), for n machines.
    activations
        None for weights only.
    """

    free_location: bool = False
    block_size: int | None = None
    channels: bool = False
    shard: tuple[int, int] = (1, 1)
    activations: ActivationSettings | None = None

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 2:
            raise ConfigError(f"a block size of {self.block_size}: at least 2")
        index, of = self.shard
        if not 1 <= index <= of:
            raise ConfigError(f"shard {index}/{of}: the first number is between 1 and the second")
