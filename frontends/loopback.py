"""The live path in one loop: a source's hops through encoder, packets and decoder into a sink, in real time, measured."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamdac import frontend
from streamdac.errors import UsageError

from .audio_files import check_output
from .options import force_option, load_codec, model_options

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamdac.codec import Codec
    from streamdac.frontend import Sink, Source

    from .coding import Block

# soxr's quick filter: the high-quality one would hold back 24 ms and more.
LIVE_QUALITY = "QQ"


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
    realtime_factor: float = 0.0
    """Seconds of audio per second of compute."""
    late_hops: int | None = None
    """Hops whose compute ended after the next hop was complete."""
    snr_db: float | None = None
    log_spectral_distance_db: float | None = None

    def lines(self) -> list[str]:
        """For people."""

        def fraction(value: float | None, unit: str) -> str:
            return "not measured (not paced)" if value is None else f"{value:.1f} {unit}"

        late = "not paced" if self.late_hops is None else f"{self.late_hops} late"
        lines = [
            f"model        {self.model} ({self.executor})",
            f"audio        {self.seconds:.2f} s, {self.hops} hops, {late}",
            f"bitrate      {self.kbps:.2f} kbps with {self.codebooks} codebooks, {self.wire_kbps:.2f} kbps in packets",
            f"latency      algorithmic {self.algorithmic_ms:.1f} ms + resampling {self.resampling_ms:.1f} ms + compute "
            f"{self.compute_p50_ms:.2f} ms (p99 {self.compute_p99_ms:.2f}, max {self.compute_max_ms:.2f})",
            f"measured     p50 {fraction(self.total_p50_ms, 'ms')}, max {fraction(self.total_max_ms, 'ms')}",
            f"speed        {self.realtime_factor:.1f} x real time",
        ]
        if self.snr_db is not None and self.log_spectral_distance_db is not None:
            lines.append(
                f"quality      SNR {self.snr_db:.1f} dB, log-spectral distance {self.log_spectral_distance_db:.1f} dB"
            )
        return lines


@click.command(short_help="The codec in a loop, in real time, hop by hop.")
@click.option("-i", "--input", "source_spec", required=True, help="A file, - or a source such as tone:440,5.")
@click.option(
    "-o", "--output", "sink_spec", default="null:", show_default=True, help="A file, - or a sink such as null:."
)
@click.option("-n", "--codebooks", type=int, default=None, help="Codebooks in use; all by default.")
@click.option("--pace/--no-pace", default=True, show_default=True, help="In real time, or flat out.")
@click.option("--plot", default=None, metavar="PNG", help="Spectrograms of input and output [extra: plot].")
@click.option("--json", "as_json", is_flag=True, help="One object instead of the report.")
@model_options
@force_option
def live(
    source_spec: str,
    sink_spec: str,
    codebooks: int | None,
    pace: bool,
    plot: str | None,
    as_json: bool,
    model: str | None,
    device: str,
    engine: str,
    threads: int | None,
    force: bool,
) -> None:
    """Loop audio through the codec as a call would: each hop is encoded, packed, unpacked, decoded and played.

    Files stand in for devices; they are read and written in real time unless --no-pace is given.
    """
    if plot:
        check_output(Path(plot), force=force)
    # One hop is too little work to share: one thread is fastest (measured by `streamdac bench --threads`).
    codec = load_codec(model, device, engine, threads or 1)
    source = frontend.open_source(source_spec, sample_rate=codec.sample_rate)
    complete = False
    try:
        sink = frontend.open_sink(sink_spec, sample_rate=source.sample_rate, channels=source.channels, force=force)
        try:
            loop = Loop(codec, source, sink, codebooks=codebooks, pace=pace, keep=plot is not None or not as_json)
            report = loop.run()
            complete = True
        finally:
            sink.close(complete=complete)
    finally:
        source.close()
    if plot:
        from .plots import spectrograms

        spectrograms(Path(plot), loop.heard(), loop.played(), source.sample_rate, title=report.lines()[2], force=force)
    # Where the audio itself goes to stdout, the report must not.
    click.echo(json.dumps(asdict(report)) if as_json else "\n".join(report.lines()), err=sink_spec == "-")


_KEPT_SECONDS = 600  # of audio, for quality figures and plots; beyond that they are of the start only


@dataclass
class Loop:
    """One run of the live path."""

    codec: Codec
    source: Source
    sink: Sink
    codebooks: int | None = None
    pace: bool = True
    keep: bool = True
    compute: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)

    def run(self) -> Report:
        """Until the source ends or the user interrupts."""
        from .coding import StreamDecoding, StreamEncoding

        rate, channels = self.source.sample_rate, self.source.channels
        self.encoding = StreamEncoding(
            self.codec, sample_rate=rate, channels=channels, n_codebooks=self.codebooks, frames_per_packet=1,
            quality=LIVE_QUALITY,
        )  # fmt: skip
        self.decoding = StreamDecoding(self.codec, live=True, quality=LIVE_QUALITY)
        self._heard: list[Block] = []
        self._played: list[Block] = []
        self._read = self._written = self._bytes = self._late = 0
        self._warm_up(channels)
        self._started = time.perf_counter()
        self._carry(self.encoding.start(), time.perf_counter())
        with suppress(KeyboardInterrupt):  # the ordinary end of a live run: what came so far is finished below
            self._loop(rate)
        start = time.perf_counter()
        self._carry(self.encoding.finish(), start)
        for block in self.decoding.finish():
            self._write(block)
        return self._report()

    def _loop(self, rate: int) -> None:
        hop = self.codec.hop_length / self.codec.sample_rate
        hops = 0
        while (block := self._next(round((hops + 1) * hop * rate) - round(hops * hop * rate))) is not None:
            hops += 1
            due = self._started + self._read / rate
            if self.pace and not getattr(self.source, "live", False):
                _sleep_until(due)
            start = time.perf_counter()
            self._carry(self.encoding.push(block), start)
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

    def _carry(self, data: bytes, start: float) -> None:
        """Packets over the loop to the decoder, its audio to the sink."""
        self._bytes += len(data)
        blocks = list(self.decoding.feed(data))
        if blocks:
            self.compute.append(time.perf_counter() - start)
        for block in blocks:
            self._write(block)

    def _write(self, block: Block) -> None:
        if self.pace:
            self.totals.append(time.perf_counter() - self._started - self._written / self.source.sample_rate)
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

    def _report(self) -> Report:
        from streamdac.bench import percentile
        from streamdac.measure import log_spectral_distance_db, snr_db

        codec, seconds = self.codec, self._read / self.source.sample_rate
        if not seconds:
            raise UsageError("the source gave no audio")
        codebooks = self.codebooks or codec.n_codebooks
        report = Report(
            model=codec.name,
            executor=codec.executor.name,
            seconds=seconds,
            hops=self.encoding.writer.frames,
            codebooks=codebooks,
            kbps=codec.config.bitrate(codebooks) * self.source.channels / 1000,
            wire_kbps=8 * self._bytes / seconds / 1000,
            algorithmic_ms=1000 * (codec.hop_length + codec.lookahead) / codec.sample_rate,
            resampling_ms=self._resampling_ms(),
            compute_p50_ms=1000 * percentile(self.compute, 50),
            compute_p99_ms=1000 * percentile(self.compute, 99),
            compute_max_ms=1000 * max(self.compute),
            realtime_factor=seconds / sum(self.compute),
        )
        if self.pace:
            report.total_p50_ms = 1000 * percentile(self.totals, 50)
            report.total_max_ms = 1000 * max(self.totals)
            report.late_hops = self._late
        if self.keep:
            figures = snr_db(self.heard(), self.played()), log_spectral_distance_db(self.heard(), self.played())
            report.snr_db, report.log_spectral_distance_db = (None if value != value else value for value in figures)
        return report

    def _resampling_ms(self) -> float:
        """What the two converters hold back while the stream runs."""
        from .coding import conversion_delay

        return 1000 * (
            conversion_delay(self.source.sample_rate, self.codec.sample_rate, LIVE_QUALITY)
            + conversion_delay(self.codec.sample_rate, self.source.sample_rate, LIVE_QUALITY)
        )


def _joined(blocks: list[Block]) -> npt.NDArray[np.float32]:
    import numpy as np

    mono: list[Any] = [block.mean(axis=1) for block in blocks]
    return np.concatenate(mono) if mono else np.zeros(0, np.float32)


def _sleep_until(moment: float) -> None:
    while (left := moment - time.perf_counter()) > 0:
        time.sleep(left)
