"""``python -m wsss_probe`` and the console script."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from wsss_probe.cli import run

    run()


if __name__ == "__main__":
    main()
