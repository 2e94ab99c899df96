//! Constant weights behind a DequantizeLinear as one packed matrix of rows, whoever quantized them and whatever their
//! layout.
//!
//! Between the DequantizeLinear and the operator there may be views (`strided`, `reshape`) and casts of floats. The
//! codes are read through them in the order in which the operator wants rows, so that a scale along any axis but the
//! reduction's is one a row, and one in blocks of the reduction axis one a block. Unsigned codes become signed ones
//! less 128 (or 8), exactly, and their zero points with them. Zero points that no shift of the codes removes stay
//! beside the scales ([`ScaleType::with_zeros`]).

use super::pattern::float_cast;
use crate::ir::packed::{Coding, Granularity, Packing, ScaleType, pack_with_zeros};
use crate::ir::{Attrs, DType, Graph, Op, OpError, Tensor, TensorError, TensorType, ValueId, WeightOperand};
use crate::ops;
use half::f16;

/// Columns of the largest and of the smallest block.
const BLOCKS: std::ops::RangeInclusive<usize> = 16..=256;

/// Weights of an operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rows {
    /// The DequantizeLinear.
    dequantize: ValueId,
    /// The operator's operand, where its elements come in another order than the codes.
    view: Option<ValueId>,
    /// Whether the rows of the matrix are the columns of what the operator reads.
    transposed: bool,
    n_rows: usize,
    n_cols: usize,
}

impl Rows {
    /// The weights that an operator reads in its operand; `None` where they are no DequantizeLinear of constants,
    /// or no matrix.
    pub(super) fn of(graph: &Graph, weights: ValueId, operand: &WeightOperand) -> Option<Rows> {
        let (mut at, mut reorders) = (weights, false);
        while !is_dequantize(graph, at) {
            at = match graph.node(at.node).op()? {
                view if is_plain_strided(view) => {
                    reorders = true;
                    graph.operands(at.node).first().copied()??
                }
                view if view.is(&ops::core::reshape::DEF) => graph.operands(at.node).first().copied()??,
                _ => float_cast(graph, at.node)?,
            };
        }
        let dims = graph.ty(weights).shape.known()?;
        let (n_rows, n_cols, transposed) = operand.layout?.matrix(&dims)?;
        // A transposition of rows, which the operator would turn again.
        let source = graph.operands(weights.node).first().copied().flatten();
        if let Some(source) = source.filter(|v| transposed && *v == at && is_transposition(graph, weights)) {
            return Some(Rows { dequantize: source, view: None, transposed: false, n_rows, n_cols });
        }
        Some(Rows { dequantize: at, view: reorders.then_some(weights), transposed, n_rows, n_cols })
    }

    /// A DequantizeLinear whose codes are rows as they are.
    pub(super) fn as_they_are(graph: &Graph, dequantize: ValueId) -> Option<Rows> {
        let dims = graph.ty(dequantize).shape.known()?;
        let &[n_rows, n_cols] = &dims[..] else { return None };
        is_dequantize(graph, dequantize).then_some(Rows { dequantize, view: None, transposed: false, n_rows, n_cols })
    }

