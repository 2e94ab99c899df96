//! Computing shapes at once: what depends on constants and known sizes alone becomes a constant while the graph is
//! built.

use super::build::{Builder, Known};
use crate::ir::{Attr, Class, DType, Dim, NodeKind, Op, Tensor, TensorType, ValueId, resolve_axis};
use std::collections::BTreeSet;

/// Most elements of a float constant computed here: shape arithmetic is small, all else is a later pass's.
const MAX_FLOATS: u64 = 4096;
/// Most elements of any operand or result, so that no small file makes us compute for minutes.
const MAX_ELEMS: u64 = 1 << 20;
/// Most sizes followed symbolically: shapes have few axes.
const MAX_SIZES: usize = 64;
/// Most symbols in one size that is followed: a chain of products would otherwise double it with each node.
const MAX_SYMBOLS: usize = 32;

/// Operators that constants do not determine, or that say how a constant is stored.
const KEPT: &[&str] = &[
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "QuantizeLinear",
    "DequantizeLinear",
];

/// The results of a use of `op`, where they can and should be computed now.
pub(super) fn constants(
    op: &Op,
    operands: &[Option<Known>],
    data: &[Option<&Tensor>],
    types: &[TensorType],
    n_outputs: usize,
    sizes: Option<&[Dim]>,
) -> Option<Vec<Tensor>> {
    if let (Some(sizes), [ty, ..], 1) = (sizes, types, n_outputs) {
        let values: Option<Vec<i64>> = sizes.iter().map(Dim::known).collect();
        if let (Some(values), Some(dims)) = (values, ty.shape.known()) {
            return Tensor::from_i64s(ty.dtype, &dims, &values).ok().map(|t| vec![t]);
        }
    }
    let is_fed =
        operands.iter().zip(data).all(|(operand, data)| operand.is_none() || data.is_some_and(Tensor::is_present));
    if operands.is_empty()
        || !is_fed
        || KEPT.contains(&op.def.onnx)
        || op.attrs.0.values().any(|a| matches!(a, Attr::Graph(_)))
    {
        return None;
    }
    let n_in = data.iter().flatten().try_fold(0u64, |n, t| n.checked_add(t.ty().shape.n_elems()?))?;
    let is_small = |ty: &TensorType| {
        // A data-dependent size (NonZero) is no larger than the data.
        let n = ty.shape.n_elems().unwrap_or(n_in);
        n <= if ty.dtype.class() == Class::Float { MAX_FLOATS } else { MAX_ELEMS }
    };
    if n_in > MAX_ELEMS || !types.iter().take(n_outputs).all(is_small) {
        return None;
    }
    let results = crate::ops::reference::evaluate(op, data, n_outputs).ok()?;
    let fits = results.len() >= n_outputs && results.iter().zip(types).all(|(t, ty)| t.dtype() == ty.dtype);
    fits.then_some(results)
}

