"""`GpuAdam` itself on arrays of every library and on every engine: the bits of the same program on NumPy with the CPU engine.

What runs on NumPy, on PyTorch's CPU tensors and on DLPack capsules of host memory runs everywhere, and shows that the programs below are
sound. The rest is marked ``gpu``.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from reference import DTYPES, assert_same_bits
from strategies import values

from gpu_adam import GpuAdam
from gpu_adam.arrays import dlpack
from gpu_adam.engines import engine_named

# The numbers hold signalling NaNs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

Array = np.ndarray[Any, Any]

# ---- Libraries: a stretch of memory with given numbers in it, and arrays that lie there somehow --------------------------------------


@dataclass(frozen=True)
class Layout:
    """How an array lies in its memory; strides and offset in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def extent(self) -> int:
        """Elements that the memory must have, some of them behind the array, which must stay as they are."""
        return self.offset + 7 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


def dense(*shape: int, offset: int = 0) -> Layout:
    strides = tuple(int(np.prod(shape[d + 1 :], dtype=int)) for d in range(len(shape)))
    return Layout(shape, strides, offset)


def transposed(rows: int, columns: int, offset: int = 0) -> Layout:
    return Layout((rows, columns), (1, rows), offset)


class Numpy:
    name = "numpy"
    formats = tuple(DTYPES)
    packs = True

    def require(self) -> None:
        """Skip where the library is not there."""

    def memory(self, numbers: Array) -> Any:
        return numbers.copy()

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        strides = tuple(stride * dtype.itemsize for stride in layout.strides)
        return np.lib.stride_tricks.as_strided(memory[layout.offset :], layout.shape, strides)


class Torch:
    formats = tuple(DTYPES)
    packs = True

    def __init__(self, device: str) -> None:
        self.name = f"torch {device}"
        self.device = device

    def require(self) -> None:
        torch = pytest.importorskip("torch", reason="torch is not installed")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            pytest.skip("this torch cannot use the GPU")

    def memory(self, numbers: Array) -> Any:
        import torch

        words = torch.from_numpy(numbers.view(f"i{numbers.dtype.itemsize}").copy())
        return words.view(getattr(torch, numbers.dtype.name)).to(self.device)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        return memory.as_strided(layout.shape, layout.strides, layout.offset)


class Cupy:
    name = "cupy"
    formats = tuple(DTYPES)
    packs = True

    def require(self) -> None:
        pytest.importorskip("cupy", reason="CuPy is not installed")

    def memory(self, numbers: Array) -> Any:
        import cupy

        return cupy.asarray(numbers.view(f"u{numbers.dtype.itemsize}")).view(numbers.dtype)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        from cupy.lib.stride_tricks import as_strided

        return as_strided(
            memory[layout.offset :], layout.shape, tuple(stride * dtype.itemsize for stride in layout.strides)
        )


class Numba:
    name = "numba"
    formats = tuple(name for name in DTYPES if name != "bfloat16")  # which Numba's arrays do not know
    packs = True

    def require(self) -> None:
        pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

    def memory(self, numbers: Array) -> Any:
        from numba import cuda

        return cuda.to_device(numbers)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        from numba import cuda

        return cuda.as_cuda_array(Interface(memory, dtype, layout), sync=False)


class Foreign:
    """Arrays that are known by a protocol only, in memory that a library lends."""

    packs = False

    def __init__(self, wrapper: type, lender: Any) -> None:
        self.name = wrapper.__name__
        self.wrapper = wrapper
        self.lender = lender
        # In __cuda_array_interface__ nothing stands for bfloat16.
        self.formats = tuple(DTYPES) if wrapper is Capsule else tuple(name for name in DTYPES if name != "bfloat16")

    def require(self) -> None:
        self.lender.require()

    def memory(self, numbers: Array) -> Any:
        # As words, of which the lender need know nothing.
        return self.lender.memory(numbers.view(f"u{numbers.dtype.itemsize}"))

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        return self.wrapper(memory, dtype, layout)


