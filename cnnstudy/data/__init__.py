"""Images: from a data set's files to the arrays that a trial trains on.

Comes in: the `data` key of a study file (DataOptions) and what lies on disk. Goes out: PreparedImages (a cache entry
of decoded images with labels and keys), and from it train, validation and probe images, cut into batches. The test
split is opened by `training.test_split` alone.

To add a data set, add a file to `datasets/`; it is found by its name.

May import: errors, names, records, system.
"""
