"""Shards of an ingest, read and written by the workers of a cluster profile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from distributed import Client

from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.session import session
from fintune_xr.execution.dask_blocks import map_plans
from fintune_xr.pipelines.console import say
from fintune_xr.store.ingest.new_tiles import Mapper, NewTiles, ShardPlan, ShardRead


@contextlib.contextmanager
def shards_on(profile: Profile | None) -> Iterator[Mapper | None]:
    """What has the workers of `profile` read shards; they start with the first of them. None without a profile."""
    if profile is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        clients: list[Client] = []
        rounds = count()

        def mapper(
            function: Callable[[ShardPlan[Any], NewTiles[Any]], ShardRead],
            plans: Iterable[ShardPlan[Any]],
            context: NewTiles[Any],
        ) -> Iterator[ShardRead]:
            if not clients:
                clients.append(stack.enter_context(session(profile, report=say)))
            found = map_plans(clients[0], function, plans, context=context, name=f"ingest-{next(rounds)}")
            with contextlib.closing(found):
                for results in found:
                    yield from results

        yield mapper
