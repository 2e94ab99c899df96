//! One direction of a layer at work: the gates of a step.

use super::Kind;
use super::quantized::through_8_bits;
use crate::ir::expr::build::arg;
use crate::ir::{DType, Expand, Expr, OpError, Val};
use crate::ops::compose::{matmul, part};
use crate::ops::core::pointwise;

/// One direction at work.
pub(super) struct Cell {
    pub kind: Kind,
    pub dtype: DType,
    pub hidden: i64,
    /// Activation functions of operand 0.
    pub functions: Vec<Expr>,
    pub clip: Option<f32>,
    /// Recurrent weights `[gates * hidden, hidden]` and their biases `[gates * hidden]`, where they are not in the
    /// input's part already.
    pub r: Val,
    pub r_bias: Option<Val>,
    /// `[3 * hidden]`.
    pub peepholes: Option<Val>,
    pub input_forget: bool,
    pub reset_after: bool,
    /// Whether the hidden state goes through 8 bits before its product.
    pub is_quantized: bool,
}

impl Cell {
    /// Activation function `which` of an expression.
    fn apply(&self, which: usize, of: Expr) -> Expr {
        let clipped = match self.clip {
            Some(clip) => of.max(-clip).min(clip),
            None => of,
        };
        self.functions[which].substitute(&|_| clipped.clone())
    }

    fn gate(&self, e: &mut Expand<'_, '_>, x: Val, gate: i64) -> Result<Val, OpError> {
        part(e, x, 1, gate * self.hidden, self.hidden)
    }

    fn peephole(&self, e: &mut Expand<'_, '_>, which: i64) -> Result<Option<Val>, OpError> {
        self.peepholes.map(|p| part(e, p, 0, which * self.hidden, self.hidden)).transpose()
    }

    /// A gate of the LSTM that may look at the cell.
    fn looking(&self, e: &mut Expand<'_, '_>, sums: Val, gate: i64, peephole: i64, cell: Val) -> Result<Val, OpError> {
        let sum = self.gate(e, sums, gate)?;
        match self.peephole(e, peephole)? {
            Some(p) => pointwise::add(e, self.apply(0, arg(0) + arg(1) * arg(2)), self.dtype, &[sum, p, cell]),
            None => pointwise::add(e, self.apply(0, arg(0)), self.dtype, &[sum]),
        }
    }

    /// The next hidden state and cell, from the input's part `[batch, gates * hidden]`.
    pub fn step(&self, e: &mut Expand<'_, '_>, x: Val, h: Val, c: Val) -> Result<(Val, Val), OpError> {
        match self.kind {
            Kind::Rnn => {
                let recurrent = matmul(e, h, self.r, true)?;
                let next = pointwise::add(e, self.apply(0, arg(0) + arg(1)), self.dtype, &[x, recurrent])?;
                Ok((next, c))
            }
            Kind::Gru => Ok((self.gru(e, x, h)?, c)),
            Kind::Lstm => {
                let h = if self.is_quantized { through_8_bits(e, h)? } else { h };
                let recurrent = matmul(e, h, self.r, true)?;
                let sums = pointwise::add(e, arg(0) + arg(1), self.dtype, &[x, recurrent])?;
                let input = self.looking(e, sums, 0, 0, c)?;
                let forget = if self.input_forget {
                    pointwise::add(e, 1.0 - arg(0), self.dtype, &[input])?
                } else {
                    self.looking(e, sums, 2, 2, c)?
                };
                let candidate = self.gate(e, sums, 3)?;
                let expr = arg(0) * arg(1) + arg(2) * self.apply(1, arg(3));
                let next = pointwise::add(e, expr, self.dtype, &[forget, c, input, candidate])?;
                let output = self.looking(e, sums, 1, 1, next)?;
                let h =
                    pointwise::add(e, arg(0) * self.functions[2].substitute(&|_| arg(1)), self.dtype, &[output, next])?;
                Ok((h, next))
            }
        }
    }

    fn gru(&self, e: &mut Expand<'_, '_>, x: Val, h: Val) -> Result<Val, OpError> {
        let n = self.hidden;
        let (r_gates, r_candidate) = (part(e, self.r, 0, 0, 2 * n)?, part(e, self.r, 0, 2 * n, n)?);
        let recurrent = matmul(e, h, r_gates, true)?;
        let given = part(e, x, 1, 0, 2 * n)?;
        let gates = pointwise::add(e, self.apply(0, arg(0) + arg(1)), self.dtype, &[given, recurrent])?;
        let (update, reset) = (self.gate(e, gates, 0)?, self.gate(e, gates, 1)?);
        let given = self.gate(e, x, 2)?;
        let candidate = if self.reset_after {
            let recurrent = matmul(e, h, r_candidate, true)?;
            let bias = self.r_bias.map(|b| part(e, b, 0, 2 * n, n)).transpose()?;
            match bias {
                Some(bias) => pointwise::add(
                    e,
                    self.apply(1, arg(0) + arg(1) * (arg(2) + arg(3))),
                    self.dtype,
                    &[given, reset, recurrent, bias],
                )?,
                None => {
                    pointwise::add(e, self.apply(1, arg(0) + arg(1) * arg(2)), self.dtype, &[given, reset, recurrent])?
                }
            }
        } else {
            let kept = pointwise::add(e, arg(0) * arg(1), self.dtype, &[reset, h])?;
            let recurrent = matmul(e, kept, r_candidate, true)?;
            pointwise::add(e, self.apply(1, arg(0) + arg(1)), self.dtype, &[given, recurrent])?
        };
        pointwise::add(e, (1.0 - arg(0)) * arg(1) + arg(0) * arg(2), self.dtype, &[update, candidate, h])
    }
}
