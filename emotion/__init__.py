"""The command `emotion`; the packages below do the work of its commands."""

from emotion.cli.main import main

__all__ = ["main"]
