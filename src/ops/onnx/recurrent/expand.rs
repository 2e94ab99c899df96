//! A layer written out: what depends on the input alone for all steps of a direction at once, then step after step.

use super::cell::Cell;
use super::quantized::{Codes, through_8_bits, transposed};
use super::{Kind, Layer, functions, layer, too_long};
use crate::ir::expr::build::{arg, select};
use crate::ir::{DType, Expand, Expr, OpError, Tensor, Val};
use crate::ops::compose::{along, concat, dims, floats, matmul, part};
use crate::ops::core::{pointwise, reshape};
use crate::ops::onnx::linear_attention::MAX_STEPS;
use crate::ops::onnx::movement;

/// The layer written out. With `codes` its weights are what that makes of operand `slot` for a direction, and
/// activations go through 8 bits.
pub(super) fn expand(e: &mut Expand<'_, '_>, kind: Kind, codes: Option<&Codes>) -> Result<Vec<Val>, OpError> {
    let (mut x, w, r) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let types = match codes {
        Some(_) => [transposed(&e.ty(w))?, transposed(&e.ty(r))?],
        None => [e.ty(w), e.ty(r)],
    };
    let layer = layer(e.attrs, &e.ty(x), &types[0], &types[1], kind)?;
    if layer.steps > MAX_STEPS {
        return Err(too_long(layer.steps));
    }
    let functions = functions(e.attrs, kind, &layer)?;
    let dtype = e.ty(x).dtype;
    let mut initial = [e.optional(5), e.optional(6)];
    if layer.batch_first {
        x = movement::transpose(e, x, &[1, 0, 2])?;
        for state in initial.iter_mut().flatten() {
            *state = movement::transpose(e, *state, &[1, 0, 2])?;
        }
    }
    let lengths = e.optional(4).map(|lengths| along(e, lengths, 2, 0)).transpose()?;
    let mut rows = reshape::to(e, x, dims(&[layer.steps * layer.batch, layer.input]))?;
    if codes.is_some() {
        rows = through_8_bits(e, rows)?;
    }
    let work = Work { kind, layer: &layer, dtype, codes, rows, w, r, initial, lengths };
    let (mut all, mut last, mut cells) = (Vec::new(), Vec::new(), Vec::new());
    for (direction, functions) in functions.into_iter().enumerate() {
        let [steps, h, c] = work.direction(e, direction, functions)?;
        all.push(steps);
        last.push(h);
        cells.push(c);
    }
    let mut results = vec![concat(e, &all, 1)?, concat(e, &last, 0)?];
    if kind == Kind::Lstm {
        results.push(concat(e, &cells, 0)?);
    }
    if layer.batch_first {
        results[0] = movement::transpose(e, results[0], &[2, 0, 1, 3])?;
        for state in results.iter_mut().skip(1) {
            *state = movement::transpose(e, *state, &[1, 0, 2])?;
        }
    }
    Ok(results)
}

/// What the directions of a layer share.
struct Work<'l> {
    kind: Kind,
    layer: &'l Layer,
    dtype: DType,
    codes: Option<&'l Codes>,
    /// The input of all steps, `[steps * batch, input]`.
    rows: Val,
    w: Val,
    r: Val,
    /// The states `[directions, batch, hidden]` before the first step.
    initial: [Option<Val>; 2],
    /// Steps of each sequence, `[batch, 1]`.
    lengths: Option<Val>,
}

