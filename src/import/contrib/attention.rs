//! Attention with its projections, biases, masks and caches, written out around ONNX's Attention.

use super::{Known, Results, Writer, form};
use crate::import::error::ImportError;
use crate::ir::{Attrs, DType, Dim, Tensor};

/// What the operators that attend have in common. q, k and v are `[batch, heads, sequence, head size]`.
struct Heads {
    q: Known,
    k: Known,
    v: Known,
    /// Keys and values of the cache, `[batch, heads, past, head size]`.
    past: Option<[Known; 2]>,
    /// Integers, positive for what is seen, in any of the forms that the operators list.
    mask: Option<Known>,
    /// What is added to the scores.
    bias: Option<Known>,
}

impl Writer<'_, '_> {
    /// `MultiHeadAttention(q, k?, v?, bias?, key_padding_mask?, attention_bias?, past_key?, past_value?) {num_heads,
    /// scale, mask_filter_value, unidirectional}`: the result, the keys and values with those of the cache, and the
    /// scores before the softmax.
    pub(super) fn multi_head(&mut self) -> Results {
        self.only(&["num_heads", "scale", "mask_filter_value", "unidirectional"])?;
        self.refuse_shared_cache(&[8, 9])?;
        let bias = self.operand(3)?;
        let [q, k, v] = self.projected([0, 1, 2], bias)?;
        let past = self.operand(6)?.zip(self.operand(7)?).map(|(key, value)| [key, value]);
        let heads = Heads { q, k, v, past, mask: self.operand(4)?, bias: self.operand(5)? };
        self.attend(&heads)
    }

    /// `DecoderMaskedMultiHeadAttention(q, k?, v?, mask?, attention_bias?, past_key?, past_value?, ..., bias?)`: the
    /// same of one query. q may hold k and v behind it.
    pub(super) fn decoder_masked(&mut self) -> Results {
        self.only(&["num_heads", "scale", "mask_filter_value", "past_present_share_buffer", "output_qk"])?;
        if self.int("past_present_share_buffer", 0) != 0 {
            return Err(self.shared_cache());
        }
        self.refuse_shared_cache(&[7, 8, 9])?;
        let bias = self.operand(10)?;
        let [q, k, v] = self.projected([0, 1, 2], bias)?;
        let past = self.operand(5)?.zip(self.operand(6)?).map(|(key, value)| [key, value]);
        let heads = Heads { q, k, v, past, mask: self.operand(3)?, bias: self.operand(4)? };
        self.attend(&heads)
    }

    /// `Attention(x, weights, bias?, mask_index?, past?, attention_bias?) {num_heads, qkv_hidden_sizes, unidirectional,
    /// scale, mask_filter_value}`: the result, and the cache `[2, batch, heads, total, head size]`.
    pub(super) fn attention(&mut self) -> Results {
        let (x, weights) = (self.required(0)?, self.required(1)?);
        let mut projected = self.main("MatMul", &[Some(x), Some(weights)], Attrs::new())?;
        if let Some(bias) = self.operand(2)? {
            projected = self.plain("Add", &[projected, bias])?;
        }
        self.refuse_shared_cache(&[6])?;
        self.self_attention(projected, self.operand(3)?, self.operand(4)?, self.operand(5)?)
    }

    /// `QAttention(x, weights, bias, x_scale, weight_scale, mask_index?, x_zero?, weight_zero?, past?)`: the same of
    /// codes.
    pub(super) fn q_attention(&mut self) -> Results {
        let slots = [0, 1, 3, 4, 6, 7, 2].map(|slot| self.operand(slot));
        let operands = slots.into_iter().collect::<Result<Vec<_>, _>>()?;
        let projected = self.main("com.microsoft::MatMulIntegerToFloat", &operands, Attrs::new())?;
        self.self_attention(projected, self.operand(5)?, self.operand(8)?, None)
    }

    fn shared_cache(&self) -> ImportError {
        form(
            "a cache that past and present share (past_present_share_buffer, past_sequence_length, cache_indirection) is not supported: export \
             the model with a cache that grows",
        )
    }

    fn refuse_shared_cache(&self, slots: &[usize]) -> Result<(), ImportError> {
        for &slot in slots {
            if self.operand(slot)?.is_some() {
                return Err(self.shared_cache());
            }
        }
        Ok(())
    }

