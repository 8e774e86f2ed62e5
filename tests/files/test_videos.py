"""Videos written and read as files."""

import numpy as np
import pytest
from PIL import Image

from jaxinv.files.images import write_image
from jaxinv.files.videos import read_video, write_video


@pytest.fixture
def video():
    """Random frames, of which some are equal to the one before."""
    first, second = np.random.default_rng(0).integers(0, 256, (2, 12, 20, 3), np.uint8)
    return np.stack([first, first, second, second, second, first])


def test_every_value_and_every_frame_comes_back(video, tmp_path):
    write_video(tmp_path / "video.png", video)
    np.testing.assert_array_equal(read_video(tmp_path / "video.png").pixels, video)


def test_floats_are_rounded(video, tmp_path):
    write_video(tmp_path / "video.png", video / 255)
    np.testing.assert_array_equal(read_video(tmp_path / "video.png").pixels, video)


def test_a_folder_is_read_in_the_order_of_names(video, tmp_path):
    for i in (2, 0, 1):
        write_image(tmp_path / f"{i:03}.png", video[2 * i])
    read = read_video(tmp_path)
    np.testing.assert_array_equal(read.pixels, video[[0, 2, 4]])


def test_other_formats_and_single_images_are_read(video, tmp_path):
    frames = [Image.fromarray(frame) for frame in video[[0, 2, 5]]]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    frames[0].save(tmp_path / "video.webp", **options)
    read = read_video(tmp_path / "video.webp")
    np.testing.assert_array_equal(read.pixels, video[[0, 2, 5]])
    write_image(tmp_path / "one.png", video[0])
    assert read_video(tmp_path / "one.png").pixels.shape == (1, 12, 20, 3)


def test_transparent_frames_are_composited_on_white(video, tmp_path):
    frames = [Image.fromarray(frame).convert("RGBA") for frame in video[[0, 2]]]
    frames[1].putalpha(0)
    path = tmp_path / "video.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    read = read_video(path)
    assert read.changes == ("composited transparent pixels on white",)
    assert (read.pixels[1] == 255).all()


def test_what_is_not_a_video_is_refused(video, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_video(tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError, match="is empty"):
        read_video(tmp_path)
    write_video(tmp_path / "video.png", video)
    with pytest.raises(ValueError, match="6 frames of 240 pixels are more than 1,000"):
        read_video(tmp_path / "video.png", max_pixels=1000)
    (tmp_path / "video.png").write_bytes((tmp_path / "video.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="damaged"):
        read_video(tmp_path / "video.png")
    with pytest.raises(ValueError, match="animated PNG"):
        write_video(tmp_path / "video.gif", video)
    folder = tmp_path / "frames"
    folder.mkdir()
    write_image(folder / "0.png", video[0])
    write_image(folder / "1.png", video[0, :6])
    with pytest.raises(ValueError, match=r"has another size than 0\.png"):
        read_video(folder)
