"""Claims: one holder at a time, until it is dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from studentfloat.study.sweep import claims as module
from studentfloat.study.sweep.claims import NOBODY, Claims, Holder, StoreError

TAKE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from studentfloat.study.sweep.claims import Claims
assert Claims(Path(sys.argv[1])).take("cell")
os.kill(os.getpid(), signal.SIGKILL)
"""


def elsewhere(directory: Path, name: str = "cell", *, age: float = 0.0) -> Path:
    """A claim by a process of another machine, touched a while ago."""
    path = directory / name
    directory.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(Holder("far", "another run", 1, "1"))))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_one_of_many_wins(tmp_path) -> None:
    for round_ in range(20):
        barrier, won = threading.Barrier(8), []

        def take(number: int, barrier=barrier, won=won, name=f"cell{round_}") -> None:
            claims = Claims(tmp_path)
            barrier.wait()
            if claims.take(name):
                won.append(number)

        threads = [threading.Thread(target=take, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_claim_is_given_back_and_taken_again(tmp_path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("cell")
    assert not second.take("cell")
    assert second.break_dead("cell") is None  # it lives
    assert first.holder("cell") == Holder.this()
    first.release("cell")
    assert second.names() == set()
    assert second.take("cell")
    first.release("cell")  # which it does not hold any more
    assert second.names() == {"cell"}


def test_a_process_that_was_killed_is_dead_at_once(tmp_path) -> None:
    killed = subprocess.run([sys.executable, "-c", TAKE_AND_DIE, str(tmp_path)], check=False)
    assert killed.returncode == -9
    claims = Claims(tmp_path, patience=1e9)
    dead = claims.break_dead("cell")
    assert dead is not None
    assert dead.is_dead()
    assert claims.take("cell")


def test_a_number_that_is_used_again_is_another_process() -> None:
    this = Holder.this()
    assert not this.is_dead()
    assert replace(this, started="1").is_dead()
    assert not replace(this, machine="another", started="1").is_dead()  # unknown


def test_of_other_machines_only_silence_tells(tmp_path) -> None:
    claims = Claims(tmp_path, patience=100)
    elsewhere(tmp_path, age=50)
    assert claims.break_dead("cell") is None
    elsewhere(tmp_path, age=150)
    assert claims.break_dead("cell") == Holder("far", "another run", 1, "1")
    assert claims.names() == set()
    assert not list(tmp_path.glob(".*"))


def test_one_of_many_breaks(tmp_path) -> None:
    for _ in range(20):
        elsewhere(tmp_path, age=1000)
        barrier, broke = threading.Barrier(8), []

        def go(barrier=barrier, broke=broke) -> None:
            claims = Claims(tmp_path, patience=100)
            barrier.wait()
            if claims.break_dead("cell") is not None:
                broke.append(claims.take("cell"))

        threads = [threading.Thread(target=go) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert broke == [True]
        assert Claims(tmp_path).holder("cell") == Holder.this()
        (tmp_path / "cell").unlink()


def test_a_claim_made_anew_meanwhile_is_given_back(tmp_path, monkeypatch) -> None:
    """Between the look and the rename another broke it, and took the cell."""
    elsewhere(tmp_path, age=1000)
    mine, other = Claims(tmp_path, patience=100), Claims(tmp_path, patience=100)
    rename_away = Claims._rename_away

    def late(self, name, dead):
        monkeypatch.setattr(Claims, "_rename_away", rename_away)
        assert other.break_dead(name) is not None
        assert other.take(name)
        return rename_away(self, name, dead)

    monkeypatch.setattr(Claims, "_rename_away", late)
    assert mine.break_dead("cell") is None
    assert mine.holder("cell") == Holder.this()
    assert not mine.take("cell")
    other.release("cell")
    assert mine.names() == set()


def test_holders_touch_their_claims(tmp_path) -> None:
    with Claims(tmp_path, beat=0.05) as claims:
        assert claims.take("cell")
        os.utime(tmp_path / "cell", (0, 0))
        deadline = time.monotonic() + 20
        while claims.age("cell") > 1000:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert claims.names() == set()  # left with all claims given back


def test_a_claim_taken_away_is_touched_no_more(tmp_path) -> None:
    with Claims(tmp_path, beat=0.05) as claims:
        assert claims.take("cell")
        (tmp_path / "cell").unlink()
        theirs = elsewhere(tmp_path, age=1000)
        time.sleep(0.3)
        assert time.time() - theirs.stat().st_mtime > 900
    assert theirs.exists()


def test_without_links(tmp_path, monkeypatch) -> None:
    def refuse(source, target) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", refuse)
    assert Claims(tmp_path).take("cell")
    assert not Claims(tmp_path).take("cell")
    assert Claims(tmp_path).holder("cell") == Holder.this()


def test_where_nothing_can_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot claim"):
        Claims(tmp_path / "file").take("cell")


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"host": 1}'])
def test_a_claim_without_readable_content_is_judged_by_its_age(tmp_path, content: bytes) -> None:
    claims = Claims(tmp_path, patience=100)
    path = tmp_path / "cell"
    path.write_bytes(content)
    assert claims.holder("cell") == NOBODY
    assert claims.break_dead("cell") is None
    assert not claims.take("cell")
    os.utime(path, (time.time() - 150,) * 2)
    assert claims.break_dead("cell") == NOBODY
    assert claims.take("cell")


def test_a_frozen_process_of_this_machine_loses_its_claim(tmp_path) -> None:
    frozen, other = Claims(tmp_path), Claims(tmp_path, patience=100)
    assert frozen.take("cell")
    os.utime(tmp_path / "cell", (time.time() - 50,) * 2)
    assert other.break_dead("cell") is None
    os.utime(tmp_path / "cell", (time.time() - 150,) * 2)
    holder = other.break_dead("cell")
    assert holder == Holder.this()
    assert holder.is_here
    assert not holder.is_dead()
    assert other.take("cell")
    frozen.release("cell")  # it comes back: the claim is another's now
    assert other.names() == {"cell"}


def test_on_a_host_that_tells_nothing_of_its_processes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_machine", lambda: "")
    monkeypatch.setattr(module, "_started", lambda pid: None)
    mine, other = Claims(tmp_path), Claims(tmp_path, patience=100)
    assert mine.take("cell")
    assert not Holder.this().is_dead()
    assert other.break_dead("cell") is None
    os.utime(tmp_path / "cell", (time.time() - 150,) * 2)
    assert other.break_dead("cell") == Holder.this()
    assert other.take("cell")


def test_a_claim_of_a_clock_that_was_set_back_is_dead(tmp_path) -> None:
    elsewhere(tmp_path, age=-50)
    assert Claims(tmp_path, patience=100).break_dead("cell") is None
    elsewhere(tmp_path, age=-1000)
    assert Claims(tmp_path, patience=100).break_dead("cell") is not None


def test_a_full_disk_leaves_no_empty_claim(tmp_path, monkeypatch) -> None:
    """Where there are no links, the claim is made before it has content."""

    def refuse(source, target) -> None:
        raise PermissionError(1, "Operation not permitted")

    def full(self, mode="r", **options):
        stream = real_open(self, mode, **options)
        if mode == "x":
            stream.write = broken
        return stream

    def broken(text: str) -> int:
        raise OSError(28, "No space left on device")

    real_open = Path.open
    monkeypatch.setattr(module.os, "link", refuse)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreError, match="No space left"):
        Claims(tmp_path).take("cell")
    assert not list(tmp_path.iterdir())
