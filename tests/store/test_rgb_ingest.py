"""Patches of stained tissue into a store: colours as decoded, what is refused, and images cut into tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.steps.ingest import ingest, plan_ingest
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest import last_planes
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.readers import read_planes_with_digest

NAME = "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500"
OTHER = "TCGA-A2-A0D2-DX1_xmin96887_ymin22299_MPP-0.5"


def colours(shape: tuple[int, int] = (70, 90), seed: int = 1) -> NDArray[np.uint8]:
    """A patch (y, x, 3) of noise."""
    return stream(seed, "colours").integers(0, 256, (*shape, 3)).astype(np.uint8)


def save(path: Path, pixels: NDArray[np.uint8], **options: object) -> Path:
    """`path`, with the pixels in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_colours_are_stored_as_decoded(tmp_path: Path) -> None:
    png, tiff = colours(seed=1), colours(seed=2)
    save(tmp_path / f"in/images/{NAME}.png", png)
    tifffile.imwrite(tmp_path / f"in/images/{OTHER}.tif", tiff, photometric="rgb", compression="zlib")
    (tmp_path / "in/images/__MACOSX").mkdir()
    save(tmp_path / f"in/images/__MACOSX/._{NAME}.png", png)
    save(tmp_path / f"in/images/.{NAME}.png", png)
    save(tmp_path / f"in/masks/{NAME}.png", png[..., 0])
    report = ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss")
    assert (report.n_added, report.left_out) == (2, ())
    images = open_cohort(tmp_path / "he.zarr").images(lazy=False)
    assert [str(c) for c in images[n.CHANNEL].values] == ["R", "G", "B"]
    assert [str(d) for d in images[n.DONOR].values] == ["TCGA-A1-A0SK", "TCGA-A2-A0D2"]
    assert images[n.MPP].values.tolist() == [0.25, 0.5]
    assert set(images[n.MARKER].values.tolist()) == {"HE"}
    assert_array_equal(images[n.IMAGE].values[0], np.moveaxis(png, 2, 0))
    assert_array_equal(images[n.IMAGE].values[1], np.moveaxis(tiff, 2, 0))


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = save(tmp_path / "in/images/d1_a.jpg", colours(), quality=80)
    ingest(tmp_path / "in", tmp_path / "he.zarr", layout="classes")
    stored = open_cohort(tmp_path / "he.zarr").images()[n.IMAGE][0].values
    assert_array_equal(stored, np.moveaxis(np.asarray(Image.open(path)), 2, 0))


