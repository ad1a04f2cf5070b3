"""Draws the floors of the rooms from their imports, for `docs/explanation/architecture.md`.

python docs/floor_plan.py            prints them
python docs/floor_plan.py --write    puts them into the page
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import grimp

PAGE: Final = Path(__file__).with_name("explanation") / "architecture.md"
BEGIN: Final = "<!-- drawn by docs/floor_plan.py -->\n"
END: Final = "<!-- end of the drawing -->\n"
CONTAINERS: Final = ("fintune_xr", "fintune_xr.pipelines", "fintune_xr.store")


def floors(graph: grimp.ImportGraph, container: str) -> list[list[str]]:
    """Rooms of `container` by floor, the top one first: a room stands one above the highest that it imports from.

    Raises ValueError where rooms import each other in a circle, which have no floors.
    """
    below = {room: _imported_by(graph, room, graph.find_children(container)) for room in graph.find_children(container)}
    height: dict[str, int] = {}
    while len(height) < len(below):
        ready = [room for room, lower in below.items() if room not in height and lower <= set(height)]
        if not ready:
            raise ValueError(f"{container}: a circle among {sorted(set(below) - set(height))}")
        height |= {room: max((height[one] for one in below[room]), default=-1) + 1 for room in ready}
    names = {room: room.rpartition(".")[2] for room in height}
    return [
        sorted(names[room] for room, floor in height.items() if floor == at)
        for at in range(max(height.values()), -1, -1)
    ]


def drawing() -> str:
    """All floors of the package and of its two largest rooms, as Markdown."""
    graph = grimp.build_graph("fintune_xr", cache_dir=None)
    blocks = []
    for container in CONTAINERS:
        rows = [" · ".join(rooms) for rooms in floors(graph, container)]
        blocks.append("\n".join([f"`{container.replace('.', '/')}`", "", "```", *rows, "```", ""]))
    return "\n".join(blocks)


def page_with(drawn: str) -> str:
    """The page with `drawn` in the place of what was drawn before."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{drawn}\n{END}{rest.partition(END)[2]}"


def _imported_by(graph: grimp.ImportGraph, room: str, rooms: set[str]) -> set[str]:
    inside = {room, *graph.find_descendants(room)}
    reached = {one for module in inside for one in graph.find_modules_directly_imported_by(module)}
    return {
        other
        for other in rooms - {room}
        if any(module == other or module.startswith(f"{other}.") for module in reached)
    }


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page_with(drawing()))
    else:
        sys.stdout.write(drawing())
