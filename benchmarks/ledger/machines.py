"""What is published about the architectures and about the GPUs that times are predicted for, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """What a multiprocessor has room for: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".

    Registers are given to warps in units of 256, and warps to the four schedulers in turn, on all of them.

    Attributes:
        warps: Warps that it keeps at once.
        blocks: Blocks that it keeps at once.
        shared: KiB of shared memory.
        reserved: KiB of it that the system takes for each block.
    """

    warps: int
    blocks: int
    shared: int
    reserved: int = 1


ARCHITECTURES = {
    75: Architecture(warps=32, blocks=16, shared=64, reserved=0),
    80: Architecture(warps=64, blocks=32, shared=164),
    86: Architecture(warps=48, blocks=16, shared=100),
    89: Architecture(warps=48, blocks=24, shared=100),
    90: Architecture(warps=64, blocks=32, shared=228),
    100: Architecture(warps=64, blocks=32, shared=228),
    120: Architecture(warps=48, blocks=24, shared=100),
}

REGISTER_FILE = 65_536
SCHEDULERS = 4


@dataclass(frozen=True)
class Machine:
    """One GPU.

    Attributes:
        name: Its name, which its driver's name for it contains.
        architecture: Ten times its compute capability.
        processors: Multiprocessors.
        clock: GHz that it boosts to.
        bandwidth: GB/s of its memory, by the datasheet.
        copied: The share of it that a plain copy reaches. The rest goes to refreshing, to opening rows and to turning the bus from reading
            to writing; GDDR loses a little less to the last, HBM2e with its error correction a little more.
        latency: ns from a load to its value while the memory is as busy as it gets: about twice what an idle memory takes.
        second_level: ns of a hit in the L2 cache.
        fp32: Lanes of a multiprocessor for single precision; integer multiplications have half of them from 128 on.
        fp64: Its lanes for double precision.
        integer: Its lanes for integers, comparisons and moves.
        special: Its lanes for reciprocals, roots and conversions.
        widening: Which lanes conversions from and to float64 take: their own, or double precision's, where there are few of these.
    """

    name: str
    architecture: int
    processors: int
    clock: float
    bandwidth: float
    copied: float
    latency: float
    second_level: float
    fp32: int
    fp64: int
    integer: int = 64
    special: int = 16
    widening: Literal["special", "fp64"] = "special"


# Lanes: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions". Latencies of idle memory and cache, in cycles, of
# A100 (466, 262), RTX 4090 (542, 273) and H100 (479, 263): Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture
# via Microbenchmarking" (2024). The latency under load and all of B200's are assumptions, on the long side; LEDGER.md says how far off
# they may be before anything else binds.
MACHINES = (
    # NVIDIA A100 (80 GB, SXM) datasheet: 2,039 GB/s, 19.5 TFLOP/s single, 9.7 double, which is 108 x 64 and 108 x 32 lanes at 1.41 GHz.
    # Copies are commonly reported at 1.75 to 1.80 TB/s.
    Machine("A100", 80, 108, 1.41, 2039, 0.87, 660, 190, fp32=64, fp64=32),
    # NVIDIA H100 (SXM) datasheet: 3.35 TB/s, 67 and 34 TFLOP/s, 132 multiprocessors: 1.98 GHz. Device-to-device copies move about 3.0 TB/s.
    Machine("H100", 90, 132, 1.98, 3352, 0.90, 700, 140, fp32=128, fp64=64),
    # NVIDIA H200 datasheet: 4.8 TB/s, the rest as H100's. Device-to-device copies move about 4.3 TB/s.
    Machine("H200", 90, 132, 1.98, 4800, 0.90, 700, 140, fp32=128, fp64=64),
    # NVIDIA Ada whitepaper: 1,008 GB/s, 82.6 TFLOP/s single, 1/64 of it double, 128 multiprocessors at 2.52 GHz.
    # Copies are commonly reported at 0.92 to 0.93 TB/s.
    Machine("RTX 4090", 89, 128, 2.52, 1008, 0.92, 600, 110, fp32=128, fp64=2, widening="fp64"),
    # NVIDIA Blackwell datasheet (HGX B200): 8 TB/s, 75 and 37 TFLOP/s, 148 multiprocessors: 1.965 GHz.
    Machine("B200", 100, 148, 1.965, 8000, 0.90, 800, 200, fp32=128, fp64=64),
)
