"""What a source loses: it passes in silence, and nobody takes it for a queue on the way. On clocks of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

import streamdac
from streamdac.codec import Codec
from streamdac.frontends import ws_api, ws_capture
from streamdac.frontends.tone import Tone
from streamdac.frontends.ws_capture import Capture
from streamdac.frontends.ws_limits import RateLimit
from streamdac.frontends.ws_timetable import LOST_SECONDS, Timetable
from streamdac.protocols.arrivals import Arrivals
from streamdac.protocols.messages import Accept, End, Layout, Mute, Offer, Packet, Role
from streamdac.protocols.rate import QUEUE_SECONDS
from streamdac.protocols.sender import Sender
from streamdac.protocols.session import Session, Side
from streamdac.protocols.wire import encode

from .parts import HOP, hello, looking_ahead_codec, raw, running, small_codec, speech, until, url

LAYOUT = Layout(4, 64, 1)


class Clock:
    """In place of `time` and of waiting."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Stalling(Tone):
    """Gives its audio at once, but for so many seconds before some of its hops."""

    def __init__(self, clock: Clock, stalls: dict[int, float], hops: int) -> None:
        super().__init__(440.0, hops * HOP, 24_000, 1)
        self.clock, self.stalls = clock, stalls
        self.given: list[float] = []

    def read(self, samples: int) -> np.ndarray | None:
        self.clock.now += self.stalls.get(len(self.given), 0.0)
        self.given.append(self.clock.now)
        return super().read(samples)


class Recorder(Stalling):
    """The same from a device, whose audio is lost meanwhile."""

    def read(self, samples: int) -> np.ndarray | None:
        self.clock.now += HOP
        return super().read(samples)


class Paused(Stalling):
    """Others look at the time while it stalls."""

    look: Callable[[], None]

    def read(self, samples: int) -> np.ndarray | None:
        end = self.clock.now + self.stalls.get(len(self.given), 0.0)
        while self.clock.now + 0.5 < end:
            self.clock.now += 0.5
            self.look()
        self.clock.now = end
        self.given.append(self.clock.now)
        return Tone.read(self, samples)


