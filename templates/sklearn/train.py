"""Train an elastic net on data that scikit-learn brings: model.joblib and metrics.json."""

import argparse
import json

import joblib
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--alpha", type=float, default=0.1, help="how much large weights cost")
parser.add_argument("--l1-ratio", type=float, default=0.5, help="0: squares, 1: absolute values")
options = parser.parse_args()

data, target = load_diabetes(return_X_y=True)
# With a fixed seed the same inputs give the same result, which is what a cache relies on.
train_data, test_data, train_target, test_target = train_test_split(data, target, random_state=0)

model = ElasticNet(alpha=options.alpha, l1_ratio=options.l1_ratio, random_state=0)
model.fit(train_data, train_target)
predicted = model.predict(test_data)

metrics = {
    "rmse": round(mean_squared_error(test_target, predicted) ** 0.5, 3),
    "r2": round(r2_score(test_target, predicted), 3),
}
joblib.dump(model, "model.joblib")
with open("metrics.json", "w") as file:
    json.dump(metrics, file, indent=2)
print(f"alpha={options.alpha} l1_ratio={options.l1_ratio} {metrics}")
