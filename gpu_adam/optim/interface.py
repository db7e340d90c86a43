"""Names that an optimizer does not have, with what was meant: keywords of its constructor, and attributes that are edited elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NoReturn

from ..messages import CLOSURE, or_else, shown


class Elsewhere:
    """An attribute that an optimizer does not have; reading it, or setting it, says where its value is."""

    def __init__(self, name: str, where: str) -> None:
        self._name, self._where = name, where
        self.__doc__ = None  # nothing that documentation should list

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else self._refuse(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        self._refuse(instance)

    def _refuse(self, instance: Any) -> NoReturn:
        raise AttributeError(f"{type(instance).__name__} has no attribute {self._name!r}: it is {self._where}")


def keep_elsewhere(cls: type, names: Iterable[str], where: str) -> None:
    """Give a class these names as attributes that are `Elsewhere`, but for those that have another meaning there.

    Args:
        cls: The class.
        names: The names.
        where: What the values are instead, with the place of ``{name}``.
    """
    for name in names:
        attribute = Elsewhere(name, where.format(name=name))
        if isinstance(getattr(cls, name, attribute), Elsewhere):
            setattr(cls, name, attribute)


def unexpected(cls: type, given: Mapping[str, Any], options: Collection[str]) -> TypeError:
    """What is raised for keywords that a constructor does not know.

    Args:
        cls: The class that was called.
        given: The keywords.
        options: Those that every optimizer takes, where its constructor hands keywords on.
    """
    own = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    named = [one.name for one in own if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    known = dict.fromkeys([*named, *options])
    name = next(iter(given))
    return TypeError(f"{cls.__name__}() got an unexpected keyword argument {shown(name)}: {or_else(name, known)}")


def unexpected_in_step(cls: type, given: Mapping[str, Any]) -> TypeError:
    """What is raised for keywords that `step` does not know; trainers hand a closure over by its name.

    Args:
        cls: The optimizer's class.
        given: The keywords.
    """
    name = next(iter(given))
    told = CLOSURE if name == "closure" else or_else(name, ["grads", "grad_scale", "stream"])
    return TypeError(f"{cls.__name__}.step() got an unexpected keyword argument {shown(name)}: {told}")
