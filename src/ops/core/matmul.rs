//! `matmul`: products of matrices, batched.

use crate::ir::{
    Attrs, CORE, Class, Differentiate, Dim, Expand, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, Val, WeightOperand, attr,
};
use crate::ops::compose::matmul;
use crate::ops::reference::multiply::{self, Matrix, Sizes};
use crate::ops::reference::packed_view::PackedView;
use crate::ops::reference::real::Real;
use crate::ops::util::{
    agree, between, broadcast, broadcast_strides, finish, finish_floats, is_double, n_elems, operand, result,
    split_own, stored,
};

/// `matmul(a, b, ...) {trans_b, dtype, epilogue}`: ONNX MatMul, opset 13. At the core level both operands have at least
/// two axes, and `b` may come in several operands with `trans_b`, each `[rows, K]`: one matrix whose rows are stored in
/// different ways.
pub static DEF: OpDef = OpDef {
    name: "matmul",
    onnx: "MatMul",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("trans_b"), attr::dtype("dtype"), attr::expr("epilogue")],
    arity: (2, 2 + MAX_FURTHER_PARTS),
    infer: &infer,
    eval: Some(&eval),
    expand: Some(&expand),
    weights: Some(&|attrs| {
        Some(WeightOperand { further_rows: Some(2), ..WeightOperand::right_of_product(attrs, "trans_b") })
    }),
    gradient: Some(&gradient),
};

/// Most operands that hold further rows of a matrix.
pub(crate) const MAX_FURTHER_PARTS: usize = 7;

/// Attributes of a product.
pub fn attrs(trans_b: bool) -> Attrs {
    if trans_b { Attrs::new().with_int("trans_b", 1) } else { Attrs::new() }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b) = (infer.ty(0)?, infer.ty(1)?);
    let trans_b = infer.attrs.int("trans_b").unwrap_or(0) != 0;
    let class = crate::ops::util::class_of(a);
    for (slot, ty) in [(0, a), (1, b)] {
        if !matches!(class, Class::Float | Class::Int) || crate::ops::util::class_of(ty) != class {
            return Err(OpError::operand(slot, ty, "floats, or integers both"));
        }
        if ty.shape.rank() == 0 {
            return Err(OpError::operand(slot, ty, "a vector or matrices"));
        }
    }
    let further: Vec<&TensorType> = split_own(infer.attrs, infer.inputs).0.iter().skip(2).flatten().copied().collect();
    if (b.packing.is_some() || !further.is_empty()) && !(trans_b && b.shape.rank() == 2) {
        return Err(OpError::operand(1, b, "a packed [N,K] with trans_b"));
    }
    if a.packing.is_some_and(|p| {
        p.coding != crate::ir::packed::Coding::I8 || matches!(p.granularity, crate::ir::packed::Granularity::Block(_))
    }) || (a.packing.is_some() && b.packing.is_none())
    {
        return Err(OpError::operand(0, a, "INT8 by row or tensor beside a packed b"));
    }
    let (a_dims, b_dims) = (&a.shape.0, &b.shape.0);
    let vector_a = a_dims.len() == 1;
    let vector_b = b_dims.len() == 1;
    let k = &a_dims[a_dims.len() - 1];
    let (b_k, n) = match (vector_b, trans_b) {
        (true, _) => (&b_dims[0], None),
        (false, false) => (&b_dims[b_dims.len() - 2], b_dims.last()),
        (false, true) => (&b_dims[b_dims.len() - 1], b_dims.get(b_dims.len() - 2)),
    };
    if !agree(k, b_k) {
        return Err(OpError::operand(1, b, format!("{k} rows to multiply with {a}")));
    }
    let lead = |dims: &[Dim]| Shape(dims[..dims.len().saturating_sub(2)].to_vec());
    let mut shape = broadcast(&[&lead(a_dims), &lead(b_dims)])?;
    if !vector_a {
        shape.0.push(a_dims[a_dims.len() - 2].clone());
    }
    let mut n = n.cloned();
    for (i, part) in further.into_iter().enumerate() {
        let refuse = || OpError::operand(2 + i, part, format!("known rows of {k} to follow {b}"));
        let ([rows, cols], Some(Dim::Known(so_far))) = (&part.shape.0[..], &n) else { return Err(refuse()) };
        let Some(total) = rows.known().and_then(|rows| rows.checked_add(*so_far)).filter(|_| cols == k) else {
            return Err(refuse());
        };
        if crate::ops::util::class_of(part) != Class::Float
            || class != Class::Float
            || (a.packing.is_some() && part.packing.is_none())
        {
            return Err(refuse());
        }
        n = Some(Dim::Known(total));
    }
    shape.0.extend(n);
    result(infer, class, stored(a), shape)
}

