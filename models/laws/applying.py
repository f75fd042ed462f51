"""The laws that apply to a component, by its kind and what it declares; and what they find."""

import functools
from collections.abc import Callable

from models.contracts import Embed, Head, Layer, Model, Norm, Pool, Position, Relative, Residual, Weigh, kind_of
from models.laws.carrier import layer_of, stack_of
from models.laws.declared import claims, says_causal
from models.laws.decoding import (
    decode,
    law_a_prompt_in_parts_is_one_pass,
    law_decoding_is_one_pass,
    law_foretold_tokens_are_taken_back,
)
from models.laws.depth import (
    law_every_branch_counts,
    law_recomputing_changes_nothing,
    law_residual_keeps_the_shape_of_the_state,
    law_scan_equals_loop,
)
from models.laws.devices import law_gradients_of_parts_add_up, law_gradients_on_a_mesh_are_those_on_one_device
from models.laws.ends import (
    law_embed_fills_in_positions,
    law_packed_examples_give_what_they_give_alone,
    law_packed_rows_give_the_outputs_of_the_examples_alone,
)
from models.laws.general import (
    law_calling_again_changes_nothing,
    law_compiled_equals_eager,
    law_equal_components_have_equal_parameters,
    law_every_parameter_has_a_gradient,
    law_floats_stay_in_their_type,
    law_gradients_at_zero_are_finite,
)
from models.laws.inputs import Component
from models.laws.layer import (
    LONG,
    law_causal_sees_nothing_later,
    law_cross_reads_the_whole_memory,
    law_keeps_the_shape,
    law_later_tokens_change_nothing,
    law_packed_rows_equal_the_examples_alone,
    law_rows_do_not_mix,
    law_segments_do_not_mix,
    looks_ahead,
    mixes_tokens,
    usable_length,
)
from models.laws.patching import (
    law_replacing_a_value_by_itself_changes_nothing,
    law_replacing_a_value_moves_what_depends_on_it,
)
from models.laws.scores import law_hidden_sources_get_no_weight, law_hidden_stays_hidden
from models.laws.vector import (
    law_norm_acts_on_each_vector_alone,
    law_norm_forgets_the_scale,
    law_norm_starts_with_mean_square_one,
    law_one_row_of_positions_serves_all,
    law_position_follows_the_token,
)
from models.laws.verdict import BrokenLawError, Law, NotTestedError, Verdict, name_of
from models.laws.widths import law_updates_keep_their_size_over_widths
from models.structure import replace