    fn n_heads(&self) -> Result<i64, ImportError> {
        let heads = self.int("num_heads", 0);
        if (1..=1 << 16).contains(&heads) { Ok(heads) } else { Err(form(format!("attribute num_heads is {heads}"))) }
    }

    /// Attention of what one product projected: q, k and v side by side.
    fn self_attention(
        &mut self,
        projected: Known,
        mask: Option<Known>,
        past: Option<Known>,
        bias: Option<Known>,
    ) -> Results {
        self.only(&[
            "num_heads",
            "qkv_hidden_sizes",
            "unidirectional",
            "scale",
            "mask_filter_value",
            "do_rotary",
            "rotary_embedding_dim",
            "past_present_share_buffer",
        ])?;
        if self.int("past_present_share_buffer", 0) != 0 {
            return Err(self.shared_cache());
        }
        if self.int("do_rotary", 0) != 0 {
            return Err(form(
                "attribute do_rotary is 1, which is not supported: export with RotaryEmbedding and MultiHeadAttention",
            ));
        }
        let width = self.size(projected, 2)?;
        let widths = match self.raw.attrs.ints("qkv_hidden_sizes") {
            Some(&[q, k, v]) => [q, k, v],
            Some(other) => return Err(form(format!("attribute qkv_hidden_sizes is {other:?}, three are expected"))),
            None => [width / 3; 3],
        };
        let n = self.n_heads()?;
        let sum = widths.iter().try_fold(0i64, |sum, &w| sum.checked_add(w));
        if sum != Some(width) || widths.iter().any(|w| *w < n || w % n != 0) || widths[0] != widths[1] {
            return Err(form(format!("{n} heads of q, k and v of {widths:?} elements, {width} in all")));
        }
        let mut parts = Vec::with_capacity(3);
        let mut start = 0;
        for width in widths {
            let part = self.slice(projected, 2, start, start + width)?;
            parts.push(self.by_head(part, n)?);
            start += width;
        }
        let past = match past {
            Some(past) => Some([self.pick(past, 0, 0)?, self.pick(past, 0, 1)?]),
            None => None,
        };
        let heads = Heads { q: parts[0], k: parts[1], v: parts[2], past, mask, bias };
        let results = self.attend(&heads)?;
        let (Some(Some(y)), Some(Some(key)), Some(Some(value))) = (results.first(), results.get(1), results.get(2))
        else {
            return Ok(results);
        };
        let present = if self.raw.outputs.len() > 1 {
            let (key, value) = (self.unsqueeze(*key, &[0])?, self.unsqueeze(*value, &[0])?);
            Some(self.op("Concat", &[key, value], Attrs::new().with_int("axis", 0))?)
        } else {
            None
        };
        Ok(vec![Some(*y), present])
    }

    /// `[batch, sequence, heads * size]` as `[batch, heads, sequence, size]`.
    fn by_head(&mut self, x: Known, heads: i64) -> Result<Known, ImportError> {
        let width = self.size(x, 2)?;
        if width % heads != 0 {
            return Err(form(format!("{} in {heads} heads", self.ty(x))));
        }
        let apart = self.reshape(x, &[0, 0, heads, width / heads])?;
        self.transpose(apart, &[0, 2, 1, 3])
    }

