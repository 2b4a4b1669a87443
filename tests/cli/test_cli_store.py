"""`show`, `log`, `verify`, `sample`, and the program as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from atomlora.corpora import read_corpus, sample_path
from atomlora.store import Store


def program(*arguments, **settings):
    command = [sys.executable, "-m", "atomlora", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **settings)


def test_show_lists_atoms(run, store):
    lines = run("show", store).stdout.splitlines()
    assert lines[0].split() == ["atom", "type", "recall", "questions", "source", "text"]
    assert len(lines) == 5
    assert "tower.md:80-109" in lines[3]
    listed = json.loads(run("show", store, "--json").stdout)
    assert [atom["source"] for atom in listed["atoms"]] == ["ferry.md", "ferry.md", "tower.md", "garden.md"]
    assert listed["version"] == Store.open(store).version


def test_show_one_atom(run, store):
    atom = next(iter(Store.open(store).atoms()))
    facts = json.loads(run("show", store, atom.id[:8], "--json").stdout)
    assert facts["id"] == atom.id
    assert facts["size_bytes"] == 2 * 2 * 3 * (16 + 24)
    text = run("show", store, atom.id[:8]).stdout
    assert "The ferry Marla leaves at nine." in text
    assert "When does the ferry leave? -> nine [user]" in text
    assert "ferry.md:0-31" in text


@pytest.mark.parametrize("atom", ["ffffff", "zz", "0123"])
def test_show_unknown_atom(run, store, atom):
    result = run("show", store, atom)
    assert result.exit_code == 1
    assert atom in result.stderr


def test_log(run, store):
    version = Store.open(store).version
    logged = json.loads(run("log", store, "--json").stdout)["versions"]
    assert [one["version"] for one in logged] == [version]
    assert logged[0]["parent"] is None
    assert version[:12] in run("log", store).stdout


def test_verify(run, store):
    assert run("verify", store).exit_code == 0
    report = json.loads(run("verify", store, "--json").stdout)
    assert (report["ok"], report["atoms"], report["problems"]) == (True, 4, [])


def test_verify_finds_a_flipped_bit(run, store):
    segment = Store.open(store).manifest.segments[0].sha256
    path = store / "objects" / segment[:2] / segment
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    result = run("verify", store)
    assert result.exit_code == 3
    assert segment[:12] in result.stdout
    told = run("verify", store, "--json")
    assert told.exit_code == 3
    assert json.loads(told.stdout)["ok"] is False


def test_damaged_head_exits_with_3(run, store):
    (store / "HEAD").write_text("rubbish")
    for command in ("verify", "log", "show"):
        result = run(command, store)
        assert result.exit_code == 3
        assert "HEAD" in result.stderr


@pytest.mark.parametrize("command", ["show", "log", "verify"])
def test_what_is_no_store(run, tmp_path, command):
    assert "no such folder" in run(command, tmp_path / "nothing").stderr
    assert "empty folder" in run(command, tmp_path).stderr
    (tmp_path / "file").touch()
    result = run(command, tmp_path / "file")
    assert (result.exit_code, "is a file" in result.stderr) == (1, True)


def test_sample_is_copied(run, tmp_path):
    assert run("sample").stdout.split() == ["kestrin"]
    folder = tmp_path / "here"
    assert json.loads(run("sample", "kestrin", "-o", folder, "--json").stdout)["path"] == str(folder)
    theirs, ours = sample_path("kestrin") / "documents", folder / "documents"
    assert list(read_corpus([theirs])) == list(read_corpus([ours]))
    again = run("sample", "kestrin", "-o", folder)
    assert (again.exit_code, "already exists" in again.stderr) == (2, True)
    unknown = run("sample", "atlantis", "-o", tmp_path / "there")
    assert (unknown.exit_code, "kestrin" in unknown.stderr) == (1, True)
    assert not (tmp_path / "there").exists()


def test_help_is_quick_and_light():
    code = (
        "import sys; from atomlora.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert program("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0  # about 0.1 on an idle machine


def test_process_without_a_store(tmp_path):
    result = program("ask", tmp_path / "nothing", "Who?")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_process_with_wrong_options(tmp_path):
    for arguments in (["ask", tmp_path, "x", "--top-k", "0"], ["magic"], ["ask", tmp_path, ""]):
        result = program(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


def test_process_verifies_a_corrupt_store(store):
    (store / "HEAD").write_text("rubbish")
    result = program("verify", store)
    assert result.returncode == 3
    assert "Traceback" not in result.stderr


def test_reader_of_a_pipe_that_goes_away(store):
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "atomlora", "show", str(store)]
        result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(write)
    assert result.returncode == 1
    assert result.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_process_interrupted_while_it_waits_for_a_question(store):
    command = [sys.executable, "-m", "atomlora", "ask", str(store), "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, text=True, **pipes, **heard) as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert "Traceback" not in process.stderr.read()
