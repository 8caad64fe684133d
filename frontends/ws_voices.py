"""The streams that are heard: each with its jitter buffer, decoder, concealment and playback speed, mixed hop by hop.

Messages come from the event loop, `mix` is called by the playback thread; a lock is held for the buffers, not for decoding.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamdac.protocols.jitter import Kind
from streamdac.protocols.messages import End, Layout, Left, Mute, Packet, Stats
from streamdac.protocols.receiver import Playable, Receiver

from .varirate import VariableResampler

if TYPE_CHECKING:
    from streamdac.codec import Codec

Block = npt.NDArray[np.float32]  # [T, C]
CodeArray = npt.NDArray[np.int64]  # [K, C, F]

MAX_VOICES = 8  # decoded at once
MIN_DELAY = 0.02  # s, of the jitter buffer
MAX_DELAY = 1.0
END_SECONDS = 1.0  # concealed at most of what an End names and did not come
QUIET_SECONDS = 1.0  # after which a voice makes room for another one
_QUIET = Kind.MUTED, Kind.STALLED, Kind.WAITING
_SETTLED = 32  # frames after which an encoder of silence gives the codes of silence


def silence_codes(codec: Codec) -> CodeArray:
    """The codes `[K, 1]` of digital silence, of one channel and all codebooks."""
    zeros = np.zeros(2 * _SETTLED * codec.hop_length, np.float32)
    codes: CodeArray = codec.encode(zeros)[0, :, _SETTLED : _SETTLED + 1]
    return codes


def silence_for(layout: Layout, silence: CodeArray) -> CodeArray:
    """The codes `[K, C]` of silence as a session has them."""
    return np.repeat(silence[: layout.codebooks], layout.channels, axis=1)


def end_frames(frame_seconds: float) -> int:
    """Frames of `END_SECONDS`."""
    return math.ceil(END_SECONDS / frame_seconds)


class Renderer:
    """Codes `[K, C]` of one hop after another to audio `[hop, C]`, with a gain that ramps over each hop."""

    def __init__(self, codec: Codec, channels: int) -> None:
        self._decoder = codec.decoder(batch=channels)
        self._gain = 1.0

    def push(self, codes: CodeArray, gain: float = 1.0) -> Block:
        """The audio now complete."""
        audio: Block = self._decoder.push(np.ascontiguousarray(codes.T[:, :, None]))[:, 0].T
        before, self._gain = self._gain, gain
        if before == gain == 1.0 or not len(audio):
            return audio
        ramp = np.linspace(before, gain, len(audio) + 1, dtype=np.float32)[1:]
        return audio * ramp[:, None]

    def flush(self) -> Block:
        """The rest, of a model that looks ahead."""
        audio: Block = self._decoder.flush()[:, 0].T
        return audio * np.float32(self._gain)


@dataclass(slots=True)
class HeardCounts:
    """Frames of all streams so far."""

    played: int = 0
    recovered: int = 0
    concealed: int = 0
    dropped: int = 0
    lost_packets: int = 0
    late_packets: int = 0
    refused_streams: int = 0  # more than `MAX_VOICES` at once


class Voice:
    """One stream."""

    def __init__(
        self, codec: Codec, layout: Layout, silence: CodeArray, *, correct_drift: bool, min_delay: float
    ) -> None:
        self.frame_seconds = codec.hop_length / codec.sample_rate
        self.receiver = Receiver(
            layout,
            frame_seconds=self.frame_seconds,
            silence=silence,
            foretells=codec.foretells,
            min_delay=min_delay,
            max_delay=MAX_DELAY,
        )
        self.over = False
        self.cut_off = False  # by the loss of the session
        self.quiet_since: float | None = None  # nothing has been there to play
        self._renderer = Renderer(codec, layout.channels)
        rate = codec.sample_rate
        self._speed = VariableResampler(rate, rate, layout.channels) if correct_drift else None
        # A model that looks ahead gives its audio later, and the resampler holds some back: first comes silence instead,
        # so that each hop takes one frame.
        self._hop, self._ahead = codec.hop_length, codec.plan.decoder_lookahead
        self._held = 0  # samples of frames that the decoder has, and has not given
        first = self._ahead + (self._speed.delay if self._speed else 0)
        self._ready: Block = np.zeros((first, layout.channels), np.float32)
        self._ended = False  # all frames are taken
        self._newest = 0

    def hear(self, message: Packet | Mute | End | Left, now: float) -> None:
        """Take a message; under the lock."""
        if isinstance(message, Left):
            message = End(message.stream, 0, self._newest)
        if isinstance(message, End):  # what a Mute leaves silent up to it is silent without it, too
            message = replace(message, frames=min(message.frames, self._newest + end_frames(self.frame_seconds)))
        if isinstance(message, Packet):
            self._newest = max(self._newest, message.first_frame + message.frames)
        self.receiver.push(message, now)

    def take(self, samples: int, now: float, lock: threading.Lock) -> Block:
        """The next so many samples."""
        while len(self._ready) + self._held < samples + self._ahead and not self._ended:
            with lock:
                playable = self.receiver.pop(now)
                if playable.kind not in _QUIET:
                    self.quiet_since = None
                elif self.quiet_since is None:
                    self.quiet_since = now
                if self._speed:
                    self._speed.speed = self.receiver.speed(now)
            self._ready = np.concatenate([self._ready, self._play(playable, samples)])
        block, self._ready = self._ready[:samples], self._ready[samples:]
        self.over = self._ended and not len(self._ready)
        if len(block) < samples:
            block = np.concatenate([block, self._silence(samples - len(block))])
        return block

    def delay(self, now: float) -> float:
        """Seconds from when a frame could have come to when it is heard; under the lock."""
        jitter = self.receiver.jitter
        ahead = self._ahead / self._hop * self.frame_seconds
        return jitter.delay.target + max(0.0, jitter.excess(now)) + ahead

    def _play(self, playable: Playable, samples: int) -> Block:
        if playable.kind is Kind.WAITING:
            # Before the first frame the decoder is left alone, so that it begins where the sender's encoder did.
            return self._silence(samples + self._ahead - len(self._ready))
        if playable.kind is Kind.ENDED:
            self._ended = True
            audio = self._renderer.flush()
            if self._speed:
                audio = np.concatenate([audio, self._silence(self._speed.delay)])
        else:
            audio = self._renderer.push(playable.codes, playable.gain)
            self._held += self._hop - len(audio)
        return self._speed.push(audio) if self._speed else audio

    def _silence(self, samples: int) -> Block:
        return np.zeros((samples, self._ready.shape[1]), np.float32)


class Voices:
    """All streams of a session; what of an earlier session still plays, plays on."""

    def __init__(
        self, codec: Codec, *, channels: int, correct_drift: bool = True, min_delay: float = MIN_DELAY
    ) -> None:
        self.codec, self.channels = codec, channels
        self.counts = HeardCounts()
        self.ended = 0  # streams that have been played to their end; not those that a lost session cut off
        self._correct_drift, self._min_delay = correct_drift, min_delay
        self._lock = threading.Lock()
        self._layout: Layout | None = None
        self._silence: CodeArray = np.zeros((1, channels), np.int64)
        self._voices: dict[int, Voice] = {}  # by stream, of the session that is open
        self._fading: list[Voice] = []  # no more messages come for these
        self._refused: set[int] = set()
        self._made_room: set[int] = set()  # streams that have no voice until they speak again

    def begin(self, layout: Layout, silence: CodeArray) -> None:
        """A session has opened; `silence` is what `silence_codes` gives."""
        self._layout, self._silence = layout, silence_for(layout, silence)

    def lost(self, now: float) -> None:
        """The session is gone."""
        with self._lock:
            for stream, voice in self._voices.items():
                voice.hear(Left(stream), now)
                voice.cut_off = True
                self._fading.append(voice)
            self._voices.clear()
            self._refused.clear()
            self._made_room.clear()

    def hear(self, message: Packet | Mute | End | Left, now: float) -> None:
        """Take a message of the session."""
        with self._lock:
            voice = self._voice(message, now)
            if voice is None:
                return
            voice.hear(message, now)
            if isinstance(message, End | Left):
                self._fading.append(self._voices.pop(message.stream))

    def mix(self, now: float) -> Block:
        """The next hop `[hop, C]` of all streams together."""
        with self._lock:
            voices = [*self._fading, *self._voices.values()]
        samples = self.codec.hop_length
        mixed = np.zeros((samples, self.channels), np.float32)
        for voice in voices:
            mixed = mixed + voice.take(samples, now, self._lock)
        with self._lock:
            for voice in [voice for voice in self._fading if voice.over]:
                self._fading.remove(voice)
                self._add_counts(self.counts, voice)
                self.ended += not voice.cut_off
        return np.clip(mixed, -1, 1)

    def reports(self, now: float, round_trip: float | None) -> list[Stats]:
        """To the server, on each stream."""
        with self._lock:
            return [voice.receiver.stats(stream, now, round_trip=round_trip) for stream, voice in self._voices.items()]

    def totals(self) -> HeardCounts:
        """Of the streams that are over and of those that are not."""
        with self._lock:
            counts = HeardCounts(*(getattr(self.counts, name) for name in HeardCounts.__slots__))
            for voice in [*self._fading, *self._voices.values()]:
                self._add_counts(counts, voice)
        return counts

    def delay(self, now: float) -> float:
        """Seconds that the jitter buffer and a decoder that looks ahead hold back, the longest."""
        with self._lock:
            return max((voice.delay(now) for voice in self._voices.values()), default=0.0)

    @property
    def refused(self) -> int:
        """Streams that are not heard."""
        return len(self._refused)

    @property
    def speaking(self) -> int:
        """Streams that are heard."""
        return len(self._voices) + len(self._fading)

    def drift(self) -> float:
        """The fastest or slowest sender's clock against ours."""
        with self._lock:
            return max((voice.receiver.drift.drift for voice in self._voices.values()), key=abs, default=0.0)

    def _voice(self, message: Packet | Mute | End | Left, now: float) -> Voice | None:
        """The stream's voice; a new one for a Packet, if there is room."""
        voice = self._voices.get(message.stream)
        if isinstance(message, End | Left):
            self._refused.discard(message.stream)
            self.ended += message.stream in self._made_room
            self._made_room.discard(message.stream)
        if voice is not None or not isinstance(message, Packet) or self._layout is None:
            return voice
        if len(self._voices) + len(self._fading) >= MAX_VOICES and not self._make_room(now):
            self.counts.refused_streams += message.stream not in self._refused
            self._refused.add(message.stream)
            return None
        self._made_room.discard(message.stream)
        self._refused.discard(message.stream)
        voice = self._voices[message.stream] = Voice(
            self.codec, self._layout, self._silence, correct_drift=self._correct_drift, min_delay=self._min_delay
        )
        return voice

    def _make_room(self, now: float) -> bool:
        """Let the voice go that has been quiet for longest; False where none has been so for long enough."""
        quiet = [(voice.quiet_since, stream) for stream, voice in self._voices.items() if voice.quiet_since is not None]
        since, stream = min(quiet, default=(now, -1))
        if now - since < QUIET_SECONDS:
            return False
        self._add_counts(self.counts, self._voices.pop(stream))
        self._made_room.add(stream)
        return True

    @staticmethod
    def _add_counts(counts: HeardCounts, voice: Voice) -> None:
        jitter, arrivals = voice.receiver.jitter.counts, voice.receiver.arrivals.total
        counts.played += jitter.played
        counts.recovered += jitter.recovered
        counts.concealed += jitter.missing + jitter.stalled
        counts.dropped += jitter.dropped + jitter.flushed + jitter.passed
        counts.lost_packets += arrivals.lost
        counts.late_packets += arrivals.late
