"""Write the diabetes data that scikit-learn brings as two tables: data/train.csv, data/test.csv."""

from pathlib import Path

import numpy
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

features, target = load_diabetes(return_X_y=True)
table = numpy.column_stack((features, target))

Path("data").mkdir(exist_ok=True)
for name, rows in zip(("train", "test"), train_test_split(table, random_state=0)):
    numpy.savetxt(f"data/{name}.csv", rows, delimiter=",", fmt="%.6f")
    print(f"data/{name}.csv: {len(rows)} rows")
