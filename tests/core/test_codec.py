"""The Codec API: kinds of array, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamdac
from streamdac.config import CENTRED, PRESETS, ModelConfig, config_from_mapping
from streamdac.errors import BadDataError, NoInputError, OutputError, UnavailableError, UsageError
from streamdac.nn import DAC
from streamdac.plan import fingerprint
from streamdac.weights import Weights, load_weights, save_weights

from .models import GEOMETRIES, codec, network, noise


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(2, 100), r"shape \(2, 100\), need \[T\] or \[B, 1, T\]"),
        (torch.zeros(1, 2, 100), r"shape \(1, 2, 100\)"),
        (torch.zeros(100, dtype=torch.int16), "torch.int16, need floating point"),
        (np.zeros(100, dtype=np.int16), "int16, need floating point"),
        (torch.tensor([0.0, float("nan")]), "NaN or infinity in 1 of 2 samples"),
        (np.array([np.inf, -np.inf, 0], dtype=np.float32), "NaN or infinity in 2 of 3 samples"),
        ([0.0, 1.0], "list, need a numpy array or a torch tensor"),
        (np.array(["a"]), "need numbers"),
    ],
)
def test_bad_audio_is_refused_with_its_numbers(audio: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        codec("causal").encode(audio)
    with pytest.raises(UsageError, match=message):
        codec("causal").encoder().push(audio)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 2, 3), "torch.float32, need integers"),
        (torch.zeros(5, dtype=torch.int64), r"shape \(5,\), need \[\w+, K, F\]"),
        (torch.full((1, 2, 3), 64), "codes from 64 to 64, need 0 to 63"),
        (torch.full((1, 2, 3), -3), "codes from -3 to -3"),
        (torch.zeros(1, 5, 3, dtype=torch.int64), "5 codebooks, the model has 1 to 4"),
        (torch.tensor([[[-1], [3]]]), "uses a codebook after one that it leaves out"),
        (np.array([[[2**63]]], dtype=np.uint64), "codes from"),
    ],
)
def test_bad_codes_are_refused_with_their_numbers(codes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        codec("causal").decode(codes)
    with pytest.raises(UsageError, match=message):
        codec("causal").decoder().push(codes)


@pytest.mark.parametrize("depth", [0, 5, -1, [1, 2], 1.5, [1.5], True, [True], "2", [], np.int64(5), {}])
def test_a_wrong_number_of_codebooks_is_refused(depth: Any) -> None:
    with pytest.raises(UsageError, match="n_codebooks"):
        codec("causal").encode(noise(100), n_codebooks=depth)
    with pytest.raises(UsageError, match="n_codebooks"):
        codec("causal").encoder(n_codebooks=depth)


@pytest.mark.parametrize("depth", [2, [2], (2,), np.int64(2), np.array([2]), torch.tensor(2), torch.tensor([2])])
def test_any_integer_is_a_number_of_codebooks(depth: Any) -> None:
    assert codec("causal").encode(noise(100), n_codebooks=depth).shape == (1, 2, 5)


@pytest.mark.parametrize(
    ("active", "message"),
    [
        ([True], r"active is torch.bool \(1,\), need bool \[2\]"),
        (torch.ones(2), r"active is torch.float32 \(2,\)"),
        (np.ones((2, 1), dtype=bool), r"\(2, 1\)"),
    ],
)
def test_a_mask_of_the_wrong_kind_is_refused(active: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        codec("causal").encoder(batch=2).push(noise(2, 1, 20), active=active)


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, None])
def test_a_wrong_batch_is_refused(batch: Any) -> None:
    with pytest.raises(UsageError, match="batch is"):
        codec("causal").encoder(batch=batch)
    with pytest.raises(UsageError, match="batch is"):
        codec("causal").decoder(batch=batch)


def test_rows_that_are_not_there_are_refused() -> None:
    encoder, decoder = codec("causal").encoder(batch=2), codec("causal").decoder(batch=2)
    with pytest.raises(UsageError, match="audio has 3 rows, need 2"):
        encoder.push(noise(3, 1, 20))
    with pytest.raises(UsageError, match=r"codes have shape \(1, 4, 3\), need \[2, K, F\]"):
        decoder.push(torch.zeros(1, 4, 3, dtype=torch.int64))
    for stream in (encoder, decoder):
        with pytest.raises(UsageError, match="row 2 of 2"):
            stream.reset(rows=[0, 2])
    with pytest.raises(UsageError, match="idle in some frames of a push and not in others"):
        decoder.push(torch.tensor([[[1, 1]], [[1, -1]]]))


def test_rows_idle_only_between_hops() -> None:
    encoder = codec("causal").encoder()
    encoder.push(noise(7))
    with pytest.raises(UsageError, match="7 samples of an unfinished hop are held"):
        encoder.push(noise(20), active=torch.tensor([True]))


def test_a_refused_push_leaves_the_stream_as_it_was() -> None:
    audio, encoder = noise(200), codec("causal").encoder()
    parts = [encoder.push(audio[:90])]
    with pytest.raises(UsageError):
        encoder.push(torch.full((50,), float("nan")))
    parts += [encoder.push(audio[90:]), encoder.flush()]
    assert torch.equal(torch.cat(parts, dim=-1), codec("causal").encode(audio))


def test_audio_at_another_rate_is_refused_by_the_network() -> None:
    with pytest.raises(UsageError, match="audio at 44100 Hz, the model is for 24000 Hz"):
        network("causal").preprocess(noise(1, 1, 100), 44_100)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_any_float_is_audio(dtype: Any) -> None:
    audio = noise(100).numpy().astype(np.float16)
    np.testing.assert_array_equal(codec("causal").encode(audio.astype(dtype)), codec("causal").encode(audio))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_any_integer_is_a_code(dtype: Any) -> None:
    codes = codec("causal").encode(noise(100).numpy())
    np.testing.assert_array_equal(codec("causal").decode(codes.astype(dtype)), codec("causal").decode(codes))


def test_frames_are_hops_rounded_up() -> None:
    assert [codec("causal").encode(noise(n)).shape[-1] for n in (0, 1, 19, 20, 21)] == [0, 1, 1, 1, 2]


def test_outputs_take_part_in_autograd_and_in_place_operations() -> None:
    audio = codec("causal").decode(codec("causal").encode(noise(100)))
    audio.requires_grad_()
    (audio * 2).sum().backward()
    assert audio.grad is not None


def test_an_unknown_device_or_engine_is_refused() -> None:
    with pytest.raises(UnavailableError, match="device 'cuda:99'"):
        streamdac.Codec(network("causal"), device="cuda:99")
    with pytest.raises(UsageError, match="engine is 'warp'"):
        streamdac.Codec(network("causal"), engine="warp")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_a_gpu_gives_the_codes_of_the_cpu(kind: str) -> None:
    audio = noise(3, 1, 2000)
    on_gpu = streamdac.Codec(network(kind), device="cuda")
    codes = on_gpu.encode(audio).cpu()
    assert (codes == codec(kind).encode(audio)).float().mean() > 0.99
    torch.testing.assert_close(on_gpu.decode(codes).cpu(), codec(kind).decode(codes), atol=1e-4, rtol=0)


def weights(kind: str = "causal") -> Weights:
    return Weights(GEOMETRIES[kind], network(kind).state_dict(), {"name": "test"})


def test_weights_survive_the_disk_and_keep_their_fingerprint(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", weights(), dtype=torch.float32)
    loaded = streamdac.load(tmp_path / "w.safetensors", engine="torch")
    assert loaded.name == "test"
    assert loaded.fingerprint == codec("causal").fingerprint
    assert torch.equal(loaded.encode(noise(300)), codec("causal").encode(noise(300)))


def test_half_precision_weights_have_one_fingerprint_in_every_format(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", weights("centred"))
    half = load_weights(tmp_path / "w.safetensors").network()
    kwargs = {k: v for k, v in GEOMETRIES["centred"].to_dict().items() if k != "padding"}
    torch.save({"state_dict": half.state_dict(), "metadata": {"kwargs": kwargs}}, tmp_path / "w.pth")
    official = load_weights(tmp_path / "w.pth")
    assert official.config.padding == CENTRED
    assert fingerprint(official.network()) == fingerprint(half)


def test_a_model_whose_decoder_alone_was_trained_keeps_its_fingerprint() -> None:
    other = DAC(GEOMETRIES["causal"])
    other.load_state_dict(network("causal").state_dict())
    with torch.no_grad():
        next(other.decoder.parameters()).mul_(2)
        assert fingerprint(other) == fingerprint(network("causal"))
        next(other.quantizer.parameters()).mul_(2)
        assert fingerprint(other) != fingerprint(network("causal"))


def test_weights_are_not_overwritten_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    target.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        save_weights(target, weights())
    assert target.read_text() == "mine"
    save_weights(target, weights(), force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors"]


def test_files_that_are_not_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no model"):
        streamdac.load(tmp_path / "none.safetensors")
    for name, content in {"a.safetensors": b"junk", "b.pth": b"junk", "c.pth": b"", "d.safetensors": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadDataError):
            streamdac.load(tmp_path / name)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_nothing_in_a_pth_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "metadata": {"kwargs": {}}, "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BadDataError, match="not a plain weights file"):
        streamdac.load(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.pop("encoder.block.0.bias"),
        lambda t: t.update(extra=torch.zeros(1)),
        lambda t: t.update({"encoder.block.0.bias": torch.zeros(99)}),
        lambda t: t.update({"encoder.block.0.bias": torch.full((4,), float("nan"))}),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, spoil: Any) -> None:
    tensors = dict(network("causal").state_dict())
    spoil(tensors)
    save_weights(tmp_path / "w.safetensors", Weights(GEOMETRIES["causal"], tensors))
    with pytest.raises(BadDataError):
        streamdac.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder_dim": 10**9},
        {"encoder_rates": [2] * 99},
        {"encoder_rates": "2222"},
        {"n_codebooks": -1},
        {"n_codebooks": True},
        {"padding": "diagonal"},
        {"surprise": 1},
        {"encoder_rates": [2, 2]},
        {"decoder_dim": 4},
        {"quantizer_dropout": 2.0},
    ],
)
def test_a_config_out_of_bounds_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadDataError):
        config_from_mapping(settings)


def test_presets_have_the_published_rates() -> None:
    rates = {name: round(config.bitrate() / 1000, 2) for name, config in PRESETS.items()}
    assert rates["dac-44khz"] == 7.75
    assert rates["dac-24khz"] == 24.0
    assert rates["dac-16khz"] == 6.0
    assert rates["causal-24khz"] == 12.0
    assert ModelConfig().bitrate(1) == 750


def test_lookahead_of_the_official_layouts_is_derived() -> None:
    """The official 44.1 kHz encoder waits 84.6 ms past its hop; a round trip takes about 204 ms."""
    from streamdac.plan import build_plan

    small = {"encoder_dim": 2, "decoder_dim": 16, "latent_dim": 4, "codebook_size": 4}
    plan = build_plan(DAC(config_from_mapping(small)))
    assert round(1000 * plan.encoder_lookahead / 44_100, 1) == 84.6
    assert round(1000 * (plan.lookahead + 512) / 44_100) == 204
    rates = {"encoder_rates": (2, 4, 5, 8), "decoder_rates": (8, 5, 4, 2)}
    for rate, milliseconds in ((24_000, 248), (16_000, 372)):
        plan = build_plan(DAC(config_from_mapping({**small, **rates, "sample_rate": rate})))
        assert round(1000 * (plan.lookahead + 320) / rate) == milliseconds


def test_loading_a_model_does_not_load_the_compiler(tmp_path: Path) -> None:
    """The meta device's random numbers and norms import it, which takes longer than everything else that a command does."""
    import subprocess
    import sys

    save_weights(tmp_path / "w.safetensors", weights())
    code = "import sys, streamdac; streamdac.load(sys.argv[1]); assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code + ", 'compiler'", str(tmp_path / "w.safetensors")], check=True)
