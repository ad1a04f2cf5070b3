"""The report: complete, escaped, self-contained, and every number in it is a stored one."""

from __future__ import annotations

import html.parser
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis import comparison, outcomes
from fintune_xr.analysis.figures.positivity import NEGATIVE, POSITIVE, UNDECIDED, JudgedTile, judged_figure
from fintune_xr.analysis.kernels import thresholds
from fintune_xr.analysis.report import numbers
from fintune_xr.analysis.report.contents import (
    ROWS_FOLDED,
    Drawing,
    Fold,
    Gallery,
    Note,
    Section,
    Study,
    Table,
    all_parts,
)
from fintune_xr.analysis.report.instance.scores import RunScores, segmentation_section, study_sections, verdicts
from fintune_xr.analysis.report.render import page_of, tables_of, with_summary
from fintune_xr.analysis.report.sections.associations import (
    association_section,
    association_table,
    bootstrap_section,
    comparison_section,
    ratio_section,
)
from fintune_xr.analysis.report.sections.cohort import (
    cohort_section,
    cohort_sentence,
    examples_section,
    provenance_section,
    quarantine_section,
)
from fintune_xr.analysis.report.sections.findings import findings
from fintune_xr.analysis.report.sections.positivity import positivity_section, rule_words
from fintune_xr.analysis.report.sections.scatters import scatter_parts
from fintune_xr.analysis.report.sections.statistics import Statistics
from fintune_xr.analysis.report.sections.validation import corrected_rho_parts
from fintune_xr.metrics.intervals import instance_scores, scores_by_donor
from fintune_xr.seeds import stream

RUNS, MARKERS = ["base", "tuned"], ["GFAP", "IBA1"]
DONORS = ["00000001", "00000002", "00000003", "<script>alert(1)</script>"]
OUTCOMES = ["nft", "ceradsc"]
RDM, RMO = (n.RUN, n.DONOR, n.MARKER), (n.RUN, n.MARKER, n.OUTCOME)


def _images() -> xr.Dataset:
    pairs = [(donor, marker) for donor in DONORS for marker in MARKERS]
    columns = {n.TILE: [f"t{index}" for index in range(len(pairs))], n.DONOR: [d for d, _ in pairs]}
    columns |= {
        n.MARKER: [m for _, m in pairs],
        n.SPLIT: ["train", "train", "val", "val", "test", "test", n.UNASSIGNED, n.UNASSIGNED],
    }
    sizes = {name: (n.TILE, [64] * len(pairs)) for name in (n.HEIGHT, n.WIDTH)}
    return xr.Dataset(coords={name: (n.TILE, values) for name, values in columns.items()} | sizes)


def _analysis() -> xr.Dataset:
    rng = stream(1)
    positive, total = rng.integers(1, 40, (2, 4, 2)), np.full((2, 4, 2), 80)
    rho = np.array([[[0.95, -0.4], [0.1, np.nan]], [[0.99, -0.9], [0.2, np.nan]]])
    q = np.array([[[0.01, 0.5], [0.9, np.nan]], [[0.0002, 0.04], [0.8, np.nan]]])
    parts = {
        n.RATIO: (RDM, positive / total), n.N_POSITIVE: (RDM, positive), n.N_ALL: (RDM, total),
        n.N_TILES: (RDM, np.ones((2, 4, 2), np.int32)), n.RHO: (RMO, rho), n.P: (RMO, q / 2), n.Q: (RMO, q),
        n.N: (RMO, np.full((2, 2, 2), 4, np.int32)),
        n.REASON: (RMO, np.where(np.isnan(rho), "the outcome is the same in all donors", "")),
    }  # fmt: skip
    coords = {n.RUN: RUNS, n.DONOR: DONORS, n.MARKER: MARKERS, n.OUTCOME: OUTCOMES}
    return xr.Dataset(parts, coords=coords, attrs={"family": [n.MARKER, n.OUTCOME]})


