"""``pipe.sampler`` beside diffusers' own pipelines, which call their schedulers.

The pipelines of FLUX and SD3 run as they are, with a formula in place of their
transformers. What they pass to the scheduler (``sigmas``, ``mu``) is theirs.
"""

import dataclasses
import json

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxinv as ji
from benchmarks.schedules.compare import TOLERANCE

FLOW_MATCH = "FlowMatchEulerDiscreteScheduler"
FLUX, SD3 = "FluxPipeline", "StableDiffusion3Pipeline"
#: FLUX.1-dev, FLUX.1-schnell, Stable Diffusion 3 and 3.5, and two options of the class.
DEV = {
    "_class_name": FLOW_MATCH,
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
SCHNELL = DEV | {"shift": 1.0, "use_dynamic_shifting": False}
SD35 = {"_class_name": FLOW_MATCH, "num_train_timesteps": 1000, "shift": 3.0}
CONFIGS = {
    "dev": DEV,
    "schnell": SCHNELL,
    "sd3": SD35,
    "linear": DEV | {"time_shift_type": "linear"},
    "terminal": DEV | {"shift_terminal": 0.02},
    "other range": DEV | {"base_shift": 0.3, "max_image_seq_len": 1024},
    "karras": SCHNELL | {"use_karras_sigmas": True},
    "unipc": {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "use_dynamic_shifting": True,
    },
}
#: (height, width) of the latents.
SIZES = [(16, 16), (24, 40), (6, 4)]


def network(xp, x, t):
    """A smooth nonlinear stand-in for a network, in any array library."""
    return 0.8 * xp.tanh(1.3 * x + 0.3) + 0.2 * xp.sin(2.0 * x + 0.004 * t)


def stand_in(model, forward):
    """A small transformer of diffusers whose output is a formula."""
    model.forward = forward
    return model


def flux(scheduler):
    """FLUX's pipeline, and its arguments beside sizes and steps."""
    transformer = stand_in(
        diffusers.FluxTransformer2DModel(
            in_channels=64, num_layers=0, num_single_layers=0, attention_head_dim=16,
            num_attention_heads=1, joint_attention_dim=8, pooled_projection_dim=8,
            axes_dims_rope=(4, 6, 6),
        ),
        lambda hidden_states, timestep, **_: (
            network(torch, hidden_states, 1000 * timestep[0]),
        ),
    )  # fmt: skip
    none = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    )
    pipe = diffusers.FluxPipeline(scheduler=scheduler, transformer=transformer, **none)
    given = {"prompt_embeds": torch.zeros(1, 2, 8)}
    return pipe, given | {"pooled_prompt_embeds": torch.zeros(1, 8)}


def sd3(scheduler):
    """Stable Diffusion 3's pipeline, unguided, and its arguments."""
    transformer = stand_in(
        diffusers.SD3Transformer2DModel(
            sample_size=16, num_layers=1, attention_head_dim=8, num_attention_heads=1,
            joint_attention_dim=8, pooled_projection_dim=8, caption_projection_dim=8,
            pos_embed_max_size=16,
        ),
        lambda hidden_states, timestep, **_: (
            network(torch, hidden_states, timestep[0]),
        ),
    )  # fmt: skip
    none = dict.fromkeys(
        f"{part}{number}"
        for part in ("text_encoder", "tokenizer")
        for number in ("", "_2", "_3")
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        scheduler=scheduler, transformer=transformer, vae=None, **none
    )
    given = {"prompt_embeds": torch.zeros(1, 2, 8), "guidance_scale": 1.0}
    return pipe, given | {"pooled_prompt_embeds": torch.zeros(1, 8)}


def theirs(pipeline, config, steps, latent_size, noise):
    """All states of diffusers' pipeline, the noise last."""
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    pipe, given = {FLUX: flux, SD3: sd3}[pipeline](scheduler)
    pipe.set_progress_bar_config(disable=True)
    states = [torch.from_numpy(noise)]

    def keep(_pipe, _step, _time, values):
        states.append(values["latents"])
        return values

    height, width = (8 * each for each in latent_size)
    pipe(
        **given, height=height, width=width, num_inference_steps=steps,
        latents=states[0], output_type="latent", callback_on_step_end=keep,
    )  # fmt: skip
    return torch.stack(states[::-1]).numpy()


def model(tiny, pipeline, config):
    """The small model as if a folder had this pipeline and this scheduler."""
    return dataclasses.replace(
        tiny,
        schedule=ji.flow_matching(),
        scheduler=json.dumps(config),
        pipeline=pipeline,
    )


