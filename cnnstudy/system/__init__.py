"""The machine: files, cache, processes, screen.

Comes in: paths, process ids, bytes, texts. Goes out: cache entries that are complete or absent, scratch folders that
belong to a process, progress on the screen, and the identity of the running code. Nothing here depends on
networks or studies, except that `code_version` names the units of code that train.

cache         folders of computed results, each complete or absent
code_version  the version of the code that trains, to detect changes
display       progress on the screen; durations and sizes in words
download      downloads with a checked hash
files         hard links, large files, memory maps, CSV cells
imports       imports of large libraries: faster, and of the right ones
output        everything that is printed: without control characters, and until its reader has gone
processes     which processes are alive, cores and GPUs, interrupts
scratch       temporary folders that belong to a process
validation    the base class of everything read from a study file

May import: errors, names, records.
"""
