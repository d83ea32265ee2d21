"""Monitors by hand on constructed states, and the symptom that each collapse is reported as."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from discovr_jax.losses import monitors
from discovr_jax.runs import collapse as collapse_lib

LN = np.log
# Jitted: operation by operation they compile for longer than they run.
assignment_monitors = jax.jit(monitors.assignment_monitors, static_argnums=2)
feature_rank, teacher_entropies = jax.jit(monitors.feature_rank), jax.jit(monitors.teacher_entropies)


def random_labels(shape, num_prototypes, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, num_prototypes, shape), jnp.int32)


def test_entropy_of_counts():
    found = monitors.entropy(jnp.array([[2.0, 2.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [LN(2), 0, 0], atol=1e-6)


def test_dinos_three_states():
    one, other = jnp.eye(4)[0], jnp.eye(4)[1]
    healthy = teacher_entropies(jnp.stack([one, other]))
    constant = teacher_entropies(jnp.stack([one, one]))
    uniform = teacher_entropies(jnp.full((2, 4), 0.25))
    for found, entropy, of_mean in ((healthy, 0, LN(2)), (constant, 0, 0), (uniform, LN(4), LN(4))):
        np.testing.assert_allclose([found["entropy"], found["entropy_of_mean"]], [entropy, of_mean], atol=1e-6)
        np.testing.assert_allclose(found["entropy_max"], LN(4), rtol=1e-6)
    # The third row has no weight.
    rows = jnp.stack([one, other, jnp.full(4, 0.25)])
    found = teacher_entropies(rows, jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose([found["entropy"], found["entropy_of_mean"]], [0, LN(2)], atol=1e-6)


def test_predicted_share_is_a_squared_correlation_over_rows():
    draw = np.random.default_rng(0)
    teacher, student = draw.normal(size=(6, 3)), draw.normal(size=(6, 2, 3))
    # Views and outputs are further pairs of numbers, each output about the mean of its own column.
    a = np.repeat((teacher - teacher.mean(0))[:, None], 2, 1).reshape(-1)
    b = (student - student.mean((0, 1))).reshape(-1)
    expected = (a @ b) ** 2 / (a @ a * (b @ b))
    share = jax.jit(monitors.predicted_share)
    np.testing.assert_allclose(share(teacher, student), expected, rtol=1e-5)
    # Rows without weight and outputs beyond the first 256 change nothing.
    padded = np.r_[teacher, 9 * np.ones((1, 3))], np.r_[student, -7 * np.ones((1, 2, 3))]
    np.testing.assert_allclose(share(*padded, jnp.array([1.0] * 6 + [0.0])), expected, rtol=1e-5)
    wide = np.zeros((6, 300)), np.zeros((6, 2, 300))
    wide[0][:, :256], wide[1][:, :, :256] = draw.normal(size=(6, 256)), draw.normal(size=(6, 2, 256))
    before = share(*wide)
    wide[0][:, 256:] = 5 * draw.normal(size=(6, 44))
    np.testing.assert_allclose(share(*wide), before, rtol=1e-6)
    assert float(share(np.ones((6, 3)), student)) == 0  # one output for every clip: nothing differs


def test_feature_rank():
    assert float(feature_rank(jnp.ones((8, 4)))) == 0
    line = jnp.arange(8.0)[:, None] * jnp.array([[1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(feature_rank(line), 1, rtol=1e-5)
    square = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(feature_rank(square + 100), 2, rtol=1e-4)


def test_perfect_position_code():
    """Each place has its own prototype in every clip."""
    labels = jnp.broadcast_to(jnp.arange(6), (3, 2, 6))
    found = assignment_monitors(labels, labels, 24)
    expected = {
        "perplexity": 6,
        "position_information": 1,
        "clip_information": 0,
        "agreement": 1,
        "agreement_position_only": 1,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_perfect_clip_code():
    """Each clip has its own prototype everywhere."""
    labels = jnp.broadcast_to(jnp.arange(4)[:, None, None], (4, 2, 6))
    found = assignment_monitors(labels, (labels + 1) % 4, 24)
    expected = {
        "perplexity": 4,
        "position_information": 0,
        "clip_information": 1,
        "agreement": 0,
        "agreement_position_only": 0.25,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_agreement_by_hand_and_weights():
    image = jnp.array([[[0, 1], [2, 2]]])
    video = jnp.array([[[0, 0], [2, 1]]])
    assert float(assignment_monitors(image, video, 3)["agreement"]) == 0.5
    weights = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
    found = assignment_monitors(image, video, 3, weights)
    assert float(found["agreement"]) == 1.0
    np.testing.assert_allclose(found["perplexity"], 2, rtol=1e-5)


def test_random_assignments_look_random():
    labels = random_labels((64, 8, 4), 8)
    found = assignment_monitors(labels, random_labels((64, 8, 4), 8, seed=1), 8)
    assert found["perplexity"] > 7.9
    assert found["position_information"] < 0.05
    assert abs(found["agreement"] - 1 / 8) < 0.03


# What a run logs, for a healthy state and for each constructed collapse --------------------------------------


def row(targets=None, features=None, labels=None, num_prototypes=24):
    """The monitors' part of a row of metrics.jsonl."""
    healthy = jax.nn.softmax(20 * jax.random.normal(jax.random.key(0), (16, 32)))
    targets = healthy if targets is None else targets
    features = jax.random.normal(jax.random.key(1), (16, 8)) if features is None else features
    labels = random_labels((8, 4, 6), num_prototypes) if labels is None else labels
    found = {f"teacher/{n}/{k}": v for n in ("vid", "img") for k, v in teacher_entropies(targets).items()}
    found |= {f"scd/{k}": v for k, v in assignment_monitors(labels, labels, num_prototypes).items()}
    found["features/rank"] = feature_rank(features)
    return {name: float(value) for name, value in found.items()}


