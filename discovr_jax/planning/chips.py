"""Chips and how they are joined: what the planner knows about hardware.

Peaks are the vendors' (bfloat16, dense), from the pages named; nobody reaches them, so times made from them are
lower bounds. TPU: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e,tpu7x}. H100, H200: NVIDIA's data sheets (SXM).
"cpu" stands for one simulated device, in round numbers, so that the planner can be tried and tested anywhere.
"""

import dataclasses
import importlib.util
import math
import os

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator; all that the planner knows of it.

    Attributes:
      platform: "tpu", "gpu" or "cpu".
      name: what its compiler or driver calls it.
      flops: bfloat16 FLOP/s.
      hbm_bytes, hbm_bandwidth: capacity; bytes/s.
      link_bandwidth: bytes/s that leave the chip over all its fast links (ICI, NVLink) together.
      network_bandwidth: bytes/s that leave it towards other slices or nodes, its share of the host's network.
      axes: of the torus or grid that its links form, and so of a topology's name ("4x4" has 2).
      cores: devices that jax sees of one chip.
      nvlink_domain: devices that the fast links can join; 0 for a TPU slice, however large.
      ring: a torus closes along an axis whose length is a multiple of it; 0 for no torus.
    """

    platform: str
    name: str
    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    axes: int = 1
    cores: int = 1
    nvlink_domain: int = 0
    ring: int = 0

    @property
    def device(self) -> "Chip":
        """One of its cores, with its share of everything."""
        rates = ("flops", "hbm_bytes", "hbm_bandwidth", "link_bandwidth", "network_bandwidth")
        return dataclasses.replace(self, cores=1, **{name: getattr(self, name) / self.cores for name in rates})


CHIPS = {
    "v5e": Chip("tpu", "v5e", 197e12, 16 * GIB, 819e9, 200e9, 25e9 / 8, axes=2, ring=16),
    "v5p": Chip("tpu", "v5p", 459e12, 95 * GIB, 2765e9, 600e9, 50e9 / 8, axes=3, ring=4),
    "v6e": Chip("tpu", "v6e", 918e12, 32 * GIB, 1638e9, 400e9, 100e9 / 8, axes=2, ring=16),
    "v7": Chip("tpu", "tpu7x", 2307e12, 192 * GIB, 7380e9, 600e9, 100e9 / 8, axes=3, cores=2, ring=4),
    "h100": Chip("gpu", "NVIDIA H100 80GB HBM3", 989e12, 80e9, 3350e9, 450e9, 50e9, nvlink_domain=8),
    "h200": Chip("gpu", "NVIDIA H200", 989e12, 141e9, 4800e9, 450e9, 50e9, nvlink_domain=8),
    "cpu": Chip("cpu", "cpu", 100e9, 8 * GIB, 10e9, 10e9, 1e9, nvlink_domain=8),
}

# What XLA asks about a GPU of compute capability 9.0: limits of CUDA's programming guide, 132 multiprocessors.
_HOPPER = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth:.0f}
  device_memory_size: {memory:.0f}
}}
platform_name: "CUDA"
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """What is to be planned for: chips of a kind along each of the `axes` of a slice, in each of `slices` slices."""

    kind: str
    axes: tuple[int, ...]
    slices: int

    @property
    def chip(self) -> Chip:
        """What one device has: a chip, or a core of it where jax sees several."""
        return CHIPS[self.kind].device

    @property
    def is_tpu(self) -> bool:
        return self.chip.platform == "tpu"

    @property
    def is_gpu(self) -> bool:
        return self.chip.platform == "gpu"

    @property
    def devices_per_slice(self) -> int:
        return math.prod(self.axes) * CHIPS[self.kind].cores

    def bandwidth(self, group: int) -> float:
        """Bytes/s at which a device sends in a collective over `group` devices, all its usable links busy.

        An axis of a torus that does not close has one neighbour less at its ends, and half the bandwidth. A group
        larger than an nvlink_domain or a slice is as slow as the network between them.
        """
        chip = self.chip
        if group > (chip.nvlink_domain or self.devices_per_slice):
            return chip.network_bandwidth
        if not chip.ring:
            return chip.link_bandwidth
        shares = [1.0 if size % chip.ring == 0 else 0.5 for size in self.axes if size > 1]
        return chip.link_bandwidth * sum(shares) / chip.axes


class TopologyError(ValueError):
    """No devices to plan for; the message says which there are."""


def simulate(topology: Topology) -> None:
    """Lets as many CPU devices stand in for the topology's own; before jax is used for anything else.

    Also where a GPU's compiler is installed: attention packs sequences by the number of jax's devices.
    """
    jax.config.update("jax_platforms", "cpu")
    # The compiler alone touches no TPU: several may run at once, and none asks the cloud what machine this is.
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    if not topology.is_tpu:
        jax.config.update("jax_num_cpu_devices", topology.slices * topology.devices_per_slice)


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads "v5e:4x4", "v5p:2x2x1", "gpu:h200:8" or "cpu:8", the chips of one slice.

    Raises:
      TopologyError: says which forms and kinds there are.
    """
    kind, _, shape = name.removeprefix("gpu:").partition(":")
    axes = tuple(int(size) for size in shape.split("x") if size.isdecimal())
    chip = CHIPS.get(kind)
    wanted = chip is not None and (chip.axes, chip.platform == "gpu")
    if wanted != (len(axes), name.startswith("gpu:")) or shape != "x".join(map(str, axes)) or not math.prod(axes):
        raise TopologyError(
            f"--topology={name} is none that the planner knows: v5e:4x4, v6e:8x8, v5p:4x4x4, v7:2x2x1 (chips "
            "along each axis), gpu:h100:8, gpu:h200:8 or cpu:8"
        )
    return Topology(kind, axes, slices)


