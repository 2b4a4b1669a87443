"""Which layers the options `--layers` and `--targets` mean."""

import pytest

from atomlora.errors import UsageError
from atomlora.settings import AdapterSettings
from atomlora.training.shape import late_blocks, resolve_targets


@pytest.mark.parametrize(
    ("count", "layers", "expected"),
    [
        (30, "late:auto", [25, 26, 27, 28, 29]),
        (12, "late:auto", [10, 11]),
        (2, "late:auto", [1]),
        (30, "late:2", [28, 29]),
        (3, "late:3", [0, 1, 2]),
        (30, "29", [29]),
        (30, "29,27, 28", [27, 28, 29]),
    ],
)
def test_good_layers(count, layers, expected):
    assert late_blocks(count, layers) == expected


@pytest.mark.parametrize(
    "layers",
    ["late:0", "late:4", "late:-1", "late:x", "late:", "", "0,2", "0,1", "3", "-1,0,1,2", "two", "1.5", "late"],
)
def test_bad_layers_name_the_option(layers):
    with pytest.raises(UsageError) as error:
        late_blocks(3, layers)
    assert f"--layers {layers}" in str(error.value)
    assert "late:N with N from 1 to 3" in str(error.value)


def test_targets_block_by_block_with_their_sizes(llama, targets):
    found = resolve_targets(llama, AdapterSettings(layers="late:2"))
    assert found == targets
    attention = resolve_targets(llama, AdapterSettings(layers="2", targets=("k_proj", "self_attn.o_proj")))
    assert [(t.layer, t.module, t.d_in, t.d_out) for t in attention] == [
        (2, "self_attn.k_proj", 32, 16),
        (2, "self_attn.o_proj", 32, 32),
    ]


@pytest.mark.parametrize("name", ["fc1", "proj", "mlp"])
def test_unknown_target_names_the_option_and_the_choice(llama, name):
    with pytest.raises(UsageError) as error:
        resolve_targets(llama, AdapterSettings(targets=("up_proj", name)))
    assert f"--targets {name}" in str(error.value)
    assert "down_proj, gate_proj, k_proj" in str(error.value)
