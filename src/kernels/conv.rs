//! Convolutions and pools: windows over the last two axes.

use super::call::{Call, Node, dims, slices, unrolled};
use super::matmul::{MAX_I32_TERMS, block, tile, tiled};
use super::{KernelCall, KernelError, channels_last};
use crate::ir::packed::Granularity;
use crate::ir::{Dim, TensorType};
use crate::kernels::key::Template;
use crate::program::Stripe;

/// A window: sizes, steps, elements before the first and distances, each along y and x.
pub(super) struct Window {
    pub(super) kernel: [u64; 2],
    pub(super) strides: [u64; 2],
    pub(super) pads: [u64; 2],
    pub(super) dilations: [u64; 2],
    /// Whether it may lie over what is not of the image.
    pub(super) is_padded: bool,
}

impl Window {
    pub(super) fn of(node: &Node<'_>) -> Result<Window, KernelError> {
        let pair = |name: &str, default: i64, len: usize| -> Result<[u64; 2], KernelError> {
            let values = node.ints(name).unwrap_or_else(|| vec![default; len]);
            match values[..] {
                [y, x, ..] if values.len() == len && y >= 0 && x >= 0 => Ok([y.cast_unsigned(), x.cast_unsigned()]),
                _ => Err(node.unsupported(format!("{name} {values:?}"))),
            }
        };
        Ok(Window {
            kernel: pair("kernel", 1, 2)?,
            strides: pair("strides", 1, 2)?,
            pads: pair("pads", 0, 4)?,
            dilations: pair("dilations", 1, 2)?,
            is_padded: node.ints("pads").is_some_and(|pads| pads.iter().any(|n| *n != 0)),
        })
    }

    pub(super) fn params<'n>(&self, call: Call<'n>) -> Call<'n> {
        let names = [("kh", "kw"), ("sh", "sw"), ("pt", "pl"), ("dh", "dw")];
        let pairs = [self.kernel, self.strides, self.pads, self.dilations];
        names.iter().zip(pairs).fold(call, |call, ((y, x), [at_y, at_x])| call.uint(y, at_y).uint(x, at_x))
    }
}

pub(super) fn conv(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    if node.has_channels_last() {
        return channels_last::conv(node);
    }
    let ((x, x_ty), (w, w_ty)) = (node.operand(0)?, node.operand(1)?);
    let refuse = || node.unsupported(format!("a conv of {x_ty} and {w_ty}"));
    let (x_dims, w_dims) = (dims(x_ty), dims(w_ty));
    let ([images, channels, h, wide], [_, oc, oh, ow]) = (x_dims.as_slice(), node.dims.as_slice()) else {
        return Err(refuse());
    };
    let groups = u64::try_from(node.attrs.int("group").unwrap_or(1)).unwrap_or(0);
    let count = |dim: &Dim| dim.known().and_then(|n| u64::try_from(n).ok());
    let (Some(channels), Some(oc)) = (count(channels), count(oc)) else { return Err(refuse()) };
    if groups == 0 || channels % groups != 0 || oc % groups != 0 || (w_ty.packing.is_some() && w_dims.len() != 2) {
        return Err(refuse());
    }
    let window = Window::of(node)?;
    let (c_g, oc_g) = (channels / groups, oc / groups);
    let k = c_g * window.kernel[0] * window.kernel[1];
    let parts: Vec<_> = (1..node.own.len()).map(|slot| node.operand(slot)).collect::<Result<_, _>>()?;
    let n_elems = |ty: &TensorType| ty.shape.n_elems().unwrap_or(0);
    if parts.iter().map(|(_, ty)| n_elems(ty)).sum::<u64>() != oc * k || (parts.len() > 1 && groups != 1) {
        return Err(refuse());
    }
    let own = [
        ("images", images.clone()),
        ("groups", groups.into()),
        ("c_g", c_g.into()),
        ("k", k.into()),
        ("h", h.clone()),
        ("w", wide.clone()),
        ("oh", oh.clone()),
        ("ow", ow.clone()),
    ];
    let plane = oh * ow;
    if c_g == 1 && parts.len() == 1 {
        let call =
            sizes(window.params(node.call(Template::ConvDepthwise).operand(x).operand(w)), &own).uint("oc_g", oc_g);
        let (call, times) = unrolled(call, &k.into());
        return Ok(vec![call.each(1u64, times).invocations(&node.n())?]);
    }
    // Rows of w are channels of the result: its parts, and slices of large ones, are dispatches of their own.
    let mut calls = Vec::new();
    let mut base = 0;
    for (w, w_ty) in parts {
        let n_rows = n_elems(w_ty) / k.max(1);
        let slices = if groups == 1 { slices(node, w, &n_rows.into(), &k.into())? } else { vec![None] };
        for rows in slices {
            let (first, oc_g) = rows.map_or((0, n_rows / groups), |rows| (rows.first, rows.n));
            let (tile_m, tile_n, tile_k) = tile(&oc_g.into(), &plane);
            let bands = (groups * oc_g.div_ceil(u64::from(tile_m))).into();
            let n_groups = &(images * &bands) * &plane.div_ceil(u64::from(tile_n));
            let Some((template, tile_k, block)) =
                arithmetic(node, (x_ty, w_ty), k, tile_k, [Template::Conv, Template::ConvI8])?
            else {
                return Err(refuse());
            };
            let call = sizes(window.params(node.call(template).operand(x).operand_rows(w, rows)), &own);
            let call = call.uint("oc_g", oc_g).uint("oc", oc).uint("oc_base", base + first);
            let call = match block {
                Some(block) => call.uint("block", u64::from(block)),
                None => call.half(),
            };
            let call = tiled(call, &k.into(), (tile_m, tile_n, tile_k)).groups(n_groups)?;
            let [pitch, first, width] = [oc, base + first, oc_g * groups].map(|n| &plane * &n.into());
            calls.push(KernelCall { stripe: Some(Stripe { pitch, first, width }), ..call });
        }
        base += n_rows;
    }
    let has_parts = calls.len() > 1;
    Ok(calls.into_iter().map(|call| KernelCall { stripe: call.stripe.filter(|_| has_parts), ..call }).collect())
}

