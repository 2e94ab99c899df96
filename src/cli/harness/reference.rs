//! Some elements of a subject's result in f64.

use super::bug;
use super::data::Data;
use super::subject::Built;
use crate::cli::Failure;
use crate::ir::packed::dequantize;
use crate::ir::{Op, Tensor, TensorType, ValueId};
use std::collections::BTreeMap;

/// Elements that are compared, and multiplications that they may take.
const CHECKED: usize = 2048;
const MOST_TERMS: usize = 16 << 20;

/// What some elements should be.
pub(in crate::cli) struct Wanted {
    elements: Vec<(usize, f64)>,
    /// The largest relative L2 that is right.
    pub(in crate::cli) bound: f64,
}

struct Subject<'a> {
    built: &'a Built,
    data: &'a BTreeMap<ValueId, Data>,
    op: &'a Op,
    own: Vec<Option<ValueId>>,
    y: &'a TensorType,
}

impl Subject<'_> {
    fn data(&self, slot: usize) -> Result<&Data, Failure> {
        let value = self.own.get(slot).copied().flatten();
        value.and_then(|value| self.data.get(&value)).ok_or_else(|| bug("an operand without data"))
    }

    fn dims(&self, slot: usize) -> Vec<usize> {
        let value = self.own.get(slot).copied().flatten();
        value.map_or(Vec::new(), |value| known(self.built.graph.ty(value)))
    }

    fn ints<const N: usize>(&self, name: &str, default: usize) -> [usize; N] {
        let given = self.op.attrs.ints(name).unwrap_or_default();
        std::array::from_fn(|i| given.get(i).and_then(|n| usize::try_from(*n).ok()).unwrap_or(default))
    }
}

fn known(ty: &TensorType) -> Vec<usize> {
    ty.shape.0.iter().map(|d| d.known().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)).collect()
}

/// What elements are compared: some everywhere, and those at the edges, `terms` multiplications each.
fn places(dims: &[usize], terms: usize) -> Vec<usize> {
    let (n, columns) = (dims.iter().product::<usize>(), dims.last().copied().unwrap_or(1).max(1));
    let most = (MOST_TERMS / terms.max(1)).clamp(32, CHECKED);
    // Coprime to few sizes only: consecutive ones fall into different columns.
    let inside = (0..n).step_by((n / most).max(1) | 1);
    let rows = n / columns;
    let some = (rows / 32).max(1);
    let at_edges = (0..rows).step_by(some).chain([rows.saturating_sub(1)]);
    let edges = at_edges
        .flat_map(|row| (0..columns.min(16)).flat_map(move |i| [row * columns + i, (row + 1) * columns - 1 - i]));
    let few = if most < CHECKED { 32 } else { usize::MAX };
    inside.chain(edges.take(few)).collect()
}

impl Wanted {
    /// # Errors
    /// There is no reference for the operator.
    pub(super) fn of(built: &Built, data: &BTreeMap<ValueId, Data>) -> Result<Wanted, Failure> {
        let node = *built.nodes.last().ok_or_else(|| bug("a subject without nodes"))?;
        let op = built.graph.node(node).op().ok_or_else(|| bug("a subject without operator"))?;
        let mut own = built.graph.operands(node);
        let added = if op.attrs.expr("epilogue").is_some() { own.pop().flatten() } else { None };
        let subject = Subject { built, data, op, own, y: built.graph.ty(node.out(0)) };
        let mut elements = match op.def.name {
            "matmul" => matmul(&subject)?,
            "conv" => conv(&subject)?,
            "dot_product_attention" => attention(&subject)?,
            "softmax" => softmax(&subject)?,
            "norm" => norm(&subject)?,
            "quantize_packed" => {
                let x = subject.data(0)?;
                places(&known(subject.y), 1).into_iter().map(|at| (at, x.at(at))).collect()
            }
            other => return Err(bug(format!("no reference for {other}"))),
        };
        if let Some(added) = added.and_then(|value| data.get(&value)) {
            elements.iter_mut().for_each(|(at, v)| *v += added.at(*at));
        }
        let is = |packed: fn(&TensorType) -> bool| subject.own.iter().flatten().any(|v| packed(built.graph.ty(*v)));
        let bound = match subject.y {
            // Half a step of 127 to either side, of values from -1 to 1.
            ty if ty.packing.is_some() => 1e-2,
            ty if ty.dtype == crate::ir::DType::F16 => 2e-3,
            _ if is(|ty| ty.packing.is_some()) && is(|ty| ty.dtype == crate::ir::DType::F16) => 2e-3,
            _ => 1e-5,
        };
        Ok(Wanted { elements, bound })
    }