def sent(
    source: Stalling, monkeypatch, codec: Codec | None = None
) -> tuple[list[tuple[float, Packet | Mute | End]], int]:
    """What is sent of a source, with its times, and how many frames are muted."""
    clock, messages, muted = source.clock, [], []
    sender = Sender(LAYOUT)

    def say(said: list) -> None:
        messages.extend((clock.now, message) for message in said)

    def mute(frames: int) -> None:
        muted.append(frames)
        say(sender.mute(frames))

    monkeypatch.setattr(ws_capture, "time", clock)
    capture = Capture(
        codec or small_codec(), source, channels=1, codebooks=4, deliver=lambda codes: say(sender.push(codes)), mute=mute,
        ended=lambda samples: say(sender.end(samples + 320 * sum(muted))),
    )  # fmt: skip
    monkeypatch.setattr(capture, "call", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(capture.stopping, "wait", clock.wait)
    if isinstance(source, Paused):
        source.look = capture._tell_of_pause
    capture.work()
    return messages, sum(muted)


def queues(messages: list[tuple[float, Packet | Mute | End]]) -> list[float]:
    """The reports of a server, one a second: what it takes for a queue, in s."""
    arrivals, reports, said = Arrivals(HOP), 0, []
    for now, message in messages:
        if now >= reports + 1:
            said.append(arrivals.report(0).queued / 1e6)
            reports = int(now)
        if isinstance(message, Packet):
            arrivals.observe(message, now)
    return said


async def test_what_a_source_was_late_is_not_made_up_for(monkeypatch) -> None:
    """The hearers' buffers would take it for a burst, and the server for a flood."""
    source = Stalling(Clock(), {20: 30.0}, 75)
    messages, muted = sent(source, monkeypatch)
    given = source.given
    assert given[19] == pytest.approx(19 * HOP)
    assert given[20] == pytest.approx(20 * HOP + 30)
    assert given[75] == pytest.approx(given[20] + 54 * HOP, abs=HOP)
    assert muted * HOP == pytest.approx(30, abs=2 * HOP)
    assert messages[-1][1] == End(0, (75 + muted) * 320, 75 + muted)


@pytest.mark.parametrize("kind", [Stalling, Recorder])
@pytest.mark.parametrize(
    ("stalls", "muted"),
    [
        pytest.param({100: 1.0}, [100], id="once"),
        pytest.param({100: 0.2}, None, id="shortly"),
        pytest.param(dict.fromkeys(range(100, 400, 30), 0.05), None, id="again-and-again"),
    ],
)
async def test_the_pause_of_a_source_is_silence_and_no_queue_on_the_way(kind, stalls, muted, monkeypatch) -> None:
    messages, frames = sent(kind(Clock(), stalls, 450), monkeypatch)
    assert max(queues(messages)) < QUEUE_SECONDS
    if muted is not None:
        assert [message.first_frame for _, message in messages if isinstance(message, Mute)] == muted
        assert frames * HOP == pytest.approx(1.0, abs=2 * HOP)


async def test_a_source_that_gives_nothing_for_long_is_said_to_be_silent_all_the_while(monkeypatch) -> None:
    messages, muted = sent(Paused(Clock(), {45: 700.0}, 90), monkeypatch)
    assert muted * HOP == pytest.approx(700, abs=2 * HOP)
    said = [now for now, message in messages if isinstance(message, Mute)]
    assert said[0] == pytest.approx(45 * HOP + 1, abs=0.5 + HOP)
    assert 0.5 <= min(np.diff(said)) <= max(np.diff(said)) <= 1.5
    assert messages[-1][1] == End(0, (90 + muted) * 320, 90 + muted)
    # Nobody refuses it.
    offer = Offer(bytes(32), 24_000, 320, 4, 64)
    session, limit = Session(Side.CLIENT, now=0.0), RateLimit(0.0)
    session.send(hello(Role.SEND, offer=offer, codebooks=4))
    accept = Accept(1, offer.fingerprint, 1, 4, 1, 0, 0)
    session.receive(encode(accept), 0.0)
    limit.agree(offer, accept, 0.0)
    for now, message in messages:
        session.send(message)
        limit.advance(message, now)
        if isinstance(message, Mute):
            limit.mute(now)


async def test_a_source_that_pauses_for_less_than_a_second_is_not_spoken_for(monkeypatch) -> None:
    messages, _ = sent(Paused(Clock(), {45: 0.5, 60: 0.5}, 90), monkeypatch)
    said = [(now, message.first_frame) for now, message in messages if isinstance(message, Mute)]
    assert [now for now, _ in said] == pytest.approx([45 * HOP + 0.5, 60 * HOP + 1.0], abs=2 * HOP)
    assert said[0][1] == 45


async def test_after_a_long_pause_all_its_silence_comes_before_the_audio(monkeypatch) -> None:
    messages, muted = sent(Paused(Clock(), {45: 3.2}, 150), monkeypatch)
    frames = [message.first_frame for _, message in messages if isinstance(message, Packet)]
    assert frames == [*range(45), *range(45 + muted, 150 + muted)]
    assert muted * HOP == pytest.approx(3.2, abs=2 * HOP)


async def test_what_a_model_looks_ahead_at_is_sent_before_the_silence(monkeypatch) -> None:
    messages, muted = sent(Paused(Clock(), {45: 3.0}, 60), monkeypatch, looking_ahead_codec())
    first = next(i for i, (_, message) in enumerate(messages) if isinstance(message, Mute))
    assert messages[first][1].first_frame == 45
    assert sum(message.frames for _, message in messages[:first]) == 45
    ahead = -(-looking_ahead_codec().plan.encoder_lookahead // 320)
    assert (muted + ahead) * HOP == pytest.approx(3, abs=2 * HOP)
    assert messages[-1][1] == End(0, (60 + muted + ahead) * 320, 60 + muted + ahead)


async def test_a_source_that_begins_late_gets_no_silence_before_it(monkeypatch) -> None:
    messages, _ = sent(Paused(Clock(), {0: 3.0}, 45), monkeypatch, looking_ahead_codec())
    assert sum(message.frames for _, message in messages if isinstance(message, Packet)) == 45


class Holding(Tone):
    """Gives nothing after ten hops until it is told to."""

    def __init__(self) -> None:
        super().__init__(440.0, 20 * HOP, 24_000, 1)
        self.free, self.hops = threading.Event(), 0

    def read(self, samples: int) -> np.ndarray | None:
        self.hops += 1
        if self.hops == 11:
            self.free.wait(20)
        return super().read(samples)


async def test_while_a_read_waits_silence_is_said_from_the_event_loop(monkeypatch) -> None:
    monkeypatch.setattr(ws_capture, "PAUSE_SECONDS", 0.1)
    source, said, ends = Holding(), [], []
    capture = Capture(
        small_codec(), source, channels=1, codebooks=4, deliver=lambda codes: said.append(codes.shape[2]),
        mute=lambda frames: said.append(-frames), ended=ends.append,
    )  # fmt: skip
    capture.start()
    await until(lambda: len([frames for frames in said if frames < 0]) > 3)
    assert not source.free.is_set()
    assert said[:10] == [1] * 10
    source.free.set()
    await until(lambda: ends)
    assert sum(frames for frames in said if frames > 0) == 20
    assert ends == [20 * 320]
    await capture.stop()
    await until(capture._telling.done)


def mutes(loss: float, seconds: float) -> list[tuple[float, int]]:
    """Times of the silences of a source that loses so many seconds a hop, and their frames."""
    table, now, said = Timetable(HOP, 0.0), 0.0, []
    while now < seconds:
        now += HOP + loss
        if frames := table.add(HOP, now - 2 * HOP - loss, now - HOP):
            said.append((now, frames))
        assert now - table.due < LOST_SECONDS
    return said


def test_a_source_with_a_slow_clock_is_never_muted() -> None:
    assert mutes(300e-6 * HOP, 3600) == []


@pytest.mark.parametrize("loss", [0.002, 0.02, 0.11, 0.26])
def test_a_source_that_loses_something_all_the_time_says_no_more_mutes_than_a_server_takes(loss) -> None:
    limit, said = RateLimit(0.0), mutes(loss, 60)
    for now, _ in said:
        limit.mute(now)
    lost = 60 * loss / (HOP + loss)
    assert sum(frames for _, frames in said) * HOP == pytest.approx(lost, abs=0.5)


async def test_a_program_that_sends_late_lets_the_time_pass_in_silence(monkeypatch) -> None:
    clock, muted = Clock(), []
    connection = streamdac.connect("ws://h", model=small_codec())
    connection.codec, connection.peer = small_codec(), SimpleNamespace(mute=muted.append)

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(ws_api, "time", clock)
    monkeypatch.setattr(ws_api, "asyncio", SimpleNamespace(sleep=sleep))
    for pause in [0.0] * 20 + [0.5] + [0.0] * 20 + [0.25] * 20:
        asked = clock.now
        clock.now += pause
        await connection._pace(320, asked)
    frames = 61 + sum(muted)
    assert muted[0] * HOP == pytest.approx(0.4, abs=HOP)  # a tenth of a second was ahead
    assert clock.now - frames * HOP < 0.15
    assert len(muted) <= 21


async def test_audio_that_is_given_up_while_it_waits_for_its_time_takes_none(monkeypatch) -> None:
    connection = streamdac.connect("ws://h", model=small_codec())
    connection.codec, connection.peer = small_codec(), SimpleNamespace(mute=lambda frames: None)

    async def sleep(seconds: float) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(ws_api, "time", Clock())
    monkeypatch.setattr(ws_api, "asyncio", SimpleNamespace(sleep=sleep, CancelledError=asyncio.CancelledError))
    for _ in range(7):
        await connection._pace(320, 0.0)
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            await connection._pace(320, 0.0)
    assert connection._table.due == pytest.approx(7 * HOP)


async def test_what_this_side_is_late_for_is_made_up_for(monkeypatch) -> None:
    """A machine that is busy for a second loses nothing of a file."""
    source = Stalling(Clock(), {}, 150)
    codec = small_codec()
    busy = iter([0.0] * 60 + [1.0] + [0.0] * 1000)
    encoded = ws_capture.HopEncoder.push

    def slow(self, block: np.ndarray) -> np.ndarray:
        source.clock.now += next(busy)
        return encoded(self, block)

    monkeypatch.setattr(ws_capture.HopEncoder, "push", slow)
    messages, muted = sent(source, monkeypatch)
    assert muted == 0
    assert messages[-1][1] == End(0, 150 * codec.hop_length, 150)
    assert messages[-1][0] == pytest.approx(150 * HOP, abs=2 * HOP)


def test_of_both_kinds_of_lateness_only_the_sources_is_silence() -> None:
    table = Timetable(HOP, 0.0)
    assert table.add(HOP, 1.0, 1.0) == 0  # a second of ours
    assert table.add(HOP, 1.0, 1.5) * HOP == pytest.approx(0.5, abs=HOP)
    assert table.add(HOP, 1.5, 1.5) == 0
    assert 1.5 - table.due == pytest.approx(1.0, abs=4 * HOP)


@pytest.mark.parametrize(
    ("model", "samples"), [(small_codec, 4_900), (looking_ahead_codec, 4_800), (looking_ahead_codec, 4_900)]
)
async def test_what_the_encoder_holds_is_sent_before_the_silence_of_a_pause(model, samples) -> None:
    codec = model()
    offer, frames = Offer(codec.fingerprint, 24_000, 320, 4, 64), -(-samples // 320)
    async with (
        running(adapt=False) as relay,
        raw(relay, greet=hello(Role.RECEIVE, offer=offer, codebooks=4), read=True) as listener,
    ):
        async with streamdac.connect(url(relay), model=codec, role="send", adapt=False) as speaker:
            await speaker.send(speech(1.0)[:samples])
            await until(lambda: listener.heard(Mute))
            assert [packet.first_frame for packet in listener.heard(Packet)] == list(range(frames))
            assert listener.heard(Mute)[0].first_frame == frames
            await speaker.send(speech(0.2))
            muted = speaker.peer.counts.muted_frames
        await until(lambda: listener.heard(End))
        (end,) = listener.heard(End)
        ahead = -(-codec.plan.encoder_lookahead // 320)  # frames of silence that are encoded
        assert (end.frames, end.samples) == (frames + ahead + muted + 15, 320 * (frames + ahead + muted + 15))
