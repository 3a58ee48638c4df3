"""Signals as requests: of a launcher and of a training, in the main thread and in others."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from flagai.parallel import signals, world
from flagai.parallel.requests import Requests
from flagai.train.interrupt import Interrupt

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("made", [Requests, Interrupt])
def test_handlers_are_put_back(made: Any) -> None:
    before, entered = handlers(), made()
    for _ in range(2):
        with pytest.raises(ValueError, match="own"), entered:
            assert not set(handlers()) & set(before)
            raise ValueError("own")
        assert handlers() == before


def test_another_thread_leaves_signals_as_they_are() -> None:
    found: list[Any] = []

    def work() -> None:
        with signals.signals(print):
            found.append(handlers())

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found == [before] and handlers() == before


def test_signals_of_one_moment_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with Requests() as requests:
        assert (requests.asked, requests.insisted) == (False, False)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert (requests.asked, requests.insisted) == (True, False)
        monkeypatch.setattr(signals, "ONE_REQUEST", -1.0)
        signal.raise_signal(signal.SIGINT)
        assert requests.insisted


def test_a_second_signal_stops_a_training_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process has no launcher that sends what the terminal has sent already; of several, each may have."""
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested and interrupt.agreed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(world, "size", lambda: 2)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(signals, "ONE_REQUEST", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_another_process_was_asked_counts_from_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "size", lambda: 2)
    monkeypatch.setattr(world, "any_of", lambda flag: True)
    with Interrupt() as interrupt:
        assert interrupt.agreed()
        signal.raise_signal(signal.SIGINT)  # the same request, passed on
        assert interrupt.requested