impl Builder<'_> {
    /// The elements of an integer value, some perhaps symbolic.
    fn elements(&self, known: Known) -> Option<Vec<Dim>> {
        if let Some(tensor) = self.tensor(known) {
            let is_short =
                tensor.ty().shape.n_elems().is_some_and(|n| n <= MAX_SIZES as u64) && tensor.ty().shape.rank() <= 1;
            let values = (is_short && matches!(tensor.dtype().class(), Class::Int | Class::Bool))
                .then(|| tensor.to_i64s().ok())
                .flatten()?;
            return Some(values.into_iter().map(Dim::Known).collect());
        }
        match known {
            Known::Value(value) => self.graph.sizes(value).map(<[Dim]>::to_vec),
            Known::Pending(_) => None,
        }
    }

    /// The elements of the first result, where `op` is arithmetic on sizes. Following them symbolically finds those
    /// that do not depend on what is unknown, as the channels of a shape whose batch is open, and gives all others as
    /// expressions.
    pub(super) fn sizes_of(&self, op: &Op, operands: &[Option<Known>], types: &[TensorType]) -> Option<Vec<Dim>> {
        let ty =
            types.first().filter(|ty| matches!(ty.dtype.class(), Class::Int | Class::Bool) && ty.shape.rank() <= 1)?;
        let operand = |slot: usize| operands.get(slot).copied().flatten();
        let elements = |slot: usize| operand(slot).and_then(|known| self.elements(known));
        let numbers = |slot: usize| elements(slot)?.iter().map(Dim::known).collect::<Option<Vec<i64>>>();
        let sizes = match op.def.onnx {
            "Shape" => {
                let dims = &self.ty(operand(0)?).shape.0;
                let bound = |name: &str, default: i64| {
                    let n = dims.len() as i64;
                    let at = op.attrs.int(name).unwrap_or(default);
                    usize::try_from(if at < 0 { at.saturating_add(n) } else { at }.clamp(0, n)).unwrap_or(0)
                };
                let (start, end) = (bound("start", 0), bound("end", i64::MAX));
                dims.get(start..end.max(start))?.to_vec()
            }
            "Size" => vec![self.ty(operand(0)?).shape.volume()],
            "Identity" | "Unsqueeze" | "Squeeze" | "Reshape" | "Flatten" => elements(0)?,
            "Cast" => elements(0)?.into_iter().map(|dim| cast(dim, ty.dtype)).collect::<Option<_>>()?,
            "Gather" => {
                let data = elements(0)?;
                let pick = |i: i64| resolve_axis(i, data.len()).map(|i| data[i].clone());
                numbers(1)?.into_iter().map(pick).collect::<Option<_>>()?
            }
            "Slice" => {
                let (data, starts, ends) = (elements(0)?, numbers(1)?, numbers(2)?);
                let step = if operand(4).is_some() { numbers(4)? } else { vec![1] };
                let ([start], [end], [step]) = (starts.as_slice(), ends.as_slice(), step.as_slice()) else {
                    return None;
                };
                let places = crate::ops::onnx::slice::places(data.len(), *start, *end, *step)?;
                places.into_iter().map(|i| data.get(i).cloned()).collect::<Option<_>>()?
            }
            "Concat" => {
                let parts: Option<Vec<_>> = (0..operands.len()).map(elements).collect();
                parts?.concat()
            }
            "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min" | "Sum" | "And" | "Or" | "Equal" | "Less"
            | "LessOrEqual" | "Greater" | "GreaterOrEqual"
                if op.def.onnx != "Mod" || op.attrs.int("fmod").unwrap_or(0) == 0 =>
            {
                // Maxima, minima and sums take any number of operands.
                (1..operands.len()).try_fold(elements(0)?, |result, slot| -> Option<Vec<Dim>> {
                    pairs(&result, &elements(slot)?)?.iter().map(|(a, b)| binary(op.def.onnx, a, b)).collect()
                })?
            }
            "Clip" => {
                let bound = |slot: usize| match operand(slot) {
                    None => Some(None),
                    Some(_) => elements(slot)?.first().cloned().map(Some),
                };
                let (least, most) = (bound(1)?, bound(2)?);
                let above = |dim: &Dim| least.as_ref().map_or_else(|| dim.clone(), |least| Dim::larger(dim, least));
                let below = |dim: Dim| most.as_ref().map_or_else(|| dim.clone(), |most| Dim::least(&dim, most));
                elements(0)?.iter().map(|dim| below(above(dim))).collect()
            }
            "Abs" => elements(0)?.iter().map(|dim| Dim::larger(dim, &(&Dim::Known(0) - dim))).collect(),
            "Expand" => match (elements(0)?.as_slice(), ty.shape.n_elems()?) {
                ([one], n @ 0..=64) => vec![one.clone(); usize::try_from(n).ok()?],
                (all, _) => all.to_vec(),
            },
            "Neg" => elements(0)?.iter().map(|a| &Dim::Known(0) - a).collect(),
            "Not" => elements(0)?.iter().map(|a| &Dim::Known(1) - a).collect(),
            "Where" => {
                let (condition, (left, right)) = (numbers(0)?, (elements(1)?, elements(2)?));
                let n = condition.len().max(left.len()).max(right.len());
                let pick = |v: &[Dim], i: usize| if v.len() == 1 { v.first().cloned() } else { v.get(i).cloned() };
                let chosen = |i: usize| match if condition.len() == 1 { condition.first() } else { condition.get(i) }? {
                    0 => pick(&right, i),
                    _ => pick(&left, i),
                };
                (0..n).map(chosen).collect::<Option<_>>()?
            }
            "ReduceProd" => vec![crate::ir::product(&elements(0)?)],
            "ReduceMax" => vec![elements(0)?.iter().cloned().reduce(|a, b| Dim::larger(&a, &b))?],
            "ReduceMin" => vec![elements(0)?.iter().cloned().reduce(|a, b| Dim::least(&a, &b))?],
            "ReduceSum" => vec![elements(0)?.iter().fold(Dim::Known(0), |sum, dim| &sum + dim)],
            _ => return None,
        };
        let is_simple = |dim: &Dim| {
            let mut n = 0;
            dim.for_each_symbol(&mut |_| n += 1);
            n <= MAX_SYMBOLS
        };
        let fits =
            sizes.iter().all(is_simple) && ty.shape.n_elems() == Some(sizes.len() as u64) && sizes.len() <= MAX_SIZES;
        // Constants alone are left to the operator's own reference.
        let is_needed = op.def.onnx == "Shape"
            || op.def.onnx == "Size"
            || operands.iter().flatten().any(|&known| self.tensor(known).is_none());
        (fits && is_needed).then_some(sizes)
    }

    /// An input of the graph from whose elements, and not only its shape, a value is computed.
    pub(super) fn input_behind(&self, known: Known) -> Option<String> {
        let Known::Value(value) = known else { return None };
        let (mut seen, mut stack) = (BTreeSet::new(), vec![value]);
        while let Some(value) = stack.pop() {
            match &self.graph.node(value.node).kind {
                NodeKind::Input => return Some(self.graph.value(value).name.clone()),
                NodeKind::Op(_) if seen.insert(value.node) => {
                    stack.extend(self.graph.operands(value.node).into_iter().flatten());
                }
                _ => {}
            }
        }
        None
    }

    /// The symbols without a value on which a value depends through the shapes it is computed from.
    pub(super) fn symbols_behind(&self, known: Known) -> Vec<String> {
        let Known::Value(value) = known else { return Vec::new() };
        let mut symbols = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut stack: Vec<ValueId> = vec![value];
        while let Some(value) = stack.pop() {
            if !seen.insert(value.node) {
                continue;
            }
            match self.graph.sizes(value) {
                Some(sizes) => sizes.iter().for_each(|dim| {
                    dim.for_each_symbol(&mut |symbol| {
                        symbols.insert(symbol.name().to_owned());
                    });
                }),
                None => stack.extend(self.graph.operands(value.node).into_iter().flatten()),
            }
        }
        symbols.into_iter().filter(|name| self.model.unbound.contains(name)).collect()
    }
}

