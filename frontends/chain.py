"""One hop of the live path, at the model's rate: gain, encode, packet, network, decode, and the original beside it.

Nothing here waits or knows a device; the settings may be changed from another thread and hold from the next hop on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from streamdac.protocols.conceal import Concealer
from streamdac.protocols.messages import Packet
from streamdac.protocols.netsim import Link, Network
from streamdac.protocols.packets import make_packet, packet_codes
from streamdac.protocols.stream import StreamWriter
from streamdac.protocols.wire import decode, encode

from .coding import stream_header, written
from .figures import Histogram, Meter
from .hops import HopDecoder, HopEncoder, runs

if TYPE_CHECKING:
    from streamdac.codec import Codec

Block = npt.NDArray[np.float32]  # [T, C]
CodeArray = npt.NDArray[np.int64]  # [K, C, F]

START_SECONDS = 0.5  # in which the output rises from silence, so that a loop that howls is heard coming


@dataclass
class Settings:
    """What keys change while it runs."""

    codebooks: int
    gain: float = 1.0
    muted: bool = False
    """The input is silence."""
    vbr: bool = False
    """Fewer codebooks where it is quieter; as it was at the start."""
    original: bool = False
    """The output is the input, as late as the coded audio would be."""


class Chain:
    """Blocks `[T, C]` in, blocks out: whole hops of a causal model give as many samples as they have.

    Args:
        codec: the model.
        channels: columns, each a row of the codec.
        settings: shared with whoever changes them.
        network: what the packets pass through; None for nothing.
        record: takes a `.sdac` stream of the codes that were sent.
        seed: of the network.
        ramp: rise from silence.
    """

    def __init__(
        self,
        codec: Codec,
        channels: int,
        settings: Settings,
        *,
        network: Network | None = None,
        record: BinaryIO | None = None,
        seed: int = 0,
        ramp: bool = True,
    ) -> None:
        self.codec, self.channels, self.settings = codec, channels, settings
        header = stream_header(codec, channels, codec.sample_rate)
        self._layout = header.layout
        self._encoder = HopEncoder(
            codec, sample_rate=codec.sample_rate, channels=channels, n_codebooks=settings.codebooks, vbr=settings.vbr
        )
        self._decoder = HopDecoder(codec, channels=channels)
        self._link: Link[bytes] = Link(network or Network(delay=0.0), seed=seed)
        self._concealer = Concealer(
            self._layout, silence=_silence(codec, channels) if network else None, foretells=codec.foretells
        )
        self._record = record
        self._writer = StreamWriter(header)
        if record is not None:
            record.write(self._writer.start())
        self._dry: Block = np.zeros((0, channels), np.float32)
        self._gain = 0.0 if settings.muted else settings.gain
        self._mix = float(settings.original)  # share of the original in the output
        self._level = 1.0  # of the concealed codes
        self._risen = 0 if ramp else round(START_SECONDS * codec.sample_rate)
        self.frames = 0
        self.bytes = 0
        self.lost = 0
        self.encode_ms, self.decode_ms = Histogram(), Histogram()
        self.input, self.output = Meter(), Meter()

    @property
    def kbps(self) -> float:
        """Of the codes in use alone; where their number varies, the mean so far."""
        if self.settings.vbr:
            return self._encoder.kbps
        return self.codec.config.bitrate(self.settings.codebooks) * self.channels / 1000

    @property
    def wire_kbps(self) -> float:
        """Of the packets so far."""
        seconds = self.frames * self.codec.hop_length / self.codec.sample_rate
        return 8 * self.bytes / seconds / 1000 if seconds else 0.0

    def push(self, block: Block) -> Block:
        """The audio now complete, at the model's rate."""
        start = time.perf_counter()
        block = self._amplified(block)
        self._dry = np.concatenate([self._dry, block])
        if self._encoder.encoder.n_codebooks != self.settings.codebooks:
            self._encoder.encoder.n_codebooks = self.settings.codebooks
        codes = self._encoder.push(block)
        if self._record is not None:
            self._record.write(written(self._writer, codes))
        between = time.perf_counter()
        frames = (run[:, :, at : at + 1] for run in runs(codes) for at in range(run.shape[2]))
        parts = [self._frame(frame) for frame in frames]
        out = np.concatenate(parts) if parts else block[:0]
        out = self._finished(out)
        if parts:
            self.encode_ms.add(1000 * (between - start))
            self.decode_ms.add(1000 * (time.perf_counter() - between))
        return out

    def finish(self) -> None:
        """The end of the recorded stream."""
        codes = self._encoder.flush()
        if self._record is not None:
            self._record.write(written(self._writer, codes) + self._writer.end(self._encoder.taken))

    def _amplified(self, block: Block) -> Block:
        """Gain and mute, ramped over the block; what a driver gives beyond full scale, or as NaN, ends here."""
        target = 0.0 if self.settings.muted else self.settings.gain
        if target != self._gain:
            block = block * np.linspace(self._gain, target, len(block), dtype=np.float32)[:, None]
            self._gain = target
        elif target != 1.0:
            block = block * np.float32(target)
        block = np.clip(np.nan_to_num(block), -1.0, 1.0).astype(np.float32)
        self.input.add(block, len(block) / self.codec.sample_rate)
        return block

    def _frame(self, codes: CodeArray) -> Block:
        """One frame through the network and the decoder."""
        now = self.frames * self.codec.hop_length / self.codec.sample_rate
        packet = make_packet(self._layout, codes, sequence=self.frames, first_frame=self.frames)
        data = encode(packet)
        self.frames += 1
        self.bytes += len(data)
        self._link.send(data, len(data), now)
        arrived = self._link.receive(now)
        if not arrived:
            return self._concealed()
        message = decode(arrived[-1][1])
        assert isinstance(message, Packet)
        received = packet_codes(self._layout, message)
        self._concealer.played(received[:, :, 0])
        return self._ramped(self._decoder.push(received), 1.0)

    def _concealed(self) -> Block:
        self.lost += 1
        patch = self._concealer.patch()
        return self._ramped(self._decoder.push(patch.codes[:, :, None]), patch.gain)

    def _ramped(self, block: Block, gain: float) -> Block:
        before, self._level = self._level, gain
        if before == gain == 1.0:
            return block
        return block * np.linspace(before, gain, len(block), dtype=np.float32)[:, None]

    def _finished(self, coded: Block) -> Block:
        """Coded or original, the change faded over the block; the rise at the start; never beyond full scale."""
        dry, self._dry = self._dry[: len(coded)], self._dry[len(coded) :]
        target = float(self.settings.original)
        out = coded
        if target != self._mix and len(coded):
            share = np.linspace(self._mix, target, len(coded), dtype=np.float32)[:, None]
            out = coded * (1 - share) + dry * share
            self._mix = target
        elif target:
            out = dry
        rise = round(START_SECONDS * self.codec.sample_rate)
        if self._risen < rise:
            out = out * np.minimum(1, np.arange(self._risen, self._risen + len(out), dtype=np.float32) / rise)[:, None]
            self._risen += len(out)
        out = np.clip(out, -1.0, 1.0)
        self.output.add(out, len(out) / self.codec.sample_rate)
        return out


def _silence(codec: Codec, channels: int) -> CodeArray:
    """Codes `[K, C]` of silence, once the encoder has settled."""
    codes: CodeArray = codec.encode(np.zeros(128 * codec.hop_length, np.float32))
    return np.repeat(codes[0, :, 64:65], channels, axis=1)
