"""The pieces that train the flow of the SD3 kind."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import logit
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.flows.problems import EMOJI64
from training.flow_folder import write_text_encoders
from training.flow_folds import BOUND, GUIDANCE, STEP, flow_fold_penalty
from training.train_flow import (
    LOGIT_MEAN,
    LOGIT_STD,
    TextStates,
    draw_times,
    make_network,
    velocity,
)


def test_times_have_the_stated_distribution():
    rng = np.random.default_rng(0)
    times = np.array([draw_times(rng, 64).numpy() for _ in range(200)], np.float64)
    # One of every eighth of [0, 1], and logits of the stated mean and deviation.
    assert (np.floor(8 * times[:, :8]) == np.arange(8)).all()
    logits = logit(times[:, 8:])
    assert np.mean(logits) == pytest.approx(LOGIT_MEAN, abs=0.01)
    assert np.std(logits) == pytest.approx(LOGIT_STD, rel=0.02)


def test_the_text_of_the_network_is_that_of_both_layers(tmp_path):
    write_text_encoders(EMOJI64, tmp_path)
    trained = CLIPTextModel.from_pretrained(EMOJI64 / "text_encoder").float()
    second = CLIPTextModelWithProjection.from_pretrained(tmp_path / "text_encoder_2")
    assert second.config.num_hidden_layers == trained.config.num_hidden_layers + 1
    ids = torch.randint(0, trained.config.eos_token_id, (2, 24))
    ids[:, 9:] = trained.config.eos_token_id
    with torch.no_grad():
        expected = trained(ids, output_hidden_states=True)
    states, pooled = TextStates(tmp_path)(ids)
    assert torch.equal(states, torch.cat(expected.hidden_states[-2:], -1))
    assert torch.equal(pooled, expected.pooler_output.repeat(1, 2))


def test_the_network_starts_from_no_velocity():
    text = torch.randn(2, 24, 256), torch.randn(2, 256)
    found = velocity(
        make_network(), torch.randn(2, 4, 16, 16), torch.tensor([0.1, 0.9]), text
    )
    assert found.shape == (2, 4, 16, 16)
    assert not found.any()


@pytest.mark.parametrize("seed", range(3))
def test_folds_of_a_flow_are_found_where_guidance_stretches_most(seed):
    rng = np.random.default_rng(seed)
    where = (slice(None), *(int(rng.integers(size)) for size in (4, 16, 16)))
    more = torch.tensor(float(rng.uniform(0.4, 1.0)), requires_grad=True)

    def both(x: torch.Tensor, t: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        added = torch.zeros_like(x)
        added[where] = x[where]
        has_text = (torch.arange(len(x)) < len(x) // 2)[:, None, None, None]
        return x + has_text * more * added

    latent = torch.randn(2, 4, 16, 16)
    generator = torch.Generator().manual_seed(seed)
    penalty, largest = flow_fold_penalty(partial(both, more=more), latent, generator)
    # The derivative of the guided velocity is 1 + 7 more along that number.
    expected = STEP * (1 + GUIDANCE * more.detach())
    assert torch.allclose(largest, expected.expand(2), rtol=1e-3)
    excess = (expected - BOUND).clamp(min=0)
    assert torch.allclose(penalty, excess.square(), rtol=1e-2, atol=1e-6)
    penalty.backward()
    assert (more.grad > 0) == bool(excess > 0)
