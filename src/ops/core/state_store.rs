//! `state_store`: the next version of a state ([`crate::ir::State`]).

use crate::ir::{
    Attrs, CORE, Class, Dim, Expand, Infer, KERNEL, ONNX, OpDef, OpError, STATE_STORE, Tensor, TensorType, Val, attr,
};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::util::{axis_attr, elements, from_elements, n_elems, operand};

/// `state_store(state, value) {}` is `value`; `state_store(state, rows, at) {axis}` is `state` with `rows` in the
/// places of its own along `axis`, from the position on that `at`, one integer, says when the program runs. Floats are
/// kept in the state's type. The first operand is a version of a state, and the result the next one: on a device both
/// have the same memory. The core operator leaves out rows beyond the axis; before it `at` is checked
/// (`check_indices`).
pub static DEF: OpDef = OpDef {
    name: STATE_STORE,
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis")],
    arity: (2, 3),
    infer: &infer,
    eval: Some(&eval),
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (state, value) = (infer.ty(0)?, infer.ty(1)?);
    if state.packing.is_some() || value.packing.is_some() {
        return Err(OpError::operand(1, value, "a tensor that is not packed"));
    }
    let may_round = |ty: &TensorType| ty.dtype.is_float() && !ty.dtype.is_minifloat();
    if value.dtype != state.dtype && !(may_round(state) && may_round(value)) {
        return Err(OpError::operand(1, value, format!("elements of {state}")));
    }
    let Some(at) = infer.inputs.get(2).copied().flatten() else {
        if value.shape != state.shape {
            return Err(OpError::operand(1, value, state));
        }
        return Ok(vec![state.clone()]);
    };
    let axis = axis_attr(infer.attrs, 0, state.shape.rank())?;
    let fits = value.shape.rank() == state.shape.rank()
        && value.shape.0.iter().zip(&state.shape.0).enumerate().all(|(i, (rows, size))| match i == axis {
            true => (size - rows).bounds().0 >= 0,
            false => rows == size,
        });
    if !fits {
        return Err(OpError::operand(1, value, format!("rows of {state} along axis {axis}, at most as many")));
    }
    if at.dtype.class() != Class::Int || at.packing.is_some() || at.shape.n_elems() != Some(1) {
        return Err(OpError::operand(2, at, "one integer"));
    }
    Ok(vec![state.clone()])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (state, value) = (e.input(0)?, e.input(1)?);
    let Some(at) = e.optional(2) else { return Ok(vec![e.add(&DEF, Attrs::new(), &[state, value])?]) };
    let (ty, rows) = (e.ty(state), e.ty(value));
    let axis = axis_attr(e.attrs, 0, ty.shape.rank())?;
    let places = &(&ty.shape.0[axis] - &rows.shape.0[axis]) + &Dim::Known(1);
    let at = check_indices::add(e, at, &Rule { sizes: vec![places], negative: false, ignore: None })?;
    Ok(vec![e.add(&DEF, Attrs::new().with_int("axis", axis as i64), &[state, value, at])?])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (state, value) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let kept;
    let value = if value.dtype() == state.dtype() {
        value
    } else {
        kept = Tensor::from_f32s(state.dtype(), &value.dims(), &value.to_f32s()?)?;
        &kept
    };
    let Some(at) = inputs.get(2).copied().flatten() else { return Ok(vec![value.clone()]) };
    let dims = state.dims();
    let axis = axis_attr(attrs, 0, dims.len())?;
    let at = at.to_i64s()?.first().copied().ok_or(OpError::MissingOperand { slot: 2 })?;
    let (old, size) = elements(state)?;
    let (rows, _) = elements(value)?;
    let n_rows = value.dims()[axis];
    let inner = n_elems(&dims[axis + 1..])? * size;
    let mut out = old.into_owned();
    for outer in 0..n_elems(&dims[..axis])? {
        for row in 0..n_rows {
            let place = i64::try_from(row).ok().and_then(|row| at.checked_add(row));
            let Some(place) = place.and_then(|p| usize::try_from(p).ok()).filter(|p| *p < dims[axis]) else { continue };
            let (from, to) = ((outer * n_rows + row) * inner, (outer * dims[axis] + place) * inner);
            out[to..to + inner].copy_from_slice(&rows[from..from + inner]);
        }
    }
    Ok(vec![from_elements(state.dtype(), &dims, out)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    fn stored(axis: i64, at: i64, rows: &[usize], values: &[i64]) -> Vec<i64> {
        let state = Tensor::from_i64s(DType::I32, &[2, 3], &[0; 6]).unwrap();
        let rows = Tensor::from_i64s(DType::I32, rows, values).unwrap();
        let at = Tensor::from_i64s(DType::I32, &[], &[at]).unwrap();
        let attrs = Attrs::new().with_int("axis", axis);
        eval(&attrs, &[Some(&state), Some(&rows), Some(&at)]).unwrap()[0].to_i64s().unwrap()
    }

    #[test]
    fn rows_go_to_their_places_along_any_axis_and_those_beyond_it_are_left_out() {
        assert_eq!(stored(0, 1, &[1, 3], &[1, 2, 3]), [0, 0, 0, 1, 2, 3]);
        assert_eq!(stored(1, 1, &[2, 2], &[1, 2, 3, 4]), [0, 1, 2, 0, 3, 4]);
        assert_eq!(stored(1, 2, &[2, 2], &[1, 2, 3, 4]), [0, 0, 1, 0, 0, 3]);
        assert_eq!(stored(1, -1, &[2, 2], &[1, 2, 3, 4]), [2, 0, 0, 4, 0, 0]);
        assert_eq!(stored(0, i64::MAX, &[1, 3], &[1, 2, 3]), [0; 6]);
    }

    #[test]
    fn what_is_no_part_of_the_state_is_refused() {
        let state = TensorType::of(DType::F32, &[2, 3]);
        let at = TensorType::of(DType::I64, &[1]);
        let refused = |value: TensorType, at: Option<&TensorType>| {
            let inputs = [Some(&state), Some(&value), at];
            let attrs = Attrs::new();
            Infer { attrs: &attrs, inputs: &inputs, consts: &[], sizes: &[], n_outputs: 1 }.types(&DEF).is_err()
        };
        assert!(!refused(state.clone(), None) && !refused(TensorType::of(DType::F16, &[1, 3]), Some(&at)));
        assert!(refused(TensorType::of(DType::I32, &[2, 3]), None), "other elements");
        assert!(refused(TensorType::of(DType::F32, &[1, 3]), None), "a part without a position");
        assert!(refused(TensorType::of(DType::F32, &[3, 3]), Some(&at)), "more rows than the state has");
        assert!(refused(TensorType::of(DType::F32, &[1, 2]), Some(&at)), "narrower rows");
        assert!(refused(TensorType::of(DType::F32, &[1, 3]), Some(&state)), "positions that are no integer");
    }
}
