"""The masked-LM pretraining task with token dropping.

Letters: B batch of a replica, S sequence length, K tokens kept, P prediction
slots, V vocabulary.
"""

import numpy as np
import tensorflow as tf
import tf_keras
from absl import logging
from official.core import task_factory
from official.modeling import tf_utils
from official.nlp.modeling import layers as garden_layers

from tokendrop_tf import dropping, errors, layers, pretrainer, schedules
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.config import configs
from tokendrop_tf.data import loader
from tokendrop_tf.dropping import consistency, registry, token_clock
from tokendrop_tf.dropping.step import FULL, Step
from tokendrop_tf.layers import next_tokens, random_seeds
from tokendrop_tf.tasks import base
from tokendrop_tf.text import token_scores
from tokendrop_tf.text import vocabulary as vocabulary_lib
from tokendrop_tf.weights import load_weights, starting_point

NEXT_SENTENCE = 'next_sentence'
# Of the layer before the last, and of the last.
_DIVERGENCES = ('consistency_loss_layer', 'consistency_loss_output')


def build_encoder(
  model: configs.ModelConfig,
  token_drop: configs.TokenDropConfig,
  vocabulary: vocabulary_lib.Vocabulary,
  encoder_class: type[encoder_lib.TokenDropBertEncoder] = (
    encoder_lib.TokenDropBertEncoder
  ),
  causal: bool = False,
  num_slots: int | None = None,
) -> encoder_lib.TokenDropBertEncoder:
  """Builds the configured encoder.

  Args:
    model: sizes and initialization.
    token_drop: importance and plan; without dropping a plain encoder is built.
    vocabulary: resolves pinned tokens to ids.
    encoder_class: what is built.
    causal: whether a position sees those up to itself only.
    num_slots: P, where a plan has to know it.
  """
  importance = registry.importance_of(token_drop)
  return encoder_class(
    vocab_size=model.vocab_size or vocabulary.size,
    hidden_size=model.hidden_size,
    num_layers=model.num_layers,
    num_attention_heads=model.num_attention_heads,
    max_sequence_length=model.max_position_embeddings,
    type_vocab_size=model.type_vocab_size,
    inner_dim=model.intermediate_size,
    inner_activation=tf_utils.get_activation(model.hidden_activation),
    output_dropout=model.dropout_rate,
    attention_dropout=model.attention_dropout_rate,
    initializer=tf_keras.initializers.TruncatedNormal(
      stddev=model.initializer_range
    ),
    embedding_width=model.embedding_size,
    norm_first=model.norm_first,
    position_initializer=_position_initializer(model),
    attention_start=model.attention_start,
    attention_block=model.attention_block,
    recompute_layers=model.recompute_layers,
    causal=causal,
    allow_lookahead=token_drop.allow_lookahead,
    residual_initializer_scale=model.residual_initializer_scale,
    token_keep_k=token_drop.token_keep_k if importance.drops else None,
    temperature=token_drop.temperature,
    token_allow_list=vocabulary.ids_of(token_drop.always_keep_tokens),
    token_deny_list=vocabulary.ids_of(token_drop.always_drop_tokens),
    plan=registry.plan_of(
      token_drop, num_slots=num_slots, mask_id=vocabulary.mask_id
    ),
    importance=importance,
  )


def _position_initializer(model):
  """Returns the initializer of the position table; `None` is that of all."""
  stddev = model.initializer_range
  if model.position_initializer == 'sinusoidal':
    return layers.SinusoidalInitializer(stddev)
  if model.position_initializer == 'fourier':
    return layers.FourierInitializer(
      stddev, model.hidden_size // model.num_attention_heads
    )
  return None


