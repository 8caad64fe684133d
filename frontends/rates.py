"""The sample rates that are converted here."""

from __future__ import annotations

from streamdac.errors import BadDataError

LEAST_RATE, MOST_RATE = 1_000, 768_000  # Hz


def check_rate(rate: int, name: str) -> None:
    """Refuse a source whose rate nobody records at: its filters would take gigabytes.

    Raises:
        BadDataError: the rate is out of range.
    """
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise BadDataError(f"{name} has {rate} Hz, need {LEAST_RATE} to {MOST_RATE} Hz")
