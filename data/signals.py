"""SIGTERM and Ctrl-C: a run finishes what it can go on from, instead of losing it."""

import os
import signal
import sys
import time

SAME = 1.0  # seconds within which a launcher passes on a signal that the rank has had from the terminal already


class Stop:
    """Notes the first SIGTERM or Ctrl-C in `requested`, for the loop to end after its update; a second ends at once."""

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: none came
        self._came = 0.0

    @property
    def requested(self) -> bool:
        return self.number > 0

    def listen(self) -> None:
        """From now on, note the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
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
