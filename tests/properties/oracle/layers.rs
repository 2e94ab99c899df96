//! Reductions, products, softmax, normalisations and windows: sums in f64.

use super::values::{Data, Values, axis, common, index, place, range};
use nyxc::ir::{Attrs, DType, Op};

pub fn evaluate(op: &Op, x: &[Option<Values>]) -> Option<Values> {
    let first = x.first()?.as_ref()?;
    let second = x.get(1).and_then(Option::as_ref);
    let rank = first.dims.len();
    let named = |default: i64| axis(op.attrs.int("axis").unwrap_or(default), rank);
    match op.def.onnx {
        name if name.starts_with("Reduce") => reduce(op, first, second),
        "ArgMax" | "ArgMin" => arg(op, first, named(0)?),
        "CumSum" | "CumProd" => cumulated(op, first, axis(*second?.ints()?.first()? as i64, rank)?),
        "Softmax" | "LogSoftmax" => softmax(first, named(-1)?, op.def.onnx == "LogSoftmax"),
        "MatMul" => matmul(first, second?),
        "Gemm" => gemm(&op.attrs, first, second?, x.get(2).and_then(Option::as_ref)),
        "Conv" => conv(op, first, second?, x.get(2).and_then(Option::as_ref)),
        "MaxPool" | "AveragePool" => pool(op, first),
        "GlobalMaxPool" | "GlobalAveragePool" => {
            let lines = groups(first, |i| (0..i.len()).map(|a| if a < 2 { i[a] } else { 0 }).collect());
            let mut dims = first.dims.clone();
            dims[2..].fill(1);
            let max = op.def.onnx == "GlobalMaxPool";
            fold(first, &dims, lines, if max { largest } else { mean })
        }
        name if name.ends_with("Normalization") => normalization(op, x, first),
        _ => None,
    }
}

/// Where the elements of each group are, by the place of its first.
fn groups(x: &Values, first: impl Fn(&[usize]) -> Vec<usize>) -> Vec<Vec<usize>> {
    let mut lists: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for at in 0..x.len() {
        lists.entry(place(&first(&index(at, &x.dims)), &x.dims)).or_default().push(at);
    }
    lists.into_values().collect()
}

fn along(x: &Values, at: usize) -> Vec<Vec<usize>> {
    groups(x, |index| {
        let mut index = index.to_vec();
        index[at] = 0;
        index
    })
}

fn fold(x: &Values, dims: &[usize], lists: Vec<Vec<usize>>, f: fn(&[f64]) -> f64) -> Option<Values> {
    let v = x.floats()?;
    let of = |list: &Vec<usize>| f(&list.iter().map(|&i| v[i]).collect::<Vec<_>>());
    Some(Values::of_floats(x.dtype, dims, lists.iter().map(of).collect()))
}

fn largest(v: &[f64]) -> f64 {
    v.iter().fold(f64::NEG_INFINITY, |m, v| if v.is_nan() || m.is_nan() { f64::NAN } else { m.max(*v) })
}

fn mean(v: &[f64]) -> f64 {
    v.iter().sum::<f64>() / v.len() as f64
}

fn log_sum_exp(v: &[f64]) -> f64 {
    let most = largest(v);
    if v.is_empty() { f64::NEG_INFINITY } else { most + v.iter().map(|v| (v - most).exp()).sum::<f64>().ln() }
}

