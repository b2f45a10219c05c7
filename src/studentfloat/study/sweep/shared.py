"""Originals' outputs, computed by whoever comes first and read by all other workers."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from studentfloat.study.sweep.claims import Claims
from studentfloat.study.sweep.store import Store, StoreError

if TYPE_CHECKING:
    from studentfloat.evaluate import OriginalOutputs

__all__ = ["SharedOutputs"]

_LARGEST = 16 << 30
"""Bytes beyond which each worker computes its own."""
_WAIT = 0.5


class SharedOutputs:
    """Outputs of a store's models on texts, each a directory of the store.

    Parameters
    ----------
    store, claims
        Where they are, and the worker's claims on them.
    """

    def __init__(self, store: Store, claims: Claims) -> None:
        self._store, self._claims = store, claims

    def __call__(self, key: str, compute: Callable[[], OriginalOutputs]) -> OriginalOutputs:
        """The outputs under a key: computed here, or waited for and read.

        Raises
        ------
        StoreError
            If they cannot be written.
        """
        from studentfloat.evaluate import OriginalOutputs

        target = self._store.shared / key
        name = f"shared-{key}"
        while not target.is_dir():
            if self._claims.take(name):
                try:
                    if not target.is_dir():
                        return self._share(target, compute())
                finally:
                    self._claims.release(name)
            elif self._claims.break_dead(name) is None:
                time.sleep(_WAIT)
        return OriginalOutputs.load(target)

    def _share(self, target: Path, original: OriginalOutputs) -> OriginalOutputs:
        from studentfloat.evaluate import OriginalOutputs

        if original.nbytes > _LARGEST:
            return original
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
            original.save(temporary)
            temporary.rename(target)
        except OSError as error:
            # Who was frozen until the claim was taken away comes late: the first stand.
            if not target.is_dir():
                raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return OriginalOutputs.load(target)