def _counts() -> xr.Dataset:
    rng = stream(2)
    tp = np.stack([rng.integers(10, 20, (8, 2)), rng.integers(28, 34, (8, 2))])
    dims = (n.RUN, n.TILE, n.THRESHOLD)
    parts = {n.TP: (dims, tp), n.FP: (dims, 35 - tp), n.FN: (dims, 36 - tp)}
    return xr.Dataset(parts, coords={n.RUN: RUNS, n.THRESHOLD: [0.5, 0.75]})


def _scores() -> xr.Dataset:
    donor = xr.DataArray(np.repeat(DONORS, 2), dims=n.TILE)
    return scores_by_donor(_counts(), donor, n_flips=60, seed=1)


def _bootstrap() -> xr.Dataset:
    rho = _analysis()[n.RHO] + xr.DataArray(stream(3).normal(0, 0.05, 40), dims=n.RESAMPLE)
    rho = rho.clip(-1, 1).transpose(n.RESAMPLE, ...)
    attrs = {"scheme": "donors", "scheme_meaning": "donors with their tiles", "seed": 7}
    return xr.Dataset({n.RHO_RESAMPLED: rho, n.P_RESAMPLED: rho * 0 + 0.01}, attrs=attrs)


def _positivity() -> xr.Dataset:
    dims, shape = (n.RULE, n.TILE), (2, 8)
    names = {n.N_ALL: 80, n.N_POSITIVE: 20, n.N_WITHOUT_NUCLEUS: 0, n.THRESHOLD: 310.0}
    positivity = xr.Dataset({name: (dims, np.full(shape, value)) for name, value in names.items()})
    positivity[n.N_POSITIVE][1, 0] = -1
    labels = {name: _images()[name] for name in (n.TILE, n.MARKER, n.DONOR)}
    return positivity.assign_coords({n.RULE: ["otsu", "mixture"]} | labels)


def _examples() -> xr.Dataset:
    image = stream(4).integers(0, 4000, (1, 2, 64, 64)).astype("uint16")
    mask = np.zeros((2, 1, 64, 64), dtype="uint32")
    mask[:, :, 10:20, 10:20] = 1
    parts = {n.IMAGE: ((n.TILE, n.CHANNEL, n.Y, n.X), image), n.MASK: ((n.RUN, n.TILE, n.Y, n.X), mask)}
    examples = xr.Dataset(parts, coords={n.RUN: RUNS})
    coords = _images().isel({n.TILE: [7]}).coords
    return examples.assign_coords(coords)


def _signals() -> xr.DataArray:
    counts = np.zeros((2, thresholds.N_BINS), np.int64)
    counts[:, 300:900] = 5
    return xr.DataArray(counts, coords={n.MARKER: MARKERS, n.BIN: thresholds.CENTRES})


def _judged() -> JudgedTile:
    mask = np.zeros((64, 64), np.uint32)
    mask[5:15, 5:15], mask[30:40, 30:40], mask[50:60, 5:15] = 1, 2, 3
    return JudgedTile("GFAP, t7", mask * 1000, mask, np.array([0, POSITIVE, NEGATIVE, UNDECIDED], np.uint8))


OF_DONORS = (positivity_section, ratio_section, association_section, bootstrap_section, comparison_section)
SCORES = RunScores(scores=_scores(), baseline="base")


