#!/usr/bin/env python3
"""Writes images/: small synthetic pictures and what Pillow makes of them, for model/image.

    apt install libjpeg-turbo-progs libturbojpeg0
    python3 -m venv venv && venv/bin/pip install "pillow>=11,<13" numpy torch transformers==4.46.3
    venv/bin/python tests/goldens/make_image_goldens.py

The same every time (Pillow 13 exchanges the passes where the height shrinks far more than the width).
Each result's name says what was done: <source>_<resample>_<height>x<width>. In kinds/ lie pictures of every kind that is read, and
beside each <file> what Pillow reads: <file>_as_colour.png, and of some <file>_as_grey.png.
"""

import ctypes
import io
import pathlib
import struct
import subprocess
import zlib

import numpy
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).parent / "images"
RESAMPLES = {kind.name.lower(): kind for kind in Image.Resampling}  # nearest, lanczos, bilinear, bicubic, box, hamming


def picture(height, width, seed):
    """Slopes, a sharp disc and some grain: what filters get wrong first. [height, width, 3]"""
    y, x = numpy.mgrid[0:height, 0:width]
    disc = (y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2 < (0.25 * min(height, width)) ** 2
    planes = [255 * x / width, 255 * y / height, 255 * disc]
    grain = numpy.random.default_rng(seed).integers(-20, 21, (height, width, 1))
    return numpy.clip(numpy.stack(planes, -1) + grain, 0, 255).astype(numpy.uint8)


def save(image, name):
    image.save(FOLDER / f"{name}.png", optimize=True)


def resized(image, source, kind, height, width):
    """Pillow takes width first."""
    save(image.resize((width, height), RESAMPLES[kind]), f"{source}_{kind}_{height}x{width}")


def keep(name, data, high_byte=None):
    """The file, and what Pillow makes of it; of 16-bit grey Pillow cuts off what is above 255, we take the high byte."""
    folder = FOLDER / "kinds"
    (folder / name).write_bytes(data)
    image = Image.open(io.BytesIO(data)) if high_byte is None else Image.fromarray(high_byte)
    image.convert("RGB").save(folder / f"{name}_as_colour.png", optimize=True)
    if "palette" in name or "inks" in name:
        image.convert("L").save(folder / f"{name}_as_grey.png", optimize=True)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def packed(samples, bits):
    """Rows of PNG: `bits` for each sample, the first in the high bits, each row led by filter 0. [height, columns]"""
    if bits == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    places = numpy.unpackbits(samples.astype(numpy.uint8)[..., None], axis=-1)[..., 8 - bits :]
    return b"".join(b"\0" + numpy.packbits(row.reshape(-1)).tobytes() for row in places)


def png(samples, bits, colour_type, interlaced=False, before=()):
    """What Pillow does not write: 2, 4 and 16 bits, and Adam7. [height, width, channels]"""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    height, width = samples.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(packed(part.reshape(part.shape[0], -1), bits) for part in parts if part.size)
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, int(interlaced))
    body = [chunk(b"IHDR", head), *(chunk(*extra) for extra in before), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def png_kinds():
    colour = picture(13, 19, seed=3)
    grey = colour[:, :, :1]
    deep = numpy.random.default_rng(4).integers(0, 65536, (13, 19, 4)).astype(numpy.uint16)
    for bits in (1, 2, 4, 8):
        keep(f"grey_{bits}.png", png(grey >> (8 - bits), bits, 0))
        plte = numpy.random.default_rng(bits).integers(0, 256, (2**bits, 3)).astype(numpy.uint8).tobytes()
        for interlaced in (False, True):
            name = f"palette_{bits}{'_interlaced' * interlaced}.png"
            keep(name, png(grey >> (8 - bits), bits, 3, interlaced, [(b"PLTE", plte), (b"tRNS", b"\0\x80")]))
    keep("grey_16.png", png(deep[:, :, :1], 16, 0), (deep[:, :, 0] >> 8).astype(numpy.uint8))
    keep("grey_alpha_8.png", png(numpy.dstack([grey, colour[:, :, 1:2]]), 8, 4))
    keep("grey_alpha_16.png", png(deep[:, :, :2], 16, 4))
    keep("grey_transparent_8.png", png(grey, 8, 0, before=[(b"tRNS", struct.pack(">H", int(grey[5, 5, 0])))]))
    keep("colour_8_interlaced.png", png(colour, 8, 2, True))
    keep("colour_16.png", png(deep[:, :, :3], 16, 2))
    keep("colour_transparent_8.png", png(colour, 8, 2, before=[(b"tRNS", struct.pack(">HHH", *map(int, colour[5, 5])))]))
    keep("colour_alpha_8_interlaced.png", png(numpy.dstack([colour, 255 - grey]), 8, 6, True))
    keep("colour_alpha_16.png", png(deep, 16, 6))


def ycck(inks, quality):
    """A JPEG of inks as luminance, colours and black, which Pillow does not write and TurboJPEG always does."""
    turbojpeg = ctypes.CDLL("libturbojpeg.so.0")
    turbojpeg.tjInitCompress.restype = ctypes.c_void_p
    data, size = ctypes.POINTER(ctypes.c_ubyte)(), ctypes.c_ulong()
    height, width = inks.shape[:2]
    pixels = numpy.ascontiguousarray(inks).ctypes.data_as(ctypes.c_void_p)
    failed = turbojpeg.tjCompress2(ctypes.c_void_p(turbojpeg.tjInitCompress()), pixels, width, 0, height, 11, ctypes.byref(data),
                                   ctypes.byref(size), 0, quality, 0)
    assert not failed
    return ctypes.string_at(data, size.value)


def jpeg_kinds():
    colour = Image.fromarray(picture(27, 38, seed=5)).resize((38, 27), Image.BICUBIC)
    for name, sampling in [("444", 0), ("422", 1), ("420", 2)]:
        keep(f"colour_{name}.jpg", saved(colour, "JPEG", quality=85, subsampling=sampling))
        keep(f"colour_{name}_progressive.jpg", saved(colour, "JPEG", quality=85, subsampling=sampling, progressive=True))
    keep("grey.jpg", saved(colour.convert("L"), "JPEG", quality=85))
    keep("grey_progressive.jpg", saved(colour.convert("L"), "JPEG", quality=85, progressive=True))
    keep("colour_as_rgb.jpg", saved(colour, "JPEG", quality=85, keep_rgb=True))
    keep("colour_restarts.jpg", saved(colour, "JPEG", quality=85, restart_marker_rows=1))
    inks = numpy.dstack([picture(27, 38, seed=6), picture(27, 38, seed=7)[:, :, 1]])
    keep("inks_cmyk.jpg", saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=90))
    keep("inks_ycck.jpg", ycck(inks, 90))
    ppm = saved(colour, "PPM")
    for name, options in [("odd_sampling", ["-sample", "3x1,1x1,1x2"]), ("arithmetic", ["-arithmetic"])]:
        keep(f"colour_{name}.jpg", subprocess.run(["cjpeg", "-quality", "85", *options], input=ppm, capture_output=True, check=True).stdout)


