"""Measurements that the documentation quotes: a folder each, which writes its table.

Run them from a checkout: ``python -m benchmarks.exactness``. What several of them share
is here: tables and kept results (:mod:`benchmarks.report`), samples of the embedded
model (:mod:`benchmarks.samples`), times (:mod:`benchmarks.timing`), a model with a
closed form (:mod:`benchmarks.mixture`) and the published algorithms in PyTorch
(:mod:`benchmarks.torch_reference`).
"""
