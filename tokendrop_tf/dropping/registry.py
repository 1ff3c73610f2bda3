"""Importances and plans by the names that settings give them."""

import dataclasses

from tokendrop_tf import settings
from tokendrop_tf.dropping import (
  at_random,
  by_excess,
  by_frequency,
  by_loss,
  by_scores,
  consistency,
  crossing,
  importance,
  layerwise,
  mask_later,
  plan,
  summary_rows,
)

# Values of `token_drop.policy`.
IMPORTANCES = {
  'loss': by_loss.ByLoss,
  'frequency': by_frequency.ByFrequency,
  'scores': by_scores.ByScores,
  'excess': by_excess.ByExcess,
  'random': at_random.AtRandom,
  'none': importance.NoDropping,
}
# Values of `token_drop.plan`.
PLANS = {
  'crossing': crossing.Crossing,
  'layerwise': layerwise.Layerwise,
  'pooled': summary_rows.SummaryRows,
  'mask_later': mask_later.MaskLater,
}


def importance_of(section, name: str | None = None) -> importance.Importance:
  """Returns the importance of a `token_drop` section.

  Args:
    section: the settings.
    name: of the importance; `None` is that of the policy.
  """
  return _build(IMPORTANCES[name or section.policy], section)


def plan_of(section, **facts) -> plan.Plan:
  """Returns the plan of a `token_drop` section.

  Args:
    section: the settings.
    **facts: `num_slots`, P, and `mask_id`, the id of [MASK], for plans that
      have fields of these names.
  """
  cls = PLANS[section.plan]
  fields = {field.name for field in dataclasses.fields(cls)}
  known = {name: fact for name, fact in facts.items() if name in fields}
  return dataclasses.replace(_build(cls, section), **known)


def consistency_of(section) -> consistency.Consistency:
  """Returns the consistency steps of a `token_drop` section."""
  return _build(consistency.Consistency, section)


def _build(cls, section):
  return cls(
    **{name: getattr(section, name) for name in settings.settings_of(cls)}
  )


def names_with_scores() -> str:
  """Returns the policies whose table means something, e.g. "'a' or 'b'"."""
  names = [name for name, cls in IMPORTANCES.items() if cls.has_scores]
  return ' or '.join(map(repr, names))


def plan_from(value: plan.Plan | dict | None) -> plan.Plan | None:
  """Returns the plan that `description` describes; others as they are."""
  return _from_description(PLANS, value)


def importance_from(
  value: importance.Importance | dict | None,
) -> importance.Importance | None:
  """Returns the importance that `description` describes; others as they are."""
  return _from_description(IMPORTANCES, value)


def _from_description(classes, value):
  if not isinstance(value, dict):
    return value
  arguments = dict(value)
  return classes[arguments.pop('name')](**arguments)


def description(item: plan.Plan | importance.Importance) -> dict:
  """Returns name and settings of a plan or importance, for a Keras config."""
  names = {cls: name for name, cls in {**PLANS, **IMPORTANCES}.items()}
  return {'name': names[type(item)], **dataclasses.asdict(item)}


def with_own_settings(name: str, base: type, doc: str) -> type:
  """Returns `base` with the settings of all plans, importances and steps.

  Args:
    name: of the new dataclass.
    base: a dataclass of settings.
    doc: docstring of the new one.

  Raises:
    ValueError: if two declarations have the same name and are not the same.
  """
  known = settings.settings_of(base)
  own = {}
  classes = (*PLANS.values(), *IMPORTANCES.values(), consistency.Consistency)
  for cls in classes:
    for setting_name, declared in settings.settings_of(cls).items():
      if {**known, **own}.get(setting_name, declared) != declared:
        raise ValueError(
          'A setting must be declared once. Received: '
          f'{setting_name} of {cls.__name__}, which is declared elsewhere.'
        )
      own[setting_name] = declared
  fields = [
    (
      setting.name,
      setting.type,
      settings.setting(
        setting.default, setting.doc, setting.rule, **setting.more
      ),
    )
    for setting in own.values()
  ]
  namespace = {'__doc__': doc, '__module__': base.__module__}
  return dataclasses.make_dataclass(
    name, fields, bases=(base,), namespace=namespace
  )
