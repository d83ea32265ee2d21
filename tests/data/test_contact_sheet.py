import numpy as np
import pytest

from discovr_jax.data import contact_sheet, records
from tests.builder_case import moving_square

YELLOW, GREEN = np.array((0, 255, 255)), np.array((0, 255, 0))


def read(path):
    import cv2

    return cv2.imread(str(path)).astype(int)


def test_before_is_left_and_keeps_its_shape_after_is_right_with_outlines(tmp_path):
    mask = np.zeros((112, 112), np.uint8)
    mask[28:84, 28:84], mask[56:70, 56:70] = 1, 2
    before = np.full((50, 100), 90, np.uint8)
    after = np.full((112, 112), 30, np.uint8)
    pair = contact_sheet.Pair(before, after, mask, ("one", "two"))
    contact_sheet.write(tmp_path / "sheet.png", [pair] * 3, columns=2)
    sheet = read(tmp_path / "sheet.png")
    # Two rows of two cells: 6 above and 30 below the tiles of 224, 6 right of the two.
    assert sheet.shape == (2 * (6 + 224 + 30), 2 * (2 * 224 + 6), 3)
    left, right = sheet[6:230, :224], sheet[6:230, 224:448]
    assert (left[56:168] == 90).all() and (left[:56] == 0).all() and (left[168:] == 0).all()
    # A square of 56 at twice the size: its outline is 4 * 111 pixels, none of them on the other picture.
    outline = (right == YELLOW).all(-1)
    assert outline.sum() == 4 * 111 and outline[56, 56:168].all() and not (left == YELLOW).all(-1).any()
    assert (right[112, 112:140] == GREEN).all() and (right[112 - 1, 80] == 30).all()
    caption = sheet[230:260, :448]
    assert (caption > 150).any() and (caption[:, 200:] == 48).all() and (sheet[260:, 454:] == 48).all()


def test_stored_frames_alone_where_no_other_is_known(tmp_path):
    after = np.full((112, 112), 30, np.uint8)
    alone = contact_sheet.Pair(None, after, None, ("", ""))
    contact_sheet.write(tmp_path / "sheet.png", [alone], columns=1)
    assert read(tmp_path / "sheet.png").shape == (260, 224 + 6, 3)
    pairs = [alone, contact_sheet.Pair(after, after, None, ("", ""))]
    contact_sheet.write(tmp_path / "sheet.png", pairs, columns=1)
    sheet = read(tmp_path / "sheet.png")
    assert (sheet[6:230, :224] == 0).all() and (sheet[266:490, :224] == 30).all()


@pytest.mark.parametrize(
    "ef,es_frame,text",
    [(54.6, 2, "val A4C EF 55 %, frame 2 ES"), (np.nan, -1, "val A4C EF unknown, frame 2")],
)
def test_caption_and_mask_of_the_frame(ef, es_frame, text):
    masks = np.zeros((2, 112, 112), np.uint8)
    masks[1] = 1
    record = records.make_record(
        moving_square(5), masks=masks, mask_frames=[4, 2], mask_is_expert=[True, True], id="x1", patient_id="p",
        ef=ef, es_frame=es_frame, view="A4C",
    )  # fmt: skip
    record |= {"masks": masks, "mask_frames": np.array([4, 2])}
    frame = np.zeros((112, 112), np.uint8)
    pair = contact_sheet.pair(record, 2, frame, np.zeros((60, 90), np.uint8), "val")
    assert pair.caption == (text, "x1  60 x 90 -> 112 x 112") and (pair.mask == 1).all()
    assert contact_sheet.pair(record, 3, frame, None, "val").mask is None
    rng = np.random.default_rng(0)
    assert {contact_sheet.choose(record, rng) for _ in range(20)} == {2, 4}
    record["mask_frames"] = np.array([], int)
    assert {contact_sheet.choose(record, rng) for _ in range(60)} == {0, 1, 2, 3, 4}
