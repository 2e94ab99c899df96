//! `dot_product_attention` written as products around a softmax, the scores in memory: where no kernel covers it whole,
//! and where the scores are asked for.

use crate::ir::expr::build::{arg, int, select};
use crate::ir::{Attrs, Class, DType, Dim, Edit, Expand, Expr, NodeId, OpError, TensorType, Val};
use crate::ops::compose::positions;
use crate::ops::core::dot_product_attention::{DEF, LENGTHS, MASK, Sizes, offset};
use crate::ops::core::{iota, matmul, pointwise, reduce, reshape, softmax};
use crate::ops::onnx::movement;
use crate::ops::util::class_of;

/// What is added to the scores: expressions over operands of their own.
#[derive(Default)]
struct Bias {
    terms: Vec<Expr>,
    operands: Vec<Val>,
    /// Whether it may mask out all keys of a row.
    masks_rows: bool,
}

impl Bias {
    fn operand(&mut self, val: Val) -> Expr {
        let at = self.operands.iter().position(|v| *v == val).unwrap_or(self.operands.len());
        if at == self.operands.len() {
            self.operands.push(val);
        }
        arg(at)
    }

    fn of(e: &mut Expand<'_, '_>, sizes: &Sizes) -> Result<Bias, OpError> {
        let mut bias = Bias::default();
        let total = sizes.keys.clone();
        if let Some(mask) = e.optional(MASK) {
            let is_bool = class_of(&e.ty(mask)) == Class::Bool;
            let x = bias.operand(mask);
            bias.terms.push(if is_bool { select(x, 0.0, f32::NEG_INFINITY) } else { x });
            bias.masks_rows = true;
        }
        let (left, right) = (e.attrs.int("left"), e.attrs.int("right"));
        let lengths = match e.optional(LENGTHS) {
            Some(lengths) => {
                Some(reshape::to(e, lengths, [vec![sizes.batch.clone()], vec![Dim::Known(1); 3]].concat())?)
            }
            None => None,
        };
        if left.is_some() || right.is_some() {
            let (row, key) = (positions(e, 2, 0, sizes.queries.clone(), 1)?, positions(e, 2, 1, total.clone(), 1)?);
            let (row, key) = (bias.operand(row), bias.operand(key));
            // The place of the query among the keys.
            let place = match lengths {
                Some(lengths) => row + (bias.operand(lengths) - bias.number(e, &sizes.queries)?),
                None => row + bias.number(e, &offset(e.attrs))?,
            };
            bias.masks_rows |= lengths.is_some() || left.is_some() || right.is_some_and(|n| n > 0);
            let allowed = [
                right.map(|right| match right {
                    0 => key.clone().at_most(place.clone()),
                    _ => (key.clone() - place.clone()).at_most(right),
                }),
                left.map(|left| (place - key).at_most(left)),
            ];
            bias.terms.extend(allowed.into_iter().flatten().map(|allowed| select(allowed, 0.0, f32::NEG_INFINITY)));
        }
        if let Some(lengths) = lengths {
            let key = positions(e, 2, 1, total.clone(), 1)?;
            let (key, lengths) = (bias.operand(key), bias.operand(lengths));
            bias.terms.push(select(key.below(lengths), 0.0, f32::NEG_INFINITY));
            bias.masks_rows = true;
        }
        Ok(bias)
    }

    /// A size in an expression: its number, or an operand that holds it.
    fn number(&mut self, e: &mut Expand<'_, '_>, size: &Dim) -> Result<Expr, OpError> {
        Ok(match size.known() {
            Some(n) => int(n),
            None => self.operand(iota::add(e, size.clone(), Dim::Known(0), Dim::Known(1), DType::I64)?),
        })
    }

    /// `first` and all terms added up; operands are numbered from `base`.
    fn expr(&self, first: Option<Expr>, base: usize) -> Option<Expr> {
        let terms = self.terms.iter().map(|term| term.substitute(&|i| arg(i + base)));
        first.into_iter().chain(terms).reduce(|sum, term| sum + term)
    }
}

/// What the attention gives, and its scores: scaled, capped, with the mask, behind the softmax.
pub(crate) struct Written {
    /// The result.
    pub(crate) y: Val,
    /// The scores, `[batch, heads, queries, keys]`.
    pub(crate) stages: [Val; 4],
}

