//! Operators of `com.microsoft.nchwc`, which ONNX Runtime's optimizer writes from ORT_ENABLE_LAYOUT on: images whose
//! channels are in blocks of 8 or 16, as the processor at hand has vectors. Here their channels are padded to whole
//! blocks and keep their usual layout, so only weights are put in order again.
//!
//! The file does not say how large a block is. The sizes show it where a padded number of channels divides by 8 alone,
//! where fewer input channels than 16 are read unblocked, and where more channels are dropped than a block of 8 pads;
//! else the zeros that pad the weights show it.

use super::{Results, Writer, form};
use crate::import::error::ImportError;
use crate::import::read::{RawGraph, RawNode};
use crate::ir::{Attrs, DType, Tensor};
use std::collections::BTreeMap;

/// The domain.
pub(super) const DOMAIN: &str = "com.microsoft.nchwc";
/// Sizes that blocks have.
const BLOCKS: [usize; 2] = [8, 16];

fn is(node: &RawNode, op: &str) -> bool {
    node.domain == DOMAIN && node.op == op
}

/// Channels of a block in this model; `None` where nothing shows it, or where two places disagree.
pub(in crate::import) fn block(raw: &RawGraph) -> Option<usize> {
    let weights = |node: &RawNode| raw.initializers.get(node.inputs.get(1)?);
    let padded: BTreeMap<&str, usize> = raw
        .nodes
        .iter()
        .filter(|node| is(node, "Conv"))
        .filter_map(|node| Some((node.outputs.first()?.as_str(), *weights(node)?.dims().first()?)))
        .collect();
    // Without weights any size does.
    if padded.is_empty() {
        return Some(BLOCKS[0]);
    }
    let mut found: [bool; 2] = [false; 2];
    for node in &raw.nodes {
        if is(node, "ReorderOutput")
            && let (Some(all), Some(kept)) =
                (node.inputs.first().and_then(|x| padded.get(x.as_str())), node.attrs.int("channels"))
        {
            let kept = usize::try_from(kept).unwrap_or(0);
            found[1] |= kept.next_multiple_of(BLOCKS[0]) < *all;
        }
        let Some(weights) = weights(node).filter(|_| is(node, "Conv")) else { continue };
        let [out, inner, ref taps @ ..] = weights.dims()[..] else { continue };
        found[0] |= !out.is_multiple_of(BLOCKS[1]);
        found[1] |= node.attrs.int("group").unwrap_or(1) == 1
            && inner < BLOCKS[1]
            && !inner.is_multiple_of(BLOCKS[0])
            && inner > BLOCKS[0];
        let pads = BLOCKS.map(|block| ends_in_zeros(weights, block, out, inner * taps.iter().product::<usize>()));
        if let [Some(eight), Some(sixteen)] = pads {
            found[0] |= eight && !sixteen;
            found[1] |= sixteen && !eight;
        }
    }
    match found {
        [true, false] => Some(BLOCKS[0]),
        [false, true] => Some(BLOCKS[1]),
        _ => None,
    }
}

/// Whether the last of `out` filters is nothing but zeros, if blocks are this large; `None` where they are not.
fn ends_in_zeros(weights: &Tensor, block: usize, out: usize, each: usize) -> Option<bool> {
    if out == 0 || !out.is_multiple_of(block) || weights.dtype() != DType::F32 {
        return None;
    }
    let data = weights.to_f32s().ok()?;
    let last = (out / block - 1) * each;
    Some((last..last + each).all(|at| data.get(at * block + block - 1).is_some_and(|v| *v == 0.0)))
}

impl Writer<'_, '_> {
    /// An operator of the domain.
    pub(super) fn blocked(&mut self) -> Results {
        match self.raw.op.as_str() {
            "ReorderInput" => self.reorder_input(),
            "ReorderOutput" => self.reorder_output(),
            "Conv" => self.blocked_conv(),
            op @ ("MaxPool" | "AveragePool" | "GlobalMaxPool" | "GlobalAveragePool") => self.same(op),
            "Upsample" => self.upsample(),
            op => {
                Err(form(format!("operator {DOMAIN}.{op} is not supported: optimize again with ORT_ENABLE_EXTENDED")))
            }
        }
    }

    fn block(&self) -> Result<usize, ImportError> {
        self.builder.model.channel_block.ok_or_else(|| {
            form(format!(
                "operator {DOMAIN}.{} is not supported here: its weights are in blocks of 8 or 16 channels, and nothing in the file says which; \
                 optimize again with ORT_ENABLE_EXTENDED",
                self.raw.op
            ))
        })
    }

