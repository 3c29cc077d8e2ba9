"""Measure model.joblib on features/test.npz: metrics.json."""

import json

import joblib
import numpy
from sklearn.metrics import mean_absolute_error, r2_score

test = numpy.load("features/test.npz")
predicted = joblib.load("model.joblib").predict(test["features"])
metrics = {
    "mean_absolute_error": round(mean_absolute_error(test["target"], predicted), 3),
    "r2": round(r2_score(test["target"], predicted), 3),
}
with open("metrics.json", "w") as file:
    json.dump(metrics, file, indent=2)
    file.write("\n")
print("evaluated")
