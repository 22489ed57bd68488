"""The command line, `iglens`."""

from iglens_tl.cli.app import main as main