    /// q, k and v by head, whichever operands hold them, with the bias of their projections.
    fn projected(&mut self, slots: [usize; 3], bias: Option<Known>) -> Result<[Known; 3], ImportError> {
        let n = self.n_heads()?;
        let q = self.required(slots[0])?;
        let (k, v) = (self.operand(slots[1])?, self.operand(slots[2])?);
        // Each operand as it is given, with the place of its bias.
        let mut parts: Vec<Known> = Vec::with_capacity(3);
        match (self.rank(q), k, v) {
            // [batch, sequence, heads, 3, size]
            (5, None, None) => {
                for at in 0..3 {
                    parts.push(self.pick(q, 3, at)?);
                }
            }
            // [batch, sequence, 3 * heads * size]
            (3, None, None) => {
                let width = self.size(q, 2)? / 3;
                for at in 0..3 {
                    parts.push(self.slice(q, 2, at * width, (at + 1) * width)?);
                }
            }
            // k is [batch, sequence, heads, 2, size].
            (3, Some(k), None) if self.rank(k) == 5 => {
                parts.push(q);
                for at in 0..2 {
                    parts.push(self.pick(k, 3, at)?);
                }
            }
            (3, Some(k), Some(v)) => parts.extend([q, k, v]),
            (_, k, v) => {
                let types: Vec<String> = [Some(q), k, v].iter().flatten().map(|x| self.ty(*x).to_string()).collect();
                return Err(form(format!("q, k and v are {}: no form that the operator lists", types.join(", "))));
            }
        }
        let mut start = 0;
        let mut results = [q; 3];
        for (at, part) in parts.into_iter().enumerate() {
            // Keys and values of a cross attention come by head, with their bias in them.
            if at > 0
                && self.rank(part) == 4
                && self.dim(part, 1)? == Dim::Known(n)
                && k.is_some_and(|k| k == part || v == Some(part))
            {
                results[at] = part;
                continue;
            }
            let flat = if self.rank(part) == 4 {
                let width = self.size(part, 2)?.saturating_mul(self.size(part, 3)?);
                self.reshape(part, &[0, 0, width])?
            } else {
                part
            };
            let width = self.size(flat, 2)?;
            let whole = match bias {
                Some(bias) => {
                    let own = self.slice(bias, 0, start, start.saturating_add(width))?;
                    self.plain("Add", &[flat, own])?
                }
                None => flat,
            };
            start = start.saturating_add(width);
            results[at] = self.by_head(whole, n)?;
        }
        Ok(results)
    }

    /// The result `[batch, sequence, heads * size]`, the keys and values with those of the cache, and the scores before
    /// the softmax.
    fn attend(&mut self, heads: &Heads) -> Results {
        let &Heads { q, k, v, past, mask, bias } = heads;
        let is_causal = self.int("unidirectional", 0) != 0;
        if is_causal && self.dim(q, 2)? != self.dim(k, 2)? {
            return Err(form(format!(
                "attribute unidirectional is 1 for {} queries and {} keys, which is not supported: they must be as many",
                self.dim(q, 2)?,
                self.dim(k, 2)?
            )));
        }
        let mut mask = match mask {
            Some(mask) => self.mask(heads, mask)?,
            None => None,
        };
        if let Some(bias) = bias {
            mask = Some(match mask {
                Some(mask) => self.plain("Add", &[mask, bias])?,
                None => bias,
            });
        }
        let scale = self.raw.attrs.float("scale").filter(|scale| *scale != 0.0);
        let mut attrs = Attrs::new().with_int("is_causal", i64::from(is_causal)).with_int("zero_masked", 0);
        if let Some(scale) = scale {
            attrs = attrs.with_float("scale", scale);
        }
        // The scores are asked for with mask and bias, as they go into the softmax.
        if self.raw.outputs.len() > 3 {
            attrs = attrs.with_int("qk_matmul_output_mode", 2);
        }
        let n = if self.raw.outputs.len() > 3 { 4 } else { 3 };
        let [key, value] = past.map_or([None; 2], |past| past.map(Some));
        let name = self.builder.fresh(&format!("{}.attention", self.raw.name));
        let results = self.node(name, "Attention", &[Some(q), Some(k), Some(v), mask, key, value], attrs, n)?;
        let Some(&y) = results.first() else { return Err(form("a node without output")) };
        let width = self.size(y, 1)?.saturating_mul(self.size(y, 3)?);
        let y = self.transpose(y, &[0, 2, 1, 3])?;
        let y = self.reshape(y, &[0, 0, width])?;
        Ok([Some(y)].into_iter().chain(results.iter().skip(1).map(|&known| Some(known))).collect())
    }

