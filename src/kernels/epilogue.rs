//! The expression of a pointwise node or of an epilogue as part of a key.

use super::call::{Node, class_of, dims};
use super::shape::{self, divides};
use super::storage;
use crate::ir::{Bounds, Dim, Expr, Operand, TensorType, ValueId};
use crate::kernels::key::{ArgKey, ExprKey, Load, Run, Storage, Value};
use std::collections::BTreeMap;

/// An expression, and the values that its operands are.
pub(super) struct Epilogue {
    pub(super) key: ExprKey,
    /// Each operand with the numbers that its load needs.
    pub(super) args: Vec<(ValueId, Vec<Dim>)>,
    /// Its float literals, each with the `i` of the parameter `xi` that it is: kernels that differ only in these are
    /// one. Drivers also compute products and quotients with a literal 0 as if no number were NaN or infinite
    /// (lavapipe's gallivm), however precise they are said to be.
    pub(super) numbers: Vec<(usize, f32)>,
}

/// What an expression knows of an operand: packed ones are floats.
fn operand(ty: &TensorType) -> Operand {
    if ty.packing.is_some() { Operand::Float } else { Operand::of(ty.dtype) }
}

impl Epilogue {
    /// `own` is what the kernel's own result is, `None` for a pointwise node. The error says what has no kernel.
    pub(super) fn new(
        node: &Node<'_>,
        expr: &Expr,
        values: &[Option<ValueId>],
        own: Option<Value>,
    ) -> Result<Epilogue, String> {
        let mut numbers = BTreeMap::new();
        let lifted = expr.lift_floats(usize::from(own.is_some()) + values.len(), &mut numbers);
        let operands: Vec<Operand> = own
            .map(|own| match own {
                Value::Float => Operand::Float,
                Value::Bool => Operand::Bool,
                // What a kernel computes may have left the type of its operand, but not the words that it computes in.
                Value::Int => Operand::Int(Bounds::WORD),
                Value::Wide => Operand::Int(Bounds::FULL),
            })
            .into_iter()
            .chain(values.iter().map(|v| v.map_or(Operand::Float, |v| operand(node.graph.ty(v)))))
            .chain(numbers.iter().map(|_| Operand::Float))
            .collect();
        let text = lifted.wrapped(node.result.dtype, &operands).to_string();
        // Deep expressions print but do not read back.
        Expr::parse(&text).map_err(|e| e.to_string())?;
        let mut args = Vec::new();
        let mut keys = Vec::new();
        for (i, value) in values.iter().enumerate() {
            let value = value.ok_or_else(|| format!("an absent operand {i} of an expression"))?;
            let ty = node.graph.ty(value);
            let storage = storage(ty)
                .filter(|s| !matches!(s, Storage::Packed(_)))
                .ok_or_else(|| format!("{ty} in an expression"))?;
            let (load, numbers) = shape::load(&dims(ty), &node.dims)
                .ok_or_else(|| format!("{ty} broadcast to {} in an expression", node.result))?;
            keys.push(ArgKey { storage, value: class_of(ty), load, run: Run::Each });
            args.push((value, numbers));
        }
        Ok(Epilogue {
            key: ExprKey { text, own, args: keys, n_numbers: numbers.len() },
            args,
            numbers: numbers.into_iter().map(|(bits, i)| (i, f32::from_bits(bits))).collect(),
        })
    }

    /// The layout of vectors of so many elements of each operand, for vectors of the result that begin at multiples of
    /// `width`.
    pub(super) fn runs(&self, width: u32) -> Vec<Run> {
        let divides = |dim: &Dim| divides(width, dim);
        let run = |load: Load, numbers: &[Dim]| match (load, numbers) {
            (Load::Same, _) => Run::Vector,
            (Load::Scalar, _) => Run::One,
            (Load::Periodic, [inner, n]) if *inner == Dim::Known(1) && divides(n) => Run::Vector,
            (Load::Periodic, [inner, _]) if divides(inner) => Run::One,
            (Load::Strided(_), [outer @ .., size, stride]) if divides(size) => match stride {
                Dim::Known(0) => Run::One,
                Dim::Known(1) if outer.iter().skip(1).step_by(2).all(divides) => Run::Vector,
                _ => Run::Each,
            },
            _ => Run::Each,
        };
        self.key.args.iter().zip(&self.args).map(|(key, (_, numbers))| run(key.load, numbers)).collect()
    }

    /// The names of the parameters of operand `i`, which is `x<number>`, in the order of their numbers.
    pub(super) fn param_names(&self, i: usize, number: usize) -> Vec<String> {
        match self.key.args[i].load {
            Load::Same | Load::Scalar => Vec::new(),
            Load::Periodic => vec![format!("x{number}_inner"), format!("x{number}_n")],
            Load::Strided(rank) => {
                (0..rank).flat_map(|axis| [format!("x{number}_d{axis}"), format!("x{number}_s{axis}")]).collect()
            }
        }
    }
}
