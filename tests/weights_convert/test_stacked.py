"""Stacked blocks are files of separate tensors, whatever the network and its kinds."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from stacked_cases import drawn, drawn_lora, separate

import weights_convert
from jaxinv.loading import checkpoint
from jaxinv.models.parameters import parameters
from weights_convert import WeightsError
from weights_convert.lora import merge_lora

FILE = "diffusion_pytorch_model.safetensors"
SEEDS = range(4)


def arrays(model):
    return {path: np.asarray(x) for path, x in parameters(model).items()}


def assert_same(found, wanted, but=()):
    found, wanted = arrays(found), arrays(wanted)
    assert found.keys() == wanted.keys()
    for path in wanted:
        assert found[path].dtype == wanted[path].dtype
        if path not in but:
            np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stack_is_saved_as_separate_tensors_and_loaded_bit_for_bit(seed, tmp_path):
    dtype = [np.float32, ml_dtypes.bfloat16, np.float16][seed % 3]
    model = drawn(seed, dtype)
    weights_convert.save_component(model, tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / FILE)
    wanted = {name: block for name, _, _, block in separate(model)}
    assert tensors.keys() == wanted.keys()
    assert {k: x.shape for k, x in tensors.items()} == weights_convert.tensor_shapes(
        model.config
    )
    for name, x in tensors.items():
        assert x.dtype == dtype
        np.testing.assert_array_equal(x, wanted[name], err_msg=name)
    again = weights_convert.load_component(tmp_path / "saved", param_dtype=dtype)
    assert_same(again, model)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tensor_of_one_block_that_is_wrong_is_named(seed, tmp_path):
    model = drawn(seed)
    weights_convert.save_component(model, tmp_path)
    tensors = load_file(tmp_path / FILE)
    rng = np.random.default_rng(seed)
    blocks = [name for name in sorted(tensors) if "transformer_blocks." in name]
    name = blocks[rng.integers(len(blocks))]
    value = tensors.pop(name)
    last = max(int(re.search(r"blocks\.(\d+)", key)[1]) for key in blocks)
    beyond = re.sub(r"blocks\.\d+", f"blocks.{last + 1}", name)
    huge = np.full(value.shape, 1e38, np.float64) * 1e3
    for changed, kind in (
        ({}, f"tensor '{name}' of shape .* is missing"),
        ({name: value, beyond: value}, f"tensor '{beyond}' of shape .* has no place"),
        ({name: value[None]}, f"tensor '{name}' has shape .* requires"),
        ({name: value.astype(np.int32)}, f"tensor '{name}'"),
        ({name: huge}, f"tensor '{name}' has values too large"),
    ):
        save_file(tensors | changed, tmp_path / FILE)
        with pytest.raises(WeightsError, match=kind):
            weights_convert.load_component(tmp_path)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_checkpoint_of_stacks_is_the_same_and_has_plain_file_names(seed, tmp_path):
    model = drawn(seed, [np.float32, ml_dtypes.bfloat16][seed])
    checkpoint.save_component(model, tmp_path / "saved")
    dtype = next(iter(parameters(model).values())).dtype
    assert_same(checkpoint.load_component(tmp_path / "saved", param_dtype=dtype), model)
    # Some file systems and object stores have no colons, which the paths contain.
    names = [path.name for path in (tmp_path / "saved").rglob("*")]
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names), names


@pytest.mark.parametrize("style", ["peft", "kohya"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_lora_of_one_block_changes_exactly_that_block(seed, style, tmp_path):
    model = drawn(seed)
    lora = drawn_lora(model, seed, style)
    save_file(lora.tensors, tmp_path / "lora.safetensors")
    files = [(tmp_path / "lora.safetensors", 0.5)]
    merged = merge_lora({"transformer": model}, files)["transformer"]
    assert_same(merged, model, but=[lora.path])
    before, after = arrays(model)[lora.path], arrays(merged)[lora.path]
    wanted = before.copy()
    wanted[lora.block] += 0.5 * lora.change.T
    np.testing.assert_allclose(after[lora.block], wanted[lora.block], atol=1e-5)
    others = np.arange(len(before)) != lora.block
    np.testing.assert_array_equal(after[others], before[others])


def test_a_divided_stack_is_loaded_changed_and_called_like_one_on_one_device(tmp_path):
    """Two devices: a process of its own, since their number is fixed at JAX's start."""
    code = """
        import sys
        from pathlib import Path
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from safetensors.numpy import save_file
        from stacked_cases import call, drawn, drawn_lora
        import weights_convert
        from jaxinv.loading import checkpoint
        from jaxinv.mesh import make_mesh
        from jaxinv.models.parameters import parameters
        from jaxinv.paths import stacked_axes
        from weights_convert.lora import merge_lora

        folder = Path(sys.argv[1])
        mesh = make_mesh(2)

        def leading(path, shape):
            '''Divides the axis of the blocks, where it is even.'''
            even = stacked_axes(path) and shape[0] % 2 == 0
            return NamedSharding(mesh, P("model") if even else P())

        for seed in (0, 1):
            model = drawn(seed)
            weights_convert.save_component(model, folder / f"{seed}")
            checkpoint.save_component(model, folder / f"checkpoint-{seed}")
            lora = drawn_lora(model, seed, "peft", even=True)
            file = folder / f"{seed}.safetensors"
            save_file(lora.tensors, file)
            plain = weights_convert.load_component(folder / f"{seed}")
            outputs = [call(model, seed)]
            changed = merge_lora({"transformer": plain}, [(file, 0.5)])["transformer"]
            changed = parameters(changed)
            right = {path: np.asarray(x) for path, x in parameters(model).items()}
            plain_file, orbax = folder / f"{seed}", folder / f"checkpoint-{seed}"
            for load, where, rule in (
                (weights_convert.load_component, plain_file, mesh),
                (weights_convert.load_component, plain_file, leading),
                (checkpoint.load_component, orbax, [mesh, leading][seed]),
            ):
                found = load(where, sharding=rule)
                divided = 0
                for path, x in parameters(found).items():
                    assert np.array_equal(np.asarray(x), right[path]), path
                    part = x.addressable_shards[0].data.shape
                    divided += part != x.shape
                    if rule is mesh and stacked_axes(path):
                        assert part[0] == x.shape[0], path
                    elif stacked_axes(path):
                        assert (part[0] < x.shape[0]) == (x.shape[0] % 2 == 0)
                assert divided > 10, divided
                new = merge_lora({"transformer": found}, [(file, 0.5)])
                for path, x in parameters(new["transformer"]).items():
                    assert x.sharding == parameters(found)[path].sharding
                    x = np.asarray(x)
                    assert np.array_equal(x, np.asarray(changed[path])), path
                    same = np.array_equal(x, right[path])
                    assert same == (path != lora.path), path
                if where == plain_file and rule is mesh:
                    outputs.append(call(found, seed))
            size = np.abs(outputs[0]).max()
            assert np.abs(outputs[1] - outputs[0]).max() < 1e-5 * size
        print("ok")
    """
    cases = Path(__file__).parents[1] / "cases"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": os.pathsep.join([str(cases), *sys.path]),
    }
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "ok\n"
