"""The small models of the reference set as codecs, and full-size geometry."""

from __future__ import annotations

from functools import cache

import pytest
from _pytest.mark.structures import ParameterSet

import streamdac
from streamdac.codec import Codec
from tests.golden.cases import SETS, Golden


@cache
def codec(golden: Golden, model: str, engine: str) -> Codec:
    return streamdac.load(golden.weights(model), engine=engine)


def models() -> list[ParameterSet]:
    """(golden, model) for every model whose weights are at hand, once."""
    found = {
        model: golden for golden in reversed(SETS) for model, entry in golden.index["models"].items() if "file" in entry
    }
    return [pytest.param(golden, model, id=model) for model, golden in found.items()]


SUBSET = SETS[0]
