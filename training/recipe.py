"""What a training run is made of, as one frozen record, read from a JSON file and changed by `key=value`."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from streamdac.config import PRESETS, ModelConfig, config_from_mapping
from streamdac.errors import BadDataError, UsageError

from .data import SHORTEST_CLIP, Mix
from .settings import DiscriminatorSettings, GradientShares, LossWeights

CONFIGS = Path(__file__).with_name("configs")
_SEEDS = 1 << 31  # times a million and more they still are 64 bits
_NOT_NEGATIVE = (
    *("steps", "early_steps", "warmup_steps", "decay_from", "quantise_from", "restart_every", "refit_every"),
    *(
        "lr",
        "muon_lr",
        "weight_decay",
        "gamma",
        "clip",
        "clip_norm",
        "whiten",
        "lift",
        "restart_below",
        "checkpoint_minutes",
    ),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes.

    Raises:
        UsageError: a value is out of range.
    """

    name: str = "causal-24khz"
    model: ModelConfig = field(default_factory=ModelConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    balance: GradientShares = field(default_factory=GradientShares)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    mel_windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    """Of the mel loss, in samples."""
    mel_bins: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    """Mel bands for each window."""
    compressed_windows: tuple[int, ...] = (256, 1024)
    """Of the distance of compressed spectra, in samples."""
    excess: float = 1.0
    """How much more added energy weighs than missing energy in the mel and STFT losses; measurements weigh both alike."""
    compressed_excess: float = 1.0
    """The same for the distance of compressed spectra."""
    lines_period: int = 80
    """Samples in a period of the lowest of the tones that the loss of lines looks for."""
    seed: int = 0
    steps: int = 0
    """Of the whole run, where the command line names none; 0 for no end."""

    batch: int = 8
    """Segments per step, over all processes."""
    segment_seconds: float = 0.8
    early_steps: int = 0
    """Steps that use the smaller early batches: they learn more per second of audio at first."""
    early_batch: int = 4
    early_segment_seconds: float = 0.4
    mix: Mapping[str, Any] = field(default_factory=dict)
    """Changes to `streamdac.training.data.Mix`."""

    start: str = "transform"
    """plain (PyTorch's weights, as officially), random (quiet at first), or transform: a causal network that begins as a
    block transform codec."""
    start_whiten: float = 0.0
    """How far a transform start brings all frequencies to one size inside the network: 0 not at all, 1 fully."""
    freeze: str = ""
    """encoder: only the decoder is trained, so that streams made before stay decodable; empty for nothing."""
    optimizer: str = "muon"
    """muon (orthogonalised updates for convolutions, AdamW for the rest) or adamw."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 2.5e-4
    """Peak learning rate of Muon, which moves whole weights; 1e-3 was measured to be too much for a transform start."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    decay_all: bool = False
    """Whether weights' norms, biases and Snakes decay too, as in the official recipe; else matrices alone."""
    warmup_steps: int = 100
    decay_from: int = 0
    """Step from which the learning rate falls with the square root of the step; 0 for never."""
    cooldown: float = 0.0
    """Share of the budget at its end in which the learning rate falls to zero; 0 leaves it constant."""
    gamma: float = 1.0
    """Factor on the learning rate at every step (the official schedule)."""
    clip: float = 1.5
    """Largest gradient norm, as a multiple of the running norm; 0 for none."""
    clip_norm: float = 0.0
    """Largest gradient norm, absolute (the official schedule); 0 for none."""
    ema: float = 0.999
    """Decay per step of the averaged weights that are evaluated and exported."""

    quantise_from: int = 1000
    """Steps without quantiser at the start. 0: codebooks start at random, as in the official recipe."""
    bypass: float = 0.0
    """Chance of a segment to be decoded from its latent as it is; the codebooks still learn from it (Defossez et al. 2024)."""
    whiten: float = 0.5
    """How far the latent's dimensions are brought to equal variance before that: 0 not at all, 1 fully."""
    lift: float = 0.0
    """Constant dimension in which codebooks start, so that a code's direction also says how long a vector is; 0 for none."""
    refit_every: int = 0
    """Steps between new fits of all codebooks to the latents as they have become, until the cooldown; 0 for never."""
    sensitivity: float = 0.0
    """Power with which directions of the latent weigh in a new fit by the losses' gradient there; 0: all alike, 0.5: as it is."""
    codebook_decay: float = 0.0
    """Decay per step of the running means that codebook entries are; 0: they learn by gradient, as in the official recipe."""
    projections: str = "learnt"
    """Of the codebooks: learnt by gradient, as in the official recipe, or fitted, which only the fits above set."""
    restart_every: int = 20
    """Steps between restarts of unused codebook entries; 0 for never."""
    restart_below: float = 0.1
    """An entry is unused when its share of frames is below this over the codebook size."""

    precision: str = "auto"
    """Of the convolutions: auto, fp32 or bf16."""
    valid_every: int = 1000
    """Steps between measurements on held-out clips."""
    valid_codebooks: tuple[int, ...] = (4, 8, 16)
    valid_seconds: float = 3.0
    """Longest held-out clip."""
    valid_clips: int = 2
    """Held-out clips per speaker."""
    sample_every: int = 10_000
    """Steps between held-out clips, as heard and as spectrograms, in TensorBoard."""
    keep_steps: tuple[int, ...] = ()
    """Steps whose checkpoints are kept under a name of their own."""
    checkpoint_minutes: float = 5.0
    log_every: int = 20

    def __post_init__(self) -> None:
        choices = {
            "start": ("plain", "random", "transform"),
            "freeze": ("", "encoder"),
            "optimizer": ("muon", "adamw"),
            "projections": ("learnt", "fitted"),
            "precision": ("auto", "fp32", "bf16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}, need one of {', '.join(map(repr, allowed))}")
        for name in ("batch", "early_batch", "log_every", "valid_every", "valid_clips", "sample_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, need at least 1")
        if not 0 <= self.sensitivity <= 1:
            raise UsageError(f"sensitivity {self.sensitivity} must lie in 0..1")
        if not 0 <= self.bypass <= 1 or not 0 <= self.start_whiten <= 1:
            raise UsageError(f"bypass {self.bypass} and start_whiten {self.start_whiten} must lie in 0..1")
        if not 0 <= self.cooldown <= 1 or not 0 <= self.ema < 1:
            raise UsageError(f"cooldown {self.cooldown} must lie in 0..1 and ema {self.ema} in 0..1")
        if not self.mel_windows or len(self.mel_windows) != len(self.mel_bins):
            raise UsageError(f"mel_windows {self.mel_windows} need as many mel_bins, got {self.mel_bins}")
        if any(not 4 <= w <= 2048 or w % 4 for w in self.mel_windows):
            raise UsageError(f"mel_windows {self.mel_windows} must be multiples of 4 from 4 to 2048")
        if min(self.mel_bins) < 1:
            raise UsageError(f"mel_bins {self.mel_bins} must be at least 1")
        if not 0 <= self.seed < _SEEDS:
            raise UsageError(f"seed {self.seed} must lie in 0..{_SEEDS - 1}")
        if not self.compressed_windows or any(not 4 <= w <= 2048 or w % 4 for w in self.compressed_windows):
            raise UsageError(f"compressed_windows {self.compressed_windows} must be multiples of 4 from 4 to 2048")
        if not all(0 < excess < math.inf for excess in (self.excess, self.compressed_excess)):
            raise UsageError(
                f"excess {self.excess} and compressed_excess {self.compressed_excess} must be above 0 and finite"
            )
        if not 4 <= self.lines_period <= 1024 or self.lines_period % 2:
            raise UsageError(f"lines_period {self.lines_period} must be even, from 4 to 1024")
        if not self.valid_codebooks or min(self.valid_codebooks) < 1:
            raise UsageError(f"valid_codebooks {self.valid_codebooks} must be numbers of codebooks, at least one")
        if self.valid_seconds * self.model.sample_rate < SHORTEST_CLIP:
            raise UsageError(f"valid_seconds {self.valid_seconds:g} are less than {SHORTEST_CLIP} samples")
        if not all(0 <= decay < 1 for decay in (*self.betas, self.codebook_decay)):
            raise UsageError(f"betas {self.betas} and codebook_decay {self.codebook_decay} must lie in 0..1")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}, need 0 or more")
        if min(self.segment_seconds, self.early_segment_seconds) * self.model.sample_rate < SHORTEST_CLIP:
            raise UsageError(
                f"segments must be at least {SHORTEST_CLIP} samples long: the widest window of the mel loss"
            )

    def shape_at(self, step: int) -> tuple[int, float]:
        """Segments of this step's batch, and their length in seconds."""
        if step < self.early_steps:
            return self.early_batch, self.early_segment_seconds
        return self.batch, self.segment_seconds

    @property
    def measured_codebooks(self) -> tuple[int, ...]:
        """`valid_codebooks` as far as the model has them."""
        return tuple(sorted({min(count, self.model.n_codebooks) for count in self.valid_codebooks}))

    @property
    def adversarial(self) -> bool:
        """Whether there are discriminators."""
        return self.losses.generator > 0 or self.losses.feature > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; `recipe_from_mapping` reads it back."""
        values = dataclasses.asdict(self)
        values["model"] = self.model.to_dict()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _frozen(value: Any) -> Any:
    """Lists as tuples, those in lists too."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a plain value with tuples for lists is of a field's type."""
    parts = get_args(wanted)
    if get_origin(wanted) is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(each) == len(value) and all(map(_fits, value, each))
    if wanted in (int, float):
        return isinstance(value, int | wanted) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, get_origin(wanted) or wanted)


