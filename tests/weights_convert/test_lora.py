"""LoRA files in all naming styles change the parameters as diffusers' does."""

import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import save_file

import weights_convert
from jaxinv.models import UNet2DConditionConfig, UNet2DConditionModel
from jaxinv.models.parameters import parameters
from weights_convert import WeightsError
from weights_convert.lora import merge_lora
from weights_convert.single_file.names import original

STYLES = ("peft", "diffusers", "kohya")
#: Both sides sum a few products in float32, in another order.
TOLERANCE = 1e-6


def torch_parts():
    """Two random models of PyTorch, with every kind of layer that LoRA changes."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    config = transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=48,
        eos_token_id=49,
    )
    return {"unet": unet, "text_encoder": transformers.CLIPTextModel(config)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("lora")
    for name, part in torch_parts().items():
        part.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def ours(folder):
    return {
        name: weights_convert.load_component(folder / name)
        for name in ("unet", "text_encoder")
    }


# What diffusers' loader looks for in a text encoder.
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def layers(parts):
    """Shapes of the weights that may have a LoRA, by part and module."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [
        (part, name, tuple(module.weight.shape))
        for part, model in parts.items()
        for name, module in model.named_modules()
        if isinstance(module, kinds) and (part == "unet" or name.endswith(TEXT_LAYERS))
    ]


def random_lora(rng, chosen, style, dtype=np.float32):
    """Tensors of a file with random ranks (and an alpha, in Kohya's style)."""
    # One for the file, as trainings write it: diffusers 0.42 ignores that of an
    # attention layer which differs from most.
    alpha = rng.choice([0.5, 1.0, 3.0])
    tensors = {}
    for part, name, (outputs, inputs, *kernel) in chosen:
        rank = int(rng.integers(1, 4))
        down = rng.normal(size=(rank, inputs, *kernel))
        up = rng.normal(size=(outputs, rank, *[1] * len(kernel)))
        text = "text_model." if part == "text_encoder" else ""
        if style == "kohya":
            prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[part]
            stem = f"{prefix}_{text}{name}".replace(".", "_")
            tensors[f"{stem}.lora_down.weight"] = down
            tensors[f"{stem}.lora_up.weight"] = up
            tensors[f"{stem}.alpha"] = np.array(alpha)
            continue
        ends = {
            "peft": ("lora_A", "lora_B"),
            "diffusers": ("lora.down", "lora.up"),
        }[style]
        if style == "diffusers" and part == "text_encoder":
            ends = ("lora_linear_layer.down", "lora_linear_layer.up")
        for end, value in zip(ends, (down, up), strict=True):
            tensors[f"{part}.{text}{name}.{end}.weight"] = value
    return {key: value.astype(dtype) for key, value in tensors.items()}


def tiny_rest():
    """What pipelines of diffusers must have besides the parts that LoRA changes."""
    return {
        "vae": diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
        "tokenizer": None,
        "scheduler": diffusers.DDIMScheduler(),
    }


