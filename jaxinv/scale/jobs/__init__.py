"""Jobs: inversion of all images of a data set, with resumption after interruptions.

    manifest = jobs.read_manifest("images.jsonl", prompt="cat", guidance=3.0)
    engine = jobs.continuous(pipe, sampler)
    summary = jobs.run_job(
        manifest, Path("out"), engine, settings={"model": ..., "steps": 20},
        image_size=pipe.image_size, row_shape=pipe.latent_shape,
    )

:mod:`jaxinv.scale.jobs.folder` describes the files of the folder.
"""

from jaxinv.scale.jobs.array import read_array
from jaxinv.scale.jobs.detect import Detector, read_detector
from jaxinv.scale.jobs.engine import continuous
from jaxinv.scale.jobs.interface import Answer, Engine, Request
from jaxinv.scale.jobs.job import run_job
from jaxinv.scale.jobs.manifest import Manifest, Row, read_manifest
from jaxinv.scale.jobs.recorder import Counts
from jaxinv.scale.jobs.settings import files_fingerprint, model_fingerprint
from jaxinv.scale.jobs.work import EngineError, TooManyFailuresError

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
    "files_fingerprint",
    "model_fingerprint",
    "read_array",
    "read_detector",
    "read_manifest",
    "run_job",
]
