"""HMC-QU on files made here: labels from the sheets, names as the set has them, both kinds of splits."""

import pytest

from discovr_jax.data import audit
from tests.builder_case import BuilderCase, moving_square, notes, read, split_of, write_table, write_video
from tfds_builders.echo_phantom import layouts
from tfds_builders.hmc_qu.hmc_qu_dataset_builder import Builder
from tfds_builders.tables import SourceError

HEADER = ("ECHO", "Reference", "SEG1", "SEG2", "Seg 3", "Masks")
SPLITS = {"ES0001": "train", "ES00012": "train", "ES0002": "val", "ES0003": "test"}


class Source:
    """A dataset on disk whose sheets a test can change before they are written."""

    def __init__(self, directory):
        self.directory = directory
        self.rows = {"A4C": [], "A2C": []}
        for seed, (view, name, *segments) in enumerate((
            ("A4C", "ES0001 _4CH_1", "MI", "non-MI", ""), ("A2C", "ES0001_CH2_1", "non-MI", "non-MI", "non-MI"),
            ("A2C", "ES00012 N_2CH_1", "non-MI", "", ""), ("A4C", "ES0002_4CH_1", "", "", ""),
            ("A4C", "ES0003 n_4CH_2", "non-MI", "non-MI", "mi"),
        )):  # fmt: skip
            self.video(view, name, seed)
            self.rows[view].append([name, 3, *segments, "\N{LATIN SMALL LETTER U WITH DIAERESIS}"])
        self.rows["A4C"].append([""] * len(HEADER))  # as a second line of headings leaves it

    def path(self, view, name):
        return self.directory / "HMC-QU" / view / f"{name}.avi"

    def video(self, view, name, seed):
        self.path(view, name).parent.mkdir(parents=True, exist_ok=True)
        write_video(self.path(view, name), moving_square(6, 120, 160, seed), fps=25)

    def write(self, header=HEADER):
        for view, rows in self.rows.items():
            write_table(self.directory / f"{view}.csv", header, rows)
        listed = [(name[:7].strip(" _"), view) for view, rows in self.rows.items() for name, *_ in rows]
        splits = [(f"{patient}_{view}", SPLITS[patient]) for patient, view in listed if patient in SPLITS]
        write_table(self.directory / "split.csv", ("unique_id", "split"), splits)


class TestHmcQu(BuilderCase):
    builder = Builder

    def prepare(self, directory, data_dir, config="112", **kwargs):
        return super().prepare(directory, data_dir, config, **{"split": "split.csv"} | kwargs)

    def write_source(self, directory):
        Source(directory).write()

    def break_source(self, directory):
        path = directory / "HMC-QU" / "A2C" / "ES00012 N_2CH_1.avi"
        path.write_bytes(path.read_bytes()[:-3000])
        return {path.name, "A2C.csv line 3"}


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source")


def build(source, **kwargs):
    return TestHmcQu().prepare(source.directory, source.directory.parent / "records", **kwargs)


def test_labels_views_and_patients(source):
    source.write()
    directory = build(source)
    labels = {name: read(directory, name)["source_label"] for name in split_of(directory)}
    assert labels == {"ES0001_A4C": 1, "ES0001_A2C": 0, "ES00012_A2C": 0, "ES0002_A4C": -1, "ES0003_A4C": 1}
    record = read(directory, "ES0001_A2C")
    assert (record["patient_id"], record["view"], record["fps"]) == ("ES0001", "A2C", 25)
    assert notes(directory)["infarction unknown"] == 1
    assert split_of(directory) == {name: SPLITS[name.split("_")[0]] for name in labels}


def test_without_a_table_patients_are_divided(source):
    source.write()
    directory = build(source, split="stratified:50/25/25")
    splits = split_of(directory)
    assert splits["ES0001_A4C"] == splits["ES0001_A2C"] and set(splits.values()) == {"train", "test"}


def test_the_phantom_in_this_layout(tmp_path):
    native = layouts.write("hmc_qu", tmp_path / "native", {"test": 1}, 3, workers=1)
    directory = TestHmcQu().prepare(native, tmp_path / "records", split="hmcqu_split.csv")
    assert split_of(directory) == {"ES0001_A4C": "test", "ES0001_A2C": "test"}
    assert "sector_isolated" in read(directory, "ES0001_A4C")["flags"] and audit.check(directory) == []


def test_a_row_without_a_video_and_a_video_without_a_row(source):
    source.rows["A4C"][1][0] = "ES0002_4CH_9"
    source.write()
    with pytest.raises(SourceError, match="A4C.csv names ES0002_4CH_9; in .* lie ES0002_4CH_1.(.|\n)*--max_bad=3"):
        build(source)
    directory = build(source, max_bad=3)
    listed = (directory / "quarantine.csv").read_text()
    assert "no row in A4C.csv" in listed and "ES0002_A4C,split.csv line 3: no such video" in listed


def test_a_second_video_and_one_that_the_table_does_not_name(source):
    for view, name in (("A4C", "ES0003 n_4CH_3"), ("A2C", "ES0009_CH2_1")):
        source.video(view, name, 9)
        source.rows[view].append([name, 1, "MI", "", "", ""])
    source.write()
    directory = build(source, max_bad=2)
    listed = (directory / "quarantine.csv").read_text()
    assert "ES0003 n_4CH_3.avi,A4C.csv line 6: a second video of ES0003_A4C" in listed
    assert "ES0009_CH2_1.avi,A2C.csv line 4: not in split.csv" in listed and len(split_of(directory)) == 5


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"header": ("ECHO", "a", "b", "c", "d", "e")}, "no column has SEG in its name"),
        ({"name": "XS0001_4CH"}, "ECHO is 'XS0001_4CH', expected a name that begins as ES0001"),
        ({"split": "training"}, "split.csv line 2: split is 'training', expected train, val or test"),
        ({"option": "hashed:80/10/10"}, "--split is 'hashed:80/10/10': stratified:70/10/20, or the path of a table"),
    ],
)
def test_sources_that_cannot_be(source, change, reason):
    if "name" in change:
        source.video("A4C", change["name"], 5)
        source.rows["A4C"].append([change["name"], 1, "MI", "", "", ""])
    source.write(change.get("header", HEADER))
    if "split" in change:
        table = source.directory / "split.csv"
        table.write_text(table.read_text().replace("train", change["split"], 1))
    with pytest.raises(SourceError, match=reason):
        build(source, split=change.get("option", "split.csv"))
