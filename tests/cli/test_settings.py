from __future__ import annotations

import pytest

from protokern.cli.main import main


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["settings", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_keys_that_begin_so_are_printed_with_default_values_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert printed(capsys, "train.live_l") == [
        "[train]",
        'train.live_lr = "auto"  # a number or "auto"',
        '    learning rate of the add-on layers in the live epochs; "auto": a',
        "    tenth of `add_on_lr` after a push, `add_on_lr` without warm and",
        "    joint epochs. It falls linearly to zero, and so does",
        "    `live_last_layer_lr`.",
        "train.live_last_layer_lr = 0.001  # a number",
        "    learning rate of the last layer in the live epochs; 0: it does not",
        "    learn.",
    ]


def test_keys_that_share_a_sentence_stand_together(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "step_")
    assert lines == [
        "[train]",
        "train.step_size = 5  # a whole number",
        "train.step_gamma = 0.1  # a number",
        '    with schedule "step": epochs between two steps, and the factor of a step.',
    ]


def test_each_model_has_a_heading_and_a_key_without_default_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "model")
    headings = [line for line in lines if line.startswith("[")]
    assert headings == [
        "[model]",
        *(f'[model] with name = "{name}"' for name in ("protopnet", "protopool", "prototree", "tesnet", "pipnet")),
    ]
    assert "model.backbone_stage is not set  # a whole number" in lines


def test_without_a_prefix_all_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    headings = [line for line in printed(capsys) if line.startswith("[")]
    assert [line for line in headings if "name" not in line] == ["[model]", "[data]", "[train]", "[prune]"]


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("trian.seed", "Did you mean train.seed?"),
        ("batchsize", "Did you mean batch_size?"),
        ("zzz", "Leave it out to see all."),
    ],
)
def test_a_prefix_of_nothing_is_a_mistake(prefix: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", prefix]) == 2
    wanted = f"protokern settings: PREFIX: must be the beginning of a setting; got {prefix!r}. {hint}\n"
    assert capsys.readouterr().err == wanted


def test_the_help_of_train_points_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "'protokern settings'" in capsys.readouterr().out
