"""The programs that tests compile: how they are compiled, shared, counted and dropped.

Nearly all of a run's time is compiling. Tests therefore compile with less optimization
than users do: in a third of the time, to programs that take half as long again to run.
Tests whose claim depends on what a user's compiler does (bits that must come back, the
same bits from two programs, bytes of memory) are marked ``users_compiler`` and compile
with XLA's own defaults.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# --- how programs are compiled ------------------------------------------------------

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
FLAGS = "XLA_FLAGS"


def known(key, value):
    """Whether this version of XLA has an option."""
    import jax

    try:
        jax.jit(lambda x: x).lower(0.0).compile({key: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


class Compiler:
    """Chooses for every test how its programs are compiled, also in its processes."""

    def __init__(self):
        from jax._src import compiler
        from jax._src.lib import xla_client

        xla_client.CompileOptions()  # reads the variable, for this process
        self.flags = os.environ.get(FLAGS, "")
        self.defaults = compiler.get_compile_options
        compiler.get_compile_options = self.options
        self.quick = False
        self.quicker = {key: value for key, value in QUICK.items() if known(key, value)}

    def options(self, *args, env_options_overrides=None, **others):
        """JAX's own options: it has no public way to set them for all programs."""
        options = dict(env_options_overrides or {})
        options = self.quicker | options if self.quick else options
        return self.defaults(*args, env_options_overrides=options, **others)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        """Before the fixtures of a test, which may compile."""
        quick = item.get_closest_marker("users_compiler") is None
        if quick == self.quick:
            return
        import jax

        jax.clear_caches()
        self.quick = quick
        more = [f"--{key}={str(value).lower()}" for key, value in self.quicker.items()]
        os.environ[FLAGS] = " ".join([self.flags, *more] if quick else [self.flags])


# --- programs that processes share --------------------------------------------------

# Many tests need the same programs: the workers and the processes that tests start
# share a folder of them. It is made for one run, so each run compiles everything once;
# a caller's own folder is left as it is.
SHARED_PROGRAMS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PROGRAMS_FOLDER = "JAX_COMPILATION_CACHE_DIR"


def share_programs() -> str | None:
    """Make the folder, unless the caller has one, and return it."""
    if PROGRAMS_FOLDER in os.environ:
        return None
    folder = tempfile.mkdtemp(prefix="jaxinv-programs-")
    os.environ |= SHARED_PROGRAMS | {PROGRAMS_FOLDER: folder}
    if "jax" in sys.modules:
        import jax

        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def forget_folder(folder: str) -> None:
    """Remove the folder of :func:`share_programs`."""
    shutil.rmtree(folder, ignore_errors=True)
    del os.environ[PROGRAMS_FOLDER]


# --- how many there are -------------------------------------------------------------

COMPILED = "/jax/core/compile/backend_compile_duration"
FOUND = "/jax/compilation_cache/cache_hits"
FOUND_IN = "/jax/compilation_cache/cache_retrieval_time_sec"
RETRACED = ("/jax/core/compile/jaxpr_trace_duration", "jaxpr_to_mlir_module_duration")

# Linux gives a process 65,530 memory maps; XLA takes several for each program that it
# compiles for the CPU, and the process dies where there are none left. A test run
# makes thousands.
MANY_MAPS = 30_000
PROGRAMS_BETWEEN_LOOKS = 300


class Programs:
    """Counts the programs that this process asks XLA for, and drops them in time."""

    def __init__(self):
        import jax.monitoring

        self.asked = self.found = self.looked = self.forgotten = 0
        self.seconds = self.seconds_found = self.seconds_traced = 0.0
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_event(self, event, **_):
        self.found += event == FOUND

    def _on_duration(self, event, seconds, **_):
        if event == COMPILED:
            self.asked += 1
            self.seconds += seconds
        elif event == FOUND_IN:
            self.seconds_found += seconds
        elif event.endswith(RETRACED):
            self.seconds_traced += seconds

    def pytest_runtest_teardown(self):
        """Forget all programs once there are many."""
        if self.asked - self.looked < PROGRAMS_BETWEEN_LOOKS:
            return
        self.looked = self.asked
        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
            import jax

            jax.clear_caches()
            self.forgotten += 1

    def report(self) -> dict[str, float]:
        """Return the counts and seconds; programs that were found are counted apart."""
        return {
            "compiled": self.asked - self.found,
            "seconds compiling": self.seconds - self.seconds_found,
            "found": self.found,
            "seconds loading": self.seconds_found,
            "seconds tracing": self.seconds_traced,
            "times forgotten": self.forgotten,
        }
