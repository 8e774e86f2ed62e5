"""Reading images and writing files."""

import errno
import json
import os
import stat
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxinv import files
from jaxinv.files import image_reading, images


def random_pixels(height=6, width=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_round_trip_keeps_every_value(tmp_path):
    pixels = random_pixels()
    images.write_image(tmp_path / "a.png", pixels)
    read = image_reading.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read.pixels, pixels)
    assert read.changes == ()


def test_floats_are_rounded_to_the_nearest_of_256_levels(tmp_path):
    pixels = random_pixels()
    images.write_image(tmp_path / "a.png", pixels / 255 + 0.4 / 255)
    # 255 + 0.4 is outside of [0, 1] and is clipped: the nearest level is still 255.
    np.testing.assert_array_equal(
        image_reading.read_image(tmp_path / "a.png").pixels, pixels
    )


def test_transparent_pixels_become_white_and_it_is_said(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[0, 0, 3], rgba[1, 1, 3] = 255, 51  # opaque; one fifth opaque; the rest empty
    Image.fromarray(rgba).save(tmp_path / "a.png")
    read = image_reading.read_image(tmp_path / "a.png")
    assert read.pixels[0, 0].tolist() == [200, 0, 0]
    assert read.pixels[0, 1].tolist() == [255, 255, 255]
    assert read.pixels[1, 1].tolist() == [244, 204, 204]
    assert any("white" in change for change in read.changes)


def test_opaque_rgba_is_unchanged_and_nothing_is_said(tmp_path):
    pixels = random_pixels()
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "a.png")
    read = image_reading.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read.pixels, pixels)
    assert read.changes == ()


def test_sixteen_bit_greyscale_is_reduced_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    read = image_reading.read_image(tmp_path / "a.png")
    assert read.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert any("8 bits" in change for change in read.changes)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_every_colour_mode_gives_three_channels(tmp_path, mode):
    image = Image.fromarray(random_pixels()).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    read = image_reading.read_image(path)
    assert read.pixels.shape == (6, 9, 3)
    assert read.pixels.dtype == np.uint8


def test_orientation_tag_is_applied_and_it_is_said(tmp_path):
    image = Image.fromarray(random_pixels(6, 9))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    read = image_reading.read_image(tmp_path / "a.png")
    assert read.pixels.shape == (9, 6, 3)
    assert any("rotated" in change for change in read.changes)


def test_animation_gives_its_first_frame_and_it_is_said(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    read = image_reading.read_image(tmp_path / "a.gif")
    assert read.pixels[0, 0].tolist() == [255, 0, 0]
    assert any("first of several frames" in change for change in read.changes)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        image_reading.read_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png is (not an image|damaged)"):
        image_reading.read_image(tmp_path / "a.png")


def test_a_truncated_image_is_refused(tmp_path):
    images.write_image(tmp_path / "a.png", random_pixels(64, 64))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.png is damaged"):
        image_reading.read_image(tmp_path / "a.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        image_reading.read_image(tmp_path)


def test_an_absurdly_large_image_is_refused(tmp_path):
    images.write_image(tmp_path / "a.png", random_pixels(64, 64))
    with pytest.raises(ValueError, match="64x64 are more than 100 pixels"):
        image_reading.read_image(tmp_path / "a.png", max_pixels=100)


def test_an_absurdly_large_header_is_refused_before_anything_is_decoded(tmp_path):
    # A PNG that says 60000x60000 and whose pixels are cut off.
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    pixels = struct.pack(">I", 1000) + b"IDAT"
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + pixels)
    with pytest.raises(ValueError, match="too large"):
        image_reading.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_an_error_not_black(tmp_path, bad):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 2] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="NaN or infinite"):
        image_reading.read_image(tmp_path / "a.tif")


def test_clipped_values_are_said(tmp_path):
    Image.fromarray(np.array([[-1.0, 0.5, 300.0]], np.float32)).save(tmp_path / "a.tif")
    read = image_reading.read_image(tmp_path / "a.tif")
    assert read.pixels[0, :, 0].tolist() == [0, 0, 255]
    assert any("clipped 2 pixels" in change for change in read.changes)


