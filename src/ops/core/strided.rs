//! `strided`: a tensor read at other places: what transposes, slices, broadcasts, splits and pads become.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attrs, CORE, Class, DType, Differentiate, Dim, Expand, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, Val, attr,
};
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::{
    class_of, dims_attr, dims_value, elements, finish, from_elements, ints_attr, n_elems, operand, result, split_own,
};
use rayon::prelude::*;

/// `strided(x) {shape, strides, offset, lo, hi, fill, dtype, epilogue}`: `y[i] = x.flat[offset + sum(i[d]*strides[d])]`
/// where `lo[d] <= i[d] < hi[d]` for every axis d, `fill` elsewhere. Sizes, strides and places are integers where known
/// and dims where not; [`crate::ops::util::ints_attr`] reads both.
pub static DEF: OpDef = OpDef {
    name: "strided",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::sizes("shape"),
        attr::sizes("strides"),
        attr::sizes("offset"),
        attr::sizes("lo"),
        attr::sizes("hi"),
        attr::number("fill"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
    ],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
};

/// How a tensor is read.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The shape of the result.
    pub shape: Vec<Dim>,
    /// Elements of x from one position to the next, an axis.
    pub strides: Vec<Dim>,
    /// The element of x at position 0.
    pub offset: Option<Dim>,
    /// First and last but one positions that are read, an axis; all where absent.
    pub inside: Option<(Vec<Dim>, Vec<Dim>)>,
    /// What stands elsewhere.
    pub fill: Fill,
}

/// A number of the tensor's own type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// For floats.
    Float(f32),
    /// For integers and truth values.
    Int(i64),
}

impl Default for Fill {
    fn default() -> Fill {
        Fill::Float(0.0)
    }
}

impl Fill {
    /// The attribute of this name, 0 where it is absent.
    pub fn of(attrs: &Attrs, name: &str) -> Fill {
        attrs.int(name).map_or_else(|| Fill::Float(attrs.float(name).unwrap_or(0.0)), Fill::Int)
    }

    /// One element of a tensor.
    ///
    /// # Errors
    /// It is text, or has none.
    pub fn first(tensor: &Tensor) -> Result<Fill, OpError> {
        Ok(match tensor.dtype().class() {
            Class::Float => Fill::Float(tensor.to_f32s()?.first().copied().unwrap_or(0.0)),
            _ => Fill::Int(tensor.to_i64s()?.first().copied().unwrap_or(0)),
        })
    }

    /// As a tensor of one element.
    fn tensor(self, dtype: DType) -> Result<Tensor, OpError> {
        Ok(match (self, dtype.class()) {
            (Fill::Float(v), Class::Float) => Tensor::from_f32s(dtype, &[1], &[v])?,
            (Fill::Int(v), Class::Float) => Tensor::from_f32s(dtype, &[1], &[v as f32])?,
            (Fill::Float(v), _) => Tensor::from_i64s(dtype, &[1], &[v as i64])?,
            (Fill::Int(v), _) => Tensor::from_i64s(dtype, &[1], &[v])?,
        })
    }

    /// The bits that it has on a device as an element of `dtype`: those of an f32, or of an integer of 64 bits.
    pub fn bits(self, dtype: DType) -> u64 {
        match (self, dtype.class()) {
            (Fill::Float(v), Class::Float) => u64::from(v.to_bits()),
            (Fill::Int(v), Class::Float) => u64::from((v as f32).to_bits()),
            (Fill::Float(v), _) => (v as i64).cast_unsigned(),
            (Fill::Int(v), _) => v.cast_unsigned(),
        }
    }
}

impl View {
    /// The attributes.
    pub fn attrs(&self) -> Attrs {
        let mut attrs = Attrs::new().with_dims("shape", self.shape.clone()).with("strides", dims_value(&self.strides));
        attrs = match self.offset.clone().unwrap_or(Dim::Known(0)) {
            Dim::Known(offset) => attrs.with_int("offset", offset),
            offset => attrs.with_dims("offset", vec![offset]),
        };
        if let Some((lo, hi)) = &self.inside {
            attrs = attrs.with("lo", dims_value(lo)).with("hi", dims_value(hi));
            attrs = match self.fill {
                Fill::Float(v) => attrs.with_float("fill", v),
                Fill::Int(v) => attrs.with_int("fill", v),
            };
        }
        attrs
    }
}

/// Row-major strides, symbolic sizes included.
pub fn row_major(dims: &[Dim]) -> Vec<Dim> {
    (0..dims.len()).map(|i| crate::ir::product(&dims[i + 1..])).collect()
}