/// Operands and attributes of [`DEF`] as products, results stored as `dtype`.
///
/// # Errors
/// The type rules refuse.
pub(crate) fn written_out(e: &mut Expand<'_, '_>, dtype: DType) -> Result<Written, OpError> {
    let types: Vec<Option<TensorType>> = e.inputs.iter().map(|v| v.map(|v| e.edit.ty(v).clone())).collect();
    let sizes = Sizes::of(e.attrs, &types.iter().map(Option::as_ref).collect::<Vec<_>>())?;
    let mut parts = [e.input(0)?, e.input(1)?, e.input(2)?];
    for (part, last) in parts.iter_mut().zip(sizes.heads_last) {
        if last {
            *part = movement::transpose(e, *part, &[0, 2, 1, 3])?;
        }
    }
    let [mut q, mut k, mut v] = parts;
    // Heads that share one of k and v are one more axis, along which k and v broadcast.
    let is_shared = sizes.repeats != Dim::Known(1);
    let apart = |heads: &Dim, of: &Dim, len: &Dim, size: &Dim| {
        vec![sizes.batch.clone(), heads.clone(), of.clone(), len.clone(), size.clone()]
    };
    if is_shared {
        q = reshape::to(e, q, apart(&sizes.kv_heads, &sizes.repeats, &sizes.queries, &sizes.head))?;
        k = reshape::to(e, k, apart(&sizes.kv_heads, &Dim::Known(1), &sizes.keys, &sizes.head))?;
        v = reshape::to(e, v, apart(&sizes.kv_heads, &Dim::Known(1), &sizes.keys, &sizes.v_head))?;
    }
    let product_attrs = |trans_b: bool| matmul::attrs(trans_b).with_dtype("dtype", dtype);
    let mut scores = e.add(&matmul::DEF, product_attrs(true), &[q, k])?;
    if is_shared {
        scores = reshape::to(e, scores, sizes.scores().0)?;
    }
    // One expression a stage that may be an output; fusion makes them one.
    let scale = e.attrs.float("scale").unwrap_or(1.0);
    if scale != 1.0 {
        scores = pointwise::add(e, arg(0) * scale, dtype, &[scores])?;
    }
    let scaled = scores;
    if let Some(cap) = e.attrs.float("softcap").filter(|cap| *cap > 0.0) {
        scores = pointwise::add(e, (arg(0) / cap).tanh() * cap, dtype, &[scores])?;
    }
    let capped = scores;
    let bias = Bias::of(e, &sizes)?;
    if let (Some(expr), false) = (bias.expr(Some(arg(0)), 1), bias.terms.is_empty()) {
        let operands: Vec<Val> = [scores].into_iter().chain(bias.operands.iter().copied()).collect();
        scores = pointwise::add(e, expr, dtype, &operands)?;
    }
    let masked = scores;
    let mut weights = e.add(
        &softmax::DEF,
        Attrs::new().with_int("axis", 3).with_int("log", 0).with_dtype("dtype", dtype),
        &[scores],
    )?;
    if bias.masks_rows && e.attrs.int("zero_masked").unwrap_or(0) != 0 {
        weights = without_masked_rows(e, weights, &bias)?;
    }
    let stages = [scaled, capped, masked, weights];
    if is_shared {
        weights = reshape::to(e, weights, apart(&sizes.kv_heads, &sizes.repeats, &sizes.queries, &sizes.keys))?;
    }
    let mut y = e.add(&matmul::DEF, product_attrs(false), &[weights, v])?;
    if is_shared {
        let whole = [&sizes.batch, &sizes.heads, &sizes.queries, &sizes.v_head];
        y = reshape::to(e, y, whole.into_iter().cloned().collect())?;
    }
    if sizes.heads_last[3] {
        y = movement::transpose(e, y, &[0, 2, 1, 3])?;
    }
    Ok(Written { y, stages })
}

/// Zeros in the rows whose bias is minus infinity for every key.
fn without_masked_rows(e: &mut Expand<'_, '_>, weights: Val, bias: &Bias) -> Result<Val, OpError> {
    let Some(expr) = bias.expr(None, 0) else { return Ok(weights) };
    let sums = pointwise::add(e, expr, e.ty(weights).dtype, &bias.operands)?;
    let last = e.ty(sums).shape.rank().saturating_sub(1) as i64;
    let attrs = Attrs::new().with_str("kind", "max").with_ints("axes", [last]).with_int("keepdims", 1);
    let highest = e.add(&reduce::DEF, attrs, &[sums])?;
    let dtype = e.ty(weights).dtype;
    pointwise::add(e, select(arg(1).equals(f32::NEG_INFINITY), 0.0, arg(0)), dtype, &[weights, highest])
}

/// Writes a [`DEF`] of the edited graph as products, and gives what stands for its result.
///
/// # Errors
/// The node is another, or the type rules refuse.
pub fn write_out(edit: &mut Edit<'_>, node: NodeId) -> Result<Val, OpError> {
    let graph = edit.graph();
    let Some(op) = graph.node(node).op().filter(|op| op.is(&DEF) && op.attrs.expr("epilogue").is_none()) else {
        return Err(OpError::Bug("only an attention without epilogue is written as products"));
    };
    let inputs = graph.operands(node).into_iter().map(|v| v.map(Val::Old)).collect();
    let outputs: Vec<TensorType> = graph.node(node).outputs.iter().map(|v| v.ty.clone()).collect();
    let dtype = graph.ty(node.out(0)).dtype;
    edit.on_behalf_of(node);
    let first = edit.n_new();
    let y = written_out(&mut Expand { edit, attrs: &op.attrs, inputs, outputs }, dtype)?.y;
    let results = crate::ops::widen::between(edit, first, vec![y], &[dtype])?;
    results.into_iter().next().ok_or(OpError::Bug("an attention without result"))
}
