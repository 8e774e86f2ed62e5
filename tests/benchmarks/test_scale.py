"""The scale benchmark's claims, at reduced size: many devices, processes and lanes."""

import pytest

from benchmarks.scale import __main__ as scale
from benchmarks.scale_batching import __main__ as scale_batching
from benchmarks.scale_devices import __main__ as scale_devices
from benchmarks.scale_processes import __main__ as scale_processes


@pytest.fixture(scope="module")
def devices():
    """Measured in a process that has eight virtual devices."""
    return scale_devices.in_other_process(small=True)


def test_eight_devices_find_what_one_finds(devices):
    found = devices["programs"]["data parallel"]
    assert found["noise"] < 1e-5
    assert found["residual"] < 1e-5
    assert found["same evaluations"]


def test_devices_do_not_talk_to_one_another(devices):
    programs = devices["programs"]
    assert programs["data parallel"]["collectives"] == 0
    # The same under jit alone has the stopping predicates of its loops, which proves
    # that the count finds what there is.
    assert programs["jit"]["collectives in loops"] >= 1
    # A device does for each of its samples what a single one would.
    assert programs["data parallel"]["flops"] == pytest.approx(
        devices["one"]["flops"], rel=1e-3
    )


def test_parameters_in_two_parts_take_half_of_a_device(devices):
    found, whole = devices["programs"]["parameters in two parts"], devices["one"]
    assert found["parameter bytes"] == whole["parameter bytes"] / 2
    assert found["noise"] < 1e-4
    assert found["residual"] < 1e-5
    # The partitioner divides the work, too.
    assert found["flops"] < 0.55 * whole["flops"]


def test_two_processes_do_one_job(diffusers_folder, tmp_path):
    found = scale_processes.measure(tmp_path, str(diffusers_folder), 32, 16)
    assert found["shares"] == {"00000": 8, "00001": 8}
    assert found["once"]
    assert found["same certificates"]
    assert found["identical"]
    assert found["finite"]
    assert "yes" in scale_processes.section(found)


def test_continuous_batching_is_counted(tiny):
    found = scale_batching.measure(tiny, count=16, repeats=1)
    assert found["same evaluations"]
    assert found["difference"] < 1e-3
    low, high = found["range"]
    assert low <= found["needed"] <= found["vmap"] <= high
    assert found["needed"] <= found["continuous"]
    # Levels and iterations are one loop: nobody waits at a level.
    assert found["vmap"] <= found["levels in turn"]
    assert "`invert_stream`" in scale_batching.section(found)


def test_collectives_are_found_in_loops_only_where_they_are():
    program = """\
HloModule m
%body (p: f32[]) -> f32[] {
  ROOT %r = f32[] fusion(%p), calls=%inner
}
%inner (p: f32[]) -> f32[] {
  ROOT %a = f32[] all-reduce(%p), to_apply=%sum
}
%cond (p: f32[]) -> pred[] {
  ROOT %c = pred[] constant(false)
}
ENTRY %main (p: f32[]) -> f32[] {
  %g = f32[2]{0} all-gather(%p), dimensions={0}
  ROOT %w = f32[] while(%p), condition=%cond, body=%body
}
"""
    bodies = scale_devices.computations(program)
    inside = scale_devices.reached(bodies, scale_devices.loops(bodies))
    assert inside == {"body", "inner", "cond"}
    assert sum(scale_devices.collectives(bodies[name]) for name in inside) == 1
    assert sum(map(scale_devices.collectives, bodies.values())) == 2


def test_a_report_keeps_the_sections_that_are_not_run_again(tmp_path):
    sections = {scale_devices.TITLE: "devices\n\n| a |", scale_batching.TITLE: "lanes"}
    path = tmp_path / "scale.md"
    path.write_text(scale.report(sections))
    assert scale.read(path) == sections