def test_a_healthy_run_has_no_symptoms():
    assert collapse_lib.symptoms(row(), 24, "mean") == {}


@pytest.mark.parametrize(
    "collapse,words",
    [
        ({"targets": jnp.eye(32)[jnp.zeros(16, int)]}, ["video teacher gives one output", "image teacher gives one"]),
        ({"targets": jnp.full((16, 32), 1 / 32)}, ["video teacher's outputs are uniform", "image teacher's outputs"]),
        ({"features": jnp.ones((16, 8))}, ["clip features"]),
        ({"features": jnp.outer(jnp.arange(16.0), jnp.ones(8))}, ["clip features"]),
        ({"labels": jnp.zeros((8, 4, 6), jnp.int32)}, ["few prototypes"]),
        ({"labels": jnp.broadcast_to(jnp.arange(6), (8, 4, 6))}, ["prototypes encode the patch position"]),
    ],
    ids=["constant", "uniform", "equal features", "features on a line", "one prototype", "position code"],
)
def test_each_collapse_is_named_with_a_remedy(collapse, words):
    found = collapse_lib.symptoms(row(**collapse), 24, "mean")
    assert len(found) == len(words)
    for word in words:
        (name,) = [name for name in found if name.startswith(word)]
        assert found[name], name


def test_uniform_outputs_are_explained_where_the_law_of_collapse_holds():
    uniform = row(targets=jnp.full((16, 32), 1 / 32))
    said = "its views predict 22 % of what differs between clips, and tau_t / tau_s asks for 40 %"
    for needed, explained in ((0.4, True), (0.2, False)):
        law = {"teacher/vid/predicted_share": 0.22, "teacher/vid/needed_share": needed}
        other = {name.replace("vid", "img"): value for name, value in law.items()}
        found = collapse_lib.symptoms(uniform | other, 24, "mean").values()
        assert [("mask.image_ratio" in what) for what in found] == [False, explained]
        found = collapse_lib.symptoms(uniform | law, 24, "mean")
        (video,), (image,) = ([what for name, what in found.items() if name.startswith(n)] for n in ("video", "image"))
        assert (said.replace("40", f"{100 * needed:.0f}") in video) == explained
        assert "its views predict" not in image  # of a run that did not log it


def test_a_branch_that_does_not_train_has_no_symptoms():
    assert collapse_lib.symptoms({"loss/total": 1.0}, 3000, "mean") == {}


