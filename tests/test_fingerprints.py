"""Content hashes of membranes: equal for equal effects, different otherwise, for tensors of every layout."""

import pytest
import torch

from erasure_core.erasure import EmbeddingMap, Erasure, MapFactor
from erasure_core.evaluation.fingerprints import membranes_hash
from erasure_core.membranes import Membrane


def membrane(up: torch.Tensor, strength: float = 1.0) -> Membrane:
    down = torch.linspace(0, 1, up.numel()).reshape(up.shape[1], up.shape[0])
    return Membrane(Erasure(maps={"clip_l": EmbeddingMap("clip_l", (MapFactor(down, up),))}), strength=strength)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_layout_in_memory_does_not_matter(rank: int) -> None:
    plain = torch.arange(8.0 * rank).reshape(8, rank)
    turned = plain.T.contiguous().T  # strides (1, 8): for rank 1 torch calls this contiguous, too
    assert membranes_hash([membrane(plain)]) == membranes_hash([membrane(turned)])


def test_other_numbers_strengths_and_ways_are_other_hashes() -> None:
    plain = torch.arange(8.0).reshape(8, 1)
    one = [membrane(plain)]
    others = [
        membranes_hash([membrane(plain + 1)]),
        membranes_hash([membrane(plain, 0.5)]),
        membranes_hash(one, act_on="weights"),
        membranes_hash(one, rows="all"),
        membranes_hash([*one, *one]),
        membranes_hash([]),
    ]
    assert len({membranes_hash(one), *others}) == 7
