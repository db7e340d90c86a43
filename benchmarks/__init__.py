"""Measurements of `gpu_adam` against other implementations of its optimizers, and against the limit that memory sets.

``python -m benchmarks`` checks every contender, times all of them in turns, prints a table and saves JSON and a plot under
``runs/bench/``, or with ``--publish`` over the committed ones in ``benchmarks/results/``. ``--device cuda`` does so on a GPU, and proves
there whatever needs one (`gpu_proof`). `ledger` needs no GPU: it counts machine code. `calls` counts what Python does in a step.
"""
