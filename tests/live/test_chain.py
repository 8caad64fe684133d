from __future__ import annotations

import io

import numpy as np
import pytest

from streamdac.codec import Codec
from streamdac.frontends.chain import START_SECONDS, Chain, Settings
from streamdac.protocols.netsim import Network
from streamdac.protocols.stream import Codes, Ended, StreamReader

RATE, HOP = 24_000, 320


def noise(hops: int, channels: int = 1) -> np.ndarray:
    return (0.3 * np.random.default_rng(3).standard_normal((hops * HOP, channels))).clip(-1, 1).astype(np.float32)


def through(chain: Chain, audio: np.ndarray, block: int = HOP) -> np.ndarray:
    return np.concatenate([chain.push(audio[at : at + block]) for at in range(0, len(audio), block)])


@pytest.mark.parametrize("block", [HOP, 100, 1000])
def test_what_comes_out_is_what_the_codec_gives(codec: Codec, block: int) -> None:
    audio = noise(40)
    out = through(Chain(codec, 1, Settings(3), ramp=False), audio, block)
    assert np.array_equal(out[:, 0], codec.decode(codec.encode(audio[:, 0], n_codebooks=3))[0, 0].clip(-1, 1))


def test_two_channels_are_two_rows(codec: Codec) -> None:
    audio = noise(20, channels=2)
    out = through(Chain(codec, 2, Settings(4), ramp=False), audio)
    for channel in range(2):
        wanted = codec.decode(codec.encode(audio[:, channel].copy()))[0, 0].clip(-1, 1)
        assert np.allclose(out[:, channel], wanted, atol=1e-6)


def test_the_original_is_as_late_as_the_coded_and_the_change_is_smooth(codec: Codec) -> None:
    audio, settings = noise(30), Settings(4)
    chain = Chain(codec, 1, settings, ramp=False)
    coded = through(chain, audio[: 10 * HOP])
    settings.original = True
    assert len(coded) == 10 * HOP
    changing = chain.push(audio[10 * HOP : 11 * HOP])
    wanted = codec.decode(codec.encode(audio[: 11 * HOP, 0]))[0, 0][10 * HOP :].clip(-1, 1)
    assert changing[0, 0] == pytest.approx(wanted[0], abs=1e-6)
    assert changing[-1, 0] == audio[11 * HOP - 1, 0]
    assert np.array_equal(chain.push(audio[11 * HOP : 12 * HOP]), audio[11 * HOP : 12 * HOP])


@pytest.mark.parametrize("block", [100, 1000])
def test_the_original_is_whole_for_any_blocks(codec: Codec, block: int) -> None:
    audio = noise(20)
    out = through(Chain(codec, 1, Settings(4, original=True), ramp=False), audio, block)
    assert np.array_equal(out, audio)


def test_codebooks_change_at_the_next_hop_and_are_what_is_sent(codec: Codec) -> None:
    audio, settings, record = noise(12), Settings(4), io.BytesIO()
    chain = Chain(codec, 1, settings, record=record, ramp=False)
    first = through(chain, audio[: 6 * HOP])
    settings.codebooks = 1
    second = through(chain, audio[6 * HOP :])
    chain.finish()
    reader = StreamReader()
    reader.feed(record.getvalue())
    reader.feed_eof()
    events = list(iter(reader.next_event, None))
    codes = [event.codes for event in events if isinstance(event, Codes)]
    assert [len(part) for part in codes] == [4, 4, 1, 1]
    decoder = codec.decoder()
    played = np.concatenate([decoder.push(part.transpose(1, 0, 2))[0, 0] for part in codes])
    assert np.array_equal(np.concatenate([first, second])[:, 0], played.clip(-1, 1))
    assert events[-1] == Ended(12 * HOP, True, 12)
    assert chain.kbps == pytest.approx(0.75)


def test_mute_and_gain_are_ramped_and_reach_the_codec(codec: Codec) -> None:
    audio, settings = np.full((6 * HOP, 1), 0.25, np.float32), Settings(4, original=True)
    chain = Chain(codec, 1, settings, ramp=False)
    assert np.all(chain.push(audio[:HOP]) == 0.25)
    settings.gain = 2.0
    rising = chain.push(audio[:HOP])[:, 0]
    assert np.all(np.diff(rising) >= 0)
    assert rising[-1] == 0.5
    settings.muted = True
    falling = chain.push(audio[:HOP])[:, 0]
    assert np.all(np.diff(falling) <= 0)
    assert np.all(chain.push(audio[:HOP]) == 0)
    assert -6.5 < chain.input.db < -6.2, "the meter shows what is sent"


def test_what_a_driver_must_not_give_is_made_harmless(codec: Codec) -> None:
    audio = noise(3)
    audio[5], audio[700], audio[701] = np.nan, np.inf, -7
    out = through(Chain(codec, 1, Settings(4), ramp=False), audio)
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 1


def test_the_start_rises_from_silence(codec: Codec) -> None:
    audio, rise = np.full((75 * HOP, 1), 0.5, np.float32), round(START_SECONDS * RATE)
    out = through(Chain(codec, 1, Settings(4, original=True)), audio)[:, 0]
    assert out[0] == 0
    assert np.all(np.diff(out) >= 0)
    assert out[rise // 2] == pytest.approx(0.25, abs=0.001)
    assert np.all(out[rise:] == 0.5)


def test_lost_packets_are_counted_and_concealed_in_time(codec: Codec) -> None:
    audio = noise(600)
    chain = Chain(codec, 1, Settings(4), network=Network(delay=0.0, loss=0.01, burst=3.0), seed=5, ramp=False)
    out = through(chain, audio)
    assert len(out) == len(audio)
    assert np.isfinite(out).all()
    assert 2 <= chain.lost <= 30
    concealed = chain._concealer.counts
    assert concealed.repeated + concealed.faded + concealed.silent == chain.lost
    assert concealed.repeated > 0
    again = Chain(codec, 1, Settings(4), network=Network(delay=0.0, loss=0.01, burst=3.0), seed=5, ramp=False)
    assert np.array_equal(through(again, audio), out), "the same seed loses the same"
    clean = through(Chain(codec, 1, Settings(4), ramp=False), audio)
    same = [bool(np.array_equal(a, b)) for a, b in zip(np.split(out, 600), np.split(clean, 600), strict=True)]
    assert 100 < sum(same) < 600
