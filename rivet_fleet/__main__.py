"""``python -m rivet_fleet``: how a supervisor starts its workers."""

from rivet_fleet.cli.main import main

if __name__ == "__main__":
    main()
