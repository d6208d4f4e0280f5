"""Results of several seeds as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.fvd import over_seeds


def combine(results: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Join results of `evals.run.evaluate`: the mean over the seeds, with a Student-t interval over them.

    All else is of the first seed; what is measured with one seed alone stays as it is.
    """
    first = results[0]
    metrics = {}
    for name, entry in first["metrics"].items():
        values = [result["metrics"][name]["mean"] for result in results if name in result["metrics"]]
        if len(values) > 1:
            mean, half = over_seeds(values)
            entry = {**entry, "mean": mean, "ci95": half, "interval": "Student t over seeds",
                     "seeds": {"seeds": list(seeds), "values": values, "std": float(np.std(values, ddof=1))}}
        metrics[name] = entry
    warnings = list(dict.fromkeys(words for result in results for words in result["warnings"]))
    return {**first, "metrics": metrics, "warnings": warnings}
