"""The command that compares tokenisation in many scripts; see `main`.

  python -m tools.measure.languages

It prints the table of docs/languages.md. Texts are a few sentences of each
script, mixed; see `generate`.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import tabulate
import tensorflow as tf
import tokenizers

from tokendrop_tf.text import tokenization, vocabulary_training

# A sentence or two of each; everyday words, and what tokenisers trip over.
SENTENCES = {
  'English': (
    'The river rose in the night, and by morning the lower streets stood in '
    'water. "Don\'t cross," she said; 3.5 metres at 7:40!'
  ),
  'German': (
    'Die Straße führt über den großen Fluss; im Frühjahr fließt er schnell. '
    'ÄRGER, Öl und „Übermut“ – ½ Maß kostet 4,50 €.'
  ),
  'French': (
    'L’été, les élèves français déjà reçus à l’école naïve mangeaient des '
    'œufs. Où ça ? Là-bas, près du chêne…'
  ),
  'Polish': (
    'Zażółć gęślą jaźń; w Łodzi świeci słońce, a źrebię śpi. Część dzieci je '
    'ciastka, część pije mleko.'
  ),
  'Turkish': (
    'İstanbul’da ılık bir gün: çocuklar şeker yiyor, IĞDIR’dan öğretmen geldi. '
    'Işık söndü, ağaç büyüdü.'
  ),
  'Vietnamese': (
    'Tiếng Việt có nhiều dấu: người bạn của tôi đọc sách ở Đà Nẵng. Trời đẹp '
    'quá! Hôm nay chúng ta ăn phở.'
  ),
  'Greek': (
    'Ο Οδυσσέας, ο γιος του Λαέρτη, γύρισε στην Ιθάκη· ΟΔΟΣ ΕΡΜΟΥ, ὁ λόγος '
    'τῆς πόλεως. Πώς είσαι; Καλώς ήρθες!'
  ),
  'Cyrillic': (
    'Ёжик шёл по тропинке, а Йод стоял на полке. Їжак і ґава живуть у Києві; '
    'Ћирилица, Њива и Џак. «Привет», — сказал он.'
  ),
  'Arabic': (
    'ذَهَبَ الطَّالِبُ إِلَى المَدْرَسَةِ، ثُمَّ عَادَ. ما اسمك؟ قرأ الكتابَ كلَّه؛ '
    'والعدد ١٢٣٤ صحيح. بِسْمِ ٱللَّهِ'
  ),
  'Persian': (
    'می‌خواهم کتاب‌های تازه را بخوانم؛ خانه‌ی ما بزرگ است. او گفت: «نمی‌دانم». '
    'سال ۱۴۰۳ بود.'
  ),
  'Hebrew': (
    'בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם; הילד הלך לבית־ספר ושאל: ״למה?״ צה״ל ורחוב הרצל.'
  ),
  'Devanagari': (
    'नदी के किनारे एक छोटा गाँव था, जहाँ बच्चे हिन्दी पढ़ते थे। क्या आप ठीक हैं? '
    'क्षेत्रफल १२३ वर्ग किमी॥'
  ),
  'Bengali': (
    'নদীর ধারে একটি ছোট গ্রাম ছিল, সেখানে ছেলেমেয়েরা বাংলা পড়ত। তুমি কেমন আছ? সংখ্যা ১২৩।'
  ),
  'Tamil': (
    'ஆற்றங்கரையில் ஒரு சிறிய ஊர் இருந்தது; குழந்தைகள் தமிழ் படித்தார்கள். நீங்கள் '
    'எப்படி இருக்கிறீர்கள்?'
  ),
  'Telugu': ('నది ఒడ్డున ఒక చిన్న గ్రామం ఉంది; పిల్లలు తెలుగు చదువుతారు. మీరు ఎలా ఉన్నారు?'),
  'Sinhala': ('ගඟ අසල කුඩා ගමක් තිබුණි; ළමයි සිංහල ඉගෙන ගත්හ. ශ්‍රී ලංකාව ලස්සනයි.'),
  'Thai': (
    'แม่น้ำไหลผ่านหมู่บ้านเล็กๆที่เด็กนักเรียนเรียนภาษาไทยทุกวันเมื่อเช้านี้ฝนตกหนัก'
    'มากจนถนนสายล่างจมอยู่ใต้น้ำ ครูบอกว่าอย่าข้ามสะพาน๑๒๓'
  ),
  'Khmer': (
    'ទន្លេហូរកាត់ភូមិតូចមួយដែលកុមាររៀនភាសាខ្មែររាល់ថ្ងៃនៅព្រឹកនេះភ្លៀងធ្លាក់ខ្លាំងណាស់'
    'ផ្លូវខាងក្រោមលិចទឹក។ គ្រូនិយាយថាកុំឆ្លងស្ពាន'
  ),
  'Lao': (
    'ແມ່ນ້ຳໄຫຼຜ່ານໝູ່ບ້ານນ້ອຍທີ່ເດັກນ້ອຍຮຽນພາສາລາວທຸກມື້ເຊົ້ານີ້ຝົນຕົກໜັກຫຼາຍຈົນຖະໜົນ'
    'ຈົມຢູ່ໃຕ້ນ້ຳ ຄູບອກວ່າຢ່າຂ້າມຂົວ'
  ),
  'Burmese': (
    'မြစ်သည်ရွာငယ်လေးကိုဖြတ်၍စီးဆင်းသည်ကလေးများသည်နေ့စဉ်မြန်မာစာသင်ကြသည်ယနေ့နံနက်မိုး'
    'သည်းထန်စွာရွာ၏။ ဆရာကတံတားမကူးရဟုဆိုသည်၊ ၁၂၃'
  ),
  'Tibetan': ('བོད་སྐད་སློབ་སྦྱོང་བྱེད་མཁན་གྱི་ཕྲུ་གུ་རྣམས་ཆུ་འགྲམ་ལ་འགྲོ་གི་ཡོད། བཀྲ་ཤིས་བདེ་ལེགས།'),
  'Georgian': (
    'მდინარის პირას პატარა სოფელი იყო, სადაც ბავშვები ქართულს სწავლობდნენ. '
    'ᲗᲑᲘᲚᲘᲡᲘ დედაქალაქია!'
  ),
  'Armenian': (
    'Գետի ափին մի փոքր գյուղ կար, ուր երեխաները հայերեն էին սովորում։ Ինչպե՞ս '
    'ես։ ԵՐԵՎԱՆ և Գյումրի'
  ),
  'Amharic': (
    'በወንዙ ዳር አንዲት ትንሽ መንደር ነበረች፤ ልጆቹ አማርኛ ይማሩ ነበር። እንዴት ነህ? ቁጥር ፻፳፫።'
  ),
  'Chinese': (
    '河水在夜里上涨，清晨低处的街道都淹没在水中。“不要过桥！”老师说：'
    '《三国志》共65卷…… 臺灣的學生讀書（國語）。'
  ),
  'Japanese': (
    '川の水は夜のうちに増え、朝には低い通りが水に沈んでいた。'
    '「橋を渡らないで！」と先生は言った。カタカナ・ガギグゲゴ、ﾊﾝｶｸ、１２３。'
  ),
  'Korean': (
    '강물이 밤새 불어나 아침에는 낮은 거리가 물에 잠겼다. “다리를 건너지 '
    '마세요!” 선생님이 말했다. 한글 읽기'
  ),
  'Emoji': (
    'so happy 😀😃 today 👨‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️ 1️⃣ ☀️ #weather 🏳️‍🌈 ok✅ 🤷🏻‍♀️'
  ),
  'Direction marks': (
    'price \u200f₪ 30\u200e, name \u202bשלום\u202c and \u2067مرحبا\u2069; '
    'soft\u00adhyphen zero\u200bwidth no\u2060break \ufeffmark'
  ),
  'Ligatures': (
    'ﬁne ﬂow oﬃce ﬀ ＡＢＣ　ｆｕｌｌ ｗｉｄｔｈ Ⅷ ⅷ ½ ℃ ℡ ㎏ ㍿ ǅ ǈ ẞ ŉ ﬅ'
  ),
}
_LINES = 200
_LONGEST_PIECE = 12
_VOCABULARY_SIZE = 2000


def generate(name: str, num_lines: int = _LINES) -> list[str]:
  """Returns lines of the words of a script, the same each time.

  Words are mixed, and some are joined, in capitals or reversed; of scripts
  without spaces, pieces are. The last lines are words of 99, 100 and 101
  characters: the longest that are known, and one that is not.

  Example:
    generate('Thai', 1)  # a line of Thai, and three words
  """
  draw = random.Random(name)
  words = [
    word[start : start + _LONGEST_PIECE]
    for word in SENTENCES[name].split(' ')
    for start in range(0, len(word), _LONGEST_PIECE)
  ]
  lines = []
  for _ in range(num_lines):
    line = ''
    for word in draw.choices(words, k=draw.randint(4, 16)):
      word = draw.choices((word, word.upper(), word[::-1]), (8, 1, 1))[0]
      line += word + draw.choices((' ', '', '\u00a0'), (7, 2, 1))[0]
    lines.append(line)
  word = ''.join(words) * _LONGEST_PIECE
  return [*lines, word[:99], word[:100], word[:101]]


class Agreement(NamedTuple):
  """How ids of a script compare with those of the `tokenizers` library.

  Attributes:
    lines: lines compared.
    tokens: their tokens.
    unknown: share of [UNK] among the tokens.
    equal: lines with the same ids.
  """

  lines: int
  tokens: int
  unknown: float
  equal: int


def compare(
  lines: list[str], settings: tokenization.TokenizationSettings
) -> Agreement:
  """Tokenises lines by a vocabulary made from them, and by `tokenizers`."""
  vocabulary = vocabulary_training.train_vocabulary(
    tf.data.Dataset.from_tensors(lines), _VOCABULARY_SIZE, settings
  )
  theirs = tokenizers.BertWordPieceTokenizer(
    {token: index for index, token in enumerate(vocabulary.tokens)},
    lowercase=settings.lower_case,
    strip_accents=settings.strip_accents,
  )
  expected = [
    theirs.encode(line, add_special_tokens=False).ids for line in lines
  ]
  ids = vocabulary.tokenizer().tokenize(lines)
  unknown = tf.equal(ids.flat_values, vocabulary.unk_id)
  return Agreement(
    lines=len(lines),
    tokens=int(tf.size(ids.flat_values)),
    unknown=float(tf.reduce_mean(tf.cast(unknown, tf.float32))),
    equal=sum(map(list.__eq__, ids.to_list(), expected)),
  )


def _rows() -> Iterator[tuple]:
  for name in SENTENCES:
    lines = generate(name)
    lower = compare(lines, tokenization.UNCASED)
    cased = compare(lines, tokenization.CASED)
    yield (
      name,
      lower.tokens,
      f'{max(lower.unknown, cased.unknown):.2%}',
      f'{lower.equal} of {lower.lines}',
      f'{cased.equal} of {cased.lines}',
    )


def main() -> None:
  """Prints how many lines of every script have the ids of `tokenizers`."""
  titles = ('script', 'tokens', '[UNK] at most', 'lower-cased', 'cased')
  print(tabulate.tabulate(_rows(), titles, tablefmt='github'))


if __name__ == '__main__':
  main()
