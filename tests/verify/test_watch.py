"""Moments are drawn from the time of a run, and what an earlier life left is not taken for this one's."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from flagai.verify.watch import Course, Moment, Watch, finished, last_step

COURSE = Course(seconds=10.0, steps=[(1.0, 1), (2.0, 2), (8.0, 3)], saves=[(2, 0.5), (3, 0.1)])


def test_moments_come_in_their_order_and_from_the_seed() -> None:
    drawn = COURSE.moments(200, random.Random(3), "anywhere")
    assert (
        drawn == COURSE.moments(200, random.Random(3), "anywhere") != COURSE.moments(200, random.Random(4), "anywhere")
    )
    assert [m.step for m in drawn] == sorted(m.step for m in drawn)
    share = [sum(m.step == step for m in drawn) / 200 for step in range(4)]
    assert all(abs(found - wanted) < 0.1 for found, wanted in zip(share, (0.1, 0.1, 0.6, 0.2), strict=True))
    assert max(m.delay for m in drawn if m.step == 2) > 5, "also late in the long evaluation after step 2"


def test_moments_of_saves() -> None:
    drawn = COURSE.moments(50, random.Random(3), "saves")
    assert all(m.saving and m.delay <= (0.5 if m.step == 2 else 0.1) for m in drawn) and {m.step for m in drawn} == {
        2,
        3,
    }
    assert Course().moments(5, random.Random(0), "saves") == []


def test_the_last_line_may_be_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert last_step(log) == 0
    log.write_text('{"kind": "train", "step": 7}\n{"kind": "tra')
    assert last_step(log) == 7


def later(path: Path, text: str) -> None:
    """Write a file with a time that is sure to be another one."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_what_an_earlier_life_left_is_no_news(tmp_path: Path) -> None:
    log, status = tmp_path / "log.jsonl", tmp_path / "status.json"
    later(log, '{"step": 9}\n')
    later(status, json.dumps({"status": "finished"}))
    watch = Watch(tmp_path)
    assert finished(tmp_path) and not watch.over() and not watch.begun() and watch.step() == 0
    later(status, json.dumps({"status": "running"}))
    later(log, '{"step": 5}\n')
    assert watch.begun() and watch.step() == 5 and not watch.over()
    later(status, json.dumps({"status": "finished"}))
    assert watch.over() and not watch.wait_for(Moment(step=5, delay=0.0), lambda: True)


def test_what_is_being_written_has_the_name_it_will_have(tmp_path: Path) -> None:
    for name in (".writing-best", "checkpoints/.writing-step-5", "checkpoints/step-4"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".writing-log.jsonl").touch()
    assert Watch(tmp_path).saving() == ["best", "step-5"]
