"""The pixel cache: one decode an image, shared, rebuilt when it should be, bounded."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules import cache
from datamodules.cache import PixelCache, build_cache, cache_clear, cache_list
from datamodules.errors import InputError
from datamodules.files.images import content_hash, decode, decode_count, fit_to_square, grey_plane
from datamodules.manifest import Manifest, make_manifest

SIZE = 16


def draw_pictures(root: Path, count: int = 12) -> Manifest:
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        height, width = random.integers(20, 40, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"{number:03}.png")
    table = pd.DataFrame({"path": [f"{n:03}.png" for n in range(count)], "label": ["happy", "sad"] * (count // 2)})
    return make_manifest(table, root, name="noise")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return draw_pictures(tmp_path / "pictures")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "pixels"


def build(manifest: Manifest, shelf: Path, **options: object) -> PixelCache:
    return build_cache(manifest, SIZE, directory=shelf, workers=0, **options)  # type: ignore[arg-type]


def expected(manifest: Manifest) -> np.ndarray:
    return np.stack([fit_to_square(decode(manifest.file(row)), SIZE) for row in range(len(manifest))])


def test_holds_what_decoding_gives(manifest: Manifest, shelf: Path) -> None:
    cache = build(manifest, shelf)
    np.testing.assert_array_equal(cache.pixels, expected(manifest))
    np.testing.assert_array_equal(cache.read([3, 1, 3]), expected(manifest)[[3, 1, 3]])
    for row in (0, 7):
        full = decode(manifest.file(row))
        assert cache.index["content"][row] == content_hash(full)
        assert (cache.index["height"][row], cache.index["width"][row]) == full.shape[:2]
        assert cache.index["bytes"][row] == manifest.file(row).stat().st_size
        np.testing.assert_array_equal(cache.greys[row], grey_plane(full))
    assert set(cache.index["format"]) == {"PNG"}
    assert set(cache.index["error"]) == {""}


def test_each_picture_is_decoded_once(manifest: Manifest, shelf: Path) -> None:
    before = decode_count()
    cache = build(manifest, shelf)
    for _ in range(3):
        assert build(manifest, shelf).read(range(12)).shape == (12, SIZE, SIZE, 3)
    assert decode_count() - before == 12
    assert cache.meta["images"] == 12


def test_map_cannot_be_written(manifest: Manifest, shelf: Path) -> None:
    cache = build(manifest, shelf)
    assert cache.pixels is not None
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels[0] = 0
    cache.read([0])[:] = 0  # a copy, which transforms may change
    np.testing.assert_array_equal(cache.read([0]), expected(manifest)[:1])


def test_processes_build_the_same_and_are_not_forked(
    tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller may have threads; a lock that one of them holds would stay locked in a forked process."""

    def fork() -> int:
        pytest.fail("forked")

    monkeypatch.setattr("os.fork", fork)
    manifest = draw_pictures(tmp_path / "many", 70)
    cache = build_cache(manifest, SIZE, directory=shelf, workers=2)
    np.testing.assert_array_equal(cache.pixels, expected(manifest))


def test_processes_of_a_script_without_a_main_guard(tmp_path: Path) -> None:
    """They import the script, and so ask for the cache themselves; it must neither hang nor fail."""
    draw_pictures(tmp_path / "many", 70).save(tmp_path / "many.csv")
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from datamodules.cache import build_cache\nfrom datamodules.manifest import Manifest\n"
        f"manifest = Manifest.load({str(tmp_path / 'many.csv')!r})\n"
        f"print(build_cache(manifest, 8, directory=Path({str(tmp_path / 'shelf')!r}), workers=2).read([69]).shape)\n"
    )
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=known, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "(1, 8, 8, 3)"


def test_processes_import_little() -> None:
    """Each decoding process starts from nothing, and pandas alone takes as long as decoding a hundred images."""
    code = "import sys, datamodules.cache_build; print({'pandas', 'torch', 'albumentations'} & set(sys.modules))"
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_more_pictures_than_one_chunk(tmp_path: Path, shelf: Path) -> None:
    manifest = draw_pictures(tmp_path / "many", 70)
    cache = build(manifest, shelf)
    np.testing.assert_array_equal(cache.pixels, expected(manifest))
    assert cache.index["path"].tolist() == manifest.table["path"].tolist()


def test_bad_files_are_named_and_do_not_stop_the_build(manifest: Manifest, shelf: Path) -> None:
    manifest.file(2).write_bytes(b"")
    manifest.file(5).write_text("no image")
    manifest.file(6).unlink()
    cache = build(manifest, shelf)
    bad = cache.index.index[cache.index["error"] != ""].tolist()
    assert bad == [2, 5, 6]
    assert "002.png is empty" in cache.index["error"][2]
    assert cache.index["content"][5] == ""
    assert cache.meta["unreadable"] == 3
    np.testing.assert_array_equal(cache.read([7]), np.asarray(cache.pixels)[[7]])
    assert np.asarray(cache.pixels)[7].any()


