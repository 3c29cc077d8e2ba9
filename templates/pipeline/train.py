"""Train a ridge regression on data/train.csv: model.joblib."""

import argparse

import joblib
import numpy
from sklearn.linear_model import Ridge

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--alpha", type=float, default=1.0, help="how much large weights cost")
options = parser.parse_args()

table = numpy.loadtxt("data/train.csv", delimiter=",")
joblib.dump(Ridge(alpha=options.alpha).fit(table[:, :-1], table[:, -1]), "model.joblib")
print(f"trained with alpha={options.alpha}")
