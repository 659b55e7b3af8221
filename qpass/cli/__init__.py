"""The command `qpass`: results on stdout, progress on stderr, errors in one line and status 2."""

from qpass.cli.commands import main as main
