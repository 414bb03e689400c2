"""The command `emotion`; what the commands do is in the packages below."""

from emotion.cli.main import main

__all__ = ["main"]
