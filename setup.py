"""Packaging: what is installed, which versions fit, which commands appear.

The ranges below say what the code is written for. `constraints.txt` pins one
set of versions inside them; `make constraints` resolves it again.
"""

import pathlib
import re
import shutil

import setuptools
from setuptools.command import build_py

ROOT = pathlib.Path(__file__).resolve().parent

INSTALL_REQUIRES = [
  'absl-py>=1.4',
  # The first that can be told not to fall back to a soft lock.
  'filelock>=3.30',
  'flatbuffers>=24.3',
  'gin-config>=0.5,<0.6',
  # The checksum of TFRecords.
  'google-crc32c>=1.6',
  'matplotlib>=3.9',
  'ml-dtypes>=0.5',
  # tensorflow 2.20 was built and tested with numpy up to 2.4.
  'numpy>=2.1,<2.5',
  # The server is this, starlette and uvicorn: small beside TensorFlow.
  'orjson>=3.10',
  'pandas>=2.2',
  'protobuf>=5.28',
  'pyarrow>=18',
  'PyYAML>=6.0',
  'safetensors>=0.5',
  'scikit-learn>=1.5',
  'scipy>=1.13',
  # The Model Garden's TF Hub modules import pkg_resources, gone from 81 on.
  'setuptools<81',
  'starlette>=0.46',
  'tabulate>=0.9',
  'tensorflow>=2.20,<2.21',
  'tensorflow-datasets>=4.9.9',
  'tensorflow-text>=2.20,<2.21',
  'tf-keras>=2.20,<2.21',
  'tf-models-official>=2.20,<2.21',
  'tokenizers>=0.21',
  'tqdm>=4.66',
  'uvicorn>=0.34',
]

EXTRAS_REQUIRE = {
  # The data tools on more than one machine. Beam needs other versions of
  # protobuf and pyarrow, so its tests have their own environment:
  # make test-beam.
  'beam': ['apache-beam>=2.65,<3'],
  # pip and the build tools are pinned too, so that a new release of one cannot
  # break an installation.
  'dev': [
    'hypothesis>=6.100',
    'pip>=25.3',
    'pytest>=8.0',
    'pytest-xdist>=3.6',
    'ruff>=0.14',
    'setuptools-scm>=8.0',
    'wheel>=0.43',
  ],
  # Only for a test of the Hugging Face export: make test-hugging-face.
  'hugging_face': ['torch>=2.4', 'transformers>=5.0'],
  # Its own environment: make install-tpu-compiler. Other versions may read
  # TensorFlow's program differently.
  'tpu_compile': ['jax==0.10.2', 'libtpu==0.0.51'],
}

CONSOLE_SCRIPTS = [
  'tokendrop-train=tokendrop_tf.train:console_main',
  'tokendrop-quickstart=tokendrop_tf.pages.quickstart:console_main',
  'tokendrop-build-vocab=tokendrop_tf.data.build_vocab:console_main',
  'tokendrop-create-pretraining-data='
  'tokendrop_tf.data.create_pretraining_data:console_main',
  'tokendrop-inspect-data=tokendrop_tf.pages.inspect_data:console_main',
  'tokendrop-inspect-run=tokendrop_tf.pages.inspect_run:console_main',
  'tokendrop-export=tokendrop_tf.export.export_command:console_main',
  'tokendrop-score-tokens=tokendrop_tf.export.score_tokens:console_main',
  'tokendrop-fill-mask=tokendrop_tf.serving.fill_mask:console_main',
  'tokendrop-generate=tokendrop_tf.serving.generate:console_main',
  'tokendrop-predict=tokendrop_tf.serving.predict:console_main',
  'tokendrop-serve=tokendrop_tf.serving.serve_command:console_main',
  'tokendrop-sweep=tokendrop_tf.finetuning.sweep:console_main',
  'tokendrop-compare-runs=tokendrop_tf.pages.compare_runs:console_main',
]


def read_version() -> str:
  """Returns the version without importing the package."""
  text = (ROOT / 'tokendrop_tf' / '__init__.py').read_text(encoding='utf-8')
  return re.search(r"__version__ = '([^']+)'", text).group(1)


class BuildWithGinFiles(build_py.build_py):
  """Copies `gin_configs/` into the built package, which looks for it there."""

  def run(self):
    super().run()
    # A checkout that is installed in place has them next to the package.
    if getattr(self, 'editable_mode', False):
      return
    target = pathlib.Path(self.build_lib) / 'tokendrop_tf' / 'gin_configs'
    for source in sorted((ROOT / 'gin_configs').rglob('*.gin')):
      copy = target / source.relative_to(ROOT / 'gin_configs')
      copy.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(source, copy)


setuptools.setup(
  name='tokendrop_tf',
  version=read_version(),
  description=(
    'BERT pretraining with token dropping on the TensorFlow Model Garden'
  ),
  license='Apache-2.0',
  python_requires='>=3.10,<3.14',
  packages=setuptools.find_packages(include=['tokendrop_tf', 'tokendrop_tf.*']),
  package_data={'tokendrop_tf.pages': ['templates/*']},
  install_requires=INSTALL_REQUIRES,
  extras_require=EXTRAS_REQUIRE,
  cmdclass={'build_py': BuildWithGinFiles},
  entry_points={'console_scripts': CONSOLE_SCRIPTS},
  zip_safe=False,
)
