"""Several datasets mixed by weight: the same batches for any processes, workers and restarts; filters and errors."""

import collections

import numpy as np
import pytest
from ml_collections import ConfigDict

from discovr_jax.data import mixture, pipeline
from tests.data.test_pipeline import NAN, assert_equal_batches, make_config, noisy_source, take

WEIGHTS = {"echonet_dynamic": 2.0, "echo_folder": 1.0, "rvenet": 1.0}
ORDER = ["echo_folder", "echonet_dynamic", "rvenet"]  # by name, as batches count them


def mixed(weights=None, **data):
    return make_config(dataset="", mixture=dict(weights or WEIGHTS), **data)


def make_sources():
    return {
        "echonet_dynamic": noisy_source(7),
        "echo_folder": noisy_source(3),
        "rvenet": noisy_source(5),
    }


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_batches_of_one(process_count):
    sources, config = make_sources(), mixed()
    parts = [
        take(sources, config, 5, process_index=index, process_count=process_count, start_step=2)
        for index in range(process_count)
    ]
    joined = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_equal_batches(joined, take(sources, config, 7)[2:])


def test_a_restart_goes_on_with_the_same_batches_at_no_cost():
    sources, config = make_sources(), mixed()
    with pipeline.train_batches(sources, config) as batches:
        wanted = [next(batches) for _ in range(8)][5:]
        state = batches.get_state()
    with pipeline.train_batches(sources, config, start_step=5) as batches:
        assert_equal_batches([next(batches) for _ in range(3)], wanted)
        assert batches.get_state() == state
    assert len(take(sources, config, 1, start_step=10**12)) == 1


def test_workers_and_the_order_of_the_keys_change_nothing():
    sources = make_sources()
    wanted = take(sources, mixed(), 4)
    backwards = {name: WEIGHTS[name] for name in reversed(WEIGHTS)}
    shuffled = {name: sources[name] for name in sorted(sources, reverse=True)}
    assert_equal_batches(take(shuffled, mixed(backwards, workers=1), 4), wanted)


def test_every_batch_is_mixed_by_the_weights():
    sources, config = make_sources(), mixed()
    for batch in take(sources, config, 6):
        assert [ORDER[position] for position in sorted(batch["dataset"])] == [
            "echo_folder", "echonet_dynamic", "echonet_dynamic", "rvenet"
        ]  # fmt: skip
    # Weights that no batch of 4 holds exactly: over three batches they do.
    batches = take({"a": noisy_source(2), "b": noisy_source(3)}, mixed({"a": 0.25, "b": 0.5}), 3)
    assert [int((batch["dataset"] == 0).sum()) for batch in batches] == [2, 1, 1]


def _sized(batch_size, config):
    config.batch_size = batch_size
    return config


def test_clips_are_those_of_the_record_that_the_batch_names():
    sources, config = make_sources(), mixed(crop_scales=(1.0,), num_frames=1)
    for batch in take(sources, config, 4):
        for frames, dataset, index in zip(batch["frames"], batch["dataset"], batch["record"], strict=True):
            item = sources[ORDER[dataset]][int(index)]
            own = pipeline.records.decode_frames(item["frames"], 16, 16)
            assert (own == frames).all((1, 2)).any()


def test_each_dataset_has_all_its_records_once_an_epoch_and_in_an_order_of_its_own():
    sources = {"a": noisy_source(6), "b": noisy_source(6)}
    batch, *_ = take(sources, _sized(48, mixed({"a": 1, "b": 1})), 1)
    orders = [[tuple(batch["record"][batch["dataset"] == d].reshape(4, 6)[e]) for e in range(4)] for d in (0, 1)]
    assert all(sorted(order) == list(range(6)) for epochs in orders for order in epochs)
    assert len({order for epochs in orders for order in epochs}) == 8


def test_the_state_names_weights_and_videos_of_every_dataset():
    def state(sources, config):
        with pipeline.train_batches(sources, config) as batches:
            return batches.get_state()["stream"]

    sources = make_sources()
    changed = make_sources()
    changed["rvenet"].items[4]["id"] = "another"
    other = dict(sources, rvenet=noisy_source(4))
    heavier = mixed(WEIGHTS | {"rvenet": 1.5})
    found = [state(sources, mixed()), state(changed, mixed()), state(other, mixed()), state(sources, heavier)]
    assert len(set(found)) == 4
    assert state(make_sources(), mixed()) == found[0]


