"""One picture, whatever it comes as, to 8-bit RGB."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor


@dataclass(frozen=True)
class Photograph:
    """A real photograph that ships inside an installed package.

    ``title`` names what it shows, ``alt`` tells a reader who cannot see it, ``credit`` and
    ``licence`` say whose it is; ``wnid`` is its class in ImageNet, by its WordNet id, where it has one.
    """

    name: str
    title: str
    alt: str
    credit: str
    licence: str
    package: str
    file: str
    wnid: str | None = None

    @cached_property
    def pixels(self) -> np.ndarray:
        """The picture, (H, W, 3) uint8; decoded when first asked for, then kept, read-only."""
        spec = find_spec(self.package)
        path = Path(spec.origin).parent / self.file if spec else Path(self.file)
        if not path.exists():
            raise FileNotFoundError(
                f"the photograph {self.name!r} ships with the package {self.package}, "
                f"but {path} is missing; install the package again from its wheel"
            )
        pixels = decode(path)
        pixels.flags.writeable = False
        return pixels


Picture = str | os.PathLike | IO[bytes] | Image.Image | np.ndarray | Tensor | Photograph


def title_of(picture: Picture, otherwise: str) -> str:
    """What a picture is called: a photograph has a title, all others are called ``otherwise``."""
    title = getattr(picture, "title", None)
    return title if isinstance(title, str) else otherwise  # of a path as text, `title` is a method


def decode(source: Picture) -> np.ndarray:
    """Decode one picture to 8-bit RGB.

    Grey, palette, CMYK and other colour spaces become RGB by Pillow's plain formulas (no colour
    profile is applied); what is transparent is laid on white; 16-bit grey is scaled by 255/65535;
    the rotation in EXIF is carried out; of an animation the first frame is taken.

    Parameters
    ----------
    source
        A picture file (or an open binary one), a PIL image, a :class:`Photograph`, or an array
        (H, W, 3) uint8, which is handed back as it is.

    Returns
    -------
    ndarray
        (H, W, 3) uint8.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no picture, is truncated, is larger than ``PIL.Image.MAX_IMAGE_PIXELS``, has a pixel
        type without a fixed range (floats, 32-bit integers), or is an array of another shape or type.
    """
    if isinstance(source, Photograph):
        return source.pixels
    if isinstance(source, Tensor):
        source = source.cpu().numpy()
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or source.size == 0:
            raise ValueError(
                f"an array picture is (H, W, 3) uint8 in [0, 255], not {source.shape} {source.dtype}"
            )
        return source
    if isinstance(source, Image.Image):
        return _to_rgb(source, getattr(source, "filename", "") or "the PIL image")
    name = getattr(source, "name", "the open file") if hasattr(source, "read") else os.fspath(source)
    try:
        image = Image.open(source)
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is too large: {error}; make it smaller first") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them stumble over
        raise ValueError(_undecodable(name, error)) from error
    with image:
        return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """A PIL image of any mode as (H, W, 3) uint8."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(
            f"{name} is too large: {image.width} × {image.height} px, and at most {limit:,} pixels "
            "are accepted (PIL.Image.MAX_IMAGE_PIXELS); make it smaller first"
        )
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = _from_deep_grey(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = np.array(image.convert("RGB"))
    except Exception as error:  # as above: pixels are parsed only here
        raise ValueError(_undecodable(name, error)) from error
    if pixels.size == 0:
        raise ValueError(_undecodable(name, "it has no pixels"))
    return pixels


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey; 32-bit integers pass if they are 16-bit values in a wider type."""
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; scale them to 8 bits first")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def _undecodable(name: str, error: object) -> str:
    return (
        f"{name} cannot be decoded ({error}); accepted are whole picture files that Pillow reads "
        "(JPEG, PNG, WebP, GIF, TIFF, BMP, …), PIL images, and uint8 arrays (H, W, 3)"
    )
