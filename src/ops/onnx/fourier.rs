//! ONNX's discrete Fourier transforms, as products with constant matrices, and the windows and filters that go with
//! them.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attrs, DType, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr, resolve_axis,
};
use crate::ops::compose::{LARGEST_CONSTANT, dims, floats, part, sizes};
use crate::ops::core::strided::{View, row_major, view};
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::dtype_attr;
use std::f64::consts::TAU;

/// `dft(x, length?, axis?) {inverse, onesided}`: ONNX DFT, opset 20. The last axis of x has 1 (real) or 2 (complex)
/// elements.
pub static DFT: OpDef = OpDef {
    name: "dft",
    onnx: "DFT",
    levels: ONNX,
    attrs: &[attr::int("inverse"), attr::int("onesided")],
    arity: (1, 3),
    infer: &infer_dft,
    eval: None,
    expand: Some(&expand_dft),
    weights: None,
    gradient: None,
};

/// `stft(signal, step, window?, length?) {onesided}`: ONNX STFT, opset 17.
pub static STFT: OpDef = OpDef {
    name: "stft",
    onnx: "STFT",
    levels: ONNX,
    attrs: &[attr::int("onesided")],
    arity: (2, 4),
    infer: &infer_stft,
    eval: None,
    expand: Some(&expand_stft),
    weights: None,
    gradient: None,
};

macro_rules! tables {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal $arity:tt [$($attr:expr),*] $eval:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[$($attr),*],
            arity: $arity,
            infer: &|i| Ok(vec![folded(i.attrs, i.consts, $eval)?.ty().clone()]),
            eval: Some(&|attrs, inputs| Ok(vec![folded(attrs, inputs, $eval)?])),
            expand: Some(&|e| expand_folded(e, $eval)),
            weights: None,
            gradient: None,
        };)*
    };
}

tables! {
    /// `hann_window(size) {periodic, output_datatype}`: ONNX HannWindow, opset 17; the size is a constant.
    HANN "hann_window" "HannWindow" (1, 1) [attr::int("periodic"), attr::dtype("output_datatype")] |attrs, inputs| window(attrs, inputs, [0.5, 0.5, 0.0]);
    /// `hamming_window(size) {periodic, output_datatype}`: ONNX HammingWindow, opset 17.
    HAMMING "hamming_window" "HammingWindow" (1, 1) [attr::int("periodic"), attr::dtype("output_datatype")]
        |attrs, inputs| window(attrs, inputs, [25.0 / 46.0, 1.0 - 25.0 / 46.0, 0.0]);
    /// `blackman_window(size) {periodic, output_datatype}`: ONNX BlackmanWindow, opset 17.
    BLACKMAN "blackman_window" "BlackmanWindow" (1, 1) [attr::int("periodic"), attr::dtype("output_datatype")] |attrs, inputs| window(attrs, inputs, [0.42, 0.5, 0.08]);
    /// `mel_weight_matrix(n_bins, length, rate, lower, upper) {output_datatype}`: ONNX MelWeightMatrix, opset 17.
    MEL "mel_weight_matrix" "MelWeightMatrix" (5, 5) [attr::dtype("output_datatype")] |_, inputs| mel(inputs);
}

/// What a constant table's elements are computed by: its sizes and values.
type Table = fn(&Attrs, &[f64]) -> Result<(Vec<usize>, Vec<f32>), OpError>;

fn folded(attrs: &Attrs, inputs: &[Option<&Tensor>], table: Table) -> Result<Tensor, OpError> {
    let mut numbers = Vec::new();
    for (slot, input) in inputs.iter().enumerate() {
        let tensor = input.ok_or(OpError::NotConstant { slot })?;
        let number = if tensor.dtype().is_float() {
            tensor.to_f64s()?.first().copied()
        } else {
            tensor.to_i64s()?.first().map(|&v| v as f64)
        };
        numbers.push(number.ok_or_else(|| OpError::operand(slot, tensor.ty(), "a number"))?);
    }
    let (dims, values) = table(attrs, &numbers)?;
    let dtype = dtype_attr(attrs, "output_datatype").unwrap_or(DType::F32);
    if dtype.is_float() {
        return Ok(Tensor::from_f32s(dtype, &dims, &values)?);
    }
    Ok(Tensor::from_i64s(dtype, &dims, &values.iter().map(|&v| v as i64).collect::<Vec<_>>())?)
}

