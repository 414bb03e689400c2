"""The decode policy, case by case, on images drawn here."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.files.image_files import NOT_HEIF
from datamodules.files.images import (
    LIMIT_VARIABLE,
    content_hash,
    decode,
    decode_file,
    default_pixel_limit,
    fit_to_square,
    grey_plane,
    limited_to,
)


def quarters(width: int = 40, height: int = 20) -> np.ndarray:
    """Red, green, blue, yellow quarters: any turn or mirror shows."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2] = (200, 0, 0)
    image[: height // 2, width // 2 :] = (0, 200, 0)
    image[height // 2 :, : width // 2] = (0, 0, 200)
    image[height // 2 :, width // 2 :] = (200, 200, 0)
    return image


def test_plain_png_is_read_exactly(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, quarters())


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda image: image),
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (4, lambda image: image[::-1]),
        (5, lambda image: image.transpose(1, 0, 2)),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda image: np.rot90(image, 1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turned: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quarters()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), turned(quarters()))  # type: ignore[operator]


def test_broken_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert decode(tmp_path / "a.jpg").shape == (20, 40, 3)


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    for name in ("a.png", "a.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        image = decode(tmp_path / name)
        assert image.shape == (4, 256, 3)
        np.testing.assert_array_equal(image[0, :, 0], np.arange(256))
        assert (image[..., 0] == image[..., 2]).all()


def test_sixteen_bit_pgm_is_scaled(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([0, 65535], dtype=">u2").tobytes())
    assert decode(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 255]


def test_floating_point_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="floating point"):
        decode(tmp_path / "a.tif")


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")  # no cyan: red
    np.testing.assert_array_equal(decode(tmp_path / "a.tif")[3, 3], (255, 0, 0))
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(decode(tmp_path / "a.jpg")[3, 3], (255, 0, 0), atol=4)


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(quarters()).quantize(4).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), quarters())


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    half = np.zeros((2, 2, 4), dtype=np.uint8)
    half[0, 0] = (10, 20, 30, 255)
    half[0, 1] = (10, 20, 30, 0)
    half[1, 0] = (0, 0, 0, 128)
    Image.fromarray(half).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png")
    assert image[0, 0].tolist() == [10, 20, 30]
    assert image[0, 1].tolist() == [255, 255, 255]
    assert image[1, 0].tolist() == [127, 127, 127]


def test_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([1, 2, 3, 4, 5, 6])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.gif", transparency=0)
    assert decode(tmp_path / "a.gif")[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), 77, dtype=np.uint8)).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png") == 77).all()
    Image.new("1", (3, 3), 1).save(tmp_path / "b.png")
    assert (decode(tmp_path / "b.png") == 255).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    extra = {"lossless": True} if suffix == "webp" else {}
    red.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[blue, blue], **extra)
    assert decode(tmp_path / f"a.{suffix}")[4, 4].tolist() == [255, 0, 0]


