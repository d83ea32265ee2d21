"""Samples of any depth and sign as grey levels, and palettes: the look-ups of a DICOM header.

Modality (PS3.3 C.11.1), window or VOI table (C.11.2), palette (C.7.6.3.1.5). Their depth is the one that is used, where
the header claims more.
"""

import math
from collections.abc import Callable

import numpy as np

from discovr_jax.data.io import dicom_errors
from discovr_jax.data.io.dicom_values import BAD_VALUE, numbers, text

_PALETTES = tuple(
    f"{name}PaletteColorLookupTable{part}" for name in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
)
# OverlayBitPosition of the sixteen overlays that there can be: a bit of the samples that is none of theirs.
_OVERLAY_BITS = tuple(0x60000102 + (number << 17) for number in range(16))
TAGS = (
    *_OVERLAY_BITS,
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    *_PALETTES,
    *(f"Segmented{name}" for name in _PALETTES if name.endswith("Data")),
)
# Bits fewer than BitsStored from which on a header is not believed: a clip that dark shows nothing.
_FEWER_BITS = 3
_LEAST_CONTRAST = 32  # grey levels that a window must leave


def grey(header, values: np.ndarray, apply_lookups: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples of any depth and sign as grey levels, uint8 of the same shape, as they are shown, and flags.

    Args:
      apply_lookups: the header's rescale and window apply to them.
    """
    values, flags = _aligned(header, _without_overlays(header, values)), set()
    padding = _padding(header, values)
    low, high = (int(ends(values if padding is None else values[~padding])) for ends in (np.min, np.max))
    modality, voi = (_modality(header), _voi(header)) if apply_lookups else (None, None)
    if voi is not None:
        displayed = np.array([low, high]) if modality is None else modality(np.array([low, high]))
        if low < high and np.ptp(voi(np.linspace(*displayed, 64))) < _LEAST_CONTRAST:
            voi, flags = None, {"implausible_window"}  # it would show next to nothing
    limits = _stored_range(int(header.BitsStored), low, high, flags if voi is None else set())

    def display(every: np.ndarray) -> np.ndarray:
        ends = np.array(limits)
        if modality is not None:
            ends, every = modality(ends), modality(every)
        if voi is not None:
            return voi(every)
        first, last = float(min(ends)), float(max(ends))
        return np.clip(np.rint((every.astype(np.float64) - first) * (255 / (last - first))), 0, 255).astype(np.uint8)

    if values.itemsize > 2:
        frames = np.stack([display(frame) for frame in values])
    else:
        frames = looked_up(per_value(values, display), values)
    if header.PhotometricInterpretation == "MONOCHROME1":
        frames = 255 - frames
    if padding is not None:
        frames[padding] = 0
    return frames, tuple(sorted(flags))


def per_value(values: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`function` of every number that samples of 8 or 16 bits can have, in the order of `looked_up`."""
    if values.itemsize > 2:
        raise dicom_errors.Undecodable(f"palettes have up to 16 bits, not {8 * values.itemsize}")
    every = np.arange(2 ** (8 * values.itemsize), dtype=f"u{values.itemsize}")
    return function(every.view(values.dtype.newbyteorder("=")))


def looked_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    return table[values.astype(values.dtype.newbyteorder("="), copy=False).view(f"u{values.itemsize}")]


def _without_overlays(header, values: np.ndarray) -> np.ndarray:
    """Samples without the bits that hold a drawing (PS3.5 8.1.2, as old scanners still write it).

    From the lowest of those bits on nothing is of the samples, so that a sign is carried on from below it.
    """
    places = [int((numbers(header, name) or [0])[0]) for name in _OVERLAY_BITS]
    width = 8 * values.itemsize
    spare = width - min((place for place in places if int(header.BitsStored) <= place < width), default=width)
    return values << spare >> spare if spare else values


def _padding(header, values: np.ndarray) -> np.ndarray | None:
    """Which samples fill what is outside the picture (PS3.3 C.7.5.1.1.2), bool of their shape; None if none do."""
    first, last = numbers(header, "PixelPaddingValue"), numbers(header, "PixelPaddingRangeLimit")
    if not first:
        return None
    ends = sorted([first[0], last[0] if last else first[0]])
    padding = (values >= ends[0]) & (values <= ends[1])
    return padding if padding.any() and not padding.all() else None


def _aligned(header, values: np.ndarray) -> np.ndarray:
    """Samples moved down to bit 0, with the sign bit of BitsStored carried on."""
    stored = int(header.BitsStored)
    shift = int((numbers(header, "HighBit") or [stored - 1])[0]) + 1 - stored
    if 0 < shift <= 8 * values.itemsize - stored:
        values = values >> shift
    spare = 8 * values.itemsize - stored
    if values.dtype.kind == "i" and spare > 0 and values.min() >= 0 and 2 ** (stored - 1) <= values.max() < 2**stored:
        values = (values << spare) >> spare
    return values


def _stored_range(bits: int, low: int, high: int, flags: set[str]) -> tuple[int, int]:
    """The smallest and largest number that samples can have: by the header, unless those seen show another depth."""
    signed = low < 0
    needed = max(8, int(high).bit_length(), *([(-low - 1).bit_length() + 1, high.bit_length() + 1] if signed else []))
    if needed > max(bits, 8) or (needed <= bits - _FEWER_BITS):
        flags.add("bits_unlike_header")
        bits = needed
    elif high >= 2**bits:
        bits = needed
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _modality(header) -> Callable[[np.ndarray], np.ndarray] | None:
    """The modality look-up; None if the header has none that can be applied."""
    import pydicom.pixels

    slope, intercept = numbers(header, "RescaleSlope"), numbers(header, "RescaleIntercept")
    rescaled = slope and intercept and math.isfinite(slope[0]) and math.isfinite(intercept[0]) and slope[0] != 0
    table = _has_table(header, "ModalityLUTSequence")
    if not table:
        if not (rescaled and len(slope) == len(intercept) == 1):
            return None
        return lambda values: values.astype(np.float64) * slope[0] + intercept[0]

    def look_up(values: np.ndarray) -> np.ndarray:
        with dicom_errors.library():
            return pydicom.pixels.apply_modality_lut(values, header)

    return look_up


def _voi(header) -> Callable[[np.ndarray], np.ndarray] | None:
    """The first VOI look-up, to uint8; None if the header has none that can be applied."""
    import pydicom.pixels

    if _has_table(header, "VOILUTSequence"):
        entries, start = (int(number) for number in header.VOILUTSequence[0].LUTDescriptor[:2])
        ends = start, start + (entries or 2**16) - 1
        with dicom_errors.library():
            table = pydicom.pixels.apply_voi(np.arange(ends[0], ends[1] + 1), header)
        top = 2 ** max(8, int(table.max()).bit_length()) - 1

        def look_up(values: np.ndarray) -> np.ndarray:
            with dicom_errors.library():
                # Clipped: pydicom would wrap them round.
                result = pydicom.pixels.apply_voi(np.clip(np.rint(values), *ends).astype(np.int64), header)
            return np.rint(result * (255 / top)).astype(np.uint8)

        return look_up
    center, width = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    function = text(header, "VOILUTFunction") or "LINEAR"
    if not center or not width or not math.isfinite(center[0]) or not 0 < width[0] < math.inf:
        return None
    return lambda values: _window(values.astype(np.float64), center[0], width[0], function)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, to uint8."""
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        share = (values - center) / width + 0.5
    elif width > 1:
        share = (values - (center - 0.5)) / (width - 1) + 0.5
    else:
        share = (values > center - 0.5).astype(np.float64)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _has_table(header, name: str) -> bool:
    """Whether a sequence holds a look-up table that is whole."""
    try:
        item = (header.get(name) or [None])[0]
        return item is not None and _is_whole(item.LUTDescriptor, item.LUTData)
    except (AttributeError, *BAD_VALUE):  # the first: the item has no such element
        return False


def _is_whole(descriptor, data) -> bool:
    """Whether a table holds as many entries as its descriptor says: numbers, or in bytes one or two of each."""
    if len(descriptor) != 3:
        return False
    entries = int(descriptor[0]) or 2**16
    return len(data) >= (entries if not isinstance(data, bytes) or descriptor[2] <= 8 else 2 * entries)


def palette(header, values: np.ndarray) -> np.ndarray:
    """Indices [N] as red, green, blue, uint8 [N, 3]; entries of 16 bits may be filled to 255 only."""
    import pydicom.pixels

    is_little, sizes = header.file_meta.TransferSyntaxUID.is_little_endian, set()
    for described, name in zip(_PALETTES[::2], _PALETTES[1::2], strict=True):
        descriptor = numbers(header, described) or []
        if len(descriptor) == 3 and descriptor[2] not in (8, 16):
            raise dicom_errors.Undecodable(f"{described} says that entries have {descriptor[2]:g} bits, not 8 or 16")
        if f"Segmented{name}" in header:
            continue
        with dicom_errors.library():
            data = header.get(name)
        size = _palette_bytes(descriptor, data)
        if not size:
            raise dicom_errors.Undecodable(f"{name} is missing, or shorter than its descriptor says")
        sizes.add(size)
        if not is_little and header[name].VR == "OW":  # pydicom takes them for little endian
            data = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()
        header[name].value = data[:size]  # pydicom goes by its length
    if len(sizes) > 1:  # pydicom goes by the descriptor of red alone
        raise dicom_errors.Undecodable(f"its palettes have {sorted(sizes)} bytes; those of all colours are alike")
    with dicom_errors.library():
        rgb = pydicom.pixels.apply_color_lut(values, header)[..., :3]
    if rgb.dtype == np.uint8 or rgb.max() <= 255:
        return rgb.astype(np.uint8)
    return np.rint(rgb * (255 / 65535)).astype(np.uint8)


def _palette_bytes(descriptor: list[float], data) -> int:
    """The bytes that are a palette's entries; 0 if they are not whole.

    Entries that are bytes may be called 16 bits wide: then only their number, filled to an even one, tells them from
    such a palette that is cut off.
    """
    if len(descriptor) != 3 or not isinstance(data, bytes):
        return 0
    entries = int(descriptor[0]) or 2**16
    if len(data) >= 2 * entries:
        return 2 * entries
    is_packed = len(data) >= entries if descriptor[2] <= 8 else len(data) in (entries, entries + entries % 2)
    return entries if is_packed else 0