    /// Relative L2 of a result against what is wanted; infinite where an element is not finite.
    ///
    /// # Errors
    /// The result does not read.
    pub(in crate::cli) fn error(&self, y: &Tensor, ty: &TensorType) -> Result<f64, Failure> {
        let values = match ty.packing {
            Some(packing) => {
                let dims = known(ty);
                let columns = dims.last().copied().unwrap_or(1).max(1);
                let rows = dims.iter().product::<usize>() / columns;
                dequantize(packing, rows, columns, y.bytes().map_err(bug)?).map_err(bug)?
            }
            None => y.to_f32s().map_err(bug)?.into_owned(),
        };
        let (mut sum, mut norm) = (0.0, 0.0);
        for &(at, wanted) in &self.elements {
            let given = values.get(at).copied().map_or(f64::INFINITY, f64::from);
            if !given.is_finite() {
                return Ok(f64::INFINITY);
            }
            sum += (given - wanted).powi(2);
            norm += wanted * wanted;
        }
        Ok((sum / f64::max(norm, 1e-30)).sqrt())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn matmul(s: &Subject<'_>) -> Result<Vec<(usize, f64)>, Failure> {
    let (x, w, dims) = (s.data(0)?, s.data(1)?, known(s.y));
    let (&[m, n], &[_, k]) = (&dims[..], &s.dims(0)[..]) else { return Err(bug("a batched product")) };
    let _ = m;
    Ok(places(&dims, k).into_iter().map(|at| (at, dot(x.row(at / n), w.row(at % n)))).collect())
}

fn conv(s: &Subject<'_>) -> Result<Vec<(usize, f64)>, Failure> {
    let (x, w, dims, x_dims) = (s.data(0)?, s.data(1)?, known(s.y), s.dims(0));
    let is_last = s.op.attrs.str("layout") == Some("nhwc");
    let order = |dims: &[usize]| match (dims, is_last) {
        (&[n, h, w, c], true) | (&[n, c, h, w], false) => Some([n, h, w, c]),
        _ => None,
    };
    let ([_, h, width, c], [_, oh, ow, oc]) =
        order(&x_dims).zip(order(&dims)).ok_or_else(|| bug("a conv without images"))?;
    let groups = usize::try_from(s.op.attrs.int("group").unwrap_or(1)).unwrap_or(1).max(1);
    let ([kh, kw], [sh, sw], [top, left, ..]) =
        (s.ints::<2>("kernel", 1), s.ints::<2>("strides", 1), s.ints::<4>("pads", 0));
    let (per, filters) = (c / groups, oc / groups);
    let one = |at: usize| {
        let (image, y, x_at, o) = if is_last {
            (at / oc / ow / oh, at / oc / ow % oh, at / oc % ow, at % oc)
        } else {
            (at / ow / oh / oc, at / ow % oh, at % ow, at / ow / oh % oc)
        };
        let first = o / filters * per;
        let mut sum = 0.0;
        for i in 0..kh {
            for j in 0..kw {
                let (Some(y), Some(x_at)) = ((y * sh + i).checked_sub(top), (x_at * sw + j).checked_sub(left)) else {
                    continue;
                };
                if y >= h || x_at >= width {
                    continue;
                }
                for e in 0..per {
                    let (of_x, of_w) = if is_last {
                        (((image * h + y) * width + x_at) * c + first + e, (i * kw + j) * per + e)
                    } else {
                        (((image * c + first + e) * h + y) * width + x_at, (e * kh + i) * kw + j)
                    };
                    sum += x.at(of_x) * w.at(o * per * kh * kw + of_w);
                }
            }
        }
        (at, sum)
    };
    Ok(places(&dims, per * kh * kw).into_iter().map(one).collect())
}

fn attention(s: &Subject<'_>) -> Result<Vec<(usize, f64)>, Failure> {
    let (q, k, v, dims) = (s.data(0)?, s.data(1)?, s.data(2)?, known(s.y));
    let (&[_, heads, queries, head], &[_, kv_heads, keys, _]) = (&dims[..], &s.dims(1)[..]) else {
        return Err(bug("an attention without heads"));
    };
    let scale = f64::from(s.op.attrs.float("scale").unwrap_or(1.0));
    let offset = usize::try_from(s.op.attrs.int("offset").unwrap_or(0)).unwrap_or(0);
    let is_causal = s.op.attrs.int("right") == Some(0);
    let one = |at: usize| {
        let (row, e) = (at / head, at % head);
        let (query, of_head, batch) = (row % queries, row / queries % heads, row / queries / heads);
        let first = (batch * kv_heads + of_head * kv_heads / heads) * keys;
        let seen = if is_causal { (offset + query + 1).min(keys) } else { keys };
        let scores: Vec<f64> = (0..seen).map(|key| dot(q.row(row), k.row(first + key)) * scale).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut all) = (0.0, 0.0);
        for (key, score) in scores.iter().enumerate() {
            let weight = (score - most).exp();
            all += weight;
            sum += weight * f64::from(v.row(first + key)[e]);
        }
        (at, sum / all)
    };
    Ok(places(&dims, keys * head).into_iter().map(one).collect())
}

fn softmax(s: &Subject<'_>) -> Result<Vec<(usize, f64)>, Failure> {
    let (x, dims) = (s.data(0)?, known(s.y));
    let columns = dims.last().copied().unwrap_or(1).max(1);
    let one = |at: usize| {
        let row = x.row(at / columns);
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exp = |v: f32| f64::from(v - most).exp();
        (at, exp(row[at % columns]) / row.iter().map(|v| exp(*v)).sum::<f64>())
    };
    Ok(places(&dims, columns).into_iter().map(one).collect())
}

fn norm(s: &Subject<'_>) -> Result<Vec<(usize, f64)>, Failure> {
    let (x, scale, bias, dims) = (s.data(0)?, s.data(1)?, s.data(2)?, known(s.y));
    let columns = dims.last().copied().unwrap_or(1).max(1);
    let epsilon = f64::from(s.op.attrs.float("epsilon").unwrap_or(1e-5));
    let one = |at: usize| {
        let row = x.row(at / columns);
        let n = columns as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let column = at % columns;
        let value = (f64::from(row[column]) - mean) / (variance + epsilon).sqrt();
        (at, value * scale.at(column) + bias.at(column))
    };
    Ok(places(&dims, columns).into_iter().map(one).collect())
}
