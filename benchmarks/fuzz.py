"""Mutated files at every door and mutated stores under every reading verb: one clear error, or an answer, each time.

make fuzz MINUTES=10
python -m benchmarks.fuzz --minutes 10 --seed 0          from the root of the checkout
python -m benchmarks.fuzz --mutants 10000                so many, in whatever time it takes
python -m benchmarks.fuzz --case 1234                    one mutant again, with its traceback

A mutant is found again by seed and number. What counts as a fault: any exception that is none of the family in
`fintune_xr/errors.py`, more than SECONDS without an end, more memory than MEMORY allows, and a process that dies.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[1]
SECONDS: Final = 120
MEMORY: Final = 6 << 30
AT_ONCE: Final = 500
# Share of mutants that are stores: one takes some 0.4 s of a core, a file of one of the doors a hundredth of that.
STORES: Final = 0.35

Rng = np.random.Generator


# Files that are sound, by name of the door and suffix; made once in a process.
@functools.cache
def seeds() -> dict[str, list[tuple[str, bytes]]]:
    """Sound files for each door: images, masks, coordinates, tables, volumes, files of microscopes."""
    from volume_files import dicom_bytes, nifti_bytes, npy_bytes, vol_bytes, volume_of

    volume = volume_of((4, 16, 12))
    volumes = [("a.dcm", dicom_bytes(volume)), ("a.nii", nifti_bytes(volume)), ("a.npy", npy_bytes(volume))]
    volumes.append(("a.vol", vol_bytes((volume / 255).astype(np.float32))))
    return {
        "image": _images(np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)),
        "mask": _masks(),
        "coordinates": _coordinates(),
        "table": [
            ("a.csv", b"projid,nft,age_death\n00123,1.5,90+\n00124,,88\n00125,0.2,79.5\n"),
            ("a.tsv", "projid\tnft\n00123\t1,5\n00124\tä\n".encode()),
        ],
        "volume": volumes,
        "microscope": _microscopes(),
    }


def _microscopes() -> list[tuple[str, bytes]]:
    from microscope_files import Recording, Series, write_lif, write_nd2

    planes = np.arange(2 * 16 * 18, dtype=np.uint16).reshape(2, 16, 18)
    frames = np.stack([planes, planes + 1]).transpose(0, 2, 3, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [
            write_lif(folder / "a.lif", [Series("a", planes, dyes=("DAPI", "GFAP")), Series("b", planes, "ZYX")]),
            write_nd2(folder / "a.nd2", Recording(frames, {"P": 2}, ("DAPI", "GFAP"), positions=("x", "y"))),
            write_nd2(folder / "b.nd2", Recording(frames, {"Z": 2}, ("DAPI", "GFAP"))),
        ]
        return [(path.name, path.read_bytes()) for path in made]


def _images(plane: np.ndarray) -> list[tuple[str, bytes]]:
    import tifffile
    from PIL import Image

    made = []
    for name, options in {
        "a.tif": {}, "b.tif": {"compression": "zlib", "predictor": True}, "c.ome.tif": {"metadata": {"axes": "YX"}},
        "d.tif": {"imagej": True}, "e.tif": {"tile": (16, 16)}, "f.tif": {"bigtiff": True},
    }.items():  # fmt: skip
        file = io.BytesIO()
        tifffile.imwrite(file, plane, ome=name.endswith(".ome.tif"), **options)
        made.append((name, file.getvalue()))
    for name, kind, mode in (("a.png", "PNG", np.uint16), ("b.png", "PNG", np.uint8), ("a.jpg", "JPEG", np.uint8)):
        file = io.BytesIO()
        Image.fromarray((plane % 256).astype(mode)).save(file, kind)
        made.append((name, file.getvalue()))
    with tempfile.TemporaryDirectory() as folder:
        import mrcfile

        with mrcfile.new(Path(folder) / "a.mrc") as mrc:
            mrc.set_data(plane.astype(np.float32))
        made.append(("a.mrc", (Path(folder) / "a.mrc").read_bytes()))
    return made


def _masks() -> list[tuple[str, bytes]]:
    import tifffile
    from PIL import Image

    mask = np.zeros((48, 40), np.uint16)
    mask[4:12, 4:12], mask[20:30, 8:20] = 1, 2
    tiff, png, binary = io.BytesIO(), io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiff, mask, compression="zlib")
    Image.fromarray(mask.astype(np.uint8)).save(png, "PNG")
    Image.fromarray(mask > 0).save(binary, "PNG")
    return [("a.tif", tiff.getvalue()), ("a.png", png.getvalue()), ("b.png", binary.getvalue())]


def _coordinates() -> list[tuple[str, bytes]]:
    star = b"\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n10.5 20.5\n30.0 8.0\n"
    return [
        ("a.csv", b"x,y,diameter\n10,20,12\n30,8,12\n"),
        ("a.star", star),
        ("a.box", b"4\t14\t12\t12\n24\t2\t12\t12\n"),
        ("a.json", json.dumps({"boxes": [[10, 20], [30, 8]], "diameter": 12}).encode()),
    ]


def mutated(content: bytes, rng: Rng) -> bytes:
    """`content` after one to four of: bits turned, bytes set, cut, doubled, removed, filled, numbers made extreme."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            break
        at, length = int(rng.integers(0, len(data))), int(rng.integers(1, max(2, len(data) // 4)))
        kind = int(rng.integers(0, 8))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at : at + 4] = rng.bytes(4)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at : at + length] = bytes([int(rng.choice([0, 255, 10, 44]))]) * min(length, len(data) - at)
        elif kind == 6:
            data[at : at + 4] = int(rng.choice([2**31 - 1, 2**32 - 1, 0, 65536])).to_bytes(4, "little")
        else:
            # The beginning, where formats say what they are and how large.
            data[int(rng.integers(0, min(64, len(data))))] = int(rng.integers(0, 256))
    return bytes(data)


def doors() -> dict[str, Callable[[Path], Any]]:
    """What reads a file of each kind, as the verbs do."""
    from fintune_xr.analysis.clinical import clinical_outcomes, read_clinical
    from fintune_xr.store.raw.coordinates import read_coordinates
    from fintune_xr.store.raw.readers import read_field_stacks, read_fields, read_header, read_mask, read_plane
    from fintune_xr.store.raw.readers.fields import first_pages
    from fintune_xr.store.raw.readers.volumes import Reading, volume_frames, volume_header

    def image(path: Path) -> None:
        read_header(path)
        read_plane(path)

    def volume(path: Path) -> None:
        with path.open("rb") as file:
            volume_header(file, path.name, Reading())
        _, frames = volume_frames(path.read_bytes(), path.name, Reading())
        for _ in frames:
            pass

    def table(path: Path) -> None:
        clinical_outcomes(read_clinical(path), ["123", "124"], donor_column="projid", outcomes=["nft"])

    def microscope(path: Path) -> None:
        fields = read_fields(path)
        for field, page in zip(fields, first_pages(fields), strict=True):
            if not field.fault:
                read_field_stacks(path, pages=range(page, page + field.channels))

    return {
        "image": image, "mask": read_mask, "coordinates": read_coordinates, "table": table, "volume": volume,
        "microscope": microscope,
    }  # fmt: skip


VERBS: Final = (
    ("check", 4), ("open", 6), ("cells", 3), ("export tables", 2), ("export masks", 2), ("evaluate", 2),
    ("positivity", 2), ("associate", 2), ("bootstrap", 1), ("gate", 1), ("qc", 2), ("suggest", 1), ("report", 1),
)  # fmt: skip
"""Reading verbs and how often each is tried."""


def ask(verb: str, store: Path, out: Path) -> None:
    """One verb on a store, as the command line gives it."""
    import fintune_xr as fx

    clinical = store.parent / "clinical.csv"
    if verb == "open":
        cohort = fx.open_cohort(store)
        cohort.images().isel(tile=0).load()
        for run in cohort.run_names():
            cohort.run(run).isel(tile=slice(0, 2)).load()
        cohort._repr_html_()
    elif verb == "cells":
        fx.open_cohort(store).cells("a").load()
    elif verb.startswith("export"):
        fx.export(store, to=verb.split()[1], out=out, runs=["a"])
    else:
        calls: dict[str, dict[str, Any]] = {
            "check": {}, "evaluate": {"runs": ["a"], "resamples": 20}, "positivity": {"run": "a"},
            "associate": {"clinical": clinical, "runs": ["a"]}, "bootstrap": {"resamples": 20, "scheme": "donors"},
            "gate": {"run": "a", "resamples": 20, "overrides": ("q_ranges=[[0,100]]", "min_areas=[0]")}, "qc": {},
            "suggest": {"runs": ["a"]}, "report": {"out": out / "report.html"},
        }  # fmt: skip
        getattr(fx, verb)(store, **calls[verb])


def mutate_store(store: Path, rng: Rng) -> str:
    """Changes one to three files of a store; says which and how."""
    told = []
    for _ in range(int(rng.integers(1, 4))):
        files = sorted(path for path in store.rglob("*") if path.is_file())
        path = files[int(rng.integers(0, len(files)))]
        kind = int(rng.integers(0, 6))
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.write_bytes(files[int(rng.integers(0, len(files)))].read_bytes())
        elif kind == 2:
            path.write_bytes(b"")
        elif kind == 3 and path.suffix == ".json":
            path.write_text(_mutated_json(path.read_text(), rng))
        else:
            path.write_bytes(mutated(path.read_bytes(), rng))
        told.append(f"{path.relative_to(store)} ({kind})")
    return ", ".join(told)


def _mutated_json(text: str, rng: Rng) -> str:
    """The same with one value replaced: what stays is valid JSON that says something else."""
    try:
        whole = json.loads(text)
    except ValueError:
        return text
    places = list(_places(whole))
    if not places:
        return text
    parent, key = places[int(rng.integers(0, len(places)))]
    values = [None, -1, 0, 2**40, "", "x", [], {}, True, 1.5, [1, 2, 3], float("nan")]
    parent[key] = values[int(rng.integers(0, len(values)))]
    return json.dumps(whole)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from _places(value)


def one_case(number: int, seed: int, folder: Path) -> dict[str, Any]:
    """Makes and tries one mutant; says what came of it."""
    from fintune_xr.errors import FintuneError

    rng = np.random.default_rng([seed, number])
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if rng.random() < STORES:
        shutil.copytree(folder / "sound", place, dirs_exist_ok=True)
        names = [name for name, times in VERBS for _ in range(times)]
        what = names[int(rng.integers(0, len(names)))]
        told = mutate_store(place / "a.zarr", rng)
        call = lambda: ask(what, place / "a.zarr", place)  # noqa: E731
    else:
        sound = seeds()
        what = sorted(sound)[int(rng.integers(0, len(sound)))]
        name, content = sound[what][int(rng.integers(0, len(sound[what])))]
        (place / name).write_bytes(mutated(content, rng))
        told, door = name, doors()[what]
        call = lambda: door(place / name)  # noqa: E731
    report = {"case": number, "what": what, "told": told}
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
        return {**report, "outcome": "answer"}
    except FintuneError as error:
        return {**report, "outcome": "error" if str(error).strip() else "FAULT: no message"}
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return {
            **report,
            "outcome": f"FAULT: {type(error).__name__}: {str(error)[:200]}",
            "trace": traceback.format_exc()[-3000:],
        }
    finally:
        signal.alarm(0)


class TooLongError(BaseException):
    """A mutant was not done with in time."""


def serve(first: int, last: int, seed: int) -> None:
    """Cases of one process, a line of JSON for each; memory is limited by the operating system."""

    def too_long(*_: Any) -> None:
        raise TooLongError(f"not done within {SECONDS} s")

    sys.path.insert(0, str(ROOT / "tests" / "support"))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory(dir=_in_memory()) as name:
        folder = Path(name)
        with tarfile.open(ROOT / "tests" / "data" / "cells.tar.gz") as archive:
            archive.extractall(folder / "sound", filter="data")
        for number in range(first, last):
            print(json.dumps({"case": number, "begun": True}), flush=True)
            print(json.dumps(one_case(number, seed, folder)), flush=True)
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}), flush=True)


