"""How the embedded model ``emoji64`` is made: PyTorch, diffusers, one CPU.

Nothing here is needed to run ``jaxinv``; see ``training/README.md``.
"""