fn expand_folded(e: &mut Expand<'_, '_>, table: Table) -> Result<Vec<Val>, OpError> {
    let inputs = (0..e.inputs.len())
        .map(|slot| Ok(e.edit.constant(e.input(slot)?).cloned()))
        .collect::<Result<Vec<_>, OpError>>()?;
    let tensor = folded(e.attrs, &inputs.iter().map(Option::as_ref).collect::<Vec<_>>(), table)?;
    Ok(vec![e.constant(tensor)])
}

fn count(value: f64, least: f64) -> Result<usize, OpError> {
    if (least..=LARGEST_CONSTANT as f64).contains(&value) {
        Ok(value as usize)
    } else {
        Err(OpError::operand(0, value, "a size of a constant"))
    }
}

/// `a - b cos(2 pi i / n) + c cos(4 pi i / n)`.
fn window(attrs: &Attrs, numbers: &[f64], [a, b, c]: [f64; 3]) -> Result<(Vec<usize>, Vec<f32>), OpError> {
    let size = count(numbers.first().copied().unwrap_or(0.0), 0.0)?;
    let n = if attrs.int("periodic").unwrap_or(1) != 0 { size as f64 } else { (size as f64 - 1.0).max(1.0) };
    let value = |i: usize| (a - b * (TAU * i as f64 / n).cos() + c * (2.0 * TAU * i as f64 / n).cos()) as f32;
    Ok((vec![size], (0..size).map(value).collect()))
}

/// Triangles over the bins of a spectrum, evenly spaced in mel.
fn mel(numbers: &[f64]) -> Result<(Vec<usize>, Vec<f32>), OpError> {
    let &[n_bins, length, rate, lower, upper] = numbers else {
        return Err(OpError::MissingOperand { slot: numbers.len() });
    };
    let (n_bins, n_rows) = (count(n_bins, 1.0)?, count((length / 2.0).floor() + 1.0, 1.0)?);
    if n_bins.saturating_mul(n_rows) > LARGEST_CONSTANT || rate <= 0.0 || lower < 0.0 || upper <= lower {
        return Err(OpError::unsupported(format!("mel bands from {lower} to {upper} at the rate {rate}")));
    }
    let to_mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / 10f64.ln();
    let (low, step) = (to_mel(lower), (to_mel(upper) - to_mel(lower)) / (n_bins + 2) as f64);
    let bin = |i: usize| {
        let hertz = 700.0 * ((i as f64 * step + low) / 2595.0 * 10f64.ln()).exp_m1();
        (((length + 1.0) * hertz / rate).floor() as usize).min(n_rows)
    };
    let mut values = vec![0.0f32; n_rows * n_bins];
    let mut put = |row: usize, column: usize, value: f64| {
        if row < n_rows {
            values[row * n_bins + column] = value as f32;
        }
    };
    for i in 0..n_bins {
        let (low, center, high) = (bin(i), bin(i + 1), bin(i + 2));
        if low == center {
            put(center, i, 1.0);
        }
        for j in low..center + usize::from(low < center) {
            put(j, i, (j - low) as f64 / (center - low) as f64);
        }
        for j in center..high {
            put(j, i, (high - j) as f64 / (high - center) as f64);
        }
    }
    Ok((vec![n_rows, n_bins], values))
}

/// A transform: how long, how many elements it reads and gives, and of how many parts each (1 real, 2 complex).
struct Transform {
    length: usize,
    given: (usize, usize),
    made: (usize, usize),
    inverse: bool,
}

