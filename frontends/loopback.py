"""The live path in one loop: a source's hops through encoder, packets and decoder into a sink, in real time, measured."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from streamdac.errors import BadDataError

from .figures import Histogram

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamdac.codec import Codec
    from streamdac.frontend import Sink, Source
    from streamdac.protocols.netsim import Network

    Block = npt.NDArray[np.float32]  # [T, C]


@dataclass
class Report:
    """What `live` measured. Times in ms."""

    model: str
    executor: str
    seconds: float = 0.0
    hops: int = 0
    codebooks: int = 0
    kbps: float = 0.0
    """Of the codes alone."""
    wire_kbps: float = 0.0
    """With packets, one hop each."""
    algorithmic_ms: float = 0.0
    """One hop and the model's look-ahead."""
    resampling_ms: float = 0.0
    compute_p50_ms: float = 0.0
    compute_p99_ms: float = 0.0
    compute_max_ms: float = 0.0
    total_p50_ms: float | None = None
    """Measured where paced: from a sample's time to its being written, for the oldest sample of each hop."""
    total_max_ms: float | None = None
    realtime_factor: float | None = None
    """Seconds of audio per second of compute; None where it ended before anything was heard of it."""
    late_hops: int | None = None
    """Hops whose compute ended after the next hop was complete."""
    snr_db: float | None = None
    log_spectral_distance_db: float | None = None

    def lines(self) -> list[str]:
        """For people."""

        def fraction(value: float | None, unit: str) -> str:
            return "not measured" if value is None else f"{value:.1f} {unit}"

        late = "lateness not measured" if self.late_hops is None else f"{self.late_hops} late"
        lines = [
            f"model        {self.model} ({self.executor})",
            f"audio        {self.seconds:.2f} s, {self.hops} hops, {late}",
            f"bitrate      {self.kbps:.2f} kbps with {self.codebooks} codebooks, {self.wire_kbps:.2f} kbps in packets",
            f"latency      algorithmic {self.algorithmic_ms:.1f} ms + resampling {self.resampling_ms:.1f} ms + compute "
            f"{self.compute_p50_ms:.2f} ms (p99 {self.compute_p99_ms:.2f}, max {self.compute_max_ms:.2f})",
            f"measured     p50 {fraction(self.total_p50_ms, 'ms')}, max {fraction(self.total_max_ms, 'ms')}",
            f"speed        {fraction(self.realtime_factor, 'x real time')}",
        ]
        if self.snr_db is not None and self.log_spectral_distance_db is not None:
            lines.append(
                f"quality      SNR {self.snr_db:.1f} dB, log-spectral distance {self.log_spectral_distance_db:.1f} dB"
            )
        return lines


_KEPT_SECONDS = 600  # of audio, for quality figures and plots; beyond that they are of the start only


