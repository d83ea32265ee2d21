"""The map between PyTorch names and our parameter paths is a bijection, and so are its transforms."""

import pathlib

import jax
import numpy as np
import pytest

from discovr_jax import trees
from discovr_jax.convert import names

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "reference_step.npz")
STATE = {key.removeprefix("state/"): GOLDEN[key] for key in GOLDEN.files if key.startswith("state/")}
STORED = {name: array for name, array in STATE.items() if not names.is_computed(name)}


def paths(tree):
    return {trees.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_every_tensor_has_one_path_and_every_path_one_tensor():
    found = {name: names.our_name(name)[0] for name in STORED}
    assert len(set(found.values())) == len(found)
    assert {names.torch_name(path)[0]: path for path in found.values()} == found


def test_the_paths_are_those_of_a_full_model(make_tiny):
    """DISCOVR with the public code's biases: every parameter, teacher and centre is met, none is left over."""
    full = make_tiny(**{"model.depth": 2, "fidelity": "reference"}).abstract
    ours = paths({"params": full.params, "teacher": full.teacher, "memory": {"centers": full.memory.centers}})
    assert {names.our_name(name)[0] for name in STORED} == ours


def test_every_rule_is_met_by_the_public_code_or_its_variants(make_tiny):
    """Rules that no tensor of a fully biased model uses are dead; a name fits one rule only."""
    biased = {"model.video_qkv_bias": "qv", "model.image_qkv_bias": "qv"}
    full = make_tiny(**biased).abstract
    ours = paths({"params": full.params, "teacher": full.teacher, "memory": {"centers": full.memory.centers}})
    templates = [template.replace("{n}", "0") for _, template, _ in names.RULES]
    assert len(set(templates)) == len(templates)
    assert set(templates) == ours
    assert len({name for name, _, _ in names.RULES}) == len(names.RULES)


def test_what_has_no_counterpart():
    assert names.our_name("encoder.blocks.0.attn.k_bias") is None
    assert names.our_name("encoder.blocks.01.norm1.bias") is None
    assert names.torch_name("params/pixel_head/kernel") is None
    with pytest.raises(KeyError, match="fc_norm.weight"):
        names.to_ours("fc_norm.weight", np.zeros(3))


def test_only_known_tensors_are_computed():
    assert {name.split(".")[-1] for name in STATE.keys() - STORED.keys()} == {"weight_g"}
    assert names.is_computed("encoder.pos_embed") and not names.is_computed("encoder.cls_token")


def test_arrays_survive_there_and_back():
    for name, array in STORED.items():
        back, found = names.to_torch(*names.to_ours(name, array))
        assert back == name
        np.testing.assert_array_equal(found, array, err_msg=name)


def test_arrays_have_the_shapes_of_the_model():
    """Of the encoder's qkv and the patch embedding, whose layouts are easy to get wrong."""
    shapes = {names.to_ours(name, array)[0]: names.to_ours(name, array)[1].shape for name, array in STORED.items()}
    assert shapes["params/video_encoder/transformer/block1/attn/qkv"] == (32, 3, 32)
    assert shapes["params/video_encoder/patch_embed/kernel"] == (2, 16, 16, 3, 32)
    assert shapes["params/image_encoder/patch_embed/kernel"] == (1, 16, 16, 3, 32)
    assert shapes["memory/centers/vid"] == (64,)


def test_transforms_by_hand():
    there, _ = names.TRANSFORMS["qkv"]
    q, k, v = (np.full((2, 2), i) + np.array([[0.0, 0.1], [0.2, 0.3]]) for i in range(3))
    np.testing.assert_array_equal(there(np.concatenate([q, k, v]))[:, 1], k.T)
    there, _ = names.TRANSFORMS["patch"]
    conv = np.random.default_rng(0).normal(size=(5, 3, 2, 4, 4))
    assert there(conv)[1, 2, 3, 0, 4] == conv[4, 0, 1, 2, 3]
