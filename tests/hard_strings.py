"""Strings that tell one tokenizer from another."""

# What a tokenizer can trip over.
HARD_STRINGS = (
  '',
  ' ',
  'Éléphant, naïve coöperation; Ångström İstanbul ǅ',
  'e\u0301 decomposed, ﬁ ligature, ½ ⅷ',
  '中文字符 mixed 日本語テキスト 한국어',
  'Ελληνικά Кириллица עברית العربية हिन्दी ไทย',
  '😀😃 family 👨‍👩‍👧‍👦 flag 🇩🇪',
  'tab\tnew\nline\rreturn\u00a0no-break\u2003em\u200bzero\ufeffwidth',
  'null\x00 bell\x07 escape\x1b delete\x7f private\ue000',
  'a' * 100,
  'B' * 101,
  'x' * 1000,
  '-' * 100,
  '[CLS] [MASK] [SEP] [PAD] [UNK] [mask]',
  "don't stop-me @user #tag $5.00 100% a_b C++ ``quoted''",
  '##ing ## # ##',
  '\u0301leading accent, trailing accent\u0301',
  '\U0001d54f \U0010ffff \ufffd',
)
