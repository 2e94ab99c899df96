//! Lays filters out with channels last, `[OC, kh, kw, C/group]`, before they are quantized, where `channels_last` will
//! convolve so: blocks that share a scale then run along the channels of one place of the kernel, as they are read.
//!
//! Looks for Conv over two spatial axes with constant filters of several channels and places, which only convolutions
//! read, and puts a transposition of the other order in their place. Equal because that gives the filters as they were.
//! It costs nothing: `fold_constants` takes it out of filters that stay floats, `channels_last` out of those that are
//! quantized.

use super::{Context, Pass, PassError, at};
use crate::ir::{Attrs, Edit, Graph, Level, MatrixLayout, Op, OpError, Patch, ValueId};
use crate::ops::core::layout::{self, TO_NCHW, TO_NHWC};
use crate::ops::onnx::movement;
use crate::ops::weights;
use std::collections::BTreeSet;

/// The pass.
pub struct OrderFilters;

impl Pass for OrderFilters {
    fn name(&self) -> &str {
        "order_filters"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        let mut done: BTreeSet<ValueId> = BTreeSet::new();
        if graph.level != Level::Onnx || !cx.target.prefers_channels_last() {
            return Ok(edit.finish());
        }
        for id in graph.order() {
            let Some(found) = weights::of(graph, id).filter(|found| found.layout == MatrixLayout::Filters) else {
                continue;
            };
            let Some(tensor) = graph.constant(found.value).filter(|tensor| tensor.is_present()) else { continue };
            let [_, channels, kh, kw] = tensor.dims()[..] else { continue };
            // With one channel or one place, both orders are the same.
            if channels == 1 || kh * kw == 1 || !only_filters(graph, found.value) || !done.insert(found.value) {
                continue;
            }
            let node = &graph.node(id).name;
            let name = &graph.value(found.value).name;
            let last = layout::transposed(tensor, TO_NHWC).map_err(at(node))?;
            edit.on_behalf_of(id);
            let last = edit.add_named_const(&format!("{name}.ohwi"), last);
            let attrs = Attrs::new().with_ints("perm", TO_NCHW.map(|axis| axis as i64));
            let added = edit.add(Op::new(&movement::TRANSPOSE, attrs), &[last]);
            let first = added.map_err(|e| at(node)(OpError::Edit(Box::new(e))))?;
            edit.replace(found.value, first);
        }
        Ok(edit.finish())
    }
}

/// Whether only convolutions read a constant, as filters, perhaps cast.
fn only_filters(graph: &Graph, value: ValueId) -> bool {
    let is_filter = |&(user, slot): &(crate::ir::NodeId, usize)| match graph.node(user).op() {
        Some(op) if op.def.onnx == "Cast" => only_filters(graph, user.out(0)),
        Some(op) => op.weights_at(slot).is_some_and(|weights| weights.layout == Some(MatrixLayout::Filters)),
        None => false,
    };
    !graph.is_output(value) && graph.users(value).iter().all(is_filter)
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check_on, stays_on};

    fn conv(w: &str, ty: &str, reader: &str) -> String {
        format!(
            "graph g onnx
  %x = input : f32[1,2,4,4]
  %w = const [{w}] : {ty}
  %y = conv(%x, %w) : f32[1,1,4,3]
{reader}  output %y
"
        )
    }

    #[test]
    fn filters_become_the_transposition_of_their_other_order() {
        let text = conv("1.0,2.0,3.0,4.0", "f32[1,2,1,2]", "");
        let after = check_on("h200", "order_filters", &text, "filters").to_string();
        assert!(
            after.contains("const [1.0,3.0,2.0,4.0] : f32[1,1,2,2]") && after.contains("perm=[0,3,1,2]"),
            "{after}"
        );
        // Others read them as they are, or the target has no use for it.
        let text = conv("1.0,2.0,3.0,4.0", "f32[1,2,1,2]", "  %z = neg(%w) : f32[1,2,1,2]\n  output %z\n");
        stays_on("h200", "order_filters", &text);
        let text = conv("1.0,2.0,3.0,4.0", "f32[1,2,1,2]", "");
        stays_on("lavapipe", "order_filters", &text);
    }
}
