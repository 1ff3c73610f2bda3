"""The masked-LM pretraining task with token dropping.

Letters: B batch of a replica, S sequence length, K tokens kept, P prediction
slots, V vocabulary.
"""

import functools

import tensorflow as tf
import tf_keras
from absl import logging
from official.core import base_task, task_factory
from official.modeling import tf_utils
from official.nlp.modeling import layers as garden_layers

from tokendrop_tf import (
  configs,
  gradient_accumulation,
  init_weights,
  keep_schedule,
  layers,
  loss_guard,
  pretrainer,
)
from tokendrop_tf import encoder as encoder_lib
from tokendrop_tf.data import loader
from tokendrop_tf.data import vocabulary as vocabulary_lib
from tokendrop_tf.layers import random_seeds

NEXT_SENTENCE = 'next_sentence'


def build_encoder(
  model: configs.ModelConfig,
  token_drop: configs.TokenDropConfig,
  vocabulary: vocabulary_lib.Vocabulary,
  encoder_class: type[encoder_lib.TokenDropBertEncoder] = (
    encoder_lib.TokenDropBertEncoder
  ),
) -> encoder_lib.TokenDropBertEncoder:
  """Builds the configured encoder.

  Args:
    model: sizes and initialization.
    token_drop: policy and layout; policy 'none' builds a plain encoder.
    vocabulary: resolves pinned tokens to ids.
    encoder_class: what is built.
  """
  drops = token_drop.policy != 'none'
  return encoder_class(
    vocab_size=model.vocab_size,
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
    position_initializer=(
      layers.SinusoidalInitializer(stddev=model.initializer_range)
      if model.position_initializer == 'sinusoidal'
      else None
    ),
    residual_initializer_scale=model.residual_initializer_scale,
    token_keep_k=token_drop.token_keep_k if drops else None,
    crossing_layer=token_drop.crossing_layer,
    temperature=token_drop.temperature,
    token_loss_init_value=token_drop.token_loss_init_value,
    token_loss_beta=token_drop.token_loss_beta,
    token_allow_list=vocabulary.ids_of(token_drop.always_keep_tokens),
    token_deny_list=vocabulary.ids_of(token_drop.always_drop_tokens),
  )


def unigram_surprisal(counts) -> tf.Tensor:
  """Returns -log p of every vocabulary entry, add-one smoothed.

  It is the MLM loss of a unigram model, so a table of it has the unit, nats,
  and the direction of the table that training fills.

  Args:
    counts: occurrences in the corpus, integer [V].

  Returns:
    float32 [V], in nats.
  """
  counts = tf.cast(counts, tf.float64) + 1.0
  surprisal = tf.math.log(tf.reduce_sum(counts)) - tf.math.log(counts)
  return tf.cast(surprisal, tf.float32)


