//! Convolutions and pools: windows over the last two axes.

use super::call::{Node, dims, slices};
use super::matmul::{MAX_I32_TERMS, block, deep, tile, tiled};
use super::settings::{Call, Uint, has, of, unrolled};
use super::{KernelCall, KernelError, channels_last};
use crate::ir::packed::{Coding, Granularity};
use crate::ir::{Dim, TensorType};
use crate::program::ResultSlice;

/// A window: sizes, steps, elements before the first and distances, each along y and x.
pub(super) struct Window {
    pub(super) kernel: [u64; 2],
    pub(super) strides: [u64; 2],
    pub(super) pads: [u64; 2],
    pub(super) dilations: [u64; 2],
    /// Whether it may cover padding.
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

    pub(super) fn params<'n, T: OfWindows>(&self, call: Call<'n, T>) -> Call<'n, T> {
        let call = call.kh(self.kernel[0]).kw(self.kernel[1]).sh(self.strides[0]).sw(self.strides[1]);
        call.pt(self.pads[0]).pl(self.pads[1]).dh(self.dilations[0]).dw(self.dilations[1])
    }
}

/// A template with a window.
pub(super) trait OfWindows:
    has::Kh<Given = Uint>
    + has::Kw<Given = Uint>
    + has::Sh<Given = Uint>
    + has::Sw<Given = Uint>
    + has::Pt<Given = Uint>
    + has::Pl<Given = Uint>
    + has::Dh<Given = Uint>
    + has::Dw<Given = Uint>
{
}

impl<T> OfWindows for T where
    T: has::Kh<Given = Uint>
        + has::Kw<Given = Uint>
        + has::Sh<Given = Uint>
        + has::Sw<Given = Uint>
        + has::Pt<Given = Uint>
        + has::Pl<Given = Uint>
        + has::Dh<Given = Uint>
        + has::Dw<Given = Uint>
{
}

/// A template with images before and after.
pub(super) trait OfImages:
    has::H<Given = Uint> + has::W<Given = Uint> + has::Oh<Given = Uint> + has::Ow<Given = Uint>
{
}

impl<T> OfImages for T where
    T: has::H<Given = Uint> + has::W<Given = Uint> + has::Oh<Given = Uint> + has::Ow<Given = Uint>
{
}

/// A call with the sizes of images before and after.
pub(super) fn between<'n, T: OfImages>(call: Call<'n, T>, [h, w]: [&Dim; 2], [oh, ow]: [&Dim; 2]) -> Call<'n, T> {
    call.h(h.clone()).w(w.clone()).oh(oh.clone()).ow(ow.clone())
}

/// A template of convolutions.
pub(super) trait OfGroups:
    has::Images<Given = Uint>
    + has::Groups<Given = Uint>
    + has::CG<Given = Uint>
    + has::OcG<Given = Uint>
    + has::K<Given = Uint>
{
}

impl<T> OfGroups for T where
    T: has::Images<Given = Uint>
        + has::Groups<Given = Uint>
        + has::CG<Given = Uint>
        + has::OcG<Given = Uint>
        + has::K<Given = Uint>
{
}

/// The groups of a convolution.
pub(super) struct Groups {
    pub(super) images: Dim,
    pub(super) n: u64,
    /// Channels of a group.
    pub(super) c: u64,
    /// Terms of each product.
    pub(super) k: u64,
}

impl Groups {
    /// A call with `oc` filters of each group.
    pub(super) fn params<'n, T: OfGroups>(&self, call: Call<'n, T>, oc: u64) -> Call<'n, T> {
        call.images(self.images.clone()).groups(self.n).c_g(self.c).oc_g(oc).k(self.k)
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
    let all = Groups { images: images.clone(), n: groups, c: c_g, k };
    let plane = oh * ow;
    if c_g == 1 && parts.len() == 1 {
        let call = window.params(node.call(of::ConvDepthwise).operand(x).operand(w));
        let call = between(all.params(call, oc_g), [h, wide], [oh, ow]);
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
            let Some(arithmetic) = Arithmetic::of(node, (x_ty, w_ty), k)? else { return Err(refuse()) };
            let call = match arithmetic {
                Arithmetic::Codes { block, words } => {
                    let call = window.params(node.call(of::ConvI8).operand(x).operand_rows(w, rows));
                    let call = between(all.params(call, oc_g), [h, wide], [oh, ow]).oc(oc).oc_base(base + first);
                    let call = tiled(call.block(u64::from(block)), &k.into(), (tile_m, tile_n, words));
                    call.deep(deep(&k.into()) > 0).workgroups(n_groups)?
                }
                Arithmetic::Floats => {
                    let call = window.params(node.call(of::Conv).operand(x).operand_rows(w, rows));
                    let call = between(all.params(call, oc_g), [h, wide], [oh, ow]).oc(oc).oc_base(base + first);
                    let call = tiled(call.half(), &k.into(), (tile_m, tile_n, tile_k));
                    call.deep(deep(&k.into())).workgroups(n_groups)?
                }
            };
            let [pitch, first, width] = [oc, base + first, oc_g * groups].map(|n| &plane * &n.into());
            calls.push(KernelCall { result_slice: Some(ResultSlice { pitch, first, width }), ..call });
        }
        base += n_rows;
    }
    let has_parts = calls.len() > 1;
    Ok(calls
        .into_iter()
        .map(|call| KernelCall { result_slice: call.result_slice.filter(|_| has_parts), ..call })
        .collect())
}

/// What a convolution multiplies.
pub(super) enum Arithmetic {
    Floats,
    /// Codes, so many of which share a scale, and as many of which a tile holds at a time.
    Codes {
        block: u32,
        words: u32,
    },
}

impl Arithmetic {
    /// Of x and filters of these types, each `k` terms; `None` where no kernel has them.
    pub(super) fn of(
        node: &Node<'_>,
        (x_ty, w_ty): (&TensorType, &TensorType),
        k: u64,
    ) -> Result<Option<Arithmetic>, KernelError> {
        match (x_ty.packing, w_ty.packing) {
            (None, _) => Ok(Some(Arithmetic::Floats)),
            (Some(packing), Some(weights))
                if packing.coding == Coding::I8
                    && packing.granularity == Granularity::Tensor
                    && !weights.scale.has_zeros() =>
            {
                let (block, words) = block(weights);
                if u64::from(block).min(k) > MAX_I32_TERMS.unsigned_abs() {
                    let what = format!("an integer conv of {x_ty} and {w_ty}, whose sums may not fit in i32");
                    return Err(node.unsupported(what));
                }
                Ok(Some(Arithmetic::Codes { block, words }))
            }
            _ => Ok(None),
        }
    }
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
    let call = window.params(node.call(of::Pool).operand(x));
    let call = between(call, [h, w], [oh, ow]).n(n.clone());
    let (call, times) = unrolled(call.average(average).count_pad(count_pad), &elements.into());
    Ok(vec![call.each(1u64, times).invocations(&n)?])
}
