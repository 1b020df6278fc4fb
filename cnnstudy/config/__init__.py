"""The study file.

Comes in: a YAML file, and `--set` on top of it. Goes out: a checked and frozen StudyConfig, or a ConfigError that names
file and line.

Everything that can be checked without training is checked here, before TensorFlow is imported.

    load        load_study: read the file, apply --set, run the checks, report problems by line
    find        the file that a command names
    yaml_text   YAML within limits
    json_schema what editors complete and check study files with
    schema      the keys of a study file, and what each key allows on its own
    strategies  the keys of `strategy`
    execution   the keys of `execution`
    checks      combinations of keys that contradict each other
    factors     everything that a study can vary, one entry each
    transfer_modes  the levels of the factor `transfer`
    designs     which combinations of levels a study runs

This file imports nothing, so that the factors can be imported without the rest.

May import: errors, records, system, data, architectures.
"""
