"""PAL-Net: the published architecture pinned by parameter counts and a forward pass worked out with loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PALNetLandmarksLib.errors import WeightsError
from PALNetLandmarksLib.palnet import PALNet, PALNetConfig, parameter_count, parameter_shapes, published_variants

CONVOLUTIONS = (3 * 32 + 32) + (32 * 32 + 32) + (32 * 64 + 64) + (64 * 64 + 64) + (64 * 128 + 128) + (128 * 128 + 128)


def perceptron(inputs: int, outputs: int) -> int:
    return (inputs * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * outputs + outputs)


# Counts by hand: points per patch after the pools 5, 5, 4; one attention weight per channel, one bias per point.
COUNTS = {
    "published": ({}, CONVOLUTIONS + 224 + 50 * (1000 + 200 + 40) + perceptron(50 * 10 * 128 + 224, 150)),
    "68 landmarks": (
        {"n_landmarks": 68},
        CONVOLUTIONS + 224 + 68 * (1000 + 200 + 40) + perceptron(68 * 10 * 128 + 224, 204),
    ),
    "500 points": (
        {"patch_size": 500},
        CONVOLUTIONS + 224 + 50 * (500 + 100 + 20) + perceptron(50 * 5 * 128 + 224, 150),
    ),
    "1500 points": (
        {"patch_size": 1500},
        CONVOLUTIONS + 224 + 50 * (1500 + 300 + 60) + perceptron(50 * 15 * 128 + 224, 150),
    ),
    "100 points": ({"patch_size": 100}, CONVOLUTIONS + 224 + 50 * (100 + 20 + 4) + perceptron(50 * 1 * 128 + 224, 150)),
    "777 points": (
        {"patch_size": 777},  # 777 -> 155 -> 31 -> 7, remainders dropped
        CONVOLUTIONS + 224 + 50 * (777 + 155 + 31) + perceptron(50 * 7 * 128 + 224, 150),
    ),
    "without attention": ({"attention": "none"}, CONVOLUTIONS + perceptron(50 * 10 * 128, 150)),
    "top-k": (
        {"attention": "top-k"},
        CONVOLUTIONS + 50 * (224 + 1240) + perceptron(50 * (10 * 128 + 10 * (32 + 64 + 128)), 150),
    ),
    "two blocks": (
        {"blocks": 2},
        (3 * 32 + 32) + (32 * 32 + 32) + (32 * 64 + 64) + (64 * 64 + 64)
        + 96 + 50 * (1000 + 200) + perceptron(50 * 40 * 64 + 96, 150),
    ),
    "shared head": ({"head": "shared"}, CONVOLUTIONS + 224 + 50 * 1240 + perceptron(10 * 128 + 224, 3)),
    "shared head, top-k": (
        {"head": "shared", "attention": "top-k"},
        CONVOLUTIONS + 50 * (224 + 1240) + perceptron(10 * 128 + 10 * 224, 3),
    ),
    "shared head, without attention": ({"head": "shared", "attention": "none"}, CONVOLUTIONS + perceptron(1280, 3)),
}  # fmt: skip


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_count(variant):
    settings, expected = COUNTS[variant]
    assert parameter_count(PALNetConfig(**settings)) == expected


def test_published_network_has_about_65_million_weights():
    assert parameter_count(PALNetConfig()) == 67_064_262
    assert parameter_shapes(PALNetConfig())["head.layer_1.weight"] == (1024, 64_224)
    assert math.prod(parameter_shapes(PALNetConfig())["head.layer_1.weight"]) == 65_765_376


TINY = {"n_landmarks": 2, "patch_size": 7, "channels": (2, 3), "pools": (2, 2), "blocks": 2, "top_k": 2, "hidden": 4}


#: Wide enough that ReLU does not silence it by chance.
SMALL = {**TINY, "channels": (8, 16), "hidden": 32}


def random_weights(config: PALNetConfig, seed: int = 0, scale: float = 0.7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * scale).astype(np.float32) for name, shape in parameter_shapes(config).items()
    }


def forward_with_loops(config: PALNetConfig, weights: dict[str, np.ndarray], patches: np.ndarray) -> np.ndarray:
    """The network for one subject, (L, K, 3) -> (L, 3), written out point by point in double precision."""

    def layer(vector, name, relu):
        matrix, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        values = []
        for out in range(len(bias)):
            value = float(bias[out])
            for i in range(len(vector)):
                value += float(matrix[out][i]) * vector[i]
            values.append(max(value, 0.0) if relu else value)
        return values

    features = [[[float(x) for x in point] for point in patch] for patch in patches]
    descriptors = []
    selected = [[] for _ in features]
    for b in range(config.blocks):
        for i in (1, 2):
            features = [
                [layer(point, f"blocks.{b}.convolution_{i}", relu=True) for point in patch] for patch in features
            ]
        if config.attention != "none":
            w, bias = weights[f"blocks.{b}.attention.weight"], weights[f"blocks.{b}.attention.bias"]
        if config.attention == "softmax-tanh":
            total, weighted = 0.0, [0.0] * config.channels[b]
            for landmark, patch in enumerate(features):
                for k, point in enumerate(patch):
                    score = sum(float(w[0][c]) * point[c] for c in range(len(point))) + float(bias[landmark][k])
                    share = math.exp(math.tanh(score))
                    total += share
                    weighted = [s + share * x for s, x in zip(weighted, point)]
            descriptors += [s / total for s in weighted]
        elif config.attention == "top-k":
            for landmark, patch in enumerate(features):
                scores = [
                    sum(float(w[landmark][c]) * point[c] for c in range(len(point))) + float(bias[landmark][k])
                    for k, point in enumerate(patch)
                ]
                best = sorted(range(len(patch)), key=lambda k: (-scores[k], k))[: config.top_k]
                for k in sorted(best):
                    selected[landmark] += patch[k]
        pool = config.pools[b]
        features = [
            [
                [max(patch[g * pool + i][c] for i in range(pool)) for c in range(config.channels[b])]
                for g in range(len(patch) // pool)
            ]
            for patch in features
        ]

    own = [[x for point in patch for x in point] for patch in features]

    def head(vector):
        return layer(
            layer(layer(vector, "head.layer_1", relu=True), "head.layer_2", relu=False), "head.layer_3", relu=False
        )

    if config.head == "shared":
        return np.array([head(descriptors + chosen + mine) for chosen, mine in zip(selected, own)])
    if config.attention == "top-k":
        # Block by block, all landmarks of a block before the next block.
        sizes = [config.top_k * channels for channels in config.channels]
        first = [x for chosen in selected for x in chosen[: sizes[0]]]
        second = [x for chosen in selected for x in chosen[sizes[0] :]]
        gathered = first + second
    else:
        gathered = descriptors
    return np.array(head(gathered + [x for mine in own for x in mine])).reshape(-1, 3)


@pytest.mark.parametrize("head", ["flattened", "shared"])
@pytest.mark.parametrize("attention", ["softmax-tanh", "none", "top-k"])
def test_forward_pass_of_a_tiny_network_worked_out_with_loops(head, attention):
    config = PALNetConfig(head=head, attention=attention, **TINY)
    weights = random_weights(config)
    patches = np.random.default_rng(1).normal(size=(3, 2, 7, 3)).astype(np.float32)
    found = PALNet(config, weights).forward(patches)
    expected = np.stack([forward_with_loops(config, weights, subject) for subject in patches])
    assert found.shape == (3, 2, 3)
    assert found.dtype == np.float32
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_attention_is_global_and_weights_no_feature_that_is_pooled():
    """Moving a point of one landmark changes the descriptors of all, but only its own flattened features."""
    config = PALNetConfig(head="shared", attention="softmax-tanh", **SMALL)
    weights = random_weights(config)
    patches = np.random.default_rng(2).normal(size=(1, 2, 7, 3)).astype(np.float32)
    moved = patches.copy()
    moved[0, 1, 0] += 1.0
    network = PALNet(config, weights)
    assert np.abs(network.forward(moved)[0, 0] - network.forward(patches)[0, 0]).max() > 1e-4
    alone = PALNetConfig(head="shared", attention="none", **SMALL)
    without = PALNet(alone, random_weights(alone))
    np.testing.assert_array_equal(without.forward(moved)[0, 0], without.forward(patches)[0, 0])
    assert np.abs(without.forward(moved)[0, 1] - without.forward(patches)[0, 1]).max() > 1e-4


def test_the_order_of_points_matters_only_across_pools():
    """Without attention, points may change places within a group that is pooled together, but not between groups."""
    config = PALNetConfig(**{**SMALL, "attention": "none", "patch_size": 8})
    network = PALNet(config, random_weights(config))
    patches = np.random.default_rng(3).normal(size=(1, 2, 8, 3)).astype(np.float32)
    within = patches[:, :, [1, 0, 3, 2, 5, 4, 7, 6]]
    across = patches[:, :, [4, 5, 6, 7, 0, 1, 2, 3]]
    np.testing.assert_allclose(network.forward(within), network.forward(patches), atol=1e-6)
    assert np.abs(network.forward(across) - network.forward(patches)).max() > 1e-3


def test_subjects_of_a_batch_do_not_influence_one_another():
    config = PALNetConfig(**TINY)
    network = PALNet(config, random_weights(config))
    patches = np.random.default_rng(4).normal(size=(4, 2, 7, 3)).astype(np.float32)
    together = network.forward(patches)
    np.testing.assert_allclose(together, np.concatenate([network.forward(p[None]) for p in patches]), atol=1e-6)
    assert network.forward(patches[:0]).shape == (0, 2, 3)


def test_foreign_weights_and_patches_are_refused():
    config = PALNetConfig(**TINY)
    weights = random_weights(config)
    with pytest.raises(WeightsError, match=r"'x\.safetensors' are made for another network .*'head\.layer_1\.weight'"):
        PALNet(PALNetConfig(**{**TINY, "patch_size": 12}), {**weights, **{
            f"blocks.{b}.attention.bias": np.zeros((2, n), np.float32) for b, n in ((0, 12), (1, 6))
        }}, name="x.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match=r"patches of shape"):
        PALNet(config, weights).forward(np.zeros((1, 2, 8, 3), np.float32))


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": "all"},
        {"head": "both"},
        {"blocks": 4},
        {"blocks": 0},
        {"patch_size": 99},
        {"n_landmarks": 0},
        {"dropout": 1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"."):
        PALNetConfig(**settings)


def test_config_survives_json():
    for _, config in published_variants(68).values():
        assert PALNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="colour"):
        PALNetConfig.from_dict({"colour": 3})
    with pytest.raises(ValueError, match="wrong type"):
        PALNetConfig.from_dict({"n_landmarks": "many"})


def face_patches(config: PALNetConfig, batch: int, seed: int) -> np.ndarray:
    """Patches the size and place of those on a face, mm."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(batch, config.n_landmarks, 1, 3)) * 50
    return (centres + rng.normal(size=(batch, config.n_landmarks, config.patch_size, 3)) * 8).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head": "shared"},
        {"attention": "none", "n_landmarks": 68, "patch_size": 777, "head": "shared"},
        {"blocks": 2, "head": "shared"},
        {"attention": "top-k", "patch_size": 100, "head": "shared"},
        {"patch_size": 100},
    ],
)
def test_numpy_and_torch_agree_to_a_micrometre(settings):
    torch = pytest.importorskip("torch", reason="torch (extra 'training') is not installed")
    from PALNetLandmarksLib.palnet_torch import PALNetModule

    config = PALNetConfig(**settings)
    module = PALNetModule(config, torch.Generator().manual_seed(0)).eval()
    arrays = module.to_arrays()
    # Outputs as large as a face: the bias of the last layer is not zero in a trained network.
    arrays["head.layer_3.bias"] += np.random.default_rng(0).normal(size=arrays["head.layer_3.bias"].shape) * 60
    module = PALNetModule.from_arrays(config, arrays).eval()
    patches = face_patches(config, 2, 1)
    with torch.no_grad():
        expected = module(torch.from_numpy(patches)).numpy()
    found = PALNet(config, arrays).forward(patches)
    assert np.abs(expected).max() > 20
    assert np.abs(found - expected).max() <= 1e-3


