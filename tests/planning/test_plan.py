"""The planner: hand-computed rooflines, topologies, and whole plans of the tiny config on simulated devices."""

import json

import jax
import pytest

from discovr_jax.method import step as train_step
from discovr_jax.parallel import mesh as mesh_lib
from discovr_jax.planning import aot, chips, flops, hlo, plan

KEYS = [
    "compiler", "devices", "flops_per_device", "bytes", "collectives", "step_seconds", "mfu_bound", "largest_batch",
    "days",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "devices", "bandwidth"),
    [
        ("v5e:4x4", 16, 100e9),  # neither axis closes: half of 200
        ("v5e:16x16", 256, 200e9),
        ("v5e:4x16", 64, 150e9),
        ("v5p:4x4x4", 64, 600e9),
        ("v5p:2x2x1", 4, 200e9),  # two axes, each half: 600 * (1/2 + 1/2) / 3
        ("v7:4x4x4", 128, 300e9),  # two cores per chip, which share its 600
        ("gpu:h200:8", 8, 450e9),
        ("cpu:8", 8, 10e9),
    ],
)
def test_topologies(name, devices, bandwidth):
    topology = chips.parse_topology(name)
    assert topology.devices_per_slice == devices
    assert topology.bandwidth(devices) == pytest.approx(bandwidth)


def test_a_core_has_its_share_of_the_chip():
    core = chips.parse_topology("v7:2x2x1").chip
    assert (core.flops, core.hbm_bytes, core.hbm_bandwidth) == (2307e12 / 2, 96 * 2**30, 3690e9)
    assert chips.parse_topology("v7:2x2x1").bandwidth(8) == 100e9  # two axes, each half: 300 * (1/2 + 1/2) / 3


def test_beyond_a_node_or_slice_there_is_the_network():
    assert chips.parse_topology("gpu:h200:16").bandwidth(16) == 50e9
    assert chips.parse_topology("v5e:4x4", slices=2).bandwidth(32) == 25e9 / 8
    assert chips.parse_topology("v5e:4x4", slices=2).bandwidth(16) == 100e9


@pytest.mark.parametrize("name", ["", "v5e", "v5e:4", "v5e:4x0", "v5e:4xx4", "v4:2x2x2", "h200:8", "gpu:cpu:8"])
def test_other_topologies_are_refused(name):
    with pytest.raises(chips.TopologyError, match=r"none that the planner knows: v5e:4x4"):
        chips.parse_topology(name)


@pytest.mark.parametrize("name", ["gpu:h100:8", "gpu:h200:1"])
def test_gpus_without_their_compiler_are_simulated(config, name, monkeypatch):
    monkeypatch.setattr(chips, "gpu_compiler", lambda: False)
    planned, topology, mesh = aot.aim(config, name)
    assert aot.platform(mesh) == "cpu" and planned.model.attention == "reference"
    assert mesh.size == topology.devices_per_slice


def test_gpus_that_their_compiler_knows(config):
    """With the extra "gpu" (5 GB, so not in CI) a step is compiled for an H200 that is not there."""
    if not chips.gpu_compiler():
        pytest.skip("needs discovr_jax[gpu]")
    config.model.dtype = "bfloat16"
    planned, topology, mesh = aot.aim(config, "gpu:h200:2")
    assert aot.platform(mesh) == "gpu" and planned.model.attention == "flash"
    assert [device.device_kind for device in mesh.devices.flat] == ["NVIDIA H200"] * 2
    found = aot.compile_step(planned, 16, mesh, topology, 4)
    assert found.working > 0 and found.cost.operations > 100
    planned.model.attention = "reference"
    whole = aot.compile_step(planned, 16, mesh, topology, 4)
    assert found.cost.flops >= whole.cost.flops  # cuDNN's attention is counted, and more than needed in shared tiles
    planned.model.attention = "flash"
    assert aot.compile_step(planned, 16, mesh, topology, 400_000) is None  # beyond 141 GB
    assert {(each.kind, each.group) for each in found.cost.collectives} >= {("all-reduce", 2)}


