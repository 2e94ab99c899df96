//! `store`: in which type nyxc keeps a value. No part of the model's computation, unlike a Cast: formats ask for it,
//! kernels convert when they read and write, and a finite value beyond f16's range becomes its largest.

use crate::ir::{Attrs, DType, Edit, Expr, Infer, ONNX, Op, OpDef, OpError, TensorType, Val, attr};
use crate::ops::core::pointwise;

/// `store(x) {dtype}`: x, kept as `dtype`. Only `insert_qdq` and expansions add it; the model's own conversions are
/// `cast`.
pub static DEF: OpDef = OpDef {
    name: "store",
    onnx: "",
    levels: ONNX,
    attrs: &[attr::dtype("dtype")],
    arity: (1, 1),
    infer: &infer,
    eval: None,
    expand: Some(&|e| {
        let (x, dtype) = (e.input(0)?, e.outputs[0].dtype);
        Ok(vec![e.add(&pointwise::DEF, pointwise::attrs(Expr::Arg(0), dtype), &[x])?])
    }),
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let is_plain = |dtype: DType| dtype.is_float() && !dtype.is_minifloat();
    let dtype = infer.attrs.dtype("dtype").filter(|dtype| is_plain(*dtype));
    let dtype = dtype.ok_or_else(|| OpError::attribute("dtype", "is f32, f16, bf16 or f64"))?;
    if x.packing.is_some() || !is_plain(x.dtype) {
        return Err(OpError::operand(0, x, "floats of at least 16 bits"));
    }
    Ok(vec![x.with_dtype(dtype)])
}

/// A node that keeps `val` as `dtype`.
///
/// # Errors
/// It is no float, or `dtype` is none.
pub fn add(edit: &mut Edit<'_>, val: Val, dtype: DType) -> Result<Val, OpError> {
    edit.add(Op::new(&DEF, Attrs::new().with_dtype("dtype", dtype)), &[val]).map_err(|e| OpError::Edit(Box::new(e)))
}
