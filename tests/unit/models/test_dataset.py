import os
import re
import shutil

import numpy as np
import pytest

from base.errors import DatasetError
from models.dataset import Split, read_dataset
from models.decoding import DecodingLimits, decode
from models.preprocessing import Preprocessing
from tests.samples import encode, make_dataset, make_jpeg, make_noise, make_tinted

PREPROCESSING = Preprocessing(size=16, crop=1.0)
LIMITS = DecodingLimits(max_bytes=1_000_000, max_pixels=1_000_000)


@pytest.fixture
def read(tmp_path):
    def read(folder, **options):
        return read_dataset(
            folder,
            PREPROCESSING,
            LIMITS,
            pixels_file=tmp_path / "pixels.npy",
            on_progress=lambda step, done: None,
            **options,
        )

    return read


def names(dataset, split):
    return {f"{dataset.paths[row].parent.name}/{dataset.paths[row].name}" for row in dataset.splits[split]}


def test_every_image_is_in_one_part_with_its_label_and_pixels(read, tmp_path):
    dataset = read(make_dataset(tmp_path / "data", 10))

    assert dataset.labels == ("blue", "green", "red")
    train, validation = dataset.splits[Split.TRAIN], dataset.splits[Split.VALIDATION]
    assert sorted([*train, *validation]) == list(range(30))
    assert np.bincount(dataset.class_indices[validation]).tolist() == [2, 2, 2]
    for path, class_index, pixels in zip(dataset.paths, dataset.class_indices, dataset.pixels, strict=True):
        assert path.parent.name == dataset.labels[class_index]
        assert np.array_equal(pixels, decode(path.read_bytes(), PREPROCESSING, LIMITS))


def test_same_image_is_never_in_two_parts(read, tmp_path):
    """Copies by another name, and the same pixels in another file format without loss."""
    folder = make_dataset(tmp_path / "data", 10)
    for index in range(10):
        shutil.copy(folder / "red" / f"{index:03}.png", folder / "red" / f"copy{index}.png")
        content = encode(make_tinted("blue", 2000 + index), "WEBP", lossless=True)
        (folder / "blue" / f"{index}.webp").write_bytes(content)

    dataset = read(folder)

    assert len(dataset.paths) == 30
    assert len({pixels.tobytes() for pixels in dataset.pixels}) == 30
    assert len(dataset.left_out) == 20
    assert all(each.reason.startswith("the same image as ") for each in dataset.left_out)


def test_split_depends_on_nothing_but_content(read, tmp_path):
    first = read(make_dataset(tmp_path / "data", 10))
    validation = {first.pixels[row].tobytes() for row in first.splits[Split.VALIDATION]}
    for index, path in enumerate(sorted((tmp_path / "data" / "red").iterdir())):
        path.rename(path.with_name(f"z{99 - index}.png"))

    again = read(tmp_path / "data")

    assert {again.pixels[row].tobytes() for row in again.splits[Split.VALIDATION]} == validation


def test_named_parts_are_kept_and_a_leak_is_closed(read, tmp_path):
    make_dataset(tmp_path / "data" / "train", 4)
    make_dataset(tmp_path / "data" / "validation", 2, first=100)
    make_dataset(tmp_path / "data" / "test", 2, first=200)
    shutil.copy(tmp_path / "data" / "test" / "red" / "000.png", tmp_path / "data" / "train" / "red" / "leak.png")

    dataset = read(tmp_path / "data")

    assert {split: len(rows) for split, rows in dataset.splits.items()} == {
        Split.TRAIN: 12,
        Split.VALIDATION: 6,
        Split.TEST: 6,
    }
    (leak,) = dataset.left_out
    assert leak.path.name == "leak.png" and "test/red/000.png" in leak.reason


def test_folders_that_are_only_named_like_parts_are_labels(read, tmp_path):
    folder = make_dataset(tmp_path / "data", 4, ("red", "green"))
    (folder / "red").rename(folder / "train")
    (folder / "green").rename(folder / "test")

    assert read(folder).labels == ("test", "train")