def test_pixel_limit(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", pixel_limit=800).shape == (20, 40, 3)
    message = r"larger than the pixel limit of 799: 40 x 20 is 800 pixels.* --pixel-limit 800.* --data.pixel_limit 800"
    with pytest.raises(InputError, match=message):
        decode(tmp_path / "a.png", pixel_limit=799)


def test_default_pixel_limit_is_a_variable_that_processes_inherit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.png")
    monkeypatch.setenv(LIMIT_VARIABLE, "799")
    with pytest.raises(InputError, match="pixel limit of 799"):
        decode(tmp_path / "a.png")
    with limited_to(800):
        assert decode(tmp_path / "a.png").shape == (20, 40, 3)
    assert default_pixel_limit() == 799
    monkeypatch.setenv(LIMIT_VARIABLE, "many")
    with pytest.raises(InputError, match="EMOTION_PIXEL_LIMIT: must be a whole number above 0, got 'many'"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize(("name", "options"), [("jpg", {"quality": 95}), ("mpo", {"format": "MPO"}), ("jp2", {})])
def test_large_photographs_are_decoded_smaller_where_the_format_can(tmp_path: Path, name: str, options: dict) -> None:
    """As a telephone's 108 megapixels are at the default limit."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if name == "jp2" else {**options, "exif": exif}
    Image.fromarray(quarters(400, 200)).save(tmp_path / f"a.{name}", **options)
    whole = decode_file(tmp_path / f"a.{name}")
    small = decode_file(tmp_path / f"a.{name}", pixel_limit=20_000)
    turned = name != "jp2"
    assert whole.reduced == 1
    assert (small.width, small.height) == (whole.width, whole.height) == ((200, 400) if turned else (400, 200))
    assert small.reduced == 2
    assert small.image.shape == ((200, 100, 3) if turned else (100, 200, 3))
    np.testing.assert_allclose(small.image[10, 10], whole.image[20, 20], atol=12)
    with pytest.raises(InputError, match="pixel limit of 15,999"):  # more than 5 times as many
        decode(tmp_path / f"a.{name}", pixel_limit=15_999)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_of_a_camera_keeps_the_bits_it_uses(tmp_path: Path, bits: int, suffix: str) -> None:
    ramp = np.arange(256, dtype=np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(ramp << (bits - 8)).save(tmp_path / f"a.{suffix}")
    decoded = decode_file(tmp_path / f"a.{suffix}")
    assert decoded.bits == bits
    np.testing.assert_array_equal(decoded.image[..., 1], ramp)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_colour_keeps_the_bits_it_uses(tmp_path: Path, bits: int, suffix: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 40, 3)).astype(np.uint16)
    colours[0, 0] = 255
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), (colours << (bits - 8))[..., ::-1])
    decoded = decode_file(tmp_path / f"a.{suffix}")
    assert decoded.bits == bits
    np.testing.assert_array_equal(decoded.image, colours)


def test_dark_image_of_full_range_keeps_its_high_byte(tmp_path: Path) -> None:
    values = np.linspace(0, 20_000, 256).astype(np.uint16)[None]
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png")[..., 0], values >> 8)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><html>", r"a web page \(HTML\)"),
        (b"%PDF-1.7\n\xff", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"just words", "it holds text"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "hidden data of macOS"),
    ],
)
def test_what_else_a_file_holds_is_said(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=f"not in a supported format .*{kind}"):
        decode(tmp_path / "a.jpg")


def test_heif_without_its_extra_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.files.images.missing_decoder", lambda name: NOT_HEIF)
    (tmp_path / "a.jpg").write_bytes(bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(200))
    with pytest.raises(InputError, match=r'HEIF, .* pip install "emotion-pipeline\[heif\]"'):
        decode(tmp_path / "a.jpg")


HEIC = base64.b85decode(  # quarters of 64 x 32 pixels, as a telephone stores them
    r"""0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004fZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=I"""
    r"""V*mgE07O6l0RRC200001p#T8@00000008g+001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002}"""
    r"""X>f9I0002pX>en20001XXm(>m0RwOV0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDnbDP"""
    r"""18@KU0|1Z!00RI30{|YNAb|yz>g1-"""
    r"""mxCm%4AOHXZ10VnZ0{|gn00967L;=Bbz=;3=025<xY;ta6Y<K_x01W^JfB*mh6lrsCWdHyG00000KmY&$KmY&$C}V74Z~y=RKmY&"""
    r"""$0RR91AOHXW0RR91000000{{R2-~a#s0ssI25O8UDX#fBK00RgJ2mk;87-?{AVE_OC000000RRC7fdT^sga7~l_-"""
    r"""$libN~PV>?i@R3E<-"""
    r"""koSF~+`ZPWN_mMj<*RGT)6o2%zF<;s9G5?~jAv^<DkU5&oQ~AWFCZPFU!+kO~j;BtnE+8<$ijG)C9v>&!?azPsb4P!k72o@%Q@F;"""
    r"""L|HXpK`x4||F=(HU`6ZNMoljem#FLJyS9m;?Z+J|p%5GD}f9p&3`?I<HSOWffXpf?aivPAVppkENO+`CXsQ~H2I%!JNXXXGHOKdu"""
    r"""QLsYFfX_`L%+w-h{t$u0#cUke71*j*j1QlJr_e2~FFsWB38EwS*pGxVFS{^voYkO^TIqTlY!EWu{o>7Q(`RVBxH~"""
)


def test_heif_is_decoded_where_its_extra_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif", reason="the extra heif is not installed")
    (tmp_path / "IMG_1.jpg").write_bytes(HEIC)
    decoded = decode_file(tmp_path / "IMG_1.jpg")
    assert (decoded.format, decoded.image.shape) == ("HEIF", (32, 64, 3))
    np.testing.assert_allclose(decoded.image[4, 4], (200, 0, 0), atol=8)
    np.testing.assert_allclose(decoded.image[28, 60], (200, 200, 0), atol=8)
    with pytest.raises(InputError, match="pixel limit of 100"):
        decode(tmp_path / "IMG_1.jpg", pixel_limit=100)


def test_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """Files of a few bytes that would unpack to 3.6 gigapixels, which Pillow itself refuses, and to 100 million."""
    for side in (60_000, 10_000):
        header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
        header += (40).to_bytes(4, "little") + side.to_bytes(4, "little") * 2
        header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
        (tmp_path / "a.bmp").write_bytes(header)
        with pytest.raises(InputError, match="larger than the pixel limit of 50,000,000"):
            decode(tmp_path / "a.bmp")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_truncated_file(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\.{suffix}"):
        decode(file)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match=r"a\.jpg is empty \(0 bytes\)"):
        decode(tmp_path / "a.jpg")


@pytest.mark.parametrize("text", ["not an image", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"])
def test_text_called_jpg(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jpg").write_text(text)
    with pytest.raises(InputError, match="not in a supported format"):
        decode(tmp_path / "a.jpg")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png cannot be read"):
        decode(tmp_path / "gone.png")
    with pytest.raises(InputError, match="cannot be read"):
        decode(tmp_path)


def test_format_comes_from_the_header(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.jpg", format="PNG")
    assert decode_file(tmp_path / "a.jpg").format == "PNG"


def test_crop_keeps_the_centre() -> None:
    image = np.zeros((10, 30, 3), dtype=np.uint8)
    image[:, 10:20] = 255
    assert (fit_to_square(image, 10, "crop") == 255).all()
    assert (fit_to_square(image.transpose(1, 0, 2), 10, "crop") == 255).all()


def test_stretch_keeps_everything() -> None:
    image = fit_to_square(quarters(40, 20), 20, "stretch")
    assert image[2, 2].tolist() == [200, 0, 0]
    assert image[17, 17].tolist() == [200, 200, 0]


def test_pad_keeps_the_aspect_ratio_on_grey() -> None:
    image = fit_to_square(np.full((10, 20, 3), 9, dtype=np.uint8), 40, "pad")
    assert (image[:10] == 128).all()
    assert (image[10:30] == 9).all()
    assert (image[30:] == 128).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = fit_to_square(stripes, 16)
    assert np.abs(small.astype(int) - 127).max() < 20  # without it: black or white


@pytest.mark.parametrize("shape", [(64, 64), (300, 300), (480, 480), (640, 520), (90, 40), (33, 70), (48, 200)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_resizing_agrees_with_another_library(shape: tuple[int, int], fit: str) -> None:
    """Pillow's antialiased bilinear filter on a smooth image: other arithmetic, nearly the same values."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / min(shape)
    image = np.stack([127 + 120 * np.sin(3 * rows + k + 2 * columns) for k in range(3)], axis=-1).astype(np.uint8)
    height, width = shape
    size, side = 56, min(shape)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side) if fit == "crop" else None
    scale = 56 / max(shape)
    inner = (max(1, round(width * scale)), max(1, round(height * scale))) if fit == "pad" else (size, size)
    wanted = np.asarray(Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR, box=box)).astype(int)
    got = fit_to_square(image, size, fit).astype(int)  # type: ignore[arg-type]
    down, right = (size - inner[1]) // 2, (size - inner[0]) // 2
    got = got[down : down + inner[1], right : right + inner[0]]
    assert np.abs(got - wanted)[2:-2, 2:-2].max() <= 5
    assert np.abs(got - wanted).mean() < 1.2


@pytest.mark.parametrize("shape", [(96, 192), (48, 72), (36, 60)])
def test_shrinking_is_the_mean_of_what_a_pixel_covers(shape: tuple[int, int]) -> None:
    """Whole multiples, which need not be equal on both axes: only the rounding may differ."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = noise.reshape(12, shape[0] // 12, 12, shape[1] // 12, 3).mean((1, 3))
    assert np.abs(fit_to_square(noise, 12, "stretch") - wanted).max() < 1


def test_fit_is_checked() -> None:
    with pytest.raises(InputError, match=r"fit must be one of crop, stretch, pad, got 'squeeze'"):
        fit_to_square(quarters(), 8, "squeeze")  # type: ignore[arg-type]


def test_content_is_of_pixels_not_of_bytes(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.png", compress_level=0)
    Image.fromarray(quarters()).save(tmp_path / "b.bmp")
    one, two = decode(tmp_path / "a.png"), decode(tmp_path / "b.bmp")
    assert content_hash(one) == content_hash(two)
    assert len(content_hash(one)) == 32
    changed = one.copy()
    changed[0, 0, 0] += 1
    assert content_hash(changed) != content_hash(one)
    assert content_hash(one.reshape(40, 20, 3)) != content_hash(one)


def test_grey_plane_is_the_whole_picture() -> None:
    small = grey_plane(quarters())
    assert small.shape == (48, 48)
    assert len({int(small[y, x]) for y in (6, 42) for x in (6, 42)}) == 4
