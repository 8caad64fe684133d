"""From the audio files of a package to dense, level, mono files at one rate: read, trim, level, join.

All audio in here is mono float32 `[T]`, full scale 1.
"""

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ..errors import BadDataError, UnavailableError
from ..files import soundfile_name

Audio = npt.NDArray[np.float32]
Clip = tuple[str, Audio]  # where it came from, and its samples
Piece = tuple[list[str], Audio]  # which clips went into it, and its samples

TARGET_DB = -23.0  # gated level of a clip, dB re full scale
MAX_GAIN_DB = 30.0
PEAK = 0.97
SILENT_DB = -60.0  # a clip below this holds nothing
GAP_SECONDS = 0.15
MARGIN_SECONDS = 0.15  # pause kept before and after a clip
FADE_SECONDS = 0.005
_NO_LENGTH = 1 << 40  # samples: years


def gated_level(audio: Audio, sample_rate: int) -> float:
    """Level of `audio` [T] in dB re full scale without its pauses; -inf when silent.

    As ITU-R BS.1770 gates, without its weighting: the mean power of those 50 ms blocks that are above -70 dB and
    above the mean of these less 10 dB.
    """
    block = max(1, min(len(audio), sample_rate // 20))
    blocks = audio[: len(audio) // block * block].reshape(-1, block)
    power = np.einsum("bt,bt->b", blocks, blocks, dtype=np.float64) / block if len(audio) else np.zeros(0)
    power = power[power > 1e-7]
    if not len(power):
        return -np.inf
    return float(10 * np.log10(power[power >= 0.1 * power.mean()].mean()))


def power_spectrum(audio: Audio, sample_rate: int) -> npt.NDArray[np.float64]:
    """Summed power of `audio` [T] in bands of 250 Hz, up to half the sample rate."""
    width = sample_rate // 50  # 50 Hz between bins
    frames = audio[: len(audio) // width * width].reshape(-1, width) * np.hanning(width)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)), dtype=np.float64).sum(0)[1:]
    bands: npt.NDArray[np.float64] = power[: len(power) // 5 * 5].reshape(-1, 5).sum(1)
    return bands


def cliff(bands: npt.NDArray[np.float64]) -> int | None:
    """Where a spectrum of 250 Hz bands ends, Hz: where it has fallen by 25 dB within 500 Hz, and stays down.

    None when it does not: a spectrum that slopes, as speech does, has no end.
    """
    level = 10 * np.log10(bands + 1e-9 * bands.max() + 1e-30)
    for edge in range(8, len(level) - 3):
        if level[edge + 2 :].max() < level[edge - 3 : edge].mean() - 25:
            return (edge + 2) * 250
    return None


def check_length(frames: int) -> None:
    """Raise BadDataError where a file does not say how long it is, which soundfile tells by a count of samples beyond sense."""
    if frames >= _NO_LENGTH:
        raise BadDataError(
            "it does not say how long it is, as if written into a pipe (ffmpeg -i IT OUT.flac mends that)"
        )


def read_mono(path: Path, sample_rate: int, *, start: float = 0.0, seconds: float | None = None) -> Audio:
    """Audio of `path` (or `seconds` from `start` seconds on) as [T], mixed down and resampled to `sample_rate` Hz."""
    try:
        if path.suffix == ".g722":
            samples, rate = _read_g722(path), 16_000
        else:
            with soundfile.SoundFile(soundfile_name(path)) as file:
                check_length(file.frames)
                rate = file.samplerate
                first = min(round(start * rate), file.frames)
                file.seek(first)
                count = -1 if seconds is None else round(seconds * rate)
                samples = file.read(count, dtype="float32", always_2d=True).mean(1)
    except (BadDataError, soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise BadDataError(f"cannot read {path}: {str(error).splitlines()[-1]}") from error
    if not np.isfinite(samples).all():
        raise BadDataError(f"cannot read {path}: it holds NaN or infinite samples")
    resampled: Audio = samples if rate == sample_rate else soxr.resample(samples, rate, sample_rate, quality="VHQ")
    return resampled.astype(np.float32, copy=False)


def _read_g722(path: Path) -> Audio:
    """Raw G.722 at 64 kbit/s as [T] at 16 kHz."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnavailableError("G.722 needs the program ffmpeg (Debian: apt-get install ffmpeg)")
    command = [program, "-v", "error", "-nostdin", "-f", "g722", "-i", str(path), "-f", "s16le", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise BadDataError(f"cannot read {path}: {done.stderr.decode(errors='replace').strip() or 'ffmpeg failed'}")
    return np.frombuffer(done.stdout, "<i2").astype(np.float32) * np.float32(2**-15)


def trim(audio: Audio, sample_rate: int) -> Audio:
    """`audio` [T] without most of the pause before and after it: what is 50 dB under its loudest 10 ms."""
    block = max(1, sample_rate // 100)
    count = len(audio) // block
    if count < 2:
        return audio
    power = np.square(audio[: count * block], dtype=np.float64).reshape(count, block).mean(1)
    loud = np.flatnonzero(power > 1e-5 * power.max())
    if not len(loud):
        return audio[:0]
    margin = round(MARGIN_SECONDS * sample_rate)
    return audio[max(0, loud[0] * block - margin) : (loud[-1] + 1) * block + margin]


def prepare(audio: Audio, sample_rate: int) -> Audio | None:
    """One clip [T] trimmed, freed of its offset, levelled and faded at its ends; None when nothing is in it."""
    audio = trim(audio - audio.mean() if len(audio) else audio, sample_rate)
    level = gated_level(audio, sample_rate)
    if level < SILENT_DB or len(audio) < 0.08 * sample_rate:
        return None
    gain = 10 ** (min(TARGET_DB - level, MAX_GAIN_DB) / 20)
    audio = audio * np.float32(min(gain, PEAK / np.abs(audio).max()))
    fade = min(round(FADE_SECONDS * sample_rate), len(audio) // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    audio[:fade] *= ramp
    audio[len(audio) - fade :] *= ramp[::-1]
    return audio


def join(clips: Iterable[Clip], sample_rate: int, *, shortest: float = 40.0, longest: float = 60.0) -> Iterator[Piece]:
    """Clips joined, with a short silence between, into pieces of `shortest` to `longest` seconds.

    A longer clip is cut. A piece is shorter than `shortest` when the next clip would not fit, or at the end.
    """
    gap = np.zeros(round(GAP_SECONDS * sample_rate), np.float32)
    most, least = round(longest * sample_rate), round(shortest * sample_rate)
    names: list[str] = []
    parts: list[Audio] = []
    held = 0
    for name, clip in clips:
        for part in np.array_split(clip, -(-len(clip) // most)):
            if parts and (held >= least or held + len(gap) + len(part) > most):
                yield names, np.concatenate(parts)
                names, parts, held = [], [], 0
            if parts:
                parts.append(gap)
                held += len(gap)
            parts.append(part)
            held += len(part)
            names.append(name)
    if parts:
        yield names, np.concatenate(parts)