fn expand(x: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (mut a, mut b) = (x.input(0)?, x.input(1)?);
    let (a_ty, b_ty) = (x.ty(a), x.ty(b));
    if a_ty.shape.rank() == 1 {
        a = crate::ops::core::reshape::to(x, a, vec![Dim::Known(1), a_ty.shape.0[0].clone()])?;
    }
    if b_ty.shape.rank() == 1 {
        b = crate::ops::core::reshape::to(x, b, vec![b_ty.shape.0[0].clone(), Dim::Known(1)])?;
    }
    let attrs = x.attrs.clone();
    let y = x.add(&DEF, attrs, &[a, b])?;
    let shape = x.outputs[0].shape.0.clone();
    Ok(vec![crate::ops::core::reshape::to(x, y, shape)?])
}

/// The product with each part, columns side by side.
fn eval_parts(attrs: &Attrs, own: &[Option<&Tensor>], extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let a = operand(own, 0)?;
    let mut products = Vec::new();
    for slot in 1..own.len() {
        let alone = self::attrs(true).with_dtype("dtype", between(a.dtype()));
        products.extend(eval(&alone, &[Some(a), Some(operand(own, slot)?)])?);
    }
    let width = |t: &Tensor| t.dims().last().copied().unwrap_or(0);
    let mut dims = products.first().map(Tensor::dims).unwrap_or_default();
    let n: usize = products.iter().map(width).sum();
    if let Some(last) = dims.last_mut() {
        *last = n;
    }
    if is_double(attrs, own) {
        joined::<f64>(&products, n, &dims, attrs, (a, extra))
    } else {
        joined::<f32>(&products, n, &dims, attrs, (a, extra))
    }
}

