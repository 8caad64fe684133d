"""What a peer may send: whatever was agreed passes for ever, much more does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import streamdac.protocols
from streamdac.frontends.ws_limits import BURST_SECONDS, MAX_FRAME_RATE, MUTES, SPEED, RateExceeded, RateLimit
from streamdac.frontends.ws_outbox import MAX_MUTES
from streamdac.protocols.messages import Accept, End, Layout, Mute, Offer, Packet
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


ACCEPT = Accept(1, OFFER.fingerprint, 1, 16, 1, 0, 1)
JUMP = 40_000  # frames: one that the protocol allows


def at(frame: int) -> Packet:
    return Packet(0, 0, frame, 1, 1, b"", b"")


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([at(0), at(JUMP)], id="packet"),
        pytest.param([Mute(0, 0), Mute(0, JUMP)], id="mute"),
        pytest.param([at(0), End(0, 0, JUMP)], id="end"),
        pytest.param([Mute(0, JUMP), at(0)], id="back"),
    ],
)
def test_a_stream_that_jumps_far_ahead_of_the_time_is_too_fast(messages) -> None:
    made = limit(ACCEPT)
    *allowed, last = messages
    for message in allowed:
        made.advance(message, 0.0)
    with pytest.raises(RateExceeded, match="frames at once, more than 112 a second"):
        made.advance(last, 0.0)


@pytest.mark.parametrize("first", [at(1 << 40), Mute(0, 1 << 40)], ids=["packet", "mute"])
def test_a_stream_may_begin_anywhere(first) -> None:
    made = limit(ACCEPT)
    made.advance(first, 0.0)
    made.advance(at((1 << 40) + 10), 0.0)


def test_a_source_that_was_silent_for_minutes_goes_on_where_the_time_is() -> None:
    made, now = limit(ACCEPT), 0.0
    for pause in (0.0, 500.0, 30.0, 500.0):
        now += pause
        for _ in range(1000):
            made.advance(at(int(now / FRAME)), now)
            now += FRAME


def test_ten_seconds_that_come_at_once_are_not_too_fast() -> None:
    made = limit(ACCEPT)
    for frame in range(round(BURST_SECONDS / FRAME)):
        made.advance(at(frame), 0.0)


def test_the_limits_are_those_of_the_specification() -> None:
    page = " ".join(Path(streamdac.protocols.__file__).with_name("PROTOCOL.md").read_text("utf-8").split())
    assert f"go on faster than {SPEED:g} times real time, each beyond a burst of {BURST_SECONDS:g} s" in page
    assert f"more than {MUTES:g} Mutes a second" in page
    assert f"a model of more than {MAX_FRAME_RATE:.0f} frames a second" in page
    assert f"Mutes where {MAX_MUTES} of their stream wait already" in page
