//! ONNX's pools: of windows and of whole planes.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Class, DType, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr, product};
use crate::ops::core::reduce::{self, reduced};
use crate::ops::core::window::Window;
use crate::ops::core::{pointwise, reshape};

macro_rules! pools {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal [$($attr:expr),*] $infer:expr, $expand:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[$($attr),*],
            arity: (1, 1),
            infer: &$infer,
            eval: None,
            expand: Some(&$expand),
            weights: None,
            gradient: None,
        };)*
    };
}

pools! {
    /// `max_pool(x) {kernel_shape, strides, pads, dilations, auto_pad, ceil_mode}`: ONNX MaxPool, opset 22: maxima, and
    /// on demand where they stood.
    MAX "max_pool" "MaxPool" [attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::text("auto_pad"), attr::int("ceil_mode"), attr::int("storage_order")]
        |i| infer_window(i, true), |e| expand_window(e, "max");
    /// `average_pool(x) {kernel_shape, strides, pads, dilations, auto_pad, ceil_mode, count_include_pad}`: ONNX
    /// AveragePool, opset 22.
    AVERAGE "average_pool" "AveragePool" [attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::text("auto_pad"), attr::int("ceil_mode"), attr::int("count_include_pad")]
        |i| infer_window(i, false), |e| expand_window(e, "average");
    /// `global_max_pool(x)`: ONNX GlobalMaxPool, opset 22.
    GLOBAL_MAX "global_max_pool" "GlobalMaxPool" [] infer_global, |e| expand_global(e, "max");
    /// `global_average_pool(x)`: ONNX GlobalAveragePool, opset 22.
    GLOBAL_AVERAGE "global_average_pool" "GlobalAveragePool" [] infer_global, |e| expand_global(e, "mean");
}

fn window(attrs: &crate::ir::Attrs, x: &Shape) -> Result<Window, OpError> {
    let kernel = attrs.ints("kernel_shape").ok_or_else(|| OpError::attribute("kernel_shape", "is missing"))?;
    Window::of(attrs, kernel.to_vec(), &x.0[2..])
}

fn infer_window(infer: &Infer<'_>, is_max: bool) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    // Maxima of 8-bit codes are those of the numbers that they are.
    let is_code = is_max && x.dtype.class() == Class::Int && x.dtype.bits() <= 8;
    if !(x.dtype.is_float() || is_code) || x.packing.is_some() || x.shape.rank() < 3 {
        return Err(OpError::operand(0, x, "floats with spatial axes"));
    }
    let mut shape = x.shape.0[..2].to_vec();
    shape.extend(window(infer.attrs, &x.shape)?.out(&x.shape.0[2..])?);
    let shape = Shape(shape);
    let indices = if is_max { Some(TensorType::new(DType::I64, shape.clone())) } else { None };
    Ok([TensorType::new(x.dtype, shape)].into_iter().chain(indices).collect())
}

/// The part of a window that is along `axis`, over `[..., n, 1]`.
fn along(window: &Window, axis: usize) -> Window {
    let n = window.kernel.len();
    Window {
        kernel: vec![window.kernel[axis], 1],
        strides: vec![window.strides[axis], 1],
        pads: vec![window.pads[axis], 0, window.pads[n + axis], 0],
        dilations: vec![window.dilations[axis], 1],
        ceil: window.ceil,
    }
}

/// For each position along an axis, how many elements a full window has for each one of this, padding counted and what
/// is behind it not.
fn fullness(window: &Window, axis: usize, own: i64, out: i64) -> Vec<f32> {
    let n = window.kernel.len();
    let room = own + window.pads[axis] + window.pads[n + axis];
    let inside = |at: i64| {
        (0..window.kernel[axis]).filter(|k| at * window.strides[axis] + k * window.dilations[axis] < room).count()
    };
    (0..out).map(|at| window.kernel[axis] as f32 / inside(at).max(1) as f32).collect()
}

fn expand_window(e: &mut Expand<'_, '_>, kind: &str) -> Result<Vec<Val>, OpError> {
    let given = e.input(0)?;
    let ty = e.ty(given);
    let shape = ty.shape.clone();
    let x = if ty.dtype.is_float() { given } else { pointwise::add(e, arg(0).to_float(), DType::F32, &[given])? };
    let window = window(e.attrs, &shape)?;
    let count_pad = e.attrs.int("count_include_pad").unwrap_or(0) != 0;
    let spatial = shape.0[2..].to_vec();
    let out = window.out(&spatial)?;
    let bare = Window { ceil: false, ..window.clone() };
    let cut = window.ceil && bare.out(&spatial).ok().as_ref() != Some(&out);
    let window = if cut { window } else { bare };
    let add = |e: &mut Expand<'_, '_>, x: Val, window: &Window| {
        e.add(&crate::ops::core::pool::DEF, crate::ops::core::pool::attrs(kind, window, count_pad), &[x])
    };
    let mut y;
    if spatial.len() <= 2 {
        let plane = [&shape.0[..2], &vec![Dim::Known(1); 2 - spatial.len()], &spatial].concat();
        y = reshape::to(e, x, plane)?;
        y = add(e, y, &window.flat())?;
    } else {
        // Maxima and averages over a box are those along one axis after the other.
        y = x;
        let mut sizes = shape.0.clone();
        for axis in 0..spatial.len() {
            let rows =
                vec![product(&sizes[..2 + axis]), Dim::Known(1), sizes[2 + axis].clone(), product(&sizes[3 + axis..])];
            y = reshape::to(e, y, rows)?;
            y = add(e, y, &along(&window, axis))?;
            sizes[2 + axis] = out[axis].clone();
            y = reshape::to(e, y, sizes.clone())?;
        }
    }
    let result = e.outputs[0].clone();
    y = reshape::to(e, y, result.shape.0.clone())?;
    if cut && count_pad && kind == "average" {
        for axis in 0..spatial.len() {
            let (Some(own), Some(n)) = (spatial[axis].known(), out[axis].known()) else {
                return Err(OpError::operand(0, &ty, "known sizes"));
            };
            let mut dims = vec![1; shape.rank()];
            dims[2 + axis] = usize::try_from(n).unwrap_or(0);
            let factors = crate::ops::compose::floats(e, &dims, &fullness(&window, axis, own, n))?;
            y = pointwise::add(e, arg(0) * arg(1), e.outputs[0].dtype, &[y, factors])?;
        }
    }
    if !ty.dtype.is_float() {
        y = pointwise::add(e, arg(0).to_int(), ty.dtype, &[y])?;
    }
    let mut results = vec![y];
    if e.outputs.len() > 1 {
        let column_major = e.attrs.int("storage_order").unwrap_or(0);
        let attrs =
            window.write(Attrs::new()).with_int("ceil", i64::from(window.ceil)).with_int("column_major", column_major);
        results.push(e.add(&crate::ops::core::pool_indices::DEF, attrs, &[given])?);
    }
    Ok(results)
}

fn infer_global(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if !x.dtype.is_float() || x.shape.rank() < 3 {
        return Err(OpError::operand(0, x, "floats with spatial axes"));
    }
    let axes: Vec<usize> = (2..x.shape.rank()).collect();
    Ok(vec![TensorType::new(x.dtype, reduced(&x.shape, &axes, true))])
}

fn expand_global(e: &mut Expand<'_, '_>, kind: &str) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let axes: Vec<usize> = (2..e.ty(x).shape.rank()).collect();
    Ok(vec![e.add(&reduce::DEF, reduce::attrs(kind, &axes, true), &[x])?])
}
