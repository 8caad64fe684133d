"""Random training segments from a corpus, balanced over kinds and speakers, and clips to measure on.

Every segment depends on (seed, step, row) alone: a run that resumes at a step, or is spread over processes, sees
exactly what one uninterrupted process would have seen.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from ..errors import BadDataError, UsageError
from .audio_files import AudioFile, AudioFiles, find_audio
from .corpus_audio import Audio, gated_level
from .corpus_sources import KINDS

PEAK = 0.98
MAX_GAIN_DB = 24.0
SHORTEST_CLIP = 2048  # samples: the widest window of the distances
_PATIENCE = 20  # times `Mix.tries` draws of digital silence until training gives up
_SLOWEST = 0.25  # of speeds
_LOWEST_CUTOFF = 100.0  # Hz
SILENT_DB = -50.0  # a segment whose gated level is below this is drawn again


@dataclass(frozen=True)
class Mix:
    """What is drawn how often, and what is done to it. Levels in dB re full scale, ranges (low, high)."""

    kind_weights: Mapping[str, float] = field(default_factory=lambda: {"speech": 0.85, "music": 0.1, "effects": 0.05})
    group_power: float = 0.5  # a group (speaker) weighs minutes ** power ...
    group_cap_minutes: float = 25.0  # ... of at most so many minutes
    narrow_weight: float = 0.6  # factor for groups with nothing above `narrow_hz`: else speech seems to end there
    narrow_hz: int = 8000
    level_db: tuple[float, float] = (-30.0, -14.0)
    quiet_probability: float = 0.02
    quiet_db: tuple[float, float] = (-65.0, -40.0)
    noise_probability: float = 0.0  # speech with effects or music behind it
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    lowpass_probability: float = 0.0
    lowpass_hz: tuple[float, float] = (3500.0, 10_000.0)
    phase_probability: float = 0.0  # all frequencies turned by one random angle: sounds the same, looks different
    speed_probability: float = 0.0  # played slower or faster, so that pitch and formants move: another voice
    speed: tuple[float, float] = (0.85, 1.2)
    tries: int = 12  # draws until a segment is not silent

    def __post_init__(self) -> None:
        chances = (
            self.quiet_probability,
            self.noise_probability,
            self.lowpass_probability,
            self.phase_probability,
            self.speed_probability,
        )
        if any(not 0 <= chance <= 1 for chance in chances):
            raise UsageError(f"probabilities must lie in 0..1, got {chances}")
        weights = list(self.kind_weights.values())
        if not all(isinstance(weight, int | float) and abs(weight) < math.inf for weight in weights):
            raise UsageError(f"kind weights must be numbers, got {dict(self.kind_weights)}")
        if min(weights, default=0) < 0 or not any(weights):
            raise UsageError(f"kind weights must be 0 or more and not all 0, got {dict(self.kind_weights)}")
        if not _SLOWEST <= self.speed[0] <= self.speed[1] <= 1 / _SLOWEST:
            raise UsageError(f"speed must be a range within {_SLOWEST}..{1 / _SLOWEST:g}, got {self.speed}")
        if self.tries < 1 or self.narrow_weight <= 0 or self.group_cap_minutes <= 0:
            raise UsageError(
                "tries, narrow_weight and group_cap_minutes must be above 0, "
                f"got {self.tries}, {self.narrow_weight} and {self.group_cap_minutes}"
            )
        if not _LOWEST_CUTOFF <= self.lowpass_hz[0] <= self.lowpass_hz[1]:
            raise UsageError(f"lowpass_hz must be a range from {_LOWEST_CUTOFF:g} Hz up, got {self.lowpass_hz}")


class _Draw:
    """The files of one kind with the chance of each: groups by the root of their minutes, files by their seconds."""

    def __init__(self, files: Sequence[AudioFile], mix: Mix) -> None:
        self.files = list(files)
        seconds: dict[str, float] = {}
        for file in self.files:
            seconds[file.group] = seconds.get(file.group, 0.0) + file.seconds
        weight = {g: min(s / 60, mix.group_cap_minutes) ** mix.group_power for g, s in seconds.items()}
        chance = np.array([weight[f.group] * f.seconds / seconds[f.group] for f in self.files])
        chance *= [mix.narrow_weight if f.bandwidth and f.bandwidth <= mix.narrow_hz else 1.0 for f in self.files]
        self.cumulative = np.cumsum(chance / chance.sum())

    def __call__(self, rng: np.random.Generator) -> AudioFile:
        return self.files[min(int(np.searchsorted(self.cumulative, rng.random(), "right")), len(self.files) - 1)]


class SegmentSampler:
    """Draws batches of segments. `batch` counts the rows of all `world_size` processes; this one draws its share."""

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        sample_rate: int,
        segment_seconds: float,
        batch: int,
        seed: int = 0,
        *,
        mix: Mix | None = None,
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
        cache_gigabytes: float = 4.0,
    ) -> None:
        if segment_seconds <= 0 or batch < 1 or not 0 <= rank < world_size or batch % world_size:
            raise UsageError(
                f"got {segment_seconds} s, batch {batch}, rank {rank} of {world_size}: segments need a "
                "length, and the batch must be a multiple of the processes"
            )
        self.sample_rate, self.seed, self.mix = sample_rate, seed, mix or Mix()
        self.samples = round(segment_seconds * sample_rate)
        share = batch // world_size
        self.rows = range(rank * share, (rank + 1) * share)
        self.files = AudioFiles(find_audio(paths, split), sample_rate, cache_bytes=int(cache_gigabytes * 1e9))
        there = {file.kind for file in self.files.entries}
        if unknown := sorted(set(self.mix.kind_weights) - set(KINDS) - there):
            raise UsageError(f"a weight for the kind {unknown[0]}, there are {', '.join(sorted({*KINDS, *there}))}")
        self._draws = {}
        for kind, weight in self.mix.kind_weights.items():
            mine = [file for file in self.files.entries if file.kind == kind]
            if mine and weight > 0:
                self._draws[kind] = _Draw(mine, self.mix)
        if not self._draws:
            raise UsageError(
                f"no audio of a kind with a weight: there is {', '.join(sorted(there))}, "
                f"weights are {dict(self.mix.kind_weights)}"
            )
        weights = np.array([self.mix.kind_weights[kind] for kind in self._draws])
        self._kind_chances = weights / weights.sum()

    @property
    def seconds(self) -> float:
        """Audio to draw from, all kinds together."""
        return sum(file.seconds for draw in self._draws.values() for file in draw.files)

    def draw(self, step: int) -> npt.NDArray[np.float32]:
        """The segments of `step`, float32 [B, 1, T] with B this process's share; the same for the same step always."""
        return np.stack([self.segment(step, row) for row in self.rows])[:, None]

    def segment(self, step: int, row: int) -> Audio:
        """The segment [T] of one row of the whole batch."""
        rng = np.random.default_rng([self.seed, step, row])
        kind = list(self._draws)[int(rng.choice(len(self._draws), p=self._kind_chances))]
        # Speeds and phases are only drawn where they are wanted: recipes without keep their segments.
        changed = self.mix.speed_probability and rng.random() < self.mix.speed_probability
        speed = rng.uniform(*self.mix.speed) if changed else 1.0
        audio, level = self._loud_segment(kind, rng, speed)
        if rng.random() < self.mix.lowpass_probability:
            audio = low_pass(audio, self.sample_rate, rng.uniform(*self.mix.lowpass_hz))
        if kind == "speech" and rng.random() < self.mix.noise_probability:
            audio = self._with_noise(audio, level, rng)
        audio = self._at_random_level(audio, rng)
        if self.mix.phase_probability and rng.random() < self.mix.phase_probability:
            audio = turned(audio, rng.uniform(-np.pi, np.pi))
        return audio

    def _loud_segment(self, kind: str, rng: np.random.Generator, speed: float = 1.0) -> tuple[Audio, float]:
        """A segment [T] of `kind` and its level in dB: the first that is not silent, else the loudest of the tries."""
        best: tuple[Audio, float] | None = None
        draws = _PATIENCE * self.mix.tries
        for number in range(draws):
            if number >= self.mix.tries and best is not None and best[1] > -np.inf:
                break
            file = self._draws[kind](rng)
            audio = self._cut(file, rng, speed)
            if audio is None:
                continue
            level = gated_level(audio, self.sample_rate)
            if best is None or level > best[1]:
                best = audio, level
            if level >= SILENT_DB:
                break
        if best is None or best[1] == -np.inf:
            raise BadDataError(
                f"{draws} {kind} segments in a row were silent or unreadable "
                f"({len(self.files.bad)} of {len(self.files.entries)} files cannot be read)"
            )
        return best

    def _cut(self, file: AudioFile, rng: np.random.Generator, speed: float) -> Audio | None:
        """A random stretch [T] of `file`, between zeros when the file is too short; None when it cannot be read."""
        wanted = round(self.samples * speed)
        room = self.files.samples(file) - wanted
        place = int(rng.integers(0, abs(room) + 1))  # drawn whether or not the file can be read
        if room >= 0:
            audio = self.files.read(file, place, wanted)
        else:
            audio = self.files.read(file, 0, wanted + room)
            audio = None if audio is None else np.pad(audio, (place, max(0, wanted - place - len(audio))))
        return audio if audio is None or wanted == self.samples else at_speed(audio, self.samples)

    def _with_noise(self, audio: Audio, level: float, rng: np.random.Generator) -> Audio:
        others = [kind for kind in self._draws if kind != "speech"]
        if not others:
            return audio
        noise, noise_level = self._loud_segment(others[int(rng.integers(len(others)))], rng)
        gain = 10 ** ((level - rng.uniform(*self.mix.noise_snr_db) - noise_level) / 20)
        return audio + np.float32(min(gain, 10.0)) * noise

    def _at_random_level(self, audio: Audio, rng: np.random.Generator) -> Audio:
        quiet = rng.random() < self.mix.quiet_probability
        target = rng.uniform(*(self.mix.quiet_db if quiet else self.mix.level_db))
        gain = 10 ** (min(target - gated_level(audio, self.sample_rate), MAX_GAIN_DB) / 20)
        peak = float(np.abs(audio).max())
        return audio * np.float32(min(gain, PEAK / peak) if peak > 0 else 1.0)


