"""The machine: files, cache, processes, screen.

Comes in: paths, process ids, bytes, texts. Goes out: cache entries that are complete or absent, scratch folders that
belong to a process, progress on the screen, and the identity of the running code. Nothing here depends on
networks or studies, except that `code_version` names the units of code that train.

May import: errors, names, records.
"""
