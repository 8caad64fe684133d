"""What a channel takes for a queue, from the round trips of its Pings, on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from websockets.exceptions import ConnectionClosedError

from streamdac.frontends import ws_channel
from streamdac.frontends.ws_channel import ROUND_TRIPS, Channel
from streamdac.protocols.messages import Accept, Ping, Pong
from streamdac.protocols.rate import QUEUE_SECONDS, RateControl
from streamdac.protocols.session import Side
from streamdac.protocols.wire import decode, encode

from .parts import OFFER, hello


class Answering:
    """The socket of a client whose every Ping is answered after `trip(now)` s; a second later comes the next one."""

    def __init__(self, monkeypatch, trip: Callable[[float], float], *, until: float) -> None:
        self.now = 0.0
        self._trip, self._until = trip, until
        self.transport = SimpleNamespace(get_extra_info=lambda name: None)
        monkeypatch.setattr(ws_channel, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.channel = Channel(self, Side.CLIENT, handle=lambda message, now: None)  # type: ignore[arg-type]
        self.channel.session.send(hello())
        self.channel.session.receive(encode(Accept(1, OFFER.fingerprint, 1, 8, 1, 0, 1)), 0.0)
        self.congestion: dict[float, float] = {}
        self.rate = RateControl(max_codebooks=8)

    async def recv(self) -> bytes:
        """A Pong, once the time has passed; meanwhile the rate control looks as that of a peer does."""
        for _ in range(4):
            self.now += 0.25
            self.congestion[self.now] = self.channel.congestion(self.now)
            self.rate.queued(self.congestion[self.now], self.now)
        if self.now >= self._until:
            raise ConnectionClosedError(None, None)
        session = self.channel.session
        session.ping(self.now)
        (ping,) = [message for data in session.take_outgoing() if isinstance(message := decode(data), Ping)]
        self.now += self._trip(self.now)
        return encode(Pong(ping.token))

    async def run(self) -> Answering:
        with pytest.raises(ConnectionClosedError):
            await self.channel._read()
        return self


async def test_a_route_that_became_slower_is_accepted_after_a_minute(monkeypatch) -> None:
    made = await Answering(monkeypatch, lambda now: 0.05 if now < 60 else 0.25, until=600).run()
    slow = [late for now, late in made.congestion.items() if 65 < now < 100]
    assert min(slow) == pytest.approx(0.2)
    assert min(slow) > QUEUE_SECONDS
    accepted = [late for now, late in made.congestion.items() if now > 63 + 1.25 * ROUND_TRIPS]
    assert max(accepted) == pytest.approx(0, abs=1e-9)
    assert made.rate.decreases > 0
    assert (made.rate.rate.codebooks, made.rate.rate.frames_per_packet) == (8, 1)


async def test_what_may_wait_does_not_grow_with_a_queue_that_stays(monkeypatch) -> None:
    made = await Answering(monkeypatch, lambda now: 0.05 if now < 60 else 2.0, until=400).run()
    assert made.channel.best_round_trip == pytest.approx(0.05)


async def test_before_the_first_answer_only_what_waits_here_counts(monkeypatch) -> None:
    made = await Answering(monkeypatch, lambda now: 3.0, until=1).run()
    assert set(made.congestion.values()) == {0.0}
