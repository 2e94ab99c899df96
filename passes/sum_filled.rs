//! Sums rows instead of multiplying them with a matrix that holds one number throughout.
//!
//! Looks for a MatMul, or a Gemm without transA, whose right operand is a ConstantOfShape that was too large to become
//! a constant. Writes `mul` of the left operand by the number (alpha in it), `reduce_sum` over the last axis, `expand`
//! to the shape of the product, and `add` of C, which a `mul` by beta precedes unless beta is 1. It multiplies first,
//! since a sum without the factor may be beyond f16. Equal because each element of a row of the product is the sum of
//! the row of the left operand times that number; only the order of the sum differs. Refuses where a size is not known,
//! operands that are no matrices, and constants: their data may be anything, and they can be packed.

use super::{Context, Pass, PassError, at};
use crate::ir::{Attr, Attrs, DType, Edit, Graph, NodeId, NodeKind, Op, OpError, Patch, Tensor, Val, ValueId};
use crate::ops;

/// The pass.
pub struct SumFilled;

impl Pass for SumFilled {
    fn name(&self) -> &str {
        "sum_filled"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let Some(product) = Product::of(graph, id, cx) else { continue };
            edit.on_behalf_of(id);
            let sum = product.emit(&mut edit).map_err(at(&graph.node(id).name))?;
            edit.replace(id.out(0), sum);
        }
        Ok(edit.finish())
    }
}

/// A product with a matrix of equal elements.
struct Product {
    a: ValueId,
    /// What each sum is multiplied with.
    factor: f32,
    /// The bias of a Gemm, and its factor.
    bias: Option<(ValueId, f32)>,
    dtype: DType,
    /// Sizes of the result.
    dims: Vec<i64>,
}

impl Product {
    fn of(graph: &Graph, id: NodeId, cx: &mut Context<'_>) -> Option<Product> {
        let node = graph.node(id);
        let op = node.op().filter(|op| matches!(op.def.onnx, "MatMul" | "Gemm"))?;
        let operands = graph.operands(id);
        let (a, b) = (operands.first().copied()??, operands.get(1).copied()??);
        let value = filling(graph, b)?;
        let mut refuse = |because: &str| {
            cx.explain.note(&[&node.name], "sum_filled", "sum", || because.to_owned());
            None
        };
        if op.attrs.int("transA").unwrap_or(0) != 0 {
            return refuse("its left operand is transposed");
        }
        if graph.ty(a).shape.rank() < 2 || graph.ty(b).shape.rank() != 2 {
            return refuse("its operands are no matrices");
        }
        let ty = &node.outputs[0].ty;
        let Some(dims) = ty.shape.known() else { return refuse("a size is not known") };
        let factor = value * op.attrs.float("alpha").unwrap_or(1.0);
        let bias = operands.get(2).copied().flatten().map(|c| (c, op.attrs.float("beta").unwrap_or(1.0)));
        Some(Product { a, factor, bias, dtype: ty.dtype, dims: dims.into_iter().map(|n| n as i64).collect() })
    }

    fn emit(self, edit: &mut Edit<'_>) -> Result<Val, OpError> {
        let add = |edit: &mut Edit<'_>, onnx: &str, attrs: Attrs, operands: &[Val]| {
            let def = ops::registry().by_onnx(onnx).ok_or(OpError::Bug("the registry lacks an operator of ONNX"))?;
            edit.add(Op::new(def, attrs), operands).map_err(|e| OpError::Edit(Box::new(e)))
        };
        // Each element first, as in the product: a sum without the factor might be beyond f16.
        let factor = edit.add_const(Tensor::from_f32s(self.dtype, &[], &[self.factor])?);
        let scaled = add(edit, "Mul", Attrs::new(), &[self.a.into(), factor])?;
        let axes = edit.add_const(Tensor::from_i64s(DType::I64, &[1], &[-1])?);
        let sum = add(edit, "ReduceSum", Attrs::new().with_int("keepdims", 1), &[scaled, axes])?;
        let shape = edit.add_const(Tensor::from_i64s(DType::I64, &[self.dims.len()], &self.dims)?);
        let rows = add(edit, "Expand", Attrs::new(), &[sum, shape])?;
        match self.bias {
            None => Ok(rows),
            Some((c, 1.0)) => add(edit, "Add", Attrs::new(), &[rows, c.into()]),
            Some((c, beta)) => {
                let beta = edit.add_const(Tensor::from_f32s(self.dtype, &[], &[beta])?);
                let c = add(edit, "Mul", Attrs::new(), &[c.into(), beta])?;
                add(edit, "Add", Attrs::new(), &[rows, c])
            }
        }
    }
}

/// The one number that a value holds throughout, where a ConstantOfShape makes it.
fn filling(graph: &Graph, value: ValueId) -> Option<f32> {
    let NodeKind::Op(op) = &graph.node(value.node).kind else { return None };
    if op.def.onnx != "ConstantOfShape" {
        return None;
    }
    match op.attrs.0.get("value") {
        None => Some(0.0),
        Some(Attr::Tensor(tensor)) => tensor.to_f32s().ok()?.first().copied(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    fn graph(product: &str, shape: &str) -> String {
        format!(
            "graph g onnx
  %x = input : f32[2,3]
  %c = input : f32[4]
  %shape = const {shape} : i64[2]
  %w = constant_of_shape(%shape) {{value=const [0.5] : f32[1]}} : f32{shape}
  {product}
  output %y
"
        )
    }

    #[test]
    fn a_product_with_a_filled_matrix_is_a_sum() {
        let after =
            check("sum_filled", &graph("%y = gemm(%x, %w, %c) {alpha=2.0f, transB=1} : f32[2,4]", "[4,3]"), "gemm");
        assert!(!after.to_string().contains("gemm(") && !after.to_string().contains("constant_of_shape"), "{after}");
        let after = check("sum_filled", &graph("%y = matmul(%x, %w) : f32[2,4]", "[3,4]"), "matmul");
        assert!(!after.to_string().contains("matmul("), "{after}");
    }

    #[test]
    fn a_transposed_left_operand_stays() {
        let text = graph("%y = gemm(%x, %w) {transA=1} : f32[3,4]", "[2,4]");
        stays("sum_filled", &text);
    }

    #[test]
    fn a_bias_is_multiplied_by_beta() {
        let text = graph("%y = gemm(%x, %w, %c) {beta=0.5f, transB=1} : f32[2,4]", "[4,3]");
        let after = check("sum_filled", &text, "beta").to_string();
        assert!(!after.contains("gemm(") && after.matches("mul(").count() == 2, "{after}");
    }

    #[test]
    fn unknown_sizes_constants_and_vectors_stay() {
        let known = graph("%y = matmul(%x, %w) : f32[2,4]", "[3,4]");
        stays("sum_filled", &known.replace("[2,3]", "[n,3]").replace("[2,4]", "[n,4]"));
        let filled = "constant_of_shape(%shape) {value=const [0.5] : f32[1]} : f32[3,4]";
        let constant = format!("const [{}] : f32[3,4]", ["0.5"; 12].join(","));
        stays("sum_filled", &known.replace("  %shape = const [3,4] : i64[2]\n", "").replace(filled, &constant));
        stays("sum_filled", &known.replace("f32[2,3]", "f32[3]").replace("f32[2,4]", "f32[4]"));
    }
}
