"""Measure model.joblib on data/test.csv: metrics.json, and predictions.png to look at."""

import json

import joblib
import matplotlib
import numpy
from sklearn.metrics import mean_absolute_error, r2_score

matplotlib.use("Agg")  # draws without a screen
from matplotlib import pyplot

table = numpy.loadtxt("data/test.csv", delimiter=",")
target = table[:, -1]
predicted = joblib.load("model.joblib").predict(table[:, :-1])

metrics = {
    "mean_absolute_error": round(mean_absolute_error(target, predicted), 3),
    "r2": round(r2_score(target, predicted), 3),
}
with open("metrics.json", "w") as file:
    file.write(json.dumps(metrics, indent=2) + "\n")

figure, axes = pyplot.subplots(figsize=(5, 5), layout="constrained")
axes.scatter(target, predicted, s=12)
axes.axline((target.mean(), target.mean()), slope=1, color="grey", linewidth=1)
axes.set(xlabel="measured", ylabel="predicted", title=f"r2 = {metrics['r2']}")
figure.savefig("predictions.png", dpi=120)
print("evaluated")