    /// What the packed constant is named after.
    pub(super) fn name<'g>(&self, graph: &'g Graph) -> &'g str {
        graph.value(self.dequantize).name.trim_end_matches(".dq")
    }

    /// The matrix; `None` where codes, scales or zero points are not constant, or not of a kind that is packed. Without
    /// zero points its data are made when they are first read.
    ///
    /// # Errors
    /// The data of a constant is absent.
    pub(super) fn packed(&self, graph: &Graph) -> Result<Option<Tensor>, OpError> {
        let Some(op) = graph.node(self.dequantize.node).op() else { return Ok(None) };
        let operands = graph.operands(self.dequantize.node);
        let constant = |slot: usize| operands.get(slot).copied().flatten().map(|v| graph.constant(v));
        let (Some(Some(codes)), Some(Some(scales)), zeros) = (constant(0), constant(1), constant(2)) else {
            return Ok(None);
        };
        let Some(shift) = shift(codes.dtype()).filter(|_| zeros != Some(None)) else { return Ok(None) };
        let n = self.n_rows * self.n_cols;
        if n == 0 || codes.ty().shape.n_elems() != Some(n as u64) || n > i32::MAX as usize {
            return Ok(None);
        }
        let views = self.views(graph);
        let places = views.as_ref().map(|views| places(views, &codes.dims())).transpose()?;
        let Some(scale_of) = ScaleOf::new(&op.attrs, &codes.dims(), &scales.dims()) else { return Ok(None) };
        let order = Order { transposed: self.transposed, n_rows: self.n_rows, n_cols: self.n_cols, places };
        let Some(granularity) = order.granularity(&scale_of) else { return Ok(None) };
        let coding = match op.attrs.str("coding") {
            Some(text) if codes.dtype() == DType::I8 && zeros.is_none() => {
                text.parse().map_err(|why| OpError::attribute("coding", why))?
            }
            _ if codes.dtype().bits() == 8 => Coding::I8,
            _ => Coding::I4,
        };
        let source =
            Source { codes: codes.clone(), scales: scales.clone(), order, scale_of, granularity, coding, shift };
        match zeros.flatten() {
            None if shift == 0 => source.without_zeros(&views.unwrap_or_default()).map(Some),
            zeros => source.with_zeros(zeros),
        }
    }

    /// The views between the codes and the operator, the last one first; `None` where it reads them in their order.
    fn views(&self, graph: &Graph) -> Option<Vec<Op>> {
        let mut at = self.view?;
        let mut views = Vec::new();
        while at != self.dequantize {
            let op = graph.node(at.node).op()?;
            if op.is(&ops::core::strided::DEF) || op.is(&ops::core::reshape::DEF) {
                let mut op = op.clone();
                op.attrs.0.remove("dtype");
                views.push(op);
            }
            at = graph.operands(at.node).first().copied()??;
        }
        Some(views)
    }
}

/// For each element behind `views` of codes `dims`, which code it is.
fn places(views: &[Op], dims: &[usize]) -> Result<Vec<u32>, OpError> {
    let n: usize = dims.iter().product();
    let bytes = (0..n as i32).flat_map(i32::to_le_bytes).collect();
    let mut places = Tensor::from_bytes(TensorType::of(DType::I32, dims), bytes)?;
    for op in views.iter().rev() {
        places = ops::reference::evaluate(op, &[Some(&places)], 1)?.swap_remove(0);
    }
    Ok(places.bytes()?.as_chunks().0.iter().map(|b: &[u8; 4]| u32::from_le_bytes(*b)).collect())
}

/// Which code each element of the matrix is.
struct Order {
    transposed: bool,
    n_rows: usize,
    n_cols: usize,
    places: Option<Vec<u32>>,
}

impl Order {
    fn at(&self, row: usize, col: usize) -> usize {
        let at = if self.transposed { col * self.n_rows + row } else { row * self.n_cols + col };
        self.places.as_ref().map_or(at, |places| places[at] as usize)
    }

    /// Which columns of a row share a scale; `None` where they form no block that is packed.
    fn granularity(&self, scale_of: &ScaleOf) -> Option<Granularity> {
        // Codes in their own order whose last axis has the scales: each row is as the first.
        let is_last = scale_of.axis.is_some_and(|(size, inner, _)| inner == 1 && size == self.n_cols);
        let alike = !self.transposed && self.places.is_none() && is_last;
        // Every column at which a scale begins is a multiple of the block.
        let mut common = 0;
        for row in 0..if alike { 1 } else { self.n_rows } {
            let mut before = scale_of.at(self.at(row, 0));
            for col in 1..self.n_cols {
                let now = scale_of.at(self.at(row, col));
                if now != before {
                    common = gcd(common, col);
                    before = now;
                }
            }
            if common != 0 && common < *BLOCKS.start() {
                return None;
            }
        }
        if common == 0 {
            return Some(Granularity::Row);
        }
        let block = (1usize << common.trailing_zeros()).min(*BLOCKS.end());
        BLOCKS.contains(&block).then(|| u32::try_from(block).ok().map(Granularity::Block)).flatten()
    }
}

/// What a packed matrix is made of.
struct Source {
    codes: Tensor,
    scales: Tensor,
    order: Order,
    scale_of: ScaleOf,
    granularity: Granularity,
    coding: Coding,
    shift: i16,
}

impl Source {
    /// Where in the scales that of each block is, in the order of the matrix.
    fn heads(&self) -> Vec<usize> {
        let unit = self.unit();
        (0..self.order.n_rows)
            .flat_map(|row| (0..self.order.n_cols).step_by(unit).map(move |col| (row, col)))
            .map(|(row, col)| self.scale_of.at(self.order.at(row, col)))
            .collect()
    }

