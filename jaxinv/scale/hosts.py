"""Several processes of one job, on one host or many, by JAX's own runtime.

Each process works on its own images with its own devices, and all that there is to
agree on is who is who. On Slurm, Open MPI, Kubernetes and Cloud TPU JAX finds the
processes by itself. If one of them is killed, JAX's runtime ends the others within
minutes; a job is then started again, and does what is missing.
"""

from typing import NamedTuple

import jax

#: A process that is done waits so long for the others, which may still have images:
#: leaving earlier would stop theirs. Seconds.
_SHUTDOWN = 30 * 24 * 3600


class Processes(NamedTuple):
    """This process among those of a job.

    Attributes:
        index: which it is, from 0.
        count: how many there are.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    count: int  # type: ignore[assignment]


def alone() -> Processes:
    """A job of one process."""
    return Processes(0, 1)


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
) -> Processes:
    """Joins the processes of a job; to be called before JAX computes anything.

    Args:
        coordinator: address ``host:port`` of the first process; None to let
            ``jax.distributed.initialize`` find the cluster.
        processes: how many there are; given with the coordinator, or not at all.
        index: which this is, from 0; likewise.

    Returns:
        This process among them.

    Raises:
        ValueError: if only some are given, if they make no sense, or if there is no
            cluster to be found.
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