Function = Callable[..., None]
REMEDIES: dict[Function, str] = {
    law_compiled_equals_eager: "do not branch on values or on whether jax traces; use jnp.where and jax.lax.cond",
    law_floats_stay_in_their_type: "cast parameters and constants with .astype(x.dtype) before they meet x, and the"
    " result back",
    law_every_parameter_has_a_gradient: "remove the parameter, or declare it in `no_gradient` if it has none by"
    " construction",
    law_gradients_at_zero_are_finite: "add a small number inside roots, logarithms and divisions; jnp.where on the"
    " input, not the output",
    law_equal_components_have_equal_parameters: "give each part a module object of its own, as with"
    " models.structure.copy_as",
    law_calling_again_changes_nothing: "keep nothing on the class, in a list or in a global; decoding's state goes"
    " to the collection cache",
    law_keeps_the_shape: "give (b, t, d) as it came",
    law_rows_do_not_mix: "take no mean, norm or scale over the batch axis",
    law_segments_do_not_mix: "let tokens meet only where ctx.segments are equal; begin a state anew where the"
    " segment changes",
    law_packed_rows_equal_the_examples_alone: "meet only where ctx.segments are equal; count places by"
    " ctx.positions, not the index",
    law_causal_sees_nothing_later: "mask later tokens, across chunks too; declare `causal = False` if it is meant to"
    " see them",
    law_later_tokens_change_nothing: "mask later tokens, across chunks too; declare `causal = False` if it is meant"
    " to see them",
    law_cross_reads_the_whole_memory: "read all of ctx.memory.x",
    law_decoding_is_one_pass: "keep in the collection cache what later tokens need (models.cache), written at"
    " ctx.decoding.index",
    law_a_prompt_in_parts_is_one_pass: "take any number of new tokens at ctx.decoding.index, not one alone",
    law_foretold_tokens_are_taken_back: "let what is kept of a token be written over by the next one at its index",
    law_residual_keeps_the_shape_of_the_state: "let expand make the state as large as it will get; give back the"
    " same shapes",
    law_every_branch_counts: "add what the branch gives in every block; ctx.layer counts from 0",
    law_scan_equals_loop: "use ctx.layer as an array (jnp.where, jax.lax.cond), never as a Python number",
    law_recomputing_changes_nothing: "draw chance from self.make_rng alone",
    law_gradients_of_parts_add_up: "take no mean, norm or scale over the batch axis",
    law_gradients_on_a_mesh_are_those_on_one_device: "use jax.numpy on whole arrays, not on a device's part",
    law_updates_keep_their_size_over_widths: "divide by what grows with width; declare `roles` of vectors that"
    " products sum over",
    law_norm_acts_on_each_vector_alone: "take statistics over the last axis only",
    law_norm_forgets_the_scale: "declare `keeps_scale = True` if the norm follows the scale of its input by design",
    law_norm_starts_with_mean_square_one: "let scales start at one, or declare `starts_at`",
    law_position_follows_the_token: "use `positions`, not the index in the row",
    law_one_row_of_positions_serves_all: "let positions (1, t) broadcast over rows",
    law_hidden_stays_hidden: "add to scores; leave those at HIDDEN where they are",
    law_hidden_sources_get_no_weight: "give weight 0 where `visible` is false, and finite weights to rows that see"
    " nothing",
    law_packed_examples_give_what_they_give_alone: "read ctx.starts and ctx.segments: one output an example, in"
    " their order",
    law_packed_rows_give_the_outputs_of_the_examples_alone: "let tokens meet only where segments are equal",
    law_replacing_a_value_by_itself_changes_nothing: "compute with what modules give, by their __call__; call none"
    " within jax.lax loops",
    law_replacing_a_value_moves_what_depends_on_it: "compute with what modules give; let rows, examples and, if causal,"
    " later tokens stay apart",
    law_embed_fills_in_positions: "give the context back with positions filled in: dataclasses.replace(ctx,"
    " positions=...)",
}


def laws_of(component: Component) -> list[Law]:
    """Every law that applies to a component, cheapest first.

    A position, a relative position, a weighing or a router is also tested inside a layer that has it as a part, a norm
    inside blocks.
    """
    kind = kind_of(component)
    laws: list[Law] = [
        _law(law, component)
        for law in (
            law_floats_stay_in_their_type,
            law_compiled_equals_eager,
            law_calling_again_changes_nothing,
            law_equal_components_have_equal_parameters,
            law_every_parameter_has_a_gradient,
            law_gradients_at_zero_are_finite,
        )
    ]
    specific: dict[type | None, tuple[Function, ...]] = {
        Layer: (law_keeps_the_shape,),
        Residual: (law_residual_keeps_the_shape_of_the_state, law_keeps_the_shape, law_every_branch_counts),
        Norm: (law_norm_acts_on_each_vector_alone,),
        Position: (law_position_follows_the_token, law_one_row_of_positions_serves_all),
        Relative: (law_hidden_stays_hidden,),
        Weigh: (law_hidden_sources_get_no_weight,),
        Pool: (law_packed_examples_give_what_they_give_alone,),
        Head: (law_packed_examples_give_what_they_give_alone,),
        Embed: (law_embed_fills_in_positions,),
        Model: (law_packed_rows_give_the_outputs_of_the_examples_alone,),
    }
    laws += [_law(law, component) for law in specific.get(kind, ())]
    if kind is Norm:
        keeps = getattr(component, "keeps_scale", False)
        laws.append(
            _skip(law_norm_forgets_the_scale, "declares keeps_scale")
            if keeps
            else _law(law_norm_forgets_the_scale, component)
        )
        if (start := getattr(component, "starts_at", None)) is not None:
            laws.append(_law(law_norm_starts_with_mean_square_one, component, start))
    return laws + _laws_of_layers(component)


