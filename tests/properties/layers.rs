//! Products, convolutions, pools, reductions, normalisations, tables.

use crate::generate::Gen;
use crate::spec::Source;
use nyxc::ir::{Attrs, Class, DType, Tensor};

/// Replaces a value whose sizes the operator cannot take by a new one of these sizes, at times; else gives up.
fn other(g: &mut Gen, dims: &[usize]) -> usize {
    let constant = g.random.chance(5);
    g.value_of(DType::F32, dims, constant)
}

pub fn matmul(g: &mut Gen) -> Option<usize> {
    let a = g.float_of(1, 4);
    let (dims, dtype) = (g.dims(a), g.tensor(a).dtype());
    let (k, n) = (*dims.last()?, g.size());
    if g.random.chance(15) {
        let b = transposed(g, dtype, n, k)?;
        return g.add("MatMul", Attrs::new(), &[Some(a), Some(b)]);
    }
    let b_dims = match g.random.below(10) {
        0 => vec![k],
        1 | 2 if dims.len() > 2 => [&dims[..dims.len() - 2], &[k, n]].concat(),
        3 if dims.len() > 2 => [&[1, k, n][..]].concat(),
        _ => vec![k, n],
    };
    let b = g.weights(dtype, &b_dims);
    let y = g.add("MatMul", Attrs::new(), &[Some(a), Some(b)])?;
    if b_dims.len() > 1 && g.random.chance(40) {
        let bias = g.weights(dtype, &[n]);
        return g.add("Add", Attrs::new(), &[Some(y), Some(bias)]).or(Some(y));
    }
    Some(y)
}

/// The transposition of a matrix of rows of `k`, rather one that others read too: a table, say. At times it is stored
/// as f16.
fn transposed(g: &mut Gen, dtype: DType, n: usize, k: usize) -> Option<usize> {
    let is_table = |v: &crate::spec::Value| {
        v.source == Source::Const && v.tensor.dtype() == dtype && matches!(v.tensor.dims()[..], [_, cols] if cols == k)
    };
    let mut rows = match g.pick(is_table) {
        Some(found) => found,
        None => {
            let stored = if g.random.chance(30) { DType::F16 } else { dtype };
            g.value_of(stored, &[n, k], true)
        }
    };
    if g.tensor(rows).dtype() != dtype {
        rows = g.add("Cast", Attrs::new().with_dtype("to", dtype), &[Some(rows)])?;
    }
    if n > 0 && g.random.chance(60) {
        let last = g.dims(rows)[0] as i64 - 1;
        let indices = Tensor::from_i64s(DType::I64, &[2], &[g.random.int(0, last), last]).ok()?;
        let indices = g.constant(indices);
        g.spec.values[indices].source = Source::Input;
        g.add("Gather", Attrs::new(), &[Some(rows), Some(indices)]);
    }
    g.add("Transpose", Attrs::new().with_ints("perm", [1, 0]), &[Some(rows)])
}

