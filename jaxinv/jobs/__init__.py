"""Jobs: the images of a whole data set to their noise, whatever happens on the way.

    manifest = jobs.read_manifest("images.jsonl", prompt="cat", guidance=3.0)
    engine = jobs.continuous(pipe, sampler)
    summary = jobs.run_job(
        manifest, Path("out"), engine, settings={"model": ..., "steps": 20},
        image_size=pipe.image_size, row_shape=pipe.latent_shape,
    )

See :mod:`jaxinv.jobs.folder` for what is in the folder then.
"""

from jaxinv.jobs.array import read_array
from jaxinv.jobs.detect import Detector, read_detector
from jaxinv.jobs.engine import continuous
from jaxinv.jobs.interface import Answer, Engine, Request
from jaxinv.jobs.job import run_job
from jaxinv.jobs.manifest import Manifest, Row, read_manifest
from jaxinv.jobs.one_by_one import one_by_one
from jaxinv.jobs.recorder import Counts
from jaxinv.jobs.settings import model_fingerprint
from jaxinv.jobs.work import EngineError, TooManyFailuresError

__all__ = [
    "Answer",
    "Counts",
    "Detector",
    "Engine",
    "EngineError",
    "Manifest",
    "Request",
    "Row",
    "TooManyFailuresError",
    "continuous",
    "model_fingerprint",
    "one_by_one",
    "read_array",
    "read_detector",
    "read_manifest",
    "run_job",
]
