"""Summing the compiler's estimates over an optimized program."""

# ruff: noqa: E501  (lines as the compiler writes them)

from tools.tpu import cycles

PROGRAM = """HloModule step

%fused (p: f32[2]) -> f32[2] {
  ROOT %a = f32[2] add(%p, %p)
}

%body (p: (s32[])) -> (s32[]) {
  ROOT %f = f32[2] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"5"}
}

%condition (p: (s32[])) -> pred[] {
  ROOT %c = pred[] compare(%p, %p)
}

%few (p: f32[2]) -> f32[2] {
  ROOT %f.1 = f32[2] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"7"}
}

%many (p: f32[2]) -> f32[2] {
  ROOT %f.2 = f32[2] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"30"}
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %f.3 = f32[2] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"100"}
  %w = (s32[]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  ROOT %b = f32[2] conditional(%i, %p, %p), branch_computations={%few, %many}
}
"""


def test_loops_count_by_their_turns_and_conditionals_by_the_longest_branch():
  assert cycles.estimated_cycles(PROGRAM) == 100 + 4 * 5 + 30


def test_conditionals_of_two_branches_are_read_as_well():
  program = PROGRAM.replace(
    'branch_computations={%few, %many}',
    'true_computation=%few, false_computation=%few',
  )
  assert cycles.estimated_cycles(program) == 100 + 4 * 5 + 7


def test_an_unrolled_call_counts_what_it_calls():
  program = PROGRAM.replace(
    'conditional(%i, %p, %p), branch_computations={%few, %many}',
    'call(%p), to_apply=%many',
  )
  assert cycles.estimated_cycles(program) == 100 + 4 * 5 + 30
