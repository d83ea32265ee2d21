"""load_encoder: what it does to a video before the encoder, and how the encoder's outputs come back."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import discovr_jax
from discovr_jax import extract, slim
from discovr_jax.data import frame_rates, video_arrays
from discovr_jax.method import experiment
from discovr_jax.models import positions, readouts
from discovr_jax.runs.checkpoint import CheckpointError, Checkpoints, read_arrays

STRIDE, FRAMES, SIZE = 3, 4, 32  # of the tiny config


@pytest.fixture(scope="module")
def workdir(tiny, tmp_path_factory):
    """A workdir with a checkpoint at step 5 and an older one of other weights at step 2."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder)
    older = tiny.state.replace(teacher=jax.tree.map(np.zeros_like, tiny.state.teacher))
    config = experiment.config_dict(tiny.config)
    config["data"]["frame_size"] = SIZE  # clips of the records' size
    for step, state in ((2, older), (5, tiny.state)):
        checkpoints.save(step, state, {}, config)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def encoder(workdir):
    return discovr_jax.load_encoder(workdir, clips=1, batch_size=2)


@pytest.fixture(scope="module")
def video():
    """Twelve frames: one clip of four at stride 3."""
    return np.random.default_rng(0).integers(0, 256, (FRAMES * STRIDE, SIZE, SIZE), dtype=np.uint8)


def teacher_tokens(tiny, video, method):
    frames, num_valid = jnp.asarray(video[None, ::STRIDE]), jnp.full(1, FRAMES)
    params = jax.tree.map(jnp.asarray, tiny.state.teacher)
    return np.asarray(tiny.model.apply({"params": params}, frames, num_valid, method=method))


def test_import_is_light():
    code = "import sys, discovr_jax; assert 'jax' not in sys.modules; assert callable(discovr_jax.load_encoder)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_needs_no_file_locks():
    """Windows has no fcntl."""
    code = (
        "import sys; sys.modules['fcntl'] = None; import discovr_jax; assert callable(discovr_jax.load_encoder); "
        "from discovr_jax import file_lock; file_lock.lock(0, wait=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "OSError: training, prepare and --shard need the file locks of Linux or macOS; on Windows run them in WSL"
    )


def test_features_are_those_of_the_teacher(encoder, tiny, video):
    tokens = teacher_tokens(tiny, video, "encode_video")
    found = encoder.embed(video)
    assert (found.shape, found.dtype) == ((16,), np.float32)
    np.testing.assert_allclose(found, tokens[0, 0], atol=1e-5)
    np.testing.assert_allclose(encoder.embed(video, output="tokens").reshape(-1, 16), tokens[0, 1:], atol=1e-5)
    frames = np.asarray(tokens[0, 1:]).reshape(2, -1, 16).mean(1)
    np.testing.assert_allclose(encoder.embed(video, output="frames")[0], frames, atol=1e-5)


def test_a_step_folder_and_the_newest_of_a_workdir(encoder, workdir, video):
    newest = discovr_jax.load_encoder(workdir / "checkpoints" / "step_5", clips=1, batch_size=2)
    older = discovr_jax.load_encoder(workdir / "checkpoints" / "step_2", clips=1, batch_size=2)
    assert newest.weights_sha256 == encoder.weights_sha256 != older.weights_sha256
    np.testing.assert_array_equal(newest.embed(video), encoder.embed(video))
    assert not np.allclose(older.embed(video), encoder.embed(video))


