"""Public benchmarks: the registry against numbers typed from the sources, the six readers on tiny files, and the download path."""

import dataclasses
import http.server
import os
import shutil
import threading
import tracemalloc

import numpy as np
import pytest
from tiny import make_scene
from tiny_benchmarks import BANDS, GRID, classes_of, make

from prsa import open_scene, split_scene
from prsa.data import benchmarks, download
from prsa.data.benchmarks import BENCHMARKS
from prsa.data.scene import check_scene
from prsa.errors import PrsaError

SPLIT = ("houston2013", "augsburg", "berlin", "houston2018")
# Typed from the data sets' descriptions: grid, bands, classes, archive, totals.
KNOWN = {
    "houston2013": ((349, 1905), {"hsi": 144, "lidar": 1}, 15, "7a2d719d", (2832, 12197)),
    "augsburg": ((332, 485), {"hsi": 180, "sar": 4}, 7, "4d853be6", (761, 77533)),
    "berlin": ((1723, 476), {"hsi": 244, "sar": 4}, 8, "5fdd156b", (2820, 461851)),
    "trento": ((166, 600), {"hsi": 63, "lidar": 2}, 6, "b203331b", 30214),
    "muufl": ((325, 220), {"hsi": 64, "lidar": 2}, 11, "2219e625", None),
    "houston2018": ((1202, 4768), {"hsi": 50, "lidar": 1}, 20, "bc1e046c", None),
}
MEMBER_HASHES = {  # first digits
    "houston2013": {
        "HSI.mat": "6a0edba3",
        "LiDAR.mat": "7aa956e7",
        "TRLabel.mat": "96ce863e",
        "TSLabel.mat": "46bd849d",
    },
    "augsburg": {
        "augsburg_hsi.mat": "2f13839d",
        "augsburg_sar.mat": "cd1dbfad",
        "augsburg_gt.mat": "065df712",
        "augsburg_index.mat": "8bc57037",
    },
    "berlin": {
        "berlin_hsi.mat": "580f397d",
        "berlin_sar.mat": "a6cf2f86",
        "berlin_gt.mat": "dd9286cd",
        "berlin_index.mat": "1a66ec45",
    },
    "trento": {"Italy_hsi.mat": "", "Italy_lidar.mat": "a04dc903", "allgrd.mat": "7e3fb2a2"},
    "muufl": {"muufl_gulfport_campus_1_hsi_220_label.mat": "69420a72"},
    "houston2018": {
        "houston_hsi.mat": "35a4a9a2",
        "houston_lidar.mat": "a55fa2d9",
        "houston_gt.mat": "93f268e5",
        "houston_index.mat": "2d513db1",
    },
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder, no waiting, no proxy and no network outside this machine."""
    monkeypatch.setenv("PRSA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setattr(download, "TIMEOUT", 5)
    return tmp_path / "data"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """make(name, url=None, **options) registers a tiny data set and returns (entry, truth, archive); without a url nothing answers."""

    def build(name, url="http://127.0.0.1:9/", mirrors=(), **options):
        bench, truth, archive = make(name, tmp_path / "made", **options)
        bench = dataclasses.replace(bench, url=url + archive.name, mirrors=tuple(m + archive.name for m in mirrors))
        monkeypatch.setitem(BENCHMARKS, name, bench)
        return bench, truth, archive

    return build


@pytest.fixture
def by_hand(data, tiny):
    """A tiny data set whose archive was put in place by hand."""

    def build(name, **options):
        bench, truth, archive = tiny(name, **options)
        target = data / "raw" / name / archive.name
        target.parent.mkdir(parents=True)
        shutil.copy(archive, target)
        return bench, truth, archive

    return build


@pytest.fixture
def server(tmp_path):
    """A local server of tmp_path/made: /good/, /wrong/ (other bytes), /cut/ (half of what it promised), /error/ (500), /gone/ (404). Logs its requests."""
    log = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            log.append(self.path)
            _, how, name = self.path.split("/")
            if how in ("error", "gone"):
                return self.send_error(500 if how == "error" else 404)
            body = (tmp_path / "made" / name).read_bytes()
            body = body[::-1] if how == "wrong" else body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if how == "cut" else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", log
        running.shutdown()


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---- registry


@pytest.mark.parametrize("name", KNOWN)
def test_registry_holds_the_published_facts(name):
    grid, bands, classes, digest, totals = KNOWN[name]
    bench = BENCHMARKS[name]
    assert bench.grid == grid and {m: s.bands for m, s in bench.sensors.items()} == bands
    assert len(bench.classes) == len(set(bench.classes)) == classes
    assert bench.sha256.startswith(digest) and len(bench.sha256) == 64
    assert {m.path.rsplit("/", 1)[1]: m.sha256[:8] for m in bench.members.values()} == MEMBER_HASHES[name]
    assert all(len(m.sha256) in (0, 64) for m in bench.members.values())
    if isinstance(totals, tuple):
        assert tuple(n if isinstance(n, int) else sum(n) for n in (bench.train, bench.test)) == totals
        assert all(isinstance(n, int) or len(n) == classes for n in (bench.train, bench.test))
    elif totals:
        assert sum(bench.labelled) == totals
    else:
        assert bench.train is bench.test is bench.labelled is None
    assert bench.licence and bench.citation and bench.url.startswith("https://")


def test_names_that_public_loaders_get_wrong():
    assert BENCHMARKS["augsburg"].classes[4:] == ("Allotment", "Commercial", "Water")
    assert BENCHMARKS["muufl"].classes[6:8] == ("building shadow", "buildings")
    assert BENCHMARKS["houston2013"].train[0] == 198 and BENCHMARKS["houston2013"].test[0] == 1053


# ---- readers


@pytest.mark.parametrize(
    "name, hdf5", [(name, False) for name in KNOWN] + [(name, True) for name in KNOWN if name != "muufl"]
)  # muufl is a v5 struct
def test_tiny_files_read_to_the_right_scene(by_hand, name, hdf5):
    bench, truth, _ = by_hand(name, hdf5=hdf5)
    scene = open_scene(name)
    assert [m for m in bench.sensors] == [m for m in scene.data_vars if m not in ("label", "split")]
    for m, expected in truth["values"].items():
        assert scene[m].dtype == np.float32 and scene[m].dims == (f"{m}_band", "y", "x")
        np.testing.assert_array_equal(scene[m].values, expected)
        assert scene[m].attrs["kind"] == bench.sensors[m].kind
    label = (
        np.where(truth["split"] > 0, truth["label"], 0) if name == "houston2013" else truth["label"]
    )  # two rasters hold nothing else
    np.testing.assert_array_equal(scene["label"].values, label)
    assert classes_of(scene) == truth["classes"]
    assert scene.attrs["name"] == name and scene.attrs["simulated"] == 0
    assert scene.attrs["license"] == bench.licence and scene.attrs["citation"] == bench.citation
    if name in SPLIT:
        np.testing.assert_array_equal(scene["split"].values, truth["split"])
    else:
        assert "split" not in scene


def test_wavelengths_and_bands_that_are_no_spectrum(by_hand):
    for name, first, last, bands in (
        ("houston2013", 364.0, 1046.1, BANDS),
        ("houston2018", 374.4, 1047.1, BANDS - 2),
        ("muufl", 405.0, 1005.0, BANDS),
    ):
        by_hand(name)
        wavelength = open_scene(name)["wavelength"]
        assert wavelength.dims == ("hsi_band",) and wavelength.size == bands
        assert wavelength.values[[0, -1]].tolist() == [first, last]


@pytest.mark.parametrize("name", SPLIT)
def test_the_official_split_is_kept_bit_for_bit(by_hand, name):
    _, truth, _ = by_hand(name)
    part = split_scene(open_scene(name), radius=1)
    assert part.attrs["kind"] == "fixed"
    np.testing.assert_array_equal(part.values == 3, truth["split"] == 2)
    np.testing.assert_array_equal((part.values == 1) | (part.values == 2), truth["split"] == 1)


@pytest.mark.parametrize(
    "name, spoil, told",
    [
        ("augsburg", "rows", "0-based rows and columns"),
        ("berlin", "bare", "1 listed pixels without one"),
        ("houston2018", "twice", "1 listed again"),
        ("berlin", "shape", str((*GRID, BANDS))),
        ("houston2013", "key", "variable(s) HSI"),
        ("houston2013", "overlap", "both label rasters"),
        ("trento", "label", "whole numbers from 0 to 6"),
        ("muufl", "shape", "hsi (rows, columns, bands)"),
    ],
)
def test_files_that_are_not_the_known_ones_are_refused(by_hand, data, name, spoil, told):
    by_hand(name, spoil=spoil)
    with pytest.raises(PrsaError) as caught:
        open_scene(name)
    assert told in str(caught.value) and name.split("20")[0] in str(caught.value).lower()
    assert not (data / "cache").exists()


@pytest.mark.parametrize(
    "name, field", [("houston2013", "train"), ("augsburg", "test"), ("berlin", "train"), ("trento", "labelled")]
)
def test_wrong_counts_are_refused_and_named(by_hand, monkeypatch, data, name, field):
    bench, _, _ = by_hand(name)
    known = getattr(bench, field)
    wrong = known + 1 if isinstance(known, int) else (known[0], known[1] + 3, *known[2:])
    monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(bench, **{field: wrong}))
    with pytest.raises(PrsaError) as caught:
        open_scene(name)
    if isinstance(known, int):
        assert "literature" in str(caught.value) and f"expected {wrong}, got {known}" in str(caught.value)
    else:
        assert f"{bench.classes[1]} {known[1]} instead of {known[1] + 3}" in str(caught.value)
    assert not (data / "cache").exists()


# ---- download


def test_download_verify_store_and_reuse_without_network(data, tiny, server, capsys):
    url, log = server
    bench, truth, archive = tiny("augsburg", f"{url}/good/")
    scene = open_scene("augsburg")
    np.testing.assert_array_equal(scene["label"].values, truth["label"])
    told = capsys.readouterr().err
    assert bench.licence in told and bench.citation in told and told.index(bench.licence) < told.index("Downloading")
    assert log == [f"/good/{archive.name}"]
    assert files(data) == sorted(
        [
            "cache/augsburg.nc",
            f"raw/augsburg/{archive.name}",
            *(f"raw/augsburg/{m.path}" for m in bench.members.values()),
        ]
    )
    shutil.rmtree(data / "raw")
    assert open_scene("augsburg").equals(scene)
    assert len(log) == 1 and bench.licence not in capsys.readouterr().err


@pytest.mark.parametrize(
    "how, reason, requests",
    [("wrong", "hash", 1), ("cut", "IncompleteRead", 2), ("error", "500", 2), ("gone", "404", 1)],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do_and_the_next_one_works(
    data, tiny, server, monkeypatch, how, reason, requests
):
    url, log = server
    bench, truth, archive = tiny("berlin", f"{url}/{how}/")
    with pytest.raises(PrsaError) as caught:
        open_scene("berlin")
    message = str(caught.value)
    assert reason in message and bench.sha256 in message and str(data / "raw" / "berlin" / archive.name) in message
    assert all(m.path in message and m.sha256 in message for m in bench.members.values())
    assert len(log) == requests
    assert files(data) == []
    monkeypatch.setitem(BENCHMARKS, "berlin", dataclasses.replace(bench, url=f"{url}/good/{archive.name}"))
    np.testing.assert_array_equal(open_scene("berlin")["label"].values, truth["label"])


def test_without_a_network_the_message_names_file_hash_and_place(data, tiny):
    bench, _, archive = tiny("trento")  # nothing listens on port 9
    with pytest.raises(PrsaError) as caught:
        open_scene("trento")
    message = str(caught.value)
    assert (
        "ConnectionError" in message
        and str(data / "raw" / "trento" / archive.name) in message
        and bench.sha256 in message
    )
    assert "members" not in message  # one of them has no public hash: only the archive can be checked
    assert files(data) == []


def test_a_mirror_is_tried_next(data, tiny, server):
    url, log = server
    _, truth, archive = tiny("muufl", f"{url}/wrong/", mirrors=(f"{url}/good/",))
    np.testing.assert_array_equal(open_scene("muufl")["label"].values, truth["label"])
    assert log == [f"/wrong/{archive.name}", f"/good/{archive.name}"]


# ---- files placed by hand, damage


def test_members_placed_by_hand_are_enough(data, tiny, tmp_path):
    bench, truth, _ = tiny("houston2013")
    shutil.copytree(tmp_path / "made" / "unpacked", data / "raw" / "houston2013")
    np.testing.assert_array_equal(open_scene("houston2013")["split"].values, truth["split"])
    assert set(files(data)) == {"cache/houston2013.nc", *(f"raw/houston2013/{m.path}" for m in bench.members.values())}


def test_a_wrong_member_is_not_believed(data, tiny, tmp_path):
    bench, _, _ = tiny("houston2013")
    shutil.copytree(tmp_path / "made" / "unpacked", data / "raw" / "houston2013")
    with open(data / "raw" / "houston2013" / bench.members["lidar"].path, "ab") as file:
        file.write(b"x")
    with pytest.raises(PrsaError, match="ConnectionError"):
        open_scene("houston2013")


def test_an_unhashed_member_counts_only_from_the_archive(data, tiny, tmp_path):
    tiny("trento")
    shutil.copytree(tmp_path / "made" / "unpacked", data / "raw" / "trento")
    with pytest.raises(PrsaError, match="ConnectionError"):
        open_scene("trento")


def test_a_wrong_archive_placed_by_hand_is_named_and_kept(by_hand, data):
    bench, _, archive = by_hand("augsburg")
    placed = data / "raw" / "augsburg" / archive.name
    placed.write_bytes(placed.read_bytes()[:-7])
    with pytest.raises(PrsaError, match=f"expected SHA-256 {bench.sha256}, got .* Delete this file"):
        open_scene("augsburg")
    assert files(data) == [f"raw/augsburg/{archive.name}"]


@pytest.mark.parametrize("what", ["missing", "hash"])
def test_an_archive_whose_members_differ_is_refused(by_hand, monkeypatch, data, what):
    bench, _, archive = by_hand("augsburg")
    changed = {"path": "Augsburg/other.mat"} if what == "missing" else {"sha256": "0" * 64}
    members = bench.members | {"sar": dataclasses.replace(bench.members["sar"], **changed)}
    monkeypatch.setitem(BENCHMARKS, "augsburg", dataclasses.replace(bench, members=members))
    with pytest.raises(
        PrsaError, match="expected the member Augsburg/other.mat" if what == "missing" else "expected SHA-256 0000"
    ):
        open_scene("augsburg")
    assert set(files(data)) == {f"raw/augsburg/{archive.name}", f"raw/augsburg/{bench.members['hsi'].path}"}


def test_only_needed_members_are_unpacked_and_none_outside(by_hand, data):
    by_hand("trento")
    open_scene("trento")
    assert not list(data.parent.rglob("outside.txt"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "older reader", "other archive"])
def test_a_damaged_or_outdated_cache_is_built_again(by_hand, data, monkeypatch, damage, capsys):
    bench, truth, _ = by_hand("berlin")
    scene = open_scene("berlin")
    cache = data / "cache" / "berlin.nc"
    good = cache.read_bytes()
    if damage == "cut":
        cache.write_bytes(good[: len(good) // 2])
    elif damage == "flipped":
        place = good.index(b"\x78\x5e") + 1000  # inside the first compressed piece
        cache.write_bytes(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])
    elif damage == "garbage":
        cache.write_bytes(b"not a netCDF file")
    elif damage == "older reader":
        monkeypatch.setattr(benchmarks, "READER", benchmarks.READER + 1)
    else:
        monkeypatch.setitem(BENCHMARKS, "berlin", dataclasses.replace(bench, url=bench.url + "?v2"))
        (data / "raw" / "berlin" / bench.url.rsplit("/", 1)[1]).rename(
            data / "raw" / "berlin" / (bench.url.rsplit("/", 1)[1] + "?v2")
        )
    before = cache.stat().st_mtime_ns
    again = open_scene("berlin")
    np.testing.assert_array_equal(again["hsi"].values, truth["values"]["hsi"])
    assert again["label"].equals(scene["label"]) and cache.stat().st_mtime_ns > before
    assert ("damaged" in capsys.readouterr().err) == (damage in ("cut", "flipped", "garbage"))


def test_leftovers_of_a_killed_process_go_and_young_ones_stay(by_hand, data):
    by_hand("trento")
    old, young = data / "raw" / "trento" / "tmpab12cd", data / "raw" / "trento" / ".x.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    open_scene("trento")
    assert not old.exists() and young.exists()


# ---- a large scene is held once


def test_a_clean_scene_is_checked_without_a_copy_and_no_data_is_cleaned_in_one(by_hand):
    by_hand("berlin")
    scene = open_scene("berlin")
    assert np.shares_memory(check_scene(scene)["hsi"].values, scene["hsi"].values)
    spoilt = scene.copy(deep=True)
    spoilt["hsi"].values[1, 2, 3] = np.inf
    spoilt["sar"].values[0, 4, 5] = -9999
    spoilt["sar"].attrs["missing_value"] = -9999
    clean = check_scene(spoilt)
    for m, place in (("hsi", (1, 2, 3)), ("sar", (0, 4, 5))):
        assert np.argwhere(np.isnan(clean[m].values)).tolist() == [list(place)]
        assert not np.isnan(spoilt[m].values).any()
    whole = scene.assign(
        sar=(
            scene["sar"].dims,
            np.full(scene["sar"].shape, -9999, np.int16) + np.arange(4, dtype=np.int16)[:, None, None],
        )
    )
    whole["sar"].attrs["missing_value"] = -9999
    with pytest.raises(PrsaError, match=r"only no-data in band\(s\) \[0\]"):
        check_scene(whole)


def test_validation_of_thousands_of_scattered_training_pixels_needs_little_memory():
    split = np.full((600, 600), 2, np.int8)
    split[::6, ::6] = 1  # 10,000 groups
    scene = make_scene(shape=split.shape, split=split)
    tracemalloc.start()
    part = split_scene(scene, radius=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6
    assert 0.15 < (part == 2).sum() / (split == 1).sum() < 0.25


# ---- command line


def test_command_line_makes_what_it_can_and_reports_the_rest(by_hand, data, tiny, capsys):
    by_hand("trento")
    tiny("berlin")
    assert benchmarks.main(["berlin", "trento", "sim-sar", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert "trento: " in out and "no official split: blocks" in out and "sim-sar: nothing to download" in out
    assert err.count("error: ") == 2 and "unknown benchmark 'nowhere'" in err and "berlin" in err
    assert (data / "cache" / "trento.nc").is_file()
    assert benchmarks.main(["trento"]) == 0 and benchmarks.main([]) == 0
    with pytest.raises(PrsaError, match="houston2018"):
        open_scene("houston")


def test_a_benchmark_is_studied_at_full_size(tmp_path, monkeypatch):
    """Patch 11 and 150 epochs with the full preset, a split whose buffer fits that patch, results beside those of the full study."""
    from prsa import files
    from prsa.data.scene import save_scene
    from prsa.study import plan

    path = str(save_scene(make_scene(("hsi", "sar")).drop_vars("split", errors="ignore"), tmp_path / "tiny.nc"))
    monkeypatch.setattr(plan, "BENCHMARKS", {path: None})
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    config, _, split = plan.resolve(plan.RunSpec(path, "prsanet", 0, "full"))
    assert (config.patch, config.epochs, config.max_steps) == (11, 150, 0) and split.attrs["radius"] == 5
    assert plan.run_path(plan.RunSpec(path, "prsanet", 0, "full")).parent == files.results("full") / "runs"
    assert plan.resolve(plan.RunSpec(path, "prsanet", 0, "quick"))[0].patch == 7
