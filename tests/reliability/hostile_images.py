"""Image files that are damaged, false, extreme or no images, by name."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

SIZE = (32, 24)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM", "ICO")
SUFFIXES = {"JPEG2000": "jp2", "PPM": "ppm"}


def noise(size=SIZE, bands=3):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (size[1], size[0], bands), np.uint8).squeeze()


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@functools.cache
def photo(file_format):
    """Return a valid file of noise."""
    return encode(Image.fromarray(noise()), file_format)


def cut(share):
    return {
        f"{name} cut at {share:g}": photo(name)[: int(len(photo(name)) * share)] for name in FORMATS
    }


def flipped(seed):
    """Return a file of each format, with some bits flipped: at first in the header."""
    files = {}
    for name in FORMATS:
        rng, data = np.random.default_rng(seed), bytearray(photo(name))
        end = 64 if seed % 2 else len(data)
        for position in rng.integers(0, min(end, len(data)), 1 + seed % 5):
            data[position] ^= int(rng.integers(1, 256))
        files[f"{name} with bits flipped, seed {seed}"] = bytes(data)
    return files


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, data=None, *, color=0, depth=8, extra=b""):
    """Return a PNG file of any claimed size. Without data it holds all its zeros."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    if data is None:
        row = bytes(1 + -(-width * depth // 8))
        packer = zlib.compressobj(1)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    end = png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + end


def exif(*entries):
    """Return EXIF data of (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack(">HHI4s", *entry) for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + bytes(4)


def jpeg(segments=b""):
    """Return a JPEG file with more segments behind its start."""
    data = photo("JPEG")
    return data[:2] + segments + data[2:]


def segment(marker, data):
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data


def oriented(kind, value, count=1):
    return jpeg(segment(0xE1, exif((0x0112, kind, count, value))))


def animation(file_format):
    frames = [Image.fromarray(np.roll(noise(), i, 0)) for i in range(4)]
    return encode(frames[0], file_format, save_all=True, append_images=frames[1:])


def deep(values, file_format="TIFF"):
    return encode(Image.fromarray(values), file_format)


def with_profile(profile, file_format="PNG"):
    return encode(Image.fromarray(noise()), file_format, icc_profile=profile)


def palette(transparency):
    image = Image.fromarray(noise()).quantize(16)
    return encode(image, "PNG", transparency=transparency)


def cmyk(adobe):
    """CMYK with and without Adobe's marker, by which readers know that the inks are inverted."""
    data = encode(Image.fromarray(noise(bands=4), "CMYK"), "JPEG")
    at = data.find(b"\xff\xeeAdobe") if data.find(b"\xff\xee") < 0 else data.find(b"\xff\xee")
    if adobe or at < 0:
        return data
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 32 24
%%EndComments
(%pipe%touch ran) (w) file closefile
showpage
%%EOF
"""
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@functools.cache
def files():
    """Return each file's bytes by a description."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    floats = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32)
    nan, inf = floats.copy(), floats.copy()
    nan[3, 4], inf[3, 4] = np.nan, np.inf
    ramp = np.linspace(0, 65535, 24 * 32).reshape(24, 32)
    table = {
        "empty": b"",
        "one byte": b"\x89",
        "zeros": bytes(4096),
        "text": b"not an image\n",
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "SVG": SVG,
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "EPS": EPS,
        "EPS in a DOS file": struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), *[0] * 5) + EPS,
        "WMF": b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x20\0\x20\0\x48\0" + bytes(24) + b"\x01\0\x09\0",
        "EMF": struct.pack("<II", 1, 108) + bytes(32) + b" EMF" + bytes(80),
        "MPEG": b"\x00\x00\x01\xb3" + bytes(99),
        "XBM": b"#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {0x00};\n",
        "PNG without an end": png(32, 24)[:-12],
        "PNG of 1x1": png(1, 1),
        "PNG of 2x2": png(2, 2),
        "PNG of 1x5000": png(1, 5000),
        "PNG of 5000x1": png(5000, 1),
        "PNG of 0x0": png(0, 0, b""),
        "PNG of 2^31x2^31": png(2**31 - 1, 2**31 - 1, b""),
        "PNG that claims 20000x20000": png(20000, 20000, b"x"),
        "PNG of 30000x30000": png(30000, 30000, zlib.compress(bytes(30001))),
        "PNG with a false checksum": png(32, 24)[:-20] + b"1234" + png(32, 24)[-16:],
        "PNG of color 6 with data of color 0": png(32, 24, zlib.compress(bytes(33 * 24)), color=6),
        "PNG of color 1": png(32, 24, zlib.compress(bytes(33 * 24)), color=1),
        "PNG with a text of 200 MB": png(32, 24, extra=text_bomb()),
        "PNG with a profile of 200 MB": png(32, 24, extra=profile_bomb()),
        "PNG with 2000 texts": png(32, 24, extra=png_chunk(b"tEXt", b"a\0b") * 2000),
        "PNG with an unknown critical chunk": png(32, 24, extra=png_chunk(b"ABCD", b"x")),
        "PNG with EXIF of 2 MB": png(32, 24, extra=png_chunk(b"eXIf", bytes(2_000_000))),
        "animated GIF": animation("GIF"),
        "animated WebP": animation("WEBP"),
        "animated PNG": animation("PNG"),
        "multipage TIFF": animation("TIFF"),
        "GIF of a huge canvas": b"GIF89a\xff\xff\xff\xff" + photo("GIF")[10:],
        "CMYK with Adobe's marker": cmyk(adobe=True),
        "CMYK without Adobe's marker": cmyk(adobe=False),
        "CMYK TIFF": encode(Image.fromarray(noise(bands=4), "CMYK"), "TIFF"),
        "gray": encode(Image.fromarray(noise(bands=1)), "PNG"),
        "gray of 16 bits, PNG": deep(ramp.astype(np.uint16), "PNG"),
        "gray of 16 bits, TIFF": deep(ramp.astype(np.uint16)),
        "gray of 32 bits": deep(ramp.astype(np.int32)),
        "gray of 32 bits below 0": deep(ramp.astype(np.int32) - 9),
        "color of 16 bits": png(4, 4, zlib.compress(bytes(4 * 25)), color=2, depth=16),
        "gray with alpha": encode(Image.fromarray(noise(bands=2), "LA"), "PNG"),
        "color with alpha": encode(Image.fromarray(noise(bands=4), "RGBA"), "PNG"),
        "transparent everywhere": encode(Image.new("RGBA", SIZE), "PNG"),
        "palette with a transparent color": palette(3),
        "palette with transparency": palette(bytes(range(16))),
        "palette with too long transparency": palette(bytes(256)),
        "1 bit": encode(Image.fromarray(noise(bands=1)).convert("1"), "PNG"),
        "1 bit TIFF": encode(Image.fromarray(noise(bands=1)).convert("1"), "TIFF"),
        "floats": deep(floats),
        "floats with NaN": deep(nan),
        "floats with infinity": deep(inf),
        "floats to 255": deep(floats * 255),
        "LAB": encode(Image.fromarray(noise(), "LAB"), "TIFF"),
        "EXIF of 64 KB": jpeg(segment(0xE1, b"Exif\0\0" + bytes(65000))),
        "20 segments of EXIF": jpeg(segment(0xE1, b"Exif\0\0MM\0*" + bytes(65000)) * 20),
        "EXIF with a loop": jpeg(segment(0xE1, exif((0x8769, 4, 1, b"\0\0\0\x08")))),
        "EXIF whose entries lie outside": jpeg(
            segment(0xE1, exif((0x0112, 3, 2**31, b"\xff" * 4), (0x010E, 2, 2**30, b"\xff" * 4)))
        ),
        "a false MPF segment": jpeg(segment(0xE2, b"MPF\0MM\0*\0\0\0\x08" + b"\xff" * 99)),
        "profile of 1 MB": with_profile(srgb + bytes(1_000_000), "JPEG"),
        "profile of junk": with_profile(b"junk" * 99),
        "empty profile": with_profile(b"\0"),
        "profile cut": with_profile(srgb[:200]),
        "profile with bits flipped": with_profile(srgb[:130] + b"\xff" * 60 + srgb[190:]),
        "profile of a false size": with_profile(b"\xff" * 4 + srgb[4:]),
        "profile of another color space": with_profile(srgb.replace(b"RGB XYZ ", b"CMYKLab ")),
        "profile in a TIFF": with_profile(b"junk" * 99, "TIFF"),
        "EXIF description that is no text": jpeg(
            segment(0xE1, exif((0x010E, 3, 1, b"\0\x05\0\0")))
        ),
    }
    for orientation in (0, 9, 255, 65535):
        value = struct.pack(">HH", orientation, 0)
        table[f"EXIF orientation {orientation}"] = oriented(3, value)
    table["EXIF orientation of text"] = oriented(2, b"left", 4)
    table["EXIF orientation of a fraction 0/0"] = oriented(5, b"\0\0\0\x08")
    table["EXIF orientation of 4 GB"] = oriented(3, b"\0\0\0\x08", 2**32 - 1)
    table["EXIF orientation without values"] = oriented(3, bytes(4), 0)
    for i in range(1, len(FORMATS)):
        table[f"{FORMATS[i]} named PNG"] = photo(FORMATS[i])
    for share in (0.02, 0.1, 0.3, 0.6, 0.9, 0.99):
        table |= cut(share)
    for seed in range(8):
        table |= flipped(seed)
    return table


def text_bomb():
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    return png_chunk(b"zTXt", b"Comment\0\0" + data)


def profile_bomb():
    return text_bomb().replace(b"zTXt", b"iCCP")  # Its checksum is false, which Pillow may ignore.
