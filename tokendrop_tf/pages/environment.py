"""The machine and the versions that results are of."""

import importlib.metadata
import os
import platform

import tokendrop_tf


def machine() -> dict[str, str]:
  """Returns the machine that the runs ran on."""
  cores = (
    len(os.sched_getaffinity(0))
    if hasattr(os, 'sched_getaffinity')
    else os.cpu_count() or 1
  )
  return {
    'processor': _processor(),
    'cores': str(cores),
    'system': f'{platform.system()} {platform.release()}',
    'device': 'CPU',
  }


def _processor() -> str:
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      for line in file:
        if line.startswith('model name'):
          return line.split(':', 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
  """Returns the versions that a result depends on."""
  names = (
    'tensorflow',
    'tf-keras',
    'tf-models-official',
    'tensorflow-text',
    'numpy',
  )
  return {
    'tokendrop_tf': tokendrop_tf.__version__,
    **{name: importlib.metadata.version(name) for name in names},
    'Python': platform.python_version(),
  }
