"""Stop a run on a signal from a terminal or a batch system, after it has saved what it needs to resume."""

import os
import signal
import stat
import sys
import time
from contextlib import suppress

from data.common.errors import to_nowhere

# from Ctrl-C, a closing terminal and batch systems, some of which send them minutes before they kill
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SAME = 1.0  # seconds within which a launcher forwards a signal that its ranks already had from the terminal


class Stop:
    """`requested` is true after the first signal, so that the loop ends after its update; a second one ends the process."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0: none yet
        self._came, self._when = 0.0, ""

    @property
    def requested(self) -> bool:
        return self.number > 0

    def listen(self, when: str = " after this update") -> "Stop":
        """Handle the signals from now on, except SIGHUP where `nohup` ignores it, and return itself; print `when` it will stop.

        From now on, too, what is printed and can no longer be written is lost and ends nothing: the run folder has it.
        """
        self._when = when
        if not isinstance(sys.stdout, Lasting):
            sys.stdout = Lasting(sys.stdout)
        for number in ENDING:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        ranks = "LOCAL_RANK" in os.environ
        if not self.number:
            self.number, self._came = number, time.monotonic()
            if number == signal.SIGHUP:  # the terminal is gone, and writing to it an error
                for file in (1, 2):
                    if stat.S_ISCHR(os.fstat(file).st_mode):
                        to_nowhere(file)
            if os.environ.get("LOCAL_RANK", "0") == "0":
                # not print: the signal may have interrupted another print
                with suppress(OSError):
                    os.write(2, f"stopping{self._when}; a second signal stops at once\n".encode())
        elif not ranks or time.monotonic() - self._came > SAME:
            os._exit(128 + number)

    def leave(self, update: int, saved: str | None) -> None:
        """Print how to go on (`saved`: the checkpoint), and exit with the shell's code for the signal."""
        if os.environ.get("RANK", "0") == "0":
            how = f"saved in {saved}: the same command with --resume goes on" if saved else "nothing was saved"
            print(f"stopped before update {update}, {how}", flush=True)
        sys.stdout.flush()
        sys.exit(128 + (self.number or signal.SIGTERM))  # SIGTERM where only another rank had the signal


class Lasting:
    """A text stream, of which what cannot be written is lost: its reader may have ended, or its disk be full."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            to_nowhere(self._stream.fileno())
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            to_nowhere(self._stream.fileno())


def for_launcher() -> None:
    """Treat SIGUSR1, which launchers of processes do not handle, as SIGTERM, which they pass on to their ranks."""
    signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