fn reduce(op: &Op, x: &Values, axes: Option<&Values>) -> Option<Values> {
    let (attrs, rank, name) = (&op.attrs, x.dims.len(), op.def.onnx);
    let axes: Vec<i64> = axes.map(|a| a.ints()).unwrap_or(Some(&[]))?.iter().map(|&a| a as i64).collect();
    let axes: Vec<usize> = match attrs.int("noop_with_empty_axes").unwrap_or(0) {
        0 if axes.is_empty() => (0..rank).collect(),
        _ => axes.iter().map(|&a| axis(a, rank)).collect::<Option<_>>()?,
    };
    let kept: Vec<usize> = (0..rank).map(|a| if axes.contains(&a) { 1 } else { x.dims[a] }).collect();
    // Of no elements there is a result too.
    let mut lists = vec![Vec::new(); kept.iter().product()];
    for at in 0..x.len() {
        let own: Vec<usize> =
            index(at, &x.dims).iter().enumerate().map(|(a, &i)| if axes.contains(&a) { 0 } else { i }).collect();
        lists[place(&own, &kept)].push(at);
    }
    let dims: Vec<usize> = match attrs.int("keepdims").unwrap_or(1) {
        0 => (0..rank).filter(|a| !axes.contains(a)).map(|a| x.dims[a]).collect(),
        _ => kept,
    };
    if let Data::Floats(_) = &x.data {
        return fold(
            x,
            &dims,
            lists,
            match name {
                "ReduceSum" => |v| v.iter().sum(),
                "ReduceMean" => mean,
                "ReduceMax" => largest,
                "ReduceMin" => |v| -largest(&v.iter().map(|v| -v).collect::<Vec<_>>()),
                "ReduceProd" => |v| v.iter().product(),
                "ReduceL1" => |v| v.iter().map(|v| v.abs()).sum(),
                "ReduceL2" => |v| v.iter().map(|v| v * v).sum::<f64>().sqrt(),
                "ReduceSumSquare" => |v| v.iter().map(|v| v * v).sum(),
                "ReduceLogSum" => |v| v.iter().sum::<f64>().ln(),
                "ReduceLogSumExp" => log_sum_exp,
                _ => return None,
            },
        );
    }
    let (v, (least, most)) = (x.ints()?, range(x.dtype));
    let of = |list: &Vec<usize>| -> Option<i128> {
        let all = list.iter().map(|&i| v[i]);
        Some(match name {
            "ReduceSum" => all.sum(),
            "ReduceL1" => all.map(i128::abs).sum(),
            "ReduceSumSquare" => all.map(|v| v.wrapping_mul(v)).fold(0, i128::wrapping_add),
            "ReduceProd" => all.fold(1, |p, v| super::values::wrap(p.wrapping_mul(v), x.dtype)),
            "ReduceMax" => all.max().unwrap_or(least),
            "ReduceMin" => all.min().unwrap_or(most),
            _ => return None,
        })
    };
    Some(Values::of_ints(x.dtype, &dims, lists.iter().map(of).collect::<Option<Vec<_>>>()?))
}

fn arg(op: &Op, x: &Values, at: usize) -> Option<Values> {
    let last = op.attrs.int("select_last_index").unwrap_or(0) != 0;
    let least = op.def.onnx == "ArgMin";
    let lines = along(x, at);
    let better = |a: usize, b: usize| -> Option<bool> {
        let order = match &x.data {
            Data::Floats(v) => v[a].partial_cmp(&v[b])?,
            Data::Ints(v) => v[a].cmp(&v[b]),
        };
        let order = if least { order.reverse() } else { order };
        Some(order.is_gt() || last && order.is_eq())
    };
    let mut best = Vec::new();
    for line in &lines {
        let mut found = 0;
        for i in 1..line.len() {
            if better(line[i], line[found])? {
                found = i;
            }
        }
        best.push(found as i128);
    }
    let mut dims = x.dims.clone();
    if op.attrs.int("keepdims").unwrap_or(1) != 0 {
        dims[at] = 1;
    } else {
        dims.remove(at);
    }
    Some(Values::of_ints(DType::I64, &dims, best))
}

