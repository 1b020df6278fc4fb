"""A worker's sign of life: given only while its main thread gets on.

A thread that lives proves nothing of the one that works. So it looks at the processor time that the main thread has
used: one that waits for ever uses none. One that is caught in a loop does; that its epoch never ends tells of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds between two looks.
INTERVAL = 10.0


class Heartbeat:
    """Watches one thread of this process.

    Args:
        tell: called after each interval in which the thread got on.
    """

    def __init__(self, thread: int, tell: Callable[[], None]) -> None:
        self._thread = thread
        self._tell = tell
        self._used = self._processor_time()

    def start(self) -> None:
        """Look again and again, for as long as the process lives."""

        def watch() -> None:
            while True:
                time.sleep(INTERVAL)
                if self.has_got_on():
                    self._tell()

        threading.Thread(target=watch, daemon=True).start()

    def has_got_on(self) -> bool:
        """Whether the thread has done anything since the last look."""
        before, self._used = self._used, self._processor_time()
        return self._used > before

    def _processor_time(self) -> float:
        if hasattr(time, "pthread_getcpuclockid"):
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread))
        return time.process_time() - time.thread_time()  # all but the thread that looks
