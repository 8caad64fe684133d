"""Tensors are of one type, on the codec's device and given back in the caller's kind, whatever torch's defaults are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from streamdac.codec import Codec
from streamdac.resample import _filters

from .models import codec, network, noise

KINDS = pytest.mark.parametrize("kind", ["causal-predicted", "causal-long-term", "centred"])


@contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def everything(model: Codec, audio: torch.Tensor) -> list[torch.Tensor]:
    """All that a codec gives for `audio` `[T]`."""
    codes = model.encode(audio)
    encoder, other, decoder = model.encoder(), model.encoder(), model.decoder()
    first = encoder.push(audio[:57])
    other.load_state_dict(encoder.state_dict())
    streamed = torch.cat([first, other.push(audio[57:]), other.flush()], dim=-1)
    played = [decoder.push(streamed), decoder.flush()]
    archived = model.decompress(model.compress(audio.numpy(), model.sample_rate // 2))
    return [codes, streamed, model.decode(codes), model.decode(codes[..., :0]), *played, torch.from_numpy(archived)]


@KINDS
@pytest.mark.parametrize("default", [doubles, lambda: torch.device("meta")])
def test_defaults_of_torch_make_no_difference(kind: str, default: Callable[[], AbstractContextManager[object]]) -> None:
    audio = noise(410)
    wanted = everything(codec(kind), audio)
    _filters.cache_clear()  # to be made under the other default
    with default():
        found = everything(codec(kind), audio)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_rows_are_chosen_whatever_the_default_device() -> None:
    model = codec("causal")
    audio = noise(2, 1, 2 * model.hop_length)
    with torch.device("meta"):
        encoder = model.encoder(batch=2, n_codebooks=[1, 2])
        codes = encoder.push(audio, active=np.array([True, False]))
        assert encoder.push(audio).shape == (2, 2, 2)
        assert model.decoder(batch=2).push(codes).shape == (2, 1, 2 * model.hop_length)
    assert codes[1].tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("kind", ["causal", "centred"])
def test_an_empty_end_of_a_stream_is_on_its_device(kind: str) -> None:
    model = Codec(network(kind), device="meta")
    for stream in (model.encoder(), model.decoder()):
        assert stream.flush().device.type == "meta"


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_a_stream_of_arrays_is_one_elsewhere_too(engine: str) -> None:
    model = Codec(network("causal"), engine=engine)
    encoder, decoder = model.encoder(), model.decoder()
    decoder.push(encoder.push(noise(90).numpy()))
    for stream, other in ((encoder, model.encoder()), (decoder, model.decoder())):
        saved = stream.state_dict()
        other.load_state_dict(saved)
        assert isinstance(other.flush(), np.ndarray)
        del saved["numpy"]  # as of a version that did not keep it
        other.load_state_dict(saved)
        assert isinstance(other.flush(), torch.Tensor)


def test_audio_that_may_not_be_written_is_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    model = codec("causal-predicted")
    audio = np.frombuffer(noise(400).numpy().tobytes(), np.float32)
    assert np.array_equal(model.encode(audio), model.encode(audio.copy()))
    assert model.compress(audio, model.sample_rate).original_length == 400
    assert not recwarn.list
