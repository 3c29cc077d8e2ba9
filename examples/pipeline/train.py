"""Train a ridge regression on features/train.npz: model.joblib."""

import argparse

import joblib
import numpy
from sklearn.linear_model import Ridge

parser = argparse.ArgumentParser()
parser.add_argument("--alpha", type=float, required=True)
options = parser.parse_args()

train = numpy.load("features/train.npz")
model = Ridge(alpha=options.alpha).fit(train["features"], train["target"])
joblib.dump(model, "model.joblib")
print(f"trained with alpha={options.alpha}")