def test_shapes_of_one_several_grey_and_colour(encoder, video):
    colour = np.repeat(video[..., None], 3, axis=3)
    one = encoder.embed(video)
    for frames in (video[None], colour[None], [video], [colour]):
        np.testing.assert_allclose(encoder.embed(frames)[0], one, atol=1e-6)
    np.testing.assert_allclose(encoder.embed(colour), one, atol=1e-6)  # luma of grey is that grey
    several = encoder.embed(np.stack([video, video[::-1], video // 2]))
    assert several.shape == (3, 16)
    np.testing.assert_allclose(several[0], one, atol=1e-6)
    np.testing.assert_allclose(several[1], encoder.embed(video[::-1]), atol=1e-6)
    assert not np.allclose(several[1], several[0], atol=1e-3)


def test_videos_of_any_size_and_length(encoder, video):
    long, wide = np.concatenate([video] * 3), np.zeros((5, 20, 50), np.uint8)
    found = encoder.embed([video, long, wide, video[:1]])
    assert found.shape == (4, 16) and np.isfinite(found).all()


def test_luma():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert video_arrays.fitted(red, 2, "squeeze", 1).tolist() == [[[60, 60], [60, 60]]]  # 0.299 * 200


def test_three_channels_take_the_plain_path(workdir, encoder, video):
    colour = discovr_jax.load_encoder(workdir, clips=1, batch_size=2, channels=3)
    np.testing.assert_allclose(colour.embed(video), encoder.embed(video), atol=1e-4)
    tinted = np.repeat(video[..., None], 3, axis=3)
    tinted[..., 2] //= 2
    assert not np.allclose(colour.embed(tinted), colour.embed(video), atol=1e-3)


def test_letterbox_keeps_the_aspect_and_squeeze_does_not():
    frames = np.full((1, 10, 20), 100, np.uint8)
    boxed = video_arrays.fitted(frames, 8, "letterbox", 1)[0]
    assert boxed[2:6].min() == 100 and boxed[:2].max() == boxed[6:].max() == 0
    assert video_arrays.fitted(frames, 8, "squeeze", 1).min() == 100


def test_pixels_that_are_not_square_become_so(encoder, video):
    """Columns 0.5 mm apart in rows 1 mm apart: the same picture with every second column."""
    wide = video.repeat(2, axis=2)
    found = encoder.embed([wide, wide], spacing=[(1.0, 0.5), None])
    np.testing.assert_allclose(found[0], encoder.embed(video), atol=1e-5)
    assert not np.allclose(found[1], found[0], atol=1e-3)
    with pytest.raises(ValueError, match="1 spacings for 2 videos"):
        encoder.embed([wide, wide], spacing=[(1.0, 0.5)])


def test_frame_rate(workdir, video):
    """Trained at 25 frames per second: at 75 every third frame, which is the stride; at 25 every frame."""
    encoder = discovr_jax.load_encoder(workdir, clips=1, batch_size=1, trained_fps=25)
    np.testing.assert_array_equal(encoder.embed(video, fps=75), encoder.embed(video))
    np.testing.assert_array_equal(encoder.embed(video[::STRIDE], fps=25), encoder.embed(video))
    both = encoder.embed([video, video[::STRIDE]], fps=[75, 25])
    np.testing.assert_array_equal(both[0], both[1])
    assert not np.allclose(encoder.embed(video, fps=25), encoder.embed(video), atol=1e-3)


def test_trained_frame_rate_is_known_or_asked_for(workdir, encoder, video, monkeypatch):
    assert encoder.options["trained_fps"] == pytest.approx(50 / 3)  # EchoNet-Dynamic at stride 3
    monkeypatch.setattr(frame_rates.facts, "known", dict)
    unknown = discovr_jax.load_encoder(workdir)
    with pytest.raises(ValueError, match="trained_fps"):
        unknown.embed(video, fps=50)
    with pytest.raises(ValueError, match="positive"):
        encoder.embed(video, fps=0.0)
    # Of a file that does not say its rate.
    np.testing.assert_array_equal(encoder.embed(video, fps=float("nan")), encoder.embed(video))


def test_a_checkpoint_keeps_the_rates_of_its_training_videos(tiny, tmp_path):
    """Where the dataset has no nominal rate, their common one is trained at; a slim copy keeps it."""
    config = experiment.config_dict(tiny.config)
    config["data"]["dataset"] = "echo_folder"
    for name, rates in (("one", [40.0, 40.0, 41.0]), ("several", [25.0, 40.0, 60.0]), ("none", None)):
        checkpoints = Checkpoints(tmp_path / name)
        checkpoints.save(1, tiny.state, {"stream": "", "frame_rates": rates}, config)
        checkpoints.close()
        encoder = discovr_jax.load_encoder(tmp_path / name)
        assert encoder.options["trained_fps"] == (40 / 3 if name == "one" else None)
        assert encoder.frame_rates == rates
    assert discovr_jax.load_encoder(tmp_path / "one", untrained=0).options["trained_fps"] == 40 / 3
    assert discovr_jax.load_encoder(tmp_path / "one", trained_fps=10).options["trained_fps"] == 10
    copied = slim.write(tmp_path / "one", tmp_path / "slim")
    assert discovr_jax.load_encoder(copied).options["trained_fps"] == 40 / 3
    assert read_arrays(copied, lambda name: True)[1]["data"] == {"frame_rates": [40.0, 40.0, 41.0]}
    several = discovr_jax.load_encoder(tmp_path / "several")
    words = "trained; its training videos have 25 to 60: set --trained_fps, .* stride of the training, 3"
    with pytest.raises(extract.ExtractError, match=words):
        extract.check_frame_rate(several, use_fps=True)
    extract.check_frame_rate(several, use_fps=False)


def test_features_are_means_over_evenly_spaced_clips(workdir, encoder, video):
    long = np.concatenate([video, video[::-1], video // 2])
    three = discovr_jax.load_encoder(workdir, clips=3, batch_size=2)
    expected = np.mean([encoder.embed(part) for part in (long[:12], long[12:24], long[24:])], axis=0)
    np.testing.assert_allclose(three.embed(long), expected, atol=1e-6)
    assert three.embed(long, output="tokens").shape == (3, 2, 4, 4, 16)


def test_image_branch(workdir, tiny, video):
    encoder = discovr_jax.load_encoder(workdir, "image_teacher", clips=1, batch_size=1)
    tokens = teacher_tokens(tiny, video, "encode_frames")
    np.testing.assert_allclose(encoder.embed(video, output="frames")[0], tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(encoder.embed(video), tokens[:, 0].mean(0), atol=1e-5)
    # A video of one frame: its repeats do not count.
    np.testing.assert_allclose(encoder.embed(video[:1]), tokens[0, 0], atol=1e-5)
    mean = discovr_jax.load_encoder(workdir, "image_teacher", clips=1, batch_size=1, readout="mean")
    np.testing.assert_allclose(mean.embed(video), tokens[:, 1:].mean((0, 1)), atol=1e-5)
    assert encoder.embed(video, output="tokens").shape == (1, FRAMES, 4, 4, 16)


def test_readouts_differ_and_ignore_padding(workdir, video):
    features = {
        name: discovr_jax.load_encoder(workdir, clips=1, batch_size=1, readout=name).embed(video[:1])
        for name in ("mean", "std_of_mean", "mean_of_std")
    }
    assert np.abs(features["mean"]).max() > 0.1
    assert np.abs(features["mean_of_std"]).max() < 1e-5  # one real tubelet does not vary


def test_other_clips_count_positions_in_the_trained_grid(workdir, encoder, video):
    """Twice the frames of twice the size: sinusoids at half places, none of the table's rows."""
    same = discovr_jax.load_encoder(workdir, clips=1, batch_size=2, num_frames=FRAMES, image_size=SIZE)
    np.testing.assert_array_equal(same.embed(video), encoder.embed(video))
    other = discovr_jax.load_encoder(workdir, clips=1, batch_size=1, num_frames=8, image_size=64)
    assert other.embed(video, output="tokens").shape == (1, 4, 8, 8, 16)
    flat = positions.sincos_1d((4, 8, 8), (2, 4, 4)).reshape(4, 8, 8)
    time, row, column = 2, 5, 3
    expected = (2.5 / 2 - 0.5) * 16 + (5.5 / 2 - 0.5) * 4 + (3.5 / 2 - 0.5)
    assert flat[time, row, column] == expected
    np.testing.assert_array_equal(other.model.bind({}).clip_positions, flat.reshape(-1))


def write_results(workdir, step, where="eval/5", **features):
    """results.json with the least that says what was scored; knn chose the std map, lvef "all"."""
    entries = {"lvef": "all", "knn": "std_map", "segmentation": "tokens"}
    results = {
        "step": step,
        "settings": {"clips": 1, "map_side": 2},
        "features": {"clip": {"num_frames": FRAMES}, "dtype": "float32", **features},
        "readouts": {
            name: {"chosen_by": "validation x", "encoders": {"discovr": {"chosen": chosen}}}
            for name, chosen in entries.items()
        },
    }
    (workdir / where).mkdir(parents=True, exist_ok=True)
    (workdir / where / "results.json").write_text(json.dumps(results))


@pytest.fixture
def evaluated(workdir, tmp_path):
    """The workdir with an evaluation of its newest checkpoint."""
    shutil.copytree(workdir, tmp_path / "run")
    write_results(tmp_path / "run", 5, mean_lengths={"cls": 2.0, "mean": 0.5})
    return tmp_path / "run"


def test_the_default_readout_is_what_validation_chose(workdir, evaluated, tiny, video):
    encoder = discovr_jax.load_encoder(evaluated, batch_size=1)
    assert (encoder.options["readout"], encoder.options["clips"], encoder.width) == ("std_map", 1, 4 * 16)
    assert encoder.options["readout_from"] == "knn on validation x, evaluation of step 5"
    tokens = jnp.asarray(teacher_tokens(tiny, video, "encode_video"))
    expected = readouts.readouts(tokens, jnp.full(1, FRAMES), tiny.model.grid, 2)
    np.testing.assert_allclose(encoder.embed(video), expected["std_map"][0], atol=1e-5)
    named = discovr_jax.load_encoder(evaluated, readout="best:lvef", batch_size=1)
    joined = np.concatenate([expected["cls"][0] / 2, expected["mean"][0] / 0.5])
    assert named.options["readout"] == "all"
    np.testing.assert_allclose(named.embed(video), joined, atol=1e-5)
    for path, name in ((evaluated / "checkpoints" / "step_2", "of another step"), (workdir, "never evaluated")):
        assert discovr_jax.load_encoder(path, batch_size=1).options["readout"] == "cls", name
        with pytest.raises(ValueError, match="no evaluation of the checkpoint"):
            discovr_jax.load_encoder(path, readout="best")
    with pytest.raises(ValueError, match="there are best:knn, best:lvef"):
        discovr_jax.load_encoder(evaluated, readout="best:segmentation")
    with pytest.raises(ValueError, match="no evaluation of the video_teacher"):
        discovr_jax.load_encoder(workdir, readout="all")


def test_results_of_an_earlier_checkpoint_are_not_taken_for_these(evaluated):
    shutil.rmtree(evaluated / "eval")
    write_results(evaluated, 2, ".")
    assert discovr_jax.load_encoder(evaluated).options["readout"] == "cls"
    write_results(evaluated, 5, "eval/5/echonet_dynamic")
    assert discovr_jax.load_encoder(evaluated).options["readout"] == "std_map"
    (evaluated / "results.json").write_text("{")
    with pytest.raises(ValueError, match="results.json is damaged"):
        discovr_jax.load_encoder(evaluated)


def test_readouts_of_the_decoder_need_one(workdir, tiny, video):
    """The teacher's tokens through the student's decoder, as the evaluation reads them."""
    tokens = jnp.asarray(teacher_tokens(tiny, video, "encode_video"))
    params = {"params": jax.tree.map(jnp.asarray, tiny.state.params)}
    decoded = tiny.model.apply(params, tokens, method="decode_video")
    expected = readouts.readouts(decoded, jnp.full(1, FRAMES), tiny.model.grid, 3)["std_map"]
    encoder = discovr_jax.load_encoder(workdir, readout="decoder_std_map", clips=1, batch_size=1)
    np.testing.assert_allclose(encoder.embed(video), expected[0], atol=1e-5)
    with pytest.raises(ValueError, match="video_teacher, not of image_teacher"):
        discovr_jax.load_encoder(workdir, "image_teacher", readout="decoder_std_map")


@pytest.mark.parametrize("branch", ["video_teacher", "image_teacher"])
def test_frame_std_is_how_far_cls_of_the_image_teacher_moves(workdir, tiny, video, branch):
    cls = teacher_tokens(tiny, video, "encode_frames")[:, 0]
    encoder = discovr_jax.load_encoder(workdir, branch, readout="frame_mean,frame_std", clips=1, batch_size=1)
    assert encoder.parts == {"frame_mean": 16, "frame_std": 16}
    np.testing.assert_allclose(encoder.embed(video), np.concatenate([cls.mean(0), cls.std(0)]), atol=1e-5)


@pytest.mark.parametrize(
    "frames,reason",
    [
        (np.zeros((4, 8, 8)), "uint8"),
        (np.zeros((8, 8), np.uint8), "shape"),
        (np.zeros((0, 8, 8), np.uint8), "at least one frame"),
        (np.zeros((2, 4, 8, 8, 2), np.uint8), "shape"),
        ([], "no video"),
    ],
)
def test_what_is_no_video_is_refused(encoder, frames, reason):
    with pytest.raises(ValueError, match=reason):
        encoder.embed(frames)


@pytest.mark.parametrize(
    "options", [{"branch": "teacher"}, {"readout": "max"}, {"fit": "crop"}, {"channels": 2}, {"num_frames": 5}]
)
def test_unknown_options_are_refused(workdir, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        discovr_jax.load_encoder(workdir, **options)


def test_wrong_calls_of_embed_are_refused(encoder, video):
    with pytest.raises(ValueError, match="output"):
        encoder.embed(video, output="cls")
    with pytest.raises(ValueError, match="2 frame rates for 1"):
        encoder.embed(video, fps=[25, 25])


def test_nothing_to_load(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        discovr_jax.load_encoder(tmp_path)


def test_damaged_checkpoint(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "step_5" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(CheckpointError, match="step_5 cannot be read"):
        discovr_jax.load_encoder(tmp_path / "run")


def test_card_is_json_and_names_the_weights(encoder):
    card = json.loads(json.dumps(encoder.card()))
    assert len(card["weights_sha256"]) == 64
    assert card["preprocessing"]["num_frames"] == FRAMES and card["features"] == 16