/// Products of `n` columns in all side by side.
fn joined<F: Real>(
    products: &[Tensor],
    n: usize,
    dims: &[usize],
    attrs: &Attrs,
    (a, extra): (&Tensor, &[Option<&Tensor>]),
) -> Result<Vec<Tensor>, OpError> {
    let mut out = vec![F::zero(); n_elems(dims)?];
    let mut first = 0;
    for product in products {
        let own = product.dims().last().copied().unwrap_or(0);
        let data = F::elements(product)?;
        if own > 0 {
            out.chunks_mut(n)
                .zip(data.chunks(own))
                .for_each(|(row, part)| row[first..first + own].copy_from_slice(part));
        }
        first += own;
    }
    finish_floats(attrs, dims, out, stored(a.ty()), extra)
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    if own.len() > 2 {
        return eval_parts(attrs, own, extra);
    }
    let (a, b) = (operand(own, 0)?, operand(own, 1)?);
    let trans_b = attrs.int("trans_b").unwrap_or(0) != 0;
    let (a_dims, b_dims) = (a.dims(), b.dims());
    let ([a_lead @ .., m, k], [b_lead @ .., b0, b1]) = (a_dims.as_slice(), b_dims.as_slice()) else {
        return Err(OpError::operand(0, a.ty(), "matrices"));
    };
    let (b_k, n) = if trans_b { (*b1, *b0) } else { (*b0, *b1) };
    let (m, k) = (*m, *k);
    if b_k != k {
        return Err(OpError::operand(1, b.ty(), format!("{k} rows to multiply with {}", a.ty())));
    }
    let lead = broadcast(&[&Shape::of(a_lead), &Shape::of(b_lead)])?.known().unwrap_or_default();
    let mut dims = lead.clone();
    dims.extend([m, n]);
    let mut out = vec![0.0f32; n_elems(&dims)?];
    if crate::ops::util::class_of(a.ty()) == Class::Int {
        let starts = starts(&lead, [a_lead, b_lead], [m * k, k * n]);
        let (a_data, b_data) = (a.to_i64s()?, b.to_i64s()?);
        let steps = if trans_b { (1, k) } else { (n, 1) };
        let values = multiply::integers(Sizes { m, k, n }, &starts, &a_data, &b_data, steps);
        return finish(attrs, Tensor::from_i64s(a.dtype(), &dims, &values)?, a.dtype(), extra);
    }
    if let (Some(a), Some(b)) = (PackedView::of(a)?, PackedView::of(b)?) {
        if b.layout.n_rows != n || !trans_b || out.len() != a.layout.n_rows * n {
            return Err(OpError::unsupported("packed operands are a [...,M,K] and b [N,K]"));
        }
        multiply::packed(&a, &b, 0, &mut out);
        return finish_floats(attrs, &dims, out, crate::ir::DType::F32, extra);
    }
    if is_double(attrs, own) {
        let starts = starts(&lead, [a_lead, b_lead], [m * k, k * n]);
        let steps = if trans_b { (1, k) } else { (n, 1) };
        let values = multiply::doubles(Sizes { m, k, n }, &starts, &a.to_f64s()?, &b.to_f64s()?, steps);
        return finish_floats(attrs, &dims, values, stored(a.ty()), extra);
    }
    let (a_data, b_data) = (a.to_f32s()?, b.to_f32s()?);
    let b_matrix = |data| if trans_b { Matrix { data, row: 1, col: k } } else { Matrix { data, row: n, col: 1 } };
    if b_lead.iter().all(|&d| d == 1) {
        // One b for all: the leading axes of a are more rows.
        let rows = out.len() / n.max(1);
        let a = Matrix { data: &a_data, row: k, col: 1 };
        multiply::batched(Sizes { m: rows, k, n }, &mut out, |_| (a, b_matrix(&b_data)))?;
    } else {
        let starts = starts(&lead, [a_lead, b_lead], [m * k, k * n]);
        multiply::batched(Sizes { m, k, n }, &mut out, |i| {
            let (a, b) = starts[i];
            (Matrix { data: &a_data[a..], row: k, col: 1 }, b_matrix(&b_data[b..]))
        })?;
    }
    finish_floats(attrs, &dims, out, stored(a.ty()), extra)
}

/// Where the matrices of each product of a batch begin, in elements of `a` and of `b`.
fn starts(lead: &[usize], own: [&[usize]; 2], elems: [usize; 2]) -> Vec<(usize, usize)> {
    let strides = own.map(|own| broadcast_strides(own, lead));
    let mut starts = Vec::new();
    crate::ops::util::for_each_index(lead, &strides, |_, offsets| {
        starts.push((offsets[0] * elems[0], offsets[1] * elems[1]))
    });
    starts
}

/// Each operand gains the product of the result's gain with the other operand, transposed.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (gain, a, b) = (d.gain()?, d.input(0)?, d.input(1)?);
    let ranks = [d.ty(a).shape.rank(), d.ty(b).shape.rank()];
    // Vectors are written as matrices first.
    if ranks.contains(&1) || d.inputs.len() != 2 {
        return Ok(Gains::Expanded);
    }
    let trans_b = d.attrs.int("trans_b").unwrap_or(0) != 0;
    let of_a = if d.wants(0) { Some(matmul(d, gain, b, !trans_b)?) } else { None };
    let of_b = match (d.wants(1), trans_b) {
        (false, _) => None,
        (true, false) => {
            let a = transposed(d, a)?;
            Some(matmul(d, a, gain, false)?)
        }
        (true, true) => {
            let gain = transposed(d, gain)?;
            Some(matmul(d, gain, a, false)?)
        }
    };
    Ok(Gains::Are(vec![of_a, of_b]))
}

/// Matrices with their two axes exchanged.
fn transposed(e: &mut Expand<'_, '_>, x: Val) -> Result<Val, OpError> {
    let rank = e.ty(x).shape.rank();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank.saturating_sub(2), rank.saturating_sub(1));
    crate::ops::onnx::movement::transpose(e, x, &perm)
}
