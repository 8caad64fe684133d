"""`python -m streamdac`."""

from .cli import run

run()
