//! `check_indices`: indices held against the axis that they go into, before anything is read or written by them.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attrs, CORE, Class, DType, Dim, Expand, IndexFault, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, Val,
    attr,
};
use crate::ops::core::iota;
use crate::ops::core::pointwise;
use crate::ops::util::{dims_attr, dims_value, finish, ints_attr, operand, result, split_own};

/// `check_indices(indices) {sizes, negative, ignore, dtype, epilogue}`: indices counted from the start. An index is
/// `len(sizes)` numbers, which are along the last axis where there is more than one; number `k` goes into an axis of
/// `sizes[k]` elements. With `negative` negative ones count from the end; one that equals `ignore` stays as it is. The
/// first that is out of range ends the run ([`OpError::Index`]).
pub static DEF: OpDef = OpDef {
    name: "check_indices",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::sizes("sizes"),
        attr::int("negative"),
        attr::int("ignore"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
    ],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// Which indices are in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The size of the axis of each number of an index.
    pub sizes: Vec<Dim>,
    /// Whether negative ones count from the end.
    pub negative: bool,
    /// What is let through, whatever the range.
    pub ignore: Option<i64>,
}

impl Rule {
    /// Indices of one number into an axis of this size, negative ones from the end: what ONNX says of Gather and its
    /// like.
    pub fn of_axis(size: Dim) -> Rule {
        Rule { sizes: vec![size], negative: true, ignore: None }
    }

    /// What a use says.
    ///
    /// # Errors
    /// It names no size.
    pub fn of(attrs: &Attrs) -> Result<Rule, OpError> {
        let sizes = dims_attr(attrs, "sizes").filter(|sizes| !sizes.is_empty());
        let sizes = sizes.ok_or_else(|| OpError::attribute("sizes", "is missing or empty"))?;
        Ok(Rule { sizes, negative: attrs.int("negative").unwrap_or(0) != 0, ignore: attrs.int("ignore") })
    }

    fn attrs(&self) -> Attrs {
        let attrs = Attrs::new().with("sizes", dims_value(&self.sizes)).with_int("negative", i64::from(self.negative));
        self.ignore.map_or(attrs.clone(), |ignore| attrs.with_int("ignore", ignore))
    }

    /// The type of indices of this type once they are checked: 32 bits where they hold every index that is in range.
    pub fn dtype(&self, indices: DType) -> DType {
        let is_short = |dim: &Dim| dim.most().is_some_and(|n| n <= i64::from(i32::MAX));
        match self.ignore {
            None if self.sizes.iter().all(is_short) => DType::I32,
            None => DType::I64,
            Some(_) => indices,
        }
    }
}

/// The indices, checked by `rule`: at once where they are constants.
///
/// # Errors
/// They are no integers, or constants of which one is out of range.
pub fn add(e: &mut Expand<'_, '_>, indices: Val, rule: &Rule) -> Result<Val, OpError> {
    let is_known = rule.sizes.iter().all(|dim| dim.known().is_some());
    if let Some(tensor) = e.edit.constant(indices).filter(|t| is_known && t.is_present()).cloned() {
        if tensor.dtype().class() != Class::Int {
            return Err(OpError::operand(1, tensor.ty(), "integers"));
        }
        let attrs = rule.attrs().with_dtype("dtype", rule.dtype(tensor.dtype()));
        return eval(&attrs, &[Some(&tensor)])?
            .pop()
            .map(|tensor| e.constant(tensor))
            .ok_or(OpError::MissingOperand { slot: 0 });
    }
    e.add(&DEF, rule.attrs(), &[indices])
}

