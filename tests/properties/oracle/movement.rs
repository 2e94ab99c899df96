//! Operators that only move elements, by the place of each in its operand.

use super::values::{Data, Values, axis, index, place};
use nyxc::ir::{DType, Op};

/// The integers of an operand that says where: a shape, axes, pads.
fn given(x: &[Option<Values>], slot: usize) -> Option<Vec<i64>> {
    Some(x.get(slot)?.as_ref()?.ints()?.iter().map(|&v| v as i64).collect())
}

/// Each element of the result is that at `of(its index)`.
fn by_index(x: &Values, dims: &[usize], of: impl Fn(&[usize]) -> Vec<usize>) -> Values {
    let places: Vec<usize> = (0..dims.iter().product()).map(|at| place(&of(&index(at, dims)), &x.dims)).collect();
    x.moved(dims, &places)
}

/// The same elements in a row under other sizes.
fn reshaped(x: &Values, dims: Vec<usize>) -> Option<Values> {
    (dims.iter().product::<usize>() == x.len()).then(|| Values { dims, ..x.clone() })
}

pub fn evaluate(op: &Op, x: &[Option<Values>], n_outputs: usize) -> Option<Vec<Values>> {
    let attrs = &op.attrs;
    if op.def.onnx == "Constant" {
        return Some(vec![Values::of(attrs.tensor("value")?)?]);
    }
    let first = x.first()?.as_ref()?;
    let (dims, rank) = (&first.dims, first.dims.len());
    let named = |default: i64| axis(attrs.int("axis").unwrap_or(default), rank);
    let one = match op.def.onnx {
        "Transpose" => {
            let perm: Vec<usize> = match attrs.ints("perm") {
                Some(perm) => perm.iter().map(|&p| p as usize).collect(),
                None => (0..rank).rev().collect(),
            };
            let out: Vec<usize> = perm.iter().map(|&p| dims[p]).collect();
            by_index(first, &out, |index| {
                let mut source = vec![0; rank];
                perm.iter().zip(index).for_each(|(&p, &i)| source[p] = i);
                source
            })
        }
        "Reshape" => {
            let keeps_zero = attrs.int("allowzero").unwrap_or(0) == 0;
            let shape = given(x, 1)?;
            let mut out: Vec<i64> = Vec::new();
            for (i, &n) in shape.iter().enumerate() {
                out.push(if n == 0 && keeps_zero { *dims.get(i)? as i64 } else { n });
            }
            if let Some(open) = out.iter().position(|n| *n == -1) {
                let rest: i64 = out.iter().filter(|n| **n != -1).product();
                out[open] = if rest == 0 { 0 } else { first.len() as i64 / rest };
            }
            reshaped(first, out.iter().map(|&n| n as usize).collect())?
        }
        "Squeeze" => {
            let axes: Vec<usize> = match given(x, 1) {
                Some(axes) => axes.iter().map(|&a| axis(a, rank)).collect::<Option<_>>()?,
                None => (0..rank).filter(|&i| dims[i] == 1).collect(),
            };
            let kept = (0..rank).filter(|i| !axes.contains(i)).map(|i| dims[i]).collect();
            reshaped(first, kept)?
        }
        "Unsqueeze" => {
            let axes = given(x, 1)?;
            let total = rank + axes.len();
            let axes: Vec<usize> = axes.iter().map(|&a| axis(a, total)).collect::<Option<_>>()?;
            let mut own = dims.iter().copied();
            let out =
                (0..total).map(|i| if axes.contains(&i) { Some(1) } else { own.next() }).collect::<Option<_>>()?;
            reshaped(first, out)?
        }
        "Flatten" => {
            let at = attrs.int("axis").unwrap_or(1);
            let at = (if at < 0 { at + rank as i64 } else { at }) as usize;
            reshaped(first, vec![dims[..at].iter().product(), dims[at..].iter().product()])?
        }
        "Expand" => {
            let shape: Vec<usize> = given(x, 1)?.iter().map(|&n| n as usize).collect();
            first.broadcast(&super::values::common(&[dims, &shape])?)?
        }
        "Tile" => {
            let out: Vec<usize> = dims.iter().zip(given(x, 1)?).map(|(d, n)| d * n as usize).collect();
            by_index(first, &out, |index| index.iter().zip(dims).map(|(i, n)| i % n).collect())
        }
        "Split" => return split(first, named(0)?, given(x, 1), n_outputs),
        "Slice" => slice(first, x)?,
        "Pad" => pad(op, first, x)?,
        "Concat" => {
            let all: Vec<&Values> = x.iter().map(Option::as_ref).collect::<Option<_>>()?;
            concat(&all, named(0)?)?
        }
        "DepthToSpace" => {
            let b = attrs.int("blocksize")? as usize;
            let (n, c, h, w) = (dims[0], dims[1] / (b * b), dims[2], dims[3]);
            let by_column = attrs.str("mode") == Some("CRD");
            by_index(first, &[n, c, h * b, w * b], |i| {
                let (row, column) = (i[2] % b, i[3] % b);
                let channel = if by_column { i[1] * b * b + row * b + column } else { (row * b + column) * c + i[1] };
                vec![i[0], channel, i[2] / b, i[3] / b]
            })
        }
        "SpaceToDepth" => {
            let b = attrs.int("blocksize")? as usize;
            let (n, c, h, w) = (dims[0], dims[1], dims[2] / b, dims[3] / b);
            by_index(first, &[n, c * b * b, h, w], |i| {
                let block = i[1] / c;
                vec![i[0], i[1] % c, i[2] * b + block / b, i[3] * b + block % b]
            })
        }
        "Gather" => {
            let (at, indices) = (named(0)?, x.get(1)?.as_ref()?);
            let rows = indices.ints()?;
            let n = dims[at] as i128;
            if rows.iter().any(|i| !(-n..n).contains(i)) {
                return None;
            }
            let out = [&dims[..at], &indices.dims, &dims[at + 1..]].concat();
            by_index(first, &out, |i| {
                let row = rows[place(&i[at..at + indices.dims.len()], &indices.dims)];
                [&i[..at], &[(if row < 0 { row + n } else { row }) as usize], &i[at + indices.dims.len()..]].concat()
            })
        }
        "Shape" if attrs.int("start").is_none() && attrs.int("end").is_none() => {
            Values::of_ints(DType::I64, &[rank], dims.iter().map(|&d| d as i128))
        }
        "Size" => Values::of_ints(DType::I64, &[], [first.len() as i128]),
        "ConstantOfShape" => {
            let out: Vec<usize> = given(x, 0)?.iter().map(|&n| n as usize).collect();
            let value = attrs.tensor("value").and_then(Values::of);
            let value = value.unwrap_or_else(|| Values::of_floats(DType::F32, &[1], vec![0.0]));
            value.moved(&out, &vec![0; out.iter().product()])
        }
        _ => return None,
    };
    Some(vec![one])
}

