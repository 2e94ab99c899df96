//! Takes the search for the largest magnitude out of quantization: kernels note it as they store their results.
//!
//! Looks for `quantize_packed` with one scale for a tensor. Adds a node `magnitude` (the bits of an f32 in an i32
//! scalar) of the value before views, one for all that quantize the same elements, and gives it to `quantize_packed` as
//! its second operand. Always writes `on_load`: 1 where the value is no state and every reader is a kernel that makes
//! codes as it loads floats (`kernels::quantizes_on_load`: convolutions on matrices, of vectors of channels), otherwise
//! 0. Equal because the scale is a function of that magnitude, and codes are a function of scale and element. Refuses
//! constants, and rows with a scale each.

use super::axis_orders::source_of_transposition;
use super::{Context, Pass, PassError, at};
use crate::ir::{Attr, Attrs, Edit, Graph, Level, NodeKind, Op, OpError, Patch, Val, ValueId};
use crate::kernels;
use crate::ops::core::layout::{TO_NCHW, TO_NHWC};
use crate::ops::core::{quantize_packed, reshape};
use std::collections::BTreeMap;

/// The pass.
pub struct NoteMagnitudes;

impl Pass for NoteMagnitudes {
    fn name(&self) -> &str {
        "note_magnitudes"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        if graph.level != Level::Kernel {
            return Ok(edit.finish());
        }
        let mut magnitudes: BTreeMap<ValueId, Val> = BTreeMap::new();
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op().filter(|op| op.is(&quantize_packed::DEF)) else { continue };
            let [Some(x)] = graph.operands(id)[..] else { continue };
            if op.attrs.str("granularity") != Some("tensor") || graph.constant(x).is_some() {
                continue;
            }
            let failed = |e| at(&node.name)(OpError::Edit(Box::new(e)));
            edit.on_behalf_of(id);
            let source = source(graph, x);
            let magnitude = match magnitudes.get(&source) {
                Some(magnitude) => *magnitude,
                None => {
                    let op = Op::new(&quantize_packed::MAGNITUDE, Attrs::new());
                    let magnitude = edit.add(op, &[Val::Old(source)]).map_err(failed)?;
                    edit.set_name(magnitude, &format!("{}.magnitude", graph.value(source).name));
                    edit.set_new_format(magnitude, None);
                    magnitudes.insert(source, magnitude);
                    magnitude
                }
            };
            let users = graph.users(id.out(0));
            // What is in a state may be another version when it is loaded.
            let is_steady = matches!(graph.node(source.node).kind, NodeKind::Op(_) | NodeKind::Input)
                && graph.stored_over(source.node).is_none();
            let on_load = is_steady
                && !users.is_empty()
                && !graph.is_output(id.out(0))
                && users.iter().all(|(user, slot)| *slot == 0 && kernels::quantizes_on_load(graph, *user, cx.target));
            let mut op = op.clone();
            op.attrs.0.insert("on_load".to_owned(), Attr::Int(i64::from(on_load)));
            let codes = edit.add(op, &[Val::Old(x), magnitude]).map_err(failed)?;
            edit.replace(id.out(0), codes);
        }
        Ok(edit.finish())
    }
}