def test_hidden_folders_of_tools_change_nothing(read, tmp_path):
    make_dataset(tmp_path / "data" / "train", 4)
    make_dataset(tmp_path / "data" / "validation", 2, first=100)
    (tmp_path / "data" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "data" / "train" / ".git" / "x").mkdir(parents=True)

    dataset = read(tmp_path / "data")

    assert dataset.labels == ("blue", "green", "red")
    assert len(dataset.splits[Split.VALIDATION]) == 6


def test_names_of_files_change_neither_the_hash_nor_the_order_of_training(read, tmp_path):
    first = read(make_dataset(tmp_path / "data", 5))
    for path in (tmp_path / "data" / "red").iterdir():
        path.rename(path.with_name(f"z{9 - int(path.stem)}.png"))

    again = read(tmp_path / "data")

    assert again.content_hash == first.content_hash
    assert [again.hashes[row] for row in again.splits[Split.TRAIN]] == [
        first.hashes[row] for row in first.splits[Split.TRAIN]
    ]


def test_image_of_two_labels_teaches_nothing(read, tmp_path):
    folder = make_dataset(tmp_path / "data", 5)
    shutil.copy(folder / "red" / "000.png", folder / "blue" / "red.png")

    dataset = read(folder)

    assert [each.path.name for each in dataset.left_out] == ["red.png", "000.png"]
    assert all("the same image has another label" in each.reason for each in dataset.left_out)
    assert len(dataset.paths) == 14


def test_unreadable_image_is_named_left_out_and_counted(read, tmp_path):
    folder = make_dataset(tmp_path / "data", 5)
    (folder / "red" / "broken.jpg").write_bytes(make_jpeg()[:100])
    (folder / "red" / "notes.jpg").write_text("no image")
    (folder / "red" / "notes.txt").write_text("no image, and not named like one")
    (folder / "red" / "link.png").symlink_to(folder / "red" / "000.png")
    (folder / "oak").symlink_to(folder / "red")
    (folder / "README.md").write_text("about the images")
    (folder / "blue" / "huge.png").write_bytes(encode(make_noise(2000, 600), "BMP"))

    dataset = read(folder)

    assert {each.path.name: each.reason.partition(":")[0] for each in dataset.left_out} == {
        "broken.jpg": "truncated",
        "notes.jpg": "not_an_image",
        "huge.png": "too_large",
    }
    assert dataset.passed_over == 4
    assert len(dataset.paths) == 15


def test_images_of_deeper_folders_belong_to_the_label(read, tmp_path):
    folder = make_dataset(tmp_path / "data", 3)
    (folder / "red" / "more" / "deep").mkdir(parents=True)
    (folder / "red" / "000.png").rename(folder / "red" / "more" / "deep" / "000.png")
    (folder / ".cache").mkdir()

    assert len(read(folder).paths) == 9


def make_one_label(folder):
    make_dataset(folder, 3, ("red",))


def make_empty_label(folder):
    make_dataset(folder, 3)
    (folder / "oak").mkdir()


def make_alike_labels(folder):
    make_dataset(folder, 3)
    shutil.copytree(folder / "red", folder / "Red")


def make_broken_label(folder):
    make_dataset(folder, 3)
    (folder / "oak").mkdir()
    (folder / "oak" / "broken.jpg").write_bytes(b"no image")


def make_single_image(folder):
    make_dataset(folder, 3)
    for name in ("001.png", "002.png"):
        (folder / "red" / name).unlink()


def make_copies_only(folder):
    make_single_image(folder)
    shutil.copy(folder / "red" / "000.png", folder / "red" / "copy.png")


def make_images_without_folders(folder):
    folder.mkdir()
    (folder / "a.jpg").write_bytes(make_jpeg())


def make_label_without_training(folder):
    make_dataset(folder / "train", 3)
    make_dataset(folder / "validation", 3, ("red", "green", "blue"), first=100)
    (folder / "validation" / "red").rename(folder / "validation" / "oak")


def make_stranger(folder):
    make_dataset(folder / "train", 3)
    make_dataset(folder / "more", 3)


def make_other_names(folder):
    make_dataset(folder / "train", 3)
    make_dataset(folder / "val", 3)


def make_validation_without_a_label(folder):
    make_dataset(folder / "train", 3)
    make_dataset(folder / "validation", 3, ("red", "green"), first=100)


