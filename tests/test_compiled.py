"""Cycles read off a program's text."""

import pytest

from train.study.hlo import Program

PROGRAM = """HloModule jit_step, is_scheduled=true

%body (p: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  ROOT %f = (s32[]) fusion(%p), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"5"}}
}

%condition (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %bound = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] fusion(%p, %bound), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"1"}}
}

%cheap (p: f32[]) -> f32[] {
  ROOT %f = f32[] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"7"}
}

%dear (p: f32[]) -> f32[] {
  ROOT %f = f32[] call(%p), to_apply=%cheap, metadata={op_name="one
 name in two lines"}
  %g = f32[] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"100"}
}

ENTRY %main (p: (s32[]), q: f32[]) -> (s32[]) {
  %p = (s32[]) parameter(0)
  %f = (s32[]) fusion(%p), kind=kLoop, calls=%body, backend_config={"estimated_cycles":"1000"}
  %choice = f32[] conditional(%p, %p, %p), branch_computations={%cheap, %dear}
  ROOT %w = (s32[]) while(%f), condition=%condition, body=%bodyLOOP
}
"""


@pytest.mark.parametrize(("loop", "trips"), [("", 3), (', backend_config={"known_trip_count":{"n":"11"}}', 11)])
def test_cycles_of_loops_are_counted_by_their_trips_and_of_choices_the_dearest_branch(loop: str, trips: int) -> None:
    assert Program(PROGRAM.replace("%bodyLOOP", f"%body{loop}")).cycles() == 1000 + 107 + trips * 6


def test_a_loop_of_unknown_length_counts_once() -> None:
    text = PROGRAM.replace("constant(3)", "parameter(1)").replace("%bodyLOOP", "%body")
    assert Program(text).cycles() == 1000 + 107 + 6
