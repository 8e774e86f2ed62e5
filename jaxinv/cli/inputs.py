"""Images as commands take them."""

from pathlib import Path

from jaxinv.images import ReadImage, describe_resize, resize_image


def fit(
    read: ReadImage, path: Path, size: tuple[int, int], model: str, resize: bool
) -> ReadImage:
    """Brings an image to the model's size, only if asked to.

    A resized picture is another picture, so this is never done silently.
    """
    found = read.pixels.shape[:2]
    if found == size:
        return read
    way = describe_resize(found, size)
    if not resize:
        raise ValueError(
            f"{path} is {found[1]}x{found[0]} and {model} works at "
            f"{size[1]}x{size[0]}; with --resize, it will {way}"
        )
    return ReadImage(resize_image(read.pixels, size), (*read.changes, way))
