"""Cycles read off a program's text."""

import pytest

from train.cost.compiled import count_collectives, count_hbm_bytes, count_kernels, count_operations
from train.cost.hlo import Program

PROGRAM = """HloModule jit_step, is_scheduled=true

%body (p: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  ROOT %f = (s32[]) fusion(%p), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"5"}}
}

%condition (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %bound = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] fusion(%p, %bound), kind=kLoop, calls=%fused, \
    backend_config={"window_config":{"estimated_cycles":"1"}}
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
    assert Program(PROGRAM.replace("%bodyLOOP", f"%body{loop}")).sum_cycles() == 1000 + 107 + trips * 6


def test_a_loop_of_unknown_length_counts_once() -> None:
    text = PROGRAM.replace("constant(3)", "parameter(1)").replace("%bodyLOOP", "%body")
    assert Program(text).sum_cycles() == 1000 + 107 + 6


COSTS = """HloModule jit_step, is_scheduled=true, num_partitions=4

%products (a: bf16[8,16], b: bf16[16,32]) -> f32[8,32] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,32]{1,0} parameter(1)
  ROOT %c = f32[8,32]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%cut (stack: f32[12,8,32], place: s32[]) -> f32[8,32] {
  %stack = f32[12,8,32]{2,1,0} parameter(0)
  %place = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,8,32]{2,1,0} dynamic-slice(%stack, %place, %zero, %zero), dynamic_slice_sizes={1,8,32}
  ROOT %flat = f32[8,32]{1,0} bitcast(%slice)
}

%body (p: (s32[], bf16[8,16], bf16[16,32], f32[12,8,32])) -> (s32[], bf16[8,16], bf16[16,32], f32[12,8,32]) {
  %p = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, f32[12,8,32]{2,1,0}) parameter(0)
  %n = s32[] get-tuple-element(%p), index=0
  %x = bf16[8,16]{1,0} get-tuple-element(%p), index=1
  %w = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=2
  %s = f32[12,8,32]{2,1,0} get-tuple-element(%p), index=3
  %y = f32[8,32]{1,0} fusion(%x, %w), kind=kOutput, calls=%products, \
    backend_config={"window_config":{"estimated_cycles":"10"}}
  %sum = f32[8,32]{1,0} all-reduce(%y), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %row = f32[8,32]{1,0} fusion(%s, %n), kind=kLoop, calls=%cut
  ROOT %t = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, f32[12,8,32]{2,1,0}) tuple(%n, %x, %w, %s)
}

