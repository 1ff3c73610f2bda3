"""Fills in [MASK] with a pretrained model: see --help."""

from tokendrop_tf.serving import fill_mask

if __name__ == '__main__':
  fill_mask.console_main()
