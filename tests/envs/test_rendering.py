"""Pictures and films of episodes: what they show, and that nothing global changes."""

import dataclasses
import itertools
import subprocess
import sys
from types import SimpleNamespace

import jax
import matplotlib
import numpy as np
import pytest
from PIL import Image

from nms_gym._assets import asset_path
from nms_gym.envs.rendering import (
    Body,
    History,
    Line,
    Scene,
    Strip,
    angle_strip,
    draw,
    moment_strip,
    record,
    stimulation_strip,
    torque_strip,
    write_film,
)
from nms_gym.envs.rendering.muscles import SLACK, courses, smoothed
from nms_gym.envs.rendering.pose import PosedBody
from nms_gym.errors import InputError
from nms_gym.files.model_file import read_model_file
from nms_gym.muscle.geometry import lengths_and_moment_arms
from nms_gym.skeleton.dynamics import make_skeleton, point_positions

ARM, LEG = (read_model_file(asset_path(f"{name}/model.json")) for name in ("arm", "right_leg"))
SHOULDER = {"r_shoulder_elev": 0.3}


def body_of(model, coordinates, held, **how):
    return Body(
        model.skeleton,
        tuple(coordinates),
        held=held,
        muscle_points=model.muscle_points,
        strength=model.parameters["max_isometric_force"],
        paths=model.paths,
        **how,
    )


ELBOW = body_of(ARM, ["r_elbow_flex"], SHOULDER, largest_torque=5.0, electrodes=(("BIClong", "BICshort"),))
LEG_BODY = body_of(LEG, ["hip_flexion_r", "knee_angle_r", "ankle_angle_r"], {})


def elbow_scene():
    strips = (angle_strip("elbow flexion", 0, (0.0, 2.3)), torque_strip("elbow", 0, (-10.0, 10.0)))
    return Scene("Elbow", ARM.muscles, dict.fromkeys(ARM.muscles, "action"), strips, (0.0, 1.0), ELBOW)


def elbow_info(step, **changes):
    info = {
        "time": 0.02 * (step + 1),
        "success": False,
        "reward_track": 0.5,
        "q": np.array([0.5 + 0.02 * step]),
        "target": np.array([1.2]),
        "moments": np.array([2.0]),
        "device_torque": np.array([1.5]),
        "excitation": np.full(6, 0.3),
        "activation": np.full(6, 0.2),
        "stimulation": np.array([0.0]),
    }
    return info | changes


def played(scene, infos):
    history = History(scene)
    history.start({})
    for info in infos:
        history.add(info)
    return history


def differing(a, b):
    return (a != b).any(axis=-1)


# --- pictures -----------------------------------------------------------------


def test_a_picture_and_its_size():
    frame = draw(played(elbow_scene(), [elbow_info(i) for i in range(3)]))
    assert frame.dtype == np.uint8
    assert frame.shape == (540, 960, 3)
    assert (frame == 255).all(axis=-1).mean() > 0.5  # on white
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 200


def test_a_picture_before_the_first_step():
    history = History(elbow_scene())
    blank = draw(history)
    history.start({key: value for key, value in elbow_info(0).items() if key != "time"})
    assert differing(draw(history), blank)[:, :480].any()


def test_equal_histories_give_equal_pictures():
    infos = [elbow_info(i, moments=np.array([30.0 * i])) for i in range(5)]
    one, other = History(elbow_scene()), History(elbow_scene())
    for info in infos:  # drawn at every step, with axes that grow
        one.add(info)
        last = draw(one)
        other.add(info)
    assert (draw(other) == last).all()
    assert (draw(other) == last).all()
    # An episode that is over leaves nothing behind.
    one.start({})
    for info in infos[:2]:
        one.add(info)
    assert (draw(one) == draw(played(elbow_scene(), infos[:2]))).all()


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"activation": np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.9])}, True),
        ({"q": np.array([1.5])}, True),
        ({"target": np.array([0.4])}, True),
        ({"device_torque": np.array([-1.5])}, True),
        ({"device_torque": np.array([4.5])}, True),
        ({"stimulation": np.array([0.8])}, True),
        ({"excitation": np.full(6, 0.9)}, False),
        ({"moments": np.array([-5.0])}, False),
        ({"success": True}, False),
        ({"reward_track": 3.0}, False),
    ],
)
def test_every_quantity_shows(changes, left):
    scene = elbow_scene()
    changed = differing(*(draw(played(scene, [elbow_info(0), elbow_info(1, **c)])) for c in ({}, changes)))
    assert changed.any()
    assert changed[:, :500].any() == left


