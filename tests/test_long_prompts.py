"""Prompts longer than a text encoder reads, in chunks."""

import warnings

import diffusers
import jax
import numpy as np
import pytest
import torch
from cli_cases import OK, only_json, run
from sdxl_cases import run_pipeline, write_sdxl_pipeline

import jaxinv as ji

SIZE = 14  # tokens of a chunk of the tiny models, without start and end
SHORT, LONG = "red a", "red a b c d e f g h i j k l m n o p q"


def ids_of(tokenizer, prompt):
    return tokenizer(prompt)["input_ids"]


@pytest.fixture(scope="module")
def theirs(diffusers_folder):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(diffusers_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def two(tiny):
    return tiny.with_chunks(2)


def by_hand(pipe, prompt, chunks, part="tokenizer", encoder="text_encoder"):
    """Ids and outputs of PyTorch's text encoder, chunk by chunk."""
    tokenizer = getattr(pipe, part)
    words = ids_of(tokenizer, prompt)[1:-1]
    pad = ids_of(tokenizer, "")
    rows = []
    for i in range(chunks):
        row = [pad[0], *words[SIZE * i : SIZE * (i + 1)], pad[1]]
        rows.append(row + [tokenizer.pad_token_id] * (SIZE + 2 - len(row)))
    with torch.no_grad():
        outputs = [
            getattr(pipe, encoder)(torch.tensor([row]), output_hidden_states=True)
            for row in rows
        ]
    return [number for row in rows for number in row], outputs


@pytest.mark.parametrize("seed", range(3))
def test_chunks_hold_the_tokens_of_any_prompt_in_order(tiny, theirs, seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        words = rng.choice(["red", "a", "!", "x"], rng.integers(0, 60))
        prompt = " ".join(words)
        chunks = tiny.num_chunks(prompt)
        assert SIZE * (chunks - 1) < max(len(words), 1) <= SIZE * chunks
        with warnings.catch_warnings(action="error", category=UserWarning):
            found = tiny.with_chunks(chunks).tokenize(prompt)
            more = tiny.with_chunks(chunks + 1).tokenize(prompt)
        wanted, _ = by_hand(theirs, prompt, chunks)
        assert found.tolist() == wanted
        assert more.tolist() == wanted + tiny.tokenize("").tolist()


def test_a_prompt_that_is_longer_than_its_chunks_is_cut_with_a_warning(tiny, two):
    with pytest.warns(UserWarning, match=r"only 16: the rest has no effect \(2 chunks"):
        cut = tiny.tokenize(LONG)
    assert cut.tolist()[:-1] == two.tokenize(LONG).tolist()[:15]
    with pytest.warns(UserWarning, match="only 2 chunks of 16: the rest"):
        assert len(two.tokenize(f"{LONG} {LONG}")) == 32


def test_a_guided_trajectory_is_that_of_diffusers_with_the_same_vectors(two, theirs):
    prompts = LONG, SHORT
    vectors = []
    for prompt in prompts:
        _, outputs = by_hand(theirs, prompt, 2)
        vectors.append(torch.cat([each.last_hidden_state for each in outputs], dim=1))
        found = two.encode_prompt(prompt)
        np.testing.assert_allclose(found, vectors[-1][0], atol=1e-5)
    noise = np.random.default_rng(0).standard_normal(two.latent_shape).astype("f")
    wanted = run_pipeline(
        theirs,
        noise,
        prompt_embeds=vectors[0],
        negative_prompt_embeds=vectors[1],
        guidance_scale=4.0,
        num_inference_steps=2,
    )

    @jax.jit
    def ours(denoise):
        return ji.sample(two.sampler(2), denoise, noise)

    rms = np.sqrt(np.mean(wanted**2))
    found = ours(two.denoiser(*prompts, 4.0))
    assert np.abs(np.asarray(found) - wanted).max() < 1e-4 * rms
    other = ours(two.denoiser(SHORT, SHORT, 4.0))
    assert np.abs(np.asarray(other) - wanted).max() > 1e-3 * rms


def test_both_encoders_of_sdxl_read_chunks_and_the_first_is_pooled(tmp_path):
    write_sdxl_pipeline(tmp_path / "xl")
    pipe = ji.load(tmp_path / "xl").with_chunks(2)
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(
        tmp_path / "xl", add_watermarker=False
    )
    _, first = by_hand(theirs, LONG, 2)
    ids, second = by_hand(theirs, LONG, 2, "tokenizer_2", "text_encoder_2")
    assert pipe.tokenize(LONG, 1).tolist() == ids
    wanted = [
        torch.cat([each.hidden_states[-2] for each in both], dim=-1)[0]
        for both in zip(first, second, strict=True)
    ]
    found = pipe.encode_prompt(LONG)
    np.testing.assert_allclose(found.text, torch.cat(wanted), atol=1e-5)
    np.testing.assert_allclose(found.pooled, second[0].text_embeds[0], atol=1e-5)
    assert not np.any(pipe.encode_prompt("", negative=True).text)


def test_chunks_that_make_no_sense_are_refused(tiny):
    with pytest.raises(ValueError, match="chunks"):
        tiny.with_chunks(0)
    with pytest.raises(ValueError, match="prompt must be a string"):
        tiny.num_chunks(3)


def test_the_command_line_reads_long_prompts(diffusers_folder, tmp_path):
    command = (
        "sample", "--model", diffusers_folder, "--prompt", LONG, "--steps", 2,
        "--guidance", 1, "--out", tmp_path / "a.png", "--json",
    )  # fmt: skip
    with warnings.catch_warnings(action="error", category=UserWarning):
        result = run(*command, "--prompt-chunks", 2)
    assert result.exit_code == OK, result.output
    assert only_json(result)["prompt_chunks"] == 2