def other_kinds():
    colour = Image.fromarray(picture(13, 19, seed=8))
    alpha = Image.fromarray(picture(13, 19, seed=9)[:, :, 1])
    see_through = colour.copy()
    see_through.putalpha(alpha)
    keep("lossy.webp", saved(colour, "WEBP", quality=80))
    keep("lossless.webp", saved(colour, "WEBP", lossless=True))
    keep("lossy_alpha.webp", saved(see_through, "WEBP", quality=80))
    keep("lossless_alpha.webp", saved(see_through, "WEBP", lossless=True, exact=True))
    keep("animation.webp", saved(colour, "WEBP", lossless=True, save_all=True, duration=100, append_images=[ImageOps.mirror(colour)]))
    keep("bits_1.bmp", saved(colour.convert("1"), "BMP"))
    keep("grey_8.bmp", saved(colour.convert("L"), "BMP"))
    keep("palette_8.bmp", saved(colour.quantize(16), "BMP"))
    keep("colour_24.bmp", saved(colour, "BMP"))
    keep("colour_32.bmp", saved(see_through, "BMP"))


def orientations():
    """A picture stored in each of EXIF's eight ways; each upright."""
    for orientation in range(1, 9):
        stored = Image.fromarray(picture(4, 6, seed=10))
        stored.getexif()[0x112] = orientation
        save(ImageOps.exif_transpose(stored), f"upright_from_{orientation}")


