"""The shipped network: numpy against explicit loops and against torch, its size, and what it must not depend on."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PALNetLandmarksLib.height_map_net import OFFSET_UNIT_MM, HeightMapNet, HeightMapNetConfig
from PALNetLandmarksLib.height_maps import HeightMapConfig
from PALNetLandmarksLib.scheme import load_scheme

#: Three landmarks: one in the midline, one on each side.
TINY = HeightMapNetConfig(
    kinds=(0, 1, 1),
    sides=(0, 1, 2),
    maps=HeightMapConfig(pixels=5, pitch_mm=(1.0, 2.0), depth_mm=(5.0, 10.0), stride=(1, 1)),
    channels=(2, 3),
    strides=(2, 1),
    map_features=4,
    width=4,
    layers=2,
    heads=2,
    mixing=5,
    joint=2,
)


def full_config() -> HeightMapNetConfig:
    """The default architecture on the 50 landmarks."""
    scheme = load_scheme()
    names = [label.split("_")[0] for label in scheme.labels]
    order = list(dict.fromkeys(names))
    side = {"R": 1, "L": 2}
    sides = tuple(side[label[-1]] if label[-2:-1] == "_" else 0 for label in scheme.labels)
    return HeightMapNetConfig(kinds=tuple(order.index(name) for name in names), sides=sides)


def random_weights(config: HeightMapNetConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """Every array random, none zero: gains, shifts and norms too."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in config.shapes().items():
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight")):
            values = rng.normal(1.0, 0.2, shape)
        elif name.endswith((".bias", "gain", "shift", "embedding")):
            values = rng.normal(0.0, 0.3, shape)
        else:
            values = rng.normal(0.0, 1.2 / np.sqrt(np.prod(shape[2:]) if name.startswith("conv") else shape[-1]), shape)
        weights[name] = values.astype(np.float32)
    return weights


def random_input(config: HeightMapNetConfig, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed + 1000)
    pixels, scales = config.maps.pixels, len(config.maps.pitch_mm)
    maps = rng.normal(0, 0.5, (scales, config.landmarks, pixels, pixels, 4))
    return maps.astype(np.float32), rng.normal(0, 4, (config.landmarks, 3)).astype(np.float32)


# --- the forward pass spelt out


def convolution_by_loops(image: Any, weight: Any, stride: int) -> list[list[list[float]]]:
    """image[row][column][channel] -> the same with len(weight) channels; one zero around the image."""
    size, out = len(image), []
    for row in range(0, size, stride):
        out_row = []
        for column in range(0, size, stride):
            values = []
            for kernel in weight:
                total = 0.0
                for channel in range(len(kernel)):
                    for dy in (-1, 0, 1):
                        for dx in (-1, 0, 1):
                            y, x = row + dy, column + dx
                            if 0 <= y < size and 0 <= x < size:
                                total += float(kernel[channel][dy + 1][dx + 1]) * float(image[y][x][channel])
                values.append(total)
            out_row.append(values)
        out.append(out_row)
    return out


def affine(weight: Any, bias: Any, x: list[float]) -> list[float]:
    return [float(b) + sum(float(a) * value for a, value in zip(row, x)) for row, b in zip(weight, bias)]


def normalised(x: list[float], gain: Any, shift: Any) -> list[float]:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return [float(g) * (value - mean) / math.sqrt(variance + 1e-5) + float(s) for value, g, s in zip(x, gain, shift)]


