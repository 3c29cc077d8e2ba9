"""Scale the columns of data/*.csv and add their products: features/*.npz."""

from pathlib import Path

import numpy
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

tables = {name: numpy.loadtxt(f"data/{name}.csv", delimiter=",") for name in ("train", "test")}
transform = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False))
transform.fit(tables["train"][:, :-1])

Path("features").mkdir()
for name, table in tables.items():
    features = transform.transform(table[:, :-1])
    numpy.savez(f"features/{name}.npz", features=features, target=table[:, -1])
    print(f"features/{name}.npz: {features.shape[1]} columns")