def at_speed(audio: Audio, samples: int) -> Audio:
    """`audio` [T] played in `samples` samples: pitch and formants move with it."""
    return _of_length(soxr.resample(audio, len(audio) / samples, 1.0), samples)


def _of_length(audio: Audio, samples: int) -> Audio:
    """`audio` cut, or with zeros behind it."""
    padded: Audio = np.pad(audio[:samples], (0, max(0, samples - len(audio))))
    return padded


def turned(audio: Audio, angle: float) -> Audio:
    """`audio` [T] with the phase of every frequency shifted by `angle`, in radians; no louder than `PEAK` if it was not."""
    out = np.fft.irfft(np.fft.rfft(audio) * np.exp(1j * angle), len(audio)).astype(np.float32)
    before, peak = float(np.abs(audio).max()), float(np.abs(out).max())
    scaled: Audio = out * np.float32(max(PEAK, before) / peak) if peak > max(PEAK, before) else out
    return scaled


def low_pass(audio: Audio, sample_rate: int, cutoff: float) -> Audio:
    """`audio` [T] with nothing above about `cutoff` Hz, as if it had once been sampled at twice that."""
    if 2 * cutoff >= sample_rate:
        return audio
    return _of_length(soxr.resample(soxr.resample(audio, sample_rate, 2 * cutoff), 2 * cutoff, sample_rate), len(audio))