    /// `ReorderInput(x) {channels_last}`: zeros behind the channels, up to a whole block.
    fn reorder_input(&mut self) -> Results {
        self.only(&["channels_last"])?;
        let mut x = self.required(0)?;
        if self.int("channels_last", 0) != 0 {
            x = self.channels_first(x)?;
        }
        let channels = usize::try_from(self.size(x, 1)?).unwrap_or(0);
        let block = self.block()?;
        let missing = channels.next_multiple_of(block) - channels;
        if missing == 0 {
            return Ok(vec![Some(x)]);
        }
        let rank = self.rank(x);
        let mut pads = vec![0; 2 * rank];
        if let Some(behind) = pads.get_mut(rank + 1) {
            *behind = missing as i64;
        }
        let pads = self.ints(&pads)?;
        Ok(vec![Some(self.main("Pad", &[Some(x), Some(pads)], Attrs::new())?)])
    }

    /// `ReorderOutput(x) {channels, channels_last}`: the channels that are none of the padding.
    fn reorder_output(&mut self) -> Results {
        self.only(&["channels", "channels_last"])?;
        let x = self.required(0)?;
        let (all, kept) = (self.size(x, 1)?, self.int("channels", 0));
        if !(1..=all).contains(&kept) {
            return Err(form(format!("attribute channels is {kept} of {all}")));
        }
        let mut y = if kept == all { x } else { self.slice(x, 1, 0, kept)? };
        if self.int("channels_last", 0) != 0 {
            y = self.channels_behind(y)?;
        }
        Ok(vec![Some(y)])
    }

    /// `Conv(x, w, b?, sum?) {activation, activation_params, ...}`: FusedConv of weights in blocks.
    fn blocked_conv(&mut self) -> Results {
        let (x, weights) = (self.required(0)?, self.data(1)?.clone());
        let weights = self.in_order(&weights, self.int("group", 1))?;
        let weights = self.constant(weights);
        let (b, sum) = (self.operand(2)?, self.operand(3)?);
        self.convolved(x, weights, b, sum, false)
    }

    /// Filters `[out, in, ...]` that are in blocks, in order.
    fn in_order(&self, weights: &Tensor, group: i64) -> Result<Tensor, ImportError> {
        let block = self.block()?;
        let dims = weights.dims();
        let &[out, inner, ref taps @ ..] = &dims[..] else {
            return Err(form(format!("operand 1 is {}, expected filters", weights.ty())));
        };
        let n_taps: usize = taps.iter().product();
        // Filters of one input channel, and those that read images which are not in blocks.
        let is_outer = inner < block || group != 1 && inner == 1;
        if !out.is_multiple_of(block) || !is_outer && !inner.is_multiple_of(block) {
            return Err(form(format!("operand 1 is {}, which is not in blocks of {block} channels", weights.ty())));
        }
        let data = weights.to_f32s().map_err(form)?;
        let mut ordered = Vec::with_capacity(data.len());
        for o in 0..out {
            for i in 0..inner {
                for tap in 0..n_taps {
                    let place =
                        if is_outer { i * n_taps + tap } else { (i / block * n_taps + tap) * block + i % block };
                    ordered.push(data[(o / block * inner * n_taps + place) * block + o % block]);
                }
            }
        }
        Tensor::from_f32s(weights.dtype(), &dims, &ordered).map_err(form)
    }

    /// `Upsample(x) {scales, mode, coordinate_transformation_mode}`: Resize by whole factors.
    fn upsample(&mut self) -> Results {
        self.only(&["scales", "mode", "coordinate_transformation_mode"])?;
        let x = self.required(0)?;
        let scales: Vec<f32> = self.raw.attrs.ints("scales").unwrap_or_default().iter().map(|&s| s as f32).collect();
        let scales = self.constant(Tensor::from_f32s(DType::F32, &[scales.len()], &scales).map_err(form)?);
        let coordinates = self.raw.attrs.str("coordinate_transformation_mode").unwrap_or("asymmetric");
        let attrs = self.with(&["mode"]).with_str("coordinate_transformation_mode", coordinates);
        let attrs = attrs.with_str("nearest_mode", "floor");
        Ok(vec![Some(self.main("Resize", &[Some(x), None, Some(scales)], attrs)?)])
    }
}
