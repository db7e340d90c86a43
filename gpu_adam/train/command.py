"""``gpu-adam train``: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from math import inf, isfinite
from pathlib import Path

from ..console import check_file, check_threads
from ..errors import EnvironmentVariableError

# What takes long to import waits until there is something to train: `gpu-adam --help` needs none of it.

_EPOCHS = 10
_DIGITS_EPOCHS = 120
"""More for the built-in digits, of which there are few."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``gpu-adam train``."""
    count, natural = number(int, 1), number(int, 0)
    positive, share = number(float, 0), number(float, 0, 1)
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="a folder with MNIST, Fashion-MNIST or another data set of the same IDX files, gzipped or not; "
        "by default the handwritten digits of scikit-learn",
    )
    parser.add_argument("--out", type=Path, metavar="PNG", help="where the loss curve goes (runs/DATA-ENGINE.png)")
    parser.add_argument(
        "--engine", choices=("auto", "cpu", "cupy", "numba"), default="auto", help="by default a GPU's if one can run"
    )

    network = parser.add_argument_group("training")
    network.add_argument(
        "--epochs", type=count, metavar="N", help=f"passes over the images ({_EPOCHS}; for the digits {_DIGITS_EPOCHS})"
    )
    network.add_argument("--batch-size", type=count, default=64, metavar="N", help="images a step (%(default)s)")
    network.add_argument(
        "--hidden", type=count, nargs="*", default=[256, 128], metavar="N", help="widths of the hidden layers (256 128)"
    )
    network.add_argument(
        "--shift", type=natural, default=1, metavar="N", help="move training images by up to N pixels (%(default)s)"
    )
    network.add_argument("--seed", type=natural, default=0, metavar="N", help="of all that is random (%(default)s)")
    network.add_argument(
        "--dtype",
        choices=("float32", "float64", "float16", "bfloat16"),
        default="float32",
        help="of the parameters and of the stored gradients (%(default)s)",
    )
    network.add_argument(
        "--loss-scale",
        type=loss_scale,
        metavar="{none,dynamic,X}",
        help="multiply gradients by X, or by what a LossScaler finds, before they are stored; steps that overflow are skipped (none)",
    )
    network.add_argument(
        "--blas-threads",
        type=count,
        default=1,
        metavar="N",
        help="threads of a matrix product on the CPU (%(default)s); more are faster on idle cores, far slower on busy ones",
    )

    adam = parser.add_argument_group("Adam")
    adam.add_argument("--lr", type=positive, default=3e-3, metavar="X", help="the largest learning rate (%(default)s)")
    adam.add_argument(
        "--schedule",
        choices=("constant", "cosine", "linear", "inverse-sqrt"),
        default="linear",
        help="how it goes: cosine and linear fall to 0, inverse-sqrt is X/sqrt(t) (%(default)s)",
    )
    adam.add_argument(
        "--warmup", type=natural, default=0, metavar="N", help="steps in which it rises first (%(default)s)"
    )
    adam.add_argument(
        "--betas", type=share, nargs=2, default=[0.9, 0.999], metavar="X", help="beta1 and beta2 (0.9 0.999)"
    )
    adam.add_argument(
        "--eps",
        type=positive,
        default=1e-8,
        metavar="X",
        help="what is added to the root of the second moment (%(default)s)",
    )
    adam.add_argument("--weight-decay", type=positive, default=0.0, metavar="X", help="(%(default)s)")
    adam.add_argument(
        "--decoupled-weight-decay", action="store_true", help="shrink the parameters, not change the gradients (AdamW)"
    )
    adam.add_argument("--amsgrad", action="store_true", help="divide by the largest second moment so far")
    adam.add_argument(
        "--max-grad-norm", type=positive, metavar="X", help="clip the norm of all gradients to X (not clipped)"
    )
    adam.add_argument(
        "--ema-decay",
        type=share,
        metavar="X",
        help="keep an exponential average of the parameters too, and test with it (none)",
    )