    /// What is added to the scores of keys that the mask hides, in a shape that broadcasts to them; `None` where it
    /// hides none.
    fn mask(&mut self, heads: &Heads, mask: Known) -> Result<Option<Known>, ImportError> {
        let (batch, len) = (self.dim(heads.q, 0)?, self.dim(heads.q, 2)?);
        let past = heads.past.map(|[key, _]| self.dim(key, 2)).transpose()?.unwrap_or(Dim::Known(0));
        let total = &past + &self.dim(heads.k, 2)?;
        let dims = self.ty(mask).shape.0.clone();
        let is_total = |dim: &Dim| crate::ops::util::agree(dim, &total);
        let (seen, axes): (Known, &[i64]) = match &dims[..] {
            [n] if *n == batch => (self.between(heads, &total, mask, None)?, &[1, 2]),
            [n] if *n == &batch * &Dim::Known(2) => {
                let n = batch.known().ok_or_else(|| form("a mask of starts and ends for batches of any size"))?;
                let (ends, starts) = (self.slice(mask, 0, 0, n)?, self.slice(mask, 0, n, 2 * n)?);
                (self.between(heads, &total, ends, Some(starts))?, &[1, 2])
            }
            // One column says nothing where there are more keys.
            [_, Dim::Known(1)] if total != Dim::Known(1) => return Ok(None),
            [n, keys] if *n == batch && is_total(keys) => (self.positive(mask)?, &[1, 2]),
            [n, rows, keys] if *n == batch && *rows == len && is_total(keys) => (self.positive(mask)?, &[1]),
            // [batch, 1, longest, longest]: the rows of these queries.
            [n, Dim::Known(1), Dim::Known(_), Dim::Known(_)] if *n == batch => {
                let (Some(first), Some(len), Some(keys)) = (past.known(), len.known(), total.known()) else {
                    return Err(form(format!("mask {} for sizes that are not known", self.ty(mask))));
                };
                let rows = self.slice(mask, 2, first, first + len)?;
                let part = self.slice(rows, 3, 0, keys)?;
                (self.positive(part)?, &[])
            }
            _ => {
                return Err(form(format!(
                    "mask {} of {total} keys for {batch} sequences of {len} is not supported: [batch], [2 * batch], [batch, total], [batch, \
                     sequence, total] and [batch, 1, longest, longest] are",
                    self.ty(mask)
                )));
            }
        };
        let dtype = self.ty(heads.q).dtype;
        let filter = self.raw.attrs.float("mask_filter_value").unwrap_or(-10000.0);
        let (zero, filter) = (self.float(dtype, 0.0)?, self.float(dtype, filter)?);
        let mut added = self.plain("Where", &[seen, zero, filter])?;
        if !axes.is_empty() {
            added = self.unsqueeze(added, axes)?;
        }
        Ok(Some(added))
    }

    fn positive(&mut self, mask: Known) -> Result<Known, ImportError> {
        let zero = Tensor::from_i64s(self.ty(mask).dtype, &[], &[0]).map_err(form)?;
        let zero = self.constant(zero);
        self.plain("Greater", &[mask, zero])
    }

    /// Which of the keys stand before their sequence's end, and not before its start: `[batch, total]`.
    fn between(
        &mut self,
        heads: &Heads,
        total: &Dim,
        ends: Known,
        starts: Option<Known>,
    ) -> Result<Known, ImportError> {
        let keys = match total.known() {
            Some(n @ 0..0x1_0000) => self.ints(&(0..n).collect::<Vec<_>>())?,
            _ => {
                let mut n = self.size_of(heads.k, 2)?;
                if let Some([key, _]) = heads.past {
                    let past = self.size_of(key, 2)?;
                    n = self.plain("Add", &[n, past])?;
                }
                let n = self.reshape(n, &[])?;
                let [zero, one] = [0, 1].map(|v| Tensor::from_i64s(DType::I64, &[], &[v]));
                let (zero, one) = (self.constant(zero.map_err(form)?), self.constant(one.map_err(form)?));
                self.plain("Range", &[zero, n, one])?
            }
        };
        let column = |w: &mut Self, x: Known| -> Result<Known, ImportError> {
            let wide = w.cast(x, DType::I64)?;
            w.reshape(wide, &[-1, 1])
        };
        let ends = column(self, ends)?;
        let seen = self.plain("Less", &[keys, ends])?;
        let Some(starts) = starts else { return Ok(seen) };
        let starts = column(self, starts)?;
        let after = self.plain("GreaterOrEqual", &[keys, starts])?;
        self.plain("And", &[seen, after])
    }
}