def test_activation_colours_its_muscle_only():
    """More activation makes the muscle's own pixels redder and leaves the other muscles alone."""
    scene = elbow_scene()
    rest, active = (
        draw(played(scene, [elbow_info(0, activation=np.array([0, 0, 0, 0, 0, a]))])).astype(int) for a in (0.0, 1.0)
    )
    changed = np.argwhere(differing(rest, active))
    redder = (active - rest)[changed[:, 0], changed[:, 1]]
    assert 50 < len(changed) < 3000
    assert (redder[:, 2] < 0).mean() > 0.95
    # The brachialis is a small muscle at the elbow.
    assert np.ptp(changed, axis=0).max() < 200


def test_limits_stay_while_values_do():
    scene = elbow_scene()
    history = played(scene, [elbow_info(0)])
    draw(history)
    limits = [strip.axes.get_ylim() for strip in history.picture.strips]
    for i in range(1, 30):
        history.add(elbow_info(i, moments=np.array([9.0 * np.sin(i)])))
    draw(history)
    assert [strip.axes.get_ylim() for strip in history.picture.strips] == limits
    history.add(elbow_info(30, moments=np.array([80.0])))
    draw(history)
    low, high = history.picture.strips[1].axes.get_ylim()
    assert low <= -10
    assert high >= 80


def test_forty_muscles_and_a_task_without_a_limb():
    info = {"time": 0.5, "excitation": np.full(40, 0.4), "activation": np.full(40, 0.4), "q": np.zeros(3)}
    strips = tuple(angle_strip(name, i, (-1.0, 1.0), target=False) for i, name in enumerate(LEG_BODY.coordinates))
    leg = Scene("Leg", LEG.muscles, dict.fromkeys(LEG.muscles, "recorded: a"), strips, (0.0, 1.0), LEG_BODY)
    history = played(leg, [info])
    assert draw(history).shape == (540, 960, 3)
    names = [text.get_text() for text in history.picture.raster.axes.get_yticklabels()]
    assert names == list(LEG.muscles)
    boxes = [text.get_window_extent() for text in history.picture.raster.axes.get_yticklabels()]
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(boxes)), "names overlap"

    time = np.linspace(2.0, 3.0, 11)
    kinds = ("recorded: a", "action", "passive", "synergy: s")
    drive = {m: kinds[i % 4] for i, m in enumerate(ARM.muscles)}
    moments = Scene("Moments", ARM.muscles, drive, (moment_strip("elbow", 0, time, np.sin(time)),), (2.0, 3.0))
    plain = played(moments, [{"time": 2.1, "excitation": np.full(6, 0.4), "moments": np.array([0.3])}])
    assert draw(plain).shape == (540, 960, 3)


def test_goal_and_tip_show():
    body = body_of(ARM, ARM.coordinates, {}, tip=("r_ulna_radius_hand", (0.0, -0.35, 0.0)))
    scene = Scene("Reach", ARM.muscles, {}, (), (0.0, 1.0), body)
    info = elbow_info(0, q=np.array([0.2, 1.0]))
    for key in ("target", "device_torque", "stimulation"):
        del info[key]
    without, near, far = (
        draw(played(scene, [info | goal]))
        for goal in ({}, {"goal": np.array([0.3, 0.6, 0.17])}, {"goal": np.array([0.4, 0.6, 0.17])})
    )
    assert differing(without, near).any()
    # The mark moves by 0.1 m to the right.
    columns = [np.argwhere(differing(without, frame))[:, 1].mean() for frame in (near, far)]
    picture = History(scene)
    draw(picture)
    assert columns[1] - columns[0] == pytest.approx(0.1 * picture.picture.limb.metre, abs=1.0)


def test_nothing_global_changes():
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    frame = draw(played(elbow_scene(), [elbow_info(0)]))
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
    # A user's own settings change nothing in ours.
    with matplotlib.rc_context({"font.size": 20.0, "axes.facecolor": "black", "font.family": "monospace"}):
        assert (draw(played(elbow_scene(), [elbow_info(0)])) == frame).all()