@dataclass(frozen=True)
class HeldOutClip:
    """One clip to measure on."""

    name: str  # package/group/file
    kind: str
    group: str
    audio: Audio  # [T]


def held_out_clips(
    paths: str | Path | Sequence[str | Path],
    sample_rate: int,
    *,
    split: str = "valid",
    clip_seconds: float | None = None,
    clips_per_group: int | None = None,
    most: int | None = None,
    kind: str | None = None,
) -> list[HeldOutClip]:
    """Clips of a split, always the same ones: whole files, or the first `clip_seconds` of each, not silent.

    With `clips_per_group` as many are taken of each group, spread over its files; with `most` as well, of so many groups,
    spread over all, that there are no more in all. Where all files begin with silence, the first stretch of each that is not
    silent is taken. What has less than `SHORTEST_CLIP` samples is left out.

    Raises:
        BadDataError: there is none.
    """
    files = AudioFiles(find_audio(paths, split), sample_rate)
    groups: dict[tuple[str, str], list[AudioFile]] = {}
    for file in files.entries:
        if kind in (None, file.kind):
            groups.setdefault((file.kind, file.group), []).append(file)
    if not groups:
        raise BadDataError(
            f"nothing of kind {kind} in split {split}: there is {', '.join(sorted({f.kind for f in files.entries}))}"
        )
    chosen = list(groups.values())
    if most is not None and clips_per_group is not None:
        count = min(len(chosen), max(1, most // clips_per_group))
        chosen = [chosen[number * len(chosen) // count] for number in range(count)]
    for search in (False, True):
        found = (_clips_of(files, group, clip_seconds, clips_per_group, search=search) for group in chosen)
        if clips := [clip for group in found for clip in group]:
            break
    else:
        raise BadDataError(
            f"no clip to measure on in split {split}{f' of kind {kind}' if kind else ''}: "
            f"{len(files.entries)} files, {len(files.bad)} unreadable, the others silent "
            f"or shorter than {SHORTEST_CLIP} samples"
        )
    return clips


def _clips_of(
    files: AudioFiles, group: list[AudioFile], seconds: float | None, most: int | None, *, search: bool
) -> Iterator[HeldOutClip]:
    """At most `most` clips of one group, spread over its files, further into each file when there are too few."""
    wanted = len(group) if most is None else most
    for number in range(min(wanted, len(group)) if seconds is None else wanted):
        file = group[number * len(group) // wanted if wanted < len(group) else number % len(group)]
        whole = files.samples(file)
        count = whole if seconds is None else min(whole, round(seconds * files.sample_rate))
        if count < SHORTEST_CLIP:
            continue
        first = number // len(group) * count if wanted > len(group) else 0
        for start in range(first, whole - count + 1 if search else min(first, whole - count) + 1, count):
            audio = files.read(file, start, count)
            if audio is None:
                break
            if gated_level(audio, files.sample_rate) >= SILENT_DB:
                yield HeldOutClip(f"{file.group}/{file.path.stem}@{start}", file.kind, file.group, audio)
                break
