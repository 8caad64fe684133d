"""What is heard, on a clock of the test: jitter buffer, decoder, gain and speed together, and the exact way without them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from streamdac.codec import Codec
from streamdac.frontends.ws_exact import Exact
from streamdac.frontends.ws_voices import (
    END_SECONDS,
    MAX_VOICES,
    HeardCounts,
    Renderer,
    Voices,
    silence_codes,
    silence_for,
)
from streamdac.protocols.jitter import Kind
from streamdac.protocols.messages import End, Layout, Left, Mute, Packet
from streamdac.protocols.receiver import Receiver
from streamdac.protocols.sender import Sender

from .parts import HOP, long_hops, looking_ahead_codec, small_codec

LAYOUT = Layout(4, 64, 1)
SAMPLES = 320


def codes(frames: int, *, seed: int = 0) -> np.ndarray:
    """Random codes `[K, C, F]`."""
    return np.random.default_rng(seed).integers(0, 64, (4, 1, frames))


def decoded(sequence: np.ndarray, codec: Codec | None = None) -> np.ndarray:
    """Codes `[K, C, F]` by one decoder, frame by frame: audio `[T]`."""
    decoder = (codec or small_codec()).decoder()
    parts = [decoder.push(sequence[None, :, 0, i : i + 1])[0, 0] for i in range(sequence.shape[2])]
    return np.concatenate([*parts, decoder.flush()[0, 0]])


def sent(sequence: np.ndarray, **options) -> list[Packet]:
    sender = Sender(LAYOUT, **options)
    return [*sender.push(sequence), *sender.flush()]


def play(voices: Voices, arrivals: list[tuple[float, object]], seconds: float) -> np.ndarray:
    """Hop after hop on a clock of our own; what arrives at a time is heard before the hop that is due then."""
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    blocks, hop = [], voices.codec.hop_length / voices.codec.sample_rate
    for tick in range(round(seconds / hop)):
        while waiting and waiting[0][0] <= tick * hop:
            time, message = waiting.pop(0)
            voices.hear(message, time)
        blocks.append(voices.mix(tick * hop)[:, 0])
    return np.concatenate(blocks)


def voices(**options) -> Voices:
    made = Voices(small_codec(), channels=1, **options)
    made.begin(LAYOUT, silence_codes(small_codec()))
    return made


def on_time(packets: list[Packet], *, delay: float = 0.01) -> list[tuple[float, object]]:
    return [(packet.first_frame * HOP + delay, packet) for packet in packets]


def test_what_comes_in_time_is_played_as_it_was_sent() -> None:
    sequence = codes(40)
    arrivals = [*on_time(sent(sequence)), (0.56, End(0, 40 * SAMPLES, 40))]
    heard = play(voices(correct_drift=False), arrivals, 1.0)
    start = int(np.flatnonzero(heard)[0])
    assert start % SAMPLES == 0
    assert np.array_equal(heard[start : start + 40 * SAMPLES], decoded(sequence))
    assert not heard[start + 40 * SAMPLES :].any()


def ahead(**options) -> Voices:
    """Of a model that looks ahead."""
    codec = looking_ahead_codec()
    made = Voices(codec, channels=1, **options)
    made.begin(LAYOUT, silence_codes(codec))
    return made


@pytest.mark.parametrize("correct_drift", [False, True])
def test_a_model_that_looks_ahead_is_heard_from_the_first_frame_to_the_last(correct_drift) -> None:
    sequence, made = codes(60), ahead(correct_drift=correct_drift)
    heard = play(made, [*on_time(sent(sequence)), (0.82, End(0, 60 * SAMPLES, 60))], 2.0)
    counts = made.totals()
    assert (counts.played, counts.concealed, counts.dropped, counts.lost_packets) == (60, 0, 0, 0)
    assert (made.ended, made.speaking) == (1, 0)
    expected, (start, *_, last) = decoded(sequence, looking_ahead_codec()), np.flatnonzero(heard)
    late = (start - looking_ahead_codec().plan.decoder_lookahead) / 24_000
    assert 0.02 < late < 0.02 + 3 * HOP
    if correct_drift:  # filtered, and with what the filter makes of the end
        assert last + 1 - start == pytest.approx(len(expected), abs=64)
    else:
        assert np.array_equal(heard[start : last + 1], expected)


def test_the_delay_of_a_voice_holds_what_its_decoder_looks_ahead() -> None:
    plain, late = voices(correct_drift=False), ahead(correct_drift=False)
    for made in (plain, late):
        play(made, on_time(sent(codes(20))), 0.2)
    lookahead = looking_ahead_codec().plan.decoder_lookahead / 24_000
    assert late.delay(0.2) - plain.delay(0.2) == pytest.approx(lookahead)


def test_what_is_lost_is_concealed_without_a_break_in_the_decoder() -> None:
    sequence = codes(60)
    arrivals = on_time(
        [packet for i, packet in enumerate(sent(sequence)) if i not in (10, 11, 25) and not 30 <= i < 45]
    )
    heard = play(voices(correct_drift=False), arrivals, 0.7)
    receiver = Receiver(LAYOUT, frame_seconds=HOP, silence=silence_for(LAYOUT, silence_codes(small_codec())))
    expected, renderer, kinds = [], Renderer(small_codec(), 1), set()
    waiting = list(arrivals)
    for tick in range(round(0.7 / HOP)):
        while waiting and waiting[0][0] <= tick * HOP:
            time, packet = waiting.pop(0)
            receiver.push(packet, time)
        playable = receiver.pop(tick * HOP)
        kinds.add(playable.kind)
        silent = playable.kind is Kind.WAITING
        expected.append(np.zeros(SAMPLES) if silent else renderer.push(playable.codes, playable.gain)[:, 0])
    assert Kind.PLAYED in kinds
    assert kinds & {Kind.MISSING, Kind.STALLED}
    assert np.array_equal(heard, np.concatenate(expected).astype(np.float32))


def test_the_gain_goes_from_hop_to_hop_without_a_step() -> None:
    renderer, plain = Renderer(small_codec(), 1), Renderer(small_codec(), 1)
    gains, shares = [1.0, 0.5, 0.0, 0.0, 1.0, 1.0], []
    for i, gain in enumerate(gains):
        frame = codes(1, seed=i)[:, :, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            shares.append(renderer.push(frame, gain)[:, 0] / plain.push(frame)[:, 0])
    share = np.nan_to_num(np.concatenate(shares), nan=0.0)
    assert np.abs(np.diff(share)).max() < 2 / SAMPLES
    assert share[SAMPLES - 1 :: SAMPLES] == pytest.approx(gains, abs=1e-5)


def test_two_streams_are_added_and_kept_within_full_scale() -> None:
    one, two = codes(30), codes(30, seed=1)
    arrivals = on_time(sent(one)) + on_time(sent(two, stream=5))
    heard = play(voices(correct_drift=False), arrivals, 0.4)
    start = int(np.flatnonzero(heard)[0])
    both = np.clip(decoded(one) + decoded(two), -1, 1)
    assert np.array_equal(heard[start:], both[: len(heard) - start])


@pytest.mark.parametrize("farewell", [End(0, 20 * SAMPLES, 20), Left(0)])
def test_a_stream_that_ends_or_leaves_is_played_out_and_its_number_is_free(farewell) -> None:
    made = voices(correct_drift=False)
    play(made, [*on_time(sent(codes(20))), (0.28, farewell)], 0.5)
    assert (made.ended, made.speaking) == (1, 0)
    assert made.totals().played == 20
    made.hear(sent(codes(1))[0], 0.5)
    assert made.speaking == 1


def test_when_the_session_is_lost_its_streams_end_but_were_not_heard_to_their_ends() -> None:
    made = voices(correct_drift=False)
    play(made, on_time(sent(codes(20))), 0.2)
    made.hear(sent(codes(1), stream=1)[0], 0.2)
    made.hear(End(1, SAMPLES, 1), 0.2)
    made.lost(0.2)
    play(made, [], 0.5)
    assert (made.ended, made.speaking) == (1, 0)  # the one that had come whole


def test_more_streams_than_can_be_decoded_are_not_heard_but_counted() -> None:
    made = voices()
    for stream in range(MAX_VOICES + 2):
        for packet in sent(codes(2), stream=stream):
            made.hear(packet, 0.0)
    assert made.speaking == MAX_VOICES
    assert made.totals().refused_streams == 2
    made.hear(Left(0), 0.0)
    made.hear(Left(MAX_VOICES), 0.0)  # one of those that are not heard


def full_of(farewell: list[Mute]) -> Voices:
    """As many voices as can be, each with two frames at the start, then what is said of some of them."""
    codec = long_hops()
    made = Voices(codec, channels=1, correct_drift=False)
    made.begin(LAYOUT, silence_codes(codec))
    arrivals = [(0.0, packet) for stream in range(MAX_VOICES) for packet in sent(codes(2), stream=stream)]
    play(made, [*arrivals, *((0.1, mute) for mute in farewell)], 2.0)
    return made


@pytest.mark.parametrize("mutes", [[], [Mute(stream, 2) for stream in range(MAX_VOICES)]], ids=["stalled", "muted"])
def test_who_has_been_quiet_for_long_makes_room_for_who_speaks(mutes) -> None:
    made = full_of(mutes)
    made.hear(sent(codes(1), stream=MAX_VOICES)[0], 2.0)
    assert MAX_VOICES in made._voices
    assert (made.speaking, made.totals().refused_streams) == (MAX_VOICES, 0)
    assert made.totals().played == 2 * MAX_VOICES  # what was heard of the one that has gone is still counted


def test_who_made_room_has_a_voice_again_once_it_speaks_and_another_one_is_quiet() -> None:
    made = full_of([])
    made.hear(sent(codes(1), stream=MAX_VOICES)[0], 2.0)
    (gone,) = set(range(MAX_VOICES)) - set(made._voices)
    made.hear(sent(codes(3), stream=gone)[2], 2.0)
    assert gone in made._voices
    assert made.speaking == MAX_VOICES


def test_who_paused_for_less_than_a_second_keeps_its_voice() -> None:
    made = full_of([])
    for voice in made._voices.values():
        voice.quiet_since = 1.5
    made.hear(sent(codes(1), stream=MAX_VOICES)[0], 2.0)
    assert MAX_VOICES not in made._voices
    assert (made.refused, made.totals().refused_streams) == (1, 1)
    made.hear(sent(codes(2), stream=MAX_VOICES)[1], 3.0)
    assert MAX_VOICES in made._voices
    assert (made.refused, made.totals().refused_streams) == (0, 1)


def test_a_stream_that_made_room_has_ended_with_its_end() -> None:
    made = full_of([])
    made.hear(sent(codes(1), stream=MAX_VOICES)[0], 2.0)
    (gone,) = set(range(MAX_VOICES)) - set(made._voices)
    made.hear(End(gone, 2 * 1280, 2), 2.0)
    assert made.ended == 1


@pytest.mark.parametrize("muted", [False, True])
def test_streams_whose_ends_name_frames_that_never_came_make_room_for_others(muted) -> None:
    codec = long_hops()
    made = Voices(codec, channels=1, correct_drift=False)
    made.begin(LAYOUT, silence_codes(codec))
    for stream in range(MAX_VOICES):
        made.hear(sent(codes(1), stream=stream)[0], 0.0)
        if muted:
            made.hear(Mute(stream, 1), 0.0)
        made.hear(End(stream, 0, 11_000), 0.0)
    assert made.speaking == MAX_VOICES
    play(made, [], END_SECONDS + 0.5)
    assert (made.ended, made.speaking) == (MAX_VOICES, 0)
    made.hear(sent(codes(1), stream=MAX_VOICES)[0], 2.0)
    assert (made.speaking, made.totals().refused_streams) == (1, 0)


@pytest.mark.parametrize("drift", [0.003, -0.003])
def test_a_clock_that_is_off_is_followed_by_the_speed(drift) -> None:
    codec, counts = long_hops(), {}
    hop = codec.hop_length / codec.sample_rate
    packets = sent(codes(800))
    arrivals = [(packet.first_frame * hop / (1 + drift) + 0.01, packet) for packet in packets]
    for correct in (True, False):
        made = Voices(codec, channels=1, correct_drift=correct)
        made.begin(LAYOUT, silence_codes(codec))
        play(made, arrivals, 40.0)
        (voice,) = made._voices.values()
        counts[correct] = made.totals()
        if correct:
            assert voice.receiver.drift.drift == pytest.approx(drift, abs=2e-4)
            assert abs(voice.receiver.jitter.excess(40.0)) < 2 * hop
    # Before there is an estimate, after ten seconds, a hop may be missed.
    assert counts[True].concealed + counts[True].dropped <= 1
    assert counts[False].concealed + counts[False].dropped > 1


def exact() -> Exact:
    silence = silence_codes(small_codec())
    return Exact(small_codec(), layout=LAYOUT, silence=silence, counts=HeardCounts())


def hear_exactly(made: Exact, messages: list) -> np.ndarray:
    blocks = [block for message in messages for block in made.hear(message)] + list(made.lost())
    return np.concatenate([np.zeros((0, 1), np.float32), *blocks])[:, 0]


def test_every_frame_is_heard_exactly_and_the_end_cuts_the_padding() -> None:
    sequence, made = codes(12), exact()
    heard = hear_exactly(made, [*sent(sequence, frames_per_packet=5), End(0, 12 * SAMPLES - 100, 12)])
    assert np.array_equal(heard, decoded(sequence)[:-100])
    assert made.ended == 1
    assert made.counts.played == 12


def test_lost_packets_come_back_coarse_or_are_concealed_and_time_stays_right() -> None:
    sequence, made = codes(30), exact()
    packets = sent(sequence, redundancy_frames=2, redundancy_codebooks=1)
    heard = hear_exactly(
        made, [*(p for i, p in enumerate(packets) if i != 5 and not 10 <= i < 18), End(0, 30 * SAMPLES, 30)]
    )
    assert len(heard) == 30 * SAMPLES
    assert (made.counts.played, made.counts.recovered, made.counts.concealed) == (21, 3, 6)
    assert np.array_equal(heard[: 5 * SAMPLES], decoded(sequence)[: 5 * SAMPLES])


def test_the_end_tells_of_frames_lost_before_it() -> None:
    heard = hear_exactly(made := exact(), [*sent(codes(10))[:7], End(0, 10 * SAMPLES, 10)])
    assert len(heard) == 10 * SAMPLES
    assert made.counts.concealed == 3


def test_an_end_far_beyond_what_came_is_concealed_for_a_second() -> None:
    heard = hear_exactly(made := exact(), [*sent(codes(5)), End(0, 45_000 * SAMPLES, 45_000)])
    assert len(heard) == (5 + 75) * SAMPLES
    assert made.counts.concealed == 75


def test_an_end_long_after_a_mute_is_silence_up_to_there() -> None:
    heard = hear_exactly(made := exact(), [*sent(codes(5)), Mute(0, 5), End(0, 200 * SAMPLES, 200)])
    assert len(heard) == 200 * SAMPLES
    assert made.counts.concealed == 0


def test_muted_frames_are_silence_and_not_counted_as_lost() -> None:
    made, sender, sequence = exact(), Sender(LAYOUT), codes(20)
    messages = [*sender.push(sequence[:, :, :10]), *sender.mute(20), *sender.push(sequence[:, :, 10:])]
    heard = hear_exactly(made, messages)
    assert len(heard) == 40 * SAMPLES
    assert not heard[12 * SAMPLES : 29 * SAMPLES].any()
    assert made.counts.concealed == 0


def test_a_mute_that_is_said_again_does_not_make_what_was_muted_before_it_lost() -> None:
    made, sender, sequence = exact(), Sender(LAYOUT, mute_frames=80), codes(20)
    messages = [*sender.push(sequence[:, :, :10])]
    for _ in range(200):
        messages += sender.mute(1)
    messages += sender.push(sequence[:, :, 10:])
    assert [message.first_frame for message in messages if isinstance(message, Mute)] == [10, 90, 170]
    heard = hear_exactly(made, [*messages, *sender.push(codes(3))[1:]])
    assert len(heard) == 223 * SAMPLES
    assert made.counts.concealed == 1  # after the pause frames are lost as ever


@pytest.mark.parametrize("start", [0, 65_500])
@pytest.mark.parametrize(
    ("pieces", "lost", "concealed"),
    [
        pytest.param([10, -20, 3, 10], [10, 11, 12], 3, id="after-a-mute"),
        pytest.param([10, -20, 3, -20, 10], [10, 11, 12], 3, id="between-two-mutes"),
        pytest.param([10, -20, 30, -90, 10], [*range(10, 40)], 30, id="between-a-mute-and-one-said-again"),
        pytest.param([10, -20, 3, 10], [8, 9], 2, id="before-a-mute"),
        pytest.param([10, -20, 3, 10], [8, 9, 10], 3, id="on-either-side"),
        pytest.param([10, -20, 3, 10], [], 0, id="none"),
    ],
)
def test_packets_lost_in_what_is_taken_for_silence_are_counted(pieces, lost, concealed, start) -> None:
    sender, made, messages = Sender(LAYOUT), exact(), []
    sender.packets = start
    for frames in pieces:
        messages += sender.push(codes(frames)) if frames > 0 else sender.mute(-frames)
    messages += sender.end(sender.frames * SAMPLES)
    gone = {(start + number) % 65_536 for number in lost}
    heard = hear_exactly(made, [m for m in messages if not isinstance(m, Packet) or m.sequence not in gone])
    assert len(heard) == sender.frames * SAMPLES
    assert made.counts.concealed == concealed


def test_what_came_twice_or_back_coarse_is_not_counted_as_lost_in_a_mute() -> None:
    made, sender = exact(), Sender(LAYOUT, redundancy_frames=2, redundancy_codebooks=1)
    before, mute = sender.push(codes(10)), sender.mute(20)
    after = sender.push(codes(10))
    hear_exactly(made, [*before, *mute, before[5], before[9], *after[1:]])
    assert (made.counts.recovered, made.counts.concealed) == (1, 0)


def test_a_stream_that_a_lost_session_cut_off_has_not_ended() -> None:
    made = exact()
    heard = hear_exactly(made, [*sent(codes(5))])
    assert np.array_equal(heard, decoded(codes(5)))
    assert made.ended == 0


def test_duplicates_and_old_packets_add_nothing() -> None:
    packets = sent(codes(6))
    heard = hear_exactly(exact(), [*packets[:4], packets[2], packets[3], *packets[4:]])
    assert np.array_equal(heard, decoded(codes(6)))


def test_one_speaks_after_the_other_and_who_interrupts_is_not_heard() -> None:
    one, two, made = codes(5), codes(5, seed=1), exact()
    others = sent(two, stream=1)
    late = [dataclasses.replace(packet, stream=2) for packet in sent(two)]
    heard = hear_exactly(made, [*sent(one), *others[:3], Left(0), *late, End(2, 5 * SAMPLES, 5)])
    assert np.array_equal(heard, np.concatenate([decoded(one), decoded(two)]))
    assert made.counts.refused_streams == 1
    assert (made.ended, made.left) == (1, 1)


def test_who_joins_late_hears_from_there_on_and_the_end_is_still_right() -> None:
    made, sequence = exact(), codes(10)
    heard = hear_exactly(made, [*sent(sequence)[4:], Mute(0, 10), End(0, 10 * SAMPLES - 50, 10)])
    assert len(heard) == 6 * SAMPLES - 50