fn cumulated(op: &Op, x: &Values, at: usize) -> Option<Values> {
    let flag = |name| op.attrs.int(name).unwrap_or(0) != 0;
    let (exclusive, reverse, is_product) = (flag("exclusive"), flag("reverse"), op.def.onnx == "CumProd");
    let mut result = x.clone();
    for mut line in along(x, at) {
        if reverse {
            line.reverse();
        }
        match (&x.data, &mut result.data) {
            (Data::Floats(v), Data::Floats(out)) => {
                let mut total = if is_product { 1.0 } else { 0.0 };
                for i in line {
                    let next = if is_product { total * v[i] } else { total + v[i] };
                    out[i] = if exclusive { total } else { next };
                    total = next;
                }
            }
            (Data::Ints(v), Data::Ints(out)) => {
                let mut total = i128::from(is_product);
                for i in line {
                    let next = if is_product { total.wrapping_mul(v[i]) } else { total + v[i] };
                    let next = super::values::wrap(next, x.dtype);
                    out[i] = if exclusive { total } else { next };
                    total = next;
                }
            }
            _ => return None,
        }
    }
    Some(result)
}

fn softmax(x: &Values, at: usize, log: bool) -> Option<Values> {
    let v = x.floats()?;
    let mut out = v.to_vec();
    for line in along(x, at) {
        // Beside a value of 1e16 the logarithm of a sum is nothing, but the sum is not: two equal ones are halves.
        let most = line.iter().map(|&i| v[i]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = line.iter().map(|&i| (v[i] - most).exp()).sum();
        line.iter().for_each(|&i| {
            let above = v[i] - most;
            out[i] = if log { above - sum.ln() } else { above.exp() / sum };
        });
    }
    Some(Values::of_floats(x.dtype, &x.dims, out))
}

fn matmul(a: &Values, b: &Values) -> Option<Values> {
    let (x, y) = (a.floats()?, b.floats()?);
    let row = |v: &Values| [&[1], v.dims.as_slice()].concat();
    let a_dims = if a.dims.len() == 1 { row(a) } else { a.dims.clone() };
    let b_dims = if b.dims.len() == 1 { [b.dims.as_slice(), &[1]].concat() } else { b.dims.clone() };
    let (ra, rb) = (a_dims.len().checked_sub(2)?, b_dims.len().checked_sub(2)?);
    let (m, k, n) = (a_dims[ra], a_dims[ra + 1], b_dims[rb + 1]);
    let batch = common(&[&a_dims[..ra], &b_dims[..rb]])?;
    let (at, bt) = (
        super::values::broadcast_places(&a_dims[..ra], &batch)?,
        super::values::broadcast_places(&b_dims[..rb], &batch)?,
    );
    let mut out = Vec::new();
    for (p, q) in at.iter().zip(&bt) {
        for i in 0..m {
            for j in 0..n {
                out.push((0..k).map(|l| x[(p * m + i) * k + l] * y[(q * k + l) * n + j]).sum());
            }
        }
    }
    let mut dims = batch;
    if a.dims.len() > 1 {
        dims.push(m);
    }
    if b.dims.len() > 1 {
        dims.push(n);
    }
    Some(Values::of_floats(a.dtype, &dims, out))
}

fn gemm(attrs: &Attrs, a: &Values, b: &Values, c: Option<&Values>) -> Option<Values> {
    let number = |name: &str| attrs.float(name).map_or(1.0, f64::from);
    let transposed = |x: &Values, name: &str| -> Values {
        if attrs.int(name).unwrap_or(0) == 0 {
            return x.clone();
        }
        let (rows, cols) = (x.dims[0], x.dims[1]);
        let places: Vec<usize> = (0..rows * cols).map(|i| i % rows * cols + i / rows).collect();
        x.moved(&[cols, rows], &places)
    };
    let product = matmul(&transposed(a, "transA"), &transposed(b, "transB"))?;
    let c = c.map(|c| c.broadcast(&product.dims)).map_or(Some(None), |c| c.map(Some))?;
    let of = |(i, v): (usize, &f64)| {
        Some(number("alpha") * v + c.as_ref().map_or(Some(0.0), |c| Some(number("beta") * c.floats()?[i]))?)
    };
    let values = product.floats()?.iter().enumerate().map(of).collect::<Option<_>>()?;
    Some(Values::of_floats(a.dtype, &product.dims, values))
}

/// How a window slides over the axes after the first two.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<i64>,
    out: Vec<usize>,
}

