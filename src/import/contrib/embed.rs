//! Embeddings of words with their normalisation, and the normalisations and biases of diffusion models.

use super::{Known, Results, Writer, form};
use crate::import::error::ImportError;
use crate::ir::{Attrs, DType, Tensor};

/// Values of the embedding of words.
struct Embedding {
    ids: Known,
    segment_ids: Option<Known>,
    words: Known,
    places: Known,
    segments: Option<Known>,
    gamma: Known,
    beta: Known,
    mask: Option<Known>,
    place_ids: Option<Known>,
}

impl Writer<'_, '_> {
    /// `EmbedLayerNormalization(ids, segment_ids?, words, places, segments?, gamma, beta, mask?, place_ids?) {epsilon,
    /// mask_index_type}`: the result, how many ones each row of the mask has, and the sum that is normalised.
    pub(super) fn embed(&mut self) -> Results {
        self.only(&["epsilon", "mask_index_type"])?;
        let embedding = Embedding {
            ids: self.required(0)?,
            segment_ids: self.operand(1)?,
            words: self.required(2)?,
            places: self.required(3)?,
            segments: self.operand(4)?,
            gamma: self.required(5)?,
            beta: self.required(6)?,
            mask: self.operand(7)?,
            place_ids: self.operand(8)?,
        };
        self.embedded(&embedding)
    }

    /// `QEmbedLayerNormalization(...) {epsilon}`: the same of codes, whose five scales and five zero points follow
    /// them.
    pub(super) fn q_embed(&mut self) -> Results {
        self.only(&["epsilon"])?;
        let [words, places, segments, gamma, beta] =
            [(2, 8), (3, 9), (4, 10), (5, 11), (6, 12)].map(|(slot, scale)| self.dequantized(slot, scale, scale + 5));
        let missing = || form("a table of embeddings, or its scale, is missing");
        let embedding = Embedding {
            ids: self.required(0)?,
            segment_ids: self.operand(1)?,
            words: words?.ok_or_else(missing)?,
            places: places?.ok_or_else(missing)?,
            segments: segments?,
            gamma: gamma?.ok_or_else(missing)?,
            beta: beta?.ok_or_else(missing)?,
            mask: self.operand(7)?,
            place_ids: None,
        };
        let results = self.embedded(&embedding)?;
        Ok(results.into_iter().take(2).collect())
    }

    /// The values of codes; `None` where there are none.
    fn dequantized(&mut self, slot: usize, scale: usize, zero: usize) -> Result<Option<Known>, ImportError> {
        let Some(codes) = self.operand(slot)? else { return Ok(None) };
        let scale = self.required(scale)?;
        let scale = self.reshape(scale, &[])?;
        let zero = match self.operand(zero)? {
            Some(zero) => Some(self.reshape(zero, &[])?),
            None => None,
        };
        let operands: Vec<Known> = [codes, scale].into_iter().chain(zero).collect();
        Ok(Some(self.plain("DequantizeLinear", &operands)?))
    }

    fn embedded(&mut self, e: &Embedding) -> Results {
        let rows = Attrs::new().with_int("axis", 0);
        let mut sum = self.main("Gather", &[Some(e.words), Some(e.ids)], rows.clone())?;
        let places = match e.place_ids {
            Some(ids) => self.op("Gather", &[e.places, ids], rows.clone())?,
            // The first rows of the table, as many as there are words.
            None => {
                let (n, zero, axis) = (self.size_of(e.ids, 1)?, self.ints(&[0])?, self.ints(&[0])?);
                self.plain("Slice", &[e.places, zero, n, axis])?
            }
        };
        sum = self.plain("Add", &[sum, places])?;
        match (e.segment_ids, e.segments) {
            (Some(ids), Some(table)) => {
                let segments = self.op("Gather", &[table, ids], rows)?;
                sum = self.plain("Add", &[sum, segments])?;
            }
            (None, None) => {}
            _ => return Err(form("segment_ids without segment_embedding, or the other way round")),
        }
        let attrs = self.normalising(1e-12);
        let y = self.op("LayerNormalization", &[sum, e.gamma, e.beta], attrs)?;
        let count = match e.mask {
            Some(mask) => {
                let one = Tensor::from_i64s(self.ty(mask).dtype, &[], &[1]).map_err(form)?;
                let one = self.constant(one);
                let is_one = self.plain("Equal", &[mask, one])?;
                let ones = self.cast(is_one, DType::I32)?;
                let axes = self.ints(&[1])?;
                self.op("ReduceSum", &[ones, axes], Attrs::new().with_int("keepdims", 0))?
            }
            None => {
                let (n, zero) = (self.size_of(e.ids, 0)?, Tensor::from_i64s(DType::I32, &[1], &[0]).map_err(form)?);
                self.op("ConstantOfShape", &[n], Attrs::new().with("value", crate::ir::Attr::Tensor(zero)))?
            }
        };
        Ok(vec![Some(y), Some(count), Some(sum)])
    }

