//! Operators that only move elements, of every class.

use crate::generate::Gen;
use nyxc::ir::{Attr, Attrs, Class, DType, Tensor};

fn operand(g: &mut Gen) -> usize {
    match g.random.below(10) {
        2..6 if g.spec.wide => g.of_class(Class::Int, DType::I64),
        0 => g.of_class(Class::Int, DType::I64),
        1 => g.of_class(Class::Bool, DType::Bool),
        _ => g.float(),
    }
}

pub fn any(g: &mut Gen) -> Option<usize> {
    let x = operand(g);
    let dims: Vec<i64> = g.dims(x).iter().map(|&d| d as i64).collect();
    let rank = dims.len();
    match g.random.below(16) {
        0 | 1 => {
            let mut perm: Vec<i64> = (0..rank as i64).collect();
            (1..rank).rev().for_each(|i| perm.swap(i, g.random.below(i + 1)));
            let attrs = if g.random.chance(15) { Attrs::new() } else { Attrs::new().with_ints("perm", perm) };
            g.add("Transpose", attrs, &[Some(x)])
        }
        2 | 3 => {
            let shape = reshaped(g, &dims);
            let shape = g.ints(&shape);
            g.add("Reshape", Attrs::new(), &[Some(x), shape])
        }
        4 => {
            let ones: Vec<i64> = (0..rank).filter(|&i| dims[i] == 1).map(|i| i as i64).collect();
            let axes = if ones.is_empty() || g.random.chance(30) { None } else { g.ints(&ones[..1]) };
            g.add("Squeeze", Attrs::new(), &[Some(x), axes])
        }
        5 if rank < 5 => {
            let axis = g.random.int(-(rank as i64) - 1, rank as i64);
            let axes = g.ints(&[axis]);
            g.add("Unsqueeze", Attrs::new(), &[Some(x), axes])
        }
        6 => {
            let axis = g.random.int(0, rank as i64);
            g.add("Flatten", Attrs::new().with_int("axis", axis), &[Some(x)])
        }
        7 => {
            let mut shape: Vec<i64> =
                dims.iter().map(|&d| if d == 1 { g.random.pick(&[1, 2, 3]) } else { d }).collect();
            if rank < 5 && g.random.chance(30) {
                shape.insert(0, 2);
            }
            let shape = g.ints(&shape);
            g.add("Expand", Attrs::new(), &[Some(x), shape])
        }
        8 => {
            let repeats: Vec<i64> = (0..rank).map(|_| g.random.pick(&[1, 1, 2, 3])).collect();
            let repeats = g.ints(&repeats);
            g.add("Tile", Attrs::new(), &[Some(x), repeats])
        }
        9 => split(g, x, &dims),
        10 | 11 => slice(g, x, &dims),
        12 => pad(g, x, &dims),
        13 => concat(g, x, &dims),
        14 if rank == 4 => {
            let name = g.random.pick(&["DepthToSpace", "SpaceToDepth"]);
            let attrs = Attrs::new().with_int("blocksize", 2);
            let attrs =
                if name == "DepthToSpace" { attrs.with_str("mode", g.random.pick(&["DCR", "CRD"])) } else { attrs };
            g.add(name, attrs, &[Some(x)])
        }
        _ => folded(g, x),
    }
}

/// A shape of as many elements, with a -1 or a 0 here and there.
fn reshaped(g: &mut Gen, dims: &[i64]) -> Vec<i64> {
    let total: i64 = dims.iter().product();
    if total == 0 {
        return dims.iter().map(|_| 0).collect();
    }
    let (mut rest, mut shape) = (total, Vec::new());
    for factor in [2, 3, 2, 5, 7, 11, 13] {
        if rest % factor == 0 && shape.len() < 3 && g.random.chance(50) {
            shape.push(factor);
            rest /= factor;
        }
    }
    let at = g.random.below(shape.len() + 1);
    shape.insert(at, if g.random.chance(50) { -1 } else { rest });
    shape
}

fn split(g: &mut Gen, x: usize, dims: &[i64]) -> Option<usize> {
    let axis = g.axis(x)?;
    let n = dims[if axis < 0 { dims.len() as i64 + axis } else { axis } as usize];
    if n < 2 {
        return None;
    }
    let first = g.random.int(1, n - 1);
    let attrs = Attrs::new().with_int("axis", axis);
    if g.random.chance(50) {
        let sizes = g.ints(&[first, n - first]);
        return g.add_all("Split", attrs, &[Some(x), sizes], 2);
    }
    let parts = g.random.int(2, n.min(4));
    g.add_all("Split", attrs.with_int("num_outputs", parts), &[Some(x)], parts as usize)
}

