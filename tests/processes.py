"""What is left of a process."""

from __future__ import annotations

from pathlib import Path


def alive(pid: int) -> bool:
    """Not counting one that nobody has waited for."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