def devices(topology: Topology) -> list:
    """Devices to compile for, which need not be there: TPUs as libtpu describes them; GPUs to NVIDIA's compiler where
    jax's CUDA plugin is installed; all else, and GPUs without it, are simulated CPU devices.

    Raises:
      TopologyError: the TPU compiler is not installed, knows no such slice, or jax runs with too few devices already.
    """
    chip = topology.chip
    name = f"{chip.name if topology.is_tpu else topology.kind}:{'x'.join(map(str, topology.axes))}"
    if topology.is_tpu:
        several = {"num_slices": topology.slices} if topology.slices > 1 else {}
        return _described(name, "tpu", name, **several)
    if topology.is_gpu and gpu_compiler():
        target = _HOPPER.format(bandwidth=chip.hbm_bandwidth, memory=chip.hbm_bytes, name=chip.name)
        shape = f"{topology.slices}x1x{topology.devices_per_slice}"
        return _described(f"gpu:{name}", "cuda", "", topology=shape, target_config=target)
    total = topology.slices * topology.devices_per_slice
    if len(jax.devices("cpu")) < total:
        raise TopologyError(
            f"{total} CPU devices are needed and jax has {len(jax.devices('cpu'))}: set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={total}"
        )
    return jax.devices("cpu")[:total]


def gpu_compiler() -> bool:
    """Whether jax's CUDA plugin, which has it, is installed; it needs no GPU."""
    return any(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin")))


def _described(wanted: str, platform: str, name: str, **settings) -> list:
    from jax.experimental import topologies

    chip = {"tpu": "TPU", "cuda": "GPU"}[platform]
    try:
        return topologies.get_topology_desc(name, platform, **settings).devices
    except (RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TopologyError(
            f"--topology={wanted}: the {chip} compiler says: {reason}. It comes with the extra: pip install "
            f"--upgrade 'discovr_jax[{chip.lower()}]' (no {chip} is needed)"
        ) from error