class Interface:
    """An array with `__cuda_array_interface__` and nothing else."""

    def __init__(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> None:
        self._memory = memory
        self.__cuda_array_interface__ = {
            "shape": layout.shape,
            "strides": tuple(stride * dtype.itemsize for stride in layout.strides),
            "typestr": dtype.str,
            "data": (address_of(memory) + layout.offset * dtype.itemsize, False),
            "version": 3,
        }


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_CODES = {"float64": 2, "float32": 2, "float16": 2, "bfloat16": 4}


class Capsule:
    """An array with DLPack and nothing else."""

    def __init__(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> None:
        ndim = len(layout.shape)
        self._memory = memory
        self._device = (1 if isinstance(memory, np.ndarray) else 2, 0)
        self._shape, self._strides = (ctypes.c_int64 * ndim)(*layout.shape), (ctypes.c_int64 * ndim)(*layout.strides)
        code, bits, offset = _CODES[dtype.name], 8 * dtype.itemsize, layout.offset * dtype.itemsize
        self._tensor = dlpack._Tensor(
            address_of(memory), *self._device, ndim, code, bits, 1, self._shape, self._strides, offset
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return _new_capsule(ctypes.addressof(self._tensor), b"dltensor", None)


def address_of(array: Any) -> int:
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr())
    return int(array.__cuda_array_interface__["data"][0])


def host(array: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """A copy as a NumPy array, made by the array's own library; where that knows only words, of this dtype."""
    if isinstance(array, np.ndarray):
        out = array.copy()
    elif hasattr(array, "copy_to_host"):
        out = array.copy_to_host()
    elif hasattr(array, "detach"):
        words = getattr(sys.modules["torch"], f"int{8 * array.element_size()}")
        name = str(array.dtype).removeprefix("torch.")
        out = array.detach().cpu().view(words).numpy().copy().view(DTYPES[name])
    else:
        out = array.view(f"u{array.dtype.itemsize}").get().view(array.dtype)
    return out if dtype is None else out.view(dtype)


@dataclass(frozen=True)
class Case:
    library: Any
    engine: str

    def __str__(self) -> str:
        return f"{self.library.name}-{self.engine}".replace(" ", "-")

    @property
    def param(self) -> Any:
        return pytest.param(self, id=str(self), marks=[pytest.mark.gpu] if self.engine != "cpu" else [])

    def require(self) -> None:
        """Skip where what is needed is not installed. What is installed and does not work is a failure."""
        self.library.require()
        if self.engine != "cpu":
            lender = Cupy() if self.engine == "cupy" else Numba()
            lender.require()
        engine_named(self.engine)

    def array(self, numbers: Array, layout: Layout) -> Any:
        return self.library.view(self.library.memory(numbers), numbers.dtype, layout)


ENGINES = ("cupy", "numba")
LENDERS = {"cupy": Cupy(), "numba": Numba()}
HOST = Case(Numpy(), "cpu")
ON_CPU = [HOST, Case(Torch("cpu"), "cpu"), Case(Foreign(Capsule, Numpy()), "cpu")]
ON_GPU = [
    *(Case(library, engine) for library in (Cupy(), Torch("cuda"), Numba()) for engine in ENGINES),
    *(Case(Foreign(wrapper, LENDERS[engine]), engine) for wrapper in (Interface, Capsule) for engine in ENGINES),
]
CASES = [*ON_CPU, *ON_GPU]
STREAMED = [case for case in ON_GPU if case.library.name in ("cupy", "torch cuda")]


def required(request: pytest.FixtureRequest) -> Case:
    request.param.require()
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[case.param for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return required(request)


@pytest.fixture(params=[case.param for case in CASES if case.library.packs])
def packing_case(request: pytest.FixtureRequest) -> Case:
    return required(request)


@pytest.fixture(params=[case.param for case in STREAMED])
def streamed_case(request: pytest.FixtureRequest) -> Case:
    return required(request)


@pytest.fixture(params=[case.param for case in CASES if case.library.name.startswith("torch")])
def torch_case(request: pytest.FixtureRequest) -> Case:
    return required(request)


# ---- Programs: the same numbers on any library ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """A parameter and its gradients."""

    param: str
    at: Layout
    grad: str = ""
    """The gradient's format; by default the parameter's."""
    grad_at: Layout | None = None
    group: int = 0
    without: tuple[int, ...] = ()
    """The steps in which the gradient is None."""

    def gradient(self, case: Case, step: int, seed: int) -> Any:
        if step in self.without:
            return None
        layout = self.grad_at or self.at
        return case.array(values(DTYPES[self.grad or self.param], layout.extent, 1000 * (step + 1) + seed), layout)


GROUPS: tuple[dict[str, Any], ...] = (
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.5, "betas": (0.5, 0.75), "eps": 1e-3, "maximize": True},
)


class Training:
    """An optimizer over some tensors, whose numbers are a function of their place in the list and of the step alone."""

    def __init__(
        self, case: Case, tensors: Sequence[Tensor], memories: Sequence[Array] | None = None, **options: Any
    ) -> None:
        self.case, self.tensors, self.options = case, tensors, options
        if memories is None:
            memories = [values(DTYPES[one.param], one.at.extent, k) for k, one in enumerate(tensors)]
        self.memories = [case.library.memory(numbers) for numbers in memories]
        pairs = zip(self.memories, tensors, strict=True)
        self.params = [case.library.view(memory, DTYPES[one.param], one.at) for memory, one in pairs]
        groups = [{"params": own, **hyper} for own, hyper in zip(self.grouped(self.params), GROUPS, strict=False)]
        self.optimizer = GpuAdam(groups, engine=case.engine, **options)

    def grouped(self, leaves: Sequence[Any]) -> list[list[Any]]:
        count = 1 + max(one.group for one in self.tensors)
        pairs = list(zip(leaves, self.tensors, strict=True))
        return [[leaf for leaf, one in pairs if one.group == group] for group in range(count)]

    def gradients(self, step: int) -> list[list[Any]]:
        return self.grouped([one.gradient(self.case, step, k) for k, one in enumerate(self.tensors)])

    def step(self, *steps: int) -> Training:
        for step in steps:
            self.optimizer.step(self.gradients(step))
        return self

    def numbers(self) -> list[Array]:
        """The memory of each parameter, what lies around it included."""
        pairs = zip(self.memories, self.tensors, strict=True)
        return [host(memory, DTYPES[one.param]) for memory, one in pairs]

    def left(self) -> dict[str, Array]:
        """Everything that the program has left behind, by name."""
        if self.options.get("pack"):
            leaves = [leaf for group in self.optimizer.params for leaf in group]
            out = {f"parameter {k}": host(leaf) for k, leaf in enumerate(leaves)}
        else:
            out = {f"memory {k}": numbers for k, numbers in enumerate(self.numbers())}
        for k, entry in self.optimizer.state_dict()["state"].items():
            out[f"step {k}"] = np.array(float(entry["step"]))
            out.update({f"{name} {k}": host(array) for name, array in entry.items() if name != "step"})
        return out

    def handed_over(self, case: Case) -> Training:
        """The same training, taken up elsewhere by way of the state dict."""
        saved = self.optimizer.state_dict()
        entries = {k: dict(entry) for k, entry in saved["state"].items()}
        other = Training(case, self.tensors, self.numbers(), **self.options)
        other.optimizer.load_state_dict(saved)
        assert all(saved["state"][k][name] is array for k, entry in entries.items() for name, array in entry.items())
        agree(other.left(), self.left())
        return other


def agree(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(found[name], array, name)


def compare(case: Case, tensors: Sequence[Tensor], steps: int = 4, **options: Any) -> Training:
    """Run the same program here and on the host."""
    training = Training(case, tensors, **options).step(*range(steps))
    agree(training.left(), Training(HOST, tensors, **options).step(*range(steps)).left())
    return training


def of_every_format(case: Case, *layouts: Layout, **about: Any) -> list[Tensor]:
    return [Tensor(name, layout, **about) for name in case.library.formats for layout in layouts]


# ---- Bits ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"amsgrad": True, "decoupled_weight_decay": True}, {"master_weights": False, "eps_hat": True}],
    ids=["plain", "amsgrad", "no-master"],
)
def test_every_format_takes_gradients_of_every_format(case: Case, name: str, options: dict[str, Any]) -> None:
    if name not in case.library.formats:
        pytest.skip(f"{case.library.name} arrays have no {name}")
    sizes = (1, 5, 257, 5000)
    compare(case, [Tensor(name, dense(n), grad) for grad in case.library.formats for n in sizes], **options)


def test_misaligned_views(case: Case) -> None:
    offsets = product(range(4), range(4), (1, 7, 1030))
    compare(
        case,
        [
            Tensor(name, dense(n, offset=p), grad_at=dense(n, offset=g))
            for (p, g, n), name in product(offsets, case.library.formats)
        ],
    )


def test_strided_parameters_and_gradients(case: Case) -> None:
    pairs = (
        (transposed(30, 17), dense(30, 17)),
        (dense(30, 17), transposed(30, 17, offset=1)),
        (transposed(30, 17, offset=3), transposed(30, 17)),
        (Layout((30, 17), (40, 2), 5), dense(30, 17)),
        (Layout((5, 6, 7), (1, 35, 5)), Layout((5, 6, 7), (100, 1, 12))),
        (dense(30, 17), Layout((30, 17), (0, 1))),  # one row for all
        (dense(30, 17), Layout((30, 17), (0, 0))),  # one number for all
        (Layout((1, 3, 1, 4), (7, 4, 13, 1)), Layout((1, 3, 1, 4), (0, 4, 99, 3))),
        (Layout((), (), 1), dense()),
    )
    compare(case, [Tensor(name, p, grad_at=g) for (p, g), name in product(pairs, case.library.formats)])


def test_empty_tensors(case: Case) -> None:
    shapes = ((0,), (3,), (0, 4), (2, 0, 3), (5,), (0,))
    compare(case, [Tensor(name, dense(*shape)) for shape, name in product(shapes, case.library.formats)])


def test_many_tensors(case: Case) -> None:
    names = case.library.formats
    compare(case, [Tensor(names[k % len(names)], dense(1 + k % 50, offset=k % 3)) for k in range(2000)], steps=2)


def test_gradients_come_and_go_in_two_groups(case: Case) -> None:
    tensors = [
        Tensor(name, dense(300), group=group, without=without)
        for group, name, without in product((0, 1), case.library.formats, ((), (0, 1), (1, 3), (0, 1, 2, 3, 4, 5)))
    ]
    compare(case, tensors, steps=6)


@pytest.mark.parametrize("steps", [1, 5])
def test_packed_parameters(packing_case: Case, steps: int) -> None:
    layouts = (dense(30, 17), dense(3), transposed(40, 30), dense(257), dense(0), dense())
    tensors = of_every_format(packing_case, *layouts)
    compare(packing_case, [replace(one, group=group) for group in (0, 1) for one in tensors], steps, pack=True)


def test_packed_parameters_step_on_their_own_gradients(packing_case: Case) -> None:
    tensors = of_every_format(packing_case, dense(30, 17), dense(1025))
    trainings = [Training(each, tensors, pack=True) for each in (packing_case, HOST)]
    for training in trainings:
        for step in range(3):
            training.optimizer.zero_grad()
            for bound, own in zip(training.optimizer.grads[0], training.gradients(step)[0], strict=True):
                write(bound, own)
            training.optimizer.step()
        assert "_flat_" in str(training.optimizer.plan)
    agree(trainings[0].left(), trainings[1].left())


def write(to: Any, numbers: Any) -> None:
    """Copy an array into another of the same library."""
    if hasattr(to, "copy_to_device"):
        to.copy_to_device(numbers)
    elif hasattr(to, "copy_"):
        to.detach().copy_(numbers)
    else:
        words = f"u{to.dtype.itemsize}"
        to.view(words)[...] = numbers.view(words)


def duplicate(array: Any) -> Any:
    if hasattr(array, "clone"):
        return array.detach().clone()
    return array.view(f"u{array.dtype.itemsize}").copy(order="K").view(array.dtype)


# ---- Gradients in other places -------------------------------------------------------------------------------------------------------


def test_gradients_may_be_allocated_anew_in_each_step(case: Case) -> None:
    tensors = of_every_format(case, dense(500), dense(37), dense(20, 30))
    found, expected = Training(case, tensors), Training(HOST, tensors)
    kept: list[Any] = []
    for step in range(40):  # more than the host may be ahead of the device
        gradients = found.gradients(step)
        found.optimizer.step(gradients)
        kept.append(gradients if step % 3 else None)  # some stay, so that addresses differ, and some are used again
        expected.step(step)
    agree(found.left(), expected.left())


def test_an_address_may_be_used_again_by_another_size_and_format(case: Case) -> None:
    pool = case.library.name in ("cupy", "torch cuda")
    sizes = {"float32": 1024, "float64": 500, "float16": 2000}
    trainings = [
        Training(each, [Tensor("float32", dense(n)) for n in sizes.values()], master_weights=False)
        for each in (case, HOST)
    ]
    addresses: list[list[int]] = []
    for training in trainings:
        seen = []
        for step in range(9):
            k = step % len(sizes)
            name, n = list(sizes.items())[k]
            gradient = training.case.array(values(DTYPES[name], n, step), dense(n))
            seen.append(address_of(gradient) if pool and training.case is case else 0)
            training.optimizer.step([[gradient if j == k else None for j in range(len(sizes))]])
            del gradient
            gc.collect()
        addresses.append(seen)
    agree(trainings[0].left(), trainings[1].left())
    if pool:
        assert len(set(addresses[0])) < 9, "the pool has not used an address again, and this test has shown nothing"


def test_an_address_may_be_used_again_by_another_parameters_gradient(case: Case) -> None:
    # Of one size to a pool, which hands out memory in pieces of 512 bytes.
    tensors = [Tensor("float32", dense(n)) for n in (1024, 1000, 920)]
    found, expected = Training(case, tensors), Training(HOST, tensors)
    for step in range(12):
        gradients: list[Any] = [None] * 3
        for k in (step % 3, (step + 1) % 3, (step + 2) % 3):
            gradients[k] = case.array(values(DTYPES["float32"], tensors[k].at.shape[0], 10 * step + k), tensors[k].at)
        found.optimizer.step([gradients])
        # Freed in an order of their own: who comes next gets what was another's.
        for k in (1, 2, 0):
            gradients[k] = None
        expected.optimizer.step(
            [[values(DTYPES["float32"], one.at.shape[0], 10 * step + k) for k, one in enumerate(tensors)]]
        )
    agree(found.left(), expected.left())


# ---- State on the move ---------------------------------------------------------------------------------------------------------------


def relay(cases: Sequence[Case], **options: Any) -> None:
    """Two steps in each place, the state carried from one to the next, against as many steps on the host."""
    formats = [name for name in DTYPES if all(name in case.library.formats for case in cases)]
    tensors = [
        Tensor(name, layout, group=group, without=without)
        for group, (layout, without), name in product(
            (0, 1), ((dense(300), ()), (transposed(20, 30), (1, 2)), (dense(5), tuple(range(9)))), formats
        )
    ]
    training = Training(cases[0], tensors, **options).step(0, 1)
    for k, case in enumerate(cases[1:], start=1):
        training = training.handed_over(case).step(2 * k, 2 * k + 1)
    agree(training.left(), Training(HOST, tensors, **options).step(*range(2 * len(cases))).left())


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"master_weights": False}], ids=str)
def test_state_moves_from_the_host_to_the_device_and_back(case: Case, options: dict[str, Any]) -> None:
    relay([HOST, case, HOST], **options)


