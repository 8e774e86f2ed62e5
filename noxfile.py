"""Other Pythons, and the oldest and newest versions of what jaxinv depends on.

    pip install nox uv
    nox                         # every Python that is installed, newest versions
    nox -s lowest               # every declared minimum, installed together

Sessions run the fast part of the suite: what reads files and arguments, the algebra of
samplers, plumbing with small networks. ``nox -s newest -- -n 2 tests jaxinv`` runs all.
"""

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["newest"]
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
FAST = (
    "tests/test_arguments.py",
    "tests/test_callables.py",
    "tests/scale/test_lanes.py",
    "tests/scale/test_memory.py",
    "tests/test_metrics.py",
    "tests/sampling/test_sampling.py",
    "tests/diffusion/test_schedule.py",
    "tests/samplers/test_table.py",
    "tests/fuzz",
    "tests/scale/jobs/test_job.py",
    "tests/scale/jobs/test_manifest.py",
    "tests/scale/jobs/test_reading.py",
    "tests/scale/jobs/test_settings.py",
    "tests/models/test_config.py",
    "tests/test_images.py",
    "tests/test_refusals.py",
    "tests/weights_convert/test_component.py",
)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """Run the fast tests on the newest versions of everything."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *(session.posargs or FAST))


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the fast tests on every declared minimum."""
    session.install("-e", ".[test]", "--resolution", "lowest-direct")
    session.run("python", "-m", "pytest", *(session.posargs or FAST))