def _laws_of_layers(component: Component) -> list[Law]:
    layer, stack = layer_of(component), stack_of(component)
    laws: list[Law] = []
    if layer is not None:
        laws += [
            _at_length(law, layer)
            for law in (law_rows_do_not_mix, law_packed_rows_equal_the_examples_alone, law_segments_do_not_mix)
        ]
        laws += [_causal(law, layer) for law in (law_causal_sees_nothing_later, law_later_tokens_change_nothing)]
        if getattr(layer, "cross", False):
            laws.append(_law(law_cross_reads_the_whole_memory, layer))
        if kind_of(component) is not Residual:
            laws += [
                Law(name_of(law), functools.partial(_decodes, layer, law), REMEDIES[law])
                for law in (
                    law_decoding_is_one_pass,
                    law_a_prompt_in_parts_is_one_pass,
                    law_foretold_tokens_are_taken_back,
                )
            ]
        laws += [
            _law(law, layer) for law in (law_gradients_of_parts_add_up, law_gradients_on_a_mesh_are_those_on_one_device)
        ]
    if stack is not None:
        laws += [_law(law, stack) for law in (law_updates_keep_their_size_over_widths, law_scan_equals_loop)]
        laws.append(_law(law_recomputing_changes_nothing, replace(stack, "remat", "full"), stack))
        laws.append(_law(law_replacing_a_value_moves_what_depends_on_it, component))
    if stack is not None or kind_of(component) in (Embed, Head, Pool, Model):
        laws.append(_law(law_replacing_a_value_by_itself_changes_nothing, component))
    return laws


def _law(law: Function, *args: object) -> Law:
    return Law(name_of(law), functools.partial(law, *args), REMEDIES[law])


def _skip(law: Function, reason: str) -> Law:
    def test() -> None:
        raise NotTestedError(reason)

    return Law(name_of(law), test, REMEDIES[law])


def _at_length(law: Function, layer: Component) -> Law:
    return Law(name_of(law), lambda: law(layer, usable_length(layer)[0]), REMEDIES[law])


def _causal(law: Function, layer: Component) -> Law:
    def test() -> None:
        length = usable_length(layer)[0]
        if claims(layer, "causal") and not says_causal(layer):
            raise NotTestedError("declares causal = False")
        if not says_causal(layer) and looks_ahead(layer, length) == "always":
            raise NotTestedError(
                "outputs depend on later tokens everywhere; declare `causal = True` to be held to it, or False"
            )
        law(layer, length)

    return Law(name_of(law), test, REMEDIES[law])


def _decodes(layer: Component, law: Function) -> None:
    """Tests a law of decoding, unless the layer does not decode: looks ahead, refuses, or mixes and keeps no state."""
    claimed, length = getattr(layer, "decodes", None), min(usable_length(layer)[0], LONG)
    if claimed is False:
        raise NotTestedError("declares decodes = False")
    cross = getattr(layer, "cross", False)
    if (
        not claimed
        and not cross
        and (looks_ahead(layer, length) == "always" or (claims(layer, "causal") and not says_causal(layer)))
    ):
        raise NotTestedError("not decodable: outputs depend on later tokens")
    try:
        _, _, cache = decode(layer, length)
    except ValueError as error:
        if claimed:
            raise BrokenLawError(str(error).splitlines()[0]) from None
        raise NotTestedError(f"not decodable: {(str(error).splitlines() or ['it refuses'])[0]}") from None
    if not cache and not claimed and not cross and mixes_tokens(layer, length):
        raise NotTestedError(
            "not decodable: mixes tokens and keeps no state; keep it in the collection cache to generate"
        )
    law(layer, length)


def verdict(law: Law) -> Verdict:
    """Tests a law; what a component's own code raises breaks it too."""
    try:
        law.test()
    except NotTestedError as reason:
        return Verdict(law.name, "not tested", str(reason))
    except BrokenLawError as error:
        return Verdict(law.name, "broken", str(error), law.remedy)
    except Exception as error:  # whatever the component's own code raises
        reason = next((text for text in str(error).splitlines() if text.strip()), "no reason given")
        return Verdict(law.name, "broken", f"{type(error).__name__}: {reason}", law.remedy)
    return Verdict(law.name, "holds")