    /// Columns that share a scale.
    fn unit(&self) -> usize {
        match self.granularity {
            Granularity::Block(block) => block as usize,
            Granularity::Row | Granularity::Tensor => self.order.n_cols,
        }
    }

    /// The codes in the order of the matrix.
    fn own_codes(&self) -> Result<Vec<i8>, TensorError> {
        let own = signed(&self.codes, self.shift)?;
        let all = (0..self.order.n_rows).flat_map(|row| (0..self.order.n_cols).map(move |col| (row, col)));
        Ok(all.map(|(row, col)| own[self.order.at(row, col)]).collect())
    }

    fn own_scales(&self, heads: &[usize]) -> Result<Vec<f32>, TensorError> {
        let stored = self.scales.to_f32s()?;
        Ok(heads.iter().map(|&at| stored[at]).collect())
    }

    fn tensor(&self, scale: ScaleType, codes: &[i8], scales: &[f32], zeros: &[i16]) -> Result<Tensor, TensorError> {
        let packing = Packing { coding: self.coding, granularity: self.granularity, scale };
        let bytes = pack_with_zeros(packing, self.order.n_rows, self.order.n_cols, codes, scales, zeros)
            .map_err(|error| TensorError::Unmade { reason: error.to_string() })?;
        Tensor::from_bytes(self.ty(packing), bytes)
    }

    fn ty(&self, packing: Packing) -> TensorType {
        let dims = [self.order.n_rows, self.order.n_cols];
        TensorType { packing: Some(packing), ..TensorType::of(packing.codes(), &dims) }
    }

    /// The matrix of codes that have no zero points. Scales that are made when they are read are taken at their type:
    /// whoever made them stores as f16 what f16 holds.
    fn without_zeros(self, views: &[Op]) -> Result<Tensor, OpError> {
        let scale = match self.scales.dtype() {
            DType::F16 if self.scales.is_deferred() => ScaleType::F16,
            _ if self.scales.is_deferred() => ScaleType::F32,
            _ if is_exact(&self.own_scales(&self.heads())?) => ScaleType::F16,
            _ => ScaleType::F32,
        };
        let ty = self.ty(Packing { coding: self.coding, granularity: self.granularity, scale });
        let recipe = format!("packed {} {:?} {views:?}", self.order.transposed, self.scale_of.axis);
        let (codes, scales) = (self.codes.clone(), self.scales.clone());
        Ok(Tensor::deferred(ty, &recipe, &[&codes, &scales], move || {
            self.tensor(scale, &self.own_codes()?, &self.own_scales(&self.heads())?, &[])
        }))
    }

    /// The matrix of codes with zero points, those aside that a shift of the codes takes away; `None` where one is out
    /// of range.
    fn with_zeros(self, given: Option<&Tensor>) -> Result<Option<Tensor>, OpError> {
        let (heads, mut codes) = (self.heads(), self.own_codes()?);
        let scales = self.own_scales(&heads)?;
        let given = given.map(Tensor::to_i64s).transpose()?;
        let zero = |at: usize| {
            given.as_ref().map_or(0, |z| if z.len() == 1 { z[0] } else { z.get(at).copied().unwrap_or(0) })
                - i64::from(self.shift)
        };
        let Ok(mut zeros) = heads.iter().map(|&at| i16::try_from(zero(at))).collect::<Result<Vec<i16>, _>>() else {
            return Ok(None);
        };
        if shifted(&mut codes, &zeros, self.order.n_cols, self.unit(), self.coding) {
            zeros.clear();
        }
        let scale = if is_exact(&scales) { ScaleType::F16 } else { ScaleType::F32 };
        let scale = if zeros.is_empty() { scale } else { scale.with_zeros() };
        Ok(Some(self.tensor(scale, &codes, &scales, &zeros)?))
    }
}

/// Whether f16 holds the scales.
fn is_exact(scales: &[f32]) -> bool {
    scales.iter().all(|&scale| f16::from_f32(scale).to_f32() == scale && f16::from_f32(scale).is_normal())
}

/// Which scale of a DequantizeLinear goes with a code: ONNX, opset 21.
struct ScaleOf {
    /// Size of the axis that has scales, elements between two indices of it, codes of it that share a scale; all of the
    /// tensor where `None`.
    axis: Option<(usize, usize, usize)>,
}