impl Transform {
    fn of(attrs: &Attrs, n: usize, parts: usize, length: Option<i64>) -> Result<Transform, OpError> {
        let flag = |name| attrs.int(name).unwrap_or(0) != 0;
        let (inverse, onesided) = (flag("inverse"), flag("onesided"));
        let default = if inverse && onesided { 2 * n.saturating_sub(1) } else { n };
        let length =
            length.map_or(Some(default), |n| usize::try_from(n).ok()).filter(|n| (1..=LARGEST_CONSTANT).contains(n));
        let length = length.ok_or_else(|| OpError::operand(1, n, "a length from 1"))?;
        let (given, made) = match (inverse, onesided) {
            (true, true) => ((length / 2 + 1, parts), (length, 1)),
            (false, true) => ((length, parts), (length / 2 + 1, 2)),
            _ => ((length, parts), (length, 2)),
        };
        let size = [given.0, given.1, made.0, made.1].iter().fold(1usize, |n, &m| n.saturating_mul(m));
        if !(1..=2).contains(&parts) || size > LARGEST_CONSTANT {
            return Err(OpError::unsupported(format!(
                "a transform of length {length}: its matrix would have {size} elements"
            )));
        }
        Ok(Transform { length, given, made, inverse })
    }

    /// The matrix `[given, made]`, parts innermost on both sides.
    fn matrix(&self) -> (Vec<usize>, Vec<f32>) {
        let ((n, parts), (m, made_parts)) = (self.given, self.made);
        let mut values = vec![0.0f32; n * parts * m * made_parts];
        let one_sided = self.inverse && made_parts == 1;
        for (row, values) in values.chunks_exact_mut(m * made_parts).enumerate() {
            let (k, imaginary) = (row / parts, row % parts == 1);
            // Each frequency of one side stands for two, but the first and, of an even length, the middle one.
            let twice = one_sided && k != 0 && 2 * k != self.length;
            let factor = if self.inverse { (if twice { 2.0 } else { 1.0 }) / self.length as f64 } else { 1.0 };
            for (column, value) in values.iter_mut().enumerate() {
                let (j, part) = (column / made_parts, column % made_parts);
                let turns = ((k as u128 * j as u128) % self.length as u128) as f64 / self.length as f64;
                let (sin, cos) = (TAU * turns).sin_cos();
                let sin = if self.inverse { sin } else { -sin };
                // (re + i im) (cos + i sin)
                *value = (factor
                    * match (imaginary, part) {
                        (false, 0) => cos,
                        (false, _) => sin,
                        (true, 0) => -sin,
                        (true, _) => cos,
                    }) as f32;
            }
        }
        (vec![n * parts, m * made_parts], values)
    }
}

/// The axis and the transform of a DFT.
fn plan(
    attrs: &Attrs,
    x: &TensorType,
    length: Option<Vec<i64>>,
    axis: Option<Vec<i64>>,
) -> Result<(usize, Transform), OpError> {
    let own = sizes(0, x)?;
    let given = axis.and_then(|a| a.first().copied()).unwrap_or(-2);
    let axis = resolve_axis(given, own.len()).filter(|&axis| axis + 1 < own.len());
    let axis = axis.ok_or_else(|| OpError::operand(2, given, format!("an axis of {x} before the last")))?;
    let transform = Transform::of(attrs, own[axis], own[own.len() - 1], length.and_then(|n| n.first().copied()))?;
    Ok((axis, transform))
}

