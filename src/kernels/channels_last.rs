//! Convolutions, pools and resizes with channels last (`[N,H,W,C]`).

use super::call::{Node, dims, slices};
use super::conv::{Arithmetic, Groups, OfImages, Window, between};
use super::conv_mma::Found;
use super::elementwise::Resize;
use super::matmul::{deep, tile, tiled};
use super::mma::MOST_WIDTH;
use super::quantize::on_load;
use super::settings::{Call, Switch, Uint, has, of};
use super::shape::{at_most, from};
use super::{KernelCall, KernelError, conv_mma, storage, thin};
use crate::ir::{Dim, TensorType};

/// Elements of a window up to which loops over it are unrolled: an invocation holds the weights of so many, of four
/// channels, in registers.
const MAX_UNROLLED: u64 = 25;
/// Elements between the first and the last along x that an invocation of an unrolled window may hold.
const MAX_COLUMNS: u64 = 16;

/// The sizes of an image and of what is made of it.
struct Images {
    n: Dim,
    /// Channels.
    c: u64,
    from: [Dim; 2],
    to: [Dim; 2],
}

impl Images {
    fn of(node: &Node<'_>, x: &TensorType) -> Result<Images, KernelError> {
        let refuse = || node.unsupported(format!("{x} with channels last"));
        let (own, out) = (dims(x), &node.dims[..]);
        let ([n, h, w, c], [_, oh, ow, _]) = (&own[..], out) else { return Err(refuse()) };
        let c = c.known().and_then(|c| u64::try_from(c).ok()).ok_or_else(refuse)?;
        Ok(Images { n: n.clone(), c, from: [h.clone(), w.clone()], to: [oh.clone(), ow.clone()] })
    }

    /// A call with the sizes of an image before and after.
    fn params<'n, T: OfImages>(&self, call: Call<'n, T>) -> Call<'n, T> {
        let [[h, w], [oh, ow]] = [&self.from, &self.to];
        between(call, [h, w], [oh, ow])
    }

    /// The same with how many images, of how many channels.
    fn all<'n, T>(&self, call: Call<'n, T>) -> Call<'n, T>
    where
        T: OfImages + has::Images<Given = Uint> + has::C<Given = Uint>,
    {
        self.params(call).images(self.n.clone()).c(self.c)
    }

    /// How many channels an invocation has; 0 where it is one.
    fn width(&self) -> u32 {
        if self.c.is_multiple_of(4) { 4 } else { 0 }
    }
}

/// The call with the flag `unrolled`, and the loops where they are not.
fn over_window<'n, T: has::Unrolled<Given = Switch>>(call: Call<'n, T>, window: &Window) -> Call<'n, T> {
    let [kh, kw] = window.kernel;
    let columns = window.strides[1].saturating_add((kw.saturating_sub(1)).saturating_mul(window.dilations[1]));
    if kh.saturating_mul(kw) <= MAX_UNROLLED && columns < MAX_COLUMNS {
        return call.unrolled(true);
    }
    call.unrolled(false).each(1u64, kh).each(kh, kw)
}