/// The value of the same elements before views and transpositions of images.
fn source(graph: &Graph, mut value: ValueId) -> ValueId {
    loop {
        let is_view = graph.node(value.node).op().is_some_and(|op| op.is(&reshape::DEF));
        let viewed = graph.operands(value.node).first().copied().flatten().filter(|_| is_view);
        let transposed = || [TO_NHWC, TO_NCHW].iter().find_map(|perm| source_of_transposition(graph, value, perm));
        match viewed.or_else(transposed) {
            Some(before) => value = before,
            None => return value,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::packed::{Granularity, Packing, pack};
    use crate::ir::{Attrs, DType, Expr, Graph, Level, Op, Shape, Tensor, TensorType};
    use crate::ops::core::{conv, quantize_packed};
    use crate::passes::testing::{check_graph_on, check_on, stays_on};
    use crate::passes::{Context, Pass, Settings};
    use crate::targets::Target;

    const ROWS: &str = "graph g kernel
  %x = input : f32[4,16]
  %y = pointwise(%x) {dtype=f32, expr=`relu(x0)`} : f32[4,16]
  %r = reshape(%y) {shape=d[2,2,16]} : f32[2,2,16]
  %q = quantize_packed(%r) {granularity=\"GRANULARITY\"} : i8<SCALE>[2,2,16]
  output %q
";

    #[test]
    fn one_scale_comes_of_a_magnitude_before_views() {
        let text = ROWS.replace("GRANULARITY", "tensor").replace("SCALE", "t:f32");
        let after = check_on("h200", "note_magnitudes", &text, "tensor").to_string();
        assert!(after.contains("magnitude(%y)") && after.contains("on_load=0"), "{after}");
    }

    /// A chain of two convolutions of INT8 activations, the first of so many channels.
    fn chain(channels: usize) -> Graph {
        let mut graph = Graph::new("g", Level::Kernel);
        let mut x = graph.add_input("x", TensorType::of(DType::F32, &[1, 4, 4, channels]));
        for (at, channels) in [channels, 16].into_iter().enumerate() {
            let codes = Op::new(&quantize_packed::DEF, quantize_packed::attrs(Granularity::Tensor));
            let codes = graph.add_op(&format!("quantize{at}"), codes, &[Some(x)], &[format!("q{at}")]).unwrap();
            let packing = Packing::activation(Granularity::Row);
            let bytes = pack(packing, 16, channels, &vec![1; 16 * channels], &[0.5; 16]).unwrap();
            let ty = TensorType { dtype: DType::I8, shape: Shape::of(&[16, channels]), packing: Some(packing) };
            let filters = graph.add_const(&format!("w{at}"), Tensor::from_bytes(ty, bytes).unwrap());
            let attrs = Attrs::new().with_ints("kernel", [1, 1]).with_str("layout", "nhwc");
            let attrs = attrs.with_expr("epilogue", Expr::parse("relu(x0)").unwrap());
            let operands = [Some(codes.out(0)), Some(filters)];
            let conv = Op::new(&conv::DEF, attrs);
            x = graph.add_op(&format!("conv{at}"), conv, &operands, &[format!("y{at}")]).unwrap().out(0);
        }
        graph.add_output("y", x);
        graph.verify().unwrap();
        graph
    }

    #[test]
    fn convolutions_on_matrices_make_codes_as_they_load() {
        let target = Target::shipped("h200").unwrap();
        let dispatches = |channels: usize| -> Vec<usize> {
            let mut graph = chain(channels);
            let settings = Settings::default();
            let patch = super::NoteMagnitudes.run(&graph, &mut Context::new(&target, &settings)).unwrap();
            graph.apply(patch);
            graph.verify().unwrap();
            assert_eq!(graph.to_string().matches("on_load=1").count(), if channels == 16 { 2 } else { 1 });
            let stored = graph.order().into_iter().filter(|id| !crate::plan::memory::is_view(&graph, *id));
            let calls = |id| crate::kernels::dispatches(&graph, id, &target).unwrap().len();
            stored.filter(|id| graph.node(*id).op().is_some()).map(calls).collect()
        };
        // The input's magnitude, two convolutions, of which the first notes that of its result; and codes of three
        // channels, which make no vectors.
        assert_eq!(dispatches(16).iter().sum::<usize>(), 3);
        assert_eq!(dispatches(3).iter().sum::<usize>(), 4);
    }

    #[test]
    fn a_convolution_on_matrices_reads_floats() {
        let after = check_graph_on("h200", "note_magnitudes", chain(16), "convolutions").to_string();
        assert_eq!(after.matches("magnitude(").count(), 2, "{after}");
    }

    #[test]
    fn constants_stay() {
        let text = "graph g kernel
  %c = const [0.5,-1.0,0.25,2.0] : f32[1,4]
  %q = quantize_packed(%c) {granularity=\"tensor\"} : i8<t:f32>[1,4]
  output %q
";
        stays_on("h200", "note_magnitudes", text);
    }

    #[test]
    fn rows_with_a_scale_each_stay() {
        let text = ROWS.replace("GRANULARITY", "row").replace("SCALE", "c:f32");
        stays_on("h200", "note_magnitudes", &text);
    }
}