/// A tensor of `shape` read with its axes in the order `perm`; `None` where that is no order of them.
pub fn permuted(shape: &Shape, perm: &[usize]) -> Option<View> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    let own = row_major(&shape.0);
    let of = |all: &[Dim]| perm.iter().map(|&axis| all[axis].clone()).collect();
    sorted.into_iter().eq(0..shape.rank()).then(|| View { shape: of(&shape.0), strides: of(&own), ..View::default() })
}

/// `x` read as `view` says.
///
/// # Errors
/// The type rule refuses.
pub fn view(e: &mut Expand<'_, '_>, x: Val, view: &View) -> Result<Val, OpError> {
    e.add(&DEF, view.attrs(), &[x])
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.packing.is_some() || x.dtype.class() == Class::Text {
        return Err(OpError::operand(0, x, "numbers that are not packed"));
    }
    let shape = dims_attr(infer.attrs, "shape").ok_or_else(|| OpError::attribute("shape", "is missing"))?;
    for name in ["strides", "lo", "hi"] {
        let list = dims_attr(infer.attrs, name);
        if list.as_ref().map_or(name == "strides", |l| l.len() != shape.len()) {
            return Err(OpError::attribute(name, format!("is {list:?} for {} axes", shape.len())));
        }
    }
    if let Some(known) = Shape(shape.clone()).known()
        && let Ok(plan) = Plan::of(infer.attrs, &known)
        && let Some(n) = x.shape.n_elems()
    {
        plan.check(n)?;
    }
    result(infer, class_of(x), x.dtype, Shape(shape))
}

/// All numbers of a view, known.
struct Plan {
    dims: Vec<usize>,
    strides: Vec<i64>,
    offset: i64,
    /// First and last but one positions read.
    inside: Vec<(usize, usize)>,
}

impl Plan {
    fn of(attrs: &Attrs, dims: &[usize]) -> Result<Plan, OpError> {
        let strides = ints_attr(attrs, "strides")?.unwrap_or_default();
        let lo = ints_attr(attrs, "lo")?.unwrap_or_else(|| vec![0; dims.len()]);
        let hi = ints_attr(attrs, "hi")?.unwrap_or_else(|| vec![i64::MAX; dims.len()]);
        if strides.len() != dims.len() || lo.len() != dims.len() || hi.len() != dims.len() {
            return Err(OpError::attribute("strides", "has another length than the shape"));
        }
        let clamp = |v: i64, n: usize| usize::try_from(v.max(0)).unwrap_or(usize::MAX).min(n);
        let inside = lo
            .iter()
            .zip(&hi)
            .zip(dims)
            .map(|((&lo, &hi), &n)| (clamp(lo, n), clamp(hi, n).max(clamp(lo, n))))
            .collect();
        let offset = ints_attr(attrs, "offset")?.and_then(|o| o.first().copied()).unwrap_or(0);
        Ok(Plan { dims: dims.to_vec(), strides, offset, inside })
    }

    fn is_empty(&self) -> bool {
        self.inside.iter().any(|(lo, hi)| lo >= hi)
    }

    /// Refuses a view that reads outside `n` elements.
    fn check(&self, n: u64) -> Result<(), OpError> {
        if self.is_empty() {
            return Ok(());
        }
        let (mut low, mut high) = (i128::from(self.offset), i128::from(self.offset));
        for (stride, (lo, hi)) in self.strides.iter().zip(&self.inside) {
            let (first, last) = (i128::from(*stride) * *lo as i128, i128::from(*stride) * (*hi - 1) as i128);
            low += first.min(last);
            high += first.max(last);
        }
        if low < 0 || high >= i128::from(n) {
            return Err(OpError::attribute("strides", format!("reach elements {low} to {high} of {n}")));
        }
        Ok(())
    }
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    let x = operand(own, 0)?;
    let sizes = ints_attr(attrs, "shape")?.ok_or_else(|| OpError::attribute("shape", "is missing"))?;
    let dims: Vec<usize> = sizes
        .iter()
        .map(|&n| usize::try_from(n).map_err(|_| OpError::attribute("shape", format!("has the size {n}"))))
        .collect::<Result<_, _>>()?;
    let plan = Plan::of(attrs, &dims)?;
    let (bytes, size) = elements(x)?;
    plan.check((bytes.len() / size) as u64)?;
    let fill = Fill::of(attrs, "fill").tensor(x.dtype())?;
    let fill = elements(&fill)?.0;
    n_elems(&dims)?;
    let out = match size {
        1 => read::<1>(&plan, &bytes, &fill),
        2 => read::<2>(&plan, &bytes, &fill),
        4 => read::<4>(&plan, &bytes, &fill),
        _ => read::<8>(&plan, &bytes, &fill),
    };
    finish(attrs, from_elements(x.dtype(), &dims, out)?, x.dtype(), extra)
}