def test_state_moves_from_the_device_to_the_host_and_back(case: Case) -> None:
    relay([case, HOST, case], amsgrad=True)


@pytest.mark.parametrize("ways", [ENGINES, ENGINES[::-1]], ids="-".join)
@pytest.mark.parametrize("library", [Cupy(), Torch("cuda"), Numba()], ids=lambda library: library.name)
@pytest.mark.gpu
def test_state_moves_between_engines(library: Any, ways: Sequence[str]) -> None:
    cases = [Case(library, engine) for engine in (*ways, ways[0])]
    for case in cases:
        case.require()
    relay(cases, amsgrad=True)


@pytest.mark.gpu
def test_state_moves_between_libraries() -> None:
    ways = ((Cupy(), "cupy"), (Torch("cuda"), "numba"), (Numba(), "cupy"), (Foreign(Capsule, Numba()), "numba"))
    cases = [Case(library, engine) for library, engine in ways]
    for case in cases:
        case.require()
    relay(cases)


def test_a_copy_of_the_optimizer_goes_on_with_the_same_bits(packing_case: Case) -> None:
    if packing_case.library.name == "numba":
        pytest.skip("Numba's device arrays cannot be deep-copied")
    tensors = of_every_format(packing_case, dense(300))
    training = Training(packing_case, tensors).step(0)
    twin = copy.deepcopy(training.optimizer)
    twin.step(training.gradients(1))
    training.step(1)
    for found, expected in zip(twin.params[0], training.optimizer.params[0], strict=True):
        assert_same_bits(host(found), host(expected))