fn infer_dft(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if !x.dtype.is_float() || x.packing.is_some() || x.shape.rank() < 2 {
        return Err(OpError::operand(0, x, "floats [...,n,1] or [...,n,2]"));
    }
    let (axis, transform) = plan(infer.attrs, x, infer.ints(1)?, infer.ints(2)?)?;
    let mut shape = x.shape.clone();
    shape.0[axis] = Dim::Known(transform.made.0 as i64);
    if let Some(last) = shape.0.last_mut() {
        *last = Dim::Known(transform.made.1 as i64);
    }
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// Rows `[..., n, parts]` by the matrix of a transform.
fn transformed(e: &mut Expand<'_, '_>, x: Val, transform: &Transform, dtype: DType) -> Result<Val, OpError> {
    let own = sizes(0, &e.ty(x))?;
    let lead = &own[..own.len() - 2];
    let n_rows: usize = lead.iter().product();
    let (n, parts) = transform.given;
    let rows = reshape::to(e, x, dims(&[n_rows, n * parts]))?;
    let (matrix_dims, values) = transform.matrix();
    let matrix = floats(e, &matrix_dims, &values)?;
    let attrs = crate::ops::core::matmul::attrs(false).with_dtype("dtype", dtype);
    let y = e.add(&crate::ops::core::matmul::DEF, attrs, &[rows, matrix])?;
    reshape::to(e, y, dims(&[lead, &[transform.made.0, transform.made.1]].concat()))
}

fn expand_dft(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let (axis, transform) = plan(e.attrs, &ty, e.ints(1)?, e.ints(2)?)?;
    let rank = ty.shape.rank();
    // The axis goes before the last one, and back afterwards.
    let order: Vec<usize> = (0..rank - 1).filter(|&i| i != axis).chain([axis, rank - 1]).collect();
    let mut y = crate::ops::onnx::movement::transpose(e, x, &order)?;
    let own = sizes(0, &e.ty(y))?;
    let (have, want) = (own[rank - 2] as i64, transform.given.0 as i64);
    if have > want {
        y = part(e, y, rank - 2, 0, want)?;
    } else if have < want {
        let mut pads = vec![(0, 0); rank];
        pads[rank - 2] = (0, want - have);
        y = crate::ops::onnx::pad::padded(e, y, &pads, crate::ops::core::strided::Fill::default())?;
    }
    let y = transformed(e, y, &transform, ty.dtype)?;
    let back: Vec<usize> = (0..rank).map(|i| order.iter().position(|&o| o == i).unwrap_or(i)).collect();
    Ok(vec![crate::ops::onnx::movement::transpose(e, y, &back)?])
}

/// Frames: how many, how long, how far apart; and the transform of each.
fn frames(
    infer_attrs: &Attrs,
    signal: &TensorType,
    step: Option<Vec<i64>>,
    window: Option<&Shape>,
    length: Option<Vec<i64>>,
) -> Result<(usize, usize, Transform), OpError> {
    let own = sizes(0, signal)?;
    let parts = own.get(2).copied().unwrap_or(1);
    let step = step.and_then(|s| s.first().copied()).and_then(|s| usize::try_from(s).ok()).filter(|&s| s > 0);
    let step = step.ok_or_else(|| OpError::operand(1, signal, "a step from 1"))?;
    let window = window.and_then(|w| w.n_elems()).and_then(|n| usize::try_from(n).ok());
    let length =
        length.and_then(|n| n.first().copied()).and_then(|n| usize::try_from(n).ok()).or(window).unwrap_or(own[1]);
    if length == 0 || length > own[1] || window.is_some_and(|w| w != length) {
        return Err(OpError::operand(3, length, format!("a length of frames of {signal}, that of the window")));
    }
    let onesided = infer_attrs.int("onesided").unwrap_or(1);
    let transform = Transform::of(&Attrs::new().with_int("onesided", onesided), length, parts, None)?;
    Ok((step, 1 + (own[1] - length) / step, transform))
}

fn infer_stft(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let signal = infer.ty(0)?;
    if !signal.dtype.is_float() || signal.packing.is_some() || !(2..=3).contains(&signal.shape.rank()) {
        return Err(OpError::operand(0, signal, "floats [batch,length,1] or [batch,length,2]"));
    }
    let window = infer.inputs.get(2).copied().flatten().map(|w| &w.shape);
    let (_, n, transform) = frames(infer.attrs, signal, infer.ints(1)?, window, infer.ints(3)?)?;
    let made = dims(&[n, transform.made.0, transform.made.1]);
    Ok(vec![TensorType::new(signal.dtype, Shape([&signal.shape.0[..1], &made].concat()))])
}

fn expand_stft(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (signal, window) = (e.input(0)?, e.optional(2));
    let ty = e.ty(signal);
    let window_ty = window.map(|w| e.ty(w));
    let (step, n, transform) = frames(e.attrs, &ty, e.ints(1)?, window_ty.as_ref().map(|w| &w.shape), e.ints(3)?)?;
    let own = sizes(0, &ty)?;
    let (length, parts) = transform.given;
    let rows = row_major(&ty.shape.0);
    let shape = dims(&[own[0], n, length, parts]);
    let strides = vec![rows[0].clone(), Dim::Known((step * parts) as i64), Dim::Known(parts as i64), Dim::Known(1)];
    let mut y = view(e, signal, &View { shape, strides, ..View::default() })?;
    if let Some(window) = window {
        let window = reshape::to(e, window, dims(&[length, 1]))?;
        y = pointwise::add(e, arg(0) * arg(1), ty.dtype, &[y, window])?;
    }
    Ok(vec![transformed(e, y, &transform, ty.dtype)?])
}