/// Which of two templates, of floats and of codes, convolves x and filters of these types, each `k` terms; of codes,
/// how many of these a tile holds, and how many share a scale. `None` where neither does.
pub(super) fn arithmetic(
    node: &Node<'_>,
    (x_ty, w_ty): (&TensorType, &TensorType),
    k: u64,
    tile_k: u32,
    [floats, codes]: [Template; 2],
) -> Result<Option<(Template, u32, Option<u32>)>, KernelError> {
    match (x_ty.packing, w_ty.packing) {
        (None, _) => Ok(Some((floats, tile_k, None))),
        (Some(packing), Some(weights))
            if packing.bits == 8 && packing.granularity == Granularity::Tensor && !weights.scale.has_zeros() =>
        {
            let (block, words) = block(weights);
            if u64::from(block).min(k) > MAX_I32_TERMS.unsigned_abs() {
                let what = format!("an integer conv of {x_ty} and {w_ty}, whose sums may not fit in i32");
                return Err(node.unsupported(what));
            }
            Ok(Some((codes, words, Some(block))))
        }
        _ => Ok(None),
    }
}

pub(super) fn sizes<'n>(call: Call<'n>, sizes: &[(&str, Dim)]) -> Call<'n> {
    sizes.iter().fold(call, |call, (name, size)| call.uint(name, size.clone()))
}

pub(super) fn pool(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let x_dims = dims(ty);
    let ([_, _, h, w], [_, _, oh, ow]) = (x_dims.as_slice(), node.dims.as_slice()) else {
        return Err(node.unsupported(format!("a pool of {ty}")));
    };
    let average = match node.attrs.str("kind") {
        Some("max") => false,
        Some("average") => true,
        other => return Err(node.unsupported(format!("a pool of kind {other:?}"))),
    };
    if ty.packing.is_some() || !ty.dtype.is_float() {
        return Err(node.unsupported(format!("a pool of {ty}")));
    }
    let count_pad = average && node.attrs.int("count_pad").unwrap_or(0) != 0;
    if node.has_channels_last() {
        return channels_last::pool(node, average, count_pad);
    }
    let n = node.n();
    let window = Window::of(node)?;
    let elements = window.kernel[0].saturating_mul(window.kernel[1]);
    let call = window.params(node.call(Template::Pool).operand(x));
    let call = call
        .uint("n", n.clone())
        .uint("h", h.clone())
        .uint("w", w.clone())
        .uint("oh", oh.clone())
        .uint("ow", ow.clone());
    let (call, times) = unrolled(call.flag("average", average).flag("count_pad", count_pad), &elements.into());
    Ok(vec![call.each(1u64, times).invocations(&n)?])
}
