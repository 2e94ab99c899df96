//! Writes what is left of QuantizeLinear and DequantizeLinear as arithmetic.
//!
//! Looks for both, after `lower_quantized` took those that kernels read packed. A DequantizeLinear of constants becomes
//! the constant that it is; any other becomes one `pointwise`, scales and zero points broadcast along their axis or
//! over their blocks. Equal by the definition of ONNX, opset 21. Refuses blocks that do not divide their axis, and
//! codes that are floats: these run on the host.

use super::{Context, Pass, PassError, at};
use crate::ir::{Edit, Expand, Graph, Patch, Tensor, Val};
use crate::ops;

/// The pass.
pub struct LowerQdq;

impl Pass for LowerQdq {
    fn name(&self) -> &str {
        "lower_qdq"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node
                .op()
                .filter(|op| op.is(&ops::core::quantize_linear::DEF) || op.is(&ops::core::quantize_linear::DEQUANTIZE))
            else {
                continue;
            };
            let operands = graph.operands(id);
            let constants: Vec<Option<&Tensor>> = operands.iter().map(|v| v.and_then(|v| graph.constant(v))).collect();
            let all_constant =
                operands.iter().zip(&constants).all(|(v, t)| v.is_none() || t.is_some_and(|t| t.is_present()));
            edit.on_behalf_of(id);
            if all_constant {
                let results = ops::reference::evaluate(op, &constants, 1).map_err(at(&node.name))?;
                if let Some(tensor) = results.into_iter().next() {
                    let constant = edit.add_named_const(&graph.value(id.out(0)).name, tensor);
                    edit.replace(id.out(0), constant);
                }
                continue;
            }
            let inputs = operands.into_iter().map(|v| v.map(Val::Old)).collect();
            let outputs = node.outputs.iter().map(|v| v.ty.clone()).collect();
            match ops::core::quantize_linear::written_out(
                &mut Expand { edit: &mut edit, attrs: &op.attrs, inputs, outputs },
                op,
            ) {
                Ok(Some(val)) => edit.replace(id.out(0), val),
                Ok(None) => cx.explain.note(&[&node.name], "lower_qdq", "arithmetic", || {
                    "its blocks or codes have no such form".to_owned()
                }),
                Err(error) => return Err(at(&node.name)(error)),
            }
        }
        Ok(edit.finish())
    }
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    #[test]
    fn codes_along_an_axis_become_arithmetic() {
        let text = "graph g core
  %x = input : f32[2,3]
  %s = const [0.5,0.25,2.0] : f32[3]
  %z = const [1,2,3] : i8[3]
  %q = quantize_linear(%x, %s, %z) {axis=1} : i8[2,3]
  %y = dequantize_linear(%q, %s, %z) {axis=1} : f32[2,3]
  output %y
";
        let after = check("lower_qdq", text, "axis");
        assert!(!after.to_string().contains("_linear("));
    }

    #[test]
    fn blocks_that_are_not_full_stay() {
        let text = "graph g core
  %x = input : f32[2,3]
  %s = const [0.5,0.25,2.0,1.0] : f32[2,2]
  %z = const [1,2,3,4] : i8[2,2]
  %q = quantize_linear(%x, %s, %z) {axis=1, block_size=2} : i8[2,3]
  output %q
";
        stays("lower_qdq", text);
    }

    #[test]
    fn codes_that_are_floats_stay() {
        let text = "graph g core
  %x = input : f32[2,3]
  %s = const [0.5] : f32[]
  %z = const [0.0] : f8e4m3[]
  %q = quantize_linear(%x, %s, %z) : f8e4m3[2,3]
  output %q
";
        stays("lower_qdq", text);
    }

    #[test]
    fn constants_are_computed() {
        let text = "graph g core
  %x = input : f32[3]
  %c = const [1,2,3] : i8[3]
  %s = const [0.5] : f32[]
  %w = dequantize_linear(%c, %s) : f32[3]
  %y = pointwise(%x, %w) {dtype=f32, expr=`mul(x0,x1)`} : f32[3]
  output %y
";
        assert!(check("lower_qdq", text, "constants").to_string().contains("const [0.5,1.0,1.5]"));
    }
}
