"""Mixup: which pairs, which share, and when there is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protokern.config.train import TrainConfig
from protokern.losses import mixed_cross_entropy
from protokern.train import step as step_module
from protokern.train.loop import train
from protokern.train.step import mix, mixup_of

from .toy import pool_config, toy_config, toy_run

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_without_mixup_the_batch_is_itself_and_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    images, labels = mix(IMAGES, LABELS, 0.0)
    assert images is IMAGES
    assert labels.own is LABELS
    assert labels.mixed_in is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 4.0])
def test_a_batch_of_one_image_stays_as_it_is(alpha) -> None:
    for _ in range(20):
        images, labels = mix(IMAGES[:1], LABELS[:1], alpha)
        assert torch.equal(images, IMAGES[:1])
        logits = torch.randn(1, 3)
        assert torch.equal(mixed_cross_entropy(logits, labels), F.cross_entropy(logits, LABELS[:1]))


def test_images_and_labels_are_mixed_in_the_same_pairs_by_the_same_share() -> None:
    torch.manual_seed(3)
    images, labels = mix(IMAGES, LABELS, 0.5)
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    other = torch.randperm(5)
    assert labels.share == share
    assert 0 < share < 1
    assert labels.own.tolist() == LABELS.tolist()
    assert labels.mixed_in.tolist() == LABELS[other].tolist()
    torch.testing.assert_close(images, share * IMAGES + (1 - share) * IMAGES[other])


def test_share_and_pairs_depend_on_the_run_s_generator_alone() -> None:
    ends = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images, labels = mix(IMAGES, LABELS, 0.5)
        ends.append((images, labels.share))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] != ends[2][1]


def test_shares_are_of_the_beta_distribution() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([mix(IMAGES, LABELS, 0.5)[1].share for _ in range(2000)])
    # Beta(1/2, 1/2) has mean 1/2, variance 1/8 and fourth central moment 3/128; bounds of five standard errors.
    assert float(shares.mean()) == pytest.approx(1 / 2, abs=5 * (1 / 8 / 2000) ** 0.5)
    assert float(shares.var()) == pytest.approx(1 / 8, abs=5 * ((3 / 128 - 1 / 64) / 2000) ** 0.5)


def test_images_keep_their_memory_format() -> None:
    images, _ = mix(IMAGES.to(memory_format=torch.channels_last), LABELS, 0.5)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("config", "mixup", "alpha"),
    [
        (toy_config(), "auto", 0.0),
        (pool_config(), "auto", 0.5),
        (toy_config(), 0.3, 0.3),
        (pool_config(), 0.0, 0.0),
    ],
    ids=["net-auto", "pool-auto", "net-0.3", "pool-0"],
)
def test_mixup_is_as_told_or_as_in_the_paper_of_the_model(tmp_path, config, mixup, alpha) -> None:
    assert mixup_of(toy_run(tmp_path, config).model, TrainConfig(mixup=mixup)) == alpha


def test_a_run_mixes_every_batch_with_that_parameter(tmp_path, monkeypatch) -> None:
    alphas = []

    def noted(images, labels, alpha):
        alphas.append(alpha)
        return mix(images, labels, alpha)

    monkeypatch.setattr(step_module, "mix", noted)
    list(train(toy_run(tmp_path, pool_config(joint_epochs=1, hardening_epochs=1))))
    assert alphas == [0.5] * 3 * 4
