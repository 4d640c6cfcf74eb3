"""The reference page: every equation, constant, unit, sign and source of the muscle model, written by the code itself.

``nms-gym reference -o FOLDER`` writes ``README.md`` and its figures. The text is the docstrings of the functions that
are run, the numbers are the constants that they use, and the figures are drawn by calling them, so the page cannot say
something else than the code does. A family added to ``nms_gym.muscle.families.FAMILIES`` appears by itself.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nms_gym.excitation import activation as act
from nms_gym.model.parameters import KINDS, NmsParams
from nms_gym.muscle import curves as curves_module
from nms_gym.muscle import derived, geometry, hill, metabolics, moments, tendon
from nms_gym.muscle.curves import Curves
from nms_gym.muscle.families import FAMILIES
from nms_gym.recording.storage import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = "README.md"
DPI = 100
POINTS = 241
# Colour-blind safe (Okabe & Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1a")
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": "cycler('color', " + repr(list(COLORS)) + ")",
    "grid.color": "#e6e9ec",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One of a family's curves on the page: where it is drawn, and what its strain parameter is called."""

    method: str
    title: str
    label: str
    domain: tuple[float, float]
    keys: tuple[float, ...]
    """where the page gives values"""
    strain: str | None = None


class State(NamedTuple):
    """Fibers to be drawn: what ``metabolic_rate`` reads of a step's output."""

    tendon_force: jax.Array
    fiber_length: jax.Array
    fiber_velocity: jax.Array
    tendon_strain: jax.Array


CURVES = (
    Curve("active_force_length", "Active force-length", "fiber length", (0.2, 2.0), (0.5, 0.75, 1.0, 1.25, 1.5)),
    Curve("force_velocity", "Force-velocity", "fiber velocity", (-1.2, 1.2), (-1.0, -0.5, 0.0, 0.5, 1.0)),
    Curve(
        "passive_force_length",
        "Passive force-length",
        "fiber length",
        (0.2, 1.8),
        (0.75, 1.0, 1.25, 1.5),
        "passive_fiber_strain_at_one_norm_force",
    ),
    Curve(
        "tendon_force",
        "Tendon force-length",
        "tendon length",
        (0.98, 1.07),
        (0.99, 1.0, 1.01, 1.03, 1.049),
        "tendon_strain_at_one_norm_force",
    ),
)


DEFAULTS = {name: kind.default for name, kind in KINDS.items() if kind.default is not None}


def default(family: Curves, kind: str) -> float:
    """A parameter's default with this family: its own, else the model's."""
    own = getattr(family, "defaults", {})
    return own[kind] if kind in own else DEFAULTS[kind]


@functools.cache
def sampled(family: Curves, curve: Curve) -> np.ndarray:
    """Abscissa, value and slope of a family's curve: ``(3, POINTS + len(curve.keys))``, the keys last."""
    x = jnp.concatenate([jnp.linspace(*curve.domain, POINTS), jnp.asarray(curve.keys)])
    rest = [] if curve.strain is None else [jnp.full_like(x, default(family, curve.strain))]
    value, slope = jax.jvp(lambda x: getattr(family, curve.method)(x, *rest), (x,), (jnp.ones_like(x),))
    return np.stack([x, value, slope])