fn split(x: &Values, at: usize, sizes: Option<Vec<i64>>, n: usize) -> Option<Vec<Values>> {
    let whole = x.dims[at];
    let each = whole.div_ceil(n);
    let sizes = sizes
        .map(|sizes| sizes.iter().map(|&s| s as usize).collect())
        .unwrap_or_else(|| (0..n).map(|i| each.min(whole.saturating_sub(i * each))).collect::<Vec<_>>());
    let mut from = 0;
    let parts = sizes.iter().map(|&size| {
        let mut dims = x.dims.clone();
        dims[at] = size;
        let part = by_index(x, &dims, |index| {
            let mut source = index.to_vec();
            source[at] += from;
            source
        });
        from += size;
        part
    });
    Some(parts.collect())
}

fn slice(x: &Values, operands: &[Option<Values>]) -> Option<Values> {
    let (starts, ends) = (given(operands, 1)?, given(operands, 2)?);
    let axes = given(operands, 3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = given(operands, 4).unwrap_or_else(|| vec![1; starts.len()]);
    let rank = x.dims.len();
    let (mut first, mut step, mut dims) = (vec![0i128; rank], vec![1i128; rank], x.dims.clone());
    for i in 0..starts.len() {
        let (at, by) = (axis(axes[i], rank)?, i128::from(steps[i]));
        let n = x.dims[at] as i128;
        let from_end = |v: i64| if v < 0 { i128::from(v) + n } else { i128::from(v) };
        // A reversed slice begins at the last element at most and ends before the first at least.
        let (low, high) = if by > 0 { (0, n) } else { (-1, n - 1) };
        let (start, end) = (from_end(starts[i]).clamp(low.max(0), high.max(0)), from_end(ends[i]).clamp(low, high));
        (first[at], step[at]) = (start, by);
        let taken = if by > 0 { (end - start + by - 1) / by } else { (start - end - by - 1) / -by };
        dims[at] = if n == 0 { 0 } else { taken.max(0) as usize };
    }
    let source =
        |index: &[usize]| index.iter().enumerate().map(|(a, &i)| (first[a] + step[a] * i as i128) as usize).collect();
    Some(by_index(x, &dims, source))
}

fn pad(op: &Op, x: &Values, operands: &[Option<Values>]) -> Option<Values> {
    let rank = x.dims.len();
    let pads = given(operands, 1)?;
    if operands.get(3).is_some_and(Option::is_some) || pads.len() != 2 * rank {
        return None;
    }
    let dims: Vec<usize> =
        (0..rank).map(|a| usize::try_from(x.dims[a] as i64 + pads[a] + pads[a + rank]).ok()).collect::<Option<_>>()?;
    let mode = op.attrs.str("mode").unwrap_or("constant");
    let source = |at: i64, n: i64| -> Option<usize> {
        let inside = match mode {
            "edge" => at.clamp(0, n - 1),
            "reflect" if n == 1 => 0,
            "reflect" => {
                let turn = at.rem_euclid(2 * (n - 1));
                if turn < n { turn } else { 2 * (n - 1) - turn }
            }
            "wrap" => at.rem_euclid(n),
            _ => at,
        };
        usize::try_from(inside).ok().filter(|i| (*i as i64) < n)
    };
    if x.len() == 0 && mode != "constant" {
        return None;
    }
    let places: Vec<Option<usize>> = (0..dims.iter().product())
        .map(|at| {
            let index = index(at, &dims);
            let own: Option<Vec<usize>> =
                (0..rank).map(|a| source(index[a] as i64 - pads[a], x.dims[a] as i64)).collect();
            own.map(|own| place(&own, &x.dims))
        })
        .collect();
    let value = operands.get(2).and_then(Option::as_ref);
    Some(match &x.data {
        Data::Floats(v) => {
            let value = value.map_or(Some(0.0), |value| value.floats()?.first().copied())?;
            Values::of_floats(x.dtype, &dims, places.iter().map(|p| p.map_or(value, |p| v[p])).collect())
        }
        Data::Ints(v) => {
            let value = value.map_or(Some(0), |value| value.ints()?.first().copied())?;
            Values::of_ints(x.dtype, &dims, places.iter().map(|p| p.map_or(value, |p| v[p])))
        }
    })
}

fn concat(all: &[&Values], at: usize) -> Option<Values> {
    let first = *all.first()?;
    let mut dims = first.dims.clone();
    dims[at] = all.iter().map(|v| v.dims[at]).sum();
    let source = |i: usize| -> Option<(usize, usize)> {
        let mut index = index(i, &dims);
        for (part, values) in all.iter().enumerate() {
            if index[at] < values.dims[at] {
                return Some((part, place(&index, &values.dims)));
            }
            index[at] -= values.dims[at];
        }
        None
    };
    let n = dims.iter().product();
    Some(match &first.data {
        Data::Floats(_) => {
            let one = |i| source(i).and_then(|(part, p)| all[part].floats()?.get(p).copied());
            Values::of_floats(first.dtype, &dims, (0..n).map(one).collect::<Option<_>>()?)
        }
        Data::Ints(_) => {
            let one = |i| source(i).and_then(|(part, p)| all[part].ints()?.get(p).copied());
            Values::of_ints(first.dtype, &dims, (0..n).map(one).collect::<Option<Vec<_>>>()?)
        }
    })
}