%condition (p: (s32[], bf16[8,16], bf16[16,32], f32[12,8,32])) -> pred[] {
  %p = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, f32[12,8,32]{2,1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (p: (s32[], bf16[8,16], bf16[16,32], f32[12,8,32]), image: f32[1,6,6,3], \
    kernel: f32[3,3,3,4]) -> f32[1,4,4,4] {
  %p = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, f32[12,8,32]{2,1,0}) parameter(0)
  %image = f32[1,6,6,3]{3,2,1,0} parameter(1)
  %kernel = f32[3,3,3,4]{3,2,1,0} parameter(2)
  %w = (s32[], bf16[8,16]{1,0}, bf16[16,32]{1,0}, f32[12,8,32]{2,1,0}) while(%p), condition=%condition, body=%body, \
    TRIPS
  %own.3 = f32[8,32]{1,0} custom-call(%image), custom_call_target="tpu_custom_call", \
    backend_config={"custom_call_config":{"body":"
}}
"}}
  ROOT %out = f32[1,4,4,4]{3,2,1,0} convolution(%image, %kernel), window={size=3x3}, dim_labels=b01f_01io->b01f
}
"""


def test_products_communication_kernels_and_bytes_are_counted_as_often_as_they_run() -> None:
    program = Program(COSTS.replace("TRIPS", 'backend_config={"known_trip_count":{"n":"5"}}'))
    assert program.sum_cycles() == 5 * 10
    assert count_operations(program) == 5 * 2 * 8 * 16 * 32 + 2 * 4 * 4 * 4 * 3 * 3 * 3
    assert count_collectives(program) == {"all-reduce": (5, 5 * 2 * 8 * 32 * 4 * 3 / 4)}
    assert count_kernels(program) == {("own", ((1, 6, 6, 3), (8, 32))): 1}
    # the weights lie beside the core, a row is cut out
    product, reduced, row = 8 * 16 * 2 + 8 * 32 * 4, 2 * 8 * 32 * 4, 2 * 8 * 32 * 4 + 4
    convolved = (6 * 6 * 3 + 3 * 3 * 3 * 4 + 4 * 4 * 4) * 4
    kernel = (6 * 6 * 3 + 8 * 32) * 4
    assert count_hbm_bytes(program) == 5 * (product + reduced + row) + convolved + kernel


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(6, 3, 1, 0), (6, 3, 2, 1), (5, 2, 3, 0), (4, 4, 1, 3)])
def test_products_of_a_convolution_are_those_with_real_inputs(size: int, kernel: int, stride: int, pad: int) -> None:
    out = (size + 2 * pad - kernel) // stride + 1
    met = sum(0 <= place * stride + tap - pad < size for place in range(out) for tap in range(kernel))
    text = f"""HloModule m

ENTRY %main (x: f32[1,{size},3], k: f32[{kernel},3,4]) -> f32[1,{out},4] {{
  %x = f32[1,{size},3]{{2,1,0}} parameter(0)
  %k = f32[{kernel},3,4]{{2,1,0}} parameter(1)
  ROOT %y = f32[1,{out},4]{{2,1,0}} convolution(%x, %k), window={{size={kernel} stride={stride} pad={pad}_{pad}}}, \
    dim_labels=b0f_0io->b0f
}}
"""
    assert count_operations(Program(text)) == 2 * met * 3 * 4


def test_a_loop_inside_of_a_loop_runs_as_often_as_both_together() -> None:
    loop = 'condition=%condition, body=%{}, backend_config={{"known_trip_count":{{"n":"{}"}}}}'
    outer = f"""%outer (p: (s32[])) -> (s32[]) {{
  %p = (s32[]) parameter(0)
  ROOT %inner = (s32[]) while(%p), {loop.format("body", 4)}
}}

ENTRY"""
    text = PROGRAM.replace("condition=%condition, body=%bodyLOOP", loop.format("outer", 3)).replace("ENTRY", outer)
    assert Program(text).sum_cycles() == 1000 + 107 + 3 * (1 + 4 * 6)


SENT = """HloModule jit_step, replica_count=2, num_partitions=4

%piece (x: f32[256]) -> f32[1024] {
  %x = f32[256]{0} parameter(0)
  ROOT %h = f32[1024]{0} all-gather(%x), channel_id=1, replica_groups=mesh['a'=4,'b'=2],\
 device_ids=([2,4]T(1,0)) {'a'}, CHAIN
}

%all-reduce-scatter.1 (x: f32[1024]) -> f32[128] {
  %x = f32[1024]{0} parameter(0)
  %i = f32[1024]{0} all-reduce(%x), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %j = f32[128]{0} dynamic-slice(%i), dynamic_slice_sizes={128}
}

%aside (x: f32[1024]) -> f32[1024] {
  %x = f32[1024]{0} parameter(0)
  ROOT %k = f32[1024]{0} all-reduce(%x), channel_id=1, to_apply=%add
}

ENTRY %main (x: f32[1024], y: f32[2048]) -> f32[1024] {
  %x = f32[1024]{0} parameter(0)
  %y = f32[2048]{0} parameter(1)
  %a = (f32[1024]{0}, f32[2048]{0}) all-reduce-start(%x, %y), channel_id=1, to_apply=%add
  %b = ((f32[1024]{0}, f32[2048]{0}), (f32[4096]{0}, f32[8192]{0})) all-gather-start(%x, %y), channel_id=2, \
    dimensions={0}
  %c = (f32[1024]{0}, f32[256]{0}) reduce-scatter-start(%x), channel_id=3, to_apply=%add, dimensions={0}
  %d = (f32[1024]{0}, f32[1024]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=4, \
    source_target_pairs={{0,1}}
  %e = f32[256]{0} reduce-scatter(%x), channel_id=5, replica_groups=[2,4]<=[8], to_apply=%add, dimensions={0}
  %f = f32[256]{0} slice(%x), slice={[0:256]}
  %g = f32[1024]{0} fusion(%f), kind=kCustom, calls=%piece
  %h = f32[1024]{0} fusion(%f), kind=kCustom, calls=%piece
  %i = f32[128]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %j = f32[1024]{0} all-to-all(%x), channel_id=6, replica_groups=mesh['a'=8] {'a':(2)4}, dimensions={0}
  %k = ((f32[1024]{0}), f32[1024]{0}, u32[]) call-start(%x), async_execution_thread="sparsecore", to_apply=%aside
  ROOT %out = f32[1024]{0} collective-permute-done(%d)
}
"""


def test_what_is_communicated_is_what_a_device_of_a_ring_sends_whether_waited_for_or_not() -> None:
    assert count_collectives(Program(SENT.replace("CHAIN", 'dimensions={0}, frontend_attributes={chain_id="8"}'))) == {
        "all-reduce": (2, 2 * 4 * (1024 + 2048 + 1024) * 7 / 8),
        "all-gather": (2, 4 * (4096 + 8192) * 7 / 8 + 4 * 1024 * 3 / 4),
        "reduce-scatter": (3, 4 * 1024 * (7 / 8 + 3 / 4 + 7 / 8)),
        "collective-permute": (1, 4 * 1024),
        "all-to-all": (1, 4 * 1024 * 3 / 4),
    }
