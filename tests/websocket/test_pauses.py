"""What a source loses: it passes in silence, and nobody takes it for a queue on the way. On clocks of the test."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import streamdac
from streamdac.frontends import ws_api, ws_capture
from streamdac.frontends.tone import Tone
from streamdac.frontends.ws_capture import Capture
from streamdac.frontends.ws_limits import RateLimit
from streamdac.frontends.ws_timetable import LOST_SECONDS, Timetable
from streamdac.protocols.arrivals import Arrivals
from streamdac.protocols.messages import End, Layout, Mute, Offer, Packet, Role
from streamdac.protocols.rate import QUEUE_SECONDS
from streamdac.protocols.sender import Sender

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


def sent(source: Stalling, monkeypatch) -> tuple[list[tuple[float, Packet | Mute | End]], int]:
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
        small_codec(), source, channels=1, codebooks=4, deliver=lambda codes: say(sender.push(codes)), mute=mute,
        ended=lambda samples: say(sender.end(samples + 320 * sum(muted))),
    )  # fmt: skip
    monkeypatch.setattr(capture, "call", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(capture.stopping, "wait", clock.wait)
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