pub(super) fn conv(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let ((x, x_ty), (w, w_ty)) = (node.operand(0)?, node.operand(1)?);
    let refuse = || node.unsupported(format!("a conv of {x_ty} and {w_ty} with channels last"));
    let images = Images::of(node, x_ty)?;
    let channels = images.c;
    let groups = u64::try_from(node.attrs.int("group").unwrap_or(1)).unwrap_or(0);
    let oc = node.dims.last().and_then(Dim::known).and_then(|n| u64::try_from(n).ok()).ok_or_else(refuse)?;
    if groups == 0 || channels % groups != 0 || oc % groups != 0 || (w_ty.packing.is_some() && dims(w_ty).len() != 2) {
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
    // Codes that are made as they are loaded are not stored: their source is read.
    let (x, magnitude) = on_load(node.graph, x).map_or((x, None), |(x, magnitude)| (x, Some(magnitude)));
    if c_g == 1 && oc_g == 1 && parts.len() == 1 {
        let call = node.call(of::ConvDepthwiseNhwc).operand(x).operand(w).optional(magnitude);
        let call = images.all(window.params(call));
        let width = images.width();
        let call = over_window(call.vector(width), &window).puts(2 * u64::from(width.max(1)));
        let pairs = images.to[1].div_ceil(2);
        let n = &(&images.n * &images.to[0]) * &(&pairs * &Dim::from(channels / u64::from(width.max(1))));
        return Ok(vec![call.invocations(&n)?]);
    }
    // Rows of w are channels of the result: its parts, and slices of large ones, are dispatches of their own.
    let mut calls = Vec::new();
    let mut base = 0;
    let plane = &images.to[0] * &images.to[1];
    let pixels = &images.n * &plane;
    let all = Groups { images: images.n.clone(), n: groups, c: c_g, k };
    for (w, w_ty) in parts {
        let n_rows = n_elems(w_ty) / k.max(1);
        let slices = if groups == 1 { slices(node, w, &n_rows.into(), &k.into())? } else { vec![None] };
        for rows in slices {
            let (first, oc_g) = rows.map_or((0, n_rows / groups), |rows| (rows.first, rows.n));
            let [area, steps] = [window.kernel, window.strides].map(|[y, x]| y.saturating_mul(x));
            let product = conv_mma::Sizes { plane: &plane, filters: oc_g, groups, depth: k, window: area, steps };
            let with_matrices = |few: bool, when: &Dim| -> Result<Option<KernelCall>, KernelError> {
                let Some(storages) = storage(x_ty).zip(storage(w_ty)) else { return Ok(None) };
                let found = match conv_mma::choose(node, storages, &product, few) {
                    None => return Ok(None),
                    Some(Found::Mma(choice)) => {
                        let call = node.call(of::ConvMma).operand(x).operand_rows(w, rows).optional(magnitude);
                        let call = images.params(window.params(all.params(call, oc_g))).oc(oc).oc_base(base + first);
                        let are_vectors =
                            [oc, oc_g, base + first].iter().all(|n| n.is_multiple_of(u64::from(MOST_WIDTH)));
                        let width = if are_vectors { MOST_WIDTH } else { 0 };
                        let (k, subgroup) = (product.padded(storages.1), node.target.limits.subgroup_size);
                        let call = choice.apply(call.vector(width), &k, subgroup, width);
                        let tiles = choice.tiles(&pixels, &oc_g.into());
                        call.workgroups(&(&tiles * &Dim::from(groups)) * when)?
                    }
                    Some(Found::Thin(variant)) => {
                        let call = node.call(of::ConvThin).operand(x).operand_rows(w, rows);
                        let call = images.params(window.params(all.params(call, oc_g))).oc(oc).oc_base(base + first);
                        let call = thin::apply(variant, call, &k.into(), window.is_padded);
                        let tiles = thin::tiles(variant, &pixels, &oc_g.into());
                        call.workgroups(&(&tiles * &Dim::from(groups)) * when)?
                    }
                };
                Ok(Some(found))
            };
            let most = conv_mma::FEW_IMAGES;
            let found = match images.n.known() {
                Some(n) => vec![with_matrices(n <= most, &Dim::Known(1))?],
                None => vec![
                    with_matrices(true, &at_most(&images.n, most))?,
                    with_matrices(false, &from(&images.n, most + 1))?,
                ],
            };
            if let Some(found) = found.into_iter().collect::<Option<Vec<_>>>() {
                calls.extend(found);
                continue;
            }
            if magnitude.is_some() {
                let what = "codes made as they are loaded, which other kernels do not".to_owned();
                let kernel = "conv_mma".to_owned();
                return Err(KernelError::Mismatch { node: node.name.to_owned(), kernel, what });
            }
            let (tile_m, tile_n, tile_k) = tile(&pixels, &oc_g.into());
            let bands = groups * oc_g.div_ceil(u64::from(tile_n));
            let n_groups = &pixels.div_ceil(u64::from(tile_m)) * &Dim::from(bands);
            let Some(arithmetic) = Arithmetic::of(node, (x_ty, w_ty), k)? else { return Err(refuse()) };
            calls.push(match arithmetic {
                Arithmetic::Codes { block, words } => {
                    let call = window.params(node.call(of::ConvNhwcI8).operand(x).operand_rows(w, rows));
                    let call = images.params(all.params(call, oc_g)).oc(oc).oc_base(base + first);
                    let call = tiled(call.block(u64::from(block)), &k.into(), (tile_m, tile_n, words));
                    call.deep(deep(&k.into()) > 0).workgroups(n_groups)?
                }
                Arithmetic::Floats => {
                    let call = window.params(node.call(of::ConvNhwc).operand(x).operand_rows(w, rows));
                    let call = images.params(all.params(call, oc_g)).oc(oc).oc_base(base + first);
                    let call = tiled(call.half(), &k.into(), (tile_m, tile_n, tile_k));
                    call.deep(deep(&k.into())).workgroups(n_groups)?
                }
            });
        }
        base += n_rows;
    }
    Ok(calls)
}

/// A pool whose kind is known to have a kernel.
pub(super) fn pool(node: &Node<'_>, average: bool, count_pad: bool) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let images = Images::of(node, ty)?;
    let window = Window::of(node)?;
    let call = images.all(window.params(node.call(of::PoolNhwc).operand(x)));
    let call = call.average(average).count_pad(count_pad);
    Ok(vec![over_window(call, &window).vectors(&node.n(), images.width())?])
}

pub(super) fn resize(node: &Node<'_>, how: &Resize) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let images = Images::of(node, ty)?;
    let call = how.params(images.all(node.call(of::ResizeNhwc).operand(x)));
    Ok(vec![call.vectors(&node.n(), images.width())?])
}
