"""The machine: files, cache, processes, screen.

Comes in: paths, process ids, bytes, texts. Goes out: cache entries that are complete or absent, folders that go with
their process, progress on the screen, and the identity of the code that runs. Nothing here knows a network or a study.

May import: errors, names, records.
"""
