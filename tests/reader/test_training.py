"""`adapt`: what it learns, how it is stopped and resumed, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file

from atomlora.bases import load_base
from atomlora.errors import AtomLoraError, BaseModelError, InputError, UsageError
from atomlora.packing import target_nll
from atomlora.reader.checkpoint import FILE
from atomlora.reader.examples import load_examples
from atomlora.reader.files import write_tensors
from atomlora.reader.folder import ADAPTER_FILE, CONFIG_FILE, read_folder
from atomlora.reader.methods import wrap
from atomlora.reader.mounted import Reader
from atomlora.reader.settings import ALL_LINEAR, AdaptSettings
from atomlora.reader.training import adapt, pack_examples


def answers(base, folder, data):
    examples = load_examples(data)
    reader = Reader(base, read_folder(folder))
    read = reader.read([one.question for one in examples], [one.text for one in examples])
    return [reply.text for reply in read], [one.answer for one in examples]


def test_a_reader_answers_what_it_learnt(base, folder, data):
    read, wanted = answers(base, folder, data)
    assert read == wanted
    recipe = read_folder(folder).recipe
    assert recipe.trained["examples"] - recipe.trained["unanswerable"] == 3
    assert recipe.trained["texts"] == 2
    assert recipe.base.fingerprint == base.fingerprint
    assert not (folder / FILE).exists()
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["target_modules"] == sorted(ALL_LINEAR)
    assert config["base_model_name_or_path"] is None  # a folder of this machine


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rslora"},
        {"method": "dora"},
        {"lora_plus": 4.0, "learning_rate": 1e-2},
        {"layers": "late:1", "targets": ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")},
    ],
)
def test_every_method_learns_and_is_mounted(base, base_folder, data, tmp_path, fast, settings):
    adapt(data, tmp_path / "r", base_folder, fast.model_copy(update=settings), "cpu")
    read, wanted = answers(base, tmp_path / "r", data)
    assert read == wanted
    names = load_file(tmp_path / "r" / ADAPTER_FILE)
    assert any("magnitude" in name for name in names) == (settings.get("method") == "dora")
    if "layers" in settings:
        assert {name.split("layers.")[1][0] for name in names} == {"1"}
        assert not any("o_proj" in name for name in names)


@pytest.mark.parametrize(("kind", "package"), [("nf4", "bitsandbytes"), ("int8", "torchao")])
def test_a_quantised_base_is_read_unmerged(wide_folder, data, tmp_path, fast, kind, package):
    """QLoRA: the base stays in few bits, in training and where the reader is mounted."""
    pytest.importorskip(package)
    name = f"{wide_folder}+{kind}"
    adapt(data, tmp_path / "r", name, fast.model_copy(update={"learning_rate": 1e-2}), "cpu")
    quantised = load_base(name, "cpu")
    read, wanted = answers(quantised, tmp_path / "r", data)
    assert read == wanted
    assert read_folder(tmp_path / "r").recipe.base.fingerprint == quantised.fingerprint
    assert quantised.fingerprint != load_base(wide_folder, "cpu").fingerprint


def test_an_interrupted_run_ends_as_an_uninterrupted_one(base_folder, data, tmp_path, fast):
    settings = fast.model_copy(update={"epochs": 6, "lora_plus": 2.0})
    adapt(data, tmp_path / "whole", base_folder, settings, "cpu")
    stopped = tmp_path / "stopped"

    def stop(progress):
        if progress.steps == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(data, stopped, base_folder, settings, "cpu", stop)
    assert (stopped / FILE).exists()
    with pytest.raises(UsageError, match="other settings"):
        adapt(data, stopped, base_folder, settings.model_copy(update={"rank": 8}), "cpu")
    for left in (".tmpAb3dE1", ADAPTER_FILE):  # what was being written when it was killed
        (stopped / left).write_bytes(b"half")
    steps = []
    adapt(data, stopped, base_folder, settings, "cpu", lambda progress: steps.append(progress.steps))
    assert steps[0] == 6  # and the run ends where it would have
    assert not (stopped / FILE).exists()
    whole, resumed = load_file(tmp_path / "whole" / ADAPTER_FILE), load_file(stopped / ADAPTER_FILE)
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    """safetensors' own error is no OSError."""
    path = tmp_path / "new" / "file.safetensors"

    def full(_tensors, place, **_settings):
        Path(place).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(AtomLoraError, match=r"file\.safetensors: cannot be written .*No space left"):
        write_tensors(path, {}, {})
    assert list(path.parent.iterdir()) == []


