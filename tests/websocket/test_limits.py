"""What a peer may send: whatever was agreed passes for ever, much more does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamdac.frontends.ws_limits import BURST_SECONDS, RateExceeded, RateLimit
from streamdac.protocols.messages import Accept, Layout, Offer
from streamdac.protocols.rate import RateControl
from streamdac.protocols.sender import Sender
from streamdac.protocols.wire import encode

from ..protocols.test_rate import stats

OFFER = Offer(b"m" * 32, 24_000, 320, 16, 1024)
FRAME = 320 / 24_000  # s


def limit(accept: Accept) -> RateLimit:
    made = RateLimit(0.0)
    made.agree(OFFER, accept, 0.0)
    return made


def packet_bytes(accept: Accept, *, redundancy: tuple[int, int] | None = None) -> int:
    """Of a packet with all the redundancy there is."""
    layout = Layout(accept.codebooks, OFFER.codebook_size, accept.channels)
    frames, codebooks = redundancy or (accept.redundancy_frames, accept.redundancy_codebooks)
    sender = Sender(layout, redundancy_frames=frames, redundancy_codebooks=codebooks)
    codes = np.zeros((accept.codebooks, accept.channels, 80), np.int64)
    return len(encode(sender.push(codes)[-1]))


def send(made: RateLimit, size: int, *, start: float = 0.0, seconds: float = 3 * BURST_SECONDS) -> None:
    """A packet of `size` bytes for each frame."""
    for frame in range(round(seconds / FRAME)):
        made.take(size, start + frame * FRAME)


accepts = st.builds(
    lambda channels, codebooks, frames, coarse: Accept(1, OFFER.fingerprint, channels, codebooks, 1, frames, coarse),
    st.integers(1, 32),
    st.integers(1, 16),
    st.integers(0, 64),
    st.integers(0, 64),
)


@settings(max_examples=40, deadline=None)
@given(accept=accepts)
def test_the_redundancy_agreed_may_be_sent_for_ever(accept: Accept) -> None:
    send(limit(accept), packet_bytes(accept))


@settings(max_examples=40, deadline=None)
@given(accept=accepts, burst=st.integers(1, 60))
@example(accept=Accept(1, OFFER.fingerprint, 13, 1, 1, 0, 0), burst=16)
def test_so_may_what_the_rate_control_adds_under_loss(accept: Accept, burst: int) -> None:
    control = RateControl(
        max_codebooks=accept.codebooks,
        redundancy_codebooks=max(1, accept.redundancy_codebooks),
        bits_per_codebook=10 * accept.channels,
    )
    made = limit(accept)
    for second in range(round(3 * BURST_SECONDS)):
        rate = control.report(stats(lost=3, burst=burst), float(second))
        size = packet_bytes(accept, redundancy=(rate.redundancy_frames, rate.redundancy_codebooks))
        send(made, size, start=float(second), seconds=1.0)


def test_eight_times_what_was_agreed_is_too_much() -> None:
    accept = Accept(1, OFFER.fingerprint, 1, 16, 1, 2, 4)
    with pytest.raises(RateExceeded, match="bytes a second"):
        send(limit(accept), 8 * packet_bytes(accept))
