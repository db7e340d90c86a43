"""The experiments of the Adam paper (Kingma and Ba, 2014), run with this project's optimizers: ``python -m examples.paper``.

`experiments` says what is run, at which scale and over which grid, `published` what the paper found. `data` reads the data, `models`,
`vae` and `cnn` compute costs and gradients, `training` does one run, `pool` shares runs out to processes, `results` picks the best,
`figures` draws and `page` writes it all up. `theory` and `online` are the paper's section 4.
"""
