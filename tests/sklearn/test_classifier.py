"""`PrototypeClassifier` keeps scikit-learn's promises, and trains on images, maps and plain features."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'protokern[sklearn]'")

from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from protokern.errors import ConfigError, MissingPackageError
from protokern.explain.shown import Explanation
from protokern.features import FeatureStore, FeatureWriter, Fingerprint
from protokern.models.base import vectors_of
from protokern.sklearn import PrototypeClassifier, compute_maps

SMALL: dict[str, Any] = {"prototype_dim": 8, "epochs": 2, "random_state": 0}


def small(**settings: Any) -> PrototypeClassifier:
    return PrototypeClassifier(**(SMALL | settings))


# Every check applies; scikit-learn itself skips what needs pandas or SCIPY_ARRAY_API.
@pytest.mark.slow
@parametrize_with_checks([PrototypeClassifier(**SMALL)])
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def make_maps(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Maps of noise in which one patch points where its class says."""
    rng = np.random.default_rng(0)
    labels = np.array(["left", "right"])[rng.integers(0, 2, count)]
    maps = rng.normal(0, 0.3, (count, 6, 3, 4)).astype(np.float32)
    for one, label in zip(maps, labels, strict=True):
        one[:, rng.integers(3), rng.integers(4)] = np.eye(6)[0 if label == "left" else 1] * 4
    return maps, labels


def test_maps_are_learnt_and_prototypes_are_patches_of_their_rows() -> None:
    maps, labels = make_maps()
    classifier = small().fit(maps[:30], labels[:30])
    assert list(classifier.classes_) == ["left", "right"]
    assert classifier.score(maps[30:], labels[30:]) == 1.0
    assert classifier.predict_proba(maps).sum(axis=1) == pytest.approx(1.0)
    of_class = classifier.model_.class_identity.argmax(dim=1).numpy()
    rows, patches = classifier.prototype_rows_, classifier.prototype_patches_
    assert list(labels[:30][rows]) == list(classifier.classes_[of_class])
    with torch.no_grad():
        features = classifier.model_.features(torch.from_numpy(maps[rows]), "maps").flatten(2)  # (P, D, N)
    own = features[torch.arange(len(rows)), :, torch.from_numpy(patches)]
    torch.testing.assert_close(own, vectors_of(classifier.model_).detach(), atol=1e-6, rtol=0)


def test_a_store_of_features_is_the_same_as_its_maps(tmp_path: Path) -> None:
    maps, labels = make_maps()
    codes = np.unique(labels, return_inverse=True)[1]
    with FeatureWriter(tmp_path, Fingerprint(weights="", transform="", files=""), images=len(maps)) as writer:
        writer.append(torch.from_numpy(maps), torch.from_numpy(codes))
    store = FeatureStore.open(tmp_path)
    of_store, of_maps = small().fit(store, labels), small().fit(maps, labels)
    # A store's maps lie in memory in another way, so convolutions round differently.
    np.testing.assert_allclose(of_store.predict_proba(store), of_maps.predict_proba(maps), atol=1e-4)


def test_the_same_seed_gives_the_same_numbers_and_leaves_those_of_the_program_alone() -> None:
    maps, labels = make_maps()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    of_numpy = np.random.random()
    np.random.seed(5)
    first = small().fit(maps, labels).predict_proba(maps)
    assert torch.equal(torch.rand(3), wanted)
    assert np.random.random() == of_numpy
    assert np.array_equal(small().fit(maps, labels).predict_proba(maps), first)
    assert not np.array_equal(small(random_state=1).fit(maps, labels).predict_proba(maps), first)


def test_it_is_validated_searched_and_piped_like_any_estimator() -> None:
    features, labels = load_iris(return_X_y=True)
    net = make_pipeline(StandardScaler(), small())
    assert cross_val_score(net, features[:100], labels[:100], cv=2).mean() >= 0.95  # of two classes that are apart
    search = GridSearchCV(small(), {"prototypes_per_class": [1, 2]}, cv=2).fit(*make_maps())
    assert search.best_estimator_.model_.num_prototypes in (2, 4)
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()


def test_images_in_any_form_are_learnt_and_explained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["red", "blue"] * 6)
    photos = rng.integers(0, 60, (12, 40, 40, 3), dtype=np.uint8)
    for photo, label in zip(photos, labels, strict=True):
        photo[8:24, 8:24, 0 if label == "red" else 2] = 255
    paths = [str(tmp_path / f"{number}.png") for number in range(12)]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    made = {"backbone": "tiny", "image_size": 32, "settings": ("model.weights=none", "model.salience_stage=none")}
    classifier = small(**made).fit(paths, labels)
    assert classifier.score(paths, labels) == 1.0
    pictures = [Image.fromarray(photo) for photo in photos]
    for form in (photos, pictures, [Path(path) for path in paths]):
        assert np.array_equal(classifier.predict_proba(form), classifier.predict_proba(paths))
    explanation = classifier.net_.explain(paths[0])
    assert isinstance(explanation, Explanation)
    assert explanation.predicted_class == "red"
    assert explanation.probabilities == pytest.approx(classifier.predict_proba(paths[:1])[0][[0, 1]], abs=1e-2)
    with pytest.raises(ValueError, match="X: must be images, as in fit; got features"):
        classifier.predict(np.zeros((2, 5)))


def test_a_trained_classifier_can_be_pickled_with_its_numbers() -> None:
    maps, labels = make_maps()
    classifier = small().fit(maps, labels)
    assert np.array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(maps), classifier.predict_proba(maps))


def test_few_rows_of_a_class_are_enough() -> None:
    maps, labels = make_maps(3)
    labels[:] = ["left", "right", "right"]
    classifier = small().fit(maps, labels)
    assert classifier.predict(maps).shape == (3,)
    assert set(classifier.prototype_rows_) <= {0, 1, 2}


def test_what_cannot_be_used_is_refused() -> None:
    maps, labels = make_maps(6)
    with pytest.raises(ValueError, match=r"X: must be images, features .*; got an array of shape \(6, 6, 12\)"):
        small().fit(maps.reshape(6, 6, 12), labels)
    with pytest.raises(ConfigError, match=r"train\.live_epochs"):
        small(epochs=-1).fit(maps, labels)
    with pytest.raises(ConfigError, match=r"train\.add_on_lrr"):
        small(settings=("train.add_on_lrr=1",)).fit(maps, labels)
    with pytest.raises(ValueError, match="y: must be one label for each of 1 rows"):
        small().fit(["a.png"], ["a", "b"])
    with pytest.raises(AttributeError, match="net_: is there only if the classifier was fitted on images"):
        _ = small().fit(maps, labels).net_


def test_maps_may_be_computed_ahead() -> None:
    photos = np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), dtype=np.uint8)
    maps = compute_maps(photos, image_size=64)
    assert maps.shape == (3, 1280, 2, 2)
    assert maps.dtype == np.float16
    assert np.isfinite(maps.astype(np.float32)).all()


def test_without_scikit_learn_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("protokern.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("protokern.errors.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"scikit-learn: must be installed .* 'protokern\[sklearn\]'"):
        import protokern.sklearn  # noqa: F401
