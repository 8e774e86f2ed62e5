"""The editing methods, by name."""

from collections.abc import Mapping

from jaxinv.apps.editing.masactrl import masactrl
from jaxinv.apps.editing.method import Method
from jaxinv.apps.editing.plug_and_play import plug_and_play
from jaxinv.apps.editing.prompt_swap import prompt_swap
from jaxinv.apps.editing.prompt_to_prompt import prompt_to_prompt
from jaxinv.apps.editing.value_sharing import value_sharing

#: All editing methods. Each is called as ``method(pipe, sampler, inversion, source,
#: target, guidance_scale=..., **options)``; see :class:`Method`.
METHODS: Mapping[str, Method] = {
    each.name: each
    for each in (
        prompt_swap,
        prompt_to_prompt,
        masactrl,
        plug_and_play,
        value_sharing,
    )
}
