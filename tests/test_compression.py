"""Lower ranks: the best possible for the weights, with a stated error that is true, one concept a term."""

import pytest
import torch

from erasure_core.closed_form import erase
from erasure_core.compression import compress, energy_error, output_gram
from erasure_core.errors import WrongFamily

D, M = 24, 12


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def weights():
    scale = torch.logspace(0, -2, D, dtype=torch.float64)
    return {f"w{i}": (draw(i, 10 + i, D) * scale).float() for i in range(5)}


@pytest.fixture
def factors():
    decay = torch.logspace(0, -4, M, dtype=torch.float64)
    return draw(20, M, D), draw(21, D, M) * decay


def metric(weights, width=D):
    total = torch.zeros(width, width, dtype=torch.float64)
    for weight in weights.values():
        for row in weight.double():
            total += torch.outer(row[:width], row[:width])
    return total


def energy(change, s):
    return torch.trace(change.T @ s @ change).item()


@pytest.mark.parametrize("rank", [3, D - 1, D, 40])
def test_the_gram_is_of_the_outputs(weights, rank):
    up = draw(3, D, rank)
    torch.testing.assert_close(output_gram(weights, list(weights), up), up.T @ metric(weights) @ up)


def test_wider_matrices_count_with_their_first_columns(weights):
    up = draw(3, D - 4, 5)
    found = output_gram(weights, list(weights), up)
    torch.testing.assert_close(found, up.T @ metric(weights, D - 4) @ up)
    with pytest.raises(WrongFamily, match=f"w0 reads {D} numbers, the text space has 30"):
        output_gram(weights, list(weights), draw(3, 30, 5))


@pytest.mark.parametrize("error", [0.3, 1e-2, 1e-4, 1e-6])
def test_the_fewest_terms_that_keep_the_error(weights, factors, error):
    down, up = factors
    s = metric(weights)
    mix, small = compress(down, output_gram(weights, list(weights), up), error)
    root = torch.linalg.cholesky(s)
    singular = torch.linalg.svdvals(root.T @ up @ down).square()
    lost = [(singular[k:].sum() / singular.sum()).item() for k in range(M + 1)]
    needed = next(k for k in range(M + 1) if lost[k] <= error)
    assert len(small) == needed
    missed = energy(up @ down - up @ mix @ small, s) / energy(up @ down, s)
    assert missed == pytest.approx(lost[needed], rel=1e-4, abs=1e-12)
    assert energy_error(down, output_gram(weights, list(weights), up), mix, small) == pytest.approx(
        missed, rel=1e-6, abs=1e-12
    )


def test_lower_rank_rows_are_found_whole(weights, factors):
    down, up = factors
    doubled_down, doubled_up = torch.cat([down[:3], down[:3]]), torch.cat([up[:, :3], up[:, :3]], dim=1)
    mix, small = compress(doubled_down, output_gram(weights, list(weights), doubled_up), 1e-12)
    assert len(small) == 3
    torch.testing.assert_close(doubled_up @ mix @ small, doubled_up @ doubled_down, rtol=1e-6, atol=1e-6)


def test_more_rows_than_dimensions_need_no_more_terms_than_dimensions(weights):
    down, up = draw(1, 60, D), draw(2, D, 60)
    mix, small = compress(down, output_gram(weights, list(weights), up), 0.0)
    assert len(small) <= D
    torch.testing.assert_close(up @ mix @ small, up @ down, rtol=1e-6, atol=1e-6)


def test_nothing_stays_nothing(weights):
    down, up = draw(1, 5, D), torch.zeros(D, 5, dtype=torch.float64)
    gram = output_gram(weights, list(weights), up)
    mix, small = compress(down, gram)
    assert torch.count_nonzero(up @ mix @ small) == 0
    assert energy_error(down, gram, mix, small) == 0.0


def whole_error(model, exact, small):
    """Share of the change's energy on the outputs of the real matrices that the smaller map misses."""
    difference = small.maps["clip_l"].matrix() - exact.maps["clip_l"].matrix()
    change = exact.maps["clip_l"].matrix() - torch.eye(64)
    missed = total = 0.0
    for name, parameter in model.pipe.unet.named_parameters():
        if ".attn2.to_k." in name or ".attn2.to_v." in name:
            weight = parameter.detach().double()
            missed += (weight @ difference).square().sum().item()
            total += (weight @ change).square().sum().item()
    return missed / total


ALIKE = "\n".join(f"red circle {i} -> {'square' if i % 2 else 'disc'}" for i in range(6))


@pytest.mark.parametrize("text", ["circle -> square", "circle\nheart\nstar\nmoon\nring -> star", ALIKE])
def test_the_stated_error_is_true_and_within_its_bound(demo, text):
    small, exact = (erase(demo, text, generation="2023", exact=exact) for exact in (False, True))
    stated = small.diagnostics["clip_l"]["energy_error"]
    assert small.maps["clip_l"].rank < exact.maps["clip_l"].rank / 2
    assert 0 < stated <= 1e-4
    assert whole_error(demo, exact, small) == pytest.approx(stated, rel=0.02, abs=1e-9)


def test_few_rows_are_kept_as_they_are(demo):
    one = erase(demo, "circle -> square", parity=True)
    assert one.maps["clip_l"].rank == 1
    assert "energy_error" not in one.diagnostics["clip_l"]


def test_every_term_keeps_its_concept(demo):
    """Switching off the terms of one concept leaves the others' own change."""
    text = "circle -> square\nheart -> star\nmoon -> ring"
    small, exact = (erase(demo, text, generation="2023", exact=exact) for exact in (False, True))
    assert set(small.recipe["rows"]["clip_l"]) == {0, 1, 2}
    for group in range(3):
        parts = []
        for erasure in (small, exact):
            factor = erasure.maps["clip_l"].factors[0]
            mine = torch.tensor(erasure.recipe["rows"]["clip_l"]) == group
            assert len(mine) == factor.rank
            parts.append(factor.up[:, mine].double() @ factor.down[mine].double())
        assert (parts[0] - parts[1]).norm() / parts[1].norm() < 0.03