/// The same without the check, for programs that are compiled so: indices out of range become the nearest that are in
/// range.
///
/// # Errors
/// The type rule refuses.
pub fn unchecked(e: &mut Expand<'_, '_>) -> Result<Val, OpError> {
    let (indices, rule) = (e.input(0)?, Rule::of(e.attrs)?);
    let (dtype, shape) = (e.outputs[0].dtype, e.outputs[0].shape.clone());
    let known: Option<Vec<i64>> = rule.sizes.iter().map(Dim::known).collect();
    let sizes = match (known, rule.sizes.as_slice()) {
        (Some(known), _) => {
            let dims: &[usize] = if known.len() == 1 { &[] } else { &[known.len()] };
            e.constant(Tensor::from_i64s(DType::I64, dims, &known)?)
        }
        (None, [size]) => {
            let one = iota::add(e, size.clone(), Dim::Known(0), Dim::Known(1), DType::I64)?;
            crate::ops::core::reshape::to(e, one, Vec::new())?
        }
        (None, _) => return Err(OpError::attribute("sizes", "are not all known")),
    };
    let row = if rule.negative { select(arg(0).below(0), arg(0) + arg(1), arg(0)) } else { arg(0) };
    let clamped = row.min(arg(1) - 1).max(0);
    let expr = match rule.ignore {
        Some(ignore) => select(arg(0).equals(ignore), arg(0), clamped),
        None => clamped,
    };
    let y = pointwise::add(e, expr, dtype, &[indices, sizes])?;
    crate::ops::onnx::movement::broadcast_to(e, y, shape.0)
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let indices = infer.ty(0)?;
    let rule = Rule::of(infer.attrs)?;
    if indices.dtype.class() != Class::Int || indices.packing.is_some() {
        return Err(OpError::operand(0, indices, "integers"));
    }
    let numbers = Dim::from(rule.sizes.len());
    if rule.sizes.len() > 1 && indices.shape.0.last() != Some(&numbers) {
        return Err(OpError::operand(0, indices, format!("{numbers} numbers along the last axis")));
    }
    if let Some(size) = rule.sizes.iter().find(|size| size.known().is_some_and(|n| n < 0)) {
        return Err(OpError::attribute("sizes", format!("has {size}")));
    }
    result(infer, Class::Int, rule.dtype(indices.dtype), indices.shape.clone())
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    let indices = operand(own, 0)?;
    let rule = Rule::of(attrs)?;
    let sizes = ints_attr(attrs, "sizes")?.unwrap_or_default();
    let mut values = indices.to_i64s()?;
    for (element, (index, &size)) in values.iter_mut().zip(sizes.iter().cycle()).enumerate() {
        if rule.ignore == Some(*index) {
            continue;
        }
        let least = if rule.negative { size.saturating_neg() } else { 0 };
        if !(least..size).contains(index) {
            return Err(IndexFault { element: element as u64, index: *index, least, most: size - 1 }.into());
        }
        if *index < 0 {
            *index += size;
        }
    }
    let own_dtype = rule.dtype(indices.dtype());
    finish(attrs, Tensor::from_i64s(own_dtype, &indices.dims(), &values)?, own_dtype, extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(attrs: Attrs, dims: &[usize], values: &[i64]) -> Result<Vec<i64>, OpError> {
        let indices = Tensor::from_i64s(DType::I64, dims, values).unwrap();
        Ok(eval(&attrs, &[Some(&indices)])?[0].to_i64s().unwrap())
    }

    #[test]
    fn negative_indices_count_from_the_end_and_the_first_out_of_range_is_named() {
        let attrs = || Rule::of_axis(Dim::Known(20)).attrs();
        assert_eq!(checked(attrs(), &[3], &[-20, -1, 19]).unwrap(), [0, 19, 19]);
        let refused = checked(attrs(), &[2, 2], &[3, 20, -21, 0]).unwrap_err().to_string();
        assert_eq!(refused, "index 20 (element 1 of the indices) is out of range: -20 to 19 are allowed");
        let refused = checked(attrs(), &[1], &[i64::MIN]).unwrap_err().to_string();
        assert!(refused.starts_with("index -9223372036854775808 (element 0"), "{refused}");
    }

    #[test]
    fn each_number_of_an_index_has_its_own_axis_and_what_is_ignored_passes() {
        let attrs = |sizes: &[i64], ignore| {
            let sizes = sizes.iter().map(|&n| Dim::Known(n)).collect();
            Rule { sizes, negative: false, ignore }.attrs()
        };
        assert_eq!(checked(attrs(&[2, 5], None), &[2, 2], &[1, 4, 0, 3]).unwrap(), [1, 4, 0, 3]);
        let refused = checked(attrs(&[2, 5], None), &[2, 2], &[1, 4, 2, 3]).unwrap_err().to_string();
        assert_eq!(refused, "index 2 (element 2 of the indices) is out of range: 0 to 1 are allowed");
        assert!(checked(attrs(&[2], None), &[1], &[-1]).is_err());
        assert_eq!(checked(attrs(&[2], Some(-100)), &[2], &[-100, 1]).unwrap(), [-100, 1]);
        let empty = checked(attrs(&[0], None), &[1], &[0]).unwrap_err().to_string();
        assert_eq!(empty, "index 0 (element 0 of the indices) is out of range: its axis is empty");
    }
}
