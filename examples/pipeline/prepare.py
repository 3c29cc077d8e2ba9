"""Write the diabetes data as two tables: data/train.csv and data/test.csv."""

import argparse
from pathlib import Path

import numpy
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=float, required=True)
options = parser.parse_args()

data, target = load_diabetes(return_X_y=True)
table = numpy.column_stack((data, target))[: int(options.rows)]
Path("data").mkdir()
for name, rows in zip(("train", "test"), train_test_split(table, random_state=0)):
    numpy.savetxt(f"data/{name}.csv", rows, delimiter=",", fmt="%.6f")
    print(f"data/{name}.csv: {len(rows)} rows")
