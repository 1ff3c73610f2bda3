"""The figures that sentence tasks are known by."""

import warnings

import numpy as np
from scipy import stats
from sklearn import metrics


def classification_scores(
  labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> dict[str, float]:
  """Returns accuracy, F1 and the Matthews correlation, each in [-1, 1].

  Args:
    labels: integer [N].
    predictions: integer [N].
    num_classes: F1 is that of class 1 for two classes, else the mean over all.

  Example:
    classification_scores([0, 1, 1], [0, 1, 0], 2)['accuracy']  # 0.667
  """
  average = 'binary' if num_classes == 2 else 'macro'
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # One class only: 0 by definition.
    return {
      'accuracy': float(metrics.accuracy_score(labels, predictions)),
      'f1': float(
        metrics.f1_score(
          labels,
          predictions,
          average=average,
          labels=None if num_classes == 2 else list(range(num_classes)),
          zero_division=0,
        )
      ),
      'matthews_corrcoef': float(
        metrics.matthews_corrcoef(labels, predictions)
      ),
    }


def regression_scores(
  labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
  """Returns Pearson's and Spearman's correlation and their mean.

  A constant prediction correlates with nothing: 0.

  Args:
    labels: float [N].
    predictions: float [N].
  """
  if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
    pearson = spearman = 0.0
  else:
    pearson = float(stats.pearsonr(predictions, labels)[0])
    spearman = float(stats.spearmanr(predictions, labels)[0])
  return {
    'pearson': pearson,
    'spearman': spearman,
    'pearson_spearman_corr': (pearson + spearman) / 2,
  }
