"""Clips through the codec as it streams, and through Opus, at several bitrates; metrics of every clip, and their means."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from streamdac.allocation import BITS_PER_HOP
from streamdac.codec import Codec
from streamdac.errors import BadDataError, StreamdacError, UnavailableError
from streamdac.signals import ignore_keyboard_and_hang_up
from streamdac.workers import when_parent_ends

from .data import HeldOutClip
from .metrics import compare
from .opus import OPUSENC_KBPS, OpusClip, require_opus, through_opus

Signal = npt.NDArray[np.float32]  # [T]
Codes = npt.NDArray[np.int64]  # [K, F]
T = TypeVar("T")

_OPUS_TRIES = 8
_OPUS_CLOSE = 0.01  # of the wanted bitrate
_OPUS_HIGHEST = 64.0  # kbps, nominal: as far as is searched
_CHUNK_HOPS = 4  # at most, of what is pushed at once


@dataclass(frozen=True)
class Row:
    """One codec at one bitrate."""

    codec: str
    kbps: float
    """True bits in codes (and in how many there are, where that varies) or packets, over the clips' duration."""
    means: dict[str, float]
    """Of every metric over the clips; a clip for which a metric is undefined is left out of its mean."""
    defined: dict[str, int]
    """Clips in each mean."""
    by_group: dict[str, dict[str, float]]
    """The same means by speaker."""
    code_bits: float = 0.0
    """Bits per frame, on average."""
    entropy_bits: tuple[float, ...] | None = None
    """Empirical entropy of each codebook's codes per frame: how many of those bits carry anything."""

    vbr: bool = False
    """Whether the number of codebooks varied."""

    @property
    def use(self) -> float | None:
        """Share of the bits that carry anything, 0 to 1; None where the codec has no codebooks."""
        return None if self.entropy_bits is None else sum(self.entropy_bits) / self.code_bits