def make_linked_split(folder):
    make_dataset(folder / "train", 3)
    make_dataset(folder.parent / "elsewhere", 3)
    (folder / "validation").symlink_to(folder.parent / "elsewhere")


def make_bad_name(folder):
    make_dataset(folder, 3)
    (folder / "red").rename(folder / "r\ted")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_one_label, "holds only the label 'red'. A classifier needs two labels or more"),
        (make_empty_label, "the label 'oak' in .* has no image"),
        (make_alike_labels, "the labels 'Red' and 'red' in .* differ only in case. Make them one."),
        (make_broken_label, "the label 'oak' has 0 images to learn from that can be read"),
        (make_single_image, "the label 'red' has 1 image to learn from that can be read"),
        (make_copies_only, "the label 'red' has 1 image to learn from that can be read"),
        (make_images_without_folders, "holds no folder of images"),
        (make_label_without_training, "the label 'oak' in .* has no training image"),
        (make_stranger, "holds the splits train and beside them 'more'. Take that away"),
        (make_other_names, "data/val holds folders, as a split does. The splits are called train, validation, test"),
        (make_validation_without_a_label, "the label 'blue' has no image for validation that can be read"),
        (make_linked_split, "data/validation is a link, and links are passed over"),
        (make_bad_name, r"the folder 'r\\ted' in .* is no label"),
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.write_text(""), "is not a folder"),
    ],
)
def test_dataset_that_teaches_nothing_is_refused(read, tmp_path, make, message):
    make(tmp_path / "data")

    with pytest.raises(DatasetError, match=message):
        read(tmp_path / "data")


def test_folder_that_may_not_be_read_is_refused(read, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    make_dataset(tmp_path / "data", 3)
    monkeypatch.setattr(os, "scandir", refuse)

    with pytest.raises(DatasetError, match=r"data cannot be read: Permission denied"):
        read(tmp_path / "data")


def test_evaluation_takes_the_labels_of_the_model(read, tmp_path):
    folder = make_dataset(tmp_path / "data", 3, ("red", "blue"))

    dataset = read(folder, labels=("blue", "green", "red", "white"), is_test=True)

    assert dataset.labels == ("blue", "green", "red", "white")
    assert sorted(dataset.class_indices) == [0, 0, 0, 2, 2, 2]
    assert list(dataset.splits) == [Split.TEST] and len(dataset.splits[Split.TEST]) == 6


def test_evaluation_takes_the_test_part(read, tmp_path):
    make_dataset(tmp_path / "data" / "train", 4)
    make_dataset(tmp_path / "data" / "test", 2, first=200)

    dataset = read(tmp_path / "data", labels=("blue", "green", "red"), is_test=True)

    assert all(path.parts[-3] == "test" for path in dataset.paths) and len(dataset.paths) == 6


@pytest.mark.parametrize(("split", "is_test", "missing"), [("test", False, "train"), ("train", True, "test")])
def test_dataset_without_the_split_that_is_needed_is_refused(read, tmp_path, split, is_test, missing):
    make_dataset(tmp_path / "data" / split, 3)
    labels = ("blue", "green", "red") if is_test else None

    with pytest.raises(DatasetError, match=f"holds {split} and no {missing}. Add .*/data/{missing}, or name one"):
        read(tmp_path / "data", labels=labels, is_test=is_test)


def test_label_that_the_model_does_not_know_is_refused(read, tmp_path):
    folder = make_dataset(tmp_path / "data", 1)

    with pytest.raises(DatasetError, match=re.escape("the model has no label 'green'")) as error:
        read(folder, labels=("blue", "red"), is_test=True)

    assert "it knows blue, red. Rename the folder" in str(error.value)


def test_evaluation_without_a_readable_image_is_refused(read, tmp_path):
    (tmp_path / "data" / "red").mkdir(parents=True)
    (tmp_path / "data" / "red" / "a.jpg").write_bytes(b"no image")

    with pytest.raises(DatasetError, match=r"no image in .* can be used; the first: .*a.jpg: not_an_image"):
        read(tmp_path / "data", labels=("red", "blue"), is_test=True)