def test_each_dataset_is_filtered_by_its_own_rule_and_an_epoch_is_what_is_left():
    sources = {
        "echonet_dynamic": noisy_source(4, ef=[60.0, 49.9, 50.0, NAN]),
        "echonet_lvh": noisy_source(3, ivsd=[1.0, 1.3, 1.2], lvpwd=[1.0, 1.0, 1.2]),
        "rvenet": noisy_source(3, rvef=[45.0, 45.1, 60.0], ef=[60.0, 60.0, 20.0]),
        "echo_folder": noisy_source(4, source_label=[0, 1, -1, 0]),
        "echonet_pediatric/a4c": noisy_source(2, ef=[49.0, 65.0]),
        "camus": noisy_source(2, ef=[49.0, 50.0]),
    }
    config = mixed(dict.fromkeys(sources, 1.0), train_filter="normal")
    chosen = pipeline.training_records(sources, config.data)
    assert chosen == {
        "camus": [1], "echo_folder": [0, 3], "echonet_dynamic": [0, 2], "echonet_lvh": [0, 2],
        "echonet_pediatric/a4c": [1], "rvenet": [1, 2],
    }  # fmt: skip
    drawn = collections.defaultdict(set)
    for batch in take(sources, config, 6):
        for dataset, index in zip(batch["dataset"], batch["record"], strict=True):
            drawn[list(chosen)[dataset]].add(int(index))
    assert {name: sorted(rows) for name, rows in drawn.items()} == chosen
    # A rule in the config goes before those of the datasets, for all of them.
    config.data.abnormal_rule = "ef < 55"
    with pytest.raises(ValueError, match="None of the 2 records of .* the rule 'ef < 55' calls normal"):
        pipeline.training_records(sources, config.data)


def test_a_dataset_without_a_frame_rate_is_named():
    sources = {"a": noisy_source(2, fps=[30.0, 50.0]), "b": noisy_source(2, fps=[30.0, NAN])}
    with pytest.raises(ValueError, match="record-1 has no frame rate"):
        pipeline.train_batches(sources, mixed({"a": 1, "b": 1}, target_fps=10.0))


# Names -------------------------------------------------------------------------------------------------------


def named(dataset="", scored=None, **mixture):
    data = {"dataset": dataset, "mixture": mixture, "abnormal_rule": None, "frame_size": 112, "data_dir": "/records"}
    return ConfigDict({"data": data, "eval": {"dataset": scored}})


def test_either_one_dataset_or_a_mixture():
    assert mixture.weights(named("rvenet").data) == {"rvenet": 1.0}
    assert list(mixture.weights(named(rvenet=2.0, camus=1.0).data).items()) == [("camus", 1.0), ("rvenet", 2.0)]
    for config in (named(), named("rvenet", camus=1.0)):
        with pytest.raises(ValueError, match="either data.dataset or data.mixture"):
            mixture.weights(config.data)
    for weight in (0.0, -1.0, NAN, float("inf")):
        with pytest.raises(ValueError, match="the weight of camus must be above 0"):
            mixture.weights(named(camus=weight, rvenet=1.0).data)


def test_the_scored_dataset_is_named_or_the_only_one():
    assert mixture.scored(named("rvenet")) == "rvenet"
    assert mixture.scored(named("rvenet", scored="camus")) == "camus"
    with pytest.raises(ValueError, match="trains on camus, rvenet: name the dataset to score in eval.dataset"):
        mixture.scored(named(rvenet=1.0, camus=1.0))
    assert mixture.all_named(named(rvenet=1.0, camus=1.0, scored="echo_folder")) == ["camus", "echo_folder", "rvenet"]


def test_rules_variants_and_errors():
    data = named("rvenet").data
    assert mixture.abnormal_rule(data, "echonet_pediatric/a4c") == "ef < 50"
    with pytest.raises(ValueError, match="Dataset mine has no rule of its own.*set data.abnormal_rule"):
        mixture.abnormal_rule(data, "mine")
    data.abnormal_rule = "rvef <= 40"
    assert mixture.abnormal_rule(data, "mine") == "rvef <= 40"
    with pytest.raises(pipeline.records.RecordsError, match="/records/echonet_pediatric/a4c_112/.*--variant=a4c"):
        mixture.open_source(data, "echonet_pediatric/a4c", "train")


def test_every_builder_has_a_rule():
    from discovr_jax import prepare

    assert set(prepare.datasets()) <= mixture.RULES.keys()
