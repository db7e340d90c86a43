"""Steps as a training loop with PyTorch takes them: torch tensors for every contender, and other gradients in each step.

*New* gradients are tensors that were not there in the last step, as ``zero_grad()`` and ``backward()`` make them. *Bound* ones are the
tensors of a packed optimizer's own buckets, with other values in them: with ``pack=True`` ``zero_grad()`` keeps these, and ``backward()``
adds to them. Either is made before each step and outside of its time, the assignment to ``.grad`` included, for all contenders alike: in a
loop that is the backward pass.
"""
