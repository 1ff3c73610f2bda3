"""BERT's text normalisation and word splitting as one table of characters.

Before WordPiece, BERT cleans a text, puts spaces around Chinese characters,
strips accents, lower-cases, and splits words at white space and punctuation.
All of it maps one character at a time. The table is read from the `tokenizers`
library, so ids are those of Hugging Face's fast tokenizers; tensorflow-text
applies it in any graph, at the speed of its own normalizer.

One thing is not a matter of single characters: stripping accents brings
combining marks of one letter into Unicode's canonical order. The marks that
remain afterwards keep the order of the text here. They occur in musical
notation and in scripts added to Unicode since 2015.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import flatbuffers
import numpy as np

_CODE_POINTS = 0x110000
# Runs of 16 ideographs are treated alike, and so are all private characters.
_IDEOGRAPHS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0x20000, 0x2F800))
_PRIVATE = ((0xE000, 0xF900), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))
# Beyond these there are no characters that are changed.
_OTHERS = (
  *((0, 0x3400), (0x4DC0, 0x4E00), (0xA000, 0xD800), (0xE000, 0xE001)),
  *((0xF900, 0x20000), (0x2F800, 0x30000), (0xE0000, 0xE1000)),
)
# In a unit of the trie: a number stands behind it.
_HAS_LEAF = 0x100
# Unassigned: no normalizer changes it, and it joins letters into a word.
_SEPARATOR = '\U00040000'


def normalizer(settings):
  """Returns the `tokenizers` normalizer of `TokenizationSettings`."""
  # Imported here because it is needed only to build a tokenizer.
  import tokenizers  # pylint: disable=import-outside-toplevel

  return tokenizers.normalizers.BertNormalizer(
    clean_text=settings.clean_text,
    handle_chinese_chars=settings.split_chinese,
    strip_accents=settings.strip_accents,
    lowercase=settings.lower_case,
  )


def replacements(settings, codes: Iterable[int]) -> list[str]:
  """Returns the texts that the code points become.

  White space becomes a space, and a character that is a word of its own gets a
  space on either side.
  """
  text = _SEPARATOR.join(map(chr, codes))
  normal = normalizer(settings).normalize_str(text)
  spaced = _spaced_characters(set(normal))
  return normal.translate(spaced).split(_SEPARATOR)


def _spaced_characters(characters: set[str]) -> dict[int, str]:
  """Returns what becomes of white space and of punctuation, by code point."""
  import tokenizers  # pylint: disable=import-outside-toplevel

  # Each between letters, which it joins or parts.
  text = ''.join(f'a{character}' for character in sorted(characters)) + 'a'
  words = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)
  spaced, end = {}, 0
  for word, (begin, next_end) in words:
    if begin > end:
      spaced[ord(text[end])] = ' '
    if begin % 2:
      spaced[ord(word)] = f' {word} '
    end = next_end
  return spaced


def accents(settings) -> list[int]:
  """Returns the code points that stripping accents removes, ascending."""
  if not settings.strip_accents:
    return []
  codes = [code for part in _OTHERS for code in range(*part)]
  alone = dataclasses.replace(
    settings, clean_text=False, split_chinese=False, lower_case=False
  )
  texts = replacements(alone, codes)
  return [code for code, text in zip(codes, texts, strict=True) if not text]


@functools.lru_cache(maxsize=4)
def normalizer_model(settings) -> np.ndarray:
  """Returns the table as a model of `tf_text.FastBertNormalizer`, uint8 [n]."""
  leaf_of, leaves, strings = _table(settings)
  builder = flatbuffers.Builder(1 << 21)
  trie = builder.CreateNumpyVector(_trie(leaf_of, leaves))
  pool = builder.CreateNumpyVector(np.frombuffer(strings, np.uint8))
  # The fields of tensorflow-text's fast_bert_normalizer_model.fbs.
  builder.StartObject(4)
  builder.PrependBoolSlot(0, settings.lower_case, False)
  builder.PrependUOffsetTRelativeSlot(1, trie, 0)
  builder.PrependInt32Slot(2, leaves[leaf_of[0]], 0)
  builder.PrependUOffsetTRelativeSlot(3, pool, 0)
  builder.Finish(builder.EndObject())
  return np.frombuffer(bytes(builder.Output()), np.uint8)


def _table(settings) -> tuple[np.ndarray, list[int], bytes]:
  """Returns leaves of code points, int64 [0x110000], leaves, and strings.

  A leaf is a number that `FastBertNormalizer` reads: 0 for no change; else a
  mark, the place of a string among all strings, and its length in bytes.
  """
  leaf_of = np.zeros(_CODE_POINTS, np.int64)
  leaves, known, strings = [0], {}, bytearray(b' ')

  def leaf(text):
    if text not in known:
      # A space that one string ends with begins the next.
      shared = text[:1] == ' ' and strings.endswith(b' ')
      place = len(strings) - shared
      strings.extend(text[shared:].encode())
      known[text] = len(leaves)
      leaves.append(1 << 30 | place << 6 | len(text.encode()))
    return known[text]

  codes = [code for part in _OTHERS for code in range(*part)]
  for code, text in zip(codes, replacements(settings, codes), strict=True):
    if text != chr(code):
      leaf_of[code] = leaf(text)
  firsts = [first for part in _IDEOGRAPHS for first in range(*part, 16)]
  for first, text in zip(firsts, replacements(settings, firsts), strict=True):
    if text != chr(first):
      for code in range(first, first + 16):
        leaf_of[code] = leaf(text.replace(chr(first), chr(code)))
  for begin, end in _PRIVATE:
    leaf_of[begin:end] = leaf_of[_PRIVATE[0][0]]
  return leaf_of, leaves, bytes(strings)


def _trie(leaf_of: np.ndarray, leaves: Sequence[int]) -> np.ndarray:
  """Returns a double-array trie from the UTF-8 of code points to leaves.

  The layout is that of Darts-clone: a unit holds the byte that leads to it and
  the way, by exclusive or, to the units that follow it. A continuation byte is
  one of 64, so units stand in blocks of 64; equal blocks are stored once.

  Args:
    leaf_of: the leaf of every code point, int64 [0x110000]; the first leaf is
      left out.
    leaves: the leaves.

  Returns:
    uint32 [n].
  """
  # The root, the 256 units of first bytes, then the leaves.
  units = [np.array([256 << 10]), np.zeros(511, np.int64)]
  units.append(np.array(leaves) | 1 << 31)
  units.append(np.zeros(-len(leaves) % 64, np.int64))
  last = np.where(leaf_of > 0, 512 + leaf_of, -1)
  third = _add_blocks(units, last, _HAS_LEAF)
  second = _add_blocks(units, third)
  first = _add_blocks(units, np.pad(second, [0, 48], constant_values=-1))
  targets = np.full(256, -1)
  targets[1:0x80] = last[1:0x80]
  targets[0xC2:0xE0] = third[2:0x20]
  targets[0xE0:0xF0] = second[:0x10]
  targets[0xF0:0xF5] = first
  marks = np.where(np.arange(256) < 0x80, _HAS_LEAF, 0)
  units = np.concatenate(units)
  units[256:512] = _units(256, targets, marks, np.arange(256))
  return units.astype(np.uint32)


def _add_blocks(units, targets, mark=0):
  """Appends the blocks of one level; returns the ways to them, -1 for none."""
  rows = targets.reshape(-1, 64)
  is_used = (rows >= 0).any(axis=1)
  position = sum(map(len, units))
  ways, known = np.full(len(rows), -1), {}
  for index in np.flatnonzero(is_used):
    block = rows[index].tobytes()
    if block not in known:
      known[block] = position
      units.append(_units(position, rows[index], mark, np.arange(0x80, 0xC0)))
      position += 64
    ways[index] = known[block] ^ 0x80
  return ways


def _units(begin, targets, marks, labels):
  """Returns units that stand from `begin` on; 0 where there is no target."""
  places = begin + np.arange(len(targets))
  return np.where(targets < 0, 0, (places ^ targets) << 10 | marks | labels)