fn slice(g: &mut Gen, x: usize, dims: &[i64]) -> Option<usize> {
    let (mut starts, mut ends, mut axes, mut steps) = (vec![], vec![], vec![], vec![]);
    for (axis, &n) in dims.iter().enumerate() {
        if n == 0 || g.random.chance(40) {
            continue;
        }
        let step = g.random.pick(&[1, 1, 1, 2, 3, -1, -2]);
        let (a, b) = (g.random.int(0, n - 1), g.random.int(0, n));
        let (start, end) =
            if step > 0 { (a.min(b), a.max(b).max(a.min(b) + 1)) } else { (a, g.random.pick(&[-n - 1, i64::MIN])) };
        let end = if step > 0 && g.random.chance(20) { i64::MAX } else { end };
        starts.push(if g.random.chance(20) { start - n } else { start });
        ends.push(end);
        axes.push(axis as i64);
        steps.push(step);
    }
    if axes.is_empty() {
        return None;
    }
    let operands = [Some(x), g.ints(&starts), g.ints(&ends), g.ints(&axes), g.ints(&steps)];
    g.add("Slice", Attrs::new(), &operands)
}

fn pad(g: &mut Gen, x: usize, dims: &[i64]) -> Option<usize> {
    let mode = g.random.pick(&["constant", "constant", "reflect", "edge", "wrap"]);
    let low = if mode == "constant" { -1 } else { 0 };
    let mut one = |i: usize| if dims[i] > 1 && g.random.chance(60) { g.random.int(low, 2.min(dims[i] - 1)) } else { 0 };
    let pads: Vec<i64> = (0..2 * dims.len()).map(|i| one(i % dims.len())).collect();
    let mut operands = vec![Some(x), g.ints(&pads)];
    if mode == "constant" && g.random.chance(50) {
        let dtype = g.tensor(x).dtype();
        let value =
            if dtype.is_float() { Tensor::from_f32s(dtype, &[], &[-0.5]) } else { Tensor::from_i64s(dtype, &[], &[1]) };
        let any = dtype.class() == Class::Int && g.spec.wide;
        let value = if any { g.random.wide_tensor(dtype, &[]) } else { value.unwrap() };
        operands.push(Some(g.constant(value)));
    }
    g.add("Pad", Attrs::new().with_str("mode", mode), &operands)
}

fn concat(g: &mut Gen, x: usize, dims: &[i64]) -> Option<usize> {
    let axis = g.axis(x)?;
    let at = if axis < 0 { dims.len() as i64 + axis } else { axis } as usize;
    let (own, dtype) = (g.dims(x), g.tensor(x).dtype());
    let mut operands = vec![Some(x)];
    for _ in 0..g.random.below(4) {
        let fits =
            |d: &[usize]| d.len() == own.len() && d.iter().zip(&own).enumerate().all(|(i, (a, b))| i == at || a == b);
        let found =
            if g.random.chance(70) { g.pick(|v| v.tensor.dtype() == dtype && fits(&v.tensor.dims())) } else { None };
        operands.push(Some(match found {
            Some(found) => found,
            None => {
                let mut dims = own.clone();
                dims[at] = g.random.pick(&[1, 2, 3]);
                g.new_value(dtype, &dims)
            }
        }));
    }
    let turn = g.random.below(operands.len());
    operands.rotate_left(turn);
    g.add("Concat", Attrs::new().with_int("axis", axis), &operands)
}

/// Operators whose results are known before the model runs.
fn folded(g: &mut Gen, x: usize) -> Option<usize> {
    match g.random.below(4) {
        0 => g.add("Shape", Attrs::new(), &[Some(x)]),
        1 => g.add("Size", Attrs::new(), &[Some(x)]),
        2 => {
            let dims: Vec<i64> = g.sizes(2).iter().map(|&d| d as i64).collect();
            let shape = g.ints(&dims);
            let value = Tensor::from_f32s(DType::F32, &[1], &[0.75]).unwrap();
            g.add("ConstantOfShape", Attrs::new().with("value", Attr::Tensor(value)), &[shape])
        }
        _ => {
            let dims = g.sizes(2);
            let value = g.random.tensor(DType::F32, &dims);
            g.add("Constant", Attrs::new().with("value", Attr::Tensor(value)), &[])
        }
    }
}
