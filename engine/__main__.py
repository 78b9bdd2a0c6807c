"""`python -m engine` is the `draftbench` command."""

from engine.cli.app import main

if __name__ == "__main__":
    main()