impl Work<'_> {
    /// The results of a direction `[steps, 1, batch, hidden]`, and its last state and cell `[1, batch, hidden]`.
    fn direction(&self, e: &mut Expand<'_, '_>, direction: usize, functions: Vec<Expr>) -> Result<[Val; 3], OpError> {
        let &Layer { steps, batch, hidden, .. } = self.layer;
        let (w, r) = match self.codes {
            Some(codes) => (codes.of(e, 1, direction)?, codes.of(e, 2, direction)?),
            None => (of_direction(e, self.w, direction)?, of_direction(e, self.r, direction)?),
        };
        let reset_after = self.kind == Kind::Gru && e.attrs.int("linear_before_reset").unwrap_or(0) != 0;
        let (sums, r_bias) = self.input_sums(e, direction, w, reset_after)?;
        let cell = Cell {
            kind: self.kind,
            dtype: self.dtype,
            hidden: hidden as i64,
            functions,
            clip: e.attrs.float("clip").filter(|clip| *clip > 0.0),
            r,
            r_bias,
            peepholes: e.optional(7).map(|p| of_direction(e, p, direction)).transpose()?,
            input_forget: e.attrs.int("input_forget").unwrap_or(0) != 0,
            reset_after,
            is_quantized: self.codes.is_some(),
        };
        let mut state = (self.initial(e, 0, direction)?, self.initial(e, 1, direction)?);
        let mut results = vec![state.0; steps];
        for at in 0..steps {
            let step = if self.layer.directions[direction] { steps - 1 - at } else { at };
            let x = part(e, sums, 0, step as i64, 1)?;
            let x = reshape::to(e, x, dims(&[batch, self.n_sums()]))?;
            let next = cell.step(e, x, state.0, state.1)?;
            let (result, next) = self.within_length(e, step, next, state)?;
            state = next;
            results[step] = reshape::to(e, result, dims(&[1, 1, batch, hidden]))?;
        }
        let all = concat(e, &results, 0)?;
        let last = reshape::to(e, state.0, dims(&[1, batch, hidden]))?;
        Ok([all, last, reshape::to(e, state.1, dims(&[1, batch, hidden]))?])
    }

    /// Sums of a step: one for each element of each gate.
    fn n_sums(&self) -> usize {
        self.kind.n_gates() * self.layer.hidden
    }

    /// The input's part of all gates `[steps, batch, gates * hidden]`, with all biases that can be added before a step;
    /// and the bias of the recurrent part `[gates * hidden]`.
    fn input_sums(
        &self,
        e: &mut Expand<'_, '_>,
        direction: usize,
        w: Val,
        reset_after: bool,
    ) -> Result<(Val, Option<Val>), OpError> {
        let (n_sums, dtype) = (self.n_sums(), self.dtype);
        let mut sums = matmul(e, self.rows, w, true)?;
        let mut r_bias = None;
        if let Some(bias) = e.optional(3) {
            let bias = of_direction(e, bias, direction)?;
            let (w_bias, recurrent) =
                (part(e, bias, 0, 0, n_sums as i64)?, part(e, bias, 0, n_sums as i64, n_sums as i64)?);
            r_bias = Some(recurrent);
            // With the reset after it, the bias of the candidate's recurrent part is added later.
            let early = if reset_after {
                let mut factors = vec![1.0f32; n_sums];
                factors[2 * self.layer.hidden..].fill(0.0);
                let factors = floats(e, &[n_sums], &factors)?;
                pointwise::add(e, arg(0) + arg(1) * arg(2), dtype, &[w_bias, recurrent, factors])?
            } else {
                pointwise::add(e, arg(0) + arg(1), dtype, &[w_bias, recurrent])?
            };
            sums = pointwise::add(e, arg(0) + arg(1), dtype, &[sums, early])?;
        }
        let sums = reshape::to(e, sums, dims(&[self.layer.steps, self.layer.batch, n_sums]))?;
        Ok((sums, r_bias))
    }

    /// State `which` of a direction before the first step, `[batch, hidden]`: zeros where none is given.
    fn initial(&self, e: &mut Expand<'_, '_>, which: usize, direction: usize) -> Result<Val, OpError> {
        match self.initial[which] {
            Some(state) => of_direction(e, state, direction),
            None => {
                let zero = e.constant(Tensor::from_f32s(self.dtype, &[1], &[0.0])?);
                movement::broadcast_to(e, zero, dims(&[self.layer.batch, self.layer.hidden]))
            }
        }
    }

    /// The result of a step, and state and cell after it. Behind its end a sequence gives zeros and keeps its state.
    fn within_length(
        &self,
        e: &mut Expand<'_, '_>,
        step: usize,
        next: (Val, Val),
        before: (Val, Val),
    ) -> Result<(Val, (Val, Val)), OpError> {
        let Some(lengths) = self.lengths else { return Ok((next.0, next)) };
        let goes_on = || arg(0).above(step as i64);
        let kept = select(goes_on(), arg(1), arg(2));
        let result = pointwise::add(e, select(goes_on(), arg(1), 0.0), self.dtype, &[lengths, next.0])?;
        let h = pointwise::add(e, kept.clone(), self.dtype, &[lengths, next.0, before.0])?;
        let c = match self.kind {
            Kind::Lstm => pointwise::add(e, kept, self.dtype, &[lengths, next.1, before.1])?,
            Kind::Rnn | Kind::Gru => next.1,
        };
        Ok((result, (h, c)))
    }
}

/// The part of a direction of an operand `[directions, ...]`, without that axis.
fn of_direction(e: &mut Expand<'_, '_>, x: Val, direction: usize) -> Result<Val, OpError> {
    let shape = e.ty(x).shape.0;
    let one = part(e, x, 0, direction as i64, 1)?;
    reshape::to(e, one, shape[1..].to_vec())
}
