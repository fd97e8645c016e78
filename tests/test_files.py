"""Files written whole, outputs checked before work, results that replace nothing."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from vcm import files
from vcm.errors import VCMError
from vcm.files import (
    check_output,
    is_occupied,
    listed_files,
    refuse_to_replace,
    sha256,
    whole,
    write_json,
    write_set,
    write_table,
    write_whole,
)


def test_what_was_there_stays_where_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), whole(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_one(tmp_path):
    path = tmp_path / "model"
    for name in ("first", "second"):

        def write(part, name=name):
            part.mkdir()
            (part / name).write_text(name)

        write_whole(path, write)
    assert [p.name for p in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_never_replaces_a_folder(tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    (tmp_path / "a.nii.gz" / "mine").write_text("kept")
    with pytest.raises(VCMError, match="is a folder"):
        write_whole(tmp_path / "a.nii.gz", lambda part: part.write_text("x"))
    assert (tmp_path / "a.nii.gz" / "mine").read_text() == "kept"


def test_writers_see_the_endings_of_the_name(tmp_path):
    write_whole(tmp_path / "sub-1_T1w.nii.gz", lambda part: part.write_text(part.name[-7:]))
    assert (tmp_path / "sub-1_T1w.nii.gz").read_text() == ".nii.gz"
    write_whole(tmp_path / "a.npy", lambda part: np.save(part, np.arange(3)))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]


def _write_many(path, word):
    for _ in range(60):
        write_whole(path, lambda part: part.write_text(word * 1000))


def test_two_processes_write_one_file_without_meeting(tmp_path):
    path = tmp_path / "table.tsv"
    jobs = [multiprocessing.Process(target=_write_many, args=(path, word)) for word in "ab"]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_that_of_a_running_one_stays(tmp_path):
    killed = "import os, pathlib, sys\nfrom vcm.files import whole\n"
    killed += "with whole(pathlib.Path(sys.argv[1]) / 'a.nii.gz') as part:\n"
    killed += "    part.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    assert len(list(tmp_path.glob(".part-*"))) == 1
    running = files._temporary(tmp_path / "b.txt")
    running.write_text("of this process")
    files._remove_abandoned.cache_clear()
    write_json(tmp_path / "c.json", {})
    assert {p.name for p in tmp_path.iterdir()} == {"c.json", running.name}


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_what_a_library_wrote_for_its_owner_alone_is_read_by_whom_the_umask_allows(tmp_path):
    def write(part):
        part.mkdir()
        for name, mode in (("weights", 0o600), ("run", 0o700)):
            (part / name).touch()
            (part / name).chmod(mode)

    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "model", write)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "model").iterdir()}
    assert modes == {"weights": 0o640, "run": 0o740}


def test_tables_and_json_are_whole(tmp_path):
    write_table(tmp_path / "new" / "t.tsv", [{"a": 1, "b": None}], ["a", "b"])
    assert (tmp_path / "new" / "t.tsv").read_text() == "a\tb\n1\tn/a\n"
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_to_disk", full)
    (tmp_path / "a.json").write_text("before")
    with pytest.raises(VCMError, match="No space left"):
        write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["file", "file/below", "file/below/deeper", "x" * 300])
def test_an_impossible_folder_is_found_before_any_work(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VCMError, match="choose a folder"):
        check_output(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a file system that takes no files"
)
def test_a_folder_that_takes_no_files_is_found_before_any_work():
    with pytest.raises(VCMError, match="cannot be written"):
        check_output(files.Path("/proc/self/results"))


def test_a_usable_folder_is_left_as_it_was(tmp_path):
    check_output(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    check_output(tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_a_disk_without_room_is_found_before_any_work(tmp_path):
    with pytest.raises(VCMError, match=r"take about 1000000000000 MB"):
        check_output(tmp_path, needed=10**18)


def test_a_result_never_replaces_its_input(tmp_path):
    scan, link = tmp_path / "a.nii.gz", tmp_path / "link.nii.gz"
    scan.write_text("scan")
    link.symlink_to(scan)
    for output in (scan, link, tmp_path / "." / "a.nii.gz"):
        with pytest.raises(VCMError, match="is an input"):
            refuse_to_replace([output], [scan], overwrite=True)


def test_a_result_replaces_only_its_own(tmp_path):
    result, sidecar = tmp_path / "a.nii.gz", tmp_path / "a.json"
    mine, other = {"ConditionSHA256": "12", "Seed": 0}, {"ConditionSHA256": "34", "Seed": 0}
    refuse_to_replace([result], [], sidecar, mine)
    result.write_text("result")
    with pytest.raises(VCMError, match="was not made from"):
        refuse_to_replace([result], [], sidecar, mine)
    write_json(sidecar, {**mine, "Command": ["vcm"]})
    refuse_to_replace([result], [], sidecar, mine)
    with pytest.raises(VCMError, match="was not made from"):
        refuse_to_replace([result], [], sidecar, other)
    refuse_to_replace([result], [], sidecar, other, overwrite=True)
    sidecar.write_text("{damaged")
    with pytest.raises(VCMError, match="was not made from"):
        refuse_to_replace([result], [], sidecar, mine)


def test_a_result_that_was_changed_since_is_replaced_only_if_asked(tmp_path):
    """As where two commands write one name: the sidecar of the one does not vouch for the file of the other."""
    write_two(tmp_path, "first")
    result, sidecar, mine = tmp_path / "mask.nii.gz", tmp_path / "volume.json", {"Seed": "first"}
    refuse_to_replace([result, sidecar], [], sidecar, mine)
    result.write_text("drawn by hand")
    later = sidecar.stat().st_mtime_ns + 10**9
    os.utime(result, ns=(later, later))
    with pytest.raises(VCMError, match=r"is not the file that volume\.json lists"):
        refuse_to_replace([result, sidecar], [], sidecar, mine)
    refuse_to_replace([result], [], sidecar, mine, overwrite=True)
    # One that a killed run has not come to replace is older than the sidecar that lists its successor.
    os.utime(result, ns=(later - 2 * 10**9,) * 2)
    refuse_to_replace([result, sidecar], [], sidecar, mine)


def write_two(folder, content, stale=None):
    """A set of two files and their sidecar."""
    names = ("volume.nii.gz", "mask.nii.gz")
    writers = {folder / n: lambda part, n=n: part.write_text(f"{content} {n}") for n in names}
    return write_set(folder / "volume.json", {"Seed": content}, writers, stale)


def test_a_set_is_written_with_the_checksums_of_its_files(tmp_path):
    content = write_two(tmp_path, "first")
    assert json.loads((tmp_path / "volume.json").read_text()) == content
    assert content["Files"] == {
        n: sha256(tmp_path / n) for n in ("volume.nii.gz", "mask.nii.gz")
    }  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {*content["Files"], "volume.json"}


def test_what_an_earlier_set_left_goes_unless_it_was_changed(tmp_path):
    write_two(tmp_path, "first")
    for name in ("sample.nii.gz", "edited.nii.gz"):
        (tmp_path / name).write_text(name)
    listed = {name: sha256(tmp_path / name) for name in ("sample.nii.gz", "edited.nii.gz")}
    (tmp_path / "edited.nii.gz").write_text("drawn by hand")
    stale = {**listed_files(tmp_path / "volume.json"), **listed, "gone.nii.gz": "0"}
    content = write_two(tmp_path, "second", stale)
    assert json.loads((tmp_path / "volume.json").read_text()) == content
    assert content["Files"].keys() == {"volume.nii.gz", "mask.nii.gz"}
    assert {p.name for p in tmp_path.iterdir()} == {
        *content["Files"], "volume.json", "edited.nii.gz"
    }  # fmt: skip


def test_files_of_an_earlier_set_are_listed_until_they_are_gone(tmp_path, monkeypatch):
    """A run that is killed before it removes them leaves a sidecar that tells the next run of them."""
    (tmp_path / "sample.nii.gz").write_text("sample")
    stale = {"sample.nii.gz": sha256(tmp_path / "sample.nii.gz")}

    def die(folder, names):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "remove_unchanged", die)
    with pytest.raises(KeyboardInterrupt):
        write_two(tmp_path, "first", stale)
    assert listed_files(tmp_path / "volume.json").items() >= stale.items()


@pytest.mark.parametrize(
    "text", ["{damaged", "[1]", "{}", '{"Files": ["a"]}', '{"Files": {"../a": "0"}}']
)
def test_a_sidecar_that_lists_no_files_beside_it(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert listed_files(tmp_path / "a.json") == {} == listed_files(tmp_path / "b.json")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_the_checksum_of_an_image_in_two_files_is_that_of_both(tmp_path, end):
    header, voxels = (tmp_path / f"sub-1_T1w.{kind}{end}" for kind in ("hdr", "img"))
    header.write_text("header")
    alone = sha256(header)
    voxels.write_text("of one")
    one = sha256(header)
    assert one == sha256(voxels) != alone
    voxels.write_text("of two")
    assert sha256(header) == sha256(voxels) != one


def test_nothing_of_a_set_appears_where_writing_one_file_fails(tmp_path):
    def fail(part):
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_set(
            tmp_path / "a.json", {}, {tmp_path / "a": lambda p: p.touch(), tmp_path / "b": fail}
        )
    assert list(tmp_path.iterdir()) == []


def die_at(folder, moment):
    """Replace a set and end without any cleaning up at the given call that touches the disk."""
    calls = itertools.count()
    for name in ("_temporary", "_flush", "_give_name"):

        def counted(*arguments, begun=getattr(files, name)):
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return begun(*arguments)

        setattr(files, name, counted)
    write_two(folder, "second")
    os._exit(0)


#: Calls of the three functions for three files.
MOMENTS = 9


@pytest.mark.parametrize("moment", range(MOMENTS + 1))
def test_a_set_that_is_killed_has_no_file_without_its_sidecar(tmp_path, moment):
    """SIGKILL at every step; each file is the old or the new one, and a new one has its sidecar."""
    before = write_two(tmp_path, "first")
    child = multiprocessing.get_context("fork").Process(target=die_at, args=(tmp_path, moment))
    child.start()
    child.join()
    assert child.exitcode == (-signal.SIGKILL if moment < MOMENTS else 0)
    record = json.loads((tmp_path / "volume.json").read_text())
    assert record["Seed"] in ("first", "second")
    for name, checksum in record["Files"].items():
        assert sha256(tmp_path / name) in (checksum, before["Files"][name])
        if record["Seed"] == "first":
            assert sha256(tmp_path / name) == checksum
    # The next run starts over, and removes what the killed one left.
    files._remove_abandoned.cache_clear()
    after = write_two(tmp_path, "second")
    assert {p.name for p in tmp_path.iterdir()} == {*after["Files"], "volume.json"}
    assert all(sha256(tmp_path / n) == c for n, c in after["Files"].items())


@pytest.mark.parametrize("there", [(), ("results",)], ids=["new", "empty"])
def test_a_look_at_a_folder_that_is_killed_leaves_it_as_it_was(tmp_path, monkeypatch, there):
    """Else the next run would refuse a folder of the name, or take it for occupied."""
    for name in there:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(files, "remove", lambda path: None)  # as where the process is gone
    check_output(tmp_path / "results" / "mine")
    assert [p.name for p in tmp_path.iterdir() if p.name[0] != "."] == list(there)
    monkeypatch.undo()
    monkeypatch.setattr(files, "_is_running", lambda process: False)
    files._remove_abandoned.cache_clear()
    assert not is_occupied(tmp_path / "results")
    assert is_occupied(tmp_path) == bool(there)


def test_a_link_to_nothing_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(VCMError, match="is a link to nothing"):
        check_output(tmp_path / "link" / "mine")
    assert is_occupied(tmp_path / "link")


def test_a_folder_that_was_replaced_goes_when_its_process_was_killed_before(tmp_path):
    gone, here = 2**22 + 1, os.getpid()  # no process has a number beyond 2^22
    kept = [
        f".old-{gone}-{files._MACHINE}-alone",
        f".old-{here}-{files._MACHINE}-whole",
        ".old-whole",
    ]
    kept += [f".old-{gone}-00000000-whole", "whole"]  # of another machine
    for name in (f".old-{gone}-{files._MACHINE}-whole", *kept):
        (tmp_path / name).mkdir()
    files._remove_abandoned.cache_clear()
    files.check_output(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(kept)


def test_what_a_killed_process_had_moved_away_goes_when_the_folder_is_written_again(tmp_path):
    moved = tmp_path / f".old-{2**22 + 1}-{files._MACHINE}-whole"
    moved.mkdir()
    files._remove_abandoned.cache_clear()
    files.check_output(tmp_path)
    assert moved.is_dir() and files.replaced(tmp_path / "whole") == [moved]
    files.write_whole(tmp_path / "whole", lambda part: part.mkdir())
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


def test_a_folder_of_the_users_stays_where_another_is_replaced(tmp_path):
    for name in (".old-whole", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / ".old-whole" / "mine").touch()
    files.write_whole(tmp_path / "whole", lambda part: part.mkdir())
    assert {p.name for p in tmp_path.iterdir()} == {".old-whole", "whole"}
    assert (tmp_path / ".old-whole" / "mine").is_file()
