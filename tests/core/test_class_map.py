"""Legends and class maps: the table of BCSS against its published file, and names held against codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fintune_xr.errors import SettingsError, UnknownNameError
from fintune_xr.settings import load_settings, validate
from fintune_xr.tasks.class_map import ClassMap, check_class_map, confirmed_clashes, default_class_map, joined_codes
from fintune_xr.tasks.legend_files import parse_legend
from fintune_xr.tasks.legends import BCSS, EBHI, Legend, choose_legend, stored_legend, unnamed_legend


def test_bcss_legend_is_the_published_table(real_data: Path) -> None:
    rows = [line.split("\t") for line in (real_data / "bcss/meta/gtruth_codes.tsv").read_text().splitlines()[1:]]
    assert {int(code): label for label, code in rows} == dict(BCSS.meanings)


def test_bcss_legend_says_what_the_study_needs() -> None:
    meanings = BCSS.meanings
    assert (meanings[9], meanings[18], meanings[0], len(meanings)) == ("fat", "blood_vessel", "outside_roi", 22)
    assert BCSS.ignored == (0,)


def test_nine_is_fat_is_asked_before_it_is_obeyed() -> None:
    with pytest.raises(SettingsError) as told:
        check_class_map(ClassMap(classes={"tumor": (1,), "blood_vessel": (9,)}), BCSS)  # type: ignore[arg-type]
    assert "code 9 is 'fat' in these annotations; blood_vessel is 18; write 18, or confirm: confirm_codes=[9]" in str(
        told.value
    )


def test_codes_that_a_class_takes_in_are_told() -> None:
    asked = load_settings(ClassMap, {"classes": {"blood_vessel": [9, 18], "tumor": [1, 19, 20], "tils": [3]}})
    assert check_class_map(asked, BCSS) is asked
    assert joined_codes(asked, BCSS) == (
        "blood_vessel takes in code 9 (fat)", "tumor takes in code 19 (angioinvasion), 20 (dcis)"
    )  # fmt: skip
    confirmed = asked.model_copy(update={"confirm_codes": (9, 19, 20)})
    assert joined_codes(confirmed, BCSS) == ()
    assert joined_codes(ClassMap(), BCSS) == ()
    assert joined_codes(asked, unnamed_legend([1, 3, 9, 18, 19, 20])) == ()


def test_a_confirmed_clash_is_kept_for_the_report() -> None:
    asked = load_settings(ClassMap, {"classes": {"blood_vessel": [9]}, "confirm_codes": [9]})
    assert check_class_map(asked, BCSS) is asked
    assert confirmed_clashes(asked, BCSS) == ("blood_vessel is code 9, called fat in the annotations (confirmed)",)
    assert confirmed_clashes(ClassMap(), BCSS) == ()


@pytest.mark.parametrize("classes", [
    {"tumor": [1, 19, 20]}, {"Tumour": [1]}, {"lymphocyte": [3]}, {"necrosis": [4]}, {"vessel": [18]},
    {"TIL": [3, 10]}, {"normal_acinus": [13]}, {"fat": [9]},
])  # fmt: skip
def test_names_that_are_right(classes: dict[str, list[int]]) -> None:
    check_class_map(load_settings(ClassMap, {"classes": classes}), BCSS)


@pytest.mark.parametrize(("classes", "told"), [
    ({"stroma": [1]}, "stroma is 2; write 2"),
    ({"blood": [18]}, "blood is 6"),
    ({"epithelium": [1]}, r"no code is called so; confirm: confirm_codes=\[1\]"),
    ({"tumor": [37]}, "no code 37 in the legend"),
    ({"tumor": [0]}, "code 0 is ignored in these annotations"),
])  # fmt: skip
def test_names_that_do_not_fit(classes: dict[str, list[int]], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        check_class_map(load_settings(ClassMap, {"classes": classes}), BCSS)


@pytest.mark.parametrize(("values", "told"), [
    ({"classes": {"a": [1], "b": [1]}}, "code 1 is in a and in b"),
    ({"classes": {"a": []}}, "expected one code or more"),
    ({"classes": {"rest": [1]}}, "class 'rest'"),
    ({"classes": [["a", [1]], ["a", [2]]]}, "expected different names"),
    ({"classes": {"a": [300]}}, "codes from 0 to 255"),
    ({"classes": {"a": [1]}, "rests": "other"}, "Did you mean 'rest'"),
])  # fmt: skip
def test_maps_that_make_no_sense(values: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        validate(ClassMap, values)


def test_order_of_classes_is_part_of_the_digest_and_survives_json() -> None:
    one = load_settings(ClassMap, None, ["classes={tumor:[1],stroma:[2]}"])
    other = load_settings(ClassMap, None, ["classes={stroma:[2],tumor:[1]}"])
    assert one.names == ("tumor", "stroma")
    assert one.digest != other.digest
    assert ClassMap.model_validate(one.as_dict()) == one


@given(st.permutations(range(22)), st.integers(1, 6), st.sampled_from(["other", "ignore"]))
def test_labels_follow_the_map_code_by_code(order: list[int], n_classes: int, rest: str) -> None:
    chosen = [code for code in order if code != 0][:n_classes]
    asked = validate(ClassMap, {"classes": {f"c{k}": [code] for k, code in enumerate(chosen)}, "rest": rest})
    codes = np.arange(22, dtype=np.uint8).reshape(2, 11)
    expected = [
        255 if code == 0 else chosen.index(code) + 1 if code in chosen else 0 if rest == "other" else 255
        for code in range(22)
    ]
    assert_array_equal(asked.labels(codes, BCSS.ignored).ravel(), expected)
    assert [int(asked.run_codes()[k + 1]) for k in range(n_classes)] == chosen


def test_a_legend_without_names_checks_codes_only() -> None:
    legend = unnamed_legend([1, 7])
    assert not legend.is_named
    check_class_map(load_settings(ClassMap, {"classes": {"anything": [7]}}), legend)
    with pytest.raises(SettingsError, match="no code 2"):
        check_class_map(load_settings(ClassMap, {"classes": {"anything": [2]}}), legend)


def test_only_bcss_has_agreed_classes() -> None:
    assert default_class_map(BCSS).names == ("tumor", "stroma", "lymphocyte", "necrosis", "blood_vessel")
    with pytest.raises(SettingsError, match="Say which there are"):
        default_class_map(EBHI)


def test_legend_tables_are_read_and_stored() -> None:
    legend = parse_legend("label\tcode\nDon't-know... \t0\n".replace("'", "").replace("...", "")
                          + "fat cells\t9\ntumor,1\n", name="mine", source="mine.tsv", ignored=(0,))  # fmt: skip
    assert legend.rows == ((0, "Dont-know"), (1, "tumor"), (9, "fat_cells"))
    assert stored_legend(legend.attrs) == legend
    assert stored_legend(BCSS.attrs).sha256 == BCSS.sha256
    assert legend.sha256 != BCSS.sha256


@pytest.mark.parametrize(("text", "told"), [
    ("", "found none"), ("a\t1\nb\t1\n", "code 1 is there twice"), ("a\t1\nb\n", "line 2: expected a label"),
    ("label\tcode\nx\t1\ny\tten\n", "line 3"), ("a\t1\na\t2\n", "several codes mean a"), ("a\t1000\n", "0 to 255"),
])  # fmt: skip
def test_legend_tables_that_are_refused(text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        parse_legend(text, name="x", source="x.tsv")


def test_unknown_legends_are_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'bcss'"):
        choose_legend("bcs")


def test_ignored_codes_must_be_in_the_table() -> None:
    with pytest.raises(SettingsError, match="code 5 is to be ignored"):
        parse_legend("a\t1\n", name="x", source="x.tsv", ignored=(5,))
    assert Legend("x", ((1, "a"),), source="s").ignored == ()


def test_a_class_of_one_code_needs_no_brackets() -> None:
    assert load_settings(ClassMap, {"classes": {"a": 1, "b": [2, 3]}}).classes == (("a", (1,)), ("b", (2, 3)))
