"""The clinical table: ids as spreadsheets leave them, values as codebooks allow them, and every door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.analysis.clinical import clinical_outcomes, donor_key, read_clinical
from fintune_xr.analysis.outcomes import BETTER, BROKEN, DEFAULT_OUTCOMES, KNOWN_OUTCOMES, UNKNOWN, WORSE
from fintune_xr.analysis.reference_figures import published_segmentation
from fintune_xr.errors import FintuneValueError, UnknownNameError


def table() -> pd.DataFrame:
    """Four rows as text, the way that `read_clinical` returns them."""
    return pd.DataFrame(
        {
            "projid": ["00123", "45.0", "777", ""],
            "braaksc": ["3", "4", "", "1"],
            "ceradsc": ["1", "4", "2", ""],
            "cogdx": ["5", "6", "1", ""],
            "age_death": ["90+", "88.25", "NA", "70"],
            "note": ["a", "b", "", ""],
            "mmse": ["20", "28", "25", ""],
        }
    )


def test_donors_match_whatever_a_spreadsheet_did_to_their_ids() -> None:
    found = clinical_outcomes(table(), ["00000123", "45", "9"], donor_column="projid", outcomes=["braaksc", "mmse"])
    np.testing.assert_array_equal(found.outcome_value, [[3, 20], [4, 28], [np.nan, np.nan]])
    assert found.attrs["donors_without_row"] == ["9"]
    assert found.attrs["rows_without_donor"] == ["777"]
    assert found.attrs["n_rows_without_id"] == 1


@given(st.integers(0, 10**9), st.integers(0, 6), st.sampled_from(["", ".0", ".00"]))
def test_a_number_is_one_id_in_all_spellings(number: int, zeros: int, tail: str) -> None:
    assert donor_key("0" * zeros + str(number) + tail) == str(number)
    assert donor_key(number) == donor_key(float(number)) == str(number)


@pytest.mark.parametrize("text", ["R0012", "12a", "1.5", "TCGA-A2", "-3"])
def test_other_ids_are_kept_as_they_are(text: str) -> None:
    assert donor_key(f" {text} ") == text


def test_every_outcome_states_its_direction() -> None:
    names = ["braaksc", "ceradsc", "cogdx", "cogdx_ordered", "mmse"]
    found = clinical_outcomes(table(), ["123"], donor_column="projid", outcomes=names)
    assert found.direction.values.tolist() == [WORSE, BETTER, BROKEN, WORSE, UNKNOWN]
    assert "4 no AD" in str(found.meaning.sel(outcome="ceradsc").item())
    assert set(DEFAULT_OUTCOMES) <= set(KNOWN_OUTCOMES)


def test_diagnoses_can_be_put_in_order() -> None:
    rows = pd.DataFrame({"projid": list("123456"), "cogdx": list("123456")})
    found = clinical_outcomes(rows, list("123456"), donor_column="projid", outcomes=["cogdx", "cogdx_ordered"])
    np.testing.assert_array_equal(found.outcome_value.sel(outcome="cogdx"), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(found.outcome_value.sel(outcome="cogdx_ordered"), [1, 2, 2, 3, 3, np.nan])


def test_top_coded_ages_count_as_their_bound_and_are_reported() -> None:
    found = clinical_outcomes(
        table(), ["123", "45", "777"], donor_column="projid", outcomes=["braaksc"], covariates=["age_death"]
    )
    np.testing.assert_array_equal(found.covariate_value.values.ravel(), [90, 88.25, np.nan])
    assert found.attrs["top_coded"] == ["age_death: 1"]


def test_outcomes_that_cannot_be_used_say_why() -> None:
    rows = pd.DataFrame(
        {
            "id": list("abcd"),
            "empty": ["", "NA", "nan", ""],
            "same": ["2"] * 4,
            "two": ["1", "2", "", ""],
            "fine": ["1", "2", "3", "3"],
        }
    )
    names = ["empty", "same", "two", "fine"]
    found = clinical_outcomes(rows, list("abcd"), donor_column="id", outcomes=names)
    assert found.reason.values.tolist() == [
        "no donor has a value",
        "the value is the same in all donors",
        "only 2 donors have a value",
        "",
    ]


def test_numbers_of_a_table_that_pandas_typed() -> None:
    rows = pd.DataFrame({"projid": [123.0, 45.0, np.nan], "braaksc": [3.0, np.nan, 1.0], "msex": [1, 0, 1]})
    found = clinical_outcomes(rows, ["0123", "45"], donor_column="projid", outcomes=["braaksc"], covariates=["msex"])
    np.testing.assert_array_equal(found.outcome_value.values.ravel(), [3, np.nan])
    np.testing.assert_array_equal(found.covariate_value.values.ravel(), [1, 0])


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".txt", "\t")])
def test_ids_keep_their_zeros_when_read(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"clinical{suffix}"
    path.write_text("\ufeff" + table().to_csv(index=False, sep=separator), encoding="utf-8")
    found = read_clinical(path)
    pd.testing.assert_frame_equal(found, table(), check_dtype=False)
    assert found.projid[0] == "00123"


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match=r"ending in \.csv, \.tsv, \.tab, \.txt, got '\.xlsx'"):
        read_clinical(tmp_path / "clinical.xlsx")
    with pytest.raises(FintuneValueError, match=r"no clinical table .*clinical\.csv\. Give the path"):
        read_clinical(tmp_path / "clinical.csv")
    (tmp_path / "semicolons.csv").write_text("projid;braaksc\n1;2\n")
    with pytest.raises(FintuneValueError, match="separated by ',', found one: 'projid;braaksc'"):
        read_clinical(tmp_path / "semicolons.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(FintuneValueError, match="cannot be read as a table of text"):
        read_clinical(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81,\n")
    with pytest.raises(FintuneValueError, match="cannot be read as a table of text"):
        read_clinical(tmp_path / "binary.csv")


def test_unknown_columns_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no donor column in the clinical table 'projd'.*'projid'\?"):
        clinical_outcomes(table(), ["123"], donor_column="projd", outcomes=["braaksc"])
    with pytest.raises(UnknownNameError, match=r"no outcome in the clinical table 'braksc'.*'braaksc'\?"):
        clinical_outcomes(table(), ["123"], donor_column="projid", outcomes=["braksc"])
    with pytest.raises(UnknownNameError, match=r"no covariate in the clinical table 'age_deth'.*'age_death'\?"):
        clinical_outcomes(table(), ["123"], donor_column="projid", outcomes=[], covariates=["age_deth"])
    with pytest.raises(FintuneValueError, match="outcome 'braaksc' was asked for more than once"):
        clinical_outcomes(table(), ["123"], donor_column="projid", outcomes=["braaksc", "braaksc"])


def test_values_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(FintuneValueError, match=r"column 'note' .*expected numbers, found 'a', 'b'"):
        clinical_outcomes(table(), ["123"], donor_column="projid", outcomes=["note"])
    wrong = table().assign(ceradsc=["1", "9", "2", ""])
    with pytest.raises(FintuneValueError, match=r"'ceradsc': expected values from 1 to 4, found 9 for donor '45'"):
        clinical_outcomes(wrong, ["123", "45"], donor_column="projid", outcomes=["ceradsc"])
    twice = table().assign(projid=["123", "0123.0", "777", ""])
    with pytest.raises(FintuneValueError, match=r"donor '0123.0' stands in rows 1 and 2 .*one row per donor"):
        clinical_outcomes(twice, ["123"], donor_column="projid", outcomes=["braaksc"])


def test_donors_that_cannot_be_joined_are_refused() -> None:
    with pytest.raises(FintuneValueError, match=r"no donor of the cohort \('8', '9'\) is in column 'projid'"):
        clinical_outcomes(table(), ["8", "9"], donor_column="projid", outcomes=["braaksc"])
    with pytest.raises(FintuneValueError, match=r"donors \['45', '045'\] of the cohort are one id"):
        clinical_outcomes(table(), ["45", "045"], donor_column="projid", outcomes=["braaksc"])


def test_published_figures_are_consistent() -> None:
    scores = published_segmentation()
    precision, recall = scores.sel(metric="precision"), scores.sel(metric="recall")
    f1 = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(f1, scores.sel(metric="f1"), atol=2e-4)
