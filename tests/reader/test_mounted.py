"""A mounted reader: the same weights beneath, the base untouched, PEFT's own result; folders that cannot be used."""

import copy
import json
import shutil

import pytest
import torch
from peft import PeftModel

from atomlora.errors import CorruptStoreError, UsageError
from atomlora.reader.folder import ADAPTER_FILE, CONFIG_FILE, RECIPE_FILE, read_folder
from atomlora.reader.mounted import Reader, grounded, view_of
from atomlora.reader.prompts import reader_prompt
from atomlora.reader.registry import reader_for


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


def test_the_base_stays_bare_and_shares_its_weights(base, folder):
    ids = reader_prompt(base.tokenizer, "Who steers ?", "Osk steers .")
    before, names = logits(base.model, ids), list(base.model.state_dict())
    reader = Reader(base, read_folder(folder))
    assert torch.equal(logits(base.model, ids), before)
    assert list(base.model.state_dict()) == names
    shared = {p.data_ptr() for p in base.model.parameters()}
    own = [p for p in reader.base.model.parameters() if p.data_ptr() not in shared]
    assert 0 < sum(p.numel() for p in own) < sum(p.numel() for p in base.model.parameters()) / 2
    assert not torch.allclose(logits(reader.base.model, ids), before, atol=1e-3)


def test_the_view_computes_what_peft_computes(base, folder):
    ids = reader_prompt(base.tokenizer, "Who steers ?", "Osk steers .")
    wanted = PeftModel.from_pretrained(copy.deepcopy(base.model), str(folder)).eval()
    torch.testing.assert_close(logits(Reader(base, read_folder(folder)).base.model, ids), logits(wanted, ids))


def test_a_view_follows_the_base(base):
    view = view_of(base.model)
    assert all(a is b for a, b in zip(view.parameters(), base.model.parameters(), strict=True))
    assert view.model.layers[0] is not base.model.model.layers[0]


def test_a_long_text_loses_its_end(base, folder):
    (reply,) = Reader(base, read_folder(folder)).read(["Who steers ?"], ["Osk steers . " * 60], 4)
    assert reply.truncated
    assert reply.prompt_tokens + 4 <= 64


def test_an_unsure_answer_is_broken_off(base, folder):
    reader = Reader(base, read_folder(folder))
    asked = ["Who steers ?", "Who steers ?"], ["Osk steers .\nPlums grow ."] * 2
    sure, unsure = reader.read(*asked, least=[0.0, 1 - 1e-9])
    assert (sure.text, sure.sure) == ("Osk", True)
    assert not unsure.sure


def test_grounded_means_word_by_word():
    assert grounded("at Nine.", "It leaves at nine, not ten.")
    assert not grounded("ten", "It leaves often.")
    assert not grounded("", "It leaves.")
    assert not grounded("…", "It leaves.")


def test_a_reader_of_another_base_is_refused(other_base, folder):
    with pytest.raises(UsageError, match="num_hidden_layers 3 instead of 2"):
        Reader(other_base, read_folder(folder))


def test_names(base, folder, tmp_path):
    assert reader_for("none", base) is None
    assert reader_for("auto", base) is None  # none is shipped for it
    assert reader_for("auto", base, recorded="none") is None
    reader = reader_for("auto", base, recorded=str(folder))
    assert reader.name == f"little@{read_folder(folder).digest[:12]}"
    assert reader_for(str(folder), base, recorded="none").digest == reader.digest
    with pytest.raises(UsageError, match="compiled with --reader /gone"):
        reader_for("auto", base, recorded="/gone")
    with pytest.raises(UsageError, match=r"reader\.json cannot be read"):
        reader_for(str(tmp_path), base)


def test_damaged_folders(base, folder, tmp_path):
    def copied(name):
        return shutil.copytree(folder, tmp_path / name)

    cut = copied("cut")
    (cut / ADAPTER_FILE).write_bytes((cut / ADAPTER_FILE).read_bytes()[:100])
    with pytest.raises(CorruptStoreError, match="not an adapter"):
        Reader(base, read_folder(cut))
    odd = copied("odd")
    (odd / RECIPE_FILE).write_text("[]")
    with pytest.raises(CorruptStoreError, match=r"reader\.json"):
        read_folder(odd)
    new = copied("new")
    (new / RECIPE_FILE).write_text(json.dumps(json.loads((folder / RECIPE_FILE).read_text()) | {"format": 2}))
    with pytest.raises(UsageError, match="newer than this atomlora"):
        read_folder(new)
    bare = copied("bare")
    (bare / CONFIG_FILE).unlink()
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        read_folder(bare)