impl ScaleOf {
    fn new(attrs: &Attrs, dims: &[usize], scales: &[usize]) -> Option<ScaleOf> {
        let block = usize::try_from(attrs.int("block_size").unwrap_or(0)).ok()?;
        if block == 0 && scales.iter().product::<usize>() == 1 {
            return Some(ScaleOf { axis: None });
        }
        let axis = crate::ir::resolve_axis(attrs.int("axis").unwrap_or(1), dims.len())?;
        let size = dims[axis];
        let n_scales = dims.iter().product::<usize>().checked_div(size)? * size.div_ceil(block.max(1));
        let fits = if block == 0 { scales == [size] } else { scales.iter().product::<usize>() == n_scales };
        fits.then(|| ScaleOf { axis: Some((size, dims[axis + 1..].iter().product(), block)) })
    }

    fn at(&self, place: usize) -> usize {
        let Some((size, inner, block)) = self.axis else { return 0 };
        let (outer, at) = (place / inner / size, place / inner % size);
        if block == 0 { at } else { (outer * size.div_ceil(block) + at / block) * inner + place % inner }
    }
}

/// What is taken off codes of this type so that they are signed; `None` where they are too wide, or no integers.
fn shift(dtype: DType) -> Option<i16> {
    match dtype {
        DType::I2 | DType::U2 | DType::I4 | DType::I8 => Some(0),
        DType::U4 => Some(8),
        DType::U8 => Some(128),
        _ => None,
    }
}

fn signed(codes: &Tensor, shift: i16) -> Result<Vec<i8>, TensorError> {
    let n = codes.ty().shape.n_elems().unwrap_or(0) as usize;
    let bytes = codes.bytes()?;
    Ok(match codes.dtype() {
        DType::I8 => bytes.iter().map(|b| b.cast_signed()).collect(),
        DType::U8 => bytes.iter().map(|b| (b ^ 128).cast_signed()).collect(),
        DType::I4 | DType::U4 => {
            let flip = if codes.dtype() == DType::U4 { 8 } else { 0 };
            (0..n).map(|i| ((((bytes[i / 2] >> (4 * (i % 2))) ^ flip) << 4).cast_signed()) >> 4).collect()
        }
        _ => codes.to_i64s()?.into_iter().map(|code| (code - i64::from(shift)) as i8).collect(),
    })
}

/// Takes the zero points off the codes where all that remain fit; whether they did.
fn shifted(codes: &mut [i8], zeros: &[i16], n_cols: usize, unit: usize, coding: Coding) -> bool {
    if zeros.iter().all(|zero| *zero == 0) {
        return true;
    }
    let (low, high) = if coding == Coding::I4 { (-8, 7) } else { (-128, 127) };
    let units = |codes: &mut [i8], f: &mut dyn FnMut(&mut i8, i16)| {
        let units = codes.chunks_mut(n_cols).flat_map(|row| row.chunks_mut(unit));
        units.zip(zeros).for_each(|(codes, zero)| codes.iter_mut().for_each(|code| f(code, *zero)));
    };
    let mut fit = true;
    units(codes, &mut |code, zero| fit &= (low..=high).contains(&(i16::from(*code) - zero)));
    if fit {
        units(codes, &mut |code, zero| *code = (i16::from(*code) - zero) as i8);
    }
    fit
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

pub(super) fn is_dequantize(graph: &Graph, value: ValueId) -> bool {
    graph
        .node(value.node)
        .op()
        .is_some_and(|op| op.is(&ops::core::quantize_linear::DEQUANTIZE) && op.attrs.expr("epilogue").is_none())
}

/// Whether it is a `strided` that reads an element of its operand everywhere.
pub(super) fn is_plain_strided(op: &Op) -> bool {
    op.is(&ops::core::strided::DEF)
        && op.attrs.get("lo").is_none()
        && op.attrs.get("hi").is_none()
        && op.attrs.expr("epilogue").is_none()
}

/// Whether a `strided` only exchanges the two axes of its operand.
pub(super) fn is_transposition(graph: &Graph, value: ValueId) -> bool {
    let Some(op) = graph.node(value.node).op() else { return false };
    let Some(Some(source)) = graph.operands(value.node).first().copied() else { return false };
    let (Some(from), Some(to)) = (graph.ty(source).shape.known(), graph.ty(value).shape.known()) else { return false };
    let strides = op.attrs.ints("strides");
    let plain = is_plain_strided(op) && op.attrs.int("offset").unwrap_or(0) == 0;
    plain && from.len() == 2 && to == [from[1], from[0]] && strides == Some(&[1, from[1] as i64])
}