# ---- PyTorch -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_torch_gradients_are_read_from_the_tensors(torch_case: Case, pack: bool, set_to_none: bool) -> None:
    tensors = of_every_format(torch_case, dense(30, 17), dense(1025))
    training = Training(torch_case, tensors, pack=pack)
    homes = [address_of(p) for p in training.params]
    for step in range(4):
        training.optimizer.zero_grad(set_to_none)
        for p, gradient in zip(training.params, training.gradients(step)[0], strict=True):
            if p.grad is None:
                p.grad = gradient
            else:
                assert not p.grad.any()
                p.grad.copy_(gradient)
        training.optimizer.step()
    assert [address_of(p) for p in training.params] == homes
    assert all(found is p for found, p in zip(training.optimizer.params[0], training.params, strict=True))
    agree(training.left(), Training(HOST, tensors, pack=pack).step(*range(4)).left())


def test_torch_modules_are_trained_by_backward(torch_case: Case) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    model.to(torch_case.library.device)
    optimizer = GpuAdam(dict(model.named_parameters()), lr=0.01, engine=torch_case.engine, pack=True)
    x = torch.randn(64, 20, device=torch_case.library.device)
    # The gradients differ from device to device, so those that were found go to the twin.
    twin = {name: host(p) for name, p in model.named_parameters()}
    other = GpuAdam(twin, lr=0.01, engine="cpu")
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        losses.append(loss.item())
        other.step({name: host(p.grad) for name, p in model.named_parameters()})
        optimizer.step()
        for name, p in model.named_parameters():
            assert_same_bits(host(p), twin[name], name)
    assert losses[-1] < losses[0]