def test_pixel_limit_reaches_the_decoder(manifest: Manifest, shelf: Path) -> None:
    cache = build(manifest, shelf, pixel_limit=10)
    assert cache.index["error"].str.contains("larger than the pixel limit").all()


def test_pickles_small_and_opens_again(manifest: Manifest, shelf: Path) -> None:
    cache = build(manifest, shelf)
    assert cache.read([0]).any()
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).read([4]), expected(manifest)[[4]])


@pytest.mark.parametrize("change", ["picture", "size", "fit", "rows"])
def test_anything_that_matters_makes_another_cache(manifest: Manifest, shelf: Path, change: str) -> None:
    first = build(manifest, shelf)
    if change == "picture":
        Image.fromarray(np.zeros((5, 5, 3), dtype=np.uint8)).save(manifest.file(0))
        second = build(manifest, shelf)
        assert not second.read([0]).any()
    elif change == "size":
        second = build_cache(manifest, 8, directory=shelf, workers=0)
    elif change == "fit":
        second = build(manifest, shelf, fit="stretch")
    else:
        second = build(manifest.select([1, 0]), shelf)
        np.testing.assert_array_equal(second.read([0, 1]), expected(manifest)[[1, 0]])
    assert second.directory != first.directory


def test_a_replaced_image_of_the_same_number_of_bytes_is_read_again(manifest: Manifest, shelf: Path) -> None:
    file = manifest.file(0)
    Image.new("RGB", (5, 5), "white").save(file, format="BMP")  # not compressed
    size = file.stat().st_size
    assert (build(manifest, shelf).read([0]) == 255).all()
    Image.new("RGB", (5, 5), "black").save(file, format="BMP")
    assert file.stat().st_size == size
    assert not build(manifest, shelf).read([0]).any()


def test_other_version_is_built_again(manifest: Manifest, shelf: Path) -> None:
    cache = build(manifest, shelf)
    meta = json.loads((cache.directory / "meta.json").read_text())
    (cache.directory / "meta.json").write_text(json.dumps({**meta, "version": "0"}))
    (cache.directory / "pixels.bin").write_bytes(bytes(12 * SIZE * SIZE * 3))
    assert not cache_list(shelf.parent)["usable"].any()
    np.testing.assert_array_equal(build(manifest, shelf).pixels, expected(manifest))
    assert cache_list(shelf.parent)["usable"].all()


@pytest.mark.parametrize("lost", ["meta.json", "index.parquet", "greys.bin", "pixels.bin"])
@pytest.mark.parametrize("half", [True, False])
def test_half_written_cache_is_built_again(manifest: Manifest, shelf: Path, lost: str, half: bool) -> None:
    file = build(manifest, shelf).directory / lost
    if half:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    cache = build(manifest, shelf)
    np.testing.assert_array_equal(cache.read(range(12)), expected(manifest))
    assert len(cache.index) == len(cache.greys) == 12


