"""The study file: YAML in, a checked and frozen StudyConfig out.

Everything that can be known without training is checked here, with file and line, before TensorFlow is imported. The
factors, everything that a study can vary, are in `factors`: one line each.

May import: errors, records, system, data, architectures.
"""