def test_a_symptom_is_reported_once_and_only_if_it_stays():
    sick, healthy = row(features=jnp.ones((16, 8))), row()
    watch = collapse_lib.Watch(24, "mean")
    reports = [watch.look(step, r) for step, r in enumerate([sick, sick, healthy, sick, sick, sick, sick])]
    assert [len(report) for report in reports] == [0, 0, 0, 0, 0, 1, 0]
    assert "clip features" in reports[5][0]


def test_health_in_one_line_and_a_line_for_each_warning():
    rows = [{"step": step} | row() for step in (10, 20)] + [{"step": 20, "state_sha256": "ab"}]
    (line,) = collapse_lib.health(rows, 24, "mean")
    last = rows[1]
    gap = last["teacher/vid/entropy_max"] - last["teacher/vid/entropy"]
    alone = last["scd/agreement_position_only"]
    assert line == (
        f"step 20: rank of clips {last['features/rank']:.1f}; ln K - H: video {gap:.2f}, image {gap:.2f}; "
        f"agreement 1.00 (position alone {alone:.2f}); no warnings"
    )
    assert collapse_lib.told([line]) == [f"health at {line}"]
    (line,) = collapse_lib.health([{"step": 20, "perf/goodput": 0.931} | row()], 24, "mean")
    assert line.endswith("; goodput 93 %; no warnings")
    sick = row(features=jnp.ones((16, 8)))
    # Two of the last three rows are sick, then all three.
    rows += [{"step": step} | sick for step in (30, 40)]
    assert collapse_lib.health(rows, 24, "mean")[0].endswith("; no warnings")
    first, warning = collapse_lib.health([*rows, {"step": 50} | sick], 24, "mean")
    assert first.startswith("step 50: rank of clips 0.0;") and first.endswith("; 1 warning")
    assert warning.startswith("clip features lie on one line") and "try: lower optim.lr" in warning
    assert collapse_lib.told([first, warning])[1] == f"warning: {warning}"
    # VideoMAE logs no teacher and no prototypes.
    assert collapse_lib.health([{"step": 1, "features/rank": 9.0}], 24, "mean") == [
        "step 1: rank of clips 9.0; no warnings"
    ]
    assert collapse_lib.health([{"step": 1, "loss/total": 2.0}], 24, "mean") == collapse_lib.told([]) == []


def test_a_low_rank_is_a_warning_of_clips_and_is_explained_of_the_phase():
    """The phase of the beat is one direction; clips on one line are a collapse."""
    rows = [{"step": step, "phase/rank": 1.0} for step in range(collapse_lib.PATIENCE)]
    (line,) = collapse_lib.health(rows, 24, "mean")
    assert line == "step 2: rank of the phase 1.0 (near 1 is expected with few clips per batch); no warnings"
    line, warning = collapse_lib.health([each | {"features/rank": 1.0} for each in rows], 24, "mean")
    assert line.startswith("step 2: rank of clips 1.0; rank of the phase 1.0 (near 1 is") and "1 warning" in line
    assert warning.startswith("clip features lie on one line")


def test_the_remedies_name_keys_of_the_config(config):
    """A remedy that names a key that does not exist helps nobody."""
    known = {f"{section}.{key}" for section in config for key in getattr(config[section], "keys", dict)()}
    constant = row(jnp.eye(32)[jnp.zeros(16, int)], jnp.ones((16, 8)), jnp.zeros((8, 4, 6), jnp.int32))
    uniform = row(jnp.full((16, 32), 1 / 32), labels=jnp.broadcast_to(jnp.arange(6), (8, 4, 6)))

    def named(centering):
        remedies = [
            remedy for sick in (constant, uniform) for remedy in collapse_lib.symptoms(sick, 24, centering).values()
        ]
        assert all(remedies)
        return set(re.findall(r"\b[a-z]+\.[a-z_]+", " ".join(remedies)))

    assert named("mean") <= known, named("mean") - known
    # Sinkhorn has no centre, and is what the other remedy would choose.
    assert named("mean") - named("sinkhorn") == {"dino.center_momentum", "dino.centering"}