    fn normalising(&self, epsilon: f32) -> Attrs {
        Attrs::new().with_int("axis", -1).with_float("epsilon", self.raw.attrs.float("epsilon").unwrap_or(epsilon))
    }

    /// `GroupNorm(x, gamma, beta) {groups, activation, epsilon, channels_last}`, and SkipGroupNorm(x, gamma, beta,
    /// skip, bias?) of a sum, which is a second output.
    pub(super) fn group_norm(&mut self, of_sum: bool) -> Results {
        self.only(&["groups", "activation", "epsilon", "channels_last"])?;
        let (mut x, gamma, beta) = (self.required(0)?, self.required(1)?, self.required(2)?);
        let dtype = self.ty(x).dtype;
        let is_last = self.int("channels_last", 1) != 0;
        let rank = self.rank(x) as i64;
        let spread = |w: &mut Self, x: Known, lead: &[i64]| -> Result<Known, ImportError> {
            if is_last {
                return Ok(x);
            }
            let behind = vec![1; usize::try_from(rank - 2).unwrap_or(0)];
            w.reshape(x, &[lead, &[-1], &behind].concat())
        };
        if of_sum {
            let mut skip = self.required(3)?;
            if self.rank(skip) == 2 {
                let axes: Vec<i64> = if is_last { (1..rank - 1).collect() } else { (2..rank).collect() };
                skip = self.unsqueeze(skip, &axes)?;
            }
            x = self.plain("Add", &[x, skip])?;
            if let Some(bias) = self.operand(4)? {
                let bias = spread(self, bias, &[1])?;
                x = self.plain("Add", &[x, bias])?;
            }
        }
        let sum = x;
        if is_last {
            x = self.channels_first(x)?;
        }
        let groups = self.int("groups", 0);
        let epsilon = self.raw.attrs.float("epsilon").unwrap_or(1e-5);
        let attrs = Attrs::new().with_int("num_groups", groups).with_float("epsilon", epsilon);
        let (gamma, beta) = (self.cast(gamma, dtype)?, self.cast(beta, dtype)?);
        let mut y = self.main("GroupNormalization", &[Some(x), Some(gamma), Some(beta)], attrs)?;
        match self.int("activation", 0) {
            0 => {}
            1 => y = self.op("Swish", &[y], Attrs::new())?,
            other => {
                return Err(form(format!(
                    "attribute activation is {other}, which is not supported: 0 and 1 (SiLU) are"
                )));
            }
        }
        if is_last {
            y = self.channels_behind(y)?;
        }
        Ok(vec![Some(y), of_sum.then_some(sum)].into_iter().take(1 + usize::from(of_sum)).collect())
    }

    /// `BiasAdd(x, bias, skip)`: their sum.
    pub(super) fn bias_add(&mut self) -> Results {
        let (x, bias, skip) = (self.required(0)?, self.required(1)?, self.required(2)?);
        let sum = self.plain("Add", &[x, bias])?;
        Ok(vec![Some(self.main("Add", &[Some(sum), Some(skip)], Attrs::new())?)])
    }

    /// `BiasSplitGelu(x, bias)`: the first half of a sum times Gelu of the second.
    pub(super) fn bias_split_gelu(&mut self) -> Results {
        let (x, bias) = (self.required(0)?, self.required(1)?);
        let sum = self.plain("Add", &[x, bias])?;
        let last = self.rank(sum).saturating_sub(1);
        let half = self.size(sum, last)? / 2;
        let (left, right) = (self.slice(sum, last, 0, half)?, self.slice(sum, last, half, 2 * half)?);
        let right = self.op("Gelu", &[right], Attrs::new())?;
        Ok(vec![Some(self.main("Mul", &[Some(left), Some(right)], Attrs::new())?)])
    }
}
