"""Class masks that lie on their patches, turned ones and those of other patches are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fintune_xr as fx
from fintune_xr.pipelines.semantic.class_placement import class_placement
from tests.support.class_tiles import drawn_tile

TILES = [drawn_tile(seed) for seed in range(4)]


def test_classes_tell_most_where_they_lie_as_they_are() -> None:
    for image, codes in TILES:
        told = class_placement(image, codes, (0,))
        assert told is not None
        assert told.argmax() == 0
        turned = class_placement(image, codes[::-1], (0,))
        assert turned is not None
        assert turned.argmax() == 2
        # Whatever the codes are called, and whichever way a colour goes.
        np.testing.assert_allclose(class_placement(255 - image, codes + 3, (3,)), told)
    assert class_placement(TILES[0][0], np.where(codes == 1, 1, 0), (0,)) is None
    wide = class_placement(TILES[0][0][:, :, :60], TILES[0][1][:, :60])
    assert wide is not None
    assert (wide[4:] == 0).all()


@pytest.mark.parametrize("turned", [True, False])
def test_annotate_names_masks_that_lie_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], turned: bool
) -> None:
    for at, (image, codes) in enumerate(TILES):
        for kind, pixels in (("images", np.moveaxis(image, 0, -1)), ("masks", codes)):
            (tmp_path / kind).mkdir(exist_ok=True)
            own = pixels[:, ::-1] if turned and kind == "masks" and at != 2 else pixels
            Image.fromarray(np.ascontiguousarray(own)).save(tmp_path / kind / f"p{at}.png")
    fx.ingest(tmp_path, tmp_path / "s.zarr", layout="classes")
    fx.annotate(tmp_path, tmp_path / "s.zarr", layout="classes")
    said = "".join(capsys.readouterr())
    assert ("in 3 of the 4 tiles looked at, the classes lie" in said) == turned
    assert ("mirrored left for right" in said) == turned