@task_factory.register_task_cls(configs.PretrainingTaskConfig)
class TokenDropPretrainingTask(base_task.Task):
  """Masked-LM pretraining: plain BERT, or BERT with token dropping.

  The loss of a step is the mean over all label slots of the global batch, so N
  replicas take the step that one device takes on that batch. (The Model
  Garden's task averages within a replica and sums over replicas.)

  Validation runs on full sequences; with a dropping policy it also runs with
  dropping on and reports `full_sequence_gap`, the first loss minus the second.

  Args:
    params: `configs.PretrainingTaskConfig`.
  """

  encoder_class = encoder_lib.TokenDropBertEncoder
  # See `configure_step`.
  gradient_accumulation_steps = 1
  all_reduce_dtype = tf.float32

  def __init__(self, params, logging_dir=None, name=None):
    super().__init__(params, logging_dir=logging_dir, name=name)
    self._resume = (0, None)  # First batch, and how the data are counted.
    self._vocabulary = vocabulary_lib.Vocabulary.from_file(
      params.vocabulary.path, lower_case=params.vocabulary.lower_case
    )

  @property
  def vocabulary(self) -> vocabulary_lib.Vocabulary:
    """The vocabulary that the model's ids refer to."""
    return self._vocabulary

  @property
  def _drops(self) -> bool:
    return self.task_config.token_drop.policy != 'none'

  def build_model(self, params=None) -> pretrainer.TokenDropPretrainer:
    config = self.task_config
    # The seed decides the initial weights, whatever was built before.
    tf_keras.utils.set_random_seed(config.seed)
    encoder = build_encoder(
      params or config.model,
      config.token_drop,
      self._vocabulary,
      self.encoder_class,
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
    if config.token_drop.policy == 'frequency':
      counts = vocabulary_lib.read_token_counts(
        config.vocabulary.counts_path
        or vocabulary_lib.counts_path_for(config.vocabulary.path),
        self._vocabulary,
      )
      encoder.token_importance.table.assign(unigram_surprisal(counts))
    return model

  def initialize(self, model):
    """Loads the weights of `init_checkpoint`, in whatever form they are."""
    source = self.task_config.init_checkpoint
    if not source:
      return
    # A table of losses is no table of frequencies.
    learns_table = self.task_config.token_drop.policy == 'loss'
    loaded = init_weights.load_pretrainer(
      model, source, exclude=() if learns_table else ('token_importance',)
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

  @classmethod
  def create_optimizer(cls, *args, **kwargs):
    """Returns the optimizer of the Model Garden's factory."""
    optimizer = super().create_optimizer(*args, **kwargs)
    # The step reads the counter: it must exist before a replica's first trace.
    _ = optimizer.iterations
    return optimizer

  def build_inputs(self, params, input_context=None) -> tf.data.Dataset:
    """Returns batches of the Model Garden's v2 pretraining features."""
    first_batch, counts = self._resume if params.is_training else (0, None)
    return loader.load_dataset(
      params, self.task_config.vocabulary, input_context, first_batch, counts
    )

  def configure_step(
    self, gradient_accumulation_steps=1, all_reduce_dtype=None
  ):
    """Sets how a step is computed, which changes no more than its rounding.

    Args:
      gradient_accumulation_steps: parts of a replica's batch whose gradients
        are taken one after another.
      all_reduce_dtype: in which replicas add gradients; `None` is float32.
    """
    self.gradient_accumulation_steps = gradient_accumulation_steps
    self.all_reduce_dtype = tf.as_dtype(all_reduce_dtype or tf.float32)

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
    if not training:
      names += ['validation_loss']
      if self._drops:
        names += [
          'lm_example_loss_dropping',
          'masked_lm_accuracy_dropping',
          'full_sequence_gap',
        ]
    return [
      tf_keras.metrics.Mean(name=name, dtype=tf.float32) for name in names
    ]

  def train_step(self, inputs, model, optimizer, metrics):
    """Takes one optimizer step and moves the importance table.

    Args:
      inputs: this replica's features; see the data loader.
      model: the pretrainer.
      optimizer: an optimizer of the Model Garden's factory.
      metrics: what `build_metrics` gave.

    Returns:
      A dict of `loss`, this replica's share of the global mean loss times the
      number of replicas, float32.
    """
    step = tf.identity(optimizer.iterations)
    inputs = self._with_labels(inputs, model, step)
    # 1. Forward and backward, with or without dropping in this step.
    loss, slots, gradients = self._forward_backward(inputs, model, step)
    # 2. Sum over replicas, clip, update the weights.
    self._apply_gradients(gradients, model, optimizer)
    # 3. Update the table from the losses that were computed anyway.
    if self.task_config.token_drop.policy == 'loss':
      model.encoder_network.token_importance.update(
        inputs['masked_lm_ids'], slots['losses'], inputs['masked_lm_weights']
      )
    # 4. Record.
    self._update_metrics(metrics, inputs, slots)
    loss_guard.watch(model.first_nonfinite_step, loss, step)
    return {self.loss: loss}

  def _with_labels(self, inputs, model, step):
    """Returns the features, with labels by importance where that is set."""
    data = self.task_config.train_data
    if data.masking != 'importance':
      return inputs
    words = self._vocabulary
    masking = layers.ImportanceMasking(
      words.special_ids,
      words.ordinary_ids,
      words.mask_id,
      data.mask_token_share,
      data.random_token_share,
      data.masking_temperature,
    )
    seed = random_seeds.fold_in(
      tf.constant([self.task_config.seed, 2], tf.int32), step
    )
    return masking(inputs, model.encoder_network.token_importance.table, seed)

  def _forward_backward(self, inputs, model, step):
    """Returns the loss, per-slot results and gradients of this step.

    Gradients are dense and in the order of `model.pretraining_variables`.
    """
    seed = random_seeds.fold_in(
      tf.constant([self.task_config.seed, 0], tf.int32), step
    )
    shares = self._global_shares(inputs)

    def run_rows(rows, keep_k):
      inputs, slot_shares = rows
      with tf.GradientTape() as tape:
        outputs = model(
          inputs,
          training=True,
          drop_tokens=keep_k is not None,
          token_keep_k=keep_k,
          seed=seed,
        )
        slots = self._slot_results(inputs, outputs)
        loss = self._replica_loss(slots, {**shares, 'slots': slot_shares})
      gradients = tape.gradient(loss, model.pretraining_variables)
      return loss, slots, [tf.convert_to_tensor(g) for g in gradients]

    def run(keep_k):
      return gradient_accumulation.over_parts(
        functools.partial(run_rows, keep_k=keep_k),
        self.gradient_accumulation_steps,
        (inputs, shares['slots']),
        model.pretraining_variables,
        self._slot_names,
      )

    results = self._switch(step, run)
    loss, slots, gradients = results
    return loss * shares['num_replicas'], slots, gradients

  def _switch(self, step, run):
    """Calls `run` with the number of tokens kept in `step`; `None` is all."""
    if not self._drops:
      return run(None)
    token_drop = self.task_config.token_drop
    keeps = [bucket.keep_k for bucket in keep_schedule.parse(token_drop)]
    every = token_drop.full_step_every
    # Each number of tokens is one branch, compiled once.
    branches = list(dict.fromkeys(keeps + [None] * (every > 0)))
    bucket = tf.reduce_sum(
      tf.cast(
        step >= tf.constant(keep_schedule.first_steps(token_drop), step.dtype),
        tf.int32,
      )
    )
    index = tf.gather([branches.index(k) for k in keeps], bucket - 1)
    if every > 0:
      is_full = tf.equal((step + 1) % every, 0)
      index = tf.where(is_full, branches.index(None), index)
    if every == 1:
      branches = [None]
    if len(branches) == 1:
      return run(branches[0])
    return tf.switch_case(
      index, [functools.partial(run, keep_k) for keep_k in branches]
    )

  def _global_shares(self, inputs):
    """Returns what each slot and sentence contributes to the global loss."""
    weights = tf.cast(inputs['masked_lm_weights'], tf.float32)
    num_replicas, _ = random_seeds.replica_count_and_id()
    label_weight = tf.reduce_sum(weights)
    if num_replicas > 1:
      label_weight = tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, label_weight
      )
    shares = {
      'slots': tf.math.divide_no_nan(weights, label_weight),  # [B, P]
      'num_replicas': float(num_replicas),
    }
    if self.task_config.model.use_next_sentence_head:
      rows = tf.shape(weights)[0] * num_replicas
      shares['sentences'] = 1.0 / tf.cast(rows, tf.float32)
    return shares

  @property
  def _slot_names(self):
    """Names of what `_slot_results` gives."""
    names = ('losses', 'hits')
    if self.task_config.model.use_next_sentence_head:
      names += ('sentence_losses', 'sentence_hits')
    return names

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

  def _replica_loss(self, slots, shares):
    """Returns this replica's part of the global loss; the parts add up."""
    loss = tf.reduce_sum(
      tf.math.multiply_no_nan(slots['losses'], shares['slots'])
    )
    if 'sentence_losses' in slots:
      loss += tf.reduce_sum(slots['sentence_losses']) * shares['sentences']
    return loss

  def _apply_gradients(self, gradients, model, optimizer):
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
      sent = [tf.cast(g, self.all_reduce_dtype) for g in gradients]
      sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sent)
      gradients = [tf.cast(s, g.dtype) for s, g in zip(sums, gradients)]
    # The Model Garden's AdamW would clip before it sums over replicas.
    clip_norm = getattr(optimizer, 'gradient_clip_norm', 0.0)
    if clip_norm > 0.0:
      gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
    optimizer.apply_gradients(
      zip(gradients, model.pretraining_variables),
      experimental_aggregate_gradients=False,
    )

  def _update_metrics(self, metrics, inputs, slots, suffix=''):
    by_name = {metric.name: metric for metric in metrics}
    weights = inputs['masked_lm_weights']
    by_name['lm_example_loss' + suffix].update_state(slots['losses'], weights)
    by_name['masked_lm_accuracy' + suffix].update_state(slots['hits'], weights)
    if 'sentence_losses' in slots and not suffix:
      # Rows that only fill up a last batch have no label slot.
      rows = tf.reduce_max(weights, axis=1, keepdims=True)
      by_name['next_sentence_loss'].update_state(slots['sentence_losses'], rows)
      by_name['next_sentence_accuracy'].update_state(
        slots['sentence_hits'], rows
      )

  def validation_step(self, inputs, model, metrics=None):
    """Evaluates on full sequences and, with a dropping policy, with dropping.

    Args:
      inputs: this replica's features.
      model: the pretrainer.
      metrics: what `build_metrics(training=False)` gave.

    Returns:
      An empty dict: all figures are weighted means over the whole set.
    """
    by_name = {metric.name: metric for metric in metrics}
    weights = inputs['masked_lm_weights']
    full = self._slot_results(
      inputs, model(inputs, training=False, drop_tokens=False)
    )
    self._update_metrics(metrics, inputs, full)
    by_name['validation_loss'].update_state(full['losses'], weights)
    if self._drops:
      seed = tf.constant([self.task_config.seed, 1], tf.int32)
      dropping = self._slot_results(
        inputs, model(inputs, training=False, drop_tokens=True, seed=seed)
      )
      self._update_metrics(metrics, inputs, dropping, suffix='_dropping')
      by_name['full_sequence_gap'].update_state(
        full['losses'] - dropping['losses'], weights
      )
    return {}