def test_bad_scenes_are_refused():
    with pytest.raises(InputError, match="style 'dotted'"):
        Scene("x", (), {}, (Strip("a", (Line("b", "dotted", "q"),)),), (0.0, 1.0))
    with pytest.raises(InputError, match="neither a key nor"):
        Scene("x", (), {}, (stimulation_strip(("e",)), Strip("a", (Line("b"),))), (0.0, 1.0))
    with pytest.raises(InputError, match="must be the later"):
        Scene("x", (), {}, (), (1.0, 1.0))
    with pytest.raises(InputError, match="no coordinate 'elbow'"):
        dataclasses.replace(ELBOW, coordinates=("elbow",))


# --- where things are ---------------------------------------------------------


def test_poses_are_those_of_the_skeleton():
    """Against the dynamics' own kinematics; the knee has splines and a coupled patella."""
    q = np.array([0.4, 1.1, -0.2])
    skeleton = make_skeleton(LEG.skeleton, LEG_BODY.coordinates)
    pose = PosedBody(LEG_BODY).poses(q[None])[0]
    for name in ("femur_r", "patella_r", "toes_r"):
        point = np.array([0.01, -0.03, 0.02])
        expected = np.asarray(point_positions(skeleton, q, name, point))
        np.testing.assert_allclose(pose.place(name, point), expected[:2], atol=1e-12)
        np.testing.assert_allclose(pose.depth(name, point), expected[2], atol=1e-12)


def test_moment_arms_are_those_of_the_paths():
    q = np.array([0.4, 1.1, -0.2])
    found = PosedBody(LEG_BODY).moment_arms(q)
    full = np.array([0.4, 0.0, 0.0, 1.1, -0.2])
    program = jax.jit(lambda q: lengths_and_moment_arms(LEG.paths, q)[1]).lower(full)
    expected = np.asarray(program.compile(compiler_options={"xla_backend_optimization_level": 0})(full))
    for i, coordinate in enumerate(LEG.coordinates):
        for j, muscle in enumerate(LEG.muscles):
            assert found[coordinate, muscle] == pytest.approx(expected[i, j], abs=1e-12)


def nearest(line, centre):
    """Least distance of a line from a point."""
    fine = np.concatenate([np.linspace(a, b, 50) for a, b in itertools.pairwise(line)])
    return np.linalg.norm(fine - centre, axis=1).min()


@pytest.mark.parametrize("flexion", [5, 35, 70, 100, 125])
def test_triceps_goes_round_the_elbow(flexion):
    """On the extensor side, as far from the joint's centre as its moment arm; so do the flexors on theirs."""
    limb = PosedBody(ELBOW)
    q = np.array([np.radians(flexion)])
    pose, _, pivots = limb.around(q, None)
    elbow = next(j for j in ARM.skeleton.joints if j.name == "r_elbow")
    np.testing.assert_allclose(pivots["r_elbow_flex"].centre, pose.joint(elbow), atol=1e-6)
    centre, arms = pose.joint(elbow), limb.moment_arms(q)
    for course in courses(limb):
        line = course.line(pose, pivots, arms)
        arm = arms["r_elbow_flex", course.muscle]
        # The force of the last piece, at the insertion towards the origin, turns the forearm as the arm says.
        insertion, pull = line[-1] - centre, line[-2] - line[-1]
        moment = (insertion[0] * pull[1] - insertion[1] * pull[0]) / np.linalg.norm(pull)
        assert np.sign(moment) == np.sign(arm), course.muscle
        if "TRI" in course.muscle:
            assert nearest(line, centre) == pytest.approx(abs(arm), abs=SLACK), course.muscle
            assert nearest(smoothed(line), centre) == pytest.approx(abs(arm), abs=SLACK), course.muscle
        else:
            assert abs(moment) < abs(arm) + SLACK + 0.004, course.muscle


@pytest.mark.parametrize("muscle", ["gasmed_r", "gaslat_r", "semimem_r", "bflh_r"])
@pytest.mark.parametrize("flexion", [5, 60, 100])
def test_muscles_behind_the_knee_stay_behind(muscle, flexion):
    limb = PosedBody(LEG_BODY)
    q = np.array([0.3, np.radians(flexion), 0.0])
    pose, _, pivots = limb.around(q, None)
    arms = limb.moment_arms(q)
    course = next(c for c in courses(limb) if c.muscle == muscle)
    line = course.line(pose, pivots, arms)
    arm, centre = abs(arms["knee_angle_r", muscle]), pivots["knee_angle_r"].centre
    assert nearest(line, centre) > 0.75 * arm - 0.004
    # The angle of the line about the knee, from origin to insertion, goes round the back.
    angle = np.unwrap(np.arctan2(*(line - centre).T[::-1]))
    assert angle[-1] > angle[0]


