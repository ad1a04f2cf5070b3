"""Tables as people save them: what would be read wrongly is refused with the reason, and who is absent is named."""

from __future__ import annotations

import csv
import io
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.analysis.clinical import clinical_outcomes, join_lines, outcome_lines
from fintune_xr.analysis.group_labels import clinical_groups
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
        ("projid,nft,age\n" + ROWS + "x,1\n", "row 6 has 2 fields, the header 3"),
        (("projid,nft,age\n" + ROWS).encode("utf-16-le"), "bytes of 0, as UTF-16"),
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


@pytest.mark.parametrize("value", ["1e308", "-1e308", "1.7976931348623157E+308", "-3.4028235e38", "9.96921e36", "1e20"])
@pytest.mark.parametrize("column", ["nft", "tau", "age"])
def test_numbers_that_no_donor_has_are_refused(value: str, column: str) -> None:
    """Their squares are infinite; ranks would take them as any other value, in an outcome, a covariate or a group."""
    values = {"nft": "3.5", "tau": "0.5", "age": "73"} | {column: value}
    rows = "".join(f"{donor},{i}.5,{i},{70 + i}\n" for i, donor in enumerate(DONORS[:3]))
    of = table(f"projid,nft,tau,age\n{rows}{DONORS[3]},{values['nft']},{values['tau']},{values['age']}\n")
    said = "expected values from 0" if column == "nft" and value.startswith("-") else f"column '{column}'.*no measure"
    with pytest.raises(FintuneValueError, match=said):
        clinical_outcomes(of, DONORS, donor_column="projid", outcomes=["nft", "tau"], covariates=["age"])
    with pytest.raises(FintuneValueError, match=f"column '{column}'.*no measurement"):
        clinical_groups(of, DONORS, donor_column="projid", groups=[column])


@pytest.mark.parametrize("code", ["-2147483648", "-9223372036854775808", "2147483647", "-32768", "-999"])
def test_codes_beside_numbers_of_both_signs_are_refused(code: str) -> None:
    """Whole numbers that programs write for "missing"; z-scores are negative by right."""
    rows = "".join(f"{donor},{z}\n" for donor, z in zip(DONORS, ("-1.2", "0.4", "2.1", code), strict=True))
    with pytest.raises(FintuneValueError, match="of donor '00100004' looks like a code"):
        clinical_outcomes(table("projid,tau\n" + rows), DONORS, donor_column="projid", outcomes=["tau"])


def test_a_value_far_beyond_all_others_is_asked_about() -> None:
    """Such a one may be real: it is named, and taken."""
    for values, is_named in (("1,2,3,7000001", True), ("1,2,3,2000000", False), ("0,0,0,1e9", False)):
        rows = "".join(f"{donor},{v}\n" for donor, v in zip(DONORS, values.split(","), strict=True))
        found = clinical_outcomes(table("projid,tau\n" + rows), DONORS, donor_column="projid", outcomes=["tau"])
        said = [line for line in join_lines(found) if "times as large" in line]
        assert len(said) == is_named
        assert not said or said[0].startswith("7e+06 of donor '00100004' is 2e+06 times as large as any other value")


@pytest.mark.parametrize("code", ["-1", "-4.0"])
@pytest.mark.parametrize("column", ["tau", "age"])
def test_the_only_negative_value_is_named(code: str, column: str) -> None:
    """ADNI writes -4, others -1; a change of a score may be just that, so nothing is refused."""
    rows = "".join(f"{donor},{i},{70 + i}\n" for i, donor in enumerate(DONORS[:3]))
    last = {"tau": "3", "age": "80"} | {column: code}
    found = clinical_outcomes(
        table(f"projid,tau,age\n{rows}{DONORS[3]},{last['tau']},{last['age']}\n"), DONORS, donor_column="projid",
        outcomes=["tau"], covariates=["age"],
    )  # fmt: skip
    said = [line for line in join_lines(found) if "only negative" in line]
    assert said == [
        f"{float(code):g} of donor '00100004' is the only negative value in column '{column}': where it stands for a "
        "missing one, leave it empty"
    ]


@pytest.mark.parametrize("values", [(-1.5, 2, 3, 4), (-1, -2, 3, 4), (-1, -1, -1, -1), (0, 1, 2, 3)])
def test_scores_of_both_signs_are_not_questioned(values: tuple[float, ...]) -> None:
    rows = "".join(f"{donor},{value}\n" for donor, value in zip(DONORS, values, strict=True))
    found = clinical_outcomes(table("projid,tau\n" + rows), DONORS, donor_column="projid", outcomes=["tau"])
    assert not join_lines(found)


