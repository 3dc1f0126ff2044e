#!/usr/bin/env python3
"""Writes images/: small synthetic pictures and what Pillow makes of them, for model/image.

    python3 -m venv venv && venv/bin/pip install "pillow<13" numpy
    venv/bin/python tests/goldens/make_image_goldens.py

The same every time (Pillow 9 to 12; 13 exchanges the passes where the height shrinks far more than the width).
Each result's name says what was done: <source>_<resample>_<height>x<width>.
"""

import io
import pathlib

import numpy
from PIL import Image

FOLDER = pathlib.Path(__file__).parent / "images"
RESAMPLES = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


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


def main():
    FOLDER.mkdir(exist_ok=True)
    colour = Image.fromarray(picture(45, 61, seed=1))
    save(colour, "colour")
    grey = Image.fromarray(picture(28, 28, seed=2)[:, :, 2])
    save(grey, "grey")

    for kind in RESAMPLES:
        for height, width in [(32, 32), (90, 122), (7, 61), (45, 100)]:
            resized(colour, "colour", kind, height, width)
        resized(grey, "grey", kind, 32, 40)

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