def test_a_reader_is_trained_further(base, base_folder, folder, data, tmp_path, fast):
    """It begins where that one ended: a step that moves nothing leaves its weights."""
    still = fast.model_copy(update={"steps": 1, "learning_rate": 1e-12})
    adapt(data, tmp_path / "still", base_folder, still, "cpu", start=folder)
    before, after = load_file(folder / ADAPTER_FILE), load_file(tmp_path / "still" / ADAPTER_FILE)
    assert all(before[name].equal(after[name]) for name in before)
    start = read_folder(tmp_path / "still").recipe.trained["start"]
    assert (start["digest"], start["steps"]) == (
        read_folder(folder).digest,
        read_folder(folder).recipe.trained["steps"],
    )
    adapt(data, tmp_path / "on", base_folder, fast.model_copy(update={"steps": 2}), "cpu", start=folder)
    moved = load_file(tmp_path / "on" / ADAPTER_FILE)
    assert not any(before[name].equal(moved[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 8}, "--rank 4"),
        ({"alpha": 2.0}, "--alpha 8"),
        ({"method": "rslora"}, "--method lora"),
        ({"targets": ("q_proj",)}, "--targets q_proj,k_proj"),
        ({"layers": "late:1"}, "--layers all"),
    ],
)
def test_a_reader_of_another_make_is_not_trained_further(base_folder, folder, data, tmp_path, fast, change, message):
    with pytest.raises(UsageError, match=rf"--start .*: goes on with {message}.* only"):
        adapt(data, tmp_path / "r", base_folder, fast.model_copy(update=change), "cpu", start=folder)
    with pytest.raises(UsageError, match=r"--start .*reader\.json cannot be read there"):
        adapt(data, tmp_path / "r", base_folder, fast, "cpu", start=tmp_path)


def test_steps_end_a_run(base_folder, data, tmp_path, fast):
    report = adapt(data, tmp_path / "r", base_folder, fast.model_copy(update={"steps": 3}), "cpu")
    assert report.steps == 3


def test_minutes_end_a_run(base_folder, data, tmp_path, fast):
    settings = fast.model_copy(update={"epochs": 10_000, "minutes": 0.02})
    report = adapt(data, tmp_path / "r", base_folder, settings, "cpu")
    assert 1 <= report.steps < 10_000
    assert report.seconds < 60


def test_what_is_there_is_left_alone(base_folder, data, folder, tmp_path):
    with pytest.raises(UsageError, match="finished reader"):
        adapt(data, folder, base_folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        adapt(data, tmp_path, base_folder)


def test_settings_that_the_base_cannot_have(base, base_folder, data, tmp_path):
    with pytest.raises(UsageError, match=r"--targets x_proj.*gate_proj"):
        wrap(base, AdaptSettings(targets=("x_proj",)))
    with pytest.raises(UsageError, match="--layers late:9"):
        wrap(base, AdaptSettings(layers="late:9"))
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"text": "nine " * 40, "question": "q", "answer": "a"}))
    with pytest.raises(InputError, match="longer than 32 tokens"):
        adapt(long, tmp_path / "r", base_folder, AdaptSettings(max_tokens=32), "cpu")
    assert not (tmp_path / "r").exists()


def test_only_answers_are_in_the_loss(base, data):
    examples = load_examples(data)
    trees, left_out = pack_examples(base.tokenizer, examples, 512, "?")
    assert (len(trees), left_out) == (2, 0)
    wanted = [tree.ids[at] for tree in trees for at in range(len(tree.ids)) if tree.target[at]]
    assert base.tokenizer.decode(wanted) == "nine <|end|> The ferry <|end|> Osk <|end|>"
    assert target_nll(base.model, trees).shape == (len(wanted),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "q", "answer": "a"}', "either 'text' or 'statements'"),
        ('{"text": "t", "statements": ["s"], "question": "q", "answer": "a"}', "either 'text' or 'statements'"),
        ('{"text": "t", "question": "q"}', "'answer' must be text"),
        ('{"statements": [], "question": "q", "answer": "a"}', "'statements' must be a list"),
        ('{"text": "t", "question": "q", "answer": "a", "x": 1}', "'x' is unknown"),
        ("nonsense", "is not JSON"),
        ("", "holds no example"),
    ],
)
def test_bad_examples_are_named(tmp_path, line, message):
    path = tmp_path / "examples.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=message) as caught:
        load_examples(path)
    assert "examples.jsonl" in str(caught.value)
    if line:
        assert "line 1" in str(caught.value)
        assert '"statements": ["…"]' in str(caught.value) or "list of texts" in str(caught.value)


def test_a_damaged_base_and_a_type_that_is_none_are_told(base_folder, tmp_path):
    broken = tmp_path / "base"
    shutil.copytree(base_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base(str(broken), "cpu")
    with pytest.raises(UsageError, match="fp16"):
        load_base(base_folder, "cpu", "fp16")