def test_orientation_is_applied_at_sixteen_bits_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((6, 9), np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert image_reading.read_image(tmp_path / "a.png").pixels.shape == (9, 6, 3)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="pipe"):
        image_reading.read_image(tmp_path / "a.png")


def test_a_device_is_refused():
    with pytest.raises(ValueError, match="device"):
        image_reading.read_image("/dev/zero")


def test_a_dangling_link_is_named(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match="link to a file that does not exist"):
        image_reading.read_image(tmp_path / "a.png")


def test_resize_crops_around_the_centre():
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 255  # exactly the central square
    assert (images.resize_image(pixels, (4, 4)) == 255).all()


def test_resize_gives_height_and_width_in_that_order():
    assert images.resize_image(random_pixels(20, 30), (8, 12)).shape == (8, 12, 3)


def test_an_unknown_ending_is_refused_before_writing(tmp_path):
    with pytest.raises(ValueError, match=r"use \.png"):
        images.write_image(tmp_path / "a.xyz", random_pixels())
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "result.bin"
    target.write_bytes(b"old")

    def write_half():
        with files.open_atomically(target) as file:
            file.write(b"half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.bin"]


def test_nothing_is_visible_until_all_is_written(tmp_path):
    target = tmp_path / "result.bin"
    with files.open_atomically(target) as file:
        file.write(b"new")
        file.flush()
        assert not target.exists()
    assert target.read_bytes() == b"new"


def test_written_files_have_the_usual_permissions(tmp_path):
    old = os.umask(0o022)
    try:
        files.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