@dataclass(frozen=True)
class Report:
    """What an evaluation found."""

    model: str
    fingerprint: str
    metrics: tuple[str, ...]
    clips: int
    seconds: float
    groups: int
    streaming_codes: int
    """Codes of the clips, which were streamed in chunks of random length ..."""
    streaming_differs: int
    """... and how many of these came out otherwise offline."""
    rows: list[Row] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no word for a mean of nothing: it is None."""
        values = asdict(self)
        for row in values["rows"]:
            for means in (row["means"], *row["by_group"].values()):
                means.update({name: None for name, value in means.items() if not math.isfinite(value)})
        return values


@dataclass(frozen=True)
class _OpusPass:
    """All clips through Opus at one setting."""

    nominal: float
    kbps: float
    clips: list[OpusClip]


@dataclass(frozen=True)
class Example:
    """One clip, original and coded at every bitrate; for pictures."""

    original: Signal
    coded: dict[str, Signal]
    sample_rate: int


def _measure(job: tuple[str, Sequence[str], Signal, Signal, int]) -> dict[str, float]:
    clip, names, original, coded, rate = job
    try:
        return compare(names, original, coded, rate)
    except StreamdacError:
        raise
    except Exception as error:  # of a library: it is not said which clip it was
        raise BadDataError(f"clip {clip}: {type(error).__name__} {error}") from error


def _begin() -> None:
    """Of a process that measures: Ctrl-C is for the one that asks, and without it there is nothing to do."""
    ignore_keyboard_and_hang_up()
    when_parent_ends(lambda: os._exit(1))


@contextmanager
def _pool(jobs: int) -> Iterator[Callable[..., Iterable[dict[str, float]]]]:
    """A `map` over so many processes; an error ends them at once."""
    if jobs == 1:
        yield map
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise UnavailableError(f"one of {jobs} processes ended by itself (out of memory?): try fewer jobs") from error
    finally:
        pool.shutdown(cancel_futures=True)


def entropy_bits(codes: Iterable[Codes], size: int) -> tuple[float, ...]:
    """Entropy of every codebook's entries, bits per frame; codes `[K, F]` of many clips, -1 where unused.

    So few frames as clips have show fewer entries than there are, and the entropy of what they show is too low: at 10 bits by
    0.6 % for 13,000 frames, by 3 % for 3000, by 11 % for 750. Miller's correction (1955) leaves 0.0, 0.3 and 5 %.
    """
    bits = []
    for row in np.concatenate(list(codes), axis=1):
        used = row[row >= 0]
        share = np.bincount(used, minlength=size) / max(1, used.size)
        share = share[share > 0]
        seen = -float(np.sum(share * np.log2(share)))
        unseen = (share.size - 1) / (2 * math.log(2) * max(1, used.size))
        bits.append(min(math.log2(size), max(0.0, seen) + max(0.0, unseen)) * used.size / row.size)
    return tuple(bits)


class Evaluation:
    """The clips, their codes and the metrics to take.

    Args:
        codec: what is measured, by its public streaming interface: everything is pushed in chunks of random length.
        clips: at the codec's rate.
        metrics: names in `streamdac.training.metrics.METRICS`.
        jobs: processes for the metrics.
        progress: show a bar.
    """

    def __init__(
        self,
        codec: Codec,
        clips: Sequence[HeldOutClip],
        metrics: Sequence[str],
        *,
        jobs: int = 1,
        progress: bool = False,
    ) -> None:
        self.codec, self.clips, self.metrics = codec, list(clips), tuple(metrics)
        self.jobs, self.progress = jobs, progress
        self.seconds = sum(len(clip.audio) for clip in clips) / codec.sample_rate
        self._codes = [self._encoded(clip.audio) for clip in self._bar(self.clips, "encode")]
        self._coarse: dict[int, list[Codes]] = {}
        self.rows: list[Row] = []
        """Those that the last `run` has measured so far."""

    def run(
        self,
        codebooks: Sequence[int],
        *,
        vbr: Sequence[int] = (),
        opus: bool = False,
        opus_nominal: Sequence[float] = (),
    ) -> Report:
        """Measure at each number of codebooks, and with at most each of `vbr`, fewer where it is quieter; with `opus` also
        Opus at about the bitrates of the former, and at every one that `opus_nominal` asks `opusenc` for (kbps).

        Raises:
            UnavailableError: Opus is asked for and its tools are missing, or a process is.
            BadDataError: a metric fails on a clip.
        """
        if opus or opus_nominal:
            require_opus()
        self.rows = []
        report = Report(
            self.codec.name,
            self.codec.fingerprint.hex(),
            self.metrics,
            len(self.clips),
            self.seconds,
            len({(clip.kind, clip.group) for clip in self.clips}),
            *self._streaming_differs(),
            self.rows,
        )
        with _pool(self.jobs) as mapping:
            for count in codebooks:
                self.rows.append(self._row(count, mapping))
            passes = self._opus_passes(self.rows) if opus else []
            for most in vbr:
                self.rows.append(self._vbr_row(most, mapping))
            passes += [self._through_opus(kbps) for kbps in opus_nominal]
            for coded in sorted(passes, key=lambda p: p.kbps):
                self.rows.append(self._opus_row(coded, mapping))
        return report

    def example(self, codebooks: Sequence[int]) -> Example:
        """The clip whose duration is nearest to 4 s, at each number of codebooks."""
        wanted = 4 * self.codec.sample_rate
        index = min(range(len(self.clips)), key=lambda i: abs(len(self.clips[i].audio) - wanted))
        coded = {f"{self._kbps(n):.1f} kbps": self._decoded(index, self._codes_of(n)[index]) for n in codebooks}
        return Example(self.clips[index].audio, coded, self.codec.sample_rate)

    def _bar(self, items: Iterable[T], what: str) -> Iterator[T]:
        yield from tqdm(items, what, total=len(self.clips), leave=False, disable=not self.progress)

    @property
    def _code_bits(self) -> int:
        return self.codec.config.bits_per_code

    def _kbps(self, codebooks: int) -> float:
        frames: int = sum(codes.shape[1] for codes in self._codes)
        return frames * codebooks * self._code_bits / self.seconds / 1000

    def _codes_of(self, codebooks: int) -> list[Codes]:
        """Every clip's codes in so many codebooks. From fewer than it is made for, a predictor foretells something else."""
        codec = self.codec
        if not codec.foretells or codebooks >= codec.coarse_codebooks:
            return [codes[:codebooks] for codes in self._codes]
        if codebooks not in self._coarse:
            clips = self._bar(self.clips, f"encode, {codebooks} codebooks")
            self._coarse[codebooks] = [self._encoded(clip.audio, codebooks)[:codebooks] for clip in clips]
        return self._coarse[codebooks]

    def _encoded(self, audio: Signal, codebooks: int | None = None, *, vbr: bool = False) -> Codes:
        """Codes `[K, F]` of a stream pushed in chunks of random length."""
        rng, place = np.random.default_rng(len(audio)), 0
        encoder, parts = self.codec.encoder(n_codebooks=codebooks, vbr=vbr), []
        while place < len(audio):
            step = int(rng.integers(1, _CHUNK_HOPS * self.codec.hop_length))
            parts.append(encoder.push(audio[place : place + step]))
            place += step
        codes: Codes = np.concatenate([*parts, encoder.flush()], axis=-1)[0]
        return codes

    def _decoded(self, index: int, codes: Codes) -> Signal:
        """Audio of a stream pushed in chunks of random length, as long as the clip."""
        rng, place, wanted = np.random.default_rng(codes.shape[1]), 0, len(self.clips[index].audio)
        decoder, parts = self.codec.decoder(), []
        while place < codes.shape[1]:
            step = int(rng.integers(1, _CHUNK_HOPS + 1))
            parts.append(decoder.push(codes[:, place : place + step]))
            place += step
        audio = np.concatenate([*parts, decoder.flush()], axis=-1)[0, 0, :wanted]
        whole: Signal = np.pad(audio, (0, wanted - len(audio)))  # some official models give less than whole hops
        return whole

    def _streaming_differs(self) -> tuple[int, int]:
        """Codes in all, and how many of them are others offline."""
        differing, compared = 0, 0
        for clip, codes in zip(self._bar(self.clips, "encode offline"), self._codes, strict=True):
            offline = self.codec.encode(clip.audio)[0]
            compared += codes.size
            differing += codes.size if offline.shape != codes.shape else int((offline != codes).sum())
        return compared, differing

    def _row(self, codebooks: int, mapping: Callable[..., Iterable[dict[str, float]]]) -> Row:
        codes = self._codes_of(codebooks)
        coded = (self._decoded(index, codes[index]) for index in range(len(self.clips)))
        means, defined, groups = self._measured(coded, mapping, f"{codebooks} codebooks")
        entropy = entropy_bits(codes, self.codec.codebook_size)
        name = f"{self.codec.name}, {codebooks} codebooks"
        return Row(name, self._kbps(codebooks), means, defined, groups, codebooks * self._code_bits, entropy)

    def _vbr_row(self, most: int, mapping: Callable[..., Iterable[dict[str, float]]]) -> Row:
        codec = self.codec
        clips = self._bar(self.clips, f"encode, up to {most} codebooks")
        codes = [self._encoded(clip.audio, most, vbr=True) for clip in clips]
        coded = (self._decoded(index, codes[index]) for index in range(len(self.clips)))
        means, defined, groups = self._measured(coded, mapping, f"up to {most} codebooks")
        used, frames = sum(int((c >= 0).sum()) for c in codes), sum(c.shape[1] for c in codes)
        bits = used / frames * self._code_bits
        kbps = frames * (bits + BITS_PER_HOP) / self.seconds / 1000
        name = f"{codec.name}, up to {most} codebooks"
        return Row(name, kbps, means, defined, groups, bits, entropy_bits(codes, codec.codebook_size), vbr=True)

    def _measured(
        self, coded: Iterable[Signal], mapping: Callable[..., Iterable[dict[str, float]]], what: str
    ) -> tuple[dict[str, float], dict[str, int], dict[str, dict[str, float]]]:
        rate = self.codec.sample_rate
        pairs = zip(self.clips, coded, strict=True)
        jobs = ((clip.name, self.metrics, clip.audio, audio, rate) for clip, audio in pairs)
        results = list(self._bar(mapping(_measure, jobs), what))
        by_group: dict[str, list[dict[str, float]]] = {}
        for clip, result in zip(self.clips, results, strict=True):
            by_group.setdefault(f"{clip.kind}/{clip.group}", []).append(result)
        means, defined = self._means(results)
        return means, defined, {group: self._means(rows)[0] for group, rows in by_group.items()}

    def _means(self, results: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
        means, defined = {}, {}
        for name in self.metrics:
            values = [result[name] for result in results if math.isfinite(result[name])]
            means[name] = float(np.mean(values)) if values else float("nan")
            defined[name] = len(values)
        return means, defined

    # --- Opus ----------------------------------------------------------------------------------------------------

    def _through_opus(self, nominal: float) -> _OpusPass:
        clips = [
            through_opus(clip.audio, self.codec.sample_rate, nominal)
            for clip in self._bar(self.clips, f"opus {nominal:g}")
        ]
        return _OpusPass(nominal, sum(clip.bits for clip in clips) / self.seconds / 1000, clips)

    def _opus_passes(self, rows: Sequence[Row]) -> list[_OpusPass]:
        """Opus at our bitrates, and once at its lowest where ours are below."""
        lowest = self._through_opus(OPUSENC_KBPS[0])
        wanted = sorted({max(row.kbps, lowest.kbps) for row in rows})
        return [lowest if kbps == lowest.kbps else self._opus_at(kbps, lowest) for kbps in wanted]

    def _opus_at(self, kbps: float, low: _OpusPass) -> _OpusPass:
        """Opus with the nominal bitrate chosen such that its packets hold `kbps`, or as near as it gets: by bisection,
        since what it really spends rises in jumps where it changes its mode."""
        best, high = low, _OPUS_HIGHEST
        nominal = min(kbps + 1, high)
        for _ in range(_OPUS_TRIES):
            tried = self._through_opus(round(nominal, 2))
            best = min(best, tried, key=lambda p: abs(p.kbps - kbps))
            if abs(best.kbps / kbps - 1) < _OPUS_CLOSE:
                break
            if tried.kbps < kbps:
                low = tried
            else:
                high = tried.nominal
            nominal = min((low.nominal + high) / 2, low.nominal + 2)
        return best

    def _opus_row(self, coded: _OpusPass, mapping: Callable[..., Iterable[dict[str, float]]]) -> Row:
        audio = (clip.audio for clip in coded.clips)
        means, defined, groups = self._measured(audio, mapping, f"opus {coded.kbps:.1f} kbps")
        return Row(f"Opus (nominal {coded.nominal:.1f})", coded.kbps, means, defined, groups)