def number(kind: type[int] | type[float], low: float, below: float = inf) -> Callable[[str], float]:
    """A converter for argparse, of numbers of at least ``low`` and less than ``below``."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value < below:
            what = "a whole number" if kind is int else "a number"
            limit = "" if below == inf else f" and less than {below}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} of at least {low}{limit}")
        return value

    return convert


def loss_scale(text: str) -> float | str | None:
    """A converter for argparse, of ``none``, ``dynamic`` and positive numbers."""
    if text in ("none", "dynamic"):
        return None if text == "none" else text
    value = number(float, 0)(text)
    if value == 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def main(args: argparse.Namespace) -> int:
    """Train as the options say.

    Returns:
        The exit status: 0, or 1 if something is missing, the data cannot be read, or training came to nothing.
    """
    from ..errors import EngineUnavailable, MisfitError
    from .dependencies import MissingDependency

    try:
        return _train(args)
    except (BrokenPipeError, EnvironmentVariableError):
        raise
    except MisfitError as error:
        print(f"gpu-adam train: {error}: try a {error.remedy} --{error.key.replace('_', '-')}", file=sys.stderr)
        return 1
    except (EngineUnavailable, MissingDependency, OSError, ValueError) as error:
        print(f"gpu-adam train: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(
            f"gpu-adam train: there is too little memory: {error or 'try a smaller --hidden or --batch-size'}",
            file=sys.stderr,
        )
        return 1


def _train(args: argparse.Namespace) -> int:
    from ..dtypes import format_named
    from .backend import choose
    from .data import load_digits, load_idx
    from .dependencies import require

    check_threads()
    # Asked for before the work begins and not after.
    if args.out is not None:
        check_file(args.out, "--out")
    tqdm, limit_threads = require("tqdm").tqdm, require("threadpoolctl").threadpool_limits
    require("matplotlib.figure")
    from .curve import save
    from .loop import Options, train

    data = load_digits() if args.data_dir is None else load_idx(args.data_dir)
    backend = choose(args.engine)
    out: Path = args.out or Path("runs", f"{data.name}-{backend.engine}.png")
    check_file(out, "--out")
    options = Options(
        epochs=args.epochs or (_DIGITS_EPOCHS if args.data_dir is None else _EPOCHS),
        batch_size=args.batch_size,
        lr=args.lr,
        schedule=args.schedule,
        warmup=args.warmup,
        hidden=args.hidden,
        shift=args.shift,
        seed=args.seed,
        dtype=format_named(args.dtype).dtype,
        loss_scale=args.loss_scale,
        max_grad_norm=args.max_grad_norm,
        ema_decay=args.ema_decay,
        adam={key: getattr(args, key) for key in _ADAM},
    )
    print(data)
    if backend.why_no_gpu:
        print(f"On the CPU: {backend.why_no_gpu}")
    sys.stdout.flush()  # before the progress bar, which goes to stderr

    # Matrix products this small take two idle cores two thirds of the time of one. On cores that others use too BLAS's threads spin while
    # they wait for each other, and training took eight times as long: so one thread, unless more are asked for.
    steps = options.steps(len(data.images))
    # In a pipe or a file a bar would be one endless line.
    progress = partial(tqdm, unit=" steps", desc="training", disable=not sys.stderr.isatty())
    with limit_threads(args.blas_threads, user_api="blas"), progress(total=steps) as bar:
        result = train(data, backend, options, bar)

    layers = "-".join(map(str, result.sizes))
    accuracy = f"{result.accuracies[-1]:.2%}"
    print(f"network           {layers}, {result.parameters:,} parameters of {args.dtype}")
    print(f"engine            {backend.engine}")
    print(f"steps             {len(result.losses):,} in {result.seconds:.1f} s")
    print(
        f"updates           {_rate(result.updates_per_second)} parameters a second in step(), "
        f"{_rate(result.updates_per_second_overall)} overall"
    )
    print(f"test accuracy     {accuracy} of {len(data.test_labels):,} images, after the last epoch")
    if result.averaged_accuracies:
        print(f"with averages     {result.averaged_accuracies[-1]:.2%}, the parameters being their averages")
    if result.grad_norm is not None:
        print(f"gradient norm     {result.grad_norm:.3g} in the last step, before clipping")
    if result.loss_scale is not None:
        print(f"loss scale        {result.loss_scale:g} at the end; steps skipped: {result.skipped:,}")
    save(result, f"{data.name}, {layers}, {args.dtype}: {accuracy} with GpuAdam on engine {backend.engine}", out)
    print(f"loss curve        {out}")
    if not isfinite(result.losses[-1]):
        remedy = "with --eps 0 a parameter whose gradients were all 0 becomes 0/0: use a larger --eps"
        if args.eps > 0.0:
            remedy = "try a smaller --lr" + (" or --weight-decay" if args.weight_decay else "")
        print(f"gpu-adam train: the loss is not finite any more: {remedy}", file=sys.stderr)
        return 1
    return 0


_ADAM = ("betas", "eps", "weight_decay", "decoupled_weight_decay", "amsgrad")


def _rate(value: float) -> str:
    """A number with a metric prefix.

    >>> _rate(2_345_678)
    '2.35 million'
    """
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}"