def test_what_can_adjust_or_be_nothing_is_told() -> None:
    of = table("projid,nft,age,cogdx\n" + "".join(f"{donor},{i},70,1\n" for i, donor in enumerate(DONORS)))
    found = clinical_outcomes(of, DONORS, donor_column="projid", outcomes=["nft"], covariates=["age"])
    assert join_lines(found) == ["covariate 'age' is the same in all donors that have it, and adjusts nothing"]
    for asked, said in (
        ({"outcomes": ["projid"]}, "outcome 'projid' is the column of the donor ids"),
        ({"outcomes": ["nft"], "covariates": ["projid"]}, "covariate 'projid' is the column of the donor ids"),
        ({"outcomes": ["nft"], "covariates": ["nft"]}, "'nft' is an outcome and a covariate"),
        ({"outcomes": ["cogdx_ordered"], "covariates": ["cogdx"]}, "'cogdx_ordered' is an outcome and a covariate"),
    ):
        with pytest.raises(FintuneValueError, match=said):
            clinical_outcomes(of, DONORS, donor_column="projid", **asked)
    with pytest.raises(FintuneValueError, match="'projid' is the column of the donor ids"):
        clinical_groups(of, DONORS, donor_column="projid", groups=["projid"])


def test_groups_in_two_spellings_are_refused() -> None:
    of = table("projid,dx\n" + "".join(f"{d},{g}\n" for d, g in zip(DONORS, ("AD", "a d", "AD ", "CN"), strict=True)))
    for groups in ("dx", "dx=AD,a d"):
        with pytest.raises(
            FintuneValueError, match=r"groups '(AD|a d)' and '(AD|a d)' in column 'dx' differ in capitals"
        ):
            clinical_groups(of, DONORS, donor_column="projid", groups=[groups])
    found = clinical_groups(of, DONORS, donor_column="projid", groups=["dx=AD,CN"])
    assert found[n.LABEL].values[:, 0].tolist() == ["AD", "", "AD", "CN"]


def test_values_that_only_look_alike_are_taken() -> None:
    for values in ("-9,-3,-7.5,-4", "700,999,850,900"):
        rows = "".join(
            f"{donor},1.{i},{v}\n" for i, (donor, v) in enumerate(zip(DONORS, values.split(","), strict=True))
        )
        found = facts("projid,nft,age\n" + rows, covariates=["age"])
        taken = found[n.COVARIATE_VALUE].sel({n.COVARIATE: "age"}).values.tolist()
        assert sorted(taken) == sorted(map(float, values.split(",")))


def test_infinity_and_ids_of_excel_are_refused() -> None:
    with pytest.raises(FintuneValueError, match="found 'inf'"):
        facts("projid,nft,age\n" + ROWS.replace("1.5", "inf"))
    with pytest.raises(FintuneValueError, match=r"1\.00002E\+05.*Excel"):
        facts("projid,nft,age\n" + ROWS.replace("00100002", "1.00002E+05"))


def test_who_is_absent_is_named() -> None:
    lines = join_lines(facts("projid,nft,age\n" + ROWS.replace("00100003", "Mean")))  # type: ignore[arg-type]
    assert lines == [
        "1 of 4 donors have no row in the clinical table: '00100003'",
        "1 rows of the clinical table are of no donor: 'Mean'",
    ]


def test_outcomes_in_another_spelling_are_named() -> None:
    assert "column 'NFT' is not taken for the outcome 'nft'" in outcome_lines(table("projid,NFT,gpath\n" + ROWS), [])[0]


def test_ids_are_one_in_both_spellings() -> None:
    name = "M\u00fcller"
    for stored, written in (("NFC", "NFD"), ("NFD", "NFC")):
        text = f"projid,nft,age\n{unicodedata.normalize(written, name)},1,2\n"
        found = clinical_outcomes(
            table(text), [unicodedata.normalize(stored, name)], donor_column="projid", outcomes=["nft"]
        )
        assert found["outcome_value"].values.tolist() == [[1.0]]


@pytest.mark.parametrize(
    "text",
    [
        'id,a,b\n"1,2,3\n4,5,6\n', 'id,a,b\n"1,2,3\n4",5,6\n7,8,9\n', 'id,a,b\n1,"x,3\n4,y",6\n',
        'id,a,b\n1,"x,3\n4,y,6\n7,z",9\n', 'id,a,b\n1,"x" y,3\n', 'id,a,b\n1,2,"3\n',
        'id,a,b\n1,"say \\"hi\\"",3\n',
    ],
)  # fmt: skip
def test_quotes_that_do_not_close_where_their_cell_ends(text: str) -> None:
    with pytest.raises(FintuneValueError, match=r"t.csv: cannot be read as a table of text: .*Quotes stand round"):
        text_table(text.encode(), "t.csv", "clinical table")


CELLS = st.text(st.sampled_from("ab1\"' .;\n"), max_size=6).filter(lambda cell: cell.count("\n") < 2)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6))
def test_whatever_a_writer_of_csv_quotes_is_read_again(rows: list[tuple[str, str, str]]) -> None:
    written = io.StringIO()
    csv.writer(written).writerows([("id", "a", "b"), *rows])
    found = text_table(written.getvalue().encode(), "t.csv", "clinical table")
    assert [tuple(row) for row in found.to_numpy().tolist()] == rows
