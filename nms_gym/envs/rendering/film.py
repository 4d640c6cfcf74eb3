"""Films of episodes: GIF by Pillow, MP4 by ffmpeg, and the last picture as PNG."""

from __future__ import annotations

import math
import os
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial import KDTree

from nms_gym.errors import InputError, listed
from nms_gym.recording.storage import atomic_path

ENDINGS = (".gif", ".mp4")
FREQUENT, MIXED = 96, 160
"""colours of a GIF's palette: those that occur most, as they are, and means of the others"""


def write_film(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float) -> list[Path]:
    """Write frames ``(H, W, 3)`` uint8 as a film, and the last of them as a PNG of the same name.

    Args:
        path: ending in ``.gif`` or ``.mp4``; replaced in one step.
        frames: of one size, H and W even.
        fps: frames per second; a GIF rounds to a hundredth of a second per frame.

    Returns:
        The two files.

    Raises:
        InputError: another ending, no frames, a frame rate that is no number above 0, or MP4 without ffmpeg
            (``imageio-ffmpeg`` brings it) or with an odd width or height.
    """
    file = _checked(path, fps)
    pictures = [np.asarray(frame) for frame in frames]
    if not pictures:
        raise InputError(f"{path}: there are no frames to write; play at least one step")
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.shape != pictures[0].shape or picture.shape[2:] != (3,):
            raise InputError(
                f"{path}: a frame has shape {picture.shape} and type {picture.dtype}; expected (H, W, 3) of uint8, all "
                "of one size"
            )
    with atomic_path(file) as temporary:
        (_write_gif if file.suffix == ".gif" else _write_mp4)(temporary, pictures, fps)
    return [file, write_picture(file.with_suffix(".png"), pictures[-1])]


@dataclass(frozen=True)
class Film:
    """A filmed episode.

    Attributes:
        files: the film and its last picture.
        total: sum of the rewards.
    """

    files: list[Path]
    total: float


def play_environment(env: Any, policy: Callable[[Any], Any], seed: int = 0) -> Iterator[tuple[float, bool]]:
    """Play one episode of a Gymnasium environment: after the reset and after every step, its reward and the end.

    Whoever iterates may draw in between, and stop early.

    Args:
        env: any Gymnasium environment.
        policy: observation -> action.
        seed: of the episode.
    """
    observation, _ = env.reset(seed=seed)
    reward, over = 0.0, False
    yield reward, over
    while not over:
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        over = bool(terminated or truncated)
        yield float(reward), over


def record(
    env: Any, policy: Callable[[Any], Any], path: str | os.PathLike[str], *, seed: int = 0, fps: float = 25.0
) -> Film:
    """Play one episode, film it in real time and write the film and its last picture.

    Args:
        env: a Gymnasium environment made with ``render_mode="rgb_array"``.
        policy: observation -> action.
        path: ending in ``.gif`` or ``.mp4``.
        seed: of the episode.
        fps: frames per second; steps in between are not drawn. At most one frame per step.

    Raises:
        InputError: the environment draws no pictures, or as ``write_film``.
    """
    _checked(path, fps)
    if env.render_mode != "rgb_array":
        raise InputError(f"render_mode is {env.render_mode!r}: make the environment with render_mode='rgb_array'")
    step_time = float(env.get_wrapper_attr("dt"))
    fps = min(fps, 1.0 / step_time)
    frames: list[np.ndarray] = []
    total = 0.0
    for steps, (reward, over) in enumerate(play_environment(env, policy, seed)):
        total += reward
        # The frame of every time k / fps is the first step that reaches it; the last step is shown too.
        if over or math.floor(steps * step_time * fps + 1e-6) >= len(frames):
            frames.append(env.render())
    return Film(write_film(path, frames, fps), total)


def write_picture(path: str | os.PathLike[str], frame: np.ndarray) -> Path:
    """One picture ``(H, W, 3)`` uint8 as PNG."""
    with atomic_path(path) as temporary:
        Image.fromarray(frame).save(temporary, format="png", optimize=True)
    return Path(path)


def _checked(path: str | os.PathLike[str], fps: float) -> Path:
    file = Path(path)
    if file.suffix not in ENDINGS:
        raise InputError(f"{path}: a film ends in one of {listed(ENDINGS)}")
    if not file.parent.is_dir():
        raise InputError(f"{path}: the folder {str(file.parent)!r} does not exist; create it first")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 100:
        raise InputError(f"fps is {fps!r}; use a number of frames per second above 0 and up to 100")
    if file.suffix == ".mp4":
        _ffmpeg()
    return file


def _ffmpeg() -> str:
    try:
        import imageio_ffmpeg  # type: ignore[import-not-found]
    except ImportError:
        raise InputError(
            'an MP4 needs ffmpeg: pip install "nms-gym[video]", or give a name that ends in .gif'
        ) from None
    return imageio_ffmpeg.get_ffmpeg_exe()


def _write_gif(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    # One palette for all frames: colours would flicker with one each, and equal pixels could not be left out.
    chosen = [frames[i] for i in sorted({0, len(frames) // 3, 2 * len(frames) // 3, len(frames) - 1})]
    colours = _palette(np.concatenate(chosen).reshape(-1, 3))
    images = _in_colours(frames, colours)
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=max(round(100 / fps), 2) * 10,
        loop=0,
        optimize=True,
        disposal=1,
    )


def _codes(pixels: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as numbers below 2^24."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _colours(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)


def _palette(pixels: np.ndarray) -> np.ndarray:
    """At most 256 colours (n, 3) for pixels (m, 3): means alone would turn white paper grey."""
    codes = _codes(pixels)
    found, counts = np.unique(codes, return_counts=True)
    often = found[np.argsort(-counts, kind="stable")[:FREQUENT]]
    others = pixels[~np.isin(codes, often)]
    if not len(others):
        return _colours(often)
    mixed = Image.fromarray(others[None]).quantize(MIXED, method=Image.Quantize.MEDIANCUT).getpalette() or []
    return np.concatenate([_colours(often), np.reshape(mixed, (-1, 3))[:MIXED]])


def _in_colours(frames: Sequence[np.ndarray], colours: np.ndarray) -> list[Image.Image]:
    """Frames in the nearest of the colours. (Pillow's own search looks at six bits and misses white.)"""
    nearest = np.full(1 << 24, -1, np.int16)
    tree = KDTree(colours)
    images = []
    for frame in frames:
        codes = _codes(frame)
        new = np.unique(codes[nearest[codes] < 0])
        nearest[new] = tree.query(_colours(new))[1]
        image = Image.fromarray(nearest[codes].astype(np.uint8))
        image.putpalette(colours.astype(np.uint8).tobytes())
        images.append(image)
    return images


def _write_mp4(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    height, width, _ = frames[0].shape
    given = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps:g} -i -"
    # What every player shows: H.264, colours at half the resolution, the index at the front.
    made = "-an -c:v libx264 -crf 18 -pix_fmt yuv420p -movflags +faststart"
    command = [_ffmpeg(), "-y", "-loglevel", "error", *given.split(), *made.split(), str(path)]
    with warnings.catch_warnings():
        # JAX warns of forks; this one starts another program at once and touches nothing of JAX.
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        done = subprocess.run(command, input=b"".join(f.tobytes() for f in frames), capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"{path}: ffmpeg could not write it: {done.stderr.decode(errors='replace').strip():.300}")
