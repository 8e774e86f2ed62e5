"""Several processes of one job, on one host or many, with JAX's own runtime.

Each process works on its own images with its own devices; they only agree on their
indices. On Slurm, Open MPI, Kubernetes and Cloud TPU, JAX detects the processes. If one
is killed, JAX's runtime ends the others within minutes. Restarting the job then resumes
it.
"""

from typing import NamedTuple

import jax

#: Time in seconds that a finished process waits for the others, which would be stopped
#: if it left earlier.
_SHUTDOWN = 30 * 24 * 3600


class Processes(NamedTuple):
    """This process among those of a job.

    Attributes:
        index: Index of this process, from 0.
        count: Number of processes.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    count: int  # type: ignore[assignment]


def alone() -> Processes:
    """Return a job of one process."""
    return Processes(0, 1)


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
) -> Processes:
    """Join the processes of a job; call this before JAX computes anything.

    Args:
        coordinator: Address ``host:port`` of the first process; None to let
            ``jax.distributed.initialize`` find the cluster.
        processes: Number of processes; required with a coordinator.
        index: Index of this process, from 0; required with a coordinator.

    Returns:
        This process and the number of processes.

    Raises:
        ValueError: If only some arguments are given, if they are inconsistent, or if no
            cluster is found.
    """
    given = coordinator, processes, index
    if any(each is None for each in given) != all(each is None for each in given):
        raise ValueError(
            "coordinator, number of processes and index go together: give all three, "
            "or none to find the cluster"
        )
    if processes is not None and index is not None:
        if processes < 1 or not 0 <= index < processes:
            raise ValueError(
                f"of {processes} processes the index must lie in 0 to {processes - 1}, "
                f"got {index}"
            )
        if ":" not in (coordinator or ""):
            raise ValueError(f"a coordinator is host:port, got {coordinator!r}")
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=processes,
            process_id=index,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"the processes could not be joined: {error}") from None
    return Processes(jax.process_index(), jax.process_count())
