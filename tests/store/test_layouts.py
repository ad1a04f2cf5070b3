"""Layouts: names of files to donor, marker, tile and channel."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import SettingsError, UnknownNameError
from fintune_xr.store.raw.layouts import LAYOUTS, PlaneName, choose_layout, safe_name


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("101/GFAP/scan3_b0c0.tif", PlaneName("101", "GFAP", "scan3", "0")),
        ("101/GFAP/scan3_b0c1.tiff", PlaneName("101", "GFAP", "scan3", "1")),
        ("101/GFAP/scan3_b0c1.TIF", PlaneName("101", "GFAP", "scan3", "1")),
        ("101/GFAP/scan3_b0c1x0-1388y0-1040.tif", PlaneName("101", "GFAP", "scan3_x0-1388y0-1040", "1")),
        ("101/GFAP/scan3_b0c1_ORG.tif", PlaneName("101", "GFAP", "scan3_ORG", "1")),
        ("101/GFAP/deep/er/scan3_b0c1.tif", PlaneName("101", "GFAP", "deep/er/scan3", "1")),
        ("101/GFAP/a_b0c0_b_b0c1.tif", PlaneName("101", "GFAP", "a_b0c0_b", "1")),
        ("101/IBA1_scan_b0c0.tif", PlaneName("101", "IBA1", "IBA1_scan", "0")),
        ("101/101_IBA1_scan_b0c0.tif", PlaneName("101", "IBA1", "101_IBA1_scan", "0")),
        ("101_OLIG2_7_b0c0.tif", PlaneName("101", "OLIG2", "101_OLIG2_7", "0")),
        ("ü ö/GFAP+/scan 3 (1)_b0c0.tif", PlaneName("ü ö", "GFAP+", "scan 3 (1)", "0")),
        ("101/GFAP/scan3.tif", None),
        ("101/GFAP/scan3_b0c0.png", None),
        ("101/GFAP/scan3_b0c0_metadata.xml", None),
    ],
)
def test_rosmap_names(path: str, expected: PlaneName | None) -> None:
    assert choose_layout("rosmap").parse(path) == expected


def test_planes_of_a_tile_share_their_id_and_differ_in_channel() -> None:
    layout = choose_layout("rosmap")
    first, second = layout.parse("d/GFAP/t_b0c0.tif"), layout.parse("d/GFAP/t_b0c1.tif")
    assert first is not None
    assert second is not None
    assert first.tile_id == second.tile_id == "d/GFAP/t"
    assert [layout.channels[plane.channel] for plane in (first, second)] == ["DAPI", "marker"]


def test_pattern_overrides_the_names_but_keeps_the_channels() -> None:
    pattern = r"(?P<marker>\w+)/(?P<donor>\d+)-(?P<tile>\d+)_ch(?P<channel>\d)\.tif"
    layout = choose_layout("rosmap", pattern=pattern)
    assert layout.parse("GFAP/12-3_ch1.tif") == PlaneName("12", "GFAP", "3", "1")
    assert layout.channels == {"0": "DAPI", "1": "marker"}
    assert layout.parse("12/GFAP/3_b0c1.tif") is None


def test_channel_tokens_may_be_written_as_in_the_names() -> None:
    pattern = r"(?P<donor>\d+)/(?P<tile>\w+)_(?P<channel>b0c\d)\.tif"
    layout = choose_layout("rosmap", pattern=pattern, channels={"b0c1": "GFAP", "b0c0": "Hoechst"})
    assert list(layout.channels.items()) == [("1", "GFAP"), ("0", "Hoechst")]
    assert layout.parse("7/x_b0c1.tif") == PlaneName("7", "unknown", "x", "1")
    with pytest.raises(SettingsError, match=r"channels \['c0', '0'\] are not all different"):
        choose_layout("rosmap", channels={"c0": "a", "0": "b"})


def test_pattern_without_marker_or_channel_takes_defaults() -> None:
    layout = choose_layout("custom", pattern=r"(?P<tile>(?P<donor>\w+?)_\w+)\.png", marker="NeuN")
    assert layout.parse("d7_a.png") == PlaneName("d7", "NeuN", "d7_a", "")
    assert layout.channels == {"": "marker"}
    assert choose_layout("custom").parse("d/a/b.png") == PlaneName("d", "unknown", "a/b", "")


def test_channels_are_named_by_the_caller() -> None:
    layout = choose_layout("rosmap", channels={"1": "marker", "0": "DAPI", "2": "autofluorescence"})
    assert list(layout.channels.values()) == ["marker", "DAPI", "autofluorescence"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "(unclosed"}, "not a regular expression: missing \\)"),
        ({"pattern": r"(?P<donor>.)(?P<tiles>.)"}, "no part is called 'tiles'.*Did you mean 'tile'"),
        ({"pattern": r"(?P<tile>.)\.tif"}, "does not say which part is the donor: name it"),
        ({"pattern": r"(?P<donor>.)\.tif"}, "does not say which part is the tile"),
        ({"pattern": r"x\.tif"}, "donor or the tile: name it"),
        ({"channels": {"0": "DAPI", "1": "DAPI"}}, "expected different channel names"),
        ({"channels": {}}, "expected different channel names"),
        (
            {"pattern": r"(?P<donor>.)/(?P<tile>.)", "channels": {"0": "a", "1": "b"}},
            "captures no channel, but channels",
        ),
    ],
)
def test_patterns_and_channels_that_cannot_work(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose_layout("rosmap", **arguments)  # type: ignore[arg-type]


def test_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no layout 'rosmapp'; known: .*Did you mean 'rosmap'"):
        choose_layout("rosmapp")


def test_every_layout_says_what_it_expects() -> None:
    assert all(layout.about and layout.name == name for name, layout in LAYOUTS.items())


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@given(first=names, second=names)
def test_safe_names_are_safe_and_never_collide(first: str, second: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9%-][A-Za-z0-9._%-]*|", safe_name(first)) or "__" in safe_name(first)
    assert "/" not in safe_name(first)
    assert len(safe_name(first * 20)) <= 150
    assert (safe_name(first) == safe_name(second)) == (first == second)


@pytest.mark.parametrize(
    ("tile_id", "expected"),
    [
        ("d1/GFAP/t_3", "d1__GFAP__t_3"),
        ("d/GFAP/a b", "d__GFAP__a%20b"),
        ("../x", "%2E.__x"),
        ("a__b", "a_%5Fb"),
    ],
)
def test_safe_names_read_well(tile_id: str, expected: str) -> None:
    assert safe_name(tile_id) == expected