def attention_by_loops(w: dict[str, Any], name: str, xs: list[list[float]], heads: int) -> list[list[float]]:
    width = len(xs[0])
    size = width // heads
    qkv = [affine(w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"], x) for x in xs]
    mixed = [[0.0] * width for _ in xs]
    for head in range(heads):
        lo = head * size
        for i in range(len(xs)):
            score = []
            for j in range(len(xs)):
                dot = sum(qkv[i][lo + k] * qkv[j][width + lo + k] for k in range(size))
                score.append(math.exp(dot / math.sqrt(size)))
            for k in range(size):
                values = (score[j] * qkv[j][2 * width + lo + k] for j in range(len(xs)))
                mixed[i][lo + k] = sum(values) / sum(score)
    return [affine(w[f"{name}.mix.weight"], w[f"{name}.mix.bias"], x) for x in mixed]


def forward_by_loops(
    config: HeightMapNetConfig, w: dict[str, Any], maps: Any, centres: Any
) -> tuple[list[list[float]], list[float]]:
    tokens = []
    for landmark, (kind, side) in enumerate(zip(config.kinds, config.sides)):
        token: list[float] = []
        for scale in range(len(config.maps.pitch_mm)):
            image = maps[scale][landmark]
            for layer, stride in enumerate(config.strides):
                image = convolution_by_loops(image, w[f"conv{layer}.weight"][scale], stride)
                bias = w[f"conv{layer}.bias"][scale]
                gain, shift = w[f"conv{layer}.kind_gain"][scale][kind], w[f"conv{layer}.kind_shift"][scale][kind]
                image = [
                    [
                        [
                            max(0.0, (v + float(b)) * (1 + float(g)) + float(s))
                            for v, b, g, s in zip(pixel, bias, gain, shift)
                        ]
                        for pixel in row
                    ]
                    for row in image
                ]
            flat = [pixel[channel] for channel in range(len(image[0][0])) for row in image for pixel in row]
            token += [max(0.0, v) for v in affine(w["read.weight"][scale], w["read.bias"][scale], flat)]
        token += [float(value) / OFFSET_UNIT_MM for value in centres[landmark]]
        x = affine(w["token.weight"], w["token.bias"], token)
        x = [a + float(b) + float(c) for a, b, c in zip(x, w["kind.embedding"][kind], w["side.embedding"][side])]
        tokens.append(x)
    for layer in range(config.layers):
        name = f"layer{layer}"
        first = [normalised(x, w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"]) for x in tokens]
        added = attention_by_loops(w, name, first, config.heads)
        tokens = [[a + b for a, b in zip(x, y)] for x, y in zip(tokens, added)]
        for i, x in enumerate(tokens):
            y = normalised(x, w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"])
            y = affine(w[f"{name}.up.weight"], w[f"{name}.up.bias"], y)
            y = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in y]
            y = affine(w[f"{name}.down.weight"], w[f"{name}.down.bias"], y)
            tokens[i] = [a + b for a, b in zip(x, y)]
        if config.mixing:
            third = [normalised(x, w[f"{name}.norm3.weight"], w[f"{name}.norm3.bias"]) for x in tokens]
            for channel in range(config.width):
                y = affine(w[f"{name}.gather.weight"], w[f"{name}.gather.bias"], [x[channel] for x in third])
                y = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in y]
                y = affine(w[f"{name}.scatter.weight"], w[f"{name}.scatter.bias"], y)
                for x, value in zip(tokens, y):
                    x[channel] += value
    offsets, deviations = [], []
    tokens = [normalised(x, w["norm.weight"], w["norm.bias"]) for x in tokens]
    for kind, x in zip(config.kinds, tokens):
        out = affine(w["head.weight"][kind], w["head.bias"][kind], x)
        offsets.append([value * OFFSET_UNIT_MM for value in out[:3]])
        deviations.append(math.exp(min(max(out[3], -6.0), 4.0)) * OFFSET_UNIT_MM)
    if config.joint:
        rows = w["joint.features.weight"]
        read = [sum(float(a) * v for a, v in zip(row, x)) for x in tokens for row in rows]
        for i, row in enumerate(w["joint.offsets.weight"]):
            value = sum(float(a) * v for a, v in zip(row, read)) / math.sqrt(len(read))
            offsets[i // 3][i % 3] += value * OFFSET_UNIT_MM
    return offsets, deviations


@pytest.mark.parametrize(("seed", "mixing"), [(0, 5), (1, 5), (2, 0)])
def test_a_tiny_network_does_what_the_loops_do(seed: int, mixing: int) -> None:
    config = replace(TINY, mixing=mixing, joint=mixing)
    weights, (maps, centres) = random_weights(config, seed), random_input(config, seed)
    offsets, deviation = HeightMapNet(config, weights).forward(maps, centres)
    expected_offsets, expected_deviation = forward_by_loops(config, weights, maps, centres)
    assert np.ptp(offsets) > 1.0
    np.testing.assert_allclose(offsets, expected_offsets, atol=2e-4)
    np.testing.assert_allclose(deviation, expected_deviation, rtol=2e-4)


# --- size


def test_the_number_of_weights_follows_from_the_architecture() -> None:
    config = full_config()
    kinds, scales = 31, 2  # 12 in the midline and 19 pairs
    assert max(config.kinds) + 1 == kinds
    convolutions = 0
    for inside, outside in ((4, 16), (16, 24), (24, 48), (48, 48)):
        convolutions += scales * (9 * inside * outside + outside + 2 * kinds * outside)
    assert config.map_size == 6  # 24 pixels halved twice
    read = scales * (48 * 36 * 128 + 128)
    token = 160 * (2 * 128 + 3) + 160 + kinds * 160 + 3 * 160
    layer = (3 * 160 * 160 + 3 * 160) + (160 * 160 + 160) + 2 * (2 * 160 * 160) + 320 + 160 + 4 * 160
    head = 2 * 160 + kinds * 4 * 161
    mixing = 2 * 160 + 2 * 50 * 128 + 128 + 50
    joint = 16 * 160 + 150 * 50 * 16
    assert sum(int(np.prod(shape)) for shape in config.shapes().values()) == (
        convolutions + read + token + 3 * layer + head
    )
    assert sum(int(np.prod(shape)) for shape in replace(config, mixing=128, joint=16).shapes().values()) == (
        convolutions + read + token + 3 * (layer + mixing) + head + joint
    )


@pytest.mark.parametrize(("pixels", "strides", "size"), [(24, (2, 1, 2, 1), 6), (5, (2, 1), 3), (7, (2, 2, 2), 1)])
def test_the_last_feature_map_has_the_size_of_the_strides(pixels: int, strides: tuple[int, ...], size: int) -> None:
    config = replace(TINY, maps=replace(TINY.maps, pixels=pixels), strides=strides, channels=(2,) * len(strides))
    assert config.map_size == size
    weights, (maps, centres) = random_weights(config, 0), random_input(config, 0)
    offsets, deviation = HeightMapNet(config, weights).forward(maps, centres)  # the shapes fit each other
    assert offsets.shape == (3, 3)
    assert deviation.shape == (3,)


# --- behaviour


def test_landmarks_listed_in_another_order_are_placed_alike() -> None:
    order = [2, 0, 1]
    shuffled = replace(TINY, kinds=tuple(TINY.kinds[i] for i in order), sides=tuple(TINY.sides[i] for i in order))
    weights, (maps, centres) = random_weights(TINY, 4), random_input(TINY, 4)
    offsets, deviation = HeightMapNet(TINY, weights).forward(maps, centres)
    for layer in range(TINY.layers):
        for name, axis in (("gather.weight", 1), ("scatter.weight", 0), ("scatter.bias", 0)):
            weights[f"layer{layer}.{name}"] = weights[f"layer{layer}.{name}"].take(order, axis)
    joint = weights["joint.offsets.weight"].reshape(3, 3, 3, TINY.joint)
    weights["joint.offsets.weight"] = joint[order][:, :, order].reshape(9, -1)
    other_offsets, other_deviation = HeightMapNet(shuffled, weights).forward(maps[:, order], centres[order])
    np.testing.assert_allclose(other_offsets, offsets[order], atol=1e-4)
    np.testing.assert_allclose(other_deviation, deviation[order], rtol=1e-4)


def test_each_landmark_sees_the_others() -> None:
    weights, (maps, centres) = random_weights(TINY, 5), random_input(TINY, 5)
    offsets, _ = HeightMapNet(TINY, weights).forward(maps, centres)
    maps[:, 2] = 0
    changed, _ = HeightMapNet(TINY, weights).forward(maps, centres)
    assert (np.abs(changed - offsets).max(axis=1) > 1e-3).all()


def test_left_and_right_differ_by_their_side_alone() -> None:
    """And by what the mixing knows of each landmark by itself."""
    config = replace(TINY, mixing=0, joint=0)
    weights, (maps, centres) = random_weights(config, 6), random_input(config, 6)
    maps[:, 2], centres[2] = maps[:, 1], centres[1]
    offsets, _ = HeightMapNet(config, weights).forward(maps, centres)
    assert np.abs(offsets[1] - offsets[2]).max() > 1e-3
    weights["side.embedding"][2] = weights["side.embedding"][1]
    offsets, deviation = HeightMapNet(config, weights).forward(maps, centres)
    np.testing.assert_allclose(offsets[1], offsets[2], atol=1e-5)
    assert deviation[1] == pytest.approx(deviation[2], rel=1e-5)


def test_the_standard_deviation_stays_within_its_limits() -> None:
    weights, (maps, centres) = random_weights(TINY, 7), random_input(TINY, 7)
    for bias, expected in ((-1e4, math.exp(-6) * 5.0), (1e4, math.exp(4) * 5.0)):
        weights["head.bias"][:, 3] = bias
        _, deviation = HeightMapNet(TINY, weights).forward(maps, centres)
        np.testing.assert_allclose(deviation, expected, rtol=1e-5)


def test_input_and_weights_are_left_alone() -> None:
    weights, (maps, centres) = random_weights(TINY, 8), random_input(TINY, 8)
    before = {name: array.copy() for name, array in weights.items()}, maps.copy(), centres.copy()
    HeightMapNet(TINY, weights).forward(maps, centres)
    np.testing.assert_array_equal(maps, before[1])
    np.testing.assert_array_equal(centres, before[2])
    for name, array in weights.items():
        np.testing.assert_array_equal(array, before[0][name])


def test_several_threads_get_what_one_gets() -> None:
    network = HeightMapNet(TINY, random_weights(TINY, 9))
    inputs = [random_input(TINY, seed) for seed in range(24)]
    alone = [network.forward(*each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: network.forward(*each), inputs))
    for one, other in zip(alone, together):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_a_missing_weight_is_named() -> None:
    weights = random_weights(TINY, 0)
    del weights["conv1.kind_gain"]
    with pytest.raises(KeyError, match=r"conv1\.kind_gain"):
        HeightMapNet(TINY, weights)


# --- torch


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numpy_and_torch_agree(seed: int) -> None:
    torch = pytest.importorskip("torch", reason="the twin for GPUs and training needs torch")
    from PALNetLandmarksLib.height_map_net_torch import HeightMapNetTorch

    config = replace(full_config(), mixing=128 * (seed > 0), joint=16 * (seed > 1))
    weights = random_weights(config, seed)
    batch = [random_input(config, 10 * seed + i) for i in range(2)]
    twin = HeightMapNetTorch(config)
    twin.load_arrays(weights)
    with torch.no_grad():
        offsets, deviation = twin(*(torch.from_numpy(np.stack(part)) for part in zip(*batch)))
    network = HeightMapNet(config, weights)
    for i, each in enumerate(batch):
        expected_offsets, expected_deviation = network.forward(*each)
        assert np.abs(expected_offsets).mean() > 0.5
        np.testing.assert_allclose(offsets[i].numpy(), expected_offsets, atol=1e-3)
        np.testing.assert_allclose(deviation[i].numpy(), expected_deviation, rtol=1e-3)


def test_weights_survive_the_way_through_torch() -> None:
    pytest.importorskip("torch", reason="the twin for GPUs and training needs torch")
    from PALNetLandmarksLib.height_map_net_torch import HeightMapNetTorch

    weights = random_weights(TINY, 3)
    twin = HeightMapNetTorch(TINY)
    twin.load_arrays(weights)
    back = twin.to_arrays()
    assert set(back) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)


def test_an_untrained_network_moves_nothing_and_says_five_millimetres() -> None:
    torch = pytest.importorskip("torch", reason="the twin for GPUs and training needs torch")
    from PALNetLandmarksLib.height_map_net_torch import HeightMapNetTorch

    first = HeightMapNetTorch(TINY, torch.Generator().manual_seed(5)).to_arrays()
    again = HeightMapNetTorch(TINY, torch.Generator().manual_seed(5)).to_arrays()
    other = HeightMapNetTorch(TINY, torch.Generator().manual_seed(6)).to_arrays()
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert np.abs(first["conv0.weight"] - other["conv0.weight"]).max() > 0.01
    offsets, deviation = HeightMapNet(TINY, first).forward(*random_input(TINY, 0))
    np.testing.assert_array_equal(offsets, 0)
    np.testing.assert_allclose(deviation, OFFSET_UNIT_MM)