pub fn gemm(g: &mut Gen) -> Option<usize> {
    let a = g.float_of(2, 2);
    let (dims, dtype) = (g.dims(a), g.tensor(a).dtype());
    let (turn_a, turn_b, n) = (g.random.chance(30), g.random.chance(50), g.size());
    let (m, k) = if turn_a { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    let b = g.weights(dtype, &if turn_b { [n, k] } else { [k, n] });
    let mut operands = vec![Some(a), Some(b)];
    if g.random.chance(60) {
        let bias = g.narrowed(&[m, n]);
        operands.push(Some(g.weights(dtype, &bias)));
    }
    let mut attrs = Attrs::new().with_int("transA", turn_a.into()).with_int("transB", turn_b.into());
    if g.random.chance(40) {
        attrs = attrs.with_float("alpha", 0.5).with_float("beta", g.random.pick(&[0.0, 1.0, 1.5]));
    }
    g.add("Gemm", attrs, &operands)
}

/// A value with one or two spatial axes.
fn image(g: &mut Gen) -> usize {
    if g.random.chance(50)
        && let Some(found) = g.pick(|v| {
            v.tensor.dtype().is_float() && (3..=4).contains(&v.tensor.dims().len()) && v.source != Source::Const
        })
    {
        return found;
    }
    let (n, c) = (g.random.pick(&[1, 1, 2, 3]), g.random.pick(&[1, 2, 3, 4, 6, 8, 12]));
    let mut dims = vec![n, c, g.random.pick(&[1, 3, 5, 7, 8, 11])];
    if g.random.chance(75) {
        dims.push(g.random.pick(&[1, 4, 5, 7, 9]));
    }
    other(g, &dims)
}

/// Attributes of a window over `n` axes, and its sizes.
fn window(g: &mut Gen, n: usize, is_pool: bool) -> (Attrs, Vec<i64>) {
    let kernel: Vec<i64> = (0..n).map(|_| g.random.pick(&[1, 2, 3, 3])).collect();
    let mut list = |values: &[i64], len: usize| -> Vec<i64> { (0..len).map(|_| g.random.pick(values)).collect() };
    let (strides, dilations, mut pads) = (list(&[1, 1, 2], n), list(&[1, 1, 1, 2], n), list(&[0, 0, 1, 2], 2 * n));
    if is_pool {
        // A window of a pool that is in the padding alone has no value.
        (0..2 * n).for_each(|i| pads[i] = pads[i].min(kernel[i % n] - 1));
    }
    let mut attrs = Attrs::new()
        .with_ints("kernel_shape", kernel.clone())
        .with_ints("strides", strides)
        .with_ints("dilations", dilations);
    attrs = match g.random.below(8) {
        0 => attrs.with_str("auto_pad", g.random.pick(&["SAME_UPPER", "SAME_LOWER", "VALID"])),
        1..4 => attrs,
        _ => attrs.with_ints("pads", pads),
    };
    (attrs, kernel)
}

pub fn conv(g: &mut Gen) -> Option<usize> {
    let x = image(g);
    let (dims, dtype) = (g.dims(x), g.tensor(x).dtype());
    let c = dims[1];
    let group = g.random.pick(&[1, 1, 1, c, 2]);
    if c == 0 || !c.is_multiple_of(group) {
        return None;
    }
    let filters = group * g.random.pick(&[1, 1, 2, 3, 4, 5]);
    let (attrs, kernel) = window(g, dims.len() - 2, false);
    let mut w = vec![filters, c / group];
    w.extend(kernel.iter().map(|&k| k as usize));
    let mut operands = vec![Some(x), Some(g.weights(dtype, &w))];
    if g.random.chance(60) {
        operands.push(Some(g.weights(dtype, &[filters])));
    }
    g.add("Conv", attrs.with_int("group", group as i64), &operands)
}

pub fn conv_transpose(g: &mut Gen) -> Option<usize> {
    let x = image(g);
    let (dims, dtype) = (g.dims(x), g.tensor(x).dtype());
    let n = dims.len() - 2;
    let filters = g.random.pick(&[1, 2, 3, 5]);
    let (mut attrs, kernel) = window(g, n, true);
    attrs.0.remove("auto_pad");
    let mut w = vec![dims[1], filters];
    w.extend(kernel.iter().map(|&k| k as usize));
    let mut operands = vec![Some(x), Some(g.weights(dtype, &w))];
    if g.random.chance(50) {
        operands.push(Some(g.weights(dtype, &[filters])));
    }
    g.add("ConvTranspose", attrs, &operands)
}

pub fn pool(g: &mut Gen) -> Option<usize> {
    let x = image(g);
    if g.random.chance(30) {
        let name = g.random.pick(&["GlobalAveragePool", "GlobalMaxPool"]);
        return g.add(name, Attrs::new(), &[Some(x)]);
    }
    let n = g.dims(x).len() - 2;
    let (mut attrs, _) = window(g, n, true);
    if g.random.chance(40) {
        attrs = attrs.with_int("ceil_mode", 1);
    }
    if g.random.chance(50) {
        return g.add("MaxPool", attrs, &[Some(x)]);
    }
    let count = g.random.int(0, 1);
    g.add("AveragePool", attrs.with_int("count_include_pad", count), &[Some(x)])
}

pub fn reduce(g: &mut Gen) -> Option<usize> {
    let integers = g.random.chance(if g.spec.wide { 60 } else { 20 });
    let x = if integers { g.of_class(Class::Int, DType::I64) } else { g.float_of(1, 5) };
    let names = [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSum",
        "ReduceLogSumExp",
    ];
    let of_integers = ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare"];
    let name = if integers { g.random.pick(&of_integers) } else { g.random.pick(&names) };
    let rank = g.dims(x).len() as i64;
    let mut axes: Vec<i64> = (0..rank).filter(|_| g.random.chance(45)).collect();
    if g.random.chance(30) {
        axes.iter_mut().for_each(|a| *a -= rank);
    }
    let operand = if axes.is_empty() || g.random.chance(10) { None } else { g.ints(&axes) };
    let attrs = Attrs::new()
        .with_int("keepdims", g.random.int(0, 1))
        .with_int("noop_with_empty_axes", i64::from(g.random.chance(10)));
    g.add(name, attrs, &[Some(x), operand])
}

pub fn softmax(g: &mut Gen) -> Option<usize> {
    let x = g.float_of(1, 4);
    let axis = g.axis(x)?;
    let name = g.random.pick(&["Softmax", "Softmax", "LogSoftmax"]);
    g.add(name, Attrs::new().with_int("axis", axis), &[Some(x)])
}

/// Attention and rotary embedding: the operators, and what exporters write out for them.
pub fn attention(g: &mut Gen) -> Option<usize> {
    let dtype = g.random.pick(&[DType::F32, DType::F32, DType::F16]);
    let (b, heads, n) = (g.random.int(1, 2) as usize, g.random.int(1, 3) as usize, g.random.int(1, 3) as usize);
    let (s, t, d, e) = (g.size(), g.size(), 2 * g.random.int(1, 5) as usize, g.size());
    let q = g.new_value(dtype, &[b, heads * n, s, d]);
    if g.random.chance(40) {
        return if g.random.chance(50) { rotated(g, q, &[b, s, d]) } else { rotary(g, q, &[b, s, d]) };
    }
    let (k, v) = (g.new_value(dtype, &[b, heads, t, d]), g.new_value(dtype, &[b, heads, t, e]));
    let mask_dims = if g.random.chance(50) { vec![s, t] } else { vec![b, 1, 1, t] };
    if g.random.chance(50) {
        let mask = match g.random.below(4) {
            0 => Some(g.new_value(DType::Bool, &mask_dims)),
            1 => Some(g.new_value(dtype, &mask_dims)),
            _ => None,
        };
        let mut attrs = Attrs::new().with_int("is_causal", g.random.chance(40).into());
        if g.random.chance(30) {
            attrs = attrs.with_float("softcap", 2.0).with_float("scale", 0.5);
        }
        return g.add("Attention", attrs, &[Some(q), Some(k), Some(v), mask]);
    }
    let (k, v) = (repeated(g, k, n)?, repeated(g, v, n)?);
    let k = g.add("Transpose", Attrs::new().with_ints("perm", [0, 1, 3, 2]), &[Some(k)])?;
    let mut scores = g.add("MatMul", Attrs::new(), &[Some(q), Some(k)])?;
    let scale = g.constant(Tensor::from_f32s(dtype, &[], &[0.25]).unwrap());
    scores = g.add("Mul", Attrs::new(), &[Some(scores), Some(scale)])?;
    if g.random.chance(60) {
        let mask = g.new_value(dtype, &mask_dims);
        scores = g.add("Add", Attrs::new(), &[Some(scores), Some(mask)])?;
    }
    let weights = g.add("Softmax", Attrs::new().with_int("axis", -1), &[Some(scores)])?;
    g.add("MatMul", Attrs::new(), &[Some(weights), Some(v)])
}

/// Every head of `[b, h, s, d]` `n` times.
fn repeated(g: &mut Gen, x: usize, n: usize) -> Option<usize> {
    let dims = g.dims(x);
    let axis = g.ints(&[2])?;
    let wide = g.ints(&[1, 1, n as i64, 1, 1])?;
    let joined = g.ints(&[dims[0] as i64, (dims[1] * n) as i64, dims[2] as i64, dims[3] as i64])?;
    let y = g.add("Unsqueeze", Attrs::new(), &[Some(x), Some(axis)])?;
    let y = g.add("Expand", Attrs::new(), &[Some(y), Some(wide)])?;
    g.add("Reshape", Attrs::new(), &[Some(y), Some(joined)])
}

fn rotary(g: &mut Gen, x: usize, &[b, s, d]: &[usize; 3]) -> Option<usize> {
    let dtype = g.tensor(x).dtype();
    let tables = [0; 2].map(|_| g.new_value(dtype, &[b, s, d / 2]));
    let attrs = Attrs::new().with_int("interleaved", g.random.chance(40).into());
    g.add("RotaryEmbedding", attrs, &[Some(x), Some(tables[0]), Some(tables[1])])
}

fn rotated(g: &mut Gen, x: usize, &[b, s, d]: &[usize; 3]) -> Option<usize> {
    let angle = g.new_value(g.tensor(x).dtype(), &[b, s, d / 2]);
    let (one, zero, half, end, last) =
        (g.ints(&[1])?, g.ints(&[0])?, g.ints(&[d as i64 / 2])?, g.ints(&[d as i64])?, g.ints(&[3])?);
    let angles = g.add("Concat", Attrs::new().with_int("axis", -1), &[Some(angle), Some(angle)])?;
    let mut products = Vec::new();
    let high = g.add("Slice", Attrs::new(), &[Some(x), Some(half), Some(end), Some(last)])?;
    let minus = g.add("Neg", Attrs::new(), &[Some(high)])?;
    let low = g.add("Slice", Attrs::new(), &[Some(x), Some(zero), Some(half), Some(last)])?;
    let swapped = g.add("Concat", Attrs::new().with_int("axis", 3), &[Some(minus), Some(low)])?;
    for (curve, x) in [("Cos", x), ("Sin", swapped)] {
        let table = g.add(curve, Attrs::new(), &[Some(angles)])?;
        let table = g.add("Unsqueeze", Attrs::new(), &[Some(table), Some(one)])?;
        products.push(Some(g.add("Mul", Attrs::new(), &[Some(x), Some(table)])?));
    }
    g.add("Add", Attrs::new(), &products)
}

pub fn norm(g: &mut Gen) -> Option<usize> {
    let epsilon = |attrs: Attrs| attrs.with_float("epsilon", 1e-2);
    if g.random.chance(50) {
        let x = g.float_of(1, 4);
        let axis = g.axis(x)?;
        let (dims, dtype) = (g.dims(x), g.tensor(x).dtype());
        let inner = dims[if axis < 0 { dims.len() as i64 + axis } else { axis } as usize..].to_vec();
        let inner = if g.random.chance(15) { g.narrowed(&inner) } else { inner };
        let scale = g.weights(dtype, &inner);
        let attrs = epsilon(Attrs::new().with_int("axis", axis));
        if g.random.chance(40) {
            return g.add("RMSNormalization", attrs, &[Some(x), Some(scale)]);
        }
        let bias = if g.random.chance(60) { Some(g.weights(dtype, &inner)) } else { None };
        return g.add("LayerNormalization", attrs, &[Some(x), Some(scale), bias]);
    }
    let x = g.float_of(2, 4);
    let (c, dtype) = (g.dims(x)[1], g.tensor(x).dtype());
    let mut operands = vec![Some(x), Some(g.weights(dtype, &[c])), Some(g.weights(dtype, &[c]))];
    match g.random.below(3) {
        0 => {
            operands.push(Some(g.weights(dtype, &[c])));
            let variance = g.random.tensor(dtype, &[c]);
            let variance: Vec<f32> = variance.to_f32s().unwrap().iter().map(|v| v.abs() + 0.25).collect();
            let variance = Tensor::from_f32s(dtype, &[c], &variance).unwrap();
            operands.push(Some(g.constant(variance)));
            g.add("BatchNormalization", epsilon(Attrs::new()), &operands)
        }
        1 => g.add("InstanceNormalization", epsilon(Attrs::new()), &operands),
        _ => {
            let groups = g.random.pick(&[1, 2, 3]);
            g.add("GroupNormalization", epsilon(Attrs::new().with_int("num_groups", groups)), &operands)
        }
    }
}

pub fn gather(g: &mut Gen) -> Option<usize> {
    let table = g.random.chance(50);
    let x = if table {
        let dims = g.sizes(2);
        g.weights(DType::F32, &dims)
    } else if g.random.chance(if g.spec.wide { 40 } else { 75 }) {
        g.float_of(1, 4)
    } else {
        g.of_class(Class::Int, DType::I64)
    };
    let axis = if table { 0 } else { g.axis(x)? };
    let dims = g.dims(x);
    let n = dims[if axis < 0 { dims.len() as i64 + axis } else { axis } as usize] as i64;
    if n == 0 {
        return None;
    }
    let rank = g.random.below(3);
    let shape: Vec<usize> = (0..rank).map(|_| g.random.pick(&[1, 2, 3, 5])).collect();
    let low = if g.random.chance(30) { -n } else { 0 };
    let values: Vec<i64> = (0..shape.iter().product()).map(|_| g.random.int(low, n - 1)).collect();
    let dtype = g.random.pick(&[DType::I64, DType::I32]);
    let indices = g.constant(Tensor::from_i64s(dtype, &shape, &values).unwrap());
    if g.random.chance(50) {
        g.spec.values[indices].source = Source::Input;
    }
    g.add("Gather", Attrs::new().with_int("axis", axis), &[Some(x), Some(indices)])
}

pub fn resize(g: &mut Gen) -> Option<usize> {
    let x = image(g);
    let dims = g.dims(x);
    let attrs = Attrs::new()
        .with_str("mode", g.random.pick(&["nearest", "linear"]))
        .with_str(
            "coordinate_transformation_mode",
            g.random.pick(&["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]),
        )
        .with_str("nearest_mode", g.random.pick(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]));
    let keep = dims.len() - g.random.pick(&[1, 2]);
    if g.random.chance(50) {
        // Steps of powers of two: positions that are on the border of two pixels are exact.
        let scales: Vec<f32> =
            (0..dims.len()).map(|i| if i < keep { 1.0 } else { g.random.pick(&[0.5, 1.0, 2.0, 4.0]) }).collect();
        let scales = g.constant(Tensor::from_f32s(DType::F32, &[dims.len()], &scales).unwrap());
        return g.add("Resize", attrs, &[Some(x), None, Some(scales)]);
    }
    let sizes: Vec<i64> = dims
        .iter()
        .enumerate()
        .map(|(i, &d)| if i < keep { d as i64 } else { (d as i64) << g.random.below(3) })
        .collect();
    let sizes = g.ints(&sizes);
    g.add("Resize", attrs, &[Some(x), None, None, sizes])
}

pub fn host(g: &mut Gen) -> Option<usize> {
    let x = g.float_of(1, 4);
    let axis = g.axis(x)?;
    let dims = g.dims(x);
    let at = (if axis < 0 { dims.len() as i64 + axis } else { axis }) as usize;
    match g.random.below(11) {
        kind @ 0..4 => {
            let operand = g.constant(Tensor::from_i64s(DType::I64, &[], &[axis]).unwrap());
            let attrs = Attrs::new().with_int("exclusive", g.random.int(0, 1)).with_int("reverse", g.random.int(0, 1));
            g.add(if kind == 0 { "CumProd" } else { "CumSum" }, attrs, &[Some(x), Some(operand)])
        }
        4 => {
            let k = g.random.int(0, dims[at] as i64);
            let k = g.ints(&[k]);
            let attrs = Attrs::new().with_int("axis", axis).with_int("largest", g.random.int(0, 1));
            g.add_all("TopK", attrs, &[Some(x), k], 2)
        }
        5 => {
            // Each line is rotated by its number, so that no place is written twice.
            let (n, inner) = (dims[at], dims[at + 1..].iter().product::<usize>().max(1));
            let places: Vec<i64> =
                (0..dims.iter().product()).map(|i: usize| ((i / inner % n + i % inner) % n) as i64).collect();
            let places = g.constant(Tensor::from_i64s(DType::I64, &dims, &places).ok()?);
            let updates = g.value_of(DType::F32, &dims, false);
            let (x, updates) = if g.random.chance(50) { (x, updates) } else { (updates, x) };
            let reduction = g.random.pick(&["none", "add", "mul", "max", "min"]);
            g.add(
                "ScatterElements",
                Attrs::new().with_int("axis", axis).with_str("reduction", reduction),
                &[Some(x), Some(places), Some(updates)],
            )
        }
        6 => {
            let n = g.random.pick(&[1, 2, 3, 5]);
            let batch = g.size();
            let x = other(g, &[batch, n, n]);
            g.add("Det", Attrs::new(), &[Some(x)])
        }
        _ => {
            let name = g.random.pick(&["ArgMax", "ArgMin"]);
            let attrs = Attrs::new()
                .with_int("axis", axis)
                .with_int("keepdims", g.random.int(0, 1))
                .with_int("select_last_index", g.random.int(0, 1));
            g.add(name, attrs, &[Some(x)])
        }
    }
}

/// Results with as many elements as data say, of data that nothing rounds.
pub fn data_dependent(g: &mut Gen) -> Option<usize> {
    let is_given =
        |v: &crate::spec::Value, class: Class| v.tensor.dtype().class() == class && v.source == Source::Input;
    match g.random.below(3) {
        0 => {
            let x = match g.pick(|v| is_given(v, Class::Int) || is_given(v, Class::Bool)) {
                Some(x) if g.random.chance(70) => x,
                _ => {
                    let dims = g.sizes(2);
                    g.value_of(DType::Bool, &dims, false)
                }
            };
            g.add("NonZero", Attrs::new(), &[Some(x)])
        }
        1 => {
            let x = g.float_of(1, 4);
            let axis = g.axis(x)?;
            let (dims, whole) = (g.dims(x), g.random.chance(20));
            let n = if whole {
                dims.iter().product()
            } else {
                dims[(if axis < 0 { dims.len() as i64 + axis } else { axis }) as usize]
            };
            let condition = g.value_of(DType::Bool, &[n], false);
            let attrs = if whole { Attrs::new() } else { Attrs::new().with_int("axis", axis) };
            g.add("Compress", attrs, &[Some(x), Some(condition)])
        }
        _ => {
            let x = g.pick(|v| is_given(v, Class::Int))?;
            let (n_outputs, sorted) = (g.random.int(1, 4) as usize, g.random.int(0, 1));
            g.add_all("Unique", Attrs::new().with_int("sorted", sorted), &[Some(x)], n_outputs)
        }
    }
}

/// Quantization that the model itself has.
pub fn quantize(g: &mut Gen) -> Option<usize> {
    let x = g.float_of(1, 4);
    let dtype = g.random.pick(&[DType::I8, DType::U8]);
    let scale = g.constant(Tensor::from_f32s(DType::F32, &[], &[0.0625]).unwrap());
    let zero = if dtype == DType::U8 { 128 } else { 0 };
    let zero = g.constant(Tensor::from_i64s(dtype, &[], &[zero]).unwrap());
    let codes = g.add("QuantizeLinear", Attrs::new(), &[Some(x), Some(scale), Some(zero)])?;
    if g.random.chance(80) {
        return g.add("DequantizeLinear", Attrs::new(), &[Some(codes), Some(scale), Some(zero)]);
    }
    Some(codes)
}
