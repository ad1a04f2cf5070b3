"""Class masks drawn in colours: read by a legend of colours, and refused with the counts of what it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image

from fintune_xr import names as n
from fintune_xr.errors import SettingsError, TileReadError
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.seeds import stream
from fintune_xr.store.annotations.class_colours import blends, codes_of_colours
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.tasks.legend_files import parse_legend
from fintune_xr.tasks.legends import Legend, stored_legend
from fintune_xr.tasks.region_masks import region_legend

SHAPE = (90, 150)
COLOURS = {0: (255, 255, 255), 3: (200, 0, 10), 7: (0, 130, 60)}
LEGEND = "label,code,colour\nnothing,0,#ffffff\ntumor,3,#c8000A\nstroma,7,#00823c\n"


def codes(seed: int) -> NDArray[np.uint8]:
    blocks = stream(seed, "codes").choice(list(COLOURS), (3, 5)).astype(np.uint8)
    return np.kron(blocks, np.ones((30, 30), np.uint8))


def drawn(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), np.uint8)
    for code, colour in COLOURS.items():
        table[code] = colour
    return table[mask]


def palette_of(mask: NDArray[np.uint8]) -> Image.Image:
    """The same picture by numbers of a palette that are no codes."""
    image = Image.fromarray(np.searchsorted(list(COLOURS), mask).astype(np.uint8)).convert("L")
    image.putpalette([value for colour in COLOURS.values() for value in colour])
    return image


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four images, whose masks are PNG in colours, with opacity, with a palette, and a TIFF."""
    folder = tmp_path / "in"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for seed in range(4):
        rgb = stream(seed, "rgb").integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"images/p{seed}_a.png")
    Image.fromarray(drawn(codes(0))).save(folder / "masks/p0_a.png")
    Image.fromarray(np.dstack([drawn(codes(1)), np.full(SHAPE, 255, np.uint8)])).save(folder / "masks/p1_a.png")
    palette_of(codes(2)).save(folder / "masks/p2_a.png")
    tifffile.imwrite(folder / "masks/p3_a.tif", drawn(codes(3)), photometric="rgb", compression="zlib")
    return folder


@pytest.fixture
def legend(tmp_path: Path) -> Path:
    (tmp_path / "colours.csv").write_text(LEGEND)
    return tmp_path / "colours.csv"


@pytest.mark.parametrize("cut", [0, 64])
def test_colours_become_the_codes_of_the_legend(source: Path, tmp_path: Path, legend: Path, cut: int) -> None:
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="classes", cut=cut)
    report = annotate(source, store, layout="classes", legend=legend, ignore=[0])
    assert report.left_out == ()
    images, found = open_cohort(store).images().load(), open_cohort(store).annotations().load()
    for at, tile in enumerate(found[n.TILE].values.tolist()):
        one = images.sel({n.TILE: tile})
        y, x, h, w = (int(one[c]) for c in (n.ORIGIN_Y, n.ORIGIN_X, n.HEIGHT, n.WIDTH))
        expected = codes(int(tile.split("/")[0][1:]))[y : y + h, x : x + w]
        assert_array_equal(found[n.CLASSES].values[at, :h, :w], expected)
    stored = annotated_legend(open_cohort(store))
    assert (stored.meanings[7], stored.ignored, stored.colours[1]) == ("stroma", (0,), (200, 0, 10))
    assert found[n.CLASSES].attrs[n.FLAG_COLORS] == "#ffffff #c8000a #00823c"
    assert annotate(source, store, layout="classes", legend=legend, ignore=[0]).n_added == 0
    legend.write_text(LEGEND.replace("#00823c", "#00823d"))
    with pytest.raises(SettingsError, match="have legend 'colours'"):
        annotate(source, store, layout="classes", legend=legend, ignore=[0])


def test_masks_with_other_colours_are_left_out_with_the_counts(source: Path, tmp_path: Path, legend: Path) -> None:
    wrong = drawn(codes(0))
    wrong[0, :5], wrong[1, 0] = (1, 2, 3), (9, 9, 9)
    Image.fromarray(wrong).save(source / "masks/p0_a.png")
    smooth = Image.fromarray(drawn(codes(1))).resize((75, 45), Image.Resampling.BILINEAR).resize((150, 90), 0)
    smooth.save(source / "masks/p1_a.png")
    Image.fromarray(drawn(codes(2)).astype(np.uint8)).save(source / "masks/p2_a.jpg")
    (source / "masks/p2_a.png").unlink()
    tifffile.imwrite(source / "masks/p3_a.tif", drawn(codes(3)).astype(np.uint16), photometric="rgb")
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="classes")
    told = {item.donor: item.reason for item in annotate(source, store, layout="classes", legend=legend).left_out}
    assert told["p0"] == ("unknown colours: 6 of 13,500 pixels have none of the legend: #010203 (5 px), #090909 (1 px)")
    assert "of them lie between two colours of the legend, as anti-aliased" in told["p1"]
    assert told["p2"].startswith("lossy mask: JPEG")
    assert "expected red, green and blue of 8 bits each, found 3 of uint16" in told["p3"]