def test_torch_master_weights_take_up_what_was_written_by_hand(torch_case: Case) -> None:
    tensors = [Tensor(name, dense(300)) for name in ("float16", "bfloat16")]
    trainings = [Training(case, tensors).step(0, 1) for case in (torch_case, HOST)]
    for training in trainings:
        masters = [entry["master"] for entry in training.optimizer.state_dict()["state"].values()]
        assert {host(master).dtype for master in masters} == {np.dtype(np.float32)}
        for k, p in enumerate(training.params):
            write(p, training.case.array(values(DTYPES[tensors[k].param], 310, 77 + k), dense(300)))
        training.optimizer.reread_params() if training.case is HOST else None
        training.step(2, 3)
    agree(trainings[0].left(), trainings[1].left())


# ---- Streams -------------------------------------------------------------------------------------------------------------------------


SPIN = 'extern "C" __global__ void spin(long long n) { long long s = clock64(); while (clock64() - s < n) {} }'


class Stream:
    """A stream of CuPy or torch that does not wait for the default one."""

    def __init__(self, case: Case) -> None:
        self.torch = case.library.name.startswith("torch")
        if self.torch:
            import torch

            self.own = torch.cuda.Stream()
            self.current = lambda: torch.cuda.stream(self.own)
        else:
            import cupy

            self.own = cupy.cuda.Stream(non_blocking=True)
            self.current = lambda: self.own
            self.spin = cupy.RawKernel(SPIN, "spin")

    def keep_busy(self, cycles: int = 500_000_000) -> None:
        """Queue a kernel that does nothing for some tenths of a second."""
        if self.torch:
            import torch

            torch.cuda._sleep(cycles)
        else:
            self.spin((1,), (1,), (np.int64(cycles),))

    def done(self) -> bool:
        return bool(self.own.query() if self.torch else self.own.done)

    def wait(self) -> None:
        self.own.synchronize()