@pytest.fixture(scope="module")
def statistics() -> Statistics:
    bootstrap, analysis = _bootstrap(), _analysis()
    direction = [outcomes.outcome(name).direction for name in OUTCOMES]
    by_rule = analysis[n.RATIO].expand_dims({n.RULE: ["otsu", "mixture"]})
    return Statistics(
        analysis=analysis, bootstrap=bootstrap, stability=comparison.summarise(bootstrap),
        comparisons=(comparison.compare_runs(bootstrap, baseline="base", other="tuned"),),
        clinical=xr.Dataset(
            {n.OUTCOME_VALUE: ((n.DONOR, n.OUTCOME), [[1.0, 4], [2, 3], [3, np.nan], [4, 1]])},
            {n.DONOR: DONORS, n.OUTCOME: OUTCOMES, n.DIRECTION: (n.OUTCOME, direction)},
        ),
        rho_if_lost=xr.Dataset({"low": analysis[n.RHO] - 0.1, "high": analysis[n.RHO]}),
        signals={"tuned": _signals()}, judged={"tuned": (_judged(),)},
        positivity={"tuned": _positivity()}, ratio_by_rule=by_rule.transpose(n.RUN, n.RULE, ...),
        rho_by_rule=analysis[n.RHO].expand_dims({n.RULE: ["otsu", "mixture"]}), active_rules={"tuned": "otsu"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def sections(statistics: Statistics) -> tuple[Section, ...]:
    quarantine = {"path": ["a/b.tif"], n.DONOR: [DONORS[3]], n.MARKER: ["GFAP"], n.REASON: ["truncated & <b>"]}
    study = Study("budget", "Five budgets.", pd.DataFrame({"budget": [2, 5], "score": [0.1, 0.2]}))
    return (
        cohort_section(_images(), ("t0", "t1")),
        quarantine_section(xr.Dataset({name: (n.ITEM, values) for name, values in quarantine.items()})),
        examples_section(_examples()),
        segmentation_section(SCORES),
        *study_sections({"budget": (study,)}),
        *(section(statistics) for section in OF_DONORS),
        provenance_section(
            {
                "tuned": {
                    "model": "flow_unet",
                    "settings": {"diameter": 20},
                    "training": {"best_epoch": 3},
                    "packages": {"numpy": "2"},
                }
            }
        ),
    )


EMPTY = (
    cohort_section(None),
    quarantine_section(None),
    examples_section(None),
    segmentation_section(RunScores()),
    *study_sections({}),
    *(section(Statistics()) for section in OF_DONORS),
    provenance_section({}),
)


def _page_of(sections: tuple[Section, ...]) -> str:
    foreword = [Note(cohort_sentence(_images(), ("t0", "t1")))]
    return page_of("A <cohort> & more", "Store", with_summary(sections, foreword=foreword), tables="my_tables")


@pytest.fixture(scope="module")
def page(sections: tuple[Section, ...]) -> str:
    return _page_of(sections)


class _Outline(html.parser.HTMLParser):
    """Tags in order, addresses that the page refers to, and every piece of text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "wbr", "link", "input"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "type" and tag == "input":
                assert value == "checkbox"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    outline.close()
    return outline


def test_page_is_well_formed_and_every_id_is_unique(page: str) -> None:
    outline = _outline(page)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))


def test_page_needs_nothing_else(page: str) -> None:
    outline = _outline(page)
    assert "script" not in outline.tags
    assert "link" not in outline.tags
    for address in outline.addresses:
        assert address.startswith(("#", "data:image/", "my_tables/"))
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)


def test_contents_list_leads_to_every_section(page: str, sections: tuple[Section, ...]) -> None:
    outline = _outline(page)
    for section in with_summary(sections):
        assert f"#{section.key}" in outline.addresses
        assert section.key in outline.ids


def test_every_text_is_escaped(page: str) -> None:
    assert "<script>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;: ") >= 4, "donors named in the scatter plots"
    assert "A &lt;cohort&gt; &amp; more" in page
    assert "truncated &amp; &lt;b&gt;" in page


def test_every_picture_has_words_for_it(page: str) -> None:
    assert page.count("<img") == page.count('alt="') > 5
    assert 'alt=""' not in page


def test_an_empty_report_names_the_command_of_every_section() -> None:
    page = page_of("Empty", "", with_summary(EMPTY))
    for verb in ("ingest", "infer", "evaluate", "budget", "gate", "sweep", "positivity", "associate", "bootstrap"):
        assert f"<code>fintune-xr {verb} " in page
    assert "<img" not in page
    assert tables_of(EMPTY) == {}


def test_the_same_sections_give_the_same_page(sections: tuple[Section, ...], page: str) -> None:
    assert _page_of(sections) == page


def test_the_summary_is_what_the_sections_found_in_their_order(sections: tuple[Section, ...]) -> None:
    notes = [note for note in with_summary(sections)[0].parts if isinstance(note, Note)]
    assert [note.text.split(" ")[0] for note in notes if note.tone != "term"][:2] == ["base:", "base:"]
    verdict = next(at for at, note in enumerate(notes) if "AP50" in note.text)
    assert notes[verdict].text.startswith("Did it help?")
    assert notes[verdict + 1].tone == "term", "the word is explained where it first stands"
    assert "TP / (TP + FP + FN)" in notes[verdict + 1].text
    nothing = with_summary(EMPTY)[0]
    assert [part.text for part in nothing.parts if isinstance(part, Note)] == [
        "Nothing has been measured yet. The end of this page names the commands that do it."
    ]


def test_tables_hold_the_stored_numbers_unrounded(sections: tuple[Section, ...]) -> None:
    tables = tables_of(sections)
    stored = _analysis()
    for row in tables["associations"].to_dict("records"):
        found = stored.sel({n.RUN: row[n.RUN], n.MARKER: row[n.MARKER], n.OUTCOME: row[n.OUTCOME]})
        np.testing.assert_equal(row[n.RHO], float(found[n.RHO]))
        np.testing.assert_equal(row[n.Q], float(found[n.Q]))
    for row in tables["ratios"].to_dict("records"):
        found = stored.sel({n.RUN: row[n.RUN], n.DONOR: row[n.DONOR], n.MARKER: row[n.MARKER]})
        assert row[n.RATIO] == float(found[n.RATIO])
    assert SCORES.scores is not None
    first = tables["scores"].iloc[0]
    name = "average_precision_image_mean"
    assert first[name] == float(SCORES.scores[name].sel({n.RUN: "base", n.THRESHOLD: 0.5}))


def test_tables_survive_a_round_trip_through_tsv(sections: tuple[Section, ...]) -> None:
    for table in tables_of(sections).values():
        again = pd.read_csv(io.StringIO(table.to_csv(sep="\t", index=False)), sep="\t")
        for name in table.select_dtypes("number"):
            np.testing.assert_array_equal(again[name], table[name])


def test_tile_tables_count_tiles_donors_and_annotations(sections: tuple[Section, ...]) -> None:
    tables = tables_of(sections)
    assert tables["tiles_by_donor"]["all"].sum() == 8
    by_split = tables["tiles_by_marker"]
    assert by_split["annotated"].sum() == 2
    assert list(by_split[by_split[n.MARKER] == "GFAP"][n.SPLIT]) == ["train", "val", "test", "unassigned"]


def test_associations_begin_with_the_smallest_q_and_end_with_the_missing() -> None:
    table = association_table(_analysis(), None)
    q = table[n.Q].to_numpy()
    known = q[np.isfinite(q)]
    assert (np.diff(known) >= 0).all()
    assert np.isnan(q[len(known) :]).all()
    assert list(table["mark"][:3]) == ["***", "*", "*"]
    assert set(table[n.DIRECTION]) == {"not stated"}


def _found(contents: Statistics) -> list[Note]:
    assert contents.analysis is not None
    return findings(contents, association_table(contents.analysis, contents.clinical))


def test_the_baseline_stands_last_and_in_one_line(statistics: Statistics) -> None:
    texts = [note.text for note in _found(replace(statistics, baseline="base"))]
    assert [text.partition(":")[0] for text in texts] == ["tuned", "tuned", "tuned", "base"]
    assert texts[-1] == "base: 1 of 3 associations have q < 0.05: GFAP with nft (rho +0.95)."


def test_scatter_plots_lead_and_name_every_donor(statistics: Statistics) -> None:
    contents = replace(statistics, baseline="base")
    section = association_section(contents)
    first = with_summary([ratio_section(contents), section])[1]
    assert first.key == "associations"
    parts = scatter_parts(contents)
    (gallery, others) = (part for part in parts if isinstance(part, (Gallery, Fold)))
    assert isinstance(gallery, Gallery)
    assert [drawing.title for drawing in gallery.drawings] == ["GFAP and nft, tuned", "GFAP and ceradsc, tuned"]
    assert isinstance(others, Fold)
    (hidden,) = others.parts
    assert isinstance(hidden, Gallery)
    assert [drawing.title for drawing in hidden.drawings][:2] == ["GFAP and nft, base", "GFAP and ceradsc, base"]
    assert len(hidden.drawings) == 4, "the missing rho of IBA1 and ceradsc is no pair"
    _same_as_stored(gallery.drawings[1], contents)


def _same_as_stored(drawing: Drawing, contents: Statistics) -> None:
    """The circles of GFAP and ceradsc, tuned: one for each donor with both numbers, placed in their order."""
    assert contents.analysis is not None
    assert contents.clinical is not None
    circles = ElementTree.fromstring(drawing.svg).findall("circle")
    ratio = contents.analysis[n.RATIO].sel({n.RUN: "tuned", n.MARKER: "GFAP"}).values
    outcome = contents.clinical[n.OUTCOME_VALUE].sel({n.OUTCOME: "ceradsc"}).values
    known = np.isfinite(outcome)
    told = [circle.findtext("title") or "" for circle in circles]
    assert [text.partition(":")[0] for text in told] == [DONORS[at] for at in np.flatnonzero(known)]
    assert f"{100 * ratio[0]:.1f}" in told[0]
    x, y = ([float(circle.get(name, "nan")) for circle in circles] for name in ("cx", "cy"))
    assert np.argsort(x).tolist() == np.argsort(outcome[known]).tolist()
    assert np.argsort(y).tolist() == np.argsort(-ratio[known]).tolist()
    assert "rho −0.90 [" in drawing.caption
    assert "4 donors" in drawing.caption


def test_without_a_small_q_the_smallest_p_are_shown_and_that_is_said(statistics: Statistics) -> None:
    assert statistics.analysis is not None
    none = replace(statistics, analysis=statistics.analysis.assign({n.Q: statistics.analysis[n.Q] * 0 + 0.5}))
    parts = scatter_parts(replace(none, baseline="base"))
    assert isinstance(parts[0], Note)
    assert parts[0].text == "No association has q < 0.1; those with the smallest p are shown."
    assert any(isinstance(part, Gallery) and len(part.drawings) == 3 for part in parts)


def test_a_table_says_how_many_of_its_rows_are_seen() -> None:
    def table(n_rows: int) -> Table:
        return Table("k", "c", pd.DataFrame({"a": np.arange(n_rows)}))

    assert [(one.n_shown, one.n_folded, one.extent) for one in map(table, (3, 15, 40, 1000))] == [
        (3, 0, ""), (15, 0, ""), (12, 28, "12 of 40 rows"), (12, 0, "12 of 1\u202f000 rows"),
    ]  # fmt: skip
    page = page_of("t", "", [Section("s", "S", (table(40),))], tables="r_tables")
    assert page.count("<td") == 40
    assert "12 of 40 rows; all" in " ".join(page.split())
    assert '<a href="r_tables/k.tsv"' in page
    assert page_of("t", "", [Section("s", "S", (table(ROWS_FOLDED + 13),))]).count("<td") == 12


def test_corrected_correlations_begin_with_what_was_found() -> None:
    """Not with the first run's outcomes, behind which findings of the others are folded away."""
    shape, coords = ("run", "marker", "outcome"), {"run": ["base", "tuned"], "marker": ["GFAP"], "outcome": ["a", "b"]}
    q = np.array([[[0.9, 0.2]], [[0.001, 0.5]]])
    values = dict.fromkeys((n.RHO, n.RHO_CORRECTED, n.RHO_CORRECTED_LOW, n.RHO_CORRECTED_HIGH), (shape, 1 - q))
    (table,) = corrected_rho_parts(xr.Dataset({n.Q: (shape, q), **values}, coords))
    assert isinstance(table, Table)
    expected = [["tuned", "a"], ["base", "b"], ["tuned", "b"], ["base", "a"]]
    assert table.data[["run", "outcome"]].to_numpy().tolist() == expected
    assert table.page is not None
    assert table.page[["run", "outcome"]].to_numpy().tolist() == expected


def test_what_is_typed_and_where_names_break_is_marked() -> None:
    table = Table("t", "Of `gate`", pd.DataFrame({"tile": ["d1/GFAP/scan_3"]}), code=("tile",))
    page = page_of(
        "t", "", [Section("s", "S", (Note("Run `gate` again; 5` is a length."), Note("Run `gate` < 3."), table))]
    )
    assert "Run <code>gate</code> &lt; 3." in page
    assert "5` is a length" in page
    assert "Of <code>gate</code>" in page
    assert "d1/<wbr>GFAP/<wbr>scan_<wbr>3" in page
    assert "`gate` &lt;" not in page


def test_no_section_is_empty_and_what_is_missing_stands_together(sections: tuple[Section, ...]) -> None:
    shown = with_summary((*sections, *study_sections({})))
    assert all(section.parts for section in shown)
    assert [section.key for section in shown].count("missing") == 1
    assert shown[-1].title == "Not stored yet"
    assert {"sweep", "gate"} <= {part.command.split()[1] for part in shown[-1].parts if isinstance(part, Note)}


def test_cells_are_drawn_in_the_colour_of_their_verdict() -> None:
    figure = judged_figure([_judged()])
    bare, judged = (axes.images[0].get_array() for axes in figure.axes)
    assert bare is not None
    assert judged is not None
    colours = {tuple(np.round(pixel, 2)) for pixel in np.asarray(judged).reshape(-1, 3)}
    assert {(1.0, 0.55, 0.0), (0.25, 0.7, 1.0), (0.75, 0.75, 0.75)} <= colours
    assert figure.axes[1].get_title("left") == "1 of 3 cells positive"
    # One tile alone is shown beside itself, several below themselves.
    (alone, beside), (above, _, below, _) = (
        [axes.get_position() for axes in judged_figure([_judged()] * count).axes] for count in (1, 2)
    )
    assert alone.x1 <= beside.x0
    assert below.y1 <= above.y0
    assert len({tuple(pixel) for pixel in np.asarray(bare).reshape(-1, 3)}) == 4, "grey alone"


@pytest.mark.parametrize(("rule", "words"), [
    ("otsu", "signal above Otsu's threshold, one for each marker of the cohort (otsu)"),
    ("fixed_310", "a fixed threshold of 310 counts (fixed_310)"), ("mine", "mine"),
])  # fmt: skip
def test_rules_are_said_in_words(rule: str, words: str) -> None:
    assert rule_words(rule) == words


def test_a_reversed_outcome_is_read_the_right_way_round(statistics: Statistics) -> None:
    texts = [note.text for note in _found(statistics)]
    assert texts[0] == "base: 1 of 3 associations have q < 0.05."
    (cerad,) = [text for text in texts if "ceradsc" in text]
    assert "falls with ceradsc (higher is better (reversed scale)): more positive cells go with worse" in cerad


def test_tiles_drawn_within_donors_are_no_interval(statistics: Statistics) -> None:
    attrs = {"scheme": "tiles_80", "scheme_meaning": "80 % of the tiles", "seed": 7}
    assert statistics.bootstrap is not None
    within = replace(
        statistics,
        bootstrap=statistics.bootstrap.assign_attrs(attrs),
        comparisons=tuple(one.assign_attrs(attrs) for one in statistics.comparisons),
    )
    tables = tables_of([bootstrap_section(within), comparison_section(within)])
    assert {"low", "high", "differs"}.isdisjoint({*tables["bootstrap"], *tables["comparison"]})
    assert {"low", "high", "differs"} <= {*tables_of([comparison_section(statistics)])["comparison"]}
    page = page_of("t", "", [bootstrap_section(within)])
    assert "no interval, has no level" in page


def test_mean_ratios_and_their_differences_are_listed(statistics: Statistics) -> None:
    tables = tables_of([ratio_section(replace(statistics, baseline="base"))])
    assert len(tables["ratio_means"]) == 4
    assert tables["ratio_differences"][n.RUN].unique().tolist() == ["tuned"]
    assert {"mean", "low", "high", n.N, n.P} <= set(tables["ratio_differences"])


def test_nothing_found_is_said_plainly() -> None:
    analysis = _analysis()
    analysis[n.Q] = analysis[n.Q] * 0 + 0.5
    note, _ = _found(Statistics(analysis=analysis))
    assert note.text == "base: none of 3 associations has q < 0.05."


def _six_donors(runs: list[int], names: list[str]) -> xr.Dataset:
    """Scores of some of the two runs on 18 tiles of six donors."""
    counts = xr.concat([_counts()] * 3, n.TILE).isel({n.TILE: slice(0, 18), n.RUN: runs}).assign_coords({n.RUN: names})
    donor = xr.DataArray(np.repeat([f"d{i}" for i in range(6)], 3), dims=n.TILE)
    return scores_by_donor(counts, donor, n_flips=20, seed=1)


def test_the_verdict_follows_the_interval_and_the_sign_flips() -> None:
    scores = _six_donors([0, 1], RUNS)
    (better,) = verdicts(RunScores(scores=scores, baseline="base", n_scored_donors=6))
    assert better.tone == "good"
    assert "Did it help? Yes: tuned segments better than base. AP50 +" in better.text
    assert "p 0.031 from flipping the signs of 6 donors)" in better.text
    (worse,) = verdicts(RunScores(scores=scores, baseline="tuned"))
    assert worse.tone == "bad"
    (open_,) = verdicts(SCORES)
    assert open_.tone == "doubtful"
    assert "Open: tuned segments better than base, but too few donors" in open_.text
    assert "p 0.125" in open_.text
    (unclear,) = verdicts(RunScores(scores=_six_donors([0, 0], RUNS), baseline="base"))
    assert "Not shown: for tuned the interval contains zero" in unclear.text


def test_several_runs_against_a_baseline_are_corrected_for_their_number() -> None:
    scores = _six_donors([0, 1, 1], ["base", "tuned", "twin"])
    notes = verdicts(RunScores(scores=scores, baseline="base"))
    assert [note.tone for note in notes] == ["doubtful", "doubtful"]
    assert all("p 0.062 from flipping the signs of donors, corrected for 2 runs" in note.text for note in notes)


def test_older_intervals_give_no_verdict() -> None:
    assert SCORES.scores is not None
    older = SCORES.scores.drop_vars([name for name in SCORES.scores if str(name).endswith("_p")]).drop_attrs()
    (note,) = verdicts(RunScores(scores=older, baseline="base"))
    assert "older kind that is too narrow" in note.text
    assert note.tone == "doubtful"


def test_scores_of_a_single_donor_come_without_intervals() -> None:
    contents = RunScores(scores=instance_scores(_counts(), over=n.TILE), baseline="base")
    assert verdicts(contents) == []
    section = segmentation_section(contents)
    table = tables_of([section])["scores"]
    assert table["f1_pooled"].notna().all()
    assert table["f1_pooled_low"].isna().all()
    assert "<section" in page_of("x", "", [section])


def test_shares_are_said_to_be_unvalidated(statistics: Statistics) -> None:
    def told(contents: Statistics) -> list[str]:
        return [part.text for part in all_parts(positivity_section(contents).parts) if isinstance(part, Note)]

    assert any("unvalidated" in text for text in told(statistics))
    assert told(Statistics()) == []


def test_tiles_without_a_count_are_left_out_of_the_rule_table(sections: tuple[Section, ...]) -> None:
    table = tables_of(sections)["positivity"].set_index([n.RULE, n.MARKER])
    assert table.loc[("otsu", "GFAP"), "tiles"] == 4
    assert table.loc[("mixture", "GFAP"), "tiles"] == 3
    assert table.loc[("mixture", "GFAP"), "positive_cells"] == 60


def test_bounds_of_quarantine_list_only_what_changes(sections: tuple[Section, ...]) -> None:
    assert len(tables_of(sections)["quarantine_sensitivity"]) == 6
    analysis = _analysis()
    same = xr.Dataset({"low": analysis[n.RHO], "high": analysis[n.RHO]})
    section = association_section(Statistics(analysis=analysis, rho_if_lost=same))
    notes = [part.text for part in all_parts(section.parts) if isinstance(part, Note)]
    assert "No correlation would change if the quarantined tiles had been read." in notes


def test_provenance_has_a_column_per_run_and_packages_apart(sections: tuple[Section, ...]) -> None:
    tables = tables_of(sections)
    facts = tables["provenance"].set_index("fact")["tuned"]
    assert facts["settings.diameter"] == "20"
    assert facts["training.best_epoch, counted from 1"] == "4"
    assert list(tables["packages"]["package"]) == ["numpy"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.04999, "0.050"), (0.001, "0.001"), (2.94e-9, "2.9\u00a0×\u00a010⁻⁹"), (1.0, "1.000")],
)
def test_probabilities_keep_the_digits_that_mean_something(value: float, text: str) -> None:
    assert numbers.probability(value) == text


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("", "8 tiles of 4 donors with 2 markers, 64 × 64 px; 1 of them annotated."),
        (n.DEPTH, "8 volumes of 4 participants with 2 devices, 64 × 64 × 64 px; 1 of them annotated."),
        (
            n.PIXEL_SIZE_A,
            "8 micrographs of 4 data sets with 2 kinds of particle, 64 × 64 px, 64 Å a pixel; 1 of them annotated.",
        ),
    ],
)
def test_tiles_are_called_what_they_are(column: str, said: str) -> None:
    images = _images().assign_coords({column: (n.TILE, [64] * 8)} if column else {})
    assert cohort_sentence(images, ("t0",)) == said


