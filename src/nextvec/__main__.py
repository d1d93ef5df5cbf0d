"""`python -m nextvec`."""

from nextvec.cli.main import run

if __name__ == "__main__":
    run()