def settle(case: Case) -> None:
    """Wait for everything that is queued on the device."""
    if case.library.name == "torch cuda":
        import torch

        torch.cuda.synchronize()
    elif case.engine == "cupy":
        import cupy

        cupy.cuda.Device().synchronize()
    elif case.engine == "numba":
        from numba import cuda

        cuda.synchronize()


@pytest.mark.parametrize("pack", [False, True])
def test_a_step_is_queued_on_the_callers_current_stream(streamed_case: Case, pack: bool) -> None:
    tensors = of_every_format(streamed_case, dense(300), transposed(20, 30))
    training = Training(streamed_case, tensors, pack=pack).step(0)
    scratch, stale, fresh = (training.gradients(step)[0] for step in (1, 1, 2))
    training.optimizer.step([stale])
    stream = Stream(streamed_case)
    settle(streamed_case)
    with stream.current():
        # Compiled before it counts.
        stream.keep_busy(1000)
        for to, numbers in zip(scratch, fresh, strict=True):
            write(to, numbers)
            duplicate(to)
        stream.wait()
        # What the step is to read comes late in its stream: on any other it would read the old numbers.
        stream.keep_busy()
        for to, numbers in zip(stale, fresh, strict=True):
            write(to, numbers)
        training.optimizer.step([stale])
        waiting = not stream.done()
        after = [duplicate(p) for p in training.optimizer.params[0]]
        stream.wait()
    assert waiting, "the step has waited for the device"
    for copied, now in zip(after, training.optimizer.params[0], strict=True):
        assert_same_bits(host(copied), host(now), "what follows on the stream has not seen the step")
    agree(training.left(), Training(HOST, tensors, pack=pack).step(0, 1, 2).left())


def test_steps_on_changing_streams_follow_each_other(streamed_case: Case) -> None:
    tensors = of_every_format(streamed_case, dense(100_000))
    training = Training(streamed_case, tensors)
    gradients = [training.gradients(step) for step in range(12)]
    streams = [Stream(streamed_case) for _ in range(3)]
    settle(streamed_case)
    for step, each in enumerate(gradients):
        with streams[step % 3].current():
            streams[step % 3].keep_busy(10_000_000 * (3 - step % 3))
            training.optimizer.step(each)
    settle(streamed_case)
    agree(training.left(), Training(HOST, tensors).step(*range(12)).left())


# ---- Neither waiting nor allocating --------------------------------------------------------------------------------------------------


FORBIDDEN = {
    "engine": ("allocate", "upload", "download", "load"),
    "binding": ("allocate", "exchange", "pinned", "event"),
    # Not the waiting for an event: staging memory asks each step for that of 32 steps before.
    "cupy": ("malloc", "mallocAsync", "hostAlloc", "memcpy", "deviceSynchronize", "streamSynchronize"),
    "driver": (
        *("cuMemAlloc", "cuMemAllocAsync", "cuMemAllocHost", "cuMemHostAlloc"),
        *("cuMemcpyHtoD", "cuMemcpyDtoH", "cuCtxSynchronize", "cuStreamSynchronize"),
    ),
}


@contextmanager
def neither_waiting_nor_allocating(case: Case) -> Iterator[None]:
    """Make every call that waits for a device or allocates its memory an error, and look at the pools."""
    engine = engine_named(case.engine)
    places: dict[str, Any] = {"engine": engine}
    if case.engine != "cpu":
        places["binding"] = engine._cuda  # type: ignore[attr-defined]
        places["driver"] = pytest.importorskip("cuda.bindings.driver")
        if "cupy" in sys.modules:
            places["cupy"] = sys.modules["cupy"].cuda.runtime
    torch = sys.modules["torch"] if case.library.name == "torch cuda" else None
    gc.collect()
    before = pools(case)
    with pytest.MonkeyPatch.context() as patch:
        for place, of in places.items():
            for name in FORBIDDEN[place]:
                if hasattr(of, name):
                    patch.setattr(of, name, refusal(f"{place}.{name}"))
        if torch is not None:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if torch is not None:
                torch.cuda.set_sync_debug_mode("default")
    assert pools(case) == before