# --- films --------------------------------------------------------------------


def frames(count=12):
    history, found = History(elbow_scene()), []
    for i in range(count):
        history.add(elbow_info(4 * i))
        found.append(draw(history))
    return found


def test_gif(tmp_path):
    shown = frames(4)
    path = tmp_path / "film.gif"
    assert write_film(path, shown, 20) == [path, tmp_path / "film.png"]
    with Image.open(path) as film:
        assert film.n_frames == 4
        assert film.info["loop"] == 0
        assert film.info["duration"] == 50
        assert film.size == (960, 540)
        film.seek(3)
        last = np.asarray(film.convert("RGB")).astype(int)
    # 256 colours are few; the picture is still the same to the eye, and white is white.
    assert np.abs(last - shown[-1]).mean() < 0.5
    assert (last[np.all(shown[-1] == 255, axis=-1)] == 255).all()
    with Image.open(tmp_path / "film.png") as still:
        assert (np.asarray(still) == shown[-1]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.gif", "film.png"]


@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, when ffmpeg is started to read the film
def test_mp4(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    shown = frames(6)
    path = tmp_path / "film.mp4"
    assert write_film(path, shown, 25) == [path, tmp_path / "film.png"]
    command = [ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    film = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    film = film.reshape(-1, 540, 960, 3)
    assert len(film) == 6
    assert np.abs(film[-1].astype(int) - shown[-1]).mean() < 1.0
    assert ffmpeg.count_frames_and_secs(path)[1] == pytest.approx(6 / 25, abs=0.01)
    with pytest.raises(InputError, match="ffmpeg could not write it"):
        write_film(tmp_path / "odd.mp4", [np.zeros((5, 5, 3), np.uint8)], 25)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.mp4", "film.png"]


def test_mp4_without_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"nms-gym\[video\].*\.gif"):
        write_film(tmp_path / "film.mp4", [], 25)


def test_films_that_cannot_be_are_refused(tmp_path):
    good = np.zeros((4, 4, 3), np.uint8)
    for path, pictures, fps, message in (
        ("film.avi", [good], 25, "'.gif', '.mp4'"),
        ("nowhere/film.gif", [good], 25, "does not exist"),
        ("film.gif", [], 25, "no frames"),
        ("film.gif", [good, good[:2]], 25, r"\(2, 4, 3\)"),
        ("film.gif", [good.astype(float)], 25, "float64"),
        ("film.gif", [good], 0, "fps is 0"),
        ("film.gif", [good], float("nan"), "fps is nan"),
    ):
        with pytest.raises(InputError, match=message):
            write_film(tmp_path / path, pictures, fps)
    assert list(tmp_path.iterdir()) == []


class Counter:
    """An environment whose picture has its one dark pixel where the number of steps says; an episode is 1 s long."""

    render_mode = "rgb_array"
    dt = 0.01

    def __init__(self):
        self.seeds, self.actions = [], []

    def get_wrapper_attr(self, name):
        return getattr(self, name)

    def reset(self, *, seed):
        self.seeds.append(seed)
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action):
        self.actions.append(action)
        self.steps += 1
        return np.full(1, self.steps), 0.0, False, self.steps == 100, {}

    def render(self):
        picture = np.full((120, 3), 255, np.uint8)
        picture[self.steps] = 0
        return picture.reshape(12, 10, 3)


def test_record_plays_an_episode_in_real_time(tmp_path):
    env = Counter()
    paths = record(env, lambda observation: observation + 1, tmp_path / "play.gif", seed=7, fps=20).files
    assert env.seeds == [7]
    np.testing.assert_array_equal(np.concatenate(env.actions), np.arange(1, 101))
    with Image.open(paths[0]) as film:
        assert film.n_frames == 21  # the start and every fifth step
        assert film.info["duration"] == 50
    with Image.open(paths[1]) as still:
        assert np.argmin(np.asarray(still)[..., 0]) == 100
    # No more frames than steps.
    record(env, lambda observation: observation, tmp_path / "all.gif", fps=100)
    with Image.open(tmp_path / "all.gif") as film:
        assert film.n_frames == 101


def test_record_needs_pictures(tmp_path):
    env = SimpleNamespace(render_mode=None)
    with pytest.raises(InputError, match="render_mode='rgb_array'"):
        record(env, lambda observation: observation, tmp_path / "play.gif")