def test_a_killed_build_leaves_nothing_behind(manifest: Manifest, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("datamodules.files.paths.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            build(manifest, shelf)
    assert [entry for entry in shelf.iterdir() if entry.is_dir()] == []
    final = build(manifest, shelf).directory
    (shelf / f".{final.name}.1.dead.part").mkdir()  # of a process that had no time to clean up
    (final / "meta.json").unlink()
    build(manifest, shelf)
    assert [entry.name for entry in shelf.iterdir() if entry.is_dir()] == [final.name]


def _build_and_report(manifest: Manifest, shelf: Path, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    before = decode_count()
    cache = build(manifest, shelf)
    results.put((decode_count() - before, int(cache.read(range(12)).sum())))  # type: ignore[attr-defined]


def test_two_processes_build_it_once(manifest: Manifest, shelf: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    builders = [context.Process(target=_build_and_report, args=(manifest, shelf, start, results)) for _ in range(2)]
    for builder in builders:
        builder.start()
    start.set()
    reports = sorted(results.get(timeout=60) for _ in builders)
    for builder in builders:
        builder.join(timeout=60)
    assert [decoded for decoded, _ in reports] == [0, 12]
    assert {total for _, total in reports} == {int(expected(manifest).sum())}


def test_small_budget_falls_back_to_decoding(manifest: Manifest, shelf: Path) -> None:
    with pytest.warns(UserWarning, match=r"the budget is 1e-06.*decoded each time"):
        cache = build(manifest, shelf, budget_gb=1e-6)
    assert cache.pixels is None
    np.testing.assert_array_equal(cache.read([5, 0]), expected(manifest)[[5, 0]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache)).read([5]), expected(manifest)[[5]])
    before = decode_count()
    with pytest.warns(UserWarning, match="--budget-gb"):
        build(manifest, shelf, budget_gb=1e-6)
    assert decode_count() == before  # index and grey images are kept
    assert build(manifest, shelf).pixels is not None  # with more room it is built after all


def test_small_budget_may_be_an_error(manifest: Manifest, shelf: Path) -> None:
    with pytest.raises(InputError, match=r"needs 0\.00 GB; the budget is 1e-06.*emotion data cache --clear"):
        build(manifest, shelf, budget_gb=1e-6, on_full="error")


def test_budget_counts_the_other_caches(manifest: Manifest, shelf: Path) -> None:
    pixels = 12 * (SIZE * SIZE * 3 + 48 * 48)
    taken = cache.folder_bytes(build(manifest, shelf).directory)
    with pytest.raises(InputError, match="--budget-gb"):
        build(manifest, shelf, fit="pad", budget_gb=(taken + pixels - 1) / 1e9, on_full="error")
    build(manifest, shelf, fit="pad", budget_gb=(taken + pixels) / 1e9, on_full="error")


def test_full_disk_is_loud(manifest: Manifest, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datamodules.cache_build.os.pwrite", full)
    with pytest.raises(InputError, match=r"No space left on device.*EMOTION_CACHE_DIR"):
        build(manifest, shelf)
    assert [entry for entry in shelf.iterdir() if entry.is_dir()] == []


def test_folder_that_cannot_be_written(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written.*EMOTION_CACHE_DIR"):
        build(manifest, tmp_path / "file" / "pixels")


@pytest.mark.parametrize(
    ("options", "match"), [({"size": 0}, "--size: must be"), ({"fit": "squeeze"}, "--fit: must be")]
)
def test_arguments_are_checked(manifest: Manifest, options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_cache(manifest, **{"size": 8, **options})  # type: ignore[arg-type]


def test_list_and_clear(manifest: Manifest, shelf: Path) -> None:
    assert cache_list(shelf.parent).empty
    cache = build(manifest, shelf)
    other = shelf.parent / "drawn" / "abc"
    other.mkdir(parents=True)
    listed = cache_list(shelf.parent).set_index("kind")
    assert listed.loc["pixels", ["name", "images", "size", "fit"]].tolist() == ["noise", 12, SIZE, "crop"]
    pairs = shelf / "near-abc.parquet"
    pairs.touch()
    mapped = cache.pixels
    freed = cache_clear(shelf.parent)
    assert freed >= 12 * SIZE * SIZE * 3
    assert other.is_dir()
    assert not cache.directory.exists()
    assert not pairs.exists()
    np.testing.assert_array_equal(mapped, expected(manifest))  # who has it open reads on
    with pytest.raises(InputError, match="--clear: must be among"):
        cache_clear(shelf.parent, kinds=("models",))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_share_the_mapping(tmp_path: Path, shelf: Path) -> None:
    """Eight readers together hold little more than one copy: proportional memory (PSS) of the map."""
    manifest = draw_pictures(tmp_path / "many", 64)
    cache = build_cache(manifest, 128, directory=shelf, workers=0)
    size = 64 * 128 * 128 * 3
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Semaphore(0), context.Event()
    readers = [context.Process(target=_read_all_and_wait, args=(cache, ready, stop)) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in readers:
            assert ready.acquire(timeout=60)
        shares = [_pss(reader.pid or 0, "pixels.bin") for reader in readers]
    finally:
        stop.set()
        for reader in readers:
            reader.join(timeout=60)
    assert all(share > 0 for share in shares)
    assert sum(shares) <= 1.1 * size


def _read_all_and_wait(cache: PixelCache, ready: object, stop: object) -> None:
    for row in range(64):
        cache.read([row])
    ready.release()  # type: ignore[attr-defined]
    stop.wait(60)  # type: ignore[attr-defined]


def _pss(pid: int, name: str) -> int:
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            inside = line.rstrip().endswith(os.sep + name)
        elif inside and first == "Pss:":
            total += int(line.split()[1]) * 1024
    return total


def test_a_decoder_that_is_installed_later_is_used(
    manifest: Manifest, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that could not be decoded is no error for ever, if its format can be decoded now."""
    Image.new("RGB", (20, 20)).save(manifest.file(0), "WEBP")
    monkeypatch.setattr("datamodules.files.images.missing_decoder", lambda name: "install it" if name == "WEBP" else "")
    assert "install it" in build(manifest, shelf).index["error"].iat[0]
    monkeypatch.undo()
    assert build(manifest, shelf).index["error"].iat[0] == ""
