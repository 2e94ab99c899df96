//! ONNX RoiAlign: regions of images as grids of averages, on the host.

use crate::ir::{
    Attrs, CORE, Class, Dim, IndexFault, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr,
};
use crate::ops::reference::real::Real;
use crate::ops::util::{finish_floats, float_operand, is_double, n_elems, one_of, operand};

/// `roi_align(x, rois, batch_indices) {...}`: ONNX RoiAlign, opset 22.
pub static DEF: OpDef = OpDef {
    name: "roi_align",
    onnx: "RoiAlign",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::text("coordinate_transformation_mode"),
        attr::text("mode"),
        attr::int("output_height"),
        attr::int("output_width"),
        attr::int("sampling_ratio"),
        attr::float("spatial_scale"),
    ],
    arity: (3, 3),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// Rows and columns of the result of RoiAlign.
fn roi_size(attrs: &Attrs) -> Result<[usize; 2], OpError> {
    let size = |name: &'static str| {
        let n = attrs.int(name).unwrap_or(1);
        usize::try_from(n)
            .ok()
            .filter(|n| (1..=1 << 16).contains(n))
            .ok_or_else(|| OpError::attribute(name, format!("is {n}")))
    };
    Ok([size("output_height")?, size("output_width")?])
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, rois, batch) = (float_operand(infer, 0)?, float_operand(infer, 1)?, infer.ty(2)?);
    let [h, w] = roi_size(infer.attrs)?;
    one_of(infer.attrs, "mode", &["avg", "max"])?;
    one_of(infer.attrs, "coordinate_transformation_mode", &["half_pixel", "output_half_pixel"])?;
    if x.shape.rank() != 4
        || rois.shape.rank() != 2
        || rois.shape.0[1] != Dim::Known(4)
        || batch.shape.0 != rois.shape.0[..1]
        || batch.dtype.class() != Class::Int
    {
        return Err(OpError::operand(1, rois, "[R,4] for [N,C,H,W], and an image for each"));
    }
    let shape = vec![rois.shape.0[0].clone(), x.shape.0[1].clone(), Dim::Known(h as i64), Dim::Known(w as i64)];
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

/// Places and weights around a point of a plane; none where it is more than one element outside.
fn bilinear<F: Real>(y: F, x: F, height: usize, width: usize) -> [(usize, F); 4] {
    let (zero, one) = (F::zero(), F::one());
    let count = |n: usize| F::of_f64(n as f64);
    if !(y >= -one && y <= count(height) && x >= -one && x <= count(width)) {
        return [(0, zero); 4];
    }
    let along = |v: F, size: usize| {
        let v = v.max(zero);
        let low = v.to_i64() as usize;
        if low + 1 >= size { (size - 1, size - 1, zero) } else { (low, low + 1, v - count(low)) }
    };
    let ((y0, y1, ly), (x0, x1, lx)) = (along(y, height), along(x, width));
    [
        (y0 * width + x0, (one - ly) * (one - lx)),
        (y0 * width + x1, (one - ly) * lx),
        (y1 * width + x0, ly * (one - lx)),
        (y1 * width + x1, ly * lx),
    ]
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if is_double(attrs, inputs) { aligned::<f64>(attrs, inputs) } else { aligned::<f32>(attrs, inputs) }
}

/// A region as cells, and the points of a cell that are looked at.
struct Cells<F> {
    corner: [F; 2],
    bin: [F; 2],
    points: [usize; 2],
}

impl<F: Real> Cells<F> {
    /// The region `[x1, y1, x2, y2]` in elements of the image, as `size` rows and columns of cells. `ratio` is the
    /// number of points along an axis of a cell; where it is 0, there is one for each element of the image.
    fn of(region: [F; 4], size: [usize; 2], half: bool, ratio: i64) -> Cells<F> {
        /// Most points looked at along one axis of one cell.
        const MAX_POINTS: f32 = 512.0;
        let [x1, y1, x2, y2] = region;
        let least = if half { F::neg_infinity() } else { F::one() };
        let bin = [(y2 - y1).max(least) / F::of_f64(size[0] as f64), (x2 - x1).max(least) / F::of_f64(size[1] as f64)];
        let points = bin.map(|bin| {
            let n = if ratio > 0 { F::of_i64(ratio) } else { bin.ceil() };
            n.max(F::zero()).min(F::of_f32(MAX_POINTS)).to_i64() as usize
        });
        Cells { corner: [y1, x1], bin, points }
    }

    /// Row and column of point `i` of a cell.
    fn point(&self, cell: [usize; 2], i: usize) -> [F; 2] {
        let at = [i / self.points[1], i % self.points[1]];
        [0, 1].map(|axis| {
            let [cell, at, n] = [cell[axis], at[axis], self.points[axis]].map(|n| F::of_f64(n as f64));
            self.corner[axis] + cell * self.bin[axis] + (at + F::of_f32(0.5)) * self.bin[axis] / n
        })
    }
}

fn aligned<F: Real>(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, rois, batch) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
    let [images, channels, height, width] = x.dims()[..] else { return Err(OpError::operand(0, x.ty(), "[N,C,H,W]")) };
    let [oh, ow] = roi_size(attrs)?;
    let half = attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel") == "half_pixel";
    let is_max = attrs.str("mode") == Some("max");
    let (scale, shift) =
        (F::of_f32(attrs.float("spatial_scale").unwrap_or(1.0)), F::of_f32(if half { 0.5 } else { 0.0 }));
    let ratio = attrs.int("sampling_ratio").unwrap_or(0);
    let (data, rois, batch) = (F::elements(x)?, F::elements(rois)?, batch.to_i64s()?);
    let dims = [batch.len(), channels, oh, ow];
    let mut out = vec![F::zero(); n_elems(&dims)?];
    if height == 0 || width == 0 {
        return Err(OpError::operand(0, x.ty(), "an image that is not empty"));
    }
    for (r, roi) in rois.chunks_exact(4).enumerate().take(batch.len()) {
        let image = usize::try_from(batch[r]).ok().filter(|&i| i < images).ok_or(IndexFault {
            element: r as u64,
            index: batch[r],
            least: 0,
            most: images as i64 - 1,
        })?;
        let cells = Cells::of([0, 1, 2, 3].map(|i| roi[i] * scale - shift), [oh, ow], half, ratio);
        let n_points = cells.points[0] * cells.points[1];
        for cell in 0..oh * ow {
            let at = |i: usize| {
                let [y, x] = cells.point([cell / ow, cell % ow], i);
                bilinear(y, x, height, width)
            };
            for c in 0..channels {
                let plane = &data[(image * channels + c) * height * width..][..height * width];
                let value = if is_max {
                    let best = |i: usize| at(i).iter().map(|(p, w)| plane[*p] * *w).fold(F::neg_infinity(), F::max);
                    (0..n_points).map(best).reduce(F::max).unwrap_or(F::zero())
                } else {
                    (0..n_points).map(|i| at(i).iter().map(|(p, w)| plane[*p] * *w).sum::<F>()).sum::<F>()
                        / F::of_f64(n_points.max(1) as f64)
                };
                out[(r * channels + c) * oh * ow + cell] = value;
            }
        }
    }
    finish_floats(attrs, &dims, out, x.dtype(), &[])
}
