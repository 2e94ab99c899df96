//! `einsum`: sums of products by labelled axes, as transposes, reductions and products of matrices.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Class, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr, product};
use crate::ops::compose::{matmul, reduce, sizes};
use crate::ops::core::strided::{View, row_major, view};
use crate::ops::core::{pointwise, reshape};

/// `einsum(x0, x1, ...) {equation}`: ONNX Einsum, opset 12.
pub static DEF: OpDef = OpDef {
    name: "einsum",
    onnx: "Einsum",
    levels: ONNX,
    attrs: &[attr::text("equation")],
    arity: (1, 64),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// A label: a letter, or an axis of the ellipsis counted from the last.
type Label = u32;

/// The labels of each operand and of the result.
struct Equation {
    operands: Vec<Vec<Label>>,
    result: Vec<Label>,
}

fn refuse(equation: &str) -> OpError {
    OpError::attribute("equation", format!("is {equation:?}, which does not fit the operands"))
}

/// The labels of one term, of a tensor of `rank` axes where it is an operand's.
fn term(expr: &str, rank: Option<usize>, n_dots: usize, equation: &str) -> Result<Vec<Label>, OpError> {
    let (before, after) = expr.split_once("...").map_or((expr, None), |(before, after)| (before, Some(after)));
    let letters = |part: &str| -> Result<Vec<Label>, OpError> {
        part.chars().map(|c| if c.is_ascii_alphabetic() { Ok(u32::from(c)) } else { Err(refuse(equation)) }).collect()
    };
    let mut labels = letters(before)?;
    if let Some(after) = after {
        let after = letters(after)?;
        let n = rank
            .map_or(Some(n_dots), |rank| rank.checked_sub(labels.len() + after.len()))
            .ok_or_else(|| refuse(equation))?;
        labels.extend((0..n as u32).rev().map(|i| (1 << 16) + i));
        labels.extend(after);
    }
    if rank.is_some_and(|rank| rank != labels.len()) { Err(refuse(equation)) } else { Ok(labels) }
}

impl Equation {
    fn of(attrs: &Attrs, shapes: &[&Shape]) -> Result<Equation, OpError> {
        let equation = attrs.str("equation").ok_or_else(|| OpError::attribute("equation", "is missing"))?;
        let bare: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = bare.split_once("->").map_or((bare.as_str(), None), |(left, right)| (left, Some(right)));
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != shapes.len() {
            return Err(refuse(equation));
        }
        let operands: Vec<Vec<Label>> = terms
            .iter()
            .zip(shapes)
            .map(|(expr, shape)| term(expr, Some(shape.rank()), 0, equation))
            .collect::<Result<_, _>>()?;
        let all: Vec<Label> = operands.concat();
        let n_dots = all.iter().filter(|&&l| l >= 1 << 16).map(|l| l - (1 << 16) + 1).max().unwrap_or(0) as usize;
        let result = match right {
            Some(right) => term(right, None, n_dots, equation)?,
            None => {
                // Axes of the ellipsis, then letters that appear once, in order of the alphabet.
                let mut once: Vec<Label> = all
                    .iter()
                    .copied()
                    .filter(|l| *l < 1 << 16 && all.iter().filter(|m| *m == l).count() == 1)
                    .collect();
                once.sort_unstable();
                (0..n_dots as u32).rev().map(|i| (1 << 16) + i).chain(once).collect()
            }
        };
        let twice = result.iter().enumerate().any(|(i, l)| result[..i].contains(l));
        if twice || result.iter().any(|l| !all.contains(l)) {
            return Err(refuse(equation));
        }
        Ok(Equation { operands, result })
    }

    /// The size of a label: operands agree, or have 1.
    fn size(&self, label: Label, shapes: &[&Shape]) -> Result<Dim, OpError> {
        let mut size = Dim::Known(1);
        for (labels, shape) in self.operands.iter().zip(shapes) {
            for (_, dim) in labels.iter().zip(&shape.0).filter(|(l, _)| **l == label) {
                if size == Dim::Known(1) {
                    size = dim.clone();
                } else if *dim != size && *dim != Dim::Known(1) {
                    return Err(OpError::Broadcast { left: size.to_string(), right: dim.to_string() });
                }
            }
        }
        Ok(size)
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let types = (0..infer.inputs.len()).map(|slot| infer.ty(slot)).collect::<Result<Vec<_>, _>>()?;
    let first = types[0];
    for (slot, ty) in types.iter().enumerate() {
        if ty.dtype != first.dtype || ty.packing.is_some() || !matches!(ty.dtype.class(), Class::Float | Class::Int) {
            return Err(OpError::operand(slot, ty, format!("numbers of type {}", first.dtype)));
        }
        sizes(slot, ty)?;
    }
    let shapes: Vec<&Shape> = types.iter().map(|t| &t.shape).collect();
    let equation = Equation::of(infer.attrs, &shapes)?;
    let dims = equation.result.iter().map(|&l| equation.size(l, &shapes)).collect::<Result<_, _>>()?;
    Ok(vec![TensorType::new(first.dtype, Shape(dims))])
}

/// A value with a label for each axis, each label once.
struct Labelled {
    val: Val,
    labels: Vec<Label>,
}

impl Labelled {
    /// With these labels in this order; those that it lacks have size 1.
    fn ordered(&self, e: &mut Expand<'_, '_>, labels: &[Label]) -> Result<Val, OpError> {
        let own: Vec<usize> = labels.iter().filter_map(|l| self.labels.iter().position(|o| o == l)).collect();
        let transposed = crate::ops::onnx::movement::transpose(e, self.val, &own)?;
        let dims = e.ty(self.val).shape.0;
        let shape = labels
            .iter()
            .map(|l| self.labels.iter().position(|o| o == l).map_or(Dim::Known(1), |at| dims[at].clone()))
            .collect();
        reshape::to(e, transposed, shape)
    }

    fn dim(&self, e: &Expand<'_, '_>, label: Label) -> Option<Dim> {
        self.labels.iter().position(|l| *l == label).map(|at| e.ty(self.val).shape.0[at].clone())
    }

    /// Without the labels that `keep` refuses: summed.
    fn summed(self, e: &mut Expand<'_, '_>, keep: impl Fn(Label) -> bool) -> Result<Labelled, OpError> {
        let axes: Vec<usize> = (0..self.labels.len()).filter(|&i| !keep(self.labels[i])).collect();
        if axes.is_empty() {
            return Ok(self);
        }
        let val = reduce(e, "sum", self.val, &axes, false)?;
        Ok(Labelled { val, labels: self.labels.into_iter().filter(|&l| keep(l)).collect() })
    }
}

/// An operand with each of its labels once: of a label given twice the diagonal.
fn diagonal(e: &mut Expand<'_, '_>, val: Val, given: &[Label]) -> Result<Labelled, OpError> {
    let mut labels: Vec<Label> = Vec::new();
    given.iter().for_each(|l| {
        if !labels.contains(l) {
            labels.push(*l)
        }
    });
    if labels.len() == given.len() {
        return Ok(Labelled { val, labels });
    }
    let dims = e.ty(val).shape.0;
    let rows = row_major(&dims);
    let axes = |label: Label| (0..given.len()).filter(move |&i| given[i] == label);
    let strides = labels.iter().map(|&l| axes(l).fold(Dim::Known(0), |sum, i| &sum + &rows[i])).collect();
    let shape: Vec<Dim> =
        labels.iter().map(|&l| axes(l).map(|i| dims[i].clone()).next().unwrap_or(Dim::Known(1))).collect();
    if (0..given.len()).any(|i| labels.iter().position(|l| *l == given[i]).is_some_and(|at| shape[at] != dims[i])) {
        return Err(OpError::operand(0, Shape(dims), "equal sizes along a diagonal"));
    }
    let val = view(e, val, &View { shape, strides, ..View::default() })?;
    Ok(Labelled { val, labels })
}

/// The product of two operands, summed over labels that nothing later needs.
fn contract(
    e: &mut Expand<'_, '_>,
    a: Labelled,
    b: Labelled,
    needed: &dyn Fn(Label) -> bool,
) -> Result<Labelled, OpError> {
    let (in_a, in_b) = (a.labels.clone(), b.labels.clone());
    let a = a.summed(e, |l| needed(l) || in_b.contains(&l))?;
    let b = b.summed(e, |l| needed(l) || in_a.contains(&l))?;
    let one = |dim: Option<Dim>| dim.is_none_or(|d| d == Dim::Known(1));
    let labels: Vec<Label> =
        a.labels.iter().copied().chain(b.labels.iter().copied().filter(|l| !a.labels.contains(l))).collect();
    let contracted: Vec<Label> = labels.iter().copied().filter(|&l| !needed(l)).collect();
    let dtype = e.ty(a.val).dtype;
    // Sizes of 1 against others broadcast, and integers are exact only by themselves: element by element.
    let uneven = contracted.iter().any(|&l| a.dim(e, l) != b.dim(e, l));
    if contracted.is_empty() || uneven || !dtype.is_float() {
        let (left, right) = (a.ordered(e, &labels)?, b.ordered(e, &labels)?);
        let val = pointwise::add(e, arg(0) * arg(1), dtype, &[left, right])?;
        return Labelled { val, labels }.summed(e, needed);
    }
    let batch: Vec<Label> =
        labels.iter().copied().filter(|l| needed(*l) && a.labels.contains(l) && b.labels.contains(l)).collect();
    let free = |own: &Labelled| -> Vec<Label> {
        own.labels.iter().copied().filter(|l| !batch.contains(l) && !contracted.contains(l)).collect()
    };
    let (free_a, free_b) = (free(&a), free(&b));
    let size = |own: &Labelled, e: &Expand<'_, '_>, of: &[Label]| -> Dim {
        product(&of.iter().map(|&l| own.dim(e, l).unwrap_or(Dim::Known(1))).collect::<Vec<_>>())
    };
    // Batch axes may be 1 in one operand: they stay apart, where the product broadcasts them.
    let lead = |own: &Labelled, e: &Expand<'_, '_>| -> Vec<Dim> {
        batch.iter().map(|&l| own.dim(e, l).unwrap_or(Dim::Known(1))).collect()
    };
    let depth = size(&a, e, &contracted);
    let left = a.ordered(e, &[&batch[..], &free_a, &contracted].concat())?;
    let shape = [lead(&a, e), vec![size(&a, e, &free_a), depth.clone()]].concat();
    let left = reshape::to(e, left, shape)?;
    let right = b.ordered(e, &[&batch[..], &contracted, &free_b].concat())?;
    let shape = [lead(&b, e), vec![depth, size(&b, e, &free_b)]].concat();
    let right = reshape::to(e, right, shape)?;
    let val = matmul(e, left, right, false)?;
    let pick = |l: Label, e: &Expand<'_, '_>| {
        let (x, y) = (a.dim(e, l), b.dim(e, l));
        if one(x.clone()) { y.or(x) } else { x }.unwrap_or(Dim::Known(1))
    };
    let labels = [batch, free_a, free_b].concat();
    let shape = labels.iter().map(|&l| pick(l, e)).collect();
    let val = reshape::to(e, val, shape)?;
    Ok(Labelled { val, labels })
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let types = (0..e.inputs.len()).map(|slot| Ok(e.ty(e.input(slot)?))).collect::<Result<Vec<_>, OpError>>()?;
    let equation = Equation::of(e.attrs, &types.iter().map(|t| &t.shape).collect::<Vec<_>>())?;
    let first = e.input(0)?;
    let mut so_far = diagonal(e, first, &equation.operands[0])?;
    for slot in 1..e.inputs.len() {
        let next = e.input(slot)?;
        let next = diagonal(e, next, &equation.operands[slot])?;
        let needed = |l: Label| {
            equation.result.contains(&l) || equation.operands[slot + 1..].iter().any(|labels| labels.contains(&l))
        };
        so_far = contract(e, so_far, next, &needed)?;
    }
    let so_far = so_far.summed(e, |l| equation.result.contains(&l))?;
    let y = so_far.ordered(e, &equation.result)?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![crate::ops::onnx::movement::broadcast_to(e, y, shape)?])
}
