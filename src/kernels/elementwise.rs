//! Pointwise and resize: one invocation an element.

use super::call::{Node, dims};
use super::settings::{Call, Float, Number, Switch, has, of};
use super::{KernelCall, KernelError, channels_last, vectors};
use crate::ir::Dim;
use crate::ops::core::iota;

pub(super) fn pointwise(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let n = node.n();
    let width = vectors::width(node, node.outer_storages(), &n, &[&n]);
    Ok(vec![node.call(of::Pointwise).n(n.clone()).vectors(&n, width)?])
}

pub(super) fn iota(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let size = |name| iota::size(node.attrs, name).map_err(|e| node.unsupported(e.to_string()));
    let n = node.n();
    let call = node.call(of::Iota).n(n.clone()).start(size("start")?).step(size("step")?);
    Ok(vec![call.invocations(&n)?])
}

/// How a resize finds the elements that each position draws on.
pub(super) struct Resize {
    linear: bool,
    coordinates: u32,
    nearest: u32,
    /// Elements of the result for each of the operand, along y and x.
    scales: [f32; 2],
}

impl Resize {
    fn of(node: &Node<'_>, scales: [f32; 2]) -> Result<Resize, KernelError> {
        let one_of = |name: &str, names: &[&str]| -> Result<u32, KernelError> {
            let given = node.attrs.str(name).unwrap_or(names[0]);
            let at = names
                .iter()
                .position(|n| *n == given)
                .ok_or_else(|| node.unsupported(format!("{name} {given:?} of a resize")))?;
            Ok(u32::try_from(at).unwrap_or(0))
        };
        let linear = one_of("mode", &["nearest", "linear"])? == 1;
        let coordinates = one_of(
            "coordinates",
            &["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"],
        )?;
        let nearest = one_of("nearest", &["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])?;
        Ok(Resize { linear, coordinates, nearest: if linear { 0 } else { nearest }, scales })
    }

    pub(super) fn params<'n, T>(&self, call: Call<'n, T>) -> Call<'n, T>
    where
        T: has::ScaleY<Given = Float>
            + has::ScaleX<Given = Float>
            + has::Linear<Given = Switch>
            + has::Coordinates<Given = Number>
            + has::Nearest<Given = Number>,
    {
        let call = call.scale_y(self.scales[0]).scale_x(self.scales[1]);
        call.linear(self.linear).coordinates(self.coordinates).nearest(self.nearest)
    }
}

pub(super) fn resize(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let own = dims(ty);
    let scales = node.attrs.floats("scales").unwrap_or_default();
    if own.len() != node.dims.len() || scales.len() != own.len() || ty.packing.is_some() || !ty.dtype.is_float() {
        return Err(node.unsupported(format!("a resize of {ty} to {}", node.result)));
    }
    let scale = |back: usize| own.len().checked_sub(back).map_or(1.0, |i| scales[i]);
    let how = Resize::of(node, [scale(2), scale(1)])?;
    if node.has_channels_last() {
        return channels_last::resize(node, &how);
    }
    let axis = |back: usize| {
        own.len().checked_sub(back).map_or((Dim::Known(1), Dim::Known(1)), |i| (own[i].clone(), node.dims[i].clone()))
    };
    let ((h, oh), (w, ow)) = (axis(2), axis(1));
    let n = node.n();
    let call = node.call(of::Resize).operand(x).n(n.clone()).h(h).w(w).oh(oh).ow(ow);
    Ok(vec![how.params(call).invocations(&n)?])
}
