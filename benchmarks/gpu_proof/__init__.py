"""Everything that needs a GPU, proved and measured by one command: ``python -m benchmarks --device cuda``.

It runs *parts*, each in a process of its own with a share of the time, so that none can take another down, and writes what it has after
each. ``--dry-run`` goes through all of it without a GPU, on the CPU engine and with recorded output of the tools, and proves nothing else.
"""
