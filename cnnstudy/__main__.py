"""The command: `python -m cnnstudy`, or `cnnstudy`."""

import sys


def main() -> None:
    """Run a command, unless files hide the modules that it needs; that is checked before they are imported."""
    from cnnstudy.errors import InputError, printable_lines
    from cnnstudy.system.imports import refuse_shadows

    try:
        refuse_shadows()
    except InputError as error:
        print(printable_lines(f"error: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    from cnnstudy.cli import main

    main()


if __name__ == "__main__":
    # `python -m` looks for modules in the working folder first: a keras.py or random.py there would hide the library
    if not sys.flags.safe_path:
        del sys.path[0]
    main()
