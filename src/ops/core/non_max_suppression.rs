//! ONNX NonMaxSuppression: the best of boxes that overlap, on the host.

use crate::ir::{Attrs, CORE, COUNT, DType, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::data_dependent::{count, folded};
use crate::ops::util::{number_operand, operand};

/// `non_max_suppression(boxes, scores, max_output_boxes_per_class?, iou_threshold?, score_threshold?)
/// {center_point_box, count}`: ONNX NonMaxSuppression, opset 11: `[count, 3]` of batch, class and box.
pub static DEF: OpDef = OpDef {
    name: "non_max_suppression",
    onnx: "NonMaxSuppression",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("center_point_box"), attr::sizes(COUNT)],
    arity: (2, 5),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// Batches, classes and boxes.
fn boxes(infer: &Infer<'_>) -> Result<(Dim, Dim, Dim), OpError> {
    let (boxes, scores) = (number_operand(infer, 0)?, number_operand(infer, 1)?);
    let [batches, n, Dim::Known(4)] = &boxes.shape.0[..] else {
        return Err(OpError::operand(0, boxes, "boxes [batch, n, 4]"));
    };
    match &scores.shape.0[..] {
        [own, classes, each] if own == batches && each == n => Ok((batches.clone(), classes.clone(), n.clone())),
        _ => Err(OpError::operand(1, scores, format!("scores [{batches}, classes, {n}]"))),
    }
}

/// The most boxes of a class: operand 2, 0 where it is absent.
fn limit(operand: Option<&Tensor>) -> Result<usize, OpError> {
    let n = operand.map(Tensor::to_i64s).transpose()?.and_then(|list| list.first().copied()).unwrap_or(0);
    Ok(usize::try_from(n.max(0)).unwrap_or(usize::MAX))
}

/// The most boxes that may be left.
pub(crate) fn bound(infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    let (batches, classes, n) = boxes(infer)?;
    let most = infer.constant(2).map(|t| limit(Some(t))).transpose()?;
    let each = most.map_or(n.clone(), |most| Dim::least(&n, &Dim::from(most)));
    // Without that operand there is no result.
    let is_any = infer.inputs.get(2).is_some_and(Option::is_some);
    Ok(Some(if is_any { &(&batches * &classes) * &each } else { Dim::Known(0) }))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    boxes(infer)?;
    let Some(count) = count(infer)? else { return folded(infer, &eval) };
    Ok(vec![TensorType::new(DType::I64, Shape(vec![count, Dim::Known(3)]))])
}

/// The corners of a box: least y and x, most y and x.
fn corners(given: &[f32], center: bool) -> [f32; 4] {
    match (given, center) {
        (&[x, y, width, height], true) => [y - height / 2.0, x - width / 2.0, y + height / 2.0, x + width / 2.0],
        (&[y1, x1, y2, x2], false) => [y1.min(y2), x1.min(x2), y1.max(y2), x1.max(x2)],
        _ => [0.0; 4],
    }
}

/// Whether the intersection of two boxes is more than `threshold` of their union.
fn overlap(a: &[f32; 4], b: &[f32; 4], threshold: f32) -> bool {
    let (height, width) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    if height <= 0.0 || width <= 0.0 {
        return false;
    }
    let area = |of: &[f32; 4]| (of[2] - of[0]) * (of[3] - of[1]);
    let (own, other, both) = (area(a), area(b), height * width);
    let union = own + other - both;
    own > 0.0 && other > 0.0 && union > 0.0 && both / union > threshold
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (given, scores) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let optional = |slot: usize| inputs.get(slot).copied().flatten();
    let number = |slot: usize| {
        Ok::<_, OpError>(optional(slot).map(Tensor::to_f32s).transpose()?.and_then(|list| list.first().copied()))
    };
    let most = limit(optional(2))?;
    let (iou, least_score) = (number(3)?.unwrap_or(0.0), number(4)?);
    let center = attrs.int("center_point_box").unwrap_or(0) != 0;
    let (&[batches, n, 4], &[own, classes, each]) = (&given.dims()[..], &scores.dims()[..]) else {
        return Err(OpError::operand(0, given.ty(), "boxes [batch, n, 4] and scores [batch, classes, n]"));
    };
    if own != batches || each != n {
        return Err(OpError::operand(1, scores.ty(), format!("scores [{batches}, classes, {n}]")));
    }
    let boxes: Vec<[f32; 4]> = given.to_f32s()?.chunks_exact(4).map(|one| corners(one, center)).collect();
    let scores = scores.to_f32s()?;
    let mut found = Vec::new();
    for batch in 0..batches {
        for class in 0..classes {
            let scores = &scores[(batch * classes + class) * n..][..n];
            let boxes = &boxes[batch * n..][..n];
            let mut order: Vec<usize> = (0..n).filter(|&i| least_score.is_none_or(|least| scores[i] > least)).collect();
            // Of equal scores the first comes first.
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() >= most {
                    break;
                }
                if !kept.iter().any(|&other| overlap(&boxes[i], &boxes[other], iou)) {
                    kept.push(i);
                }
            }
            found.extend(kept.into_iter().flat_map(|i| [batch as i64, class as i64, i as i64]));
        }
    }
    Ok(vec![Tensor::from_i64s(DType::I64, &[found.len() / 3, 3], &found)?])
}
