"""Editing: change a latent from what one prompt says to what another one says.

:func:`edit` samples the noise of an inversion with another prompt, and can freeze the
first steps and keep what is outside of a mask. :data:`METHODS` are published methods
that also share attention or features between source and target:

    inversion = ji.invert(sampler, pipe.denoiser(source), latent)
    edited = METHODS["prompt_swap"](pipe, sampler, inversion, source, target)

Two rivals do without this kind of inversion. :func:`edit_friendly` gives the methods
noises of DDPM inversion; :func:`flow_edit` needs none.
"""

from jaxinv.apps.editing.edit_friendly import EditFriendly, edit_friendly
from jaxinv.apps.editing.flow_edit import flow_edit
from jaxinv.apps.editing.masactrl import masactrl
from jaxinv.apps.editing.masked import Edit, edit
from jaxinv.apps.editing.method import Method, Share, Task, method
from jaxinv.apps.editing.methods import METHODS
from jaxinv.apps.editing.pair import (
    BRANCH,
    Moment,
    Sharing,
    pair_denoiser,
    sample_pair,
    steps_of,
)
from jaxinv.apps.editing.plug_and_play import plug_and_play
from jaxinv.apps.editing.prompt_swap import prompt_swap
from jaxinv.apps.editing.prompt_to_prompt import prompt_to_prompt
from jaxinv.apps.editing.value_sharing import value_sharing

__all__ = [
    "BRANCH",
    "METHODS",
    "Edit",
    "EditFriendly",
    "Method",
    "Moment",
    "Share",
    "Sharing",
    "Task",
    "edit",
    "edit_friendly",
    "flow_edit",
    "masactrl",
    "method",
    "pair_denoiser",
    "plug_and_play",
    "prompt_swap",
    "prompt_to_prompt",
    "sample_pair",
    "steps_of",
    "value_sharing",
]
