//! Weights in 4-bit floats of QLoRA (Dettmers et al. 2023), as ONNX Runtime's quantizer of that name writes them.

use super::{Results, Writer, form};
use crate::import::error::{ImportError, Kind};
use crate::ir::{Attrs, DType, Tensor};

/// What the codes of `quant_type` 0 (FP4) and 1 (NF4) stand for.
#[rustfmt::skip]
const VALUES: [[f32; 16]; 2] = [
    [0.0, 0.005_208_333_5, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25,
     -0.0, -0.005_208_333_5, -0.666_666_7, -1.0, -0.333_333_34, -0.5, -0.166_666_67, -0.25],
    [-1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
     0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0],
];

impl Writer<'_, '_> {
    /// `MatMulBnb4(a, b, absmax) {K, N, block_size, quant_type, transB}`: MatMul with constant codes `[N, K]`, the
    /// first of a byte in its high bits, times the largest magnitude of their block; blocks run on over rows. The
    /// weights become floats, which get formats of their own.
    pub(super) fn mat_mul_bnb4(&mut self) -> Results {
        self.only(&["K", "N", "block_size", "quant_type", "transB", "training_mode"])?;
        let a = self.required(0)?;
        let attribute =
            |name: &str, problem: String| -> ImportError { Kind::Attribute { name: name.to_owned(), problem }.into() };
        let number = |name: &str| {
            let given = self.int(name, 0);
            let known = usize::try_from(given).ok().filter(|n| (1..=1 << 24).contains(n));
            known.ok_or_else(|| attribute(name, format!("is {given}")))
        };
        let (k, n, block) = (number("K")?, number("N")?, number("block_size")?);
        let kind = self.int("quant_type", 0);
        let values = usize::try_from(kind).ok().and_then(|kind| VALUES.get(kind)).ok_or_else(|| {
            attribute("quant_type", format!("is {kind}, which is not supported: 0 (FP4) and 1 (NF4) are"))
        })?;
        let (codes, scales) = (self.data(1)?, self.data(2)?);
        let n_elems = k * n;
        let has = |tensor: &Tensor, count: usize| tensor.ty().shape.n_elems() == Some(count as u64);
        if codes.dtype() != DType::U8 || !has(codes, n_elems.div_ceil(2)) || !has(scales, n_elems.div_ceil(block)) {
            return Err(form(format!(
                "operands 1 and 2 are {} and {}: expected u8[{}] and {} floats",
                codes.ty(),
                scales.ty(),
                n_elems.div_ceil(2),
                n_elems.div_ceil(block)
            )));
        }
        let (bytes, scales) = (codes.bytes().map_err(form)?, scales.to_f32s().map_err(form)?);
        let code = |at: usize| bytes[at / 2] >> (4 * ((at + 1) % 2)) & 15;
        let weights: Vec<f32> = (0..n_elems).map(|at| values[usize::from(code(at))] * scales[at / block]).collect();
        let weights = Tensor::from_f32s(self.ty(a).dtype, &[n, k], &weights).map_err(form)?;
        let mut weights = self.constant(weights);
        if self.int("transB", 1) != 0 {
            weights = self.transpose(weights, &[1, 0])?;
        }
        Ok(vec![Some(self.main("MatMul", &[Some(a), Some(weights)], Attrs::new())?)])
    }
}