def processed(image, name, kind, **fields):
    """What an image processor of Transformers gives to the model, before it becomes numbers."""
    import transformers

    processor = getattr(transformers, kind)(do_rescale=False, do_normalize=False, **fields)
    pixels = processor(image, data_format="channels_last")["pixel_values"][0]
    save(Image.fromarray(pixels.astype(numpy.uint8)), name)


def processors(colour):
    tall = colour.rotate(90, expand=True)
    save(tall, "tall")
    small = {"crop_size": {"height": 32, "width": 32}}
    processed(colour, "colour_clip", "CLIPImageProcessor", size={"shortest_edge": 40}, **small)
    processed(tall, "tall_clip", "CLIPImageProcessor", size=37, **small)
    processed(colour, "colour_bit_border", "BitImageProcessor", size={"shortest_edge": 25}, **small)
    processed(colour, "colour_bit_untouched", "BitImageProcessor", do_resize=False, crop_size={"height": 33, "width": 80})
    processed(tall, "tall_convnext", "ConvNextImageProcessor", size={"shortest_edge": 32})
    processed(colour, "colour_convnext_share", "ConvNextImageProcessor", size={"shortest_edge": 32}, crop_pct=0.9, resample=3)
    processed(colour, "colour_convnext_large", "ConvNextImageProcessor", size={"shortest_edge": 384}, resample=0)
    processed(colour, "colour_deit", "DeiTImageProcessor", size={"height": 36, "width": 36}, **small)
    processed(colour, "colour_vit_uncropped", "ViTImageProcessor", size=32, do_center_crop=True, crop_size=24)


def main():
    (FOLDER / "kinds").mkdir(parents=True, exist_ok=True)
    png_kinds()
    jpeg_kinds()
    other_kinds()
    orientations()
    colour = Image.fromarray(picture(45, 61, seed=1))
    save(colour, "colour")
    (FOLDER / "colour.rgb").write_bytes(colour.tobytes())
    grey = Image.fromarray(picture(28, 28, seed=2)[:, :, 2])
    save(grey, "grey")

    for kind in RESAMPLES:
        for height, width in [(32, 32), (90, 122), (7, 61), (45, 100)]:
            resized(colour, "colour", kind, height, width)
        resized(grey, "grey", kind, 32, 40)

    processors(colour)

    # DeiT: to 40 x 40 first, then the centre of 33 x 32.
    image = colour.resize((40, 40), Image.BICUBIC)
    save(image.crop((4, 3, 36, 36)), "colour_crop_33x32_of_40")

    save(colour.convert("L"), "colour_as_grey")
    alpha = Image.fromarray((numpy.indices((45, 61)).sum(0) * 2 % 256).astype(numpy.uint8))
    with_alpha = colour.copy()
    with_alpha.putalpha(alpha)
    save(with_alpha, "colour_with_alpha")
    palette = colour.quantize(16)
    save(palette, "palette")
    save(palette.convert("RGB"), "palette_as_colour")

    jpeg = io.BytesIO()
    smooth = colour.resize((160, 120), Image.BICUBIC)
    smooth.save(jpeg, "JPEG", quality=90)
    (FOLDER / "photo.jpg").write_bytes(jpeg.getvalue())
    save(Image.open(jpeg).convert("RGB"), "photo_as_colour")


if __name__ == "__main__":
    main()
