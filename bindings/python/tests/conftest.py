"""Models and inputs that the tests share."""

import pathlib

import numpy as np
import pytest

MODELS = pathlib.Path(__file__).resolve().parents[3] / "models"


@pytest.fixture(scope="session")
def mlp():
    """A classifier of images, with a symbolic batch."""
    return str(MODELS / "fmnist-mlp.onnx")


@pytest.fixture(scope="session")
def images():
    """Eight images."""
    return np.load(MODELS / "fmnist-mlp.inputs.npz")["image"]


@pytest.fixture(scope="session")
def logits():
    """What the model makes of them in f32."""
    return np.load(MODELS / "fmnist-mlp.outputs.npz")["logits"]