def write_reference(folder: Path) -> list[Path]:
    """Write the page and its figures into ``folder``, which must exist; each file whole or not at all.

    Returns:
        What was written, the page first.

    Raises:
        InputError: no such folder.
    """
    families = {name: make() for name, make in FAMILIES.items()}
    with jax.enable_x64(True), _drawing():
        figures = {"families": _draw_families(families)}
        figures |= {f"family_{_slug(name)}": _draw_family(family) for name, family in families.items()}
        figures |= {"activation": _draw_activation(), "metabolic_rate": _draw_metabolics(families)}
        page = _page(families)
    page_file = Path(folder) / PAGE
    with atomic_path(page_file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    written = [page_file]
    for name, png in figures.items():
        written.append(Path(folder) / f"{name}.png")
        with atomic_path(written[-1]) as temporary:
            temporary.write_bytes(png)
    return written


# ---- text ----


def _page(families: dict[str, Curves]) -> str:
    parts = [
        "# Reference: equations, constants, units, signs, sources",
        "Written by `nms-gym reference`, from the docstrings and constants of the code; edit those, not this page.",
        *_section("Signs, units and normalisation"),
        "SI units and radians throughout: N, m, s, rad, N·m, W, J, kg.",
        *(_module(m) for m in (curves_module, moments, derived)),
        _function(geometry.lengths_and_moment_arms),
        _function(geometry.musculotendon_velocities),
        *_section("Muscle and tendon"),
        _module(hill),
        _function(hill.fiber_force, code=True),
        _function(hill.force_along_tendon, code=True),
        _module(tendon),
        *_section("Muscle families"),
        "Four curves and the inverse of the tendon's, elementwise and smooth: the interface `Curves`.",
        "![all families](families.png)",
        _key_values(families),
    ]
    for name, family in families.items():
        parts += _family(name, family)
    parts += [
        *_section("Activation dynamics"),
        _module(act),
        "![activation dynamics](activation.png)",
        *(_function(f, code=True) for f in _public(act)),
        *_section("Parameters"),
        "What calibration can fit, one entry per muscle or channel; a family's own default precedes the model's.",
        _parameters(families),
        *_section("Derived quantities"),
        *(_class(c) for c in _classes(derived)),
        *(_function(f) for f in _public(derived)),
        *_section("Metabolic rate"),
        _module(metabolics),
        "![metabolic rate](metabolic_rate.png)",
        _metabolic_parameters(),
    ]
    for make in metabolics.METABOLIC_MODELS.values():
        parts += [_class(make), _constants(make()), _code(make)]
    parts += [_class(metabolics.MetabolicRate), *(_function(f) for f in _public(metabolics))]
    return "\n\n".join(parts) + "\n"


def _section(title: str) -> list[str]:
    return [f"## {title}"]


def _markdown(doc: str) -> str:
    """A docstring as Markdown: code marks, linked DOIs, and argument lists as lists."""
    doc = doc.replace("``", "`")
    doc = re.sub(r"(?<![\w/])10\.\d{4,9}/(?:[\w.:/-]|\(\d+\))*[\w]", lambda m: f"[{m[0]}](https://doi.org/{m[0]})", doc)
    lines: list[str] = []
    listing = False
    for line in doc.splitlines():
        if heading := re.fullmatch(r"(Args|Returns|Raises):", line):
            lines += [f"*{heading[1]}*", ""]
        elif listing and (argument := re.fullmatch(r"    (\w+): (.*)", line)):
            lines.append(f"- `{argument[1]}`: {argument[2]}")
        elif listing:
            lines.append(re.sub("^ {4}( {0,2}) *", r"\1", line))
        else:
            lines.append(line)
        listing = bool(heading) or (listing and line.startswith("    "))
    return "\n".join(lines)


def _doc(thing: Any) -> str:
    return _markdown(inspect.getdoc(thing) or "")


def _module(module: Any) -> str:
    return f"*{module.__name__}*: {_doc(module)}"


def _item(text: str) -> str:
    """An entry of a list, its further lines indented with it."""
    return "- " + textwrap.indent(text, "  ").strip()


def _code(thing: Any) -> str:
    """The source, folded away."""
    source = textwrap.dedent(inspect.getsource(thing)).strip()
    return f"<details><summary>code</summary>\n\n```python\n{source}\n```\n\n</details>"


def _function(function: Callable[..., Any], *, code: bool = False) -> str:
    names = ", ".join(inspect.signature(function).parameters)
    text = f"**`{function.__name__}({names})`** {_doc(function)}"
    return f"{text}\n\n{_code(function)}" if code else text


def _class(kind: type) -> str:
    """A class with its fields and properties as a list."""
    notes = field_notes(kind)
    fields = [f"- `{n}`" + (f": {_markdown(note)}" if note else "") for n, note in notes.items()]
    fields += [f"- `{n}`: {_doc(p)}" for n, p in vars(kind).items() if isinstance(p, property)]
    # The constants of a metabolic model have a table of their own.
    listed = fields if all(note or n not in vars(kind) for n, note in notes.items()) else []
    return "\n\n".join([f"**`{kind.__name__}`** {_doc(kind)}", *(["\n".join(listed)] if listed else [])])


def field_notes(kind: type) -> dict[str, str]:
    """Fields of a dataclass and the string under each in the source, or nothing; inherited ones first."""
    notes: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is object or not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        name = None
        for statement in definition.body:  # type: ignore[attr-defined]
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                name = statement.target.id
                notes[name] = ""
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and name is not None:
                notes[name] = inspect.cleandoc(str(statement.value.value))
                name = None
            else:
                name = None
    return notes


def _public(module: Any) -> Iterator[Callable[..., Any]]:
    """Public functions defined in ``module``, in the order of its source."""
    for name, thing in vars(module).items():
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_"):
            yield thing


def _classes(module: Any) -> Iterator[type]:
    """Result classes defined in ``module``: its dataclasses, in the order of its source."""
    for thing in vars(module).values():
        if dataclasses.is_dataclass(thing) and isinstance(thing, type) and thing.__module__ == module.__name__:
            yield thing


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _number(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_number(v) for v in value) + ")"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _constants(thing: Any) -> str:
    """Constants of a family or model: the fields of its dataclass."""
    rows = [[f"`{f.name}`", _number(getattr(thing, f.name))] for f in dataclasses.fields(thing) if f.name != "name"]
    return _table(["constant", "value"], rows) if rows else "No constants."


def _family(name: str, family: Curves) -> list[str]:
    kind = type(family)
    methods = [m for m in (*(c.method for c in CURVES), "tendon_length") if callable(getattr(kind, m, None))]
    own = getattr(family, "defaults", {})
    shown = ", ".join(f"`{k}` {v:g}" for k, v in own.items())
    return [
        f"### {name}",
        _doc(kind),
        f"![{name}: curves and slopes](family_{_slug(name)}.png)",
        "\n".join(_item(f"`{m}`: {_doc(getattr(kind, m))}") for m in methods),
        *([f"Parameter defaults of this family: {shown}."] if own else []),
        f"<details><summary>constants</summary>\n\n{_constants(family)}\n\n</details>",
        _code(kind),
    ]


def _key_values(families: dict[str, Curves]) -> str:
    """Values of every curve at its key points, slope in brackets."""
    rows = []
    for curve in CURVES:
        columns = [sampled(family, curve)[1:, POINTS:] for family in families.values()]
        for i, x in enumerate(curve.keys):
            cells = [f"{_rounded(value[i])} ({_rounded(slope[i])})" for value, slope in columns]
            rows.append([f"`{curve.method}`" if i == 0 else "", f"{x:g}", *cells])
    return "Values, and slopes in brackets, at default parameters:\n\n" + _table(["curve", "at", *families], rows)


def _rounded(value: float) -> str:
    # Rounding noise must not change the page from one machine to the next, nor zero its sign.
    return f"{round(float(value), 3) + 0.0:g}"


def _parameters(families: dict[str, Curves]) -> str:
    notes = field_notes(NmsParams)
    rows = []
    for kind, known in KINDS.items():
        low, high = known.limits
        value = "required" if known.default is None else f"{known.default:g}"
        own = {name: getattr(f, "defaults", {}).get(kind) for name, f in families.items()}
        value += "".join(f"; {name} {v:g}" for name, v in own.items() if v is not None)
        per = known.axis.replace("_", " ")
        note = _markdown(notes[kind]) if notes[kind] != known.unit else ""
        rows.append([f"`{kind}`", known.unit, per, value, f"{low:g} to {high:g}", note])
    return _table(["parameter", "unit", "per", "default", "allowed", "note"], rows)


def _metabolic_parameters() -> str:
    notes = field_notes(metabolics.MetabolicParams)
    rows = []
    for kind, value in metabolics.DEFAULTS.items():
        low, high = metabolics.LIMITS[kind]
        rows.append([f"`{kind}`", metabolics.UNITS[kind], f"{value:g}", f"{low:g} to {high:g}", notes[kind]])
    return _table(["parameter", "unit", "default", "allowed", "note"], rows)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").lower()


# ---- figures ----


@contextmanager
def _drawing() -> Iterator[None]:
    """Our style over matplotlib's own defaults, whatever the user's matplotlibrc says; put back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in STYLE.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def _axes(rows: int, columns: int, height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Figure) -> bytes:
    from PIL import Image

    figure.canvas.draw()
    pixels = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]
    stream = io.BytesIO()
    # A few hues and their blends with white: a small palette holds them in a third of the bytes.
    pixels.quantize(64, dither=Image.Dither.NONE).save(stream, format="png", optimize=True)
    return stream.getvalue()


def _plot(ax: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    ax.plot(x, y, **style)
    ax.margins(x=0)


def _draw_families(families: dict[str, Curves]) -> bytes:
    figure, axes = _axes(1, len(CURVES), 2.6)
    for ax, curve in zip(axes[0], CURVES, strict=True):
        for name, family in families.items():
            _plot(ax, *sampled(family, curve)[:2, :POINTS], label=name)
        ax.set(title=curve.title, xlabel=f"normalised {curve.label}")
    axes[0, 0].set_ylabel("normalised force")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(families))
    return _png(figure)


def _draw_family(family: Curves) -> bytes:
    figure, axes = _axes(2, len(CURVES), 4.2)
    for column, curve in zip(axes.T, CURVES, strict=True):
        x, value, slope = sampled(family, curve)[:, :POINTS]
        _plot(column[0], x, value)
        _plot(column[1], x, slope, color=COLORS[1])
        column[0].set(title=curve.title)
        column[1].set(xlabel=f"normalised {curve.label}")
    axes[0, 0].set_ylabel("normalised force")
    axes[1, 0].set_ylabel("slope")
    return _png(figure)


def _draw_activation() -> bytes:
    """Responses to a pulse of 0.2 s at default time constants, and the shape of the nonlinearity."""
    figure, axes = _axes(1, 3, 2.6)
    dt, values = 0.001, DEFAULTS
    time = np.arange(500) * dt
    pulse = jnp.asarray(np.where((time >= 0.05) & (time < 0.25), 1.0, 0.0))

    rise, fall, filter_1, filter_2 = (
        jnp.asarray(values[f"{name}_time_constant{which}"])
        for name, which in (("activation", ""), ("deactivation", ""), ("filter", "_1"), ("filter", "_2"))
    )

    def first(a: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        a = act.first_order_step(e, a, rise, fall, dt)
        return a, a

    def second(past: tuple[jax.Array, jax.Array], e: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        past = act.second_order_step(e, *past, filter_1, filter_2, dt)
        return past, past[0]

    zero = jnp.zeros(())
    panels = {"first order": (first, zero), "second order": (second, (zero, zero))}
    for ax, (title, (step, start)) in zip(axes[0], panels.items(), strict=False):
        _plot(ax, time, np.asarray(pulse), color="#9aa3ad", label="excitation")
        _plot(ax, time, np.asarray(jax.lax.scan(step, start, pulse)[1]), label="activation")
        ax.set(title=f"Activation dynamics, {title}", xlabel="s")
        ax.legend()
    u = np.linspace(0, 1, 101)
    for factor in (0.0, -0.5, -1.5, -3.0):
        _plot(axes[0, 2], u, np.asarray(act.shaped(jnp.asarray(u), jnp.full(101, factor))), label=f"A = {factor:g}")
    axes[0, 2].set(title="Shape factor", xlabel="filtered excitation", ylabel="activation")
    axes[0, 2].legend()
    return _png(figure)


def _draw_metabolics(families: dict[str, Curves]) -> bytes:
    """Rate of a fully excited muscle at optimal length over velocity, in its parts, W/kg."""
    figure, axes = _axes(1, len(metabolics.METABOLIC_MODELS), 3.0)
    family = next(iter(families.values()))
    v = np.linspace(-1, 0.6, 161)
    one = {"max_isometric_force": 1000.0, "optimal_fiber_length": 0.1, "tendon_slack_length": 0.2}
    names = [f.name for f in dataclasses.fields(hill.MuscleParams)]
    params = hill.MuscleParams(*(jnp.full(1, one[n] if n in one else default(family, n)) for n in names))
    metabolic = metabolics.make_metabolic_params(["muscle"])
    x = jnp.ones((len(v), 1))
    out = State(tendon_force=x, fiber_length=x, fiber_velocity=jnp.asarray(v)[:, None], tendon_strain=x)
    for ax, make in zip(axes[0], metabolics.METABOLIC_MODELS.values(), strict=True):
        rate = metabolics.metabolic_rate(make(), family, params, metabolic, x, x, out)
        mass = metabolics.muscle_mass(params, metabolic)
        for part in (*(f.name for f in dataclasses.fields(rate)), "total"):
            style = {"color": COLORS[-1], "linewidth": 2.0} if part == "total" else {}
            _plot(ax, v, np.asarray(getattr(rate, part))[:, 0] / float(mass[0]), label=part.replace("_", " "), **style)
        ax.set(title=f"{make().name}, full excitation, optimal length", xlabel="normalised fiber velocity")
        ax.set_ylim(-600, 1200)
    axes[0, 0].set_ylabel("W/kg")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return _png(figure)