class TestTorch:
    """The torch module: initial weights, gradients, conversion."""

    torch = None

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch", reason="torch (extra 'training') is not installed")

    def test_glorot_normal_weights_from_the_generator_alone(self):
        from PALNetLandmarksLib.palnet_torch import PALNetModule

        config = PALNetConfig(patch_size=200)
        state = self.torch.random.get_rng_state()
        first, again, other = (PALNetModule(config, self.torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert self.torch.equal(state, self.torch.random.get_rng_state())
        arrays, arrays_again, arrays_other = first.to_arrays(), again.to_arrays(), other.to_arrays()
        assert {k: v.shape for k, v in arrays.items()} == parameter_shapes(config)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, arrays_again[name])
            if name.endswith("bias"):
                assert not array.any()
            else:
                assert not np.array_equal(array, arrays_other[name])
                outputs, inputs = array.shape
                if array.size > 1000:
                    assert array.std() == pytest.approx(math.sqrt(2 / (inputs + outputs)), rel=0.1)
                    assert abs(array.mean()) < 0.1 * array.std() + 1e-5

    @pytest.mark.parametrize("attention", ["softmax-tanh", "none", "top-k"])
    @pytest.mark.parametrize("head", ["flattened", "shared"])
    def test_gradients_against_finite_differences(self, attention, head):
        from PALNetLandmarksLib.palnet_torch import PALNetModule

        torch = self.torch
        config = PALNetConfig(attention=attention, head=head, **SMALL)
        module = PALNetModule.from_arrays(config, random_weights(config)).double().eval()
        patches = torch.randn(2, 2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        assert (attention == "top-k") == (len(trained) < len(parameter_shapes(config)))

        def run(patches, *parameters):
            return torch.func.functional_call(module, dict(zip(trained, parameters)), (patches,))

        inputs = (patches.requires_grad_(), *(p.detach().clone().requires_grad_() for p in trained.values()))
        assert (module(patches).std(dim=0) > 0.01).all()  # not silenced by ReLU
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)

    def test_a_few_steps_reduce_the_error(self):
        from PALNetLandmarksLib.palnet_torch import PALNetModule

        torch = self.torch
        config = PALNetConfig(n_landmarks=4, patch_size=100, hidden=64, dropout=0.0)
        module = PALNetModule(config, torch.Generator().manual_seed(0))
        patches = torch.from_numpy(face_patches(config, 8, 0))
        target = patches.mean(dim=2)
        optimiser = torch.optim.Adam(module.parameters(), 1e-3)
        errors = []
        for _ in range(60):
            error = torch.linalg.vector_norm(module(patches) - target, dim=-1).mean()
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
            errors.append(error.item())
        assert errors[-1] < 0.35 * errors[0]

    def test_mixed_precision_stays_finite_and_near(self):
        from PALNetLandmarksLib.palnet_torch import PALNetModule

        torch = self.torch
        config = PALNetConfig(n_landmarks=10, patch_size=200, hidden=64, dropout=0.0)
        module = PALNetModule(config, torch.Generator().manual_seed(0))
        patches = torch.from_numpy(face_patches(config, 2, 0))
        exact = module(patches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = module(patches)
        mixed.float().square().mean().backward()
        assert (mixed.float() - exact).abs().max() < 0.05 * exact.abs().max()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())

    def test_dropout_acts_in_training_only(self):
        from PALNetLandmarksLib.palnet_torch import PALNetModule

        torch = self.torch
        module = PALNetModule(PALNetConfig(**TINY), torch.Generator().manual_seed(0))
        patches = torch.randn(1, 2, 7, 3, generator=torch.Generator().manual_seed(0))
        outputs = torch.stack([module.train()(patches) for _ in range(40)])
        assert outputs.std(dim=0).max() > 0
        assert torch.equal(module.eval()(patches), module.eval()(patches))

    def test_foreign_arrays_are_refused(self):
        from PALNetLandmarksLib.palnet_torch import PALNetModule

        config = PALNetConfig(**TINY)
        weights = random_weights(config)
        with pytest.raises(WeightsError, match="which has 'extra'"):
            PALNetModule.from_arrays(config, {**weights, "extra": np.zeros(1)})
