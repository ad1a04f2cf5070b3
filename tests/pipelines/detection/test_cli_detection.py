"""The way of an EM cohort on the command line, from files to a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from em_files import centres, picture, write_mrc

import fintune_xr as fx
from fintune_xr.pipelines.cli.app import run

SHAPE = (128, 144)


def test_from_micrographs_to_picks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        write_mrc(tmp_path / f"raw/{name}.mrc", picture(name, SHAPE)[::-1])
        star = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
        star += "".join(f"{x} {SHAPE[0] - 1 - y}\n" for y, x in centres(name, SHAPE))
        (tmp_path / f"raw/{name}.star").write_text(star)
    (tmp_path / "raw/e.mrc").write_bytes(b"MAP")
    raw, store = str(tmp_path / "raw"), str(tmp_path / "c.zarr")
    assert run(["ingest", raw, store, "--layout", "micrographs", "--binning", "2", "--dry-run"]) == 0
    assert "truncated" in capsys.readouterr().out
    assert run(["ingest", raw, store, "--layout", "micrographs", "--binning", "2"]) == 3
    assert run(["annotate", raw, store]) == 2
    assert "--diameter" in capsys.readouterr().err
    assert run(["annotate", raw, store, "--diameter", "12"]) == 0
    assert run(["split", store, "--by", "tile", "--fractions", "0.25", "0.25", "0.5"]) == 0
    capsys.readouterr()
    assert run(["pick", store, "--run", "blobs", "--model", "log"]) == 0
    assert "chosen on 1 micrographs of part val" in capsys.readouterr().out
    assert run(["evaluate", store]) == 0
    assert "particle f1" in capsys.readouterr().out
    assert run(["export", store, "--to", "star", "--out", str(tmp_path / "out")]) == 0
    assert run(["check", store]) == 0
    assert run(["report", store, "--out", str(tmp_path / "r.html")]) == 0
    assert run(["pick", store, "--run", "unet"]) == 2
    # In Python by the same names; the blobs of this simple picture are nearly all there.
    assert float(fx.open_cohort(store).metrics("test")["particle_f1_pooled"].squeeze()) > 0.9
    again = tmp_path / "again.zarr"
    fx.ingest(raw, again, layout="micrographs", binning=2)
    fx.annotate(tmp_path / "out", again, diameter=12)
    assert len(fx.open_cohort(again).annotated_tiles()) == 4
    assert np.isfinite(fx.open_cohort(again).annotations(lazy=False)["y"].values).all()
