//! ONNX Slice: parts of a tensor.

use crate::ir::{Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, resolve_axis};
use crate::ops::core::strided::{View, row_major, view};

/// `slice(x, starts, ends, axes?, steps?)`: ONNX Slice, opset 13.
pub static DEF: OpDef = OpDef {
    name: "slice",
    onnx: "Slice",
    levels: ONNX,
    attrs: &[],
    arity: (3, 5),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// The part of one axis that is kept.
struct Range {
    start: Dim,
    step: i64,
    size: Dim,
}

/// What ONNX's `start..end` by `step` keeps of an axis of size `n`, at every size that these may have.
fn range(n: &Dim, start: &Dim, end: &Dim, step: i64) -> Result<Range, OpError> {
    if step == 0 {
        return Err(OpError::operand(4, 0, "steps other than 0"));
    }
    let (zero, one) = (Dim::Known(0), Dim::Known(1));
    let clamp = |v: &Dim| Dim::least(&Dim::larger(v, &zero), n);
    // Places from that of the first element on, or from behind the last one backwards: both are within 0..=n and count
    // up.
    let place = |v: &Dim| {
        let v = from_the_front(n, v);
        if step > 0 { v } else { n - &(&v + &one) }
    };
    let (from, to) = (place(start), place(end));
    // Backwards, a start before the axis is its first element (ONNX Slice-13), which is the last one of those places.
    let most = Dim::larger(&(n - &one), &zero);
    let from = if step > 0 || from.at_most(&most) { from } else { Dim::least(&from, &most) };
    let (first, last) = (clamp(&from), clamp(&to));
    // Of a part that begins or ends with the axis, one clamp is enough: its size has better bounds, and more often the
    // form of another size.
    let span = if last == *n {
        clamp(&(n - &from))
    } else if first == zero {
        last
    } else {
        Dim::larger(&(&last - &first), &zero)
    };
    let by = i64::try_from(step.unsigned_abs()).unwrap_or(i64::MAX);
    let size = span.div_ceil(step.unsigned_abs());
    let start = if step > 0 { first } else { Dim::larger(&(&(n - &one) - &first), &zero) };
    // One element, or none, has no step: the next place would be beyond any memory.
    let step = if n.at_most(&Dim::Known(by)) { step.signum() } else { step };
    Ok(Range { start, step, size })
}

/// The elements of a list of `n` that `start..end` by `step` keeps, in order; `None` where the step is 0.
pub fn places(n: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let kept = range(&Dim::from(n), &Dim::Known(start), &Dim::Known(end), step).ok()?;
    let (first, size) = (kept.start.known()?, kept.size.known()?);
    (0..size).map(|i| usize::try_from(first + i * kept.step).ok()).collect()
}

/// A place as Slice has it, negative ones counted from the end, as a place from the front, which may be before it or
/// behind the end.
fn from_the_front(n: &Dim, v: &Dim) -> Dim {
    /// No axis is longer.
    const FAR: i64 = 1 << 31;
    match (v.known(), v.bounds()) {
        (Some(v), _) if v >= FAR - 1 => n.clone(),
        (Some(v), _) if v <= 1 - FAR => Dim::Known(-1),
        (_, (low, _)) if low >= 0 => v.clone(),
        (_, (_, high)) if high < 0 => n + v,
        // 1 where it is negative, and 0 elsewhere.
        _ => v + &(n * &Dim::least(&Dim::larger(&(&Dim::Known(0) - v), &Dim::Known(0)), &Dim::Known(1))),
    }
}

/// The ranges of all axes.
fn ranges(
    shape: &Shape,
    starts: Vec<Dim>,
    ends: Vec<Dim>,
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
) -> Result<Vec<Range>, OpError> {
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(OpError::operand(1, format!("{starts:?}"), "as many starts as ends, axes and steps"));
    }
    let mut ranges: Vec<Range> =
        shape.0.iter().map(|d| Range { start: Dim::Known(0), step: 1, size: d.clone() }).collect();
    for (i, axis) in axes.iter().enumerate() {
        let axis =
            resolve_axis(*axis, shape.rank()).ok_or_else(|| OpError::operand(3, axis, format!("axes of {shape}")))?;
        ranges[axis] = range(&shape.0[axis], &starts[i], &ends[i], steps[i])?;
    }
    Ok(ranges)
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let needed = |slot: usize| infer.dims(slot)?.ok_or(OpError::MissingOperand { slot });
    let ranges = ranges(&x.shape, needed(1)?, needed(2)?, infer.ints(3)?, infer.ints(4)?)?;
    if x.packing.is_some() {
        return Err(OpError::operand(0, x, "a tensor that is not packed"));
    }
    Ok(vec![TensorType::new(x.dtype, Shape(ranges.into_iter().map(|r| r.size).collect()))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let shape = e.ty(x).shape;
    let needed = |slot: usize| e.dims(slot)?.ok_or(OpError::MissingOperand { slot });
    let ranges = ranges(&shape, needed(1)?, needed(2)?, e.ints(3)?, e.ints(4)?)?;
    let whole =
        |(r, d): (&Range, &Dim)| r.size == *d && r.start == Dim::Known(0) && (r.step == 1 || *d == Dim::Known(1));
    if ranges.iter().zip(&shape.0).all(whole) {
        return Ok(vec![x]);
    }
    let own = row_major(&shape.0);
    let offset = ranges.iter().zip(&own).fold(Dim::Known(0), |sum, (r, s)| &sum + &(&r.start * s));
    let strides = ranges.iter().zip(&own).map(|(r, s)| s * &Dim::Known(r.step)).collect();
    let shape = ranges.into_iter().map(|r| r.size).collect();
    Ok(vec![view(e, x, &View { shape, strides, offset: Some(offset), ..View::default() })?])
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn a_start_before_the_axis_is_its_first_element() {
        // ONNX Slice-13 and ONNX Runtime; numpy has none there.
        for (n, kept) in [(0, vec![]), (1, vec![0]), (3, vec![0]), (8, vec![0]), (9, vec![1])] {
            assert_eq!(places(n, -8, -14, -2), Some(kept), "{n}");
        }
    }
}