def test_json_of_arrays_and_nan_is_read_by_a_strict_parser(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": [np.nan, np.inf], "d": None}
    files.write_json(tmp_path / "a.json", value)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": 0.5, "b": [0, 1], "c": [None, None], "d": None}


def test_array_round_trip_is_exact(tmp_path):
    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    files.write_array(tmp_path / "a.npy", array)
    read = files.read_array(tmp_path / "a.npy")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("content", [b"", b"not an array", b"PK\x03\x04"])
def test_a_file_that_is_no_array_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy"):
        files.read_array(tmp_path / "a.npy")


def test_an_array_of_objects_is_refused_unread(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy"):
        files.read_array(tmp_path / "a.npy")


def test_a_missing_output_folder_is_made(tmp_path):
    assert files.check_writable_folder(tmp_path / "a" / "b").is_dir()


def test_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to"):
        files.check_writable_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="cannot write to"):
        files.check_writable_folder(tmp_path / "file" / "below")


def test_a_folder_is_no_output_file(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        files.check_writable_file(tmp_path)


def test_a_read_only_output_folder_is_refused(tmp_path, monkeypatch):
    # Root may write everywhere, so the refusal is the operating system's answer.
    def refuse(**_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ValueError, match="permission denied"):
        files.check_writable_folder(tmp_path)


def png(width, height, depth, colours, rows, extra=b""):
    """A PNG, chunk by chunk: Pillow does not write RGB of 16 bits."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


OTHER_FORMATS = sorted(
    set(Image.SAVE) - set(image_reading.FORMATS) - {"MPO", "JPEG2000", "DIB"}
)


@pytest.mark.parametrize("kind", [*OTHER_FORMATS, "JPEG2000", "DIB"])
def test_formats_that_are_not_documented_are_not_opened(tmp_path, kind):
    path = tmp_path / "a.png"
    for mode in ("RGB", "P", "L", "1", "F"):
        try:
            Image.new(mode, (8, 8)).save(path, kind)
            break
        except (OSError, ValueError, KeyError, NotImplementedError):
            continue
    with pytest.raises(ValueError, match=r"a\.png is not an image that can be read"):
        image_reading.read_image(path)


def test_postscript_under_a_picture_s_name_runs_no_interpreter(tmp_path, monkeypatch):
    def run(*_arguments, **_options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", run)
    monkeypatch.setattr("subprocess.Popen", run)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="not an image"):
        image_reading.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bits_of_colour_are_reduced_and_it_is_said(tmp_path, alpha):
    channels = 4 if alpha else 3
    row = np.full((5, channels), 0x1280, ">u2")
    row[:, 3:] = 0xFFFF
    content = png(5, 2, 16, 6 if alpha else 2, [row.tobytes()] * 2)
    (tmp_path / "a.png").write_bytes(content)
    read = image_reading.read_image(tmp_path / "a.png")
    assert read.pixels[0, 0].tolist() == [0x12] * 3
    assert read.changes == ("reduced 16 bits per channel to 8",)


def test_a_portable_pixmap_of_sixteen_bits_is_reduced_and_it_is_said(tmp_path):
    values = np.full(3 * 4, 0x1234, ">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535\n" + values)
    read = image_reading.read_image(tmp_path / "a.ppm")
    assert read.changes == ("reduced 16 bits per channel to 8",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif"])
def test_a_colour_profile_that_is_not_applied_is_named(tmp_path, suffix):
    for space, said in (("XYZ", 1), ("sRGB", 0)):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(random_pixels()).save(path, icc_profile=profile)
        changes = image_reading.read_image(path).changes
        assert len(changes) == said
        assert all("color profile (XYZ" in change for change in changes)


def test_a_profile_that_is_no_profile_is_said_and_the_picture_read(tmp_path):
    image = Image.fromarray(random_pixels())
    image.save(tmp_path / "a.png", icc_profile=b"nothing")
    read = image_reading.read_image(tmp_path / "a.png")
    assert read.changes == ("ignored its color profile (unknown)",)


def test_a_gamma_that_is_not_applied_is_said(tmp_path):
    body = b"gAMA" + struct.pack(">I", 100000)
    gamma = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(png(2, 1, 8, 0, [b"\0\0"], gamma))
    read = image_reading.read_image(tmp_path / "a.png")
    assert read.changes == ("ignored its gamma of 1",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "tif", "gif", "bmp"])
def test_a_damaged_picture_is_read_or_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(random_pixels(32, 32)).save(path)
    whole = path.read_bytes()
    rng, refusals = np.random.default_rng(0), []
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)])
        try:
            read = image_reading.read_image(path)
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert read.pixels.dtype == np.uint8
            assert read.pixels.ndim == 3
    assert refusals
    assert all(str(path) in text and "\n" not in text for text in refusals)


def test_tall_wide_and_strip_sized_pictures_are_read_whole(tmp_path):
    for height, width in ((1, 3000), (3000, 1), (1500, 1500)):
        pixels = random_pixels(height, width)
        images.write_image(tmp_path / "a.png", pixels)
        read = image_reading.read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(read.pixels, pixels)


def header(text, version=1):
    """A .npy header with any text in it."""
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n", "expected a .npy file"),
        (b"\x80\x04.", "expected a .npy file"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
         "takes 4000000000000 bytes, and 0 follow"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}"),
         "damaged"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + bytes(9),
         "holds an array of type object, expected real numbers"),
        (header("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}") + bytes(8),
         "of type complex64, expected real numbers"),
        (header("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': ()}"),
         "real numbers"),
        (header("{" * 9000), "damaged: its header"),
        (header("\x00\xff"), "damaged: its header"),
        (header("{}", version=2), "damaged: its header"),
        (b"\x93NUMPY\x09\x00", "damaged: its header"),
    ],
)  # fmt: skip
def test_a_damaged_array_is_refused_before_memory_is_taken(tmp_path, content, reason):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy") as caught:
        files.read_array(tmp_path / "a.npy")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_arrays_of_the_other_byte_order_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3, dtype=">f4"))
    read = files.read_array(tmp_path / "a.npy")
    assert read.dtype == np.float32
    assert read.dtype.isnative
    assert read.tolist() == [0, 1, 2]


def test_a_pipe_is_no_array(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="pipe"):
        files.read_array(tmp_path / "a.npy")
