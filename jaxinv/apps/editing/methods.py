"""The editing methods, by name."""

from collections.abc import Mapping

from jaxinv.apps.editing.method import Method
from jaxinv.apps.editing.prompt_swap import prompt_swap

#: All editing methods. Each is called as ``method(pipe, sampler, inversion, source,
#: target, guidance_scale=..., **options)``; see :class:`Method`.
METHODS: Mapping[str, Method] = {each.name: each for each in (prompt_swap,)}
