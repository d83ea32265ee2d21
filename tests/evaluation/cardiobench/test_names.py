"""What CardioBench calls the videos of our records, in every set; tables that lack what its scripts read."""

import pytest

from discovr_jax.evaluation.cardiobench import files, names, tasks
from discovr_jax.evaluation.cardiobench.tasks import CardioBenchError

# As in CardioBench's example predictions and tables.
PLACES = [
    ("EchoNet-Dynamic/EF", "0X1A0A263B22CCD966", [("", "0X1A0A263B22CCD966")]),
    ("EchoNet-LVH/IVSd", "0X7AB576A97C6EA767", [("", "0X7AB576A97C6EA767")]),
    ("EchoNet-Pediatric/EF", "CR32a7559-CR32a9980-000045", [("", "CR32a7559-CR32a9980-000045.avi")]),
    ("EchoNet-Pediatric/view", "CR32a7559-CR32a9980-000045", [("", "CR32a7559-CR32a9980-000045.avi")]),
    ("CAMUS/EF", "patient0001_4CH", [("", "patient0001"), ("_4CH", "patient0001")]),
    ("CAMUS/view", "patient0001_4CH", [("", "patient0001_4CH")]),
    ("HMCQU/stemi", "ES00015_A4C", [("", "ES00015_A4C")]),
    ("CardiacNet/ASD", "081_image_patient-106-4", [("", "081_image_patient-106-4")]),
    ("CardiacNet/PAH", "Non-PAH_079", [("", "Non-PAH_079")]),
    ("segRWMA/rwma", "patient148-2D-A2C", [("_a2c", "patient148")]),
    ("segRWMA/view", "patient148-2D-A2C", [("", "patient148_A2C")]),
    ("segRWMA/rwma", "patient148-MCE-A2C", []),
    ("segRWMA/view", "patient148-LVO-A2C", []),
    ("TMED2/AS", "1040s1_3", [("", "1040s1")]),
    ("TMED2/view", "1310s1_32", [("", "1310s1_32.png")]),
]


@pytest.mark.parametrize("folder,identifier,expected", PLACES)
def test_ids_of_public_sets_are_names(folder, identifier, expected):
    assert names.places(tasks.named(folder), identifier) == expected
    for private_id in ("9f86d081884c7d65", "", f"{identifier}/x"):
        with pytest.raises(CardioBenchError, match="no name of"):
            names.places(tasks.named(folder), private_id)


def test_a_table_without_its_columns_is_refused(tmp_path):
    task = tasks.named("segRWMA/rwma")
    path = tmp_path / "data" / "splits" / task.truth.file
    path.parent.mkdir(parents=True)
    path.write_text("patient_id,modality,split,label\npatient1,2D,test,1\n")
    with pytest.raises(CardioBenchError, match="lacks the columns abnormal, which rwma.py reads"):
        files.truth_table(task, tmp_path)
    path.write_text("patient_id,modality,split,abnormal\npatient1,LVO,test,1\n")
    with pytest.raises(CardioBenchError, match="no row has split 'test'"):
        files.truth_table(task, tmp_path)