/// A size as another type; `None` where that may hold another number. Truth values are 0 and 1.
fn cast(dim: Dim, dtype: DType) -> Option<Dim> {
    let (low, high) = dim.bounds();
    if dtype == DType::Bool {
        return match (low, high) {
            (0, 0) => Some(Dim::Known(0)),
            (0, 1) => Some(dim),
            _ if low > 0 || high < 0 => Some(Dim::Known(1)),
            _ => None,
        };
    }
    let fits = crate::ops::core::quantize_linear::range(dtype).is_none_or(|(least, most)| least <= low && high <= most);
    fits.then_some(dim)
}

/// The elements of two lists side by side, the only one of a list repeated.
fn pairs(left: &[Dim], right: &[Dim]) -> Option<Vec<(Dim, Dim)>> {
    let n = if left.len() == 1 { right.len() } else { left.len() };
    let pick = |v: &[Dim], i: usize| if v.len() == 1 { v.first().cloned() } else { v.get(i).cloned() };
    (0..n).map(|i| Some((pick(left, i)?, pick(right, i)?))).collect()
}

/// One element of an operator of two operands; `None` where the ranges of their symbols leave it open. Truth values
/// are 0 and 1.
fn binary(op: &str, a: &Dim, b: &Dim) -> Option<Dim> {
    let truth = |value: bool| Some(Dim::Known(i64::from(value)));
    let (a_low, b_low) = (a.bounds().0, b.bounds().0);
    let is_less = |a: &Dim, b: &Dim| (a + &Dim::Known(1)).at_most(b);
    // ONNX truncates; of what is not negative, rounding down is the same.
    let quotient = || (a_low >= 0 && b_low >= 1).then(|| a.floor_div(b)).flatten();
    match op {
        "Add" | "Sum" => Some(a + b),
        "Sub" => Some(a - b),
        "Mul" | "And" => Some(a * b),
        "Div" => quotient(),
        "Mod" => Some(a - &(&quotient()? * b)),
        "Max" | "Or" => Some(Dim::larger(a, b)),
        "Min" => Some(Dim::least(a, b)),
        "Equal" if a == b => truth(true),
        "Equal" if is_less(a, b) || is_less(b, a) => truth(false),
        "Less" if is_less(a, b) => truth(true),
        "Less" if b.at_most(a) => truth(false),
        "LessOrEqual" => binary("Less", b, a).map(|greater| &Dim::Known(1) - &greater),
        "Greater" => binary("Less", b, a),
        "GreaterOrEqual" => binary("Less", a, b).map(|less| &Dim::Known(1) - &less),
        _ => None,
    }
}