@dataclass
class Loop:
    """One run of the live path."""

    codec: Codec
    source: Source
    sink: Sink
    codebooks: int | None = None
    vbr: bool = False
    pace: bool = True
    keep: bool = True
    seconds: float | None = None
    """Of the source; all of it where None."""
    network: Network | None = None
    """What the packets pass through."""
    name: str = "the source"
    record: BinaryIO | None = None
    """Takes the stream as it was sent."""
    compute: Histogram = field(default_factory=Histogram)
    totals: Histogram = field(default_factory=Histogram)

    def run(self) -> None:
        """Until the source ends or the user interrupts.

        Raises:
            BadDataError: the source gave no audio.
        """
        from streamdac.protocols.netsim import Link, Network

        from .coding import StreamDecoding, StreamEncoding
        from .varirate import LiveConverter

        rate, channels, model_rate = self.source.sample_rate, self.source.channels, self.codec.sample_rate
        self.encoding = StreamEncoding(
            self.codec,
            sample_rate=model_rate,
            channels=channels,
            n_codebooks=self.codebooks,
            frames_per_packet=1,
            vbr=self.vbr,
        )
        self.decoding = StreamDecoding(self.codec, live=True)
        self._in, self._out = LiveConverter(rate, model_rate, channels), LiveConverter(model_rate, rate, channels)
        self._link: Link[bytes] = Link(self.network or Network(delay=0.0))
        self._heard: list[Block] = []
        self._played: list[Block] = []
        self._read = self._written = self._bytes = self._late = 0
        # A device gives the pace by itself, and its own delay is not seen from here.
        self._paced = self.pace and not any(getattr(end, "live", False) for end in (self.source, self.sink))
        self._warm_up(channels)
        self._started = time.perf_counter()
        self._carry(self.encoding.start(), time.perf_counter(), sure=True)
        with suppress(KeyboardInterrupt):  # the ordinary end of a live run: what came so far is finished below
            self._loop(rate)
        start = time.perf_counter()
        rest = self.encoding.push(self._in.flush())
        self._carry(rest + self.encoding.finish(), start, sure=True)
        for block in self.decoding.finish():
            self._write(self._out.push(block))
        self._write(self._out.flush()[: self._read - self._written])
        if not self._read:
            raise BadDataError(f"{self.name} gave no audio")

    def _loop(self, rate: int) -> None:
        hop = self.codec.hop_length / self.codec.sample_rate
        hops = 0
        end = float("inf") if self.seconds is None else round(self.seconds * rate)
        while (
            self._read < end
            and (block := self._next(round((hops + 1) * hop * rate) - round(hops * hop * rate))) is not None
        ):
            hops += 1
            due = self._started + self._read / rate
            if self._paced:
                _sleep_until(due)
            start = time.perf_counter()
            self._carry(self.encoding.push(self._in.push(block)), start)
            # Late: this hop was not done when the next one was complete.
            self._late += time.perf_counter() > due + hop

    def _next(self, samples: int) -> Block | None:
        """One hop of the source, put together from what it gives."""
        import numpy as np

        parts: list[Block] = []
        while samples and (block := self.source.read(samples)) is not None:
            parts.append(block)
            samples -= len(block)
            self._read += len(block)
        if not parts:
            return None
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.keep and self._read < _KEPT_SECONDS * self.source.sample_rate:
            self._heard.append(whole)
        return whole

    def _carry(self, data: bytes, start: float, *, sure: bool = False) -> None:
        """Packets over the loop to the decoder, its audio to the sink; start and end are sure to arrive."""
        self._bytes += len(data)
        if self.record is not None:
            self.record.write(data)
        if data and not sure:
            self._link.send(data, len(data), start)
            data = b"".join(packet for _, packet in self._link.receive(start))
        blocks = [self._out.push(block) for block in self.decoding.feed(data)]
        if blocks:
            self.compute.add(1000 * (time.perf_counter() - start))
        for block in blocks:
            self._write(block)

    def _write(self, block: Block) -> None:
        if not len(block):
            return
        if self._paced:
            late = time.perf_counter() - self._started - self._written / self.source.sample_rate
            self.totals.add(1000 * late)
        self._written += len(block)
        self.sink.write(block)
        if self.keep and self._written < _KEPT_SECONDS * self.source.sample_rate:
            self._played.append(block)

    def _warm_up(self, channels: int) -> None:
        """A few hops of silence through streams of their own: the first calls of a process are slow."""
        import numpy as np

        encoder, decoder = self.codec.encoder(batch=channels), self.codec.decoder(batch=channels)
        for _ in range(4):
            decoder.push(encoder.push(np.zeros((channels, 1, 4 * self.codec.hop_length), np.float32)))

    def heard(self) -> npt.NDArray[np.float32]:
        """What the source gave, mixed down `[T]`."""
        return _joined(self._heard)

    def played(self) -> npt.NDArray[np.float32]:
        """What the sink got, mixed down `[T]`."""
        return _joined(self._played)

    def report(self) -> Report:
        """What it measured, once it has run."""
        from streamdac.measure import log_spectral_distance_db, snr_db

        codec, seconds = self.codec, self._read / self.source.sample_rate
        codebooks = self.codebooks or codec.n_codebooks
        report = Report(
            model=codec.name,
            executor=codec.executor.name,
            seconds=seconds,
            hops=self.encoding.writer.frames,
            codebooks=codebooks,
            kbps=self.encoding.hops.kbps,
            wire_kbps=8 * self._bytes / seconds / 1000,
            algorithmic_ms=1000 * (codec.hop_length + codec.lookahead) / codec.sample_rate,
            resampling_ms=1000 * (self._in.delay + self._out.delay),
            compute_p50_ms=self.compute.percentile(50),
            compute_p99_ms=self.compute.percentile(99),
            compute_max_ms=self.compute.worst,
            realtime_factor=1000 * seconds / self.compute.total if self.compute.total else None,
        )
        if self._paced:
            report.total_p50_ms = self.totals.percentile(50)
            report.total_max_ms = self.totals.worst
            report.late_hops = self._late
        if self.keep:
            figures = snr_db(self.heard(), self.played()), log_spectral_distance_db(self.heard(), self.played())
            report.snr_db, report.log_spectral_distance_db = (
                value if math.isfinite(value) else None for value in figures
            )
        return report


def _joined(blocks: list[Block]) -> npt.NDArray[np.float32]:
    import numpy as np

    mono: list[Any] = [block.mean(axis=1) for block in blocks]
    return np.concatenate(mono) if mono else np.zeros(0, np.float32)


def _sleep_until(moment: float) -> None:
    while (left := moment - time.perf_counter()) > 0:
        time.sleep(left)