def _described(wanted: Any) -> str:
    if get_origin(wanted) is tuple:
        first, *others = get_args(wanted)
        return f"a list of {'any number of' if Ellipsis in others else 1 + len(others)} x {_described(first)}"
    names = {float: "a finite number", Mapping: "settings"}
    return names.get(get_origin(wanted) or wanted) or str(wanted.__name__)


def _plain(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` with lists as tuples and integers as floats where the field wants them; unknown names are refused."""
    types = get_type_hints(kind)
    if unknown := sorted(set(values) - {f.name for f in dataclasses.fields(kind)}):
        raise UsageError(f"unknown setting in {where}: {', '.join(unknown)}")
    plain = {key: _frozen(value) for key, value in values.items()}
    for key, value in plain.items():
        if not _fits(value, types[key]):
            raise UsageError(f"{key} is {values[key]!r}, need {_described(types[key])} in {where}")
    return {key: float(value) if types[key] is float else value for key, value in plain.items()}


def _settings(values: dict[str, Any], group: str, where: str) -> dict[str, Any]:
    """A group of settings, taken out of `values`."""
    settings = values.pop(group, {})
    if not isinstance(settings, Mapping):
        raise UsageError(f"{group} is {settings!r}, need settings in {where}")
    return dict(settings)


def recipe_from_mapping(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain values: `model` is a mapping, with `preset` naming what it starts from.

    Raises:
        UsageError: an unknown setting, or a value of the wrong type or range.
    """
    values = dict(values)
    model_values, loss_values, discriminator_values, balance_values = (
        _settings(values, group, where) for group in ("model", "losses", "discriminator", "balance")
    )
    balance = GradientShares(**_plain(GradientShares, balance_values, where))
    preset = model_values.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"no preset {preset!r} in {where}; there are {', '.join(PRESETS)}")
    base = (ModelConfig() if preset is None else PRESETS[preset]).to_dict()
    for part in ("encoder", "decoder"):
        if model_values.keys() & {f"{part}_dim", f"{part}_rates"}:
            base.pop(f"{part}_widths", None)  # else the preset's widths would be the ones that count
    try:
        model = config_from_mapping({**base, **model_values})
    except BadDataError as error:
        raise UsageError(f"{error} in {where}") from error
    losses = LossWeights(**_plain(LossWeights, loss_values, where))
    discriminator = DiscriminatorSettings(**_plain(DiscriminatorSettings, discriminator_values, where))
    rest = _plain(Recipe, values, where)
    Mix(**_plain(Mix, rest.get("mix", {}), f"mix of {where}"))  # what is wrong with it is said now
    return Recipe(model=model, losses=losses, discriminator=discriminator, balance=balance, **rest)


def load_recipe(config: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """The recipe of a JSON file, or of that name among the built-in ones, with `key=value` changes.

    Args:
        config: a path, or a name such as `causal-24khz`.
        changes: e.g. `lr=5e-4`, `model.encoder_dim=16`, `losses.mel=10`; values are JSON or plain words.

    Raises:
        UsageError: there is no such config, or it or a change is wrong.
    """
    path, values = _read(config)
    for change in changes:
        _change(values, change)
    return recipe_from_mapping({"name": path.stem, **values}, str(path))


def _read(config: str | Path, above: tuple[Path, ...] = ()) -> tuple[Path, dict[str, Any]]:
    """A config's file and values, over those of the config that its `base` names."""
    path = Path(config)
    if above and (beside := above[0].parent / path).is_file():
        path = beside
    if not path.is_file():
        path = CONFIGS / f"{config}.json"
    if not path.is_file():
        names = sorted(p.stem for p in CONFIGS.glob("*.json") if not p.stem.startswith("baseline-"))
        raise UsageError(f"no config {str(config)!r}: neither a file nor one of {', '.join(names)} (or baseline-...)")
    if path in above:
        raise UsageError(f"{path} is based on itself")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: need a JSON object")
    base = values.pop("base", None)
    return path, values if base is None else _over(_read(base, (path, *above))[1], values)


def _over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`base` with `values` in place of its own; groups of settings are merged."""
    merged = dict(base)
    for key, value in values.items():
        mine = merged.get(key)
        merged[key] = _over(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return merged


def _change(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UsageError(f"{change!r} is no key=value")
    *folders, last = key.split(".")
    if folders == ["mix", "kind_weights"]:  # one kind's weight; the others keep theirs
        values.setdefault("mix", {}).setdefault("kind_weights", dict(Mix().kind_weights))
    for folder in folders:
        inner = values.setdefault(folder, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{key}: {folder} has no settings")
        values = inner
    try:
        values[last] = json.loads(text)
    except ValueError:
        values[last] = text