impl Window {
    fn of(attrs: &Attrs, spatial: &[usize], kernel: &[usize]) -> Option<Window> {
        let n = spatial.len();
        let list = |name: &str, default: i64, len: usize| -> Vec<i64> {
            attrs.ints(name).map_or_else(|| vec![default; len], <[i64]>::to_vec)
        };
        let (strides, dilations) = (list("strides", 1, n), list("dilations", 1, n));
        let (pads, mut before, mut out) = (list("pads", 0, 2 * n), Vec::new(), Vec::new());
        for a in 0..n {
            let (size, reach) = (spatial[a] as i64, (kernel[a] as i64 - 1) * dilations[a] + 1);
            let (low, high) = match attrs.str("auto_pad").unwrap_or("NOTSET") {
                "NOTSET" => (pads[a], pads[a + n]),
                "VALID" => (0, 0),
                same => {
                    let total = (((size + strides[a] - 1) / strides[a] - 1) * strides[a] + reach - size).max(0);
                    if same == "SAME_UPPER" { (total / 2, total - total / 2) } else { (total - total / 2, total / 2) }
                }
            };
            before.push(low);
            out.push(usize::try_from((size + low + high - reach) / strides[a] + 1).ok()?);
        }
        let sizes = |list: Vec<i64>| list.into_iter().map(|v| v as usize).collect();
        Some(Window { kernel: kernel.to_vec(), strides: sizes(strides), dilations: sizes(dilations), before, out })
    }

    /// The place along each spatial axis under tap `tap` of the window at `at`; `None` in the padding.
    fn under(&self, at: &[usize], tap: &[usize], spatial: &[usize]) -> Option<Vec<usize>> {
        (0..spatial.len())
            .map(|a| {
                let i = (at[a] * self.strides[a] + tap[a] * self.dilations[a]) as i64 - self.before[a];
                usize::try_from(i).ok().filter(|i| *i < spatial[a])
            })
            .collect()
    }

    fn taps(&self) -> Vec<Vec<usize>> {
        (0..self.kernel.iter().product()).map(|t| index(t, &self.kernel)).collect()
    }
}

fn conv(op: &Op, x: &Values, w: &Values, bias: Option<&Values>) -> Option<Values> {
    let (v, weights) = (x.floats()?, w.floats()?);
    let (spatial, group) = (&x.dims[2..], op.attrs.int("group").unwrap_or(1) as usize);
    let window = Window::of(&op.attrs, spatial, &w.dims[2..])?;
    let (filters, channels) = (w.dims[0], w.dims[1]);
    let dims = [&[x.dims[0], filters][..], &window.out].concat();
    let (taps, n_taps) = (window.taps(), window.kernel.iter().product::<usize>());
    let plane: usize = spatial.iter().product();
    let bias = bias.map_or(Some(None), |b| b.floats().map(Some))?;
    let one = |i: usize| {
        let at = index(i, &dims);
        let from = at[1] / (filters / group) * channels;
        let mut sum = bias.map_or(0.0, |b| b[at[1]]);
        for (t, tap) in taps.iter().enumerate() {
            let Some(under) = window.under(&at[2..], tap, spatial) else { continue };
            let under = place(&under, spatial);
            for c in 0..channels {
                let weight = weights[(at[1] * channels + c) * n_taps + t];
                sum += v[(at[0] * x.dims[1] + from + c) * plane + under] * weight;
            }
        }
        sum
    };
    Some(Values::of_floats(x.dtype, &dims, (0..dims.iter().product()).map(one).collect()))
}

