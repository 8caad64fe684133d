"""Fifty peers in ten rooms: every packet arrives or is counted as dropped, nobody is thrown out, memory stays where it is."""

from __future__ import annotations

import pytest

from .load import SETTLE_SECONDS, measure


@pytest.mark.parametrize(
    "seconds", [pytest.param(2.0, id="short"), pytest.param(60.0, id="a-minute", marks=pytest.mark.slow)]
)
async def test_fifty_peers_lose_no_packet_that_is_not_counted(seconds) -> None:
    result = await measure(50, 5, 2, seconds)
    assert result.sent == pytest.approx(20 * seconds * 75, rel=0.02)
    assert result.expected == result.forwarded == 4 * result.sent
    assert result.missing == result.dropped
    assert result.arrived == result.expected - result.dropped
    assert result.closed == 0
    settled = result.memory_mb[int(SETTLE_SECONDS) :]
    if settled:
        assert max(settled) - settled[0] < 8.0, result.memory_mb
