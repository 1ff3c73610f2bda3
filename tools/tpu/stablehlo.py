"""From TensorFlow's HLO to StableHLO. Needs JAX, not TensorFlow."""

from jax._src.interpreters import mlir as jax_mlir
from jaxlib import _jax
from jaxlib.mlir import ir

# Hints of XLA's import; a portable program has StableHLO alone.
_FOREIGN = 'mhlo.'
_COPY = 'mhlo.copy'


def from_hlo(serialized: bytes, replaced: dict[int, int]) -> ir.Module:
  """Returns a StableHLO module whose results replace arguments in place.

  Args:
    serialized: an `HloModuleProto`.
    replaced: index of a result to the index of the argument whose memory it
      takes over.
  """
  text = _jax.mlir.hlo_to_stablehlo(serialized)
  context = jax_mlir.make_ir_context()
  context.allow_unregistered_dialects = True
  with context:
    module = ir.Module.parse(text)
    _remove_foreign(module)
    _mark_replaced(module, replaced)
  # Read again where nothing but StableHLO is known: what is left is portable.
  with jax_mlir.make_ir_context():
    return ir.Module.parse(text_of(module))


def _remove_foreign(module):
  copies = []

  def visit(operation):
    operation = operation.operation
    for attribute in [a for a in operation.attributes]:
      name = attribute if isinstance(attribute, str) else attribute.name
      if name.startswith(_FOREIGN):
        del operation.attributes[name]
    if operation.name == _COPY:
      # Values never change: a copy is its operand.
      operation.results[0].replace_all_uses_with(operation.operands[0])
      copies.append(operation)
    return ir.WalkResult.ADVANCE

  module.operation.walk(visit)
  for copy in copies:
    copy.erase()


def _mark_replaced(module, replaced):
  function = module.body.operations[0]
  for operation in module.body.operations:
    if operation.attributes['sym_name'].value == 'main':
      function = operation
  number = ir.IntegerType.get_signless(32)
  by_argument = {argument: result for result, argument in replaced.items()}
  attributes = []
  for index in range(len(function.arguments)):
    entry = {}
    if index in by_argument:
      entry['tf.aliasing_output'] = ir.IntegerAttr.get(
        number, by_argument[index]
      )
    attributes.append(ir.DictAttr.get(entry))
  function.attributes['arg_attrs'] = ir.ArrayAttr.get(attributes)


def text_of(module: ir.Module) -> str:
  """Returns the module as text, with the names of TensorFlow's operations."""
  return module.operation.get_asm(enable_debug_info=True)
