"""Method galore: a base of its own that reads without an adapter; what its optimizer keeps; what is refused."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from atomlora.bases import blocks, linear_layers, load_base
from atomlora.errors import AtomLoraError, UsageError
from atomlora.reader.checkpoint import FILE
from atomlora.reader.examples import load_examples
from atomlora.reader.folder import ADAPTER_FILE, RECIPE_FILE, read_folder
from atomlora.reader.galore import state_bytes
from atomlora.reader.methods import trained_weights
from atomlora.reader.mounted import Reader
from atomlora.reader.registry import reader_for
from atomlora.reader.training import adapt


@pytest.fixture(scope="module")
def galore(fast):
    pytest.importorskip("pytorch_optimizer")
    return fast.model_copy(update={"method": "galore"})


@pytest.fixture(scope="module")
def made(tmp_path_factory, base_folder, data, galore):
    """A base that learnt its examples, and the report."""
    out = tmp_path_factory.mktemp("whole") / "grown"
    return out, adapt(data, out, base_folder, galore, "cpu")


def test_it_reads_by_itself(made, base, data):
    out, report = made
    grown = load_base(str(out), "cpu")
    reader = reader_for("auto", grown)
    assert reader.base is grown  # no second view, no adapter
    assert reader.name == f"grown@{grown.fingerprint[:12]}"
    examples = load_examples(data)
    replies = reader.read([one.question for one in examples], [one.text for one in examples])
    assert [reply.text for reply in replies] == [one.answer for one in examples]
    assert reader_for(str(out), grown).digest == reader.digest
    assert reader_for("none", grown) is None
    assert report.fingerprint == grown.fingerprint != base.fingerprint
    recipe = read_folder(out).recipe
    assert (recipe.base.fingerprint, recipe.made_from.fingerprint) == (grown.fingerprint, base.fingerprint)


def test_the_folder_is_a_whole_base(made):
    out, _ = made
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", RECIPE_FILE} <= names
    assert not names & {ADAPTER_FILE, FILE}
    assert [path.name for path in out.parent.iterdir()] == ["grown"]  # and what it was written in is gone
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float16}


def test_only_the_chosen_linear_layers_change(base, base_folder, data, tmp_path, galore):
    settings = galore.model_copy(update={"layers": "late:1", "targets": ("q_proj", "down_proj"), "steps": 3})
    adapt(data, tmp_path / "r", base_folder, settings, "cpu")
    before, after = base.model.state_dict(), load_base(str(tmp_path / "r"), "cpu").model.state_dict()
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=2e-3)}
    assert changed == {"model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"}
    difference = after["model.layers.1.self_attn.q_proj.weight"] - before["model.layers.1.self_attn.q_proj.weight"]
    # Rounding to float16 aside, three steps within one projection are of its rank.
    assert torch.linalg.svdvals(difference)[galore.rank] < 1e-2 * torch.linalg.svdvals(difference)[0]


def test_its_optimizer_keeps_less_than_adam(made, base, galore):
    _, report = made
    shapes = [tuple(module.weight.shape) for block in blocks(base.model) for module in linear_layers(block).values()]
    assert report.parameters == sum(rows * columns for rows, columns in shapes)
    # Of each matrix two moments and a projection, in float32.
    assert report.optimizer_bytes == sum(4 * galore.rank * (2 * max(shape) + min(shape)) for shape in shapes)
    assert report.optimizer_bytes < 2 * 4 * report.parameters / 2


def test_bytes_are_those_of_the_state(base_folder, galore):
    learning = trained_weights(load_base(base_folder, "cpu"), galore, False)
    assert state_bytes(learning.optimizer) == 0
    weights = list(learning.parameters.values())
    adam = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    adam.step()
    assert state_bytes(adam) == sum(2 * 4 * weight.numel() + 4 for weight in weights)  # and a step each


def test_an_interrupted_run_ends_as_an_uninterrupted_one(base_folder, data, tmp_path, galore):
    settings = galore.model_copy(update={"epochs": 6, "projection_gap": 4})
    adapt(data, tmp_path / "whole", base_folder, settings, "cpu")

    def stop(progress):
        if progress.steps == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(data, tmp_path / "stopped", base_folder, settings, "cpu", stop)
    assert (tmp_path / "stopped" / FILE).exists()
    steps = []
    adapt(data, tmp_path / "stopped", base_folder, settings, "cpu", lambda progress: steps.append(progress.steps))
    assert steps[0] == 6
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_what_cannot_be_written_leaves_the_checkpoint(base_folder, data, tmp_path, galore, monkeypatch):
    """A full disk when the base is written costs nothing but the time since the last checkpoint."""

    def stop(progress):
        if progress.steps == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(data, tmp_path / "r", base_folder, galore, "cpu", stop)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atomlora.reader.whole.load_base", full)
    with pytest.raises(OSError, match="No space"):
        adapt(data, tmp_path / "r", base_folder, galore, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert [path.name for path in (tmp_path / "r").iterdir()] == [FILE]


def test_another_base_does_not_read_by_it(made, base, other_base):
    out, _ = made
    for other, message in ((base, f"--base {out}"), (other_base, "num_hidden_layers 3 instead of 2")):
        with pytest.raises(UsageError, match=message):
            Reader(other, read_folder(out))
    assert reader_for("auto", base) is None


def test_a_base_whose_weights_were_exchanged_is_not_taken_for_a_reader(made, base_folder, tmp_path):
    out, _ = made
    load_base(base_folder, "cpu").model.save_pretrained(tmp_path)
    load_base(base_folder, "cpu").tokenizer.save_pretrained(tmp_path)
    (tmp_path / RECIPE_FILE).write_bytes((out / RECIPE_FILE).read_bytes())
    assert reader_for("auto", load_base(str(tmp_path), "cpu")) is None


@pytest.mark.parametrize(("change", "start"), [({"alpha": 8.0}, False), ({"lora_plus": 4.0}, False), ({}, True)])
def test_an_adapters_settings_are_refused(base_folder, data, folder, tmp_path, fast, change, start):
    settings = fast.model_copy(update={"method": "galore", **change})
    with pytest.raises(UsageError, match="is an adapter's; leave it out with --method galore"):
        adapt(data, tmp_path / "r", base_folder, settings, "cpu", start=folder if start else None)


def test_a_quantised_base_cannot_be_trained_as_a_whole(data, tmp_path, fast):
    with pytest.raises(UsageError, match="quantised"):
        adapt(data, tmp_path / "r", "some-base+nf4", fast.model_copy(update={"method": "galore"}), "cpu")


def test_without_its_package_the_extra_is_named(base_folder, data, tmp_path, fast, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer.optimizer.galore", None)
    with pytest.raises(AtomLoraError, match=r"atomlora\[galore\]"):
        adapt(data, tmp_path / "r", base_folder, fast.model_copy(update={"method": "galore"}), "cpu")
    assert not (tmp_path / "r").exists()


def test_a_newer_recipe_is_refused(made, tmp_path):
    out, _ = made
    recipe = json.loads((out / RECIPE_FILE).read_text()) | {"format": 2}
    (tmp_path / RECIPE_FILE).write_text(json.dumps(recipe))
    with pytest.raises(UsageError, match="newer than this atomlora"):
        read_folder(tmp_path)
