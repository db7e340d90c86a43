"""The job of ``gpu-adam train``: a small network, trained on handwritten digits with `GpuAdam`, and an example of its use.

`network` is the forward and the backward pass, `loop` the training, `backend` the choice of NumPy or CuPy, `data` the images, `curve` the
picture, `command` the command line.
"""
