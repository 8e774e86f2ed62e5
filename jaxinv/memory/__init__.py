"""Peak memory, predicted from the traced program: seconds in place of minutes.

A program is traced for shapes alone (``jax.make_jaxpr``), and what XLA does to memory
is done to the trace: operations are fused (:mod:`jaxinv.memory.storage`), arrays live
from where they are written to where they are last read (:mod:`jaxinv.memory.liveness`),
and are placed in one heap (:mod:`jaxinv.memory.heap`). Parameters, arguments and
results are exact; temporaries are a prediction.

The rules are those of XLA's CPU compiler, against which they are checked. Compilers for
GPUs fuse more (the softmax of attention, or all of attention through cuDNN) and keep
scratch memory of their own for convolutions: a prediction for them is a rough guide.
Of 16-bit networks a CPU makes 32-bit ones, with a copy of every parameter; that is part
of the prediction where the backend is a CPU.
"""

from jaxinv.memory.fit import Fit, largest_batch, largest_chunk
from jaxinv.memory.predict import (
    Memory,
    batched_inverse,
    compiled_memory,
    predict_memory,
    predict_sampling_memory,
    program_memory,
)

__all__ = [
    "Fit",
    "Memory",
    "batched_inverse",
    "compiled_memory",
    "largest_batch",
    "largest_chunk",
    "predict_memory",
    "predict_sampling_memory",
    "program_memory",
]
