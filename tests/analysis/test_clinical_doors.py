"""Tables as people save them: what would be read wrongly is refused with the reason, and who is absent is named."""

from __future__ import annotations

import unicodedata

import pandas as pd
import pytest

from fintune_xr.analysis.clinical import clinical_outcomes, told_of_join, told_of_outcomes
from fintune_xr.errors import FintuneValueError
from fintune_xr.text_tables import text_table

DONORS = ["00100001", "00100002", "00100003", "00100004"]
ROWS = "".join(f"{donor},{i}.5,{70 + i}\n" for i, donor in enumerate(DONORS))


def table(text: str | bytes) -> pd.DataFrame:
    return text_table(text if isinstance(text, bytes) else text.encode(), "t.csv", "clinical table")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (("projid,nft,age\n" + ROWS).encode("utf-16"), "UTF-16"),
        ("projid,nft,age\nM\u00fc,1,2\n".encode("latin-1"), "found byte 0xfc"),
        (b"PK\x03\x04" + bytes(99), "Excel workbook"),
        ("projid,nft,age\n" + ROWS.replace("\n", ",\n"), "row 2 has 4 fields, the header 3"),
        ("projid,nft,age\n" + ROWS + "x,1,2,3\n", "in line 6, saw 4"),
        ("projid,nft,nft\n" + ROWS, "column 'nft' is there more than once"),
    ],
)
def test_tables_that_would_be_read_wrongly_are_refused(content: str | bytes, said: str) -> None:
    with pytest.raises(FintuneValueError, match=said):
        table(content)


def test_names_of_rows_as_r_writes_them_and_blanks_in_names() -> None:
    found = table("projid, nft ,age\n" + "".join(f"{i},{row}\n" for i, row in enumerate(ROWS.splitlines())))
    assert (found["projid"].tolist(), found["nft"].tolist()[0]) == (DONORS, "0.5")


def facts(text: str, **how: object) -> object:
    return clinical_outcomes(table(text), DONORS, donor_column="projid", outcomes=["nft"], **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["-9", "-99", "999", "9999"])
def test_codes_of_missing_values_are_questioned(code: str) -> None:
    text = "projid,nft,age\n" + ROWS.replace(",72\n", f",{code}\n")
    with pytest.raises(FintuneValueError, match=f"column 'age'.*{code} of donor '00100003' looks like a code"):
        facts(text, covariates=["age"])


def test_values_that_only_look_alike_are_taken() -> None:
    for values in ("-9,-3,-7.5,-4", "700,999,850,900"):
        rows = "".join(
            f"{donor},1.{i},{v}\n" for i, (donor, v) in enumerate(zip(DONORS, values.split(","), strict=True))
        )
        facts("projid,nft,age\n" + rows, covariates=["age"])


def test_infinity_and_ids_of_excel_are_refused() -> None:
    with pytest.raises(FintuneValueError, match="found 'inf'"):
        facts("projid,nft,age\n" + ROWS.replace("1.5", "inf"))
    with pytest.raises(FintuneValueError, match=r"1\.00002E\+05.*Excel"):
        facts("projid,nft,age\n" + ROWS.replace("00100002", "1.00002E+05"))


def test_who_is_absent_is_named() -> None:
    lines = told_of_join(facts("projid,nft,age\n" + ROWS.replace("00100003", "Mean")))  # type: ignore[arg-type]
    assert lines == [
        "1 of 4 donors have no row in the clinical table: '00100003'",
        "1 rows of the clinical table are of no donor: 'Mean'",
    ]


def test_outcomes_in_another_spelling_are_named() -> None:
    assert (
        "column 'NFT' is not taken for the outcome 'nft'" in told_of_outcomes(table("projid,NFT,gpath\n" + ROWS), [])[0]
    )


def test_ids_are_one_in_both_spellings() -> None:
    name = "M\u00fcller"
    for stored, written in (("NFC", "NFD"), ("NFD", "NFC")):
        text = f"projid,nft,age\n{unicodedata.normalize(written, name)},1,2\n"
        found = clinical_outcomes(
            table(text), [unicodedata.normalize(stored, name)], donor_column="projid", outcomes=["nft"]
        )
        assert found["outcome_value"].values.tolist() == [[1.0]]
