//! ONNX's pools: of windows and of whole planes.

use super::reduce::{self, reduced};
use super::window::Window;
use crate::ir::{Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr};

macro_rules! pools {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal [$($attr:expr),*] $infer:expr, $expand:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[$($attr),*],
            arity: (1, 1),
            infer: $infer,
            eval: None,
            expand: Some($expand),
        };)*
    };
}

pools! {
    /// `max_pool(x) {kernel_shape, strides, pads, dilations, auto_pad, ceil_mode}`: ONNX MaxPool, opset 22, its first output.
    MAX "max_pool" "MaxPool" [attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::text("auto_pad"), attr::int("ceil_mode"), attr::int("storage_order")]
        infer_window, |e| expand_window(e, "max");
    /// `average_pool(x) {kernel_shape, strides, pads, dilations, auto_pad, ceil_mode, count_include_pad}`: ONNX AveragePool, opset 22.
    AVERAGE "average_pool" "AveragePool" [attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::text("auto_pad"), attr::int("ceil_mode"), attr::int("count_include_pad")]
        infer_window, |e| expand_window(e, "average");
    /// `global_max_pool(x)`: ONNX GlobalMaxPool, opset 22.
    GLOBAL_MAX "global_max_pool" "GlobalMaxPool" [] infer_global, |e| expand_global(e, "max");
    /// `global_average_pool(x)`: ONNX GlobalAveragePool, opset 22.
    GLOBAL_AVERAGE "global_average_pool" "GlobalAveragePool" [] infer_global, |e| expand_global(e, "mean");
}

fn window(attrs: &crate::ir::Attrs, x: &Shape) -> Result<Window, OpError> {
    let kernel = attrs.ints("kernel_shape").ok_or_else(|| OpError::attribute("kernel_shape", "is missing"))?;
    Window::of(attrs, kernel.to_vec(), &x.0[2..])
}

fn infer_window(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if !x.dtype.is_float() || !(3..=4).contains(&x.shape.rank()) {
        return Err(OpError::operand(0, x, "floats with one or two spatial axes"));
    }
    if infer.n_outputs > 1 {
        return Err(OpError::unsupported("the indices of a max pool"));
    }
    let mut shape = x.shape.0[..2].to_vec();
    shape.extend(window(infer.attrs, &x.shape)?.out(&x.shape.0[2..])?);
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

fn expand_window(e: &mut Expand<'_, '_>, kind: &str) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let shape = e.ty(x).shape;
    let window = window(e.attrs, &shape)?;
    let count_pad = e.attrs.int("count_include_pad").unwrap_or(0) != 0;
    let mut attrs = super::pool::attrs(kind, &window.flat(), count_pad);
    if window.ceil && window.out(&shape.0[2..]).ok() == (Window { ceil: false, ..window.clone() }).out(&shape.0[2..]).ok() {
        attrs = attrs.with_int("ceil", 0);
    } else if window.ceil && count_pad && kind == "average" {
        return Err(OpError::unsupported("an average pool that counts padding, with windows that are not full"));
    }
    let plane = [&shape.0[..2], &vec![Dim::Known(1); 4 - shape.rank()], &shape.0[2..]].concat();
    let x = super::reshape::to(e, x, plane)?;
    let y = e.add(&super::pool::DEF, attrs, &[x])?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![super::reshape::to(e, y, shape)?])
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