def _in_memory() -> str | None:
    """A folder that lies in memory, where there is one: a store of hundreds of files is copied for each mutant."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and os.access(place, os.W_OK) else None


def batch(first: int, last: int, seed: int) -> tuple[list[dict[str, Any]], int, int]:
    """Outcomes of the cases from `first` to before `last` in a process of their own, the next case, and most memory.

    Where the process dies the next case is the one behind that; memory is in kB.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz",
        "--serve",
        str(first),
        str(last),
        "--seed",
        str(seed),
    ]
    found: list[dict[str, Any]] = []
    begun, peak = first, 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout or ():
            told = json.loads(line)
            begun = told["case"] if told.get("begun") else begun
            peak = told.get("peak", peak)
            found += [told] if "outcome" in told else []
        status = process.wait()
    if status:
        dead = {"case": begun, "what": "?", "told": "", "outcome": f"FAULT: the process ended with status {status}"}
        found = [one for one in found if one["case"] != begun] + [dead]
        return found, begun + 1, peak
    return found, last, peak


def main() -> int:
    """Tries mutants for some minutes and prints how many gave an answer, an error, or a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mutants", type=int, default=0, help="so many mutants instead of so many minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--case", type=int, help="only this mutant")
    parser.add_argument("--serve", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(*asked.serve, asked.seed)
        return 0
    if asked.case is not None:
        serve(asked.case, asked.case + 1, asked.seed)
        return 0
    if asked.mutants:
        return _all(math.inf, asked.first + asked.mutants, asked.seed, asked.first)
    return _all(asked.minutes, math.inf, asked.seed, asked.first)


def _all(minutes: float, end: float, seed: int, first: int) -> int:
    """Mutants from number `first` on, until the minutes are over or number `end` is reached."""
    began, counts, faults, peak = time.monotonic(), Counter[str](), [], 0
    number = first
    while time.monotonic() < began + 60 * minutes and number < end:
        found, number, most = batch(number, int(min(end, number + AT_ONCE)), seed)
        peak = max(peak, most)
        for one in found:
            is_fault = one["outcome"].startswith("FAULT")
            counts["fault" if is_fault else one["outcome"]] += 1
            if is_fault:
                faults.append(one)
                print(json.dumps(one), flush=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{counts.total()} mutants: {counts['answer']} answers, {counts['error']} errors, {counts['fault']} "
            f"faults; at most {peak >> 10} MiB; {(time.monotonic() - began) / 60:.1f} min, "
            f"{(used.ru_utime + used.ru_stime) / 60:.1f} min of a core",
            flush=True,
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
