"""Trains a WordPiece vocabulary and counts its tokens: see --help."""

from tokendrop_tf.data import build_vocab

if __name__ == '__main__':
  build_vocab.console_main()
