"""Control images of ControlNets, as typed."""

from pathlib import Path
from typing import Any, NamedTuple

import jaxinv as ji
from jaxinv.cli import options
from jaxinv.cli.other_files import controlnet_digests
from jaxinv.files.digests import file_digests
from jaxinv.files.image_reading import ReadImage, read_image


class Control(NamedTuple):
    """Control images with their scales.

    Attributes:
        paths: The files.
        images: Their content.
        scales: Factors of the residuals of the ControlNets.
        added: ControlNets that are added to the model, as typed.
    """

    paths: tuple[Path, ...] = ()
    images: tuple[ReadImage, ...] = ()
    scales: tuple[float, ...] = ()
    added: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the further arguments of :meth:`jaxinv.Pipeline.denoiser`."""
        if not self.images:
            return {}
        return {
            "control_image": [image.pixels for image in self.images],
            "controlnet_conditioning_scale": list(self.scales),
        }

    def record(self) -> dict[str, Any]:
        """Return ControlNets, files, digests and scales, for a JSON file."""
        if not self.paths:
            return {}
        return {
            "controlnet": [
                {"name": name, "sha256": digest}
                for name, digest in zip(
                    self.added, controlnet_digests(self.added), strict=True
                )
            ]
            or None,
            "control": [
                {"file": path.name, "sha256": digest, "scale": scale}
                for path, digest, scale in zip(
                    self.paths, file_digests(self.paths), self.scales, strict=True
                )
            ],
        }


def read_control(asked: options.Control) -> Control:
    """Read control images.

    Raises:
        ValueError: If there is not one scale for each image, or a file cannot be read.
        FileNotFoundError: If a file does not exist.
    """
    paths = tuple(asked.control_image or ())
    scales = tuple(asked.control_scale or ()) or (1.0,) * len(paths)
    if len(scales) != len(paths):
        raise ValueError(
            f"--control-scale must be given for each --control-image, got "
            f"{len(scales)} for {len(paths)}"
        )
    images = tuple(read_image(path) for path in paths)
    return Control(paths, images, scales, tuple(asked.controlnet or ()))


def check_control(pipe: "ji.Pipeline", control: Control) -> None:
    """Raise ValueError unless a model takes exactly these control images."""
    nets = len(getattr(pipe.network, "controlnets", ()))
    if nets and not control.images:
        raise ValueError(
            f"{pipe.name} has a ControlNet: 'jaxinv sample' and 'jaxinv invert' take "
            "its image by --control-image; other commands cannot use it"
        )
    if nets != len(control.images):
        raise ValueError(
            f"--control-image must be given once for each ControlNet: {pipe.name} has "
            f"{nets or 'none (add one by --controlnet)'}, got {len(control.images)}"
        )
    for path, image in zip(control.paths, control.images, strict=True):
        size = image.pixels.shape[:2]
        if size != pipe.image_size:
            (height, width), (rows, columns) = size, pipe.image_size
            raise ValueError(
                f"{path} is {width}x{height}, but a control image must be as large as "
                f"the image, {columns}x{rows}"
            )