def test_shares_and_their_intervals_are_in_one_unit() -> None:
    assert numbers.share_interval(0.3816, 0.2927, 0.4719) == "38.2 [29.3, 47.2]"
    assert numbers.share_interval(-0.0332, float("nan"), float("nan"), signed=True) == "−3.3"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (np.int64(12345), "12\u202f345"), (True, "yes"), (np.bool_(False), "no"),
     (0.12345, "0.123"), (np.float64(-0.5), "−0.500"), ("x", "x")],
)  # fmt: skip
def test_values_are_shown_by_their_kind(value: object, text: str) -> None:
    assert numbers.value_text(value) == text


def test_no_number_is_shown_as_minus_zero() -> None:
    assert numbers.decimals(2, signed=True)(-0.001) == "+0.00"
    assert numbers.with_interval(-0.5, -0.6, 0.1) == "−0.50 [−0.60, 0.10]"
    assert numbers.with_interval(0.5, float("nan"), float("nan")) == "0.50"


def test_number_columns_stand_to_the_right_and_ids_in_a_fixed_width() -> None:
    table = Table("k", "c", pd.DataFrame({"donor": ["001"], "n_all": [1200], "note": ["x"]}), code=("donor",))
    assert table.header == [("donor", "code"), ("all cells", "number"), ("note", "text")]
    assert table.rows == [[("001", "code"), ("1\u202f200", "number"), ("x", "text")]]
