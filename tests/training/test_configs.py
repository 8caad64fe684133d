"""Every config file: it loads, holds the official values, and trains at reduced width."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamdac.config import CAUSAL, CENTRED
from streamdac.errors import UsageError
from streamdac.training import fitting
from streamdac.training.loop import Budget, Trainer
from streamdac.training.recipe import CONFIGS, Recipe, load_recipe, recipe_from_mapping

NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))
OFFICIAL = [name for name in NAMES if name != "causal-24khz" and not name.endswith("-causal")]
# Their networks and losses have the baseline's structure.
ONLY_NUMBERS = tuple(
    f"baseline-{name}" for name in ("quantizer", "dropout", "size", "equal", "diff", "only", "no-data")
)
NARROW = [
    "model.encoder_dim=2",
    "model.decoder_dim=64",
    "model.latent_dim=4",
    "model.codebook_size=8",
    "model.predictor_dim=4",
    "discriminator.channels=2",
    "discriminator.width=0.03125",
    "batch=2",
    "early_batch=2",
    "early_segment_seconds=0.15",
    "segment_seconds=0.15",
    "quantise_from=0",
    "valid_seconds=0.5",
    "valid_clips=1",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of noise, as speech, music and effects, for training and for measuring."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = ["path\tkind\tpackage\tgroup\tseconds\tbandwidth_hz\tsplit"]
    noise = 0.1 * np.random.default_rng(0).standard_normal(22_050).astype(np.float32)
    for split in ("train", "valid"):
        for kind in ("speech", "music", "effects"):
            soundfile.write(folder / f"{split}-{kind}.wav", noise, 44_100)
            rows.append(f"{split}-{kind}.wav\t{kind}\tpackage\t{kind}\t0.5\t\t{split}")
    (folder / "index.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.startswith(ONLY_NUMBERS) else ()) for name in NAMES]
)
def test_every_config_takes_two_steps(name: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_STEPS", 50)
    start = ["start=random"] if load_recipe(name).start == "transform" else []  # it needs full width
    recipe = load_recipe(name, [*NARROW, *start])
    made = Trainer(recipe, [corpus], tmp_path)
    before = [p.detach().clone() for p in made.network.parameters()]
    made.train(Budget(max_steps=2))
    assert made.step == 2
    moved = [bool((a != b).any()) for a, b in zip(before, made.network.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert (made.adversary is not None and made.adversary.updates == 2) == recipe.adversarial


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads_and_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_mapping(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_official_config_has_a_causal_twin_and_nothing_else_differs() -> None:
    assert len(OFFICIAL) == 29
    for name in OFFICIAL:
        official, causal = load_recipe(name).to_dict(), load_recipe(f"{name}-causal").to_dict()
        assert official["model"].pop("padding") == CENTRED
        assert causal["model"].pop("padding") == CAUSAL
        assert official.pop("name") == causal.pop("name").removesuffix("-causal")
        assert official == causal


def test_a_width_for_all_stages_takes_the_place_of_those_of_the_preset() -> None:
    given = ["model.decoder_dim=64", "model.encoder_dim=8"]
    assert load_recipe("causal-24khz", given).model.decoder_channels == (64, 32, 16, 8, 4)
    widths = "model.decoder_widths=[5,4,3,2,1]"
    assert load_recipe("causal-24khz", [*given, widths]).model.decoder_channels == (5, 4, 3, 2, 1)


@pytest.mark.parametrize(
    ("name", "rate", "hop", "codebooks", "latent"),
    [
        ("44khz", 44_100, 512, 9, 1024),
        ("44khz-16kbps", 44_100, 512, 18, 128),
        ("24khz", 24_000, 320, 32, 1024),
        ("16khz", 16_000, 320, 12, 1024),
    ],
)
def test_final_configs_have_the_official_values(name: str, rate: int, hop: int, codebooks: int, latent: int) -> None:
    r = load_recipe(name)
    assert (r.model.sample_rate, r.model.hop_length, r.model.n_codebooks, r.model.latent_dim) == (
        rate,
        hop,
        codebooks,
        latent,
    )
    assert (r.model.encoder_dim, r.model.decoder_dim, r.model.quantizer_dropout) == (64, 1536, 0.5)
    assert (r.batch, r.segment_seconds, r.steps, r.lr, r.betas, r.gamma) == (
        72,
        0.38,
        400_000,
        1e-4,
        (0.8, 0.99),
        0.999996,
    )
    w, d = r.losses, r.discriminator
    assert (w.mel, w.feature, w.generator, w.commitment, w.codebook) == (15, 2, 1, 0.25, 1)
    assert (w.stft, w.waveform, w.l1) == (0, 0, 0)
    assert (d.periods, d.rates, d.fft_sizes) == ((2, 3, 5, 7, 11), (), (2048, 1024, 512))
    assert d.bands == ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
    assert (r.weight_decay, r.decay_all, d.weight_decay) == (0.01, True, 0.01)
    assert (d.lr, d.betas, d.clip_norm, r.clip_norm, r.clip) == (1e-4, (0.8, 0.99), 10, 1000, 0)
    assert (r.ema, r.quantise_from, r.restart_every, r.start, r.precision) == (0, 0, 0, "plain", "fp32")


def differences(a: Recipe, b: Recipe) -> dict[str, object]:
    """What b has otherwise than a, groups flattened."""

    def flat(recipe: Recipe) -> dict[str, object]:
        pairs = recipe.to_dict().items()
        inner = {f"{k}.{i}": v for k, group in pairs if isinstance(group, dict) for i, v in group.items()}
        return inner | {k: v for k, v in pairs if not isinstance(v, dict) and k != "name"}

    left, right = flat(a), flat(b)
    return {key: value for key, value in right.items() if left.get(key) != value}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("no-adv", {"losses.mel": 1.0, "losses.l1": 1.0, "losses.generator": 0.0, "losses.feature": 0.0}),
        ("no-mb", {"losses.feature": 5.0, "discriminator.bands": ((0.0, 1.0),)}),
        ("no-mpd", {"losses.feature": 2.5, "discriminator.periods": (), "discriminator.rates": (1,)}),
        ("no-mpd-msd", {"losses.feature": 2.66, "discriminator.periods": ()}),
        ("no-low-hop", {"losses.mel": 100.0, "mel_windows": [512], "mel_bins": [80]}),
        ("quantizer-512d", {"model.codebook_dim": 512}),
        ("dropout-0.25", {"model.quantizer_dropout": 0.25}),
        ("size-small", {"model.decoder_dim": 512}),
    ],
)
def test_an_ablation_changes_the_baseline_in_its_own_point(name: str, wanted: dict[str, object]) -> None:
    assert differences(load_recipe("baseline"), load_recipe(f"baseline-{name}")) == wanted


def test_the_baseline_is_the_final_config_with_full_dropout_on_one_gpu() -> None:
    changes = {"model.quantizer_dropout": 1.0, "batch": 12, "steps": 250_000}
    assert differences(load_recipe("44khz"), load_recipe("baseline")) == changes


def test_a_file_can_be_based_on_another_and_on_a_built_in_config(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"base": "16khz", "lr": 0.5, "losses": {"mel": 3.0}}')
    two = tmp_path / "two.json"
    two.write_text(json.dumps({"base": str(tmp_path / "one.json"), "batch": 4}))
    recipe = load_recipe(two, ["losses.feature=7"])
    assert (recipe.name, recipe.lr, recipe.batch, recipe.model.sample_rate) == ("two", 0.5, 4, 16_000)
    assert (recipe.losses.mel, recipe.losses.feature, recipe.losses.commitment) == (3.0, 7.0, 0.25)


def test_a_file_based_on_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.json"
    path.write_text(json.dumps({"base": str(path)}))
    with pytest.raises(UsageError, match="based on itself"):
        load_recipe(path)
    path.write_text('{"base": "nothing"}')
    with pytest.raises(UsageError, match="no config 'nothing'"):
        load_recipe(path)
