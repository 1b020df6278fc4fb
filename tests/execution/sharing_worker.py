"""A worker to which every beginning of a trial is worth its time."""

from __future__ import annotations

from cnnstudy.execution import worker
from cnnstudy.training import shared_epochs

if __name__ == "__main__":
    shared_epochs.WRITE_SHARE = 1e9
    worker.main()