class Sources:
  """The files that an importance may ask for; see `dropping.importance`.

  Args:
    config: the `configs.VocabularyConfig`.
    vocabulary: the vocabulary.
    num_rows: rows of the embedding table; those beyond the vocabulary, with
      which other models are padded, never occur.
  """

  def __init__(self, config, vocabulary, num_rows):
    self._config = config
    self._vocabulary = vocabulary
    self._num_rows = num_rows

  @classmethod
  def of(cls, task, vocabulary) -> 'Sources':
    """Returns the files of a `configs.PretrainingTaskConfig`."""
    num_rows = task.model.vocab_size or vocabulary.size
    return cls(task.vocabulary, vocabulary, num_rows)

  def token_counts(self):
    """Returns how often every row's token occurs, int64 [rows]."""
    path = self._config.counts_path or vocabulary_lib.counts_path_for(
      self._config.path
    )
    return self._padded(
      vocabulary_lib.read_token_counts(path, self._vocabulary)
    )

  def token_scores(self, path):
    """Returns the score of every row's token in a file, float32 [rows]."""
    return self._padded(token_scores.read_token_scores(path, self._vocabulary))

  def learnt_table(self, path):
    """Returns the importance table of another run, float32 [rows]."""
    setting = 'token_drop.reference_checkpoint'
    load_weights.check_vocabulary(
      starting_point.describe(path, setting), self._vocabulary, setting
    )
    vocabulary, table = load_weights.read_importance_table(path, setting)
    if vocabulary.size != self._vocabulary.size:
      raise errors.ConfigurationError(
        f'{setting} must be a run of the same vocabulary. Received: {path}, '
        f'of {vocabulary.size:,} tokens, for {self._vocabulary.size:,}. Set '
        f'{setting}.'
      )
    return self._padded(table)

  def _padded(self, values):
    return np.pad(values, [0, self._num_rows - len(values)])


class Perplexity(tf_keras.metrics.Mean):
  """The exponential of the weighted mean loss: V of a model that knows nothing.

  Losses are in nats.
  """

  def result(self):
    return tf.exp(super().result())