@pytest.mark.parametrize("reason", ["RESOURCE_EXHAUSTED: too much", "INTERNAL: no kernel\nat line 1"])
def test_what_the_compiler_refuses(config, reason, monkeypatch):
    class Step:
        def lower(self, state, clips):
            return self

        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(reason)

    planned, topology, mesh = aot.aim(config, "cpu:1")
    monkeypatch.setattr(aot, "abstract_step", lambda *given: (None, Step(), None, None))
    if "RESOURCE" in reason:
        assert aot.compile_step(planned, 16, mesh, topology, 8) is None
    else:
        with pytest.raises(aot.PlanError, match=r"^the cpu compiler of jax \S+ says: INTERNAL: no kernel$"):
            aot.compile_step(planned, 16, mesh, topology, 8)
        monkeypatch.setattr(aot, "platform", lambda mesh: "gpu")
        with pytest.raises(aot.PlanError, match=r"^the gpu compiler of jax \S+ says: INTERNAL: no kernel\. Known"):
            aot.compile_step(planned, 16, mesh, topology, 8)


def test_the_arithmetic_of_a_plan():
    """Four v5e chips on 2 x 2. Compute: 197e9 / 197e12 = 1 ms; memory 819e6 / 819e9 = 1 ms; wires: an all-reduce of
    100 MB sends 2 * 3/4 * 100 MB at half of 200 GB/s = 1.5 ms, which bounds the step.
    """
    cost = hlo.Cost(197e9, 819e6, (hlo.Collective("all-reduce", 3, 100_000_000, 4),), 7)
    state = {"parameters": 2 * 10**9, "teachers": 10**9, "optimizer": 4 * 10**9}
    made = plan.Plan(
        topology=chips.parse_topology("v5e:2x2"),
        platform="tpu",
        mesh={"data": 4, "fsdp": 1, "model": 1},
        compiled=aot.Compiled(8, state, 3 * 10**9, cost),
        per_clip=1e9,
        useful_flops=4 * 0.75 * 197e9,
        shards=4,
        gradient_accumulation_steps=1,
        total_steps=86400,
        parameters=5 * 10**8,
    )
    assert made.seconds == pytest.approx({"compute": 1e-3, "memory": 1e-3, "interconnect": 1.5e-3})
    summary = made.summary()
    assert list(summary) == KEYS
    assert summary["bytes"] == state | {
        "activations": 2 * 10**9, "temporaries": 10**9, "capacity": 16 * 2**30,
    }  # fmt: skip
    assert summary["step_seconds"] == pytest.approx(1.5e-3) and summary["days"] == pytest.approx(1.5e-3)
    assert summary["mfu_bound"] == pytest.approx(0.5)
    assert summary["largest_batch"] == 4 * 9  # 17.18 - 7 - 1 = 9.18 GB for clips of 1 GB, on each of four
    assert summary["collectives"] == [{"kind": "all-reduce", "count": 3, "bytes": 100_000_000}]
    assert "fits" in made.table() and "MFU 50.0%" in made.table() and "\n7 operations; " in made.table()


def test_a_batch_that_fits_is_not_larger_than_the_largest():
    """The second of two clips takes 6 GB and the first 4: of 17.18 GB 17 are taken, and a third does not fit."""
    compiled = aot.Compiled(8, {"parameters": 7 * 10**9}, 10 * 10**9, hlo.Cost(1.0, 1.0, (), 1))
    made = plan.Plan(chips.parse_topology("v5e:2x2"), "tpu", {"data": 4}, compiled, 6e9, 1.0, 4, 1, 10, 10)
    assert made.used < made.bytes["capacity"] and made.largest_batch == 8


@pytest.fixture(scope="module")
def planned(tmp_path_factory, make_tiny):
    """(plan.json of a data and fsdp mesh, its folder, what a step of that mesh holds)."""
    tiny = make_tiny(
        **{"loss.img": 0.0, "loss.scd": 0.0, "mesh.data": 4, "mesh.fsdp": 2, "data.data_dir": "nowhere"}
    )
    folder = tmp_path_factory.mktemp("plan")
    return plan.plan_workdir(tiny.config, folder, "cpu:8", 16), folder, tiny


