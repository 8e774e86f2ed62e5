"""Models from folders, the package or the hub, and checkpoints of them.

* :mod:`jaxinv.loading.find`: a name to a folder.
* :mod:`jaxinv.loading.load`: a folder to a model (``jaxinv.load``).
* :mod:`jaxinv.loading.checkpoint`: networks as Orbax checkpoints.
* :mod:`jaxinv.loading.convert`: diffusers' folders to such checkpoints.
"""
