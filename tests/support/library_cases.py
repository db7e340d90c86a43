"""Each library with each engine that works on its arrays, as fixtures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from gpu_adam.engines import engine_named
from tests.support.libraries import Array, Capsule, Cupy, Foreign, Interface, Layout, Numba, Numpy, Torch


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
