//! Rows of a weight matrix as a format stores them: constants whose data are made when they are first read, so that a
//! graph that is only counted quantizes nothing.

use crate::ir::MatrixLayout;
use crate::ir::packed::{Coding, Granularity, PackedError, Packing, ScaleType, unpack};
use crate::ir::{DType, Hash, OpError, Tensor, TensorError, TensorType};
use crate::ops::weights::Weights;
use crate::quant::calibration::Moments;
use crate::quant::gptq::{self, Damping, Gram};
use crate::quant::{choose_scale_type, quantize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

/// Some rows of the weights of a node.
#[derive(Clone)]
pub(super) struct Rows {
    /// The constant.
    pub tensor: Tensor,
    /// What it is to the node.
    pub found: Weights,
    /// The first row.
    pub first: usize,
    pub n_rows: usize,
    /// Of what the matrix is multiplied with, where the model was calibrated.
    pub moments: Option<Arc<Moments>>,
}

impl Rows {
    /// Calls `f` with the elements, row-major.
    fn with<T>(&self, f: impl FnOnce(&[f32]) -> Result<T, PackedError>) -> Result<T, OpError> {
        let matrix = self.found.matrix(&self.tensor)?;
        let n_cols = self.found.n_cols;
        f(&matrix[self.first * n_cols..(self.first + self.n_rows) * n_cols]).map_err(OpError::unsupported)
    }

    /// Rows, counted from the first, that have moments in common, and these; all of them where none are known, or where
    /// one scale serves the whole matrix.
    fn groups(&self, packing: Packing) -> Vec<(Range<usize>, Option<&Gram>)> {
        let whole = (0..self.n_rows, None);
        let Some(moments) = &self.moments else { return vec![whole] };
        let all = moments.groups();
        if packing.granularity == Granularity::Tensor || all.is_empty() {
            return vec![whole];
        }
        let of = |row: usize| (self.first + row) * all.len() / self.found.n_rows.max(1);
        let mut groups: Vec<(Range<usize>, Option<&Gram>)> = Vec::new();
        for row in 0..self.n_rows {
            match groups.last_mut() {
                Some((range, _)) if of(range.start) == of(row) => range.end = row + 1,
                _ => groups.push((row..row + 1, all.get(of(row)))),
            }
        }
        groups
    }

    /// What decides the elements besides the constant.
    fn recipe(&self, stored: &str) -> String {
        format!("rows {} + {} of {:?} as {stored}", self.first, self.n_rows, self.found.layout)
    }

    /// The rows as floats.
    pub fn floats(&self, dtype: DType) -> Tensor {
        let dims = [self.n_rows, self.found.n_cols];
        let own = self.clone();
        let recipe = self.recipe(&dtype.to_string());
        Tensor::deferred(TensorType::of(dtype, &dims), &recipe, &[&self.tensor], move || {
            own.with(|rows| Ok(Tensor::from_f32s(dtype, &dims, rows))).map_err(unmade)?
        })
    }

    /// The rows as codes and scales, `[n_rows, n_cols]` and `[n_rows, scales of a row]`, quantized once for both.
    ///
    /// # Errors
    /// A bad packing.
    pub fn quantized(self, packing: Packing) -> Result<(Tensor, Tensor), OpError> {
        let (n_rows, n_cols) = (self.n_rows, self.found.n_cols);
        let n_scales = packing.layout(n_rows, n_cols).map_err(OpError::unsupported)?.n_scales;
        let scale_type = if packing.scale == ScaleType::F16 { DType::F16 } else { DType::F32 };
        let code_dims = [n_rows, n_cols];
        let scale_dims = [n_rows, n_scales / n_rows.max(1)];
        let by = self.moments.as_ref().map(|moments| format!(" by {:x?}", moments.hash())).unwrap_or_default();
        let recipe = self.recipe(&format!("{packing:?}{by}"));
        let source = self.tensor.clone();
        let parts: Arc<OnceLock<Result<Parts, TensorError>>> = Arc::default();
        let make = move || {
            let quantized = self.with(|rows| {
                self.groups(packing).into_iter().try_fold((Vec::new(), Vec::new()), |mut all, (range, gram)| {
                    let part = &rows[range.start * n_cols..range.end * n_cols];
                    let quantized = match gram {
                        Some(gram) => gptq::quantize(part, range.len(), n_cols, packing, gram, Damping::default())?,
                        None => quantize(part, range.len(), n_cols, packing)?,
                    };
                    let (codes, scales) = unpack(packing, range.len(), n_cols, &quantized.bytes)?;
                    all.0.extend(codes);
                    all.1.extend(scales);
                    Ok(all)
                })
            });
            let (codes, scales) = quantized.map_err(unmade)?;
            let codes = codes_tensor(packing, &codes, &code_dims)?;
            Ok(Parts { codes, scales: Tensor::from_f32s(scale_type, &scale_dims, &scales)? })
        };
        let (make, parts_of_codes) = (Arc::new(make), parts.clone());
        let make_codes = make.clone();
        let part =
            |dtype, dims: &[usize], recipe: String, part: Box<dyn FnOnce() -> Result<Tensor, TensorError> + Send>| {
                Tensor::deferred(TensorType::of(dtype, dims), &recipe, &[&source], part)
            };
        let codes = part(
            packing.codes(),
            &code_dims,
            format!("codes of {recipe}"),
            Box::new(move || {
                parts_of_codes.get_or_init(&*make_codes).as_ref().map(|p| p.codes.clone()).map_err(Clone::clone)
            }),
        );
        let scales = part(
            scale_type,
            &scale_dims,
            format!("scales of {recipe}"),
            Box::new(move || parts.get_or_init(&*make).as_ref().map(|p| p.scales.clone()).map_err(Clone::clone)),
        );
        Ok((codes, scales))
    }
}

/// What quantization gives.
struct Parts {
    codes: Tensor,
    scales: Tensor,
}

fn unmade(error: OpError) -> TensorError {
    TensorError::Unmade { reason: error.to_string() }
}

/// The codes as ONNX stores them: dense, 4-bit ones two to a byte across rows.
fn codes_tensor(packing: Packing, codes: &[i8], dims: &[usize]) -> Result<Tensor, TensorError> {
    let bytes = if packing.codes() == DType::I4 {
        codes.chunks(2).map(|c| (c[0] as u8 & 15) | c.get(1).map_or(0, |&v| (v as u8) << 4)).collect()
    } else {
        codes.iter().map(|&v| v as u8).collect()
    };
    Tensor::from_bytes(TensorType::of(packing.codes(), dims), bytes)
}

/// The types of scales, which depend on the weights: each looked for once, however often a graph is lowered.
#[derive(Default)]
pub(crate) struct ScaleTypes(Mutex<BTreeMap<Matrix, ScaleType>>);

/// Constant, layout, first row, rows, coding, granularity.
type Matrix = (Hash, MatrixLayout, usize, usize, Coding, Granularity);

impl ScaleTypes {
    /// The type of the scales of rows under a packing of this coding.
    ///
    /// # Errors
    /// A bad packing, or the data is absent.
    pub(super) fn of(&self, rows: &Rows, coding: Coding, granularity: Granularity) -> Result<ScaleType, OpError> {
        let key = (rows.tensor.identity(), rows.found.layout, rows.first, rows.n_rows, coding, granularity);
        let known = self.0.lock().ok().and_then(|known| known.get(&key).copied());
        if let Some(known) = known {
            return Ok(known);
        }
        let found = rows.with(|w| choose_scale_type(w, rows.n_rows, rows.found.n_cols, coding, granularity))?;
        if let Ok(mut known) = self.0.lock() {
            known.insert(key, found);
        }
        Ok(found)
    }
}
