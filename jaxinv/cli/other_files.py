"""Digests of what a model has from elsewhere, for records: names say too little."""

from collections.abc import Iterable

from jaxinv.cli import options


def other_files(sampling: options.Sampling) -> dict[str, str]:
    """Return the digests of the autoencoder and the configurations as typed.

    Args:
        sampling: The options, with which a model has been loaded.
    """
    from jaxinv.files.folders import files_below, model_root
    from jaxinv.loading.vae import vae_files
    from jaxinv.scale.jobs.settings import files_fingerprint

    found = {}
    if sampling.vae is not None:
        files = vae_files(sampling.vae, local_files_only=True)
        found["vae"] = files_fingerprint(files)
    if sampling.config is not None:
        folder = sampling.config.expanduser()
        files = {
            path.relative_to(folder).as_posix(): path
            for path in files_below(folder, model_root(folder))
            if path.suffix in (".json", ".txt")
        }
        found["config"] = files_fingerprint(files)
    return found


def controlnet_digests(names: Iterable[str]) -> list[str]:
    """Return the digests of ControlNets, as typed, which have been loaded."""
    from jaxinv.loading.controlnet import controlnet_files
    from jaxinv.scale.jobs.settings import files_fingerprint

    return [
        files_fingerprint(controlnet_files(name, local_files_only=True))
        for name in names
    ]