def stable_diffusion():
    return diffusers.StableDiffusionPipeline(
        **torch_parts(),
        **tiny_rest(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def fused_by_diffusers(pipe, files):
    """The changed parts of a pipeline after load_lora_weights and fuse_lora."""
    names = [f"adapter{i}" for i in range(len(files))]
    for name, (file, _) in zip(names, files, strict=True):
        pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    pipe.set_adapters(names, [scale for _, scale in files])
    parts = pipe._lora_loadable_modules
    pipe.fuse_lora(components=parts, adapter_names=names)
    pipe.unload_lora_weights()
    return {name: getattr(pipe, name) for name in parts}


def assert_same(found, wanted, original):
    """Parameters agree, relative to the RMS of each; those changed differ."""
    changed = 0
    for part in wanted:
        ours, theirs, first = (
            parameters(models[part]) for models in (found, wanted, original)
        )
        for path, value in theirs.items():
            value = np.asarray(value)
            scale = np.sqrt(np.mean(value**2)) + 1e-6
            error = np.abs(np.asarray(ours[path]) - value).max() / scale
            assert error < TOLERANCE, (part, path, error)
            changed += not np.array_equal(value, first[path])
    return changed


@pytest.mark.parametrize("seed", range(3))
def test_merged_parameters_are_those_of_fuse_lora(folder, ours, tmp_path, seed):
    rng = np.random.default_rng(seed)
    every = layers(torch_parts())
    files, touched = [], set()
    for i, style in enumerate(rng.permutation(STYLES)[: 1 + seed]):
        chosen = [every[k] for k in rng.choice(len(every), 12, replace=False)]
        # diffusers recognizes the style of a text encoder by this layer.
        (last,) = (e for e in every if e[1].endswith("1.self_attn.out_proj"))
        chosen = [e for e in chosen if e != last] + [last]
        touched |= {entry[:2] for entry in chosen}
        file = tmp_path / f"{i}.safetensors"
        save_file(random_lora(rng, chosen, style), file)
        files.append((file, float(rng.normal())))
    theirs = {}
    for name, part in fused_by_diffusers(stable_diffusion(), files).items():
        part.save_pretrained(tmp_path / name)
        theirs[name] = weights_convert.load_component(tmp_path / name)
    found = merge_lora(ours, files)
    assert assert_same(found, theirs, ours) == len(touched)


def test_the_alphas_that_diffusers_stores_in_the_metadata_are_used(
    folder, ours, tmp_path
):
    every = [entry for entry in layers(torch_parts()) if entry[0] == "unet"]
    chosen = [e for e in every if "to_q" in e[1] or "conv1" in e[1]]
    tensors = random_lora(np.random.default_rng(0), chosen, "peft")
    ranks = {k: len(v) for k, v in tensors.items() if "lora_A" in k}
    modules = {k.removeprefix("unet.").split(".lora")[0]: r for k, r in ranks.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers={
            key.removeprefix("unet."): torch.from_numpy(value)
            for key, value in tensors.items()
        },
        unet_lora_adapter_metadata={
            "r": 2,
            "rank_pattern": {f"^{name}": rank for name, rank in modules.items()},
            "lora_alpha": 5,
            "alpha_pattern": {"attn1.to_q": 3, f"^{chosen[-1][1]}": 1},
            "target_modules": list(modules),
        },
    )
    (file,) = tmp_path.glob("*.safetensors")
    fused = fused_by_diffusers(stable_diffusion(), [(file, 0.7)])["unet"]
    fused.save_pretrained(tmp_path / "unet")
    theirs = {"unet": weights_convert.load_component(tmp_path / "unet")}
    found = merge_lora(ours, [(file, 0.7)])
    assert assert_same(found, theirs, ours) == len(chosen)


def early_names(tensors):
    """The names that diffusers gave to attention layers before PEFT."""
    ends = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
    ends |= {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v"}
    ends |= {"out_proj": "to_out"}
    renamed = {}
    for key, value in tensors.items():
        for today, early in ends.items():
            middle = ".processor" if key.startswith("unet") else ""
            for kind in ("lora", "lora_linear_layer"):
                new = f"{middle}.{early}_lora."
                key = key.replace(f".{today}.{kind}.", new)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("style", [*STYLES, "early"])
def test_merging_adds_the_scaled_product_and_its_negative_takes_it_out(
    ours, tmp_path, style
):
    rng = np.random.default_rng(STYLES.index(style) if style in STYLES else 3)
    every = layers(torch_parts())
    chosen = [every[k] for k in rng.choice(len(every), 20, replace=False)]
    written = "diffusers" if style == "early" else style
    tensors = random_lora(rng, chosen, written, np.float16)
    if style == "early":
        tensors = early_names(tensors)
        assert any("processor.to_q_lora.up" in key for key in tensors)
    alphas = [key for key in tensors if key.endswith(".alpha")]
    for key in alphas:
        tensors[key] = np.array(rng.normal(), np.float16)
    file = tmp_path / "one.safetensors"
    save_file(tensors, file, metadata={"ss_network_dim": "not read"})

    before = {part: dict(parameters(module)) for part, module in ours.items()}
    merged = merge_lora(ours, [(file, -1.5)])
    shapes = {(part, name): shape for part, name, shape in chosen}
    factors = iter(tensors.items())
    expected = {}
    for part, name, _ in chosen:
        (_, down), (_, up) = next(factors), next(factors)
        alpha = next(factors)[1] if style == "kohya" else len(down)
        down, up = (x.astype(np.float64).reshape(len(x), -1) for x in (down, up))
        change = -1.5 * np.float64(alpha) / len(down) * up @ down
        expected[part, f"{name}.kernel"] = change.reshape(shapes[part, name])
    count = 0
    for part, module in merged.items():
        for path, value in parameters(module).items():
            first = before[part][path]
            if (part, path) not in expected:
                assert value is first, path
                continue
            change = expected[part, path]
            axes = (2, 3, 1, 0) if change.ndim == 4 else (1, 0)
            wanted = np.asarray(first, np.float64) + change.transpose(axes)
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)
            count += 1
    assert count == len(chosen)

    restored = merge_lora(merged, [(file, 1.5)])
    for part, module in restored.items():
        between = parameters(merged[part])
        for path, value in parameters(module).items():
            value, first = np.asarray(value), np.asarray(before[part][path])
            largest = max(np.abs(np.asarray(between[path])).max(), 1)
            bound = 4 * np.finfo(np.float32).eps * largest
            assert np.abs(value - first).max() <= bound, path
    for part, module in ours.items():
        now = parameters(module)
        assert all(now[path] is x for path, x in before[part].items())


def test_parameters_keep_their_type_and_are_rounded_once(folder, tmp_path):
    unet = weights_convert.load_component(folder / "unet", param_dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda x: np.asarray(x).astype(np.float32), unet)
    chosen = [("unet", "time_embedding.linear_1", (32, 8))]
    files = []
    for i in range(3):
        tensors = random_lora(np.random.default_rng(i), chosen, "peft")
        save_file(tensors, tmp_path / f"{i}.safetensors")
        files.append((tmp_path / f"{i}.safetensors", 1e-3))
    path = "time_embedding.linear_1.kernel"
    found = parameters(merge_lora({"unet": unet}, files)["unet"])[path]
    wanted = parameters(merge_lora({"unet": wide}, files)["unet"])[path]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, np.asarray(wanted).astype(jnp.bfloat16))


LAYER = "unet.mid_block.attentions.0.proj_in"
PAIR = {
    f"{LAYER}.lora_A.weight": np.ones((2, 16, 1, 1), np.float32),
    f"{LAYER}.lora_B.weight": np.ones((16, 2, 1, 1), np.float32),
}
KOHYA = "lora_unet_mid_block_attentions_0_proj_in"


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no tensors"),
        ({"unet.nowhere.lora_A.weight": ones(2, 3)}, r"'unet\.nowhere.*has no place"),
        (
            {"text_encoder_2.encoder.layers.0.mlp.fc1.lora_A.weight": ones(2, 8)},
            "has no place in this model: .* its text_encoder, unet",
        ),
        ({f"{LAYER}.weight": ones(16, 16)}, "is not part of a LoRA"),
        ({f"{LAYER}.lora_A.weight": ones(2, 16, 1, 1)}, "no counterpart.*factor B"),
        ({f"{LAYER}.lora_B.weight": ones(16, 2, 1, 1)}, "no counterpart.*factor A"),
        ({f"{LAYER}.alpha": ones()}, "no counterpart"),
        (
            PAIR | {f"{LAYER}.lora_A.weight": ones(2, 8, 1, 1)},
            r"lora_A.*has shape \(2, 8, 1, 1\).*\(2, 16, 1, 1\)",
        ),
        (
            PAIR | {f"{LAYER}.lora_A.weight": ones(3, 16, 1, 1)},
            r"lora_B.*has shape \(16, 2, 1, 1\).*\(16, 3, 1, 1\)",
        ),
        (PAIR | {f"{LAYER}.lora_A.weight": ones(0, 16, 1, 1)}, "lora_A.*rank"),
        (PAIR | {f"{LAYER}.alpha": ones(2)}, r"alpha.*\(2,\), but is one number"),
        (PAIR | {f"{LAYER}.alpha": np.full((), np.nan, np.float32)}, "alpha.*NaN"),
        (PAIR | {f"{LAYER}.lora_B.weight": np.ones((16, 2), np.int8)}, "I8"),
        (PAIR | {f"{KOHYA}.lora_down.weight": ones(2, 16)}, "the same layer"),
        (PAIR | {f"{LAYER}.lora_magnitude_vector.weight": ones(16)}, "DoRA"),
        ({f"{KOHYA}.dora_scale": ones(16)}, "DoRA, which is not implemented"),
        ({f"{KOHYA}.hada_w1_a": ones(16, 2)}, "LoHa, which is not implemented"),
        ({f"{KOHYA}.lokr_w1": ones(4, 4)}, "LoKr, which is not implemented"),
        ({f"{KOHYA}.lora_mid.weight": ones(2, 2, 3, 3)}, "LoCon with a third factor"),
    ],
)
def test_what_cannot_be_merged_is_named(ours, tmp_path, tensors, message):
    file = tmp_path / "bad.safetensors"
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=rf"bad\.safetensors.*{message}"):
        merge_lora(ours, [(file, 1.0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unet.use_dora": True}, "use_dora"),
        ({"unet.use_rslora": True}, "use_rslora"),
        ({"unet.lora_alpha": "4"}, "must be a number"),
        ({"unet.lora_alpha": 10**400}, "must be a number"),
        ({"unet.lora_alpha": float("inf")}, "must be a number"),
        ({"unet.alpha_pattern": {"(a+)+": 1}}, "alpha_pattern"),
        ([1], "not an object"),
    ],
)
def test_settings_of_peft_that_change_the_formula_are_refused(
    ours, tmp_path, settings, message
):
    file = tmp_path / "bad.safetensors"
    save_file(PAIR, file, {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(WeightsError, match=rf"bad\.safetensors.*{message}"):
        merge_lora(ours, [(file, 1.0)])


def test_pickles_missing_and_broken_files_and_scales_are_refused(ours, tmp_path):
    file = tmp_path / "style.pt"
    file.write_bytes(b"not opened")
    with pytest.raises(WeightsError, match=r"style\.pt is a pickle.*save_file"):
        merge_lora(ours, [(file, 1.0)])
    with pytest.raises(WeightsError, match="style is missing"):
        merge_lora(ours, [(tmp_path / "style", 1.0)])
    file = file.rename(tmp_path / "style.safetensors")
    with pytest.raises(WeightsError, match="truncated or corrupt"):
        merge_lora(ours, [(file, 1.0)])
    save_file(PAIR, file)
    for scale in (float("nan"), "1"):
        with pytest.raises(ValueError, match=r"scale of .* must be a finite number"):
            merge_lora(ours, [(file, scale)])
    narrow = {
        "unet": jax.tree.map(lambda x: np.asarray(x).astype(np.float16), ours["unet"])
    }
    with pytest.raises(WeightsError, match="too large for float16"):
        merge_lora(narrow, [(file, 1e5)])


def xl_parts():
    """SDXL's three models, tiny: added conditions, and a second text encoder."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )
    config = torch_parts()["text_encoder"].config
    second = transformers.CLIPTextModelWithProjection(config)
    first = transformers.CLIPTextModel(config)
    return {"unet": unet, "text_encoder": first, "text_encoder_2": second}


@pytest.mark.parametrize("seed", range(2))
def test_kohya_s_files_for_sdxl_name_layers_of_the_original_unet(tmp_path, seed):
    rng = np.random.default_rng(seed)
    parts = xl_parts()
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    before = {name: weights_convert.load_component(tmp_path / name) for name in parts}
    unet = [entry for entry in layers(parts) if entry[0] == "unet"]
    chosen = [unet[k] for k in rng.choice(len(unet), 30, replace=False)]
    chosen += [
        e
        for e in layers(parts)
        if e[0] != "unet" and e[1].endswith("self_attn.out_proj")
    ]
    tensors, alpha = {}, np.full((), 3.0, np.float32)
    for part, name, (outputs, inputs, *kernel) in chosen:
        if part == "unet":
            config = before["unet"].config
            name = original(f"{name}.weight", config).name.removesuffix(".weight")
            stem = f"lora_unet_{name}"
        else:
            number = 2 if part == "text_encoder_2" else 1
            stem = f"lora_te{number}_text_model_{name.removeprefix('text_model.')}"
        stem = stem.replace(".", "_")
        ones = [1] * len(kernel)
        down, up = rng.normal(size=(4, inputs, *kernel)), rng.normal(size=(outputs, 4))
        tensors[f"{stem}.lora_down.weight"] = down.astype(np.float32)
        tensors[f"{stem}.lora_up.weight"] = up.reshape(-1, 4, *ones).astype(np.float32)
        tensors[f"{stem}.alpha"] = alpha
    file = tmp_path / "xl.safetensors"
    save_file(tensors, file)
    pipe = diffusers.StableDiffusionXLPipeline(**parts, **tiny_rest(), tokenizer_2=None)
    fused = fused_by_diffusers(pipe, [(file, 0.6)])
    theirs = {}
    for name, part in fused.items():
        part.save_pretrained(tmp_path / f"fused_{name}")
        theirs[name] = weights_convert.load_component(tmp_path / f"fused_{name}")
    found = merge_lora(before, [(file, 0.6)])
    assert assert_same(found, theirs, before) == len(chosen)


def test_a_transformer_s_layers_are_named_like_those_of_a_unet(ours, tmp_path):
    """By PEFT with its own prefix, by Kohya with that of UNets."""
    module = {"transformer": ours["unet"]}
    merged = []
    for style in ("peft", "kohya"):
        new = {"A": "lora_down", "B": "lora_up"} if style == "kohya" else {}
        tensors = {}
        for role, value in zip("AB", PAIR.values(), strict=True):
            stem = KOHYA if new else LAYER.replace("unet.", "transformer.")
            tensors[f"{stem}.{new.get(role, f'lora_{role}')}.weight"] = value
        save_file(tensors, tmp_path / f"{style}.safetensors")
        file = tmp_path / f"{style}.safetensors"
        merged.append(parameters(merge_lora(module, [(file, 1.0)])["transformer"]))
    path = "mid_block.attentions.0.proj_in.kernel"
    change = np.asarray(merged[0][path]) - np.asarray(parameters(ours["unet"])[path])
    np.testing.assert_allclose(change, 2.0, atol=1e-6)
    np.testing.assert_array_equal(merged[0][path], merged[1][path])


def test_a_unet_with_a_layer_that_the_original_layout_lacks_takes_files(tmp_path):
    """A guidance scale is an input of LCM's UNets, which Kohya's names know as well."""
    config = UNet2DConditionConfig(
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        time_cond_proj_dim=6,
    )
    unet = UNet2DConditionModel(config, rngs=nnx.Rngs(0))
    factors = {"down": np.ones((1, 6)), "up": np.ones((8, 1))}
    for name in ("lora_unet_time_embedding_cond_proj", "unet.time_embedding.cond_proj"):
        dot = "." if name.startswith("unet") else "_"
        tensors = {f"{name}.lora{dot}{end}.weight": x for end, x in factors.items()}
        save_file({k: x.astype(np.float32) for k, x in tensors.items()}, tmp_path / "f")
        merged = merge_lora({"unet": unet}, [(tmp_path / "f", 2.0)])["unet"]
        path = "time_embedding.cond_proj.kernel"
        change = parameters(merged)[path] - parameters(unet)[path]
        np.testing.assert_allclose(change, 2.0, atol=1e-6)