def test_a_whole_plan(planned, make_mesh):
    found, folder, tiny = planned
    assert json.loads((folder / "plan.json").read_text()) == found
    assert list(found) == KEYS and found["devices"] == 8
    e = tiny.experiment
    state = train_step.abstract_state(e.model, e.tx, e.masks, make_mesh(4, 2, 1))
    assert found["bytes"]["parameters"] == aot._local_bytes(state.params)
    assert found["bytes"]["optimizer"] > 1.9 * found["bytes"]["parameters"]
    assert found["bytes"]["teachers"] >= found["bytes"]["parameters"]  # the same modules, and a centre
    assert found["bytes"]["activations"] > 0 and found["largest_batch"] % 8 == 0
    needed = sum(flops.step_flops(e.model, e.masks).values()) * 16 / 8
    # Nothing is computed twice, and in so small a model much is spared: two of three channels of every patch.
    assert 0.1 * needed < found["flops_per_device"] < needed
    assert {"all-reduce", "all-gather"} <= {each["kind"] for each in found["collectives"]}
    assert all(each["count"] > 0 and each["bytes"] > 0 for each in found["collectives"])


def test_a_batch_that_does_not_fit_the_mesh(config):
    with pytest.raises(plan.PlanError, match="a batch of 12 cannot be cut into 8 equal parts"):
        plan.plan_config(config, "cpu:8", 12)


def test_an_epoch_of_unknown_length(config):
    config.data.dataset, config.data.data_dir = "rvenet", "nowhere"
    with pytest.raises(plan.PlanError, match="--config.data.dataset=echonet_dynamic"):
        plan._training_videos(config)
    config.data.dataset = "echonet_dynamic"
    assert plan._training_videos(config) == 7465


def test_a_sweep_puts_the_fastest_mesh_first(config, monkeypatch, tmp_path, capsys):
    """Where memory binds, a mesh that cuts the matrices over 2 needs half the time; over 4 it does not fit."""
    config.data.data_dir = "nowhere"

    def compiled(config, videos, mesh, topology, batch):
        if mesh.shape["model"] == 4:
            return None
        return aot.Compiled(batch, {"parameters": 1000}, 100 * batch, hlo.Cost(1e9, 1e9 / mesh.shape["model"], (), 1))

    monkeypatch.setattr(aot, "compile_step", compiled)
    plan.plan_workdir(config, tmp_path, "cpu:8", 8, compare=True)
    printed = capsys.readouterr().out
    assert "best: --config.mesh.data=4 --config.mesh.fsdp=1 --config.mesh.model=2\n" in printed
    assert printed.count("'model': 1") == 2 and "'model': 4" not in printed
    assert json.loads((tmp_path / "plan.json").read_text())["step_seconds"] == pytest.approx(0.05)


def test_a_sweep_of_which_nothing_fits(config, monkeypatch):
    config.data.data_dir = "nowhere"
    monkeypatch.setattr(aot, "compile_step", lambda *given: None)
    with pytest.raises(plan.PlanError, match="no mesh shape of 8 devices fits cpu:8"):
        plan.sweep(config, "cpu:8", 8)


def test_blocks_left_out_are_extended(config, monkeypatch):
    """Each block adds 3 bytes, 5 FLOPs and an all-gather of 7 bytes to what the rest needs."""
    config.model.depth = 4

    def compiled(config, videos, mesh, topology, batch, hasty):
        depth = config.model.depth
        cost = hlo.Cost(100 + 5 * depth, 10 * depth, (hlo.Collective("all-gather", depth, 7 * depth, 8),), 2 * depth)
        return aot.Compiled(batch, {"parameters": depth}, 1000 + 3 * depth, cost)

    monkeypatch.setattr(aot, "compile_step", compiled)
    topology = chips.parse_topology("cpu:8")
    mesh = mesh_lib.make_mesh(config.mesh, chips.devices(topology))
    found = aot.extend_step(config, 7465, mesh, topology, 8)
    assert found.cost == hlo.Cost(120, 40, (hlo.Collective("all-gather", 4, 28, 8),), 8)
    assert found.working == 1012 and found.state["parameters"] > 1000


def test_blocks_that_are_cut_in_another_way_are_not_extended(config, monkeypatch):
    config.model.depth = 4

    def compiled(config, videos, mesh, topology, batch, hasty):
        cost = hlo.Cost(1.0, 1.0, (hlo.Collective("all-reduce", 20 // config.model.depth, 8, 8),), 1)
        return aot.Compiled(batch, {}, 1, cost)

    monkeypatch.setattr(aot, "compile_step", compiled)
    topology = chips.parse_topology("cpu:8")
    mesh = mesh_lib.make_mesh(config.mesh, chips.devices(topology))
    with pytest.raises(plan.PlanError, match=r"--quick cannot extend this step: .* batch of 8 .*\(-10 all-reduce\)"):
        aot.extend_step(config, 7465, mesh, topology, 8)
