"""Layouts of data sets that can be read; `emotion data layouts` prints them.

Imports no slow module, since the command line prints them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".001")


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Attributes:
        reader: Name of its reader, as in ``--data reader:path``.
        title: The data set, or the kind of folder.
        looks: Files and folders by which it is known.
        data: Value of ``--data`` and further options; ``PATH`` is the user's folder, file or archive.
        marks: Names of files and folders, in lower case, by which it is suggested for a folder that is not recognised.
    """

    reader: str
    title: str
    looks: str
    data: str = "PATH"
    marks: tuple[str, ...] = ()


LAYOUTS: tuple[Layout, ...] = (
    Layout("folder", "class folders", "happy/1.jpg; 기쁨/1.jpg; 0_angry/1.jpg; also below outer folders"),
    Layout("folder", "class folders in parts", "train/happy/1.jpg, val_set/happy/2.jpg, Testing/happy/3.jpg"),
    Layout(
        "folder", "CK+48, EmoSet, FI", "anger/S010_004_00000017.png; image/amusement/1.jpg; class folders like others"
    ),
    Layout(
        "folder",
        "class folders that are numbers",
        "train/0/1.jpg; --alias gives each number a meaning",
        "PATH --alias 0=angry --alias 1=happy",
    ),
    Layout(
        "shards", "Parquet files of Hugging Face", "data/train-00000-of-00002.parquet, with the bytes of the images"
    ),
    Layout("shards", "WebDataset", "train-0000.tar with 000.jpg and 000.cls, 000.json or 000.txt"),
    Layout("csv", "a table of files and labels", "labels.csv with the columns path and label, beside the images"),
    Layout(
        "pattern",
        "labels in the file names",
        "happy_S01_003.jpg",
        r"PATH --pattern '(?P<label>\w+)_(?P<subject>S\d+)_'",
    ),
    Layout(
        "fer2013",
        "FER2013, CSV of pixels",
        "fer2013.csv, icml_face_data.csv, or train.csv (test.csv has no labels: emotion predict RUN test.csv)",
        marks=("fer2013.csv", "icml_face_data.csv", "fer2013.tar.gz", "fer2013new.csv"),
    ),
    Layout("fer2013", "CK+ as a CSV of pixels", "ckextended.csv; emotion 7 is contempt"),
    Layout("fer2013", "FER2013, folders that are numbers", "train/0/1.png, test/6/2.png", "fer2013:PATH"),
    Layout(
        "ferplus",
        "FER+, folders of its script",
        "FER2013Train/label.csv, FER2013Valid/label.csv, FER2013Test/label.csv with images beside them",
        "PATH --votes majority",
        marks=("fer2013train", "fer2013valid", "fer2013test", "label.csv"),
    ),
    Layout(
        "rafdb",
        "RAF-DB as published",
        "EmoLabel/list_patition_label.txt, Image/aligned/train_00001_aligned.jpg",
        marks=("emolabel", "list_patition_label.txt", "aligned", "basic", "aligned.zip"),
    ),
    Layout("rafdb", "RAF-DB on Kaggle", "DATASET/train/1/train_00001_aligned.jpg ... 7, with train_labels.csv"),
    Layout(
        "affectnet",
        "AffectNet since 2021",
        "train_set/images/1.jpg, train_set/annotations/1_exp.npy (and _val, _aro); val_set likewise",
        marks=("annotations", "train_set", "val_set"),
    ),
    Layout(
        "affectnet",
        "AffectNet, older lists",
        "training.csv, validation.csv (subDirectory_filePath, expression) and Manually_Annotated_Images/",
        marks=("training.csv", "validation.csv", "manually_annotated_images", "manually_annotated_file_lists"),
    ),
    Layout("affectnet", "AffectNet, folders that are numbers", "train/0/1.jpg, val/7/2.jpg", "affectnet:PATH"),
    Layout(
        "expw",
        "ExpW",
        "label.lst beside origin/; each face is cut out by its box, a photograph stays in one fold",
        marks=("label.lst", "origin"),
    ),
    Layout(
        "ckplus",
        "CK+ as published",
        "cohn-kanade-images/S005/001/S005_001_00000011.png, Emotion/S005/001/S005_001_00000011_emotion.txt",
        marks=("cohn-kanade-images", "extended-cohn-kanade-images", "emotion", "emotion_labels", "landmarks", "facs"),
    ),
    Layout("jaffe", "JAFFE", "KA.AN1.39.tiff"),
    Layout("kdef", "KDEF", "AF01/AF01ANS.JPG"),
    Layout("rafd", "RaFD", "Rafd090_01_Caucasian_female_angry_frontal.jpg"),
    Layout("cafe", "CAFE, children of 2 to 8 years", "F-AA-01_angryopen.jpg", "cafe:PATH"),
    Layout("nimh", "NIMH-ChEFS, 10 to 17 years", "M10HS_6767.jpg", "nimh:PATH"),
    Layout(
        "aihub",
        "AI-Hub's Korean set",
        "photographs, and JSON of three annotators, unpacked below one folder",
        "PATH --agreement 2 --per-class 7000",
    ),
)


def advice(path: Path) -> str:
    """Return what to try for a folder that has no known layout: archives to unpack, the nearest layouts, the list."""
    names = _names(path)
    packed = sorted(name for name in names if name.endswith(ARCHIVES))
    candidates = []
    for layout in LAYOUTS:
        if hits := names & set(layout.marks):
            candidates.append((-len(hits), f"{layout.reader} ({layout.looks})"))
    near = [text for _, text in sorted(candidates, key=lambda pair: pair[0])[:2]]
    sentences = [f"Unpack {', '.join(packed[:3])} first"] if packed else []
    sentences += [f"The nearest layouts are {'; '.join(near)}"] if near else []
    return ". ".join([*sentences, "`emotion data layouts` lists the layouts that can be read"])


def _names(path: Path, most: int = 1000) -> set[str]:
    """Return the names in a folder and in the folders below it, in lower case; not all of a large folder."""
    names: set[str] = set()
    folders = [path]
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for _, entry in zip(range(most), entries, strict=False):
                    names.add(entry.name.lower())
                    if folder == path and len(folders) <= 50 and entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
        except OSError:
            continue
    return names