def bad_images(folder: Path) -> dict[str, str]:
    """Files that cannot be patches, and a piece of the reason of each."""
    pixels = colours()
    save(folder / "alpha_1.png", np.dstack([pixels, pixels[..., :1]]))
    save(folder / "grey_1.png", pixels[..., 0])
    Image.fromarray(pixels).convert("P").save(folder / "palette_1.png")
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk_1.jpg")
    Image.fromarray(pixels).save(folder / "key_1.png", transparency=(1, 2, 3))
    tifffile.imwrite(folder / "sixteen_1.tif", pixels.astype(np.uint16) * 256, photometric="rgb")
    tifffile.imwrite(folder / "pages_1.tif", np.moveaxis(pixels, 2, 0), photometric="minisblack")
    tifffile.imwrite(folder / "alpha_2.tif", np.dstack([pixels, pixels[..., :1]]), photometric="rgb",
                     extrasamples=["unassalpha"])  # fmt: skip
    _sixteen_bit_png(folder / "sixteen_2.png", pixels)
    whole = save(folder / "broken_1.png", pixels).read_bytes()
    (folder / "broken_1.png").write_bytes(whole[: len(whole) // 2])
    save(folder / "tiny_1.png", pixels[:20, :40])
    return {
        "alpha_1.png": "RGBA", "grey_1.png": "without colour", "palette_1.png": "without colour", "cmyk_1.jpg": "CMYK",
        "key_1.png": "transparent colour", "sixteen_1.tif": "wrong dtype", "pages_1.tif": "without colour",
        "alpha_2.tif": "opacity (alpha)", "sixteen_2.png": "16 bits", "broken_1.png": "truncated",
        "tiny_1.png": "32 px or more",
    }  # fmt: skip


def _sixteen_bit_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A PNG of 16 bits a colour, written by hand: Pillow cannot."""
    import struct
    import zlib

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_what_is_no_patch_goes_to_quarantine(tmp_path: Path) -> None:
    save(tmp_path / "in/images/good_1.png", colours())
    reasons = bad_images(tmp_path / "in/images")
    report = ingest(tmp_path / "in", tmp_path / "he.zarr", layout="classes")
    assert report.n_added == 1
    told = {item.path.rpartition("/")[2].partition("#")[0]: item.reason for item in report.left_out}
    assert told.keys() == reasons.keys()
    assert {name: piece for name, piece in reasons.items() if piece not in told[name]} == {}, told
    stored = open_cohort(tmp_path / "he.zarr").quarantine()
    assert stored.sizes[n.ITEM] == len(reasons)


def test_cut_images_come_together_again(tmp_path: Path) -> None:
    pixels = {NAME: colours((331, 260), seed=3), OTHER: colours((190, 200), seed=4)}
    for name, one in pixels.items():
        save(tmp_path / f"in/rgbs_colorNormalized/{name}.png", one)
    ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss", cut=128)
    images = open_cohort(tmp_path / "he.zarr").images(lazy=False)
    again = {name: np.zeros_like(one) for name, one in pixels.items()}
    covered = {name: np.zeros(one.shape[:2], int) for name, one in pixels.items()}
    for at, tile in enumerate(images[n.TILE].values):
        one = images.isel({n.TILE: at})
        name, _, place = str(tile).rpartition("/")[2].partition("@")
        assert place.startswith("y")
        y, x, h, w = (int(one[c]) for c in (n.ORIGIN_Y, n.ORIGIN_X, n.HEIGHT, n.WIDTH))
        again[name][y : y + h, x : x + w] = np.moveaxis(one[n.IMAGE].values[:, :h, :w], 0, 2)
        covered[name][y : y + h, x : x + w] += 1
        assert (int(one[n.SOURCE_HEIGHT]), int(one[n.SOURCE_WIDTH])) == pixels[name].shape[:2]
    for name, one in pixels.items():
        assert_array_equal(again[name], one)
        assert (covered[name] == 1).all()


def test_a_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate((NAME, OTHER)):
        save(tmp_path / f"in/images/{name}.png", colours((256, 256), seed=seed))
    seen: list[str] = []
    decoded: list[str] = []
    original, prepare = last_planes.read_planes_with_digest, PngImagePlugin.PngImageFile.load_prepare

    def noting(place: Path, **options: object) -> object:
        seen.append(str(place))
        return original(place, **options)  # type: ignore[arg-type]

    def decoding(self: PngImagePlugin.PngImageFile) -> None:
        decoded.append(str(self.size))
        prepare(self)

    monkeypatch.setattr(last_planes, "read_planes_with_digest", noting)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", decoding)
    ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss", cut=64, workers=2)
    assert len(seen) == len(set(seen)) == len(decoded) == 2


def test_words_behind_the_pixels_of_a_png_are_heeded(tmp_path: Path) -> None:
    """A picture that lies on its side, as Exif says before its pixels, or behind them as the format allows."""
    exif, pixels = Image.Exif(), colours((60, 90))
    exif[0x0112] = 6
    before = save(tmp_path / "before.png", pixels, exif=exif.tobytes())
    content = before.read_bytes()
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    ending = content.index(b"IEND") - 4
    behind = tmp_path / "behind.png"
    behind.write_bytes(content[:start] + content[stop:ending] + content[start:stop] + content[ending:])
    assert b"eXIf" in behind.read_bytes()[behind.read_bytes().index(b"IDAT") :]
    for path in (before, behind):
        planes, _ = read_planes_with_digest(str(path), pages=range(3))
        assert_array_equal(np.stack(planes, -1), np.rot90(pixels, -1))
    planes, _ = read_planes_with_digest(str(save(tmp_path / "none.png", pixels)), pages=range(3))
    assert_array_equal(np.stack(planes, -1), pixels)


def test_masks_beside_the_images_are_not_called_misnamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (f"images/{NAME}.png", f"masks/{NAME}.png", "images/else.png", "thumbs/else.png", "images/a.webp"):
        save(tmp_path / "in" / path, colours())
    ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss")
    told = capsys.readouterr().err
    assert "passed over: 2 x image whose name does not fit the layout, e.g. images/else.png" in told
    assert "passed over: 1 x .webp, e.g. images/a.webp" in told
    assert "masks/" not in told


def test_cut_is_the_stores(tmp_path: Path) -> None:
    save(tmp_path / f"in/images/{NAME}.png", colours((128, 128)))
    ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss", cut=64)
    assert ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss", cut=64).n_present == 4
    with pytest.raises(FintuneValueError, match="made with --cut 64, asked for is 0"):
        ingest(tmp_path / "in", tmp_path / "he.zarr", layout="bcss")
    save(tmp_path / "em/one.png", colours()[..., 0])
    with pytest.raises(FintuneValueError, match="only patches of stained tissue are cut"):
        ingest(tmp_path / "em", tmp_path / "em.zarr", layout="micrographs", cut=64)


@pytest.mark.parametrize(("layout", "path", "donor", "tile"), [
    ("bcss", f"0_Public/images/{NAME}.png", "TCGA-A1-A0SK", NAME),
    ("bcss", f"rgbs_colorNormalized/{OTHER}.png", "TCGA-A2-A0D2", OTHER),
    ("ebhi", "images/A-GT2001814-2-400-001.png", "2001814", "A-GT2001814-2-400-001"),
    ("ebhi", "images/B-GTDC2102188-3-400-002.png", "2102188", "B-GTDC2102188-3-400-002"),
    ("classes", "images/p7_field3.png", "p7", "p7_field3"),
    ("classes", "images/p7/field3.png", "p7", "field3"),
])  # fmt: skip
def test_names_of_the_layouts(layout: str, path: str, donor: str, tile: str) -> None:
    name = choose_layout(layout).parse(path)
    assert name is not None
    assert (name.donor, name.tile) == (donor, tile)


@pytest.mark.parametrize(("layout", "path"), [
    ("bcss", f"masks/{NAME}.png"), ("bcss", f"images/__MACOSX/{NAME}.png"), ("bcss", f"__MACOSX/images/{NAME}.png"),
    ("bcss", f"images/.{NAME}.png"), ("bcss", "images/other.png"), ("classes", "images/._p7_field3.png"),
])  # fmt: skip
def test_what_the_layouts_pass_over(layout: str, path: str) -> None:
    assert choose_layout(layout).parse(path) is None


def test_every_published_region_has_its_donor(real_data: Path) -> None:
    rows = (real_data / "bcss/meta/roiBounds.csv").read_text().splitlines()[1:]
    layout = choose_layout("bcss")
    donors = []
    for row in rows:
        slide, x, y, *_ = row.split(",")
        name = layout.parse(f"images/{slide}_xmin{x}_ymin{y}_MPP-0.2500.png")
        assert name is not None
        assert slide == f"{name.donor}-DX1"
        donors.append(name.donor)
    assert len(set(donors)) == len(rows) == 151


def test_plan_of_cut_images(tmp_path: Path) -> None:
    save(tmp_path / f"in/images/{NAME}.png", colours((128, 256)))
    table = plan_ingest(tmp_path / "in", layout="bcss", cut=64).tiles
    assert table.tiles.tolist() == [8]
