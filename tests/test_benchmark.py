import numpy as np
import pytest

from discovr_jax import benchmark
from tests.builder_case import moving_square, write_video


def test_sizes_of_the_codecs(monkeypatch):
    monkeypatch.setattr(benchmark, "_REPEATS", 1)
    black, noise = np.zeros((2, 32, 32), np.uint8), np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    for clips, low, high in (([black], 0, 0.12), ([noise], 1, 1.2), ([black, noise], 0.5, 0.65)):
        rows = benchmark.compression(clips)
        assert [row["codec"] for row in rows] == ["LZ4 (records)", "zstd 1", "zstd 3", "PNG (OpenCV)"]
        for row in rows:
            # One size is relative to the raw 1024 bytes, the other absolute.
            assert low <= row["share"] <= high and row["bytes"] == pytest.approx(1024 * row["share"])
            assert row["encode"] > 0 and row["decode"] > 0


def test_a_lossy_codec_is_refused(monkeypatch):
    zeros = np.zeros((2, 8, 8), np.uint8)
    lossy = benchmark.Codec("half", lambda frames: [b""] * len(frames), lambda blocks, height, width: zeros)
    monkeypatch.setattr(benchmark, "codecs", lambda: [lossy])
    with pytest.raises(ValueError, match="half changed a frame"):
        benchmark.compression([zeros + 1])


def test_command_line(tmp_path, capsys):
    write_video(tmp_path / "a.avi", moving_square(6, 60, 80))
    (tmp_path / "notes.txt").write_text("not a video")
    assert benchmark.main(["compression", str(tmp_path), "--frame_size=56", "--frames=4"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 clips, 56 x 56, up to 4 frames each\n")
    in_files = (tmp_path / "a.avi").stat().st_size / 6
    assert "| raw | 3136 | 100 % |" in out and f"(of their own size) | {in_files:.0f} |" in out
    (tmp_path / "a.avi").unlink()
    assert benchmark.main(["compression", str(tmp_path)]) == 1
    assert "error: There is no clip to compress." in capsys.readouterr().err