def test_without_a_legend_of_colours_its_option_is_named(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "he.zarr"
    ingest(source, store, layout="classes")
    told = {item.donor: item.reason for item in annotate(source, store, layout="classes").left_out}
    assert told["p0"].endswith(
        "found RGB pixels; a legend of colours says what they mean: --legend FILE (label, #rrggbb)"
    )
    assert "--legend" in told["p3"]


def legend_of(text: str, source: str = "x.csv", **options: Any) -> Legend:
    return parse_legend(text, name="x", source=source, **options)


def test_each_pixel_is_held_against_the_legend_alone() -> None:
    """The oracle goes over the pixels one by one."""
    found = legend_of(LEGEND)
    pixels = drawn(codes(5))[::7, ::7]
    back = {colour: code for code, colour in COLOURS.items()}
    expected = [[back[tuple(map(int, pixel))] for pixel in row] for row in pixels]
    assert codes_of_colours(pixels, found).tolist() == expected
    pixels = pixels.copy()
    pixels[2, 2] = (200, 0, 11)
    with pytest.raises(TileReadError, match=r"1 of 286 pixels have none of the legend: #c8000b \(1 px\)$"):
        codes_of_colours(pixels, found)


def test_blends_lie_between_two_colours_and_others_do_not() -> None:
    found = legend_of("a,#000000\nb,#c86400\nc,#0000ff\n")
    half, off, beyond, near = 0x643200, 0x640000, 0xCA6500, 0x010100
    assert blends(np.array([half, off, beyond, near], np.uint32), found).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("tumor,3,#ff0080\nnone,0,#ffffff\n", "x.csv"),
        ("name\tcode\tr\tg\tb\ntumor\t3\t255\t0\t128\nnone\t0\t255\t255\t255\n", "x.tsv"),
        (json.dumps({"tumor": {"code": 3, "colour": "#FF0080"}, "none": {"code": 0, "color": [255] * 3}}), "x.json"),
    ],
)
def test_the_ways_to_write_a_legend_of_colours(text: str, source: str) -> None:
    found = legend_of(text, source)
    assert found.rows == ((0, "none"), (3, "tumor"))
    assert found.colours == ((255, 255, 255), (255, 0, 128))
    assert stored_legend(found.attrs) == found


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("b c,#ff0000\na,#00ff00\n", "x.csv"),
        ("name,r,g,b\nb c,255,0,0\na,0,255,0", "x.csv"),
        ('{"b c": [255, 0, 0], "a": "#00ff00"}', "x.json"),
    ],
)
def test_without_codes_classes_are_numbered_in_their_order(text: str, source: str) -> None:
    assert legend_of(text, source, ignored=(1,)).rows == ((0, "b_c"), (1, "a"))


def test_codes_alone_in_json_and_digests_of_legends_without_colours() -> None:
    assert legend_of('{"a": 4, "b": 2}', "x.json") == Legend("x", ((2, "b"), (4, "a")), source="x.json")
    with_colours = legend_of("a,4,#000000\n")
    assert with_colours.sha256 != legend_of("a,4\n").sha256


@pytest.mark.parametrize(("text", "source", "said"), [
    ("a,#ff0000\nb,#ff0000\n", "x.csv", "#ff0000 is the colour of a, b"),
    ("a,1,#ff0000\nb,2\n", "x.csv", "b has no colour"),
    ("a,1,#ff0000\nb,#ff0001\n", "x.csv", "b has no code"),
    ("a,#ff0000\nb,#ff00\n", "x.csv", "line 2: expected a label and a code or colour"),
    ("a,0,0,0\nb,0,0,256\n", "x.csv", "line 2"),
    ('{"a": "#ff0000", "a": "#ff0001"}', "x.json", "'a' is there twice"),
    ('{"a": {"hue": 3}}', "x.json", "expected a code, a colour, or both"),
    ('{"a": true}', "x.json", "expected a code"),
    ('["a"]', "x.json", "expected an object of labels"),
    ("{", "x.json", "cannot be read as JSON"),
    ("{}", "x.json", "found none"),
])  # fmt: skip
def test_legends_that_are_refused(text: str, source: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        legend_of(text, source)


def test_regions_are_told_by_codes() -> None:
    with pytest.raises(SettingsError, match="told by codes, not by colours"):
        region_legend(legend_of("cortex,1,#ff0000\n"))
