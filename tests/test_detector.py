"""The bundled detector on drawings that it never saw, and on junk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from erasure_core.demo import detector as detector_module
from erasure_core.demo.augment import as_if_decoded
from erasure_core.demo.detector import LABELS, Detector, load_detector
from erasure_core.demo.junk import JUNK
from erasure_core.demo.train_detector import save_detector
from erasure_core.demo.world import GARBLED, Scene, random_scene, render
from erasure_core.errors import BadInput

COUNT = 1200


def tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().clamp(0, 255) / 255


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector()


@pytest.fixture(scope="module")
def held_out() -> tuple[list[Scene], torch.Tensor]:
    scenes = [random_scene(np.random.default_rng([2024, i])) for i in range(COUNT)]
    return scenes, tensor([render(scene) for scene in scenes])


def share_right(detector: Detector, scenes: list[Scene], images: torch.Tensor) -> dict[str, float]:
    readings = detector.read(images)
    return {
        name: float(np.mean([r[name] == s.labels[name] for r, s in zip(readings, scenes, strict=True)]))
        for name in LABELS
    }


def test_reads_held_out_drawings(detector: Detector, held_out: tuple[list[Scene], torch.Tensor]) -> None:
    assert min(share_right(detector, *held_out).values()) >= 0.99


def test_reads_them_through_blur_noise_and_colour_casts(
    detector: Detector, held_out: tuple[list[Scene], torch.Tensor]
) -> None:
    scenes, images = held_out
    worn = as_if_decoded(images, torch.Generator().manual_seed(8))
    assert (worn - images).abs().mean() > 0.03
    assert min(share_right(detector, scenes, worn).values()) >= 0.985


def test_seldom_calls_a_drawing_garbled(detector: Detector, held_out: tuple[list[Scene], torch.Tensor]) -> None:
    readings = detector.read(held_out[1])
    assert sum(GARBLED in dict(r).values() for r in readings) <= 0.005 * COUNT


LEAST = {
    "empty": 0.98,
    "texture": 0.98,
    "blob": 0.95,
    "fragment": 0.88,
    "overlap": 0.66,
    "melted": 0.98,
    "warped": 0.93,
}
"""Share called garbled that each kind of junk must reach: below the measured ones by about two standard errors."""


@pytest.mark.parametrize("kind", list(JUNK))
def test_rejects_junk(detector: Detector, kind: str) -> None:
    rng = np.random.default_rng([77, list(JUNK).index(kind)])
    readings = detector.read(tensor([JUNK[kind](rng)[0] for _ in range(150)]))
    assert np.mean([r.shape == GARBLED for r in readings]) >= LEAST[kind]


def test_does_not_name_what_is_not_there(detector: Detector) -> None:
    gray = torch.full((1, 3, 64, 64), 150 / 255)
    (reading,) = detector.read(gray)
    assert (reading.shape, reading.colour, reading.style, reading.background) == (GARBLED, GARBLED, GARBLED, "gray")


def test_file_is_small_and_half_precision() -> None:
    assert detector_module.WEIGHTS.stat().st_size <= 2_000_000
    stored = load_file(detector_module.WEIGHTS)
    assert {value.dtype for name, value in stored.items() if "batches" not in name} == {torch.float16}


def test_reading_is_a_mapping_with_confidence(detector: Detector) -> None:
    (reading,) = detector.read(tensor([render(Scene("star", "green", "striped", "white"))]))
    assert dict(reading) == {"shape": "star", "colour": "green", "style": "striped", "background": "white"}
    assert set(reading.confidence) == set(detector.attributes) == set(LABELS)
    assert all(0.9 < value <= 1 for value in reading.confidence.values())
    with pytest.raises(KeyError):
        reading["weather"]


def test_batches_do_not_matter(detector: Detector, held_out: tuple[list[Scene], torch.Tensor]) -> None:
    images = held_out[1][:9]
    whole, parts = detector.read(images), detector.read(images, batch=4)
    assert [dict(r) for r in whole] == [dict(r) for r in parts]
    assert detector.read(images[:0]) == []


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 3, 32, 32), (1, 1, 64, 64)])
def test_other_sizes_are_refused(detector: Detector, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="64, 64"):
        detector.read(torch.zeros(shape))


def test_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    one, two = load_detector(), load_detector()
    assert one.fingerprint == two.fingerprint
    path = save_detector(one, tmp_path / "detector.safetensors")
    assert load_detector(path).fingerprint == one.fingerprint
    with torch.no_grad():
        two.heads["shape"].bias[0] += 1
    assert two.fingerprint != one.fingerprint
