"""The fast worker with longer pauses, so that kills meet trials under way."""

from __future__ import annotations

import fast_worker

if __name__ == "__main__":
    fast_worker.STEP = 0.4
    fast_worker.main()
