"""Loading of models from folders, this package or the hub, and checkpoints.

* :mod:`jaxinv.loading.find`: from a name to a folder or file.
* :mod:`jaxinv.loading.load`: from there to a model (``jaxinv.load``).
* :mod:`jaxinv.loading.source`: what is read, which
  :mod:`jaxinv.loading.folder` and :mod:`jaxinv.loading.single_file` make.
* :mod:`jaxinv.loading.vae`: another autoencoder.
* :mod:`jaxinv.loading.checkpoint`: networks as Orbax checkpoints.
* :mod:`jaxinv.loading.convert`: from diffusers' folders to such checkpoints.
* :mod:`jaxinv.loading.lavie`: from LaVie's published weights to a folder.
"""
