"""Arrays that are known by a protocol only: DLPack, old and new, and `__cuda_array_interface__` where there is no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.arrays import probe, to_host
from gpu_adam.device import Device
from tests.support.dlpack_exporters import OldTensor, Tensor, Wrapped
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits
from tests.support.strategies import values

OLD = [OldTensor, lambda a: Tensor(a, versioned=False)]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("wrap", [Tensor, lambda a: Tensor(a, offset=64)])
@pytest.mark.parametrize("wrap_gradient", [Tensor, *OLD])
def test_foreign_arrays_are_updated_in_their_own_memory(name: str, wrap: Any, wrap_gradient: Any) -> None:
    memory = values(DTYPES[name], 24, 1).reshape(4, 6)
    reference = Reference(memory.T)
    optimizer = GpuAdam([wrap(memory.T)])
    for seed in range(3):
        gradient = values(DTYPES[name], 24, 10 + seed).reshape(6, 4)
        optimizer.step([wrap_gradient(gradient)])
        reference.step(gradient, Options())
        assert_same_bits(memory.T, reference.p)
    state = optimizer.state_dict()["state"][0]
    assert_same_bits(state["exp_avg"], reference.m)


@pytest.mark.parametrize("wrap", OLD)
def test_a_capsule_that_cannot_say_whether_its_memory_is_writable_is_no_parameter(wrap: Any) -> None:
    memory = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"parameter 'w' is a .*Tensor, whose DLPack capsule has no version"):
        GpuAdam({"w": wrap(memory)})
    assert (memory == 1).all()


def test_an_old_capsule_is_a_parameter_where_somebody_else_says_that_it_is_writable() -> None:
    class Speaking(OldTensor):
        @property
        def __array_interface__(self) -> Any:
            return self.array.__array_interface__

    memory = np.ones(3, np.float32)
    GpuAdam([Speaking(memory)]).step([np.ones(3, np.float32)])
    assert (memory < 1).all()
    memory.flags.writeable = False
    with pytest.raises(ValueError, match="no version"):
        GpuAdam([Speaking(memory)])

    class Known(OldTensor):
        pass

    Known.__module__ = "paddle.base"
    memory = np.ones(3, np.float32)
    GpuAdam([Known(memory)]).step([np.ones(3, np.float32)])
    assert (memory < 1).all()


@pytest.mark.parametrize("shape", [(), (0,), (1, 1), (2, 0, 3)])
def test_foreign_arrays_may_be_of_any_shape(shape: tuple[int, ...]) -> None:
    memory = np.ones(shape, np.float32)
    for no_strides in (False, True):
        ref = probe(Tensor(memory, no_strides=no_strides))
        assert (ref.library.name, ref.device, ref.shape) == ("foreign", Device("cpu"), shape)
    GpuAdam([Tensor(memory)]).step([Tensor(np.ones(shape, np.float32))])
    assert (memory < 1).all()


def test_absent_strides_mean_row_major() -> None:
    assert probe(Tensor(np.ones((2, 3, 4)), no_strides=True)).strides == (12, 4, 1)


def test_numpy_and_torch_arrays_behind_dlpack_alone() -> None:
    p, g = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":  # versions of DLPack
        GpuAdam([Wrapped(p)]).step([Wrapped(g)])
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.ones(3, 2, dtype=dtype).t()
        GpuAdam([Wrapped(tensor)], lr=0.5, eps=0.0).step([Wrapped(torch.ones(2, 3, dtype=dtype))])
        assert torch.equal(tensor, torch.full((2, 3), 0.5, dtype=dtype))
        assert_same_bits(np.asarray(to_host(Wrapped(tensor))).astype(np.float64), np.full((2, 3), 0.5))


def test_read_only_memory_is_refused_as_a_parameter_and_taken_as_a_gradient() -> None:
    memory = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="parameter 'w' is read-only"):
        GpuAdam({"w": Tensor(memory, read_only=True)})
    p = np.ones(3, np.float32)
    GpuAdam([p]).step([Tensor(memory, read_only=True)])
    assert p[0] < 1
    memory.flags.writeable = False
    # NumPy 2.0 hands no such memory over, and says so itself.
    with pytest.raises(ValueError, match=r"parameter 'w' is (read-only|not handed over by DLPack: .*readonly)"):
        GpuAdam({"w": Wrapped(memory)})


@pytest.mark.parametrize(
    ("about", "error", "message"),
    [
        ({"element": (0, 32)}, TypeError, r"DLPack element type \(code 0, 32 bits, 1 lanes\): use float64"),
        ({"element": (5, 64)}, TypeError, r"DLPack element type \(code 5, 64 bits, 1 lanes\)"),
        ({"element": (2, 8)}, TypeError, r"DLPack element type \(code 2, 8 bits, 1 lanes\)"),
        ({"lanes": 4}, TypeError, r"DLPack element type \(code 2, 32 bits, 4 lanes\)"),
        ({"device": (10, 0)}, ValueError, "lives on DLPack device type 10: use memory of the CPU or of CUDA"),
        ({"device": (8, 0)}, ValueError, "lives on DLPack device type 8"),
    ],
)
def test_other_elements_and_devices_are_refused(about: dict[str, Any], error: type[Exception], message: str) -> None:
    bad = Tensor(np.ones(3, np.float32), **about)
    with pytest.raises(error, match="parameter 'w' .*" + message):
        GpuAdam({"w": bad})
    with pytest.raises(error, match="the gradient of parameter 'w' .*" + message):
        GpuAdam({"w": np.ones(3, np.float32)}).step({"w": bad})


def test_memory_of_a_device_is_refused_by_the_cpu_engine_and_as_a_hosts_gradient() -> None:
    on_gpu = Tensor(np.ones(3, np.float32), device=(2, 3))
    with pytest.raises(
        ValueError, match="parameter 'w' lives on cuda:3, where engine='cpu' does not work: move the array"
    ):
        GpuAdam({"w": on_gpu}, engine="cpu")
    optimizer = GpuAdam({"w": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match="the gradient of parameter 'w' lives on cuda:3: must be on cpu"):
        optimizer.step({"w": on_gpu})


def test_an_exporter_that_will_not_share_is_refused_by_name() -> None:
    class Shy(Tensor):
        def __dlpack__(self, **how: Any) -> Any:
            raise BufferError("busy")

    shy = Shy(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="parameter 'w' is not handed over by DLPack: busy"):
        GpuAdam({"w": shy})
    with pytest.raises(ValueError, match="the gradient of parameter 'w' is not handed over by DLPack: busy"):
        GpuAdam({"w": np.ones(3, np.float32)}).step({"w": shy})


def test_memory_that_a_foreign_library_has_moved_is_followed() -> None:
    old_p, old_g = np.ones(3, np.float32), np.ones(3, np.float32)
    p, g, twin = Tensor(old_p), Tensor(old_g), np.ones(3, np.float32)
    moving, staying = GpuAdam([p]), GpuAdam([twin])
    for k in range(3):
        moving.step([g])
        staying.step([np.full(3, 1.0 + k, np.float32)])
        assert_same_bits(p.array, twin)
        p.array, g.array = p.array.copy(), np.full(3, 2.0 + k, np.float32)
    assert_same_bits(old_g, np.ones(3, np.float32))


def test_foreign_parameters_cannot_be_packed() -> None:
    with pytest.raises(TypeError, match="parameter 'w' is a Tensor: pack=True works with NumPy, CuPy, Numba and torch"):
        GpuAdam({"w": Tensor(np.ones(3, np.float32))}, pack=True)


def test_overlap_is_seen_across_libraries() -> None:
    memory = np.ones(8, np.float32)
    with pytest.raises(ValueError, match="parameter 'a' and parameter 'b' overlap in memory"):
        GpuAdam({"a": Tensor(memory[:5]), "b": memory[4:]})


class OnGpu:
    """What says of itself that it lies on a GPU."""

    __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (4096, False), "version": 3, "strides": None}  # noqa: RUF012


def test_a_gpu_array_is_a_clear_error_where_nobody_can_say_which_gpu() -> None:
    optimizer = GpuAdam({"w": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match="the gradient of parameter 'w' lives on"):
        optimizer.step({"w": OnGpu()})
    with pytest.raises(ValueError, match="parameter 'w' lives on"):
        GpuAdam({"w": OnGpu()}, engine="cpu")
