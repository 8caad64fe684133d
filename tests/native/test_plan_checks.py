"""Whatever the kernels are given for a plan, a push or a state: an error that names the numbers, never a read outside."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdac import native
from streamdac.config import CAUSAL, CENTRED
from streamdac.native_executor import _operations, _quantizer

from . import models
from .models import needs_native

pytestmark = needs_native

REFUSALS = (ValueError, TypeError, OverflowError, BufferError, MemoryError)
Arguments = dict[str, Any]


def arguments(geometry: str = CENTRED) -> Arguments:
    plan = models.small_plan(geometry)
    config = plan.config
    return {
        "encoder": _operations(plan.encoder),
        "quantizer": _quantizer(plan.quantizer),
        "decoder": _operations(plan.decoder),
        "latent": config.latent_dim,
        "hop": config.hop_length,
        "threads": 1,
        "isa": None,
    }


def build(given: Arguments) -> Any:
    return native.kernels().Codec(*given.values())


def assert_refused(given: Arguments, spoil: Any, message: str) -> None:
    """What is built as it is, is not once it was spoilt, and the error says why."""
    build(given)
    spoil(given)
    with pytest.raises((ValueError, TypeError)) as caught:
        build(given)
    assert message in str(caught.value)


def put(given: Arguments, part: str, operation: int, field: int, value: Any) -> None:
    fields = list(given[part][operation])
    fields[field] = value
    given[part][operation] = tuple(fields)


def array(*shape: int) -> Any:
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("part", "operation", "spoilt", "message"),
    [
        ("encoder", 0, array(5), "factors has 5 items in dimension 0, need 6"),
        ("encoder", 0, None, "weight has items of type e, need float32"),
        ("encoder", 0, array(6, 1), "factors has 2 dimensions, need 1"),
        ("decoder", 2, array(51), "factors has 51 items in dimension 0, need 52"),
    ],
)
def test_factors_that_do_not_fit_are_refused(part: str, operation: int, spoilt: Any, message: str) -> None:
    given = arguments(models.HALVED)
    assert given[part][operation][0] in ("conv", "transpose")
    assert_refused(given, lambda g: put(g, part, operation, -2, spoilt), message)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: put(g, "encoder", 0, 6, array(7, 1, 5)), "bias has 6 items in dimension 0, need 5"),
        (lambda g: put(g, "encoder", 0, 6, array(7, 2, 6)), "encoder: input channels: got 2, need 1"),
        (lambda g: put(g, "encoder", 0, 6, array(6, 1, 6)), "weight has 6 items in dimension 0, need 7"),
        (lambda g: put(g, "encoder", 0, 6, array(7, 6)), "weight has 2 dimensions, need 3"),
        (lambda g: put(g, "encoder", 0, 6, np.ones((7, 1, 6))), "weight has items of type d, need float32"),
        (lambda g: put(g, "encoder", 0, 6, np.ones((7, 1, 6), np.float16)), "weight has items of type e, need float32"),
        (lambda g: put(g, "encoder", 0, 7, array(6)), "weight has items of type f, need float16"),
        (lambda g: put(g, "encoder", 0, 3, 0), "encoder: stride: got 0, need 1"),
        (lambda g: put(g, "encoder", 0, 3, 8), "encoder: stride: got 8, need 7"),
        (lambda g: put(g, "encoder", 0, 2, -1), "encoder: dilation: got -1, need 1"),
        (lambda g: put(g, "encoder", 0, 4, 1 << 40), "encoder: left padding: got 1099511627776, need 1048576"),
        (lambda g: put(g, "encoder", 0, 0, "lstm"), "encoder: no operation is called lstm"),
        (lambda g: put(g, "encoder", 1, 1, 7), "encoder: channels of a split: got 7, need 6"),
        (lambda g: put(g, "encoder", 2, 1, array(7)), "inverse has 6 items in dimension 0, need 7"),
        (lambda g: put(g, "decoder", 2, 1, -2), "decoder: stride: got -2, need 1"),
        (lambda g: put(g, "decoder", 2, 1, 3), "decoder: columns of a transposed convolution, a multiple of its stride"),
        (lambda g: g["encoder"].pop(1), "encoder: splits before a join: got 0, need 1"),
        (lambda g: g["encoder"].pop(), "plan: channels of the encoder's output: got 24, need 10"),
        (lambda g: g["encoder"].insert(1, ("join",)), "encoder: splits before a join: got 0, need 1"),
        (lambda g: g["encoder"].append(("split", 10, 0)), "encoder: splits without a join: got 1, need 0"),
        (lambda g: g.update(encoder=[]), "encoder: convolutions: got 0, need 1"),
        (lambda g: g["encoder"].insert(0, ("tanh",)), "a tanh must follow"),
        (lambda g: g["decoder"].pop(0), "decoder: a Snake must follow"),
        (lambda g: g.update(latent=11), "decoder: input channels: got 10, need 11"),
        (lambda g: g.update(hop=0), "plan: hop: got 0, need 1"),
        (lambda g: g.update(threads=0), "0 threads, need 1 to 1024"),
        (lambda g: g.update(isa="none"), "no instruction set none"),
        (lambda g: g.update(quantizer=g["quantizer"][:6]), "8 arguments (6 given)"),
    ],
)  # fmt: skip
def test_shapes_that_disagree_are_named(spoil: Any, message: str) -> None:
    assert_refused(arguments(), spoil, message)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: put(g, "decoder", -1, 1, 0), "decoder: length of a long-term filter: got 0, need 65536"),
        (lambda g: put(g, "decoder", -1, 4, 1 << 40), "length of a long-term filter: got 1099511627776, need 65536"),
        (lambda g: put(g, "decoder", -1, 3, 200), "shortest lag, at most the longest: got 200, need 133"),
        (lambda g: put(g, "decoder", -1, 3, 6), "at most twice its shortest lag: got 15, need 12"),
        (lambda g: (put(g, "decoder", -1, 2, 1), put(g, "decoder", -1, 7, array(1))), "within its window: got 140, need 134"),
        (lambda g: put(g, "decoder", -1, 8, np.zeros(4, np.float32)), "knots that rise: got 1, need 2"),
        (lambda g: put(g, "decoder", -1, 8, array(3)), "knots has 3 items in dimension 0, need 4"),
        (lambda g: put(g, "decoder", -1, 10, array(3, 14)), "past has 14 items in dimension 1, need 15"),
        (lambda g: put(g, "decoder", -1, 7, array(0)), "taps of a low-pass: got 0, need 65536"),
        (lambda g: g["decoder"].append(g["decoder"][-1]), "must follow a decoder's last convolution: channels before it: got 0"),
        (lambda g: g["decoder"].append(g["decoder"][0]), "decoder: operations after the end: got 1, need 0"),
        (lambda g: g["decoder"].insert(1, g["decoder"].pop()), "channels before it: got 52, need 1"),
        (lambda g: put(g, "decoder", -2, 0, "snake"), "3 arguments (1 given)"),
        (lambda g: g["encoder"].append(g["decoder"][-1]), "must follow a decoder's last convolution"),
    ],
)  # fmt: skip
def test_a_long_term_filter_that_cannot_be_is_named(spoil: Any, message: str) -> None:
    assert_refused(arguments(models.LONG_TERM), spoil, message)


def put_prediction(given: Arguments, field: int, value: Any) -> None:
    *rest, prediction = given["quantizer"]
    given["quantizer"] = (*rest, tuple(value if i == field else item for i, item in enumerate(prediction)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: put_prediction(g, 0, 0), "predictor: codebooks that are predicted from: got 0, need 1"),
        (lambda g: put_prediction(g, 1, array(21, 11)), "first_weight has 21 items in dimension 0, need 20"),
        (lambda g: put_prediction(g, 1, array(9, 11)), "first_weight has 9 items in dimension 0, need 0"),
        (lambda g: put_prediction(g, 2, array(10)), "first_bias has 10 items in dimension 0, need 11"),
        (lambda g: put_prediction(g, 3, array(11, 12)), "second_weight has 12 items in dimension 1, need 11"),
        (lambda g: put_prediction(g, 5, array(30, 10)), "last_weight has 30 items in dimension 0, need 31"),
        (lambda g: g.update(quantizer=(*g["quantizer"][:-1], None)), "memories for a predictor: got 1, need 0"),
        (lambda g: g["encoder"].pop(), "memories for a predictor: got 0, need 1"),
        (lambda g: g["decoder"].pop(), "memories for a predictor: got 0, need 1"),
        (lambda g: g["decoder"].append(g["decoder"][-1]), "decoder: memories: got 2, need 1"),
        (lambda g: g["decoder"].append(g["decoder"][0]), "decoder: operations after the end: got 1, need 0"),
        (lambda g: put(g, "decoder", -1, 1, 3), "frames of a memory: got 3, need 2"),
        (lambda g: put(g, "decoder", -1, 1, 0), "decoder: frames of a memory: got 0, need 1"),
        (lambda g: put(g, "encoder", -1, 2, 9), "channels of a memory: got 9, need 10"),
    ],
)  # fmt: skip
def test_a_predictor_that_cannot_be_is_named(spoil: Any, message: str) -> None:
    assert_refused(arguments(models.PREDICTED), spoil, message)


def test_a_memory_of_another_length_is_refused() -> None:
    streams = build(arguments(models.PREDICTED)).streams(True, 2)
    slot = len(streams.slots()) - 1
    with pytest.raises(ValueError, match="frames of a memory: got 1, need 2"):
        streams.write(slot, 0, array(2, 1, 10))


def test_a_long_term_filter_needs_plain_sums_before_it() -> None:
    given = arguments(models.LONG_TERM)
    given["decoder"][-2] = ("snake", array(1), array(1))
    with pytest.raises(ValueError, match="must follow a plain convolution"):
        build(given)


numbers = st.one_of(
    st.integers(-3, 40), st.sampled_from([1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63), 1 << 80])
)
shapes = st.lists(st.integers(0, 12), min_size=0, max_size=4)
things = st.one_of(
    numbers,
    shapes.map(lambda shape: array(*shape)),
    shapes.map(lambda shape: np.ones(shape, dtype=np.int64)),
    shapes.map(lambda shape: array(*shape).T),
    st.sampled_from([None, "conv", "split", b"", 1.5, (), np.ones(6, dtype=">f4"), float("nan")]),
)


@models.examples(300)
@given(data=st.data())
def test_a_plan_changed_at_random_is_refused_or_runs(data: st.DataObject) -> None:
    given = arguments(data.draw(st.sampled_from([CAUSAL, CENTRED, models.LONG_TERM, models.PREDICTED, models.HALVED])))
    for _ in range(data.draw(st.integers(1, 3))):
        change(given, data)
    with suppress(*REFUSALS):
        run(build(given), data)


def change(given: Arguments, data: st.DataObject) -> None:
    """One field of one operation, one array of the quantiser, one number, or the order of operations."""
    part = data.draw(st.sampled_from(["encoder", "decoder", "quantizer", "latent", "hop"]))
    if part in ("latent", "hop"):
        given[part] = data.draw(things)
        return
    if not isinstance(given[part], list | tuple) or not given[part]:
        return
    items = list(given[part])
    place = data.draw(st.integers(0, len(items) - 1))
    match data.draw(st.sampled_from(["field", "drop", "repeat", "swap", "replace"])):
        case "field" if isinstance(items[place], tuple) and items[place]:
            fields = list(items[place])
            fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(things)
            items[place] = tuple(fields)
        case "drop":
            items.pop(place)
        case "repeat":
            items.insert(place, items[place])
        case "swap":
            other = data.draw(st.integers(0, len(items) - 1))
            items[place], items[other] = items[other], items[place]
        case _:
            items[place] = data.draw(things)
    given[part] = items if part != "quantizer" else tuple(items)


def run(codec: Any, data: st.DataObject) -> None:
    """Push through a codec that was accepted, both ways."""
    for decoding in (False, True):
        streams = codec.streams(decoding, 2)
        for last in (False, True):
            rows = data.draw(st.sampled_from([0, 1, 30, 400]))
            made = codec.ready(streams, rows, last)
            if decoding:
                codec.decode(streams, np.ones((2, rows, 1), dtype=np.int64), array(2, made), last)
            else:
                audio, depths = array(2, rows), np.array([[1], [1]], dtype=np.int64)
                codec.encode(streams, audio, depths, np.zeros((2, made, 1), dtype=np.int64), last)


def encoder_call(**changed: Any) -> Any:
    codec = build(arguments(CAUSAL))
    values = {
        "audio": array(2, 12),
        "depths": np.array([[1], [2]]),
        "codes": np.zeros((2, 2, 2), dtype=np.int64),
        **changed,
    }
    return codec.encode(codec.streams(False, 2), values["audio"], values["depths"], values["codes"], False)


def test_a_push_with_the_right_arguments_runs() -> None:
    assert encoder_call() is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"audio": array(1, 12)}, "audio has 1 items in dimension 0, need 2"),
        ({"audio": array(2, 12).astype(np.float64)}, "items of type d, need float32"),
        ({"audio": array(2, 2, 6)}, "audio has 3 dimensions, need 2"),
        ({"depths": np.array([[1]])}, "depths has 1 items in dimension 0, need 2"),
        ({"depths": np.array([1, 2])}, "depths has 1 dimensions, need 2"),
        (
            {
                "audio": array(2, 18),
                "depths": np.ones((2, 2), dtype=np.int64),
                "codes": np.zeros((2, 3, 2), dtype=np.int64),
            },
            "frames of the depths: got 2, need 3",
        ),
        ({"codes": np.zeros((2, 1, 2), dtype=np.int64)}, "frames of the output: got 1, need 2"),
        ({"codes": np.zeros((2, 2, 5), dtype=np.int64)}, "codebooks: got 5, need 4"),
        ({"codes": np.zeros((3, 2, 2), dtype=np.int64)}, "codes has 3 items in dimension 0, need 2"),
        ({"codes": array(2, 2, 2)}, "codes has items of type f, need int64"),
    ],
)
def test_a_push_with_wrong_arrays_is_refused(changed: Arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_call(**changed)


def test_an_output_that_may_not_be_written_is_refused() -> None:
    codes = np.zeros((2, 2, 2), dtype=np.int64)
    codes.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        encoder_call(codes=codes)


@pytest.mark.parametrize("code", [50, -3, 1 << 40, -(1 << 63)])
def test_a_code_out_of_range_is_refused(code: int) -> None:
    codec = build(arguments(CAUSAL))
    codes = np.full((1, 1, 4), code, dtype=np.int64)
    with pytest.raises(ValueError, match=f"decode: code: got {code}, need 49"):
        codec.decode(codec.streams(True, 1), codes, array(1, 6), False)


@pytest.mark.parametrize("batch", [0, -1, (1 << 20) + 1])
def test_a_batch_out_of_range_is_refused(batch: int) -> None:
    with pytest.raises(ValueError, match=f"{batch} streams"):
        build(arguments()).streams(False, batch)
