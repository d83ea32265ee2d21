"""Files of CardioBench: read back, joined with its tables as its scripts do, they give our metrics; refusals."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from discovr_jax.evaluation.cardiobench import __main__ as command
from discovr_jax.evaluation.cardiobench import files, tasks
from discovr_jax.evaluation.cardiobench.tasks import CardioBenchError
from tests import cardiobench_case


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """`evaluated(name)` -> the workdir, CardioBench's tables beside it, and results.json; each is made once."""
    made = {}

    def make(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            made[name] = root / "run", root, cardiobench_case.evaluate(
                cardiobench_case.CASES[name], root / "run", root
            )
        return made[name]

    return make


def written(evaluated, case, output, encoder="", **options):
    """The files of a task, checked against the tables."""
    workdir, clone, _ = evaluated(case)
    return files.write(f"{workdir}{encoder}", output, **{"cardiobench": clone} | options)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def joined(clone, output, path):
    """Target and prediction of a file, as its script has them: the test rows of the table that the file names too."""
    task = tasks.named(path.rpartition("/")[0])
    view = path.removesuffix(".csv").rpartition("_")[2].upper() if "_" in path else ""
    truth = {}
    for row in table(clone / "data" / "splits" / task.truth.file):
        if row[task.truth.split] == task.truth.test and (not view or row["view"].upper() == view):
            truth.setdefault(row[task.key], row[task.truth.column])
    rows = table(output / path)
    assert list(rows[0]) == [task.key, *task.columns]
    assert {row[task.key] for row in rows} == truth.keys() and len(rows) == len(truth)
    return [truth[row[task.key]] for row in rows], rows


def numbers(clone, output, path):
    """The same of a measurement or a label: float [N] each."""
    truth, rows = joined(clone, output, path)
    (column,) = tasks.named(path.rpartition("/")[0]).columns
    return np.array(truth, float), np.array([row[column] for row in rows], float)


DATASETS = {name: case.dataset for name, case in cardiobench_case.CASES.items()}
REGRESSIONS = {
    "dynamic": {"EchoNet-Dynamic/EF/discovr.csv": "lvef"},
    "pediatric": {"EchoNet-Pediatric/EF/discovr.csv": "lvef"},
    "lvh": {f"EchoNet-LVH/{name}/discovr.csv": name.lower() for name in ("IVSd", "LVIDd", "LVPWd")},
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_measurements_give_our_metrics(evaluated, tmp_path, name):
    _, clone, results = evaluated(name)
    found = {file.path: file for file in written(evaluated, name, tmp_path)}
    assert {path for path in found if "/view/" not in path} == REGRESSIONS[name].keys()
    for path, part in REGRESSIONS[name].items():
        target, prediction = numbers(clone, tmp_path, path)
        ours = {metric: results["encoders"]["discovr"][f"{part}/{metric}"]["value"] for metric in ("mae", "rmse", "r2")}
        assert ours["mae"] == pytest.approx(metrics.mean_absolute_error(target, prediction), abs=1e-5)
        assert ours["rmse"] == pytest.approx(metrics.root_mean_squared_error(target, prediction), abs=1e-5)
        assert ours["r2"] == pytest.approx(metrics.r2_score(target, prediction), abs=1e-5)
        expected = {"MAE": ours["mae"], "RMSE": ours["rmse"], "R2(%)": 100 * ours["r2"]}
        assert (found[path].rows, found[path].absent, found[path].expected) == (40, 0, pytest.approx(expected))


def test_camus_is_averaged_per_patient_and_has_a_file_for_each_view(evaluated, tmp_path):
    workdir, clone, results = evaluated("camus")
    found = written(evaluated, "camus", tmp_path, task="CAMUS/EF")
    assert {file.path: file.rows for file in found} == {
        f"CAMUS/EF/discovr{view}.csv": 20 for view in ("", "_2CH", "_4CH")
    }
    target, prediction = numbers(clone, tmp_path, "CAMUS/EF/discovr.csv")
    by_patient = results["by_patient"]["encoders"]["discovr"]
    assert by_patient["lvef/mae"]["value"] == pytest.approx(np.abs(target - prediction).mean(), abs=1e-5)
    assert by_patient["lvef/r2"]["value"] == pytest.approx(metrics.r2_score(target, prediction), abs=1e-5)
    rows = table(workdir / "eval" / "7" / "predictions.csv")
    ours = {row["id"]: float(row["prediction"]) for row in rows if row["encoder"] == "discovr"}
    for view in ("2CH", "4CH"):
        for row in table(tmp_path / f"CAMUS/EF/discovr_{view}.csv"):
            assert float(row["EF_pred"]) == ours[f"{row['patient_id']}_{view}"]


@pytest.mark.parametrize("name,task", [("hmc_qu", "HMCQU/stemi"), ("asd", "CardiacNet/ASD")])
def test_diagnoses_give_our_metrics(evaluated, tmp_path, name, task):
    _, clone, results = evaluated(name)
    (file,) = written(evaluated, name, tmp_path, task=task)
    target, prediction = numbers(clone, tmp_path, file.path)
    assert set(prediction) == {0, 1} and 0 < (target != prediction).sum() < 20  # neither perfect nor turned round
    ours = {key: results["encoders"]["discovr"][f"probe/{key}"]["value"] for key in ("balanced_accuracy", "macro_f1")}
    assert ours["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(target, prediction))
    assert ours["macro_f1"] == pytest.approx(metrics.f1_score(target, prediction, average="macro"))
    assert file.expected == pytest.approx(
        {"Balanced_Accuracy(%)": 100 * ours["balanced_accuracy"], "F1(%)": 100 * ours["macro_f1"]}
    )


def test_wall_motion_has_a_file_for_each_view(evaluated, tmp_path):
    _, clone, _ = evaluated("segrwma")
    found = written(evaluated, "segrwma", tmp_path, task="segRWMA/rwma")
    assert {file.path for file in found} == {f"segRWMA/rwma/discovr_a{chamber}c.csv" for chamber in (2, 3, 4)}
    for file in found:
        target, prediction = numbers(clone, tmp_path, file.path)
        share = metrics.balanced_accuracy_score(target, prediction)
        assert file.expected["Balanced_Accuracy(%)"] == pytest.approx(100 * share)


def test_stenosis_is_averaged_per_study(evaluated, tmp_path):
    workdir, clone, _ = evaluated("tmed2")
    (file,) = written(evaluated, "tmed2", tmp_path, task="TMED2/AS")
    target, prediction = numbers(clone, tmp_path, file.path)
    assert (file.rows, file.absent) == (20, 0)
    share = metrics.balanced_accuracy_score(target, prediction)
    assert file.expected["Balanced_Accuracy(%)"] == pytest.approx(100 * share)
    rows = [row for row in table(workdir / "eval" / "7" / "predictions.csv") if row["family"] == "probe"]
    ours = [row for row in rows if row["encoder"] == "discovr" and row["id"][:5] == "30s1_" and not row["output"]]
    mean = np.mean([float(row["prediction"]) for row in ours])
    (called,) = [row["as_pred"] for row in table(tmp_path / file.path) if row["study_id"] == "30s1"]
    assert len(ours) == 2 and called == str(int(mean > 0.5))


@pytest.mark.parametrize(
    "name,folder", [("camus", "CAMUS"), ("pediatric", "EchoNet-Pediatric"), ("segrwma", "segRWMA"), ("tmed2", "TMED2")]
)
def test_views_give_our_metrics(evaluated, tmp_path, name, folder):
    _, clone, results = evaluated(name)
    (file,) = written(evaluated, name, tmp_path, task=f"{folder}/view")
    truth, rows = joined(clone, tmp_path, file.path)
    named = {"2CH": "A2C", "4CH": "A4C", "A4CorA2CorOther": "Other"}
    target = [named.get(one, one) for one in truth]
    # As its scripts: five columns are read, the sixth is what they leave, and the largest is the view.
    five = np.array([[float(row[column]) for column in tasks.named(f"{folder}/view").columns[1:]] for row in rows])
    probability = np.column_stack([five, np.clip(1 - five.sum(1), 0, 1)])
    called = [tasks.VIEWS[number] for number in probability.argmax(1)]
    assert called == [row["view_pred"] for row in rows] and 0 < np.mean(np.array(called) != target) < 0.5
    ours = results["encoders"]["discovr"]
    assert file.expected["Balanced_Accuracy(%)"] == pytest.approx(100 * metrics.balanced_accuracy_score(target, called))
    assert file.expected["Balanced_Accuracy(%)"] == pytest.approx(100 * ours["classes_view/balanced_accuracy"]["value"])
    assert file.expected["F1_macro(%)"] == pytest.approx(100 * ours["classes_view/macro_f1"]["value"])
    assert file.expected["Accuracy(%)"] == pytest.approx(100 * metrics.accuracy_score(target, called))


def test_all_tasks_of_a_dataset_are_written_at_once(evaluated, tmp_path):
    paths = [file.path for file in written(evaluated, "hmc_qu", tmp_path)]
    assert paths == ["HMCQU/stemi/discovr.csv", "HMCQU/view/discovr.csv"]


def test_seeds_and_other_encoders_have_files_of_their_own(evaluated, tmp_path):
    found = written(evaluated, "dynamic", tmp_path, ":random", name="untrained")
    assert [file.path for file in found] == [f"EchoNet-Dynamic/EF/untrained{seed}.csv" for seed in (0, 1)]
    _, _, results = evaluated("dynamic")
    mean = results["encoders"]["random"]["lvef/mae"]["value"]
    assert mean == pytest.approx(np.mean([file.expected["MAE"] for file in found]))
    assert found[0].expected != found[1].expected


@pytest.mark.parametrize(
    "name,task,path",
    [
        ("dynamic", "EchoNet-Dynamic/EF", "Videos/{}.avi"),
        ("camus", "CAMUS/EF", "database_nifti/x/{}_half_sequence.nii.gz"),
        ("pediatric", "EchoNet-Pediatric/EF", "A4C/Videos/{}.avi"),
    ],
)
def test_a_table_of_predict_gives_the_same_file(evaluated, tmp_path, capsys, name, task, path):
    workdir, clone, _ = evaluated(name)
    expected = written(evaluated, name, tmp_path / "run", task=task)
    rows = [row for row in table(workdir / "eval" / "7" / "predictions.csv") if row["family"] == "lvef"]
    found = {row["id"]: float(row["prediction"]) for row in rows if row["encoder"] == "discovr"}
    others = dict.fromkeys((cardiobench_case.NAMES[DATASETS[name]](number, "A4C") for number in range(8)), 0.0)
    columns = {"id": [path.format(key) for key in (*others, *found)], "lvef": [*others.values(), *found.values()]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")  # training videos are in it too
    arguments = ["write", f"--predictions={tmp_path / 'p.parquet'}", f"--task={task}", f"--output={tmp_path / 'table'}"]
    assert command.main(arguments) == 1
    assert "needs --task and --cardiobench" in capsys.readouterr().err
    assert command.main([*arguments, f"--cardiobench={clone}"]) == 0
    said = capsys.readouterr().out
    for file in expected:
        assert (tmp_path / "table" / file.path).read_text() == (tmp_path / "run" / file.path).read_text()
        assert f"MAE {file.expected['MAE']:.2f}" in said


@pytest.mark.parametrize(
    "columns,reason",
    [
        ({"id": ["0X1000000000000032.avi"], "rvef": [50.0]}, "has no column lvef"),
        ({"id": ["0X1000000000000032.avi"], "lvef": pa.array([None], pa.float64())}, "1 of 1 test videos have no lvef"),
        ({"id": ["0X1000000000000000.avi"], "lvef": [50.0]}, "none of 1 files is of the test split"),
        ({"id": ["9f86d081884c7d65"], "lvef": [50.0]}, "is no name of EchoNet-Dynamic"),
    ],
)
def test_tables_of_predict_that_cannot_be_used(evaluated, tmp_path, columns, reason):
    _, clone, _ = evaluated("dynamic")
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(CardioBenchError, match=reason):
        files.write_table(tmp_path / "p.parquet", tmp_path / "out", "EchoNet-Dynamic/EF", clone)
    assert not (tmp_path / "out").exists()


def test_rows_without_a_prediction_are_counted(evaluated, tmp_path, capsys):
    workdir, clone, _ = evaluated("dynamic")
    own = tmp_path / "clone" / "data" / "splits" / "EchoNet-Dynamic" / "FileList.csv"
    own.parent.mkdir(parents=True)
    text = (clone / "data" / "splits" / "EchoNet-Dynamic" / "FileList.csv").read_text()
    own.write_text(text + text.splitlines()[-1].replace("0X", "0XA") + "\n")
    arguments = ["write", f"--workdir={workdir}", f"--output={tmp_path}"]
    assert command.main([*arguments, f"--cardiobench={tmp_path / 'clone'}"]) == 0
    assert "1 of its 41 test rows have no prediction" in capsys.readouterr().out
    assert command.main(arguments) == 0
    assert "not checked" in capsys.readouterr().out
    own.write_text(text.replace(",test,", ",TEST,").replace("test,", "TEST,"))
    assert command.main([*arguments, f"--cardiobench={tmp_path / 'clone'}"]) == 1
    assert "as echonet_dynamic.py compares them: write the column in lower case" in capsys.readouterr().err


def test_predictions_of_other_videos_are_refused(evaluated, tmp_path):
    _, clone, _ = evaluated("pediatric")
    path = clone / "data" / "splits" / "echonet_pediatric_filelist.csv"
    other = tmp_path / path.relative_to(clone)
    other.parent.mkdir(parents=True)
    rows = table(path)
    with other.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"Split": {"0": "9"}.get(row["Split"], "0")} for row in rows)  # fold 9 was tested
    with pytest.raises(CardioBenchError, match="40 of 40 predictions are not for videos .* --test_fold=0 --val_fold=1"):
        written(evaluated, "pediatric", tmp_path / "out", cardiobench=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "case,options,reason",
    [
        ("dynamic", {"name": "my_model"}, "scripts read '_' as a view"),
        ("dynamic", {"task": "CAMUS/EF"}, "needs records of camus; the run was scored on echonet_dynamic"),
        ("dynamic", {"task": "EchoNet-Dynamic/view"}, "is not served: all videos are of one view"),
        ("asd", {"task": "CardiacNet/PAH"}, "needs records of cardiacnet/pah; the run was scored on cardiacnet/asd"),
        ("dynamic", {"task": "none"}, "no task 'none'; there are EchoNet-Dynamic/EF"),
        ("dynamic", {"cardiobench": "absent"}, "FileList.csv: no such file"),
    ],
)
def test_what_cannot_be_written_says_why(evaluated, tmp_path, case, options, reason):
    with pytest.raises(CardioBenchError, match=reason):
        written(evaluated, case, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "old,new,reason",
    [
        ("0X1000000000000032", "9f86d081884c7d65", "an id of the records is no name of EchoNet-Dynamic"),
        ("0X1000000000000032", "0X1000000000000033", "a video is twice"),
        ("{prediction}", "nan", "is not a number"),
        ("{prediction}", "50.0", "gives another lvef/mae than results.json"),
        ("discovr,lvef", "discovr,other", "no prediction of discovr for echonet_dynamic that CardioBench asks for"),
    ],
)
def test_damaged_predictions_are_refused(evaluated, tmp_path, old, new, reason):
    workdir, clone, _ = evaluated("dynamic")
    lines = (workdir / "eval" / "7" / "predictions.csv").read_text()
    old = old.format(prediction=table(workdir / "eval" / "7" / "predictions.csv")[0]["prediction"])
    assert old in lines
    own = tmp_path / "run" / "eval" / "7"
    own.mkdir(parents=True)
    (own / "predictions.csv").write_text(lines.replace(old, new))
    for folder in (own, tmp_path / "run"):
        (folder / "results.json").write_bytes((workdir / "results.json").read_bytes())
    with pytest.raises(CardioBenchError, match=reason):
        files.write(str(tmp_path / "run"), tmp_path / "out", cardiobench=clone)
