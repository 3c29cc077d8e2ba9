"""Train an elastic net on the diabetes data that scikit-learn brings along."""

import argparse

import joblib
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--alpha", type=float, required=True)
parser.add_argument("--l1-ratio", type=float, required=True)
parser.add_argument("--model", required=True)
options = parser.parse_args()

data, target = load_diabetes(return_X_y=True)
train_data, test_data, train_target, test_target = train_test_split(data, target, random_state=0)

model = ElasticNet(alpha=options.alpha, l1_ratio=options.l1_ratio, random_state=0)
model.fit(train_data, train_target)
predicted = model.predict(test_data)

joblib.dump(model, options.model)
rmse = mean_squared_error(test_target, predicted) ** 0.5
print(f"alpha={options.alpha} l1_ratio={options.l1_ratio}")
print(f"rmse={rmse:.3f} r2={r2_score(test_target, predicted):.3f} model={options.model}")