@task_factory.register_task_cls(configs.PretrainingTaskConfig)
class TokenDropPretrainingTask(base.SeededTask):
  """Pretraining: plain BERT, or BERT with token dropping.

  The loss of a step is the mean over all label slots of the global batch; with
  the next-sentence head, plus the mean over its sentences. Labels are masked
  tokens; in causal steps, of every position the next token, from those up to
  it.

  Validation runs on full sequences; where tokens are dropped it also runs with
  dropping on and reports `full_sequence_gap`, the first loss minus the second;
  where [MASK] joins later, also `mask_late_gap`, the first loss minus that of
  all tokens with late [MASK]s.

  Args:
    params: `configs.PretrainingTaskConfig`.
  """

  encoder_class = encoder_lib.TokenDropBertEncoder

  def __init__(self, params, logging_dir=None, name=None):
    super().__init__(params, logging_dir=logging_dir, name=name)
    self._resume = (0, None)  # First batch, and how the data are counted.
    self._dropping = dropping.Dropping.of(params)
    # By which labels are chosen, where that has a table of its own.
    importance = dropping.masking_importance(params)
    is_shared = importance == self._dropping.importance
    self._masking_importance = None if is_shared else importance
    self._is_causal = params.objective == schedules.CAUSAL_LM
    causal = {kind.causal for kind in self._dropping.kinds.schedule.values}
    # Masked labels have fewer slots than causal ones: steps of both kinds share
    # the latter.
    self._is_mixed = len(causal) > 1

  def build_model(self, params=None) -> pretrainer.TokenDropPretrainer:
    config = self.task_config
    # The seed decides the initial weights, whatever was built before.
    tf_keras.utils.set_random_seed(config.seed)
    encoder = build_encoder(
      params or config.model,
      config.token_drop,
      self._vocabulary,
      self.encoder_class,
      self._is_causal,
      num_slots=config.train_data.max_predictions_per_seq,
    )
    model_config = params or config.model
    model = pretrainer.TokenDropPretrainer(
      encoder,
      mlm_activation=tf_utils.get_activation(model_config.mlm_activation),
      mlm_initializer=tf_keras.initializers.TruncatedNormal(
        stddev=model_config.initializer_range
      ),
      classification_heads=self._build_heads(model_config),
    )
    if self._masking_importance is not None:
      model.masking_importance = self._masking_importance.create_table(
        model_config.vocab_size or self._vocabulary.size,
        self._vocabulary.special_ids,
        (),
      )
      model.masking_importance.build(None)
    return model

  def initialize(self, model):
    """Gives a new run what it starts from: files of scores, weights.

    The weights are those of `init_checkpoint`, in whatever form they are.
    """
    if self.task_config.init_checkpoint:
      self._load_weights(model)
    self.start_importances(model)

  def start_importances(self, model):
    """Gives the tables of a new run's model their first values."""
    sources = Sources.of(self.task_config, self._vocabulary)
    for importance, table in self._tables(model):
      importance.start(table, sources)

  def check_takes_other_models(self):
    """Checks that steps ask of a model what a pretrainer of any kind gives.

    Raises:
      errors.ConfigurationError: if they ask for more.
    """
    token_drop, data = self.task_config.token_drop, self.task_config.train_data
    if self._has_consistency or self._masking_importance is not None:
      raise errors.ConfigurationError(
        'Consistency steps and labels by a table of their own need the model '
        'that the task builds. Received: token_drop.consistency_every='
        f'{token_drop.consistency_every}, train_data.masking_scores='
        f'{data.masking_scores!r}. Leave both unset.'
      )

  def _tables(self, model):
    """Returns the importances, each with its table."""
    tables = []
    if self._dropping.drops:
      table = model.encoder_network.token_importance
      tables.append((self._dropping.importance, table))
    if self._masking_importance is not None:
      tables.append((self._masking_importance, model.masking_importance))
    return tables

  def _load_weights(self, model):
    source = self.task_config.init_checkpoint
    # A table that does not learn keeps what it starts from.
    exclude = () if self._dropping.importance.learns else ('token_importance',)
    loaded = load_weights.load_pretrainer(
      model,
      source,
      exclude=exclude,
      extension=self.task_config.position_extension,
    )
    logging.info('Initialized %s.', loaded.summary())

  def _build_heads(self, model_config):
    if not model_config.use_next_sentence_head:
      return []
    return [
      garden_layers.ClassificationHead(
        inner_dim=model_config.hidden_size,
        num_classes=2,
        dropout_rate=model_config.dropout_rate,
        initializer=tf_keras.initializers.TruncatedNormal(
          stddev=model_config.initializer_range
        ),
        name=NEXT_SENTENCE,
      )
    ]

  def create_optimizer(self, *args, **kwargs):
    """Returns the optimizer, whose rate may follow tokens instead of steps."""
    optimizer = super().create_optimizer(*args, **kwargs)
    token_drop = self.task_config.token_drop
    # Of a constant rate, or of one K, both clocks show the same.
    if (
      token_drop.learning_rate_clock == 'layer_tokens'
      and token_drop.keep_schedule
      and callable(optimizer.learning_rate)
    ):
      optimizer.learning_rate = token_clock.TokenClock(
        optimizer.learning_rate, self._dropping
      )
    return optimizer

  def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
    """Returns batches of the Model Garden's v2 pretraining features."""
    first_batch, counts = self._resume if params.is_training else (0, None)
    return loader.load_dataset(
      params, self.task_config.vocabulary, input_context, first_batch, counts
    )

  def resume_data(self, step, model_dir, is_chief=True):
    """Lets the training data begin with the batch of step `step` + 1.

    Args:
      step: steps taken before.
      model_dir: folder of the run, where what is known of the data is kept.
      is_chief: whether this process writes there.

    Raises:
      errors.DataError: if the data files are not those of the earlier steps.
    """
    counts = loader.resumed_counts(
      self.task_config.train_data,
      self.task_config.vocabulary,
      step,
      model_dir,
      is_chief,
    )
    self._resume = (step, counts)

  def build_metrics(self, training=True):
    names = ['lm_example_loss', 'masked_lm_accuracy']
    if self.task_config.model.use_next_sentence_head:
      names += ['next_sentence_loss', 'next_sentence_accuracy']
    if training and self._has_consistency:
      names += _DIVERGENCES
    if not training:
      names += ['validation_loss']
      if self._dropping.drops:
        names += [
          'lm_example_loss_dropping',
          'masked_lm_accuracy_dropping',
          'full_sequence_gap',
        ]
      if self._dropping.delays_masks:
        names += ['mask_late_gap']
    metrics = [
      tf_keras.metrics.Mean(name=name, dtype=tf.float32) for name in names
    ]
    if not training and self._is_causal:
      suffixes = ['', '_dropping'] if self._dropping.drops else ['']
      metrics += [Perplexity(name='perplexity' + suffix) for suffix in suffixes]
    return metrics

  @property
  def result_names(self):
    names = ('losses', 'hits')
    if self.task_config.model.use_next_sentence_head:
      names += ('sentence_losses', 'sentence_hits')
    return names + self._dropping.kinds.result_names

  @property
  def _has_consistency(self):
    return bool(self._dropping.kinds.result_names)

  def complete_inputs(self, inputs, model, step):
    """Returns the features with the labels that the step makes itself.

    Where not all labels are trained on, `loss_weights` are those that are.
    """
    inputs = self._labelled(inputs, model, step)
    if not self._dropping.drops:
      return inputs
    weights = self._dropping.importance.trained_weights(
      model.encoder_network.token_importance, inputs
    )
    return inputs if weights is None else {**inputs, 'loss_weights': weights}

  def _labelled(self, inputs, model, step):
    if self.task_config.train_data.masking == 'importance':
      inputs = self._masked_by_importance(inputs, model, step)
    if not self._is_mixed:
      return self._with_labels(inputs)
    causal = layers.with_next_tokens(inputs)
    masked = next_tokens.with_slots(inputs, causal['masked_lm_ids'].shape[1])
    is_causal = self._dropping.kinds.is_causal(step)
    return {
      name: tf.where(is_causal, value, masked[name])
      for name, value in causal.items()
    }

  def _with_labels(self, inputs):
    """Returns the features with the labels of the run's objective."""
    return layers.with_next_tokens(inputs) if self._is_causal else inputs

  def _masked_by_importance(self, inputs, model, step):
    data = self.task_config.train_data
    words = self._vocabulary
    masking = layers.ImportanceMasking(
      words.special_ids,
      words.ordinary_ids,
      words.mask_id,
      data.mask_token_share,
      data.random_token_share,
      data.masking_temperature,
      data.masking_weights,
    )
    seed = random_seeds.fold_in(
      tf.constant([self.task_config.seed, 2], tf.int32), step
    )
    table = model.encoder_network.token_importance
    if self._masking_importance is not None:
      table = model.masking_importance
    return masking(inputs, table.importances, seed)

  def switch(self, step, run):
    """Calls `run` with the `dropping.steps.Step` that `step` is."""
    return self._dropping.kinds.switch(step, run)

  def loss_weights(self, inputs):
    """Returns weights of label slots, [B, P], and of sentences, [B, 1]."""
    weights = {'losses': _slot_weights(inputs)}
    if self._has_consistency:
      weights['consistency'] = weights['losses']
    if self.task_config.model.use_next_sentence_head:
      weights['sentence_losses'] = tf.ones_like(weights['losses'][:, :1])
    return weights

  def row_results(self, inputs, model, training, seed=None, branch=FULL):
    """Returns losses and hits of a step of the kind `branch`."""
    num_slots = inputs['masked_lm_ids'].shape[1]
    if self._is_mixed and not branch.causal:
      most = self.task_config.train_data.max_predictions_per_seq
      inputs = next_tokens.with_slots(inputs, min(num_slots, most))

    def forward_pass(keep_k, summary=None):
      outputs = model(
        inputs,
        training=training,
        drop_tokens=keep_k is not None,
        token_keep_k=keep_k,
        seed=seed,
        causal=branch.causal,
        **({} if summary is None else {'summary': summary}),
      )
      slots = self._slot_results(inputs, outputs)
      if summary is not None:
        slots['summaries'] = outputs['summaries']
      return slots

    results = branch.forward(forward_pass, _slot_weights(inputs))
    if training and self._has_consistency:
      results = consistency.without_divergences(results)
    if not self._is_mixed:
      return results
    return {n: next_tokens.fill_up(v, num_slots) for n, v in results.items()}

  def _slot_results(self, inputs, outputs):
    """Returns losses and hits, float32 [B, P]; of sentences, [B, 1]."""
    losses, hits = layers.label_loss(
      outputs['mlm_logits'], inputs['masked_lm_ids']
    )
    slots = {'losses': losses, 'hits': hits}
    if self.task_config.model.use_next_sentence_head:
      slots['sentence_losses'], slots['sentence_hits'] = layers.label_loss(
        outputs[NEXT_SENTENCE][:, tf.newaxis], inputs['next_sentence_labels']
      )
    return slots

  def after_update(self, inputs, model, results, takes_step):
    """Moves importance tables by the losses that were computed anyway."""
    if takes_step is not True:
      weights = inputs['masked_lm_weights']
      weights = tf.where(takes_step, weights, tf.zeros_like(weights))
      inputs = dict(inputs, masked_lm_weights=weights)
    for importance, table in self._tables(model):
      importance.update(table, inputs, _of_pass(results))

  def update_metrics(self, metrics, inputs, slots, suffix=''):
    """Adds the losses and hits of label slots and sentences."""
    by_name = {metric.name: metric for metric in metrics}
    weights = inputs['masked_lm_weights']
    if 'divergences' in slots:
      for name, column in zip(
        _DIVERGENCES, tf.split(slots['divergences'], 2, axis=1)
      ):
        by_name[name].update_state(column, slots['has_divergences'])
    slots = _of_pass(slots)
    by_name['lm_example_loss' + suffix].update_state(slots['losses'], weights)
    by_name['masked_lm_accuracy' + suffix].update_state(slots['hits'], weights)
    if 'perplexity' + suffix in by_name:
      by_name['perplexity' + suffix].update_state(slots['losses'], weights)
    if 'sentence_losses' in slots and not suffix:
      # Rows that only fill up a last batch have no label slot.
      rows = tf.reduce_max(weights, axis=1, keepdims=True)
      by_name['next_sentence_loss'].update_state(slots['sentence_losses'], rows)
      by_name['next_sentence_accuracy'].update_state(
        slots['sentence_hits'], rows
      )

  def validation_step(self, inputs, model, metrics=None):
    """Evaluates on full sequences and, where tokens are dropped, with dropping.

    Args:
      inputs: this replica's features.
      model: the pretrainer.
      metrics: what `build_metrics(training=False)` gave.

    Returns:
      An empty dict: all figures are weighted means over the whole set.
    """
    by_name = {metric.name: metric for metric in metrics}
    inputs = self._with_labels(inputs)
    weights = inputs['masked_lm_weights']
    branch = Step(None, causal=self._is_causal)
    full = self.row_results(inputs, model, training=False, branch=branch)
    self.update_metrics(metrics, inputs, full)
    by_name['validation_loss'].update_state(full['losses'], weights)
    if self._dropping.drops:
      seed = tf.constant([self.task_config.seed, 1], tf.int32)
      dropping = self._slot_results(
        inputs, model(inputs, training=False, drop_tokens=True, seed=seed)
      )
      self.update_metrics(metrics, inputs, dropping, suffix='_dropping')
      by_name['full_sequence_gap'].update_state(
        full['losses'] - dropping['losses'], weights
      )
    if self._dropping.delays_masks:
      # All tokens, but [MASK] where it joins in training.
      late = self._slot_results(
        inputs,
        model(
          inputs,
          training=False,
          drop_tokens=True,
          token_keep_k=inputs['input_word_ids'].shape[1],
          seed=tf.constant([self.task_config.seed, 1], tf.int32),
        ),
      )
      by_name['mask_late_gap'].update_state(
        full['losses'] - late['losses'], weights
      )
    return {}


def _slot_weights(inputs):
  """Returns weights of the label slots that are trained on, float32 [B, P]."""
  weights = inputs.get('loss_weights', inputs['masked_lm_weights'])
  return tf.cast(weights, tf.float32)


def _of_pass(results):
  """Returns results whose losses are those of one pass, as in most steps."""
  return {**results, 'losses': results.get('pass_losses', results['losses'])}
