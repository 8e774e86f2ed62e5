"""The accelerator benchmark counts truly, compares like with like, and reports all."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accelerator import __main__ as accelerator
from benchmarks.accelerator import flops as accelerator_flops
from benchmarks.accelerator.flops import peak_flops, product_flops
from benchmarks.accelerator.jax_calls import call, call_flops, ways
from benchmarks.accelerator.model import (
    SIZES,
    jax_network,
    make_inputs,
    torch_network,
)
from benchmarks.accelerator.tables import report
from benchmarks.accelerator.torch_calls import Call, tensors
from jaxinv.models import abstract_component

F32 = jnp.dtype("float32")
SMALL = SIZES["sd21"][1]
# As few layers as there can be: compiling them is what takes the time.
TINY = SMALL._replace(
    name="tiny",
    config=dataclasses.replace(
        SMALL.config,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        attention_head_dim=2,
        cross_attention_dim=16,
    ),
    latent=8,
    tokens=5,
)


def tiny(name):
    """Return the least network of a kind."""
    if name == "sd21":
        return TINY
    size = SIZES[name][1]
    layers = {"num_layers": 1, "num_single_layers": 1, "dual_attention_layers": ()}
    fields = {field.name for field in dataclasses.fields(size.config)}
    config = dataclasses.replace(
        size.config, **{key: value for key, value in layers.items() if key in fields}
    )
    return size._replace(config=config, latent=8, tokens=5)


def test_operations_are_those_that_pytorch_counts():
    abstract = abstract_component(SMALL.config)
    found = {guided: call_flops(SMALL, abstract, guided) for guided in (False, True)}
    network = torch_network(SMALL, torch.float32, "cpu")
    given = tensors(make_inputs(SMALL, 1), "cpu", torch.float32)
    wanted = {}
    for guided in (False, True):
        # PyTorch counts attention on a CPU only where it is made of matrix products.
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            Call(network, SMALL.kind, guided)(*given)
        wanted[guided] = counter.get_total_flops()
    assert abs(found[False] - wanted[False]) < 0.01 * wanted[False]
    # Guided, the two branches share here what comes before the text.
    assert wanted[True] == 2 * wanted[False]
    assert 0.9 * wanted[True] < found[True] < wanted[True]


def test_products_in_loops_are_counted_as_often_as_they_run():
    x = jnp.ones((3, 4, 4))
    one = 2 * 4**3

    def scan(x):
        return jax.lax.scan(lambda y, a: (y @ a, None), x[0], x)[0]

    assert product_flops(scan, x) == 3 * one
    assert product_flops(jax.vmap(jnp.matmul), x, x) == 3 * one
    assert product_flops(jax.jit(lambda x: jnp.sum(x) * x), x) == 0

    def unknown(x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 5, lambda y: y @ y, x[0])

    with pytest.raises(ValueError, match="loop of unknown length"):
        product_flops(unknown, x)


def test_the_peak_is_the_datasheets_or_measured(monkeypatch):
    found, source = peak_flops(jnp.float32)
    assert source == "measured"
    assert 1e8 < found < 1e15
    kind = jax.devices()[0].device_kind
    monkeypatch.setitem(accelerator_flops.PEAKS, kind, (3.0, 2.0))
    assert peak_flops(jnp.float32) == (2e12, "datasheet")
    assert peak_flops(jnp.bfloat16) == (3e12, "datasheet")


@pytest.mark.parametrize("name", SIZES)
def test_every_network_is_the_same_in_both_frameworks(name):
    size = tiny(name)
    network = torch_network(size, torch.float32, "cpu")
    given = make_inputs(size, 2)
    with torch.no_grad():
        right = Call(network, size.kind, False)(*tensors(given, "cpu", torch.float32))
    found = jax.jit(functools.partial(call, False))(jax_network(size, F32), given)
    right = right.permute(0, 2, 3, 1).numpy()
    assert found.shape == right.shape == given.x.shape
    assert np.linalg.norm(found - right) < 1e-4 * np.linalg.norm(right)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_can_be_called_by_shape(name):
    size = SIZES[name][0]
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _few(size))
    network = abstract_component(size.config)
    out = jax.eval_shape(functools.partial(call, False), network, inputs)
    assert out.shape == inputs.x.shape


def _few(size):
    """Return inputs at a fraction of the size; shapes do not depend on it."""
    return make_inputs(size._replace(latent=8, tokens=5), 1)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The cells and the table of one tiny run."""
    out = tmp_path_factory.mktemp("accelerator") / "table.md"
    arguments = "--small --models sd21 --dtype float32 --batch 1 --steps 3 --rows 3"
    arguments += " --repeats 1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(accelerator.SIZES, "sd21", (TINY, TINY))
        accelerator.main([*arguments.split(), "--torch", "eager", "--out", str(out)])
    lines = (out.parent / "table-cells.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], out.read_text()


def test_both_frameworks_make_the_same_call(outcome):
    differences = [cell["to_torch"] for cell in outcome[0] if "to_torch" in cell]
    assert len(differences) == 2
    assert 0 < max(differences) < 1e-5


def test_the_table_has_every_row(outcome):
    cells, text = outcome
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    names = [(row[0].removeprefix("| "), row[1]) for row in rows]
    assert names == [
        ("framework", "guided"),
        ("JAX, xla", "no"),
        ("PyTorch, eager", "no"),
        ("JAX, xla", "yes"),
        ("PyTorch, eager", "yes"),
        ("strategy, sampler", "framework"),
        ("naive, DDIM", "JAX, xla"),
        ("stepwise, DDIM", "JAX, xla"),
        ("trajectory, DPM-Solver++(2M)", "JAX, xla"),
    ]
    assert "and say nothing about accelerators" in text
    assert all(cell["seconds"] > 0 for cell in cells)
    evaluations = {cell["what"]: cell.get("evaluations") for cell in cells}
    # With the way back: as many steps of the sampler as there are.
    assert evaluations["naive, DDIM"] == 3 + 3
    assert evaluations["stepwise, DDIM"] >= 2 * 3 + 3
    calls = {cell["guided"]: cell["flops"] for cell in cells if "to_torch" in cell}
    naive = next(cell for cell in cells if cell["what"].startswith("naive"))
    assert naive["flops"] == 6 * calls[True]
    for cell in cells:
        if "flops" in cell and cell["what"] == "call":
            # XLA also counts what is no product; and it may merge or drop some.
            assert 0.9 < cell["xla_flops"] / cell["flops"] < 1.5


def test_what_could_not_be_measured_is_in_the_table_with_its_reason():
    cell = {
        "device": "NVIDIA H200",
        "size": TINY.name,
        "dtype": "bfloat16",
        "made": "Made by hand.",
        "what": "call",
        "framework": "PyTorch, default",
        "guided": False,
        "batch": 1,
        "reason": "no compiler",
    }
    inversion = {"what": "naive, DDIM", "framework": "JAX, xla", "steps": 20}
    text = report([cell, cell | inversion | {"reason": "out of memory"}])
    assert "| PyTorch, default | no | 1 | not measured: no compiler | - |" in text
    assert "| naive, DDIM | JAX, xla | 1 | 20 | not measured: out of memory |" in text
    assert "say nothing" not in text  # it is no CPU
    assert "not run" not in text
    assert "not run" in report([cell | {"device": "cpu", "load": 0.5}])


def test_a_batch_that_does_not_fit_is_a_row_and_not_the_end():
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such kernel")

    assert accelerator.fitting(full, 1) == {"reason": "out of memory"}
    with pytest.raises(jax.errors.JaxRuntimeError, match="no such kernel"):
        accelerator.fitting(broken, 1)


def test_inputs_of_a_smaller_batch_are_those_of_a_larger_one():
    pairs = zip(make_inputs(TINY, 2), make_inputs(TINY, 3), strict=True)
    for few, many in pairs:
        np.testing.assert_array_equal(few, many[: len(few)])


def test_flows_are_inverted_along_their_own_sampler():
    assert [name.split(", ")[1] for name in ways(SIZES["flux"][1], 4, 2)] == [
        "Euler"
    ] * 3


def test_bad_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        accelerator.arguments_of(["--batch", "0"])
    assert "--batch must be positive" in capsys.readouterr().err