def trajectory(table, noise):
    """Every state of a table with the formula as its network, the noise last."""
    denoise = ji.as_denoiser(lambda x, t: network(jnp, x, t), ji.flow_matching())
    return np.asarray(ji.sample_trajectory(table, denoise, noise))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pipeline", [FLUX, SD3])
def test_a_flow_s_pipeline_takes_these_steps(tiny, pipeline, name, size):
    config = CONFIGS[name]
    shape = (1, size[0] * size[1] // 4, 64) if pipeline == FLUX else (1, 16, *size)
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    pipe = model(tiny, pipeline, config)
    pixels = (size[0] * pipe.factor, size[1] * pipe.factor)
    for steps in (1, 4, 13):
        if config.get("shift_terminal") and steps == 1:
            with pytest.raises(ValueError, match="NaN"):
                pipe.sampler(steps, pixels)
            continue
        expected = theirs(pipeline, config, steps, size, noise)
        # Formulas act on each element alone: a few of them are enough.
        few = expected.reshape(len(expected), -1)[:, :64]
        ours = trajectory(pipe.sampler(steps, pixels), few[-1])
        assert ours.shape == few.shape
        assert np.abs(ours - few).max() < TOLERANCE * np.sqrt(np.mean(few**2))


def test_the_image_size_is_the_model_s_unless_it_is_given(tiny):
    pipe = model(tiny, FLUX, DEV)
    height, width = pipe.image_size
    large = (8 * height, 8 * width)
    for ours, expected in (
        (pipe.sampler(5), pipe.sampler(5, pipe.image_size)),
        (pipe.at_size(large).sampler(5), pipe.sampler(5, large)),
    ):
        np.testing.assert_array_equal(ours.model_time, expected.model_time)
    # A larger image needs more noise.
    small, shifted = pipe.sampler(5).model_time, pipe.sampler(5, large).model_time
    assert np.all(shifted[1:-1] > small[1:-1])


@pytest.mark.parametrize(
    "given",
    [
        {"sigmas": [1.0, 0.7, 0.2]},
        {"mu": 0.9},
        {"sigmas": [1.0, 0.7, 0.2], "mu": 0.9},
        {"timesteps": [1000.0, 600.0, 10.0]},
    ],
)
def test_explicit_arguments_win(tiny, given):
    pipe = model(tiny, FLUX, DEV)
    # 64 tokens, on the line through (256, 0.5) and (4096, 1.15).
    passed = {"mu": 0.4675, "sigmas": np.linspace(1, 1 / 3, 3)}
    if "timesteps" in given:
        del passed["sigmas"]
    expected = ji.sampler_from_diffusers(DEV, 3, **(passed | given))
    table = pipe.sampler(3, (64, 64), **given)
    np.testing.assert_array_equal(table.model_time, expected.model_time)


def test_a_pipeline_of_stable_diffusion_passes_nothing(tiny):
    config = json.loads(tiny.scheduler)
    table = tiny.sampler(30, (64, 32))
    expected = ji.sampler_from_diffusers(config, 30)
    np.testing.assert_array_equal(table.model_time, expected.model_time)


def test_a_pipeline_that_is_not_known_is_refused_for_flows_only(tiny):
    pipe = model(tiny, "OtherPipeline", SD35)
    with pytest.raises(ValueError, match=r"'OtherPipeline' passes.*pass sigmas"):
        pipe.sampler(3)
    assert pipe.sampler(3, sigmas=[1.0, 0.5, 0.1]).num_steps == 3
    other = dataclasses.replace(tiny, pipeline="OtherPipeline")
    assert other.sampler(30).num_steps == 30


@pytest.mark.parametrize("scheduler", ["config.json", {"_class_name": "PNDMScheduler"}])
def test_a_scheduler_in_the_place_of_the_image_size_is_refused(tiny, scheduler):
    with pytest.raises(ValueError, match="image_size must be a tuple of 2"):
        tiny.sampler(20, scheduler)


def test_a_size_that_the_autoencoder_does_not_make_is_refused(tiny):
    for size in ((33, 32), (0, 32), (32, -4)):
        with pytest.raises(ValueError, match="must be multiples of 4"):
            tiny.sampler(20, size)
        with pytest.raises(ValueError, match="must be multiples of 4"):
            tiny.at_size(size)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base_shift": None}, "base_shift"),
        ({"max_image_seq_len": 256}, "must differ"),
        ({"time_shift_type": "cubic"}, "time_shift_type"),
        ({"invert_sigmas": True}, "invert_sigmas"),
    ],
)
def test_dynamic_shifts_that_have_no_meaning_are_refused(tiny, changed, message):
    with pytest.raises(ValueError, match=message):
        model(tiny, FLUX, DEV | changed).sampler(3)