/// Reads elements of N bytes; the view has been checked.
fn read<const N: usize>(plan: &Plan, bytes: &[u8], fill: &[u8]) -> Vec<u8> {
    let source = bytes.as_chunks::<N>().0;
    let fill = fill.first_chunk::<N>().copied().unwrap_or([0; N]);
    let n: usize = plan.dims.iter().product();
    let mut out = vec![fill; n];
    let (width, stride, (from, to)) = match plan.dims.len() {
        0 => (1, 0, (0, 1)),
        r => (plan.dims[r - 1], plan.strides[r - 1], plan.inside[r - 1]),
    };
    if n == 0 || plan.is_empty() {
        return out.into_flattened();
    }
    let outer = plan.dims.len().saturating_sub(1);
    // Tasks of a few thousand elements, whatever the length of a row.
    let rows = (4096 / width).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(task, block)| {
        for (i, row) in block.chunks_exact_mut(width).enumerate() {
            let (mut at, mut offset, mut inside) = (task * rows + i, plan.offset, true);
            for axis in (0..outer).rev() {
                let position = at % plan.dims[axis];
                at /= plan.dims[axis];
                inside &= (plan.inside[axis].0..plan.inside[axis].1).contains(&position);
                offset = offset.wrapping_add(plan.strides[axis].wrapping_mul(position as i64));
            }
            if !inside {
                continue;
            }
            // `Plan::check` has bounded every element that is read below.
            let start = offset.wrapping_add(stride.wrapping_mul(from as i64)) as usize;
            let row = &mut row[from..to];
            match stride {
                1 => row.copy_from_slice(&source[start..start + row.len()]),
                0 => row.fill(source[start]),
                _ => {
                    let mut at = start as i64;
                    for value in row {
                        *value = source[at as usize];
                        at = at.wrapping_add(stride);
                    }
                }
            }
        }
    });
    out.into_flattened()
}

/// Most parts of a gain that are added up where places read the same elements.
const MAX_OVERLAPS: usize = 4096;

/// An element gains what all places that read it do.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (gain, sizes) = (d.gain()?, d.sizes(0)?);
    let known = |name: &'static str| ints_attr(d.attrs, name);
    let shape = known("shape")?.ok_or_else(|| OpError::attribute("shape", "is missing"))?;
    let strides = known("strides")?.unwrap_or_else(|| vec![0; shape.len()]);
    let offset = known("offset")?.and_then(|list| list.first().copied()).unwrap_or(0);
    let (lo, hi) =
        (known("lo")?.unwrap_or_else(|| vec![0; shape.len()]), known("hi")?.unwrap_or_else(|| shape.clone()));
    if [strides.len(), lo.len(), hi.len()].iter().any(|n| *n != shape.len()) {
        return Err(OpError::attribute("strides", format!("are {strides:?} for {shape:?}")));
    }
    let axes: Vec<Axis> =
        (0..shape.len()).map(|i| Axis { lo: lo[i].max(0), hi: hi[i].min(shape[i]), stride: strides[i] }).collect();
    Ok(Gains::Are(vec![Some(adjoint(d, gain, &axes, offset, &sizes)?)]))
}

/// An axis along which a tensor is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    /// The first position that is read.
    pub(crate) lo: i64,
    /// The first behind the last.
    pub(crate) hi: i64,
    /// Elements of the operand from one position to the next.
    pub(crate) stride: i64,
}

/// What a tensor of these sizes gains where what was read of it, along `axes` from `offset` on, gains `gain`.
///
/// # Errors
/// A size is not known, or too many places read the same elements.
pub(crate) fn adjoint(
    e: &mut Expand<'_, '_>,
    gain: Val,
    axes: &[Axis],
    offset: i64,
    sizes: &[usize],
) -> Result<Val, OpError> {
    let n_x = n_elems(sizes)? as i64;
    let shape = e.ty(gain).shape.0;
    if axes.iter().any(|axis| axis.hi <= axis.lo) {
        let flat = scatter(e, gain, &[], 0, 0)?;
        return reshape::to(e, flat, crate::ops::compose::dims(sizes));
    }
    // What was read, without the rest.
    let rows = row_major(&shape);
    let first = axes.iter().zip(&rows).fold(Dim::Known(0), |sum, (axis, row)| &sum + &(row * &Dim::Known(axis.lo)));
    let inside = View {
        shape: axes.iter().map(|axis| Dim::Known(axis.hi - axis.lo)).collect(),
        strides: rows,
        offset: Some(first),
        ..View::default()
    };
    let mut z = view(e, gain, &inside)?;
    let offset = offset + axes.iter().map(|axis| axis.lo * axis.stride).sum::<i64>();
    // Positions that read one element add up.
    let is_same = |axis: &Axis| axis.stride == 0 || axis.hi - axis.lo == 1;
    let same: Vec<usize> = (0..axes.len()).filter(|i| is_same(&axes[*i])).collect();
    if !same.is_empty() {
        z = crate::ops::compose::reduce(e, "sum", z, &same, false)?;
    }
    let left: Vec<(i64, i64)> = axes.iter().filter(|a| !is_same(a)).map(|a| (a.hi - a.lo, a.stride)).collect();
    let flat = overlapping(e, z, &left, offset, n_x, &mut 0)?;
    reshape::to(e, flat, crate::ops::compose::dims(sizes))
}

