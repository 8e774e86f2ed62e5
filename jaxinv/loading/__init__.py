"""Loading of models from folders, this package or the hub, and checkpoints.

* :mod:`jaxinv.loading.find`: from a name to a folder.
* :mod:`jaxinv.loading.load`: from a folder to a model (``jaxinv.load``).
* :mod:`jaxinv.loading.checkpoint`: networks as Orbax checkpoints.
* :mod:`jaxinv.loading.convert`: from diffusers' folders to such checkpoints.
* :mod:`jaxinv.loading.lavie`: from LaVie's published weights to a folder.
"""