def refusal(name: str) -> Any:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError(f"a step called {name}")

    return refuse


def pools(case: Case) -> list[int]:
    out = []
    if "cupy" in sys.modules and case.engine != "cpu":
        pool = sys.modules["cupy"].get_default_memory_pool()
        out += [pool.used_bytes(), pool.total_bytes()]
    if case.library.name == "torch cuda":
        out.append(sys.modules["torch"].cuda.memory_stats()["allocation.all.allocated"])
    return out


@pytest.mark.parametrize("pack", [False, True])
def test_a_step_after_the_first_neither_waits_nor_allocates(case: Case, pack: bool) -> None:
    if pack and not case.library.packs:
        pytest.skip("pack=True is for libraries whose arrays can be made")
    tensors = of_every_format(case, dense(300), transposed(20, 30), dense(37, offset=1))
    training = Training(case, tensors, pack=pack, amsgrad=True)
    gradients = [training.gradients(step) for step in range(8)]
    training.optimizer.step(gradients[0])
    with neither_waiting_nor_allocating(case):
        for each in gradients[1:]:  # at other addresses each time
            training.optimizer.step(each)
        training.optimizer.step(gradients[-1])
    expected = Training(HOST, tensors, pack=pack, amsgrad=True).step(*range(8), 7)
    agree(training.left(), expected.left())


def test_the_forbidden_calls_are_those_that_are_made() -> None:
    training = Training(HOST, [Tensor("float32", dense(3))])
    with pytest.raises(AssertionError, match=r"a step called engine\.allocate"), neither_waiting_nor_allocating(HOST):
        training.step(0)


def test_the_host_runs_ahead_of_the_device(streamed_case: Case) -> None:
    tensors = of_every_format(streamed_case, dense(300))
    training = Training(streamed_case, tensors).step(0)
    gradients = [training.gradients(step) for step in range(1, 21)]
    stream = Stream(streamed_case)
    settle(streamed_case)
    with stream.current():
        stream.keep_busy(1000)
        stream.wait()
        stream.keep_busy(2_000_000_000)
        started = time.perf_counter()
        for each in gradients:
            training.optimizer.step(each)
        took, waiting = time.perf_counter() - started, not stream.done()
        stream.wait()
    assert waiting, f"20 steps have waited for the device, {took:.3f} s"
    agree(training.left(), Training(HOST, tensors).step(*range(21)).left())


# ---- Refusals ------------------------------------------------------------------------------------------------------------------------


@contextmanager
def capturing(case: Case) -> Iterator[None]:
    if case.library.name == "cupy":
        import cupy

        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                yield
            finally:
                stream.end_capture()
    else:
        import torch

        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            yield


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_step_in_a_capture_is_refused_and_changes_nothing(streamed_case: Case, earlier: int) -> None:
    tensors = of_every_format(streamed_case, dense(300))
    training = Training(streamed_case, tensors).step(*range(earlier))
    gradients = training.gradients(earlier)
    before = training.left()
    settle(streamed_case)
    with capturing(streamed_case), pytest.raises(RuntimeError, match=r"step\(\) cannot be captured in a CUDA graph"):
        training.optimizer.step(gradients)
    agree(training.left(), before)
    training.optimizer.step(gradients)
    agree(training.left(), Training(HOST, tensors).step(*range(earlier + 1)).left())


def test_a_gradient_from_elsewhere_is_refused_by_name_and_changes_nothing(case: Case) -> None:
    tensors = of_every_format(case, dense(300))
    training = Training(case, tensors).step(0)
    good, before = training.gradients(1)[0], training.left()
    elsewhere: list[Any] = [case.array(np.ones(306, np.float32), dense(299))]
    if case.engine != "cpu":
        elsewhere.append(np.ones(300, np.float32))
    for bad in elsewhere:
        with pytest.raises(ValueError, match=r"the gradient of parameter 1 of group 0 (has shape|lives on cpu)"):
            training.optimizer.step([[good[0], bad, *good[2:]]])
        agree(training.left(), before)
    training.optimizer.step([good])
    agree(training.left(), Training(HOST, tensors).step(0, 1).left())


