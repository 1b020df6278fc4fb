"""The study file.

Comes in: a YAML file, and `--set` on top of it. Goes out: a checked and frozen StudyConfig, or a ConfigError that names
file and line.

Everything that can be known without training is checked here, with file and line, before TensorFlow is imported. The
factors, everything that a study can vary, are in `factors`: one line each.

May import: errors, records, system, data, architectures.
"""
