"""Claims: who is computing which cell, so that no two do, until one of them dies.

A claim is a file, made by ``link``, which either makes it with its content or finds it there,
on network file systems too. Its holder touches it every few seconds. A claim is dead if its
holder was a process of this machine that is no more, or if it was not touched for long, whoever
holds it: a process may be frozen, a host without ``/proc`` tells nothing of its processes, and a
claim may have no content that can be read. Whoever finds it dead renames it away, and only one
can. Nothing depends on claims but that work is not done twice: of two who compute the same cell
after all, the first one's result stands.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from studentfloat.errors import FailureError
from studentfloat.untrusted import read_json, typed

__all__ = ["BEAT", "NOBODY", "PATIENCE", "Claim", "Claims", "Holder", "StoreError"]

BEAT = 10.0
"""Seconds between two touches of a claim."""
PATIENCE = 120.0
"""Seconds without a touch after which a claim is dead."""

_WATCH = 1.0
_LARGEST = 1 << 16


class StoreError(FailureError):
    """The store cannot be written: a worker can do nothing more."""


@dataclass(frozen=True)
class Holder:
    """A process that holds claims.

    Attributes
    ----------
    host
        Its machine's name.
    machine
        Identifies the machine's present run and the process's own view of process numbers.
    started
        When the process began, in the machine's ticks: numbers are used again.
    """

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Holder:
        """The process that asks."""
        return cls(platform.node(), _machine(), os.getpid(), _started(os.getpid()) or "")

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, and this machine tells of its processes."""
        return bool(self.machine) and self.machine == _machine()

    def is_dead(self) -> bool:
        """Whether it is known to be no more; of other machines nothing is known."""
        return self.is_here and _started(self.pid) != self.started


NOBODY = Holder("", "", 0, "")
"""Stands for the holder of a claim that has no content that can be read."""


class Claim:
    """A claim that this process holds."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def touch(self) -> None:
        """Say that its holder lives; by descriptor, so that no other's claim is ever touched."""
        try:
            os.utime(self._descriptor)
        except OSError:
            pass  # taken away: what is computed is written all the same

    def release(self) -> None:
        """Give it back, unless it was taken away."""
        try:
            if os.fstat(self._descriptor).st_ino == self.path.stat().st_ino:
                self.path.unlink()
        except OSError:
            pass
        finally:
            os.close(self._descriptor)


class Claims:
    """The claims of a store, as one process sees and holds them.

    Parameters
    ----------
    directory
        Where they are.
    patience, beat
        See :data:`PATIENCE` and :data:`BEAT`.
    orphaned
        Called once if the process that started this one ends before it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        patience: float = PATIENCE,
        beat: float = BEAT,
        orphaned: Callable[[], None] | None = None,
    ) -> None:
        self.directory = directory
        self._patience, self._beat = patience, beat
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._orphaned, self._parent = orphaned, os.getppid()
        self._thread: threading.Thread | None = None
        self._holder = Holder.this()

    def __enter__(self) -> Claims:
        self._thread = threading.Thread(target=self._beats, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for name in list(self._held):
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim something; False if it is claimed.

        Raises
        ------
        StoreError
            If nothing can be written.
        """
        path = self.directory / name
        temporary = self.directory / f".{name}.{secrets.token_hex(6)}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self._holder)), encoding="utf-8")
            won = _link(temporary, path)
            descriptor = os.open(path, os.O_RDWR) if won else -1
        except OSError as error:
            raise StoreError(f"cannot claim {path}: {error.strerror or error}") from error
        finally:
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                pass
        if won:
            with self._lock:
                self._held[name] = Claim(path, descriptor)
        return won

    def release(self, name: str) -> None:
        """Give a claim back."""
        with self._lock:
            claim = self._held.pop(name, None)
        if claim is not None:
            claim.release()

    def names(self) -> set[str]:
        """What is claimed, by anybody, dead or alive."""
        try:
            return {e.name for e in os.scandir(self.directory) if not e.name.startswith(".")}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise StoreError(f"cannot read {self.directory}: {error.strerror}") from error

    def holder(self, name: str) -> Holder | None:
        """Who holds a claim: None if there is none, :data:`NOBODY` if it does not say."""
        path = self.directory / name
        try:
            return typed(Holder, read_json(path, largest=_LARGEST), where=str(path))
        except FailureError:
            return NOBODY if path.exists() else None

    def age(self, name: str) -> float | None:
        """Seconds since a claim was touched, by the clock of the file system; None if gone."""
        try:
            touched = (self.directory / name).stat().st_mtime
            return self._now() - touched
        except OSError:
            return None

    def break_dead(self, name: str) -> Holder | None:
        """Take a claim away from a holder that is dead.

        Returns
        -------
        Holder or None
            Whose it was; None if it lives, is gone, or another took it away.
        """
        holder = self.holder(name)
        if holder is None or not (holder.is_dead() or self._is_silent(name)):
            return None
        return holder if self._rename_away(name, holder) else None

    def _is_silent(self, name: str) -> bool:
        """Whether a claim was not touched for long."""
        age = self.age(name)
        # One touched far in the future is of a clock that was set back since.
        return age is not None and abs(age) >= self._patience

    def _rename_away(self, name: str, dead: Holder) -> bool:
        """Rename to a unique name: of several who try, the file system lets one succeed."""
        path, away = self.directory / name, self.directory / f".dead.{name}.{secrets.token_hex(6)}"
        try:
            path.rename(away)
        except OSError:
            return False
        found = self.holder(away.name)
        if found != dead:
            # Between the look and the rename it was broken and claimed anew: give it back.
            try:
                _link(away, path)
            except OSError:
                pass
        try:
            away.unlink()
        except OSError:
            pass
        return found == dead

    def _now(self) -> float:
        """The time as the file system has it, which may differ from this machine's."""
        probe = self.directory / f".clock.{secrets.token_hex(6)}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beats(self) -> None:
        touched = time.monotonic()
        while not self._stop.wait(min(_WATCH, self._beat)):
            if self._orphaned is not None and os.getppid() != self._parent:
                orphaned, self._orphaned = self._orphaned, None
                orphaned()
            if time.monotonic() - touched >= self._beat:
                touched = time.monotonic()
                with self._lock:
                    held = list(self._held.values())
                    for claim in held:
                        claim.touch()


def _link(source: Path, target: Path) -> bool:
    """Make `target` as `source` is, or find it there."""
    try:
        os.link(source, target)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            raise
    # A file system without links: exclusive creation is as good on all but old NFS.
    text = source.read_text(encoding="utf-8")
    try:
        stream = target.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with stream:
            stream.write(text)
    except OSError:
        target.unlink(missing_ok=True)  # on a full disk an empty claim would be left
        raise
    return True


def _machine() -> str:
    """The machine's run and the process namespace, where Linux tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began, in ticks since boot; None if it is no more, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *rest = fields.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]