fn pool(op: &Op, x: &Values) -> Option<Values> {
    if op.attrs.int("ceil_mode").unwrap_or(0) != 0 {
        return None;
    }
    let (v, spatial) = (x.floats()?, &x.dims[2..]);
    let kernel: Vec<usize> = op.attrs.ints("kernel_shape")?.iter().map(|&k| k as usize).collect();
    let window = Window::of(&op.attrs, spatial, &kernel)?;
    let dims = [&x.dims[..2], &window.out].concat();
    let (taps, plane) = (window.taps(), spatial.iter().product::<usize>());
    let with_pads = op.attrs.int("count_include_pad").unwrap_or(0) != 0;
    let one = |i: usize| {
        let at = index(i, &dims);
        let base = (at[0] * x.dims[1] + at[1]) * plane;
        let seen: Vec<f64> = taps
            .iter()
            .filter_map(|tap| Some(v[base + place(&window.under(&at[2..], tap, spatial)?, spatial)]))
            .collect();
        match op.def.onnx {
            "MaxPool" => largest(&seen),
            _ => seen.iter().sum::<f64>() / if with_pads { taps.len() } else { seen.len() } as f64,
        }
    };
    Some(Values::of_floats(x.dtype, &dims, (0..dims.iter().product()).map(one).collect()))
}

fn normalization(op: &Op, x: &[Option<Values>], first: &Values) -> Option<Values> {
    let (v, rank) = (first.floats()?, first.dims.len());
    let epsilon = op.attrs.float("epsilon").map_or(1e-5, f64::from);
    let operand = |slot: usize| x.get(slot).and_then(Option::as_ref);
    let of_channel = |slot: usize| -> Option<Vec<f64>> {
        let values = operand(slot)?.floats()?;
        Some((0..first.len()).map(|i| values[index(i, &first.dims)[1]]).collect())
    };
    let per_element = |slot: usize| Some(operand(slot)?.broadcast(&first.dims)?.floats()?.to_vec());
    let zeros = vec![0.0; first.len()];
    let inner = |from: usize| groups(first, |i| (0..rank).map(|a| if a < from { i[a] } else { 0 }).collect());
    let axis = || axis(op.attrs.int("axis").unwrap_or(-1), rank);
    let (lists, scale, bias) = match op.def.onnx {
        "BatchNormalization" => {
            let (scale, bias) = (of_channel(1)?, of_channel(2)?);
            let (mean, variance) = (of_channel(3)?, of_channel(4)?);
            let one = |i: usize| (v[i] - mean[i]) / (variance[i] + epsilon).sqrt() * scale[i] + bias[i];
            return Some(Values::of_floats(first.dtype, &first.dims, (0..v.len()).map(one).collect()));
        }
        "InstanceNormalization" => (inner(2), of_channel(1)?, of_channel(2)?),
        "GroupNormalization" => {
            let size = first.dims[1] / op.attrs.int("num_groups")? as usize;
            let head = |i: &[usize]| {
                let group = i[1] / size * size;
                (0..rank).map(|a| [i[0], group].get(a).copied().unwrap_or(0)).collect()
            };
            (groups(first, head), of_channel(1)?, of_channel(2)?)
        }
        "LayerNormalization" | "RMSNormalization" => {
            let bias = if operand(2).is_some() { per_element(2)? } else { zeros };
            (inner(axis()?), per_element(1)?, bias)
        }
        _ => return None,
    };
    let mut out = v.to_vec();
    for list in lists {
        let n = list.len() as f64;
        let centre = match op.def.onnx {
            "RMSNormalization" => 0.0,
            _ => list.iter().map(|&i| v[i]).sum::<f64>() / n,
        };
        let variance = list.iter().map(|&i| (v[i] - centre).powi(2)).sum::<f64>() / n;
        let root = (variance + epsilon).sqrt();
        list.iter().for_each(|&i| out[i] = (v[i] - centre) / root * scale[i] + bias[i]);
    }
    Some(Values::of_floats(first.dtype, &first.dims, out))
}
