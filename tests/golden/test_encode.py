"""Codes, latents and audio of single windows, without resampling or loudness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from .cases import Golden, assert_codes, cases

NEAR_TIE = 3e-5  # float32 rounding reaches about 1e-5
TOLERANCE = 1e-4


@pytest.mark.parametrize(("golden", "case"), cases("encode"))
def test_plan_gives_official_codes_and_audio(golden: Golden, case: dict[str, Any]) -> None:
    arrays, engine = golden.arrays(case["file"]), golden.engine(case["model"])
    executor = engine.padded if case["padding"] else engine.unpadded
    x = torch.from_numpy(arrays["x"])
    hop = engine.config.hop_length
    padded = torch.nn.functional.pad(x, (0, -x.shape[2] % hop)).transpose(1, 2)
    depth = case["n_quantizers"] or engine.config.n_codebooks
    codes = executor.encode(executor.fresh_encoder(len(x)), padded, depth, last=True)
    assert_codes(codes.transpose(1, 2).numpy(), arrays["codes"], arrays["margin"], NEAR_TIE)

    given = torch.from_numpy(arrays["codes"].astype(np.int64)).transpose(1, 2)
    audio = executor.decode(executor.fresh_decoder(len(x)), given, last=True).transpose(1, 2).numpy()
    if case["padding"]:
        audio = audio[:, :, : x.shape[2]]
    np.testing.assert_allclose(audio, arrays["audio"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("golden", "case"), cases("encode", padding=True))
def test_network_gives_official_latents_and_losses(golden: Golden, case: dict[str, Any]) -> None:
    arrays, network = golden.arrays(case["file"]), golden.network(case["model"])
    with torch.no_grad():
        x = torch.from_numpy(arrays["x"])
        z = network.encoder(network.preprocess(x, network.sample_rate))
        out = network(x, network.sample_rate, case["n_quantizers"])
    if "z" in arrays:
        np.testing.assert_allclose(z, arrays["z"], rtol=0, atol=TOLERANCE)
    assert_codes(out["codes"].numpy(), arrays["codes"], arrays["margin"], NEAR_TIE)
    if (out["codes"].numpy() == arrays["codes"]).all():
        for name, stored in (("latents", "latents"), ("z", "z_q"), ("audio", "audio")):
            if stored in arrays:
                np.testing.assert_allclose(out[name], arrays[stored], rtol=0, atol=TOLERANCE)
        for loss in ("commitment_loss", "codebook_loss"):
            assert float(out[f"vq/{loss}"]) == pytest.approx(case[loss], rel=1e-4)


@pytest.mark.parametrize(("golden", "case"), cases("encode"))
def test_latents_from_codes_and_from_latents(golden: Golden, case: dict[str, Any]) -> None:
    arrays, quantizer = golden.arrays(case["file"]), golden.network(case["model"]).quantizer
    with torch.no_grad():
        z = quantizer.from_codes(torch.from_numpy(arrays["codes"].astype(np.int64)))[0]
        expected = arrays.get("z_from_codes", arrays.get("z_q"))
        if expected is not None:
            np.testing.assert_allclose(z, expected, rtol=0, atol=TOLERANCE)
        if "fl_z" in arrays:
            z, _, codes = quantizer.from_latents(torch.from_numpy(arrays["latents"][:, : 3 * quantizer.codebook_dim]))
            np.testing.assert_array_equal(codes, arrays["fl_codes"])
            np.testing.assert_allclose(z, arrays["fl_z"], rtol=0, atol=TOLERANCE)
