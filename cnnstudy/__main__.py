"""The command: `python -m cnnstudy`, or `cnnstudy`."""

import sys


def main() -> None:
    """Run a command, unless its modules are hidden by files, or can't be imported for want of a home folder."""
    from cnnstudy.errors import CnnstudyError, printable_lines
    from cnnstudy.system.imports import refuse_shadows, require_home

    try:
        refuse_shadows()
        require_home()
    except CnnstudyError as error:
        print(printable_lines(f"error: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    from cnnstudy.cli import main

    main()


if __name__ == "__main__":
    # `python -m` looks for modules in the working folder first: a keras.py or random.py there would hide the library
    if not sys.flags.safe_path:
        del sys.path[0]
    main()