def test_an_engine_for_another_kind_of_memory_is_refused_by_name(case: Case) -> None:
    p = case.array(np.ones(10, np.float32), dense(3))
    others = ["cpu"] if case.engine != "cpu" else []
    for engine in others:
        with pytest.raises(ValueError, match=r"parameter 'w' lives on cuda:0, where engine='cpu' does not work"):
            GpuAdam({"w": p}, engine=engine)
    optimizer = GpuAdam({"w": p}, engine="auto")
    assert ("engine=cpu" in repr(optimizer)) == (case.engine == "cpu")


# ---- Large parameters, several devices -----------------------------------------------------------------------------------------------


def step_a_constant(case: Case, size: int) -> None:
    """One float16 parameter without master weights, by a gradient of stride 0 and by itself, against one element of it."""
    p = ones(case, size)
    one = np.ones(1, np.float16)
    gradient = case.array(np.ones(1, np.float16), Layout((size,), (0,)))
    options: dict[str, Any] = {"lr": 0.25, "eps": 0.0, "master_weights": False}
    for of_itself in (False, True):
        optimizer, other = GpuAdam([p], engine=case.engine, **options), GpuAdam([one], engine="cpu", **options)
        before = one.copy()
        optimizer.step([p if of_itself else gradient])
        other.step([one if of_itself else np.ones(1, np.float16)])
        assert one[0] != before[0]
        chunk = 1 << 28
        for start in range(0, size, chunk):
            assert bool((p[start : start + chunk] == float(one[0])).all()), f"in the chunk from {start}"
        assert_same_bits(host(p[-1:]), one)
        del optimizer
        gc.collect()


def ones(case: Case, size: int) -> Any:
    if case.library.name.startswith("torch"):
        import torch

        return torch.ones(size, dtype=torch.float16, device=case.library.device)
    module = np if case is HOST else sys.modules["cupy"]
    return module.ones(size, np.float16)


@pytest.mark.parametrize("of", [case.param for case in (*ON_CPU[:2], *STREAMED)])
def test_a_gradient_that_is_one_number_and_one_that_is_the_parameter(of: Case) -> None:
    of.require()
    step_a_constant(of, 100_003)


@pytest.mark.slow
def test_above_2_to_the_31_elements(streamed_case: Case) -> None:
    size = (1 << 31) + 5
    if free_bytes(streamed_case) < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    try:
        step_a_constant(streamed_case, size)
    finally:
        gc.collect()
        free_bytes(streamed_case)


def free_bytes(case: Case) -> int:
    """What is free on the device when the pools have given back what they can."""
    if "cupy" in sys.modules:
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if case.library.name == "torch cuda":
        torch = sys.modules["torch"]
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    return int(sys.modules["cupy"].cuda.runtime.memGetInfo()[0])


@contextmanager
def on_device(case: Case, index: int) -> Iterator[None]:
    if case.library.name == "cupy":
        import cupy

        with cupy.cuda.Device(index):
            yield
    else:
        import torch

        with torch.cuda.device(index):
            yield


def device_count(case: Case) -> int:
    module = sys.modules["cupy"].cuda.runtime if case.library.name == "cupy" else sys.modules["torch"].cuda
    return int(module.getDeviceCount() if case.library.name == "cupy" else module.device_count())


def current_device(case: Case) -> int:
    module = sys.modules["cupy"].cuda.runtime if case.library.name == "cupy" else sys.modules["torch"].cuda
    return int(module.getDevice() if case.library.name == "cupy" else module.current_device())


def test_two_devices_in_one_optimizer(streamed_case: Case) -> None:
    if device_count(streamed_case) < 2:
        pytest.skip("needs two GPUs")
    torch = streamed_case.library.name == "torch cuda"
    cases = [replace(streamed_case, library=Torch(f"cuda:{k}")) if torch else streamed_case for k in (0, 1)]
    numbers = [values(DTYPES["float32"], 307, k) for k in range(2)]
    params, twins = [], [one[:300].copy() for one in numbers]
    for k, case in enumerate(cases):
        with on_device(case, k):
            params.append(case.array(numbers[k], dense(300)))
    optimizer, other = GpuAdam(params, engine=streamed_case.engine), GpuAdam(twins, engine="cpu")
    for step in range(4):
        gradients = [values(DTYPES["float32"], 307, 10 * step + k) for k in range(2)]
        there = []
        for k, case in enumerate(cases):
            with on_device(case, k):
                there.append(case.array(gradients[k], dense(300)))
        before = current_device(streamed_case)
        optimizer.step(there)
        assert current_device(streamed_case) == before
        other.step([gradient[:300] for gradient in gradients])
    with pytest.raises(ValueError, match=r"the gradient of parameter 0 .* lives on cuda:1: must be on cuda:0"):
        optimizer.step(there[::-1])
    for k, (found, expected) in enumerate(zip(params, twins, strict=True)):
        with on_device(streamed_case, k):
            assert_same_bits(host(found), expected)
