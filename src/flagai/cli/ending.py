"""How a call of `flagai` ends: exit code 0, 1 or 2, our errors as messages, Ctrl-C as one line. Knows no verb."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from flagai.errors import ConfigError, FlagaiError, OtherRankError
from flagai.parallel import surroundings, worker

_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


class Stopped(Exception):
    """A verb was interrupted; the text says what can be done now, "" for nothing."""


class Failed(Exception):
    """What a verb started has failed; the text is what to show, as it is."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def main() -> None:
    """Run the command line; our errors are messages, not tracebacks."""
    worker.begin()
    with _CtrlC() as ctrl_c:
        try:
            # Here and not above: loading the command line takes time, in which Ctrl-C is as usual as later.
            from flagai.cli.app import app

            app()
        except BaseException as error:
            if worker.folder() is not None and not (isinstance(error, SystemExit) and not error.code):
                _leave_word(error, ctrl_c.pressed)
            told = _told(error, ctrl_c.pressed)
            if told is None:
                raise
            message, code = told
            sys.stderr.write(f"flagai: {message}\n")
            sys.exit(code)


def _told(error: BaseException, pressed: bool) -> tuple[str, int] | None:
    """Message and exit code of what ended a call; None for what speaks for itself."""
    ended = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, SystemExit) and not ended:
        return None
    if isinstance(error, Stopped):
        return f"interrupted\n  {error}".rstrip(), 1
    # Libraries turn an interrupt into what they like, an import error for instance.
    if pressed or isinstance(error, KeyboardInterrupt) or ended == _INTERRUPTED:
        return "interrupted", 1
    if isinstance(error, Failed):
        return str(error), error.code
    if (place := surroundings.find()) is not None and (isinstance(error, OtherRankError) or worker.is_broken(error)):
        return f"rank {place.rank}: {worker.plain(error, _places(error))}", 1
    if isinstance(error, FlagaiError):
        return str(error), 2 if isinstance(error, ConfigError) else 1
    if isinstance(error, OSError):
        # What the operating system refuses (rights, a full disk behind `>`) is no defect of the program either.
        return f"{error.filename or 'output'}: {error.strerror or error}", 1
    return None


def _leave_word(error: BaseException, pressed: bool) -> NoReturn:
    """In a process of several: leaves its end to the launcher, which shows the first error of all.

    It ends at once, without the farewells of libraries whose connections are broken.
    """
    if isinstance(error, Stopped) or pressed or isinstance(error, KeyboardInterrupt):
        worker.stopped(str(error) if isinstance(error, Stopped) else "")
    elif not isinstance(error, SystemExit):
        worker.report(error, places=_places(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if isinstance(error, Stopped | KeyboardInterrupt) or pressed else 1)


def _places(error: BaseException) -> str:
    """Where the processes were last seen, for an error of the connection between them."""
    if not worker.is_broken(error):
        return ""
    from flagai.parallel import world

    return world.last_seen()


class _CtrlC:
    """While entered, `pressed` remembers a SIGINT, whatever becomes of its KeyboardInterrupt.

    A SIGINT that is ignored (a job in the background) or handled by somebody else stays so.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._mine = False
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        in_main = threading.current_thread() is threading.main_thread()
        self._mine = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._mine:
            signal.signal(signal.SIGINT, self._handle)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            sys.unraisablehook = self._hook
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        raise KeyboardInterrupt

    def _unraisable(self, unraisable: Any) -> None:
        """An interrupt that fell into a destructor, where Python can only print it, is raised again a moment later."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(0.05, _press_again).start()
        else:
            self._hook(unraisable)


def _press_again() -> None:
    """SIGINT to the main thread, waking it from what it waits for where the system can do that."""
    main_thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main_thread is not None:
        signal.pthread_kill(main_thread, signal.SIGINT)
    else:
        _thread.interrupt_main()
