"""Signals that end a run, from a terminal or a batch system: it finishes what it can go on from, instead of losing it."""

import os
import signal
import sys
import time

# Ctrl-C, a terminal that closes, and what batch systems send, some of them minutes before they kill
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SAME = 1.0  # seconds within which a launcher passes on a signal that the rank has had from the terminal already


class Stop:
    """Notes the first of the signals in `requested`, for the loop to end after its update; a second ends at once."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: none came
        self._came = 0.0

    @property
    def requested(self) -> bool:
        return self.number > 0

    def listen(self) -> None:
        """From now on, note the signals, but SIGHUP where `nohup` has it ignored."""
        for number in ENDING:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        ranks = "LOCAL_RANK" in os.environ
        if not self.number:
            self.number, self._came = number, time.monotonic()
            if os.environ.get("LOCAL_RANK", "0") == "0":
                # print is no function to call where a signal may have cut into it
                os.write(2, b"stopping after this update; a second signal stops at once\n")
        elif not ranks or time.monotonic() - self._came > SAME:
            os._exit(128 + number)

    def leave(self, update: int, saved: str | None) -> None:
        """End the process with the shell's code for the signal, and say how to go on (`saved`: the checkpoint)."""
        if os.environ.get("RANK", "0") == "0":
            how = f"saved in {saved}: the same command with --resume goes on" if saved else "nothing was saved"
            print(f"stopped before update {update}, {how}", flush=True)
        sys.stdout.flush()
        sys.exit(128 + (self.number or signal.SIGTERM))  # another rank had the signal


def for_launcher() -> None:
    """Have what the launchers of processes do not know end this process, and so its ranks, as SIGTERM does."""
    signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
