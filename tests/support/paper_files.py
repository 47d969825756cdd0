"""Three users' lines in the files of He et al. 2017."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

PAIRS = [(0, 0), (0, 1), (1, 2), (1, 5), (2, 3)]
POSITIVES = ["0\t2\t5\t978824351", "1\t0\t3\t978300174", "2\t4\t4\t978298504"]
NEGATIVES = ["(0,2)\t3\t4", "(1,0)\t1\t3", "(2,4)\t0\t1"]


def written(folder: Path, pairs=PAIRS, positives=POSITIVES, negatives=NEGATIVES) -> Path:
    pd.DataFrame(pairs, columns=["user", "item"], dtype="int32").to_parquet(folder / "train_pairs.parquet")
    (folder / "ml-1m.test.rating").write_text("\n".join(positives) + "\n")
    (folder / "ml-1m.test.negative").write_text("\n".join(negatives) + "\n")
    return folder
