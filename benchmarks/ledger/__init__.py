"""The ledger: what the compiler made of every kernel, counted, and how fast that will be; no GPU is needed.

``python -m benchmarks.ledger`` compiles, disassembles, counts and predicts, and writes ``LEDGER.md`` and ``ledger.json`` into
``runs/ledger/``, or with ``--publish`` over the committed ones.
"""
