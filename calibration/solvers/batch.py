"""Many calibrations of one structure as arrays with a leading axis, and Levenberg-Marquardt on all of them at once.

A cohort stacks subjects, a cross-validation stacks folds; both run the program below. What differs in size is padded:
samples with the last one repeated, segments with the last one repeated, and neither counts.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calibration.problem import Layout, Penalties, Problem, make_layout
from calibration.residuals import Data, Maximal, Quadratic, Stack, make_data
from calibration.solvers import levenberg_marquardt
from nms_gym._compilation import fast_compilation
from nms_gym.model.parameters import NmsParams
from nms_gym.model.replay import Replay
from nms_gym.model.structure import NmsModel

Precision = Literal["float32", "float64"]

# Iterations between looks at who is done.
CHUNK = 4
# Fewer items at a time than this waste the processor's vectors.
LEAST_SLOTS = 8


@dataclass(frozen=True)
class Batch:
    """Problems of one structure. Leaves of ``model``, ``data``, ``start`` have a leading axis ``(N, ...)``; NumPy."""

    indices: tuple[int, ...]
    """where each came from in the list that was batched"""
    problems: tuple[Problem, ...]
    layouts: tuple[Layout, ...]
    shared_layout: Layout
    """what the layouts have in common: all but the bounds, which depend on the start"""
    model: NmsModel
    data: Data
    start: NmsParams

    @property
    def penalties(self) -> Penalties:
        """Of all its problems."""
        return self.problems[0].penalties

    @property
    def low(self) -> np.ndarray:
        """(N, P) lower bounds in z."""
        return np.array([layout.low for layout in self.layouts])

    @property
    def high(self) -> np.ndarray:
        """(N, P) upper bounds in z."""
        return np.array([layout.high for layout in self.layouts])


def make_batches(problems: Sequence[Problem]) -> list[Batch]:
    """Group problems that one program can solve: same muscles, channels, settings, penalties, free
    parameters and measured quantities."""
    groups: dict[Any, list[int]] = {}
    parts = []
    for i, problem in enumerate(problems):
        layout = make_layout(problem)
        unbounded = dataclasses.replace(layout, low=np.zeros(layout.size), high=np.zeros(layout.size))
        # The moments come from the recording's own moment arms.
        model = dataclasses.replace(problem.model, paths=None, skeleton=None)
        data = make_data(problem)
        leaves, structure = jax.tree.flatten((model, problem.start, data))
        history = data.train.replay.excitations.shape[1] - data.train.replay.lengths.shape[1]
        sizes = tuple(np.shape(leaf)[2:] for leaf in leaves)
        parts.append((layout, unbounded, model, problem.start, data))
        groups.setdefault((unbounded, problem.penalties, structure, history, sizes), []).append(i)
    return [_batch(tuple(rows), problems, [parts[i] for i in rows]) for rows in groups.values()]


def _batch(rows: tuple[int, ...], problems: Sequence[Problem], parts: list[Any]) -> Batch:
    layouts, unbounded, models, starts, data = zip(*parts, strict=True)

    def stacked(trees: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)

    return Batch(
        indices=rows,
        problems=tuple(problems[i] for i in rows),
        layouts=layouts,
        shared_layout=unbounded[0],
        model=stacked(models),
        data=stacked(_equal_sizes(data)),
        start=stacked(starts),
    )


def _equal_sizes(data: Sequence[Data]) -> list[Data]:
    """The same with as many samples and segments in each; what is added counts nothing."""
    segments, steps = (max(d.counted.shape[axis] for d in data) for axis in (0, 1))
    passive = [d.passive for d in data if d.passive is not None]
    contractions = max((len(d.maximal.measured) for d in data if d.maximal is not None), default=0)
    poses = [max((p.weight.shape[axis] for p in passive), default=0) for axis in (0, 1)]
    return [
        dataclasses.replace(
            d,
            train=_grown(d.train, segments, steps),
            counted=_with_zeros(d.counted, segments, steps),
            passive=None if d.passive is None else _grown(d.passive, poses[0], poses[1]),
            targets=jax.tree.map(lambda leaf: _with_zeros(leaf, segments, steps), d.targets),
            maximal=None if d.maximal is None else _more_rows(d.maximal, contractions),
        )
        for d in data
    ]


def _grown(stack: Stack, segments: int, steps: int) -> Stack:
    have = stack.weight.shape

    def grow(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        if leaf.ndim > 1:
            leaf = np.concatenate([leaf, np.repeat(leaf[:, -1:], steps - have[1], axis=1)], axis=1)
        return np.concatenate([leaf, np.repeat(leaf[-1:], segments - have[0], axis=0)])

    replay: Replay = jax.tree.map(grow, stack.replay)
    measured, weight = (_with_zeros(x, segments, steps) for x in (stack.measured, stack.weight))
    return Stack(replay, measured, weight)


def _more_rows(maximal: Maximal, rows: int) -> Maximal:
    by = rows - len(maximal.measured)
    grown = jax.tree.map(lambda x: np.concatenate([x, np.repeat(np.asarray(x)[-1:], by, axis=0)]), maximal)
    return dataclasses.replace(grown, whitening=np.pad(np.asarray(maximal.whitening), (0, by)))


def _with_zeros(leaf: Any, segments: int, steps: int) -> Any:
    leaf = np.asarray(leaf)
    return np.pad(leaf, [(0, segments - leaf.shape[0]), (0, steps - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2))


def cast(tree: Any, precision: Precision) -> Any:
    """Every array of a pytree as NumPy in this precision."""
    return jax.tree.map(lambda x: np.asarray(x, precision), tree)


@dataclass(frozen=True)
class Solved:
    """What a batch of searches found. NumPy, float64."""

    z: np.ndarray
    """(N, starts, P)"""
    costs: np.ndarray
    """(N, starts)"""
    done: np.ndarray
    """(N, starts) bool"""
    iterations: np.ndarray
    """(N, starts)"""
    history: list[np.ndarray]
    """N times (iterations, starts): cost by iteration"""
    interrupted: bool
    compile_seconds: float
    run_seconds: float


def make_advance(quadratic: Callable[[Any, Any, Array], Quadratic], tolerance: float, mesh: Mesh | None = None) -> Any:
    """Compile ``CHUNK`` iterations of every search.

    Args:
        quadratic: traced function of what all share, of what is one item's own, and of ``z (P,)``.
        tolerance: relative decrease of the cost below which a search is done.
        mesh: devices that share the items between them; every device loops for its own only.
    """

    def iterate(shared: Any, item: Any, low: Array, high: Array, search: Any) -> Any:
        return levenberg_marquardt.iterate(functools.partial(quadratic, shared, item), low, high, tolerance, search)

    starts = jax.vmap(iterate, in_axes=(None, None, None, None, 0))
    items = jax.vmap(starts, in_axes=(None, 0, 0, 0, 0))

    def advance(shared: Any, own: Any, search: Any, slots: Array, active: Array) -> Any:
        item, low, high, some = jax.tree.map(lambda leaf: leaf[slots], (*own, search))
        resting = jnp.broadcast_to(~active[:, None], some.done.shape)
        done = some.done
        some = dataclasses.replace(some, done=done | resting)

        def one(some: Any, _: None) -> Any:
            some = items(shared, item, low, high, some)
            return some, some.at.cost

        some, costs = jax.lax.scan(one, some, None, length=CHUNK)
        some = dataclasses.replace(some, done=jnp.where(resting, done, some.done))
        return jax.tree.map(lambda leaf, new: leaf.at[slots].set(new), search, some), jnp.moveaxis(costs, 0, 1)

    if mesh is not None:
        own, everyones = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
        advance = jax.shard_map(
            advance, mesh=mesh, in_specs=(everyones, own, own, own, own), out_specs=(own, own), check_vma=False
        )
    return jax.jit(advance, compiler_options=fast_compilation())


_begin = jax.jit(jax.vmap(jax.vmap(levenberg_marquardt.begin)))


def solve(
    advance: Any,
    shared: Any,
    items: Any,
    low: np.ndarray,
    high: np.ndarray,
    z0: np.ndarray,
    *,
    precision: Precision,
    max_iterations: int,
    mesh: Mesh | None = None,
) -> Solved:
    """Search from ``z0 (N, starts, P)`` until all are done or the limit is reached; an interrupt keeps what there is.

    Some items need several times the iterations of others, so only a part of them is worked on at a time, and who is
    done makes room for the next.
    """
    began = time.perf_counter()
    with jax.enable_x64(precision == "float64"):
        count, starts = z0.shape[:2]
        shared = jax.tree.map(jnp.asarray, cast(shared, precision))
        own = cast((items, low, high), precision)
        search = jax.tree.map(np.asarray, _begin(cast(z0, precision)))
        if mesh is None:
            own, search = jax.tree.map(jnp.asarray, (own, search))
        else:
            own, search = spread((own, search), mesh)
            shared = jax.device_put(shared, NamedSharding(mesh, PartitionSpec()))
        devices = 1 if mesh is None else mesh.size
        each = -(-count // devices)
        width = min(each, max(LEAST_SLOTS, -(-each // 4)))
        # Padding is finished before it begins.
        open_ = np.arange(devices * each).reshape(devices, each) < count
        calls = np.zeros((devices, each), int)
        history: list[list[np.ndarray]] = [[] for _ in range(devices * each)]
        slots = _next(open_, calls, width)
        compiled = advance.lower(shared, own, search, *_placed(slots, open_, mesh)).compile()
        ready = time.perf_counter()
        interrupted = False
        try:
            while max_iterations > 0 and open_.any():
                search, costs = compiled(shared, own, search, *_placed(slots, open_, mesh))
                done = gathered(search.done).reshape(devices, each, starts).all(axis=2)
                costs = gathered(costs).reshape(devices, width, CHUNK, starts)
                for d, row in enumerate(slots):
                    for k, i in enumerate(row):
                        if open_[d, i]:
                            history[d * each + i].append(costs[d, k])
                            calls[d, i] += 1
                open_ &= ~done & (CHUNK * calls < max_iterations)
                slots = _next(open_, calls, width)
        except KeyboardInterrupt:
            interrupted = True
        z, cost, finished, iterations = (
            gathered(x)[:count] for x in (search.z, search.at.cost, search.done, search.iterations)
        )
    return Solved(
        z=z.astype(np.float64),
        costs=cost.astype(np.float64),
        done=finished,
        iterations=iterations,
        history=[np.concatenate([np.empty((0, starts)), *h]).astype(np.float64) for h in history[:count]],
        interrupted=interrupted,
        compile_seconds=ready - began,
        run_seconds=time.perf_counter() - ready,
    )


def _next(open_: np.ndarray, calls: np.ndarray, width: int) -> np.ndarray:
    """``(devices, width)``: whom to work on, those furthest behind first; who is not open fills up, and rests."""
    return np.lexsort((calls, ~open_), axis=1)[:, :width].astype(np.int32)


def _placed(slots: np.ndarray, open_: np.ndarray, mesh: Mesh | None) -> Any:
    active = np.take_along_axis(open_, slots, axis=1)
    both = (slots.ravel(), active.ravel())
    return jax.tree.map(jnp.asarray, both) if mesh is None else spread(both, mesh)


def spread(tree: Any, mesh: Mesh) -> Any:
    """Arrays with their leading axis split over the devices, padded with the last item to a multiple of them.

    Every process gives all the items, and puts its own devices' share on them.
    """
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))

    def put(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        leaf = np.concatenate([leaf, np.repeat(leaf[-1:], -len(leaf) % mesh.size, axis=0)])
        return jax.make_array_from_callback(leaf.shape, sharding, lambda rows: leaf[rows])

    return jax.tree.map(put, tree)


def gathered(array: Any) -> np.ndarray:
    """The whole of an array, also where other processes hold parts of it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