/// `[n_x]` elements that gain what is in `z`, along axes of a size and a stride each: part by part where two axes read
/// the same elements.
fn overlapping(
    e: &mut Expand<'_, '_>,
    z: Val,
    axes: &[(i64, i64)],
    offset: i64,
    n_x: i64,
    n_parts: &mut usize,
) -> Result<Val, OpError> {
    let order = by_stride(axes);
    let is_apart = |outer: (i64, i64), inner: (i64, i64)| {
        outer.1.abs() % inner.1.abs() == 0 && inner.1.abs() * inner.0 <= outer.1.abs()
    };
    let meeting = order.windows(2).find(|pair| !is_apart(axes[pair[0]], axes[pair[1]]));
    let Some(&[a, b]) = meeting else { return scatter(e, z, axes, offset, n_x) };
    let at = if axes[a].0 < axes[b].0 { a } else { b };
    let mut rest = axes.to_vec();
    let (n, stride) = rest.remove(at);
    let mut sum: Option<Val> = None;
    for i in 0..n {
        *n_parts += 1;
        if *n_parts > MAX_OVERLAPS {
            return Err(OpError::over_limit("overlapping reads with a derivative", *n_parts, MAX_OVERLAPS));
        }
        let part = crate::ops::compose::part(e, z, at, i, 1)?;
        let mut shape = e.ty(part).shape.0;
        shape.remove(at);
        let part = reshape::to(e, part, shape)?;
        let part = overlapping(e, part, &rest, offset + i * stride, n_x, n_parts)?;
        sum = Some(match sum {
            Some(sum) => {
                let dtype = e.ty(part).dtype;
                pointwise::add(e, arg(0) + arg(1), dtype, &[sum, part])?
            }
            None => part,
        });
    }
    sum.ok_or_else(|| OpError::unsupported("the derivative of reads of nothing"))
}

/// The axes, those of the longest strides first.
fn by_stride(axes: &[(i64, i64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..axes.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(axes[*i].1.abs()));
    order
}

/// The same where no two positions read the same element, and each stride is a multiple of the next: the positions of
/// all axes are then the digits of a number, and `z` with zeros between is a list of elements.
fn scatter(e: &mut Expand<'_, '_>, z: Val, axes: &[(i64, i64)], offset: i64, n_x: i64) -> Result<Val, OpError> {
    let order = by_stride(axes);
    let rows = row_major(&e.ty(z).shape.0);
    let (mut shape, mut strides, mut hi) = (Vec::new(), Vec::new(), Vec::new());
    let (mut start, mut lowest, mut outer) = (Dim::Known(0), offset, None);
    for &i in &order {
        let (n, stride) = axes[i];
        shape.push(Dim::Known(outer.map_or(n, |outer: i64| outer / stride.abs())));
        hi.push(Dim::Known(n));
        if stride < 0 {
            // From the last position on.
            start = &start + &(&rows[i] * &Dim::Known(n - 1));
            lowest += (n - 1) * stride;
            strides.push(&rows[i] * &Dim::Known(-1));
        } else {
            strides.push(rows[i].clone());
        }
        outer = Some(stride.abs());
    }
    let inner = outer.unwrap_or(1);
    shape.push(Dim::Known(inner));
    strides.push(Dim::Known(0));
    hi.push(Dim::Known(1));
    let length = order.first().map_or(1, |i| axes[*i].0 * axes[*i].1.abs());
    let lo = vec![Dim::Known(0); shape.len()];
    let spread = View { shape, strides, offset: Some(start), inside: Some((lo, hi)), fill: Fill::default() };
    let spread = view(e, z, &spread)?;
    let spread = reshape::to(e, spread, vec![Dim::Known(length)])?;
    let (lo, hi) = (lowest.clamp(0, n_x), lowest.saturating_add(length).clamp(0, n_x));
    let placed = View {
        shape: vec![Dim::Known(n_x)],
        strides: vec![Dim::Known(1)],
        offset: Some(Dim::Known(-lowest)),
        inside: Some((vec![Dim::Known(lo)], vec![Dim::Known(hi)])),
        fill: Fill::default(),
    };
    view(e, spread, &placed)
}
