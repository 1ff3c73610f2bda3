"""Loads an exported folder with transformers and PyTorch.

python use_transformers.py REQUEST.npz ANSWER.npz
"""

import sys

import numpy as np
import torch
import transformers


def main(request, answer):
  request = np.load(request)
  folder = str(request['folder'])
  inputs = {
    'input_ids': torch.tensor(request['input_word_ids']).long(),
    'attention_mask': torch.tensor(request['input_mask']).long(),
    'token_type_ids': torch.tensor(request['input_type_ids']).long(),
  }
  answers = {}

  def load(name, path):
    model, info = getattr(transformers, name).from_pretrained(
      path, output_loading_info=True
    )
    answers[f'{path}.{name}.missing'] = sorted(info['missing_keys'])
    answers[f'{path}.{name}.unexpected'] = sorted(info['unexpected_keys'])
    return model.eval()

  with torch.no_grad():
    outputs = load('BertModel', f'{folder}/encoder')(**inputs)
    answers['sequence_output'] = outputs.last_hidden_state.numpy()
    answers['pooled_output'] = outputs.pooler_output.numpy()
    answers['logits'] = load('BertForMaskedLM', folder)(**inputs).logits.numpy()
    decoder = load('BertLMHeadModel', str(request['generation']))
    answers['next_logits'] = decoder(**inputs).logits.numpy()
    for kind in ('classification', 'regression'):
      model = load('BertForSequenceClassification', str(request[kind]))
      answers[kind] = model(**inputs).logits.numpy()
    spans = load('BertForQuestionAnswering', str(request['question_answering']))
    outputs = spans(**inputs)
    answers['question_answering'] = np.stack(
      [outputs.start_logits.numpy(), outputs.end_logits.numpy()]
    )
  load('AutoModelForMaskedLM', folder)
  for kind in ('classification', 'question_answering'):
    load('BertModel', f'{request[kind]}/encoder')
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  texts = request['texts'].tolist()
  answers['ids'] = tokenizer(texts, padding=True)['input_ids']
  np.savez(answer, **answers)


if __name__ == '__main__':
  main(*sys.argv[1:])
