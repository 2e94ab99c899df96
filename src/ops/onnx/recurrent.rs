//! ONNX's recurrent layers, step by step: RNN, GRU, LSTM. What depends on the input alone is one product for all steps.
//! Layers of more than [`MAX_STEPS`] are not written out: they are `deferred`, and the host computes them in parts of
//! so many steps.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attr, Attrs, DType, Dim, Expand, Expr, Graph, Infer, NodeId, ONNX, Op, OpDef, OpError, Shape, Tensor, TensorType,
    Val, attr,
};
use crate::ops::compose::{along, concat, dims, matmul, part, sizes};
use crate::ops::core::{pointwise, reshape};
use crate::ops::onnx::linear_attention::MAX_STEPS;
use crate::ops::onnx::movement;
use crate::ops::util::{agree, operand};

macro_rules! layers {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal $arity:tt [$($attr:expr),*] $kind:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[attr::int("hidden_size"), attr::text("direction"), attr::int("layout"), attr::texts("activations"), attr::floats("activation_alpha"), attr::floats("activation_beta"), attr::float("clip"), $($attr),*],
            arity: $arity,
            infer: &|i| infer(i, $kind),
            eval: Some(&|attrs, inputs| eval(&$def, attrs, inputs, $kind, MAX_STEPS)),
            expand: Some(&|e| expand(e, $kind, None)),
            weights: None,
            gradient: None,
        };)*
    };
}

layers! {
    /// `rnn(x, w, r, bias?, lengths?, initial?) {...}`: ONNX RNN, opset 22.
    RNN "rnn" "RNN" (3, 6) [] Kind::Rnn;
    /// `gru(x, w, r, bias?, lengths?, initial?) {..., linear_before_reset}`: ONNX GRU, opset 22.
    GRU "gru" "GRU" (3, 6) [attr::int("linear_before_reset")] Kind::Gru;
    /// `lstm(x, w, r, bias?, lengths?, initial_h?, initial_c?, peepholes?) {..., input_forget}`: ONNX LSTM, opset 22.
    LSTM "lstm" "LSTM" (3, 8) [attr::int("input_forget")] Kind::Lstm;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    fn n_gates(self) -> usize {
        match self {
            Kind::Rnn => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    /// The activation functions of one direction where none are given.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Rnn => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// All sizes of a layer.
struct Layer {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    /// Of each direction, whether it runs backwards.
    directions: Vec<bool>,
    /// Whether the batch is the first axis.
    batch_first: bool,
}

fn layer(attrs: &Attrs, x: &TensorType, w: &TensorType, r: &TensorType, kind: Kind) -> Result<Layer, OpError> {
    let directions = match attrs.str("direction").unwrap_or("forward") {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => return Err(OpError::attribute("direction", format!("is {other:?}"))),
    };
    let batch_first = attrs.int("layout").unwrap_or(0) != 0;
    let (own, w_dims, r_dims) = (sizes(0, x)?, sizes(1, w)?, sizes(2, r)?);
    let &[first, second, input] = &own[..] else { return Err(OpError::operand(0, x, "[steps,batch,input]")) };
    let (steps, batch) = if batch_first { (second, first) } else { (first, second) };
    let hidden = r_dims.last().copied().unwrap_or(0);
    let gates = kind.n_gates() * hidden;
    let floats = [x, w, r].iter().all(|ty| ty.dtype.is_float() && ty.packing.is_none());
    if !floats
        || w_dims != [directions.len(), gates, input]
        || r_dims != [directions.len(), gates, hidden]
        || hidden == 0
    {
        return Err(OpError::operand(1, w, format!("floats [{},{gates},{input}] beside r {r}", directions.len())));
    }
    if attrs.int("hidden_size").is_some_and(|n| n != hidden as i64) {
        return Err(OpError::attribute("hidden_size", format!("is {:?}, r has {hidden}", attrs.int("hidden_size"))));
    }
    if steps == 0 {
        return Err(OpError::unsupported("no steps of a recurrent layer"));
    }
    Ok(Layer { steps, batch, input, hidden, directions, batch_first })
}

fn infer(infer: &Infer<'_>, kind: Kind) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    // Steps and batch may change between runs: the layer is looked at with one of each, and its results have as many as
    // the operand.
    let one = |dim: &Dim| dim.known().map_or(Dim::Known(1), Dim::Known);
    let known = TensorType { shape: Shape(x.shape.0.iter().map(one).collect()), ..x.clone() };
    let l = layer(infer.attrs, &known, infer.ty(1)?, infer.ty(2)?, kind)?;
    functions(infer.attrs, kind, &l)?;
    let [n, hidden, gates] = [l.directions.len(), l.hidden, kind.n_gates()].map(Dim::from);
    let (steps, batch) = if l.batch_first { (&x.shape.0[1], &x.shape.0[0]) } else { (&x.shape.0[0], &x.shape.0[1]) };
    let [steps, batch] = [steps, batch].map(Dim::clone);
    let times = |a: &Dim, b: &Dim, c: i64| &(a * b) * &Dim::Known(c);
    let state = if l.batch_first {
        vec![batch.clone(), n.clone(), hidden.clone()]
    } else {
        vec![n.clone(), batch.clone(), hidden.clone()]
    };
    let bias = vec![n.clone(), times(&gates, &hidden, 2)];
    let peepholes = vec![n.clone(), times(&hidden, &Dim::Known(1), 3)];
    for (slot, expected) in
        [(3, bias), (4, vec![batch.clone()]), (5, state.clone()), (6, state.clone()), (7, peepholes)]
    {
        if let Some(Some(ty)) = infer.inputs.get(slot)
            && (ty.shape.rank() != expected.len() || !ty.shape.0.iter().zip(&expected).all(|(a, b)| agree(a, b)))
        {
            return Err(OpError::operand(slot, ty, Shape(expected)));
        }
    }
    let all = if l.batch_first { vec![batch, steps, n, hidden] } else { vec![steps, n, batch, hidden] };
    let state = TensorType::new(x.dtype, Shape(state));
    let last = if kind == Kind::Lstm { vec![state.clone(), state] } else { vec![state] };
    Ok([TensorType::new(x.dtype, Shape(all))].into_iter().chain(last).collect())
}

/// The activation functions of each direction, as expressions of operand 0.
fn functions(attrs: &Attrs, kind: Kind, l: &Layer) -> Result<Vec<Vec<Expr>>, OpError> {
    let default = kind.activations();
    let names: Vec<String> = match attrs.get("activations") {
        Some(Attr::Strs(names)) => names.clone(),
        _ => default.iter().cycle().take(default.len() * l.directions.len()).map(|n| (*n).to_owned()).collect(),
    };
    if names.len() != default.len() * l.directions.len() {
        return Err(OpError::attribute("activations", format!("are {names:?}, {} for each direction", default.len())));
    }
    // Only functions that have a parameter use one up.
    let mut alphas = attrs.floats("activation_alpha").unwrap_or_default().iter().copied();
    let mut betas = attrs.floats("activation_beta").unwrap_or_default().iter().copied();
    let mut found = Vec::new();
    for name in &names {
        let mut alpha = |default: f32| alphas.next().unwrap_or(default);
        let mut beta = |default: f32| betas.next().unwrap_or(default);
        found.push(match name.to_ascii_lowercase().as_str() {
            "relu" => arg(0).relu(),
            "tanh" => arg(0).tanh(),
            "sigmoid" => arg(0).sigmoid(),
            "softsign" => arg(0) / (arg(0).abs() + 1.0),
            "softplus" => arg(0).softplus(),
            "affine" => arg(0) * alpha(1.0) + beta(0.0),
            "leakyrelu" => select(arg(0).below(0.0), arg(0) * alpha(0.01), arg(0)),
            "thresholdedrelu" => select(arg(0).at_least(alpha(1.0)), arg(0), 0.0),
            "scaledtanh" => alpha(1.0) * (arg(0) * beta(1.0)).tanh(),
            "hardsigmoid" => (arg(0) * alpha(0.2) + beta(0.5)).min(1.0).max(0.0),
            "elu" => select(arg(0).below(0.0), alpha(1.0) * (arg(0).exp() - 1.0), arg(0)),
            _ => return Err(OpError::attribute("activations", format!("have {name:?}"))),
        });
    }
    Ok(found.chunks(default.len()).map(<[Expr]>::to_vec).collect())
}

/// One direction at work.
struct Cell {
    kind: Kind,
    dtype: DType,
    hidden: i64,
    /// Activation functions of operand 0.
    functions: Vec<Expr>,
    clip: Option<f32>,
    /// Recurrent weights `[gates * hidden, hidden]` and their biases `[gates * hidden]`, where they are not in the
    /// input's part already.
    r: Val,
    r_bias: Option<Val>,
    /// `[3 * hidden]`.
    peepholes: Option<Val>,
    input_forget: bool,
    reset_after: bool,
    /// Whether the hidden state goes through 8 bits before its product.
    is_quantized: bool,
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
    fn step(&self, e: &mut Expand<'_, '_>, x: Val, h: Val, c: Val) -> Result<(Val, Val), OpError> {
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

fn too_long(steps: usize) -> OpError {
    OpError::unsupported(format!(
        "{steps} steps of a recurrent layer: at most {MAX_STEPS} are written out one after the other"
    ))
}

/// Whether a node is a layer of more steps than are written out.
pub fn is_long(graph: &Graph, node: NodeId) -> bool {
    let Some(op) = graph.node(node).op().filter(|op| [&RNN, &GRU, &LSTM].iter().any(|def| op.is(def))) else {
        return false;
    };
    let x = graph.operands(node).first().copied().flatten();
    let steps = x.and_then(|x| graph.ty(x).shape.0.get(usize::from(op.attrs.int("layout").unwrap_or(0) != 0))?.known());
    steps.is_some_and(|steps| steps > MAX_STEPS as i64)
}

/// The layer's results, `most` steps at a time: each part begins with the state that the one before left. Where there
/// are two directions, whose parts come in opposite orders, either has a turn of its own, and the other's results of
/// that turn are nobody's.
fn eval(
    def: &'static OpDef,
    attrs: &Attrs,
    inputs: &[Option<&Tensor>],
    kind: Kind,
    most: usize,
) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let l = layer(attrs, x.ty(), operand(inputs, 1)?.ty(), operand(inputs, 2)?.ty(), kind)?;
    let op = Op::new(def, attrs.clone());
    let n_outputs = if kind == Kind::Lstm { 3 } else { 2 };
    if l.steps <= most {
        return crate::ops::reference::evaluate::written_out(&op, inputs, n_outputs);
    }
    let (time, direction_axis, state_axis) = if l.batch_first { (1, 2, 1) } else { (0, 1, 0) };
    let lengths = inputs
        .get(4)
        .copied()
        .flatten()
        .map(|lengths| Ok::<_, OpError>((lengths.ty().clone(), lengths.to_i64s()?)))
        .transpose()?;
    let mut results = vec![Vec::new(); n_outputs];
    for (direction, backwards) in l.directions.iter().enumerate() {
        let mut states: Vec<Option<Tensor>> =
            (5..4 + n_outputs).map(|slot| inputs.get(slot).copied().flatten().cloned()).collect();
        let mut starts: Vec<usize> = (0..l.steps).step_by(most).collect();
        if *backwards {
            starts.reverse();
        }
        let mut parts = Vec::new();
        for start in starts {
            let len = most.min(l.steps - start);
            let own = slice(x, time, start, len)?;
            let ends = |(ty, all): &(TensorType, Vec<i64>)| {
                let rest: Vec<i64> = all.iter().map(|n| (n - start as i64).clamp(0, len as i64)).collect();
                Tensor::from_i64s(ty.dtype, &ty.shape.known().unwrap_or_default(), &rest)
            };
            let ends = lengths.as_ref().map(ends).transpose()?;
            let mut operands = inputs.to_vec();
            operands.resize(operands.len().max(4 + n_outputs), None);
            (operands[0], operands[4]) = (Some(&own), ends.as_ref());
            for (slot, state) in states.iter().enumerate() {
                operands[5 + slot] = state.as_ref();
            }
            let mut given = crate::ops::reference::evaluate::written_out(&op, &operands, n_outputs)?;
            parts.push(slice(&given[0], direction_axis, direction, 1)?);
            states = given.drain(1..).map(Some).collect();
        }
        if *backwards {
            parts.reverse();
        }
        results[0].push(joined(&parts, time)?);
        for (result, state) in results[1..].iter_mut().zip(states.iter().flatten()) {
            result.push(slice(state, state_axis, direction, 1)?);
        }
    }
    let axes = [direction_axis, state_axis, state_axis];
    results.iter().zip(axes).map(|(parts, axis)| joined(parts, axis)).collect()
}

/// `len` elements of a plain tensor along an axis, from `start`.
fn slice(x: &Tensor, axis: usize, start: usize, len: usize) -> Result<Tensor, OpError> {
    let mut dims = x.dims();
    let bytes = x.bytes()?;
    let row = bytes.len() / dims[..=axis].iter().product::<usize>().max(1);
    let taken = bytes
        .chunks((row * dims[axis]).max(1))
        .flat_map(|all| &all[start * row..(start + len) * row])
        .copied()
        .collect();
    dims[axis] = len;
    Ok(Tensor::from_bytes(TensorType::of(x.dtype(), &dims), taken)?)
}

fn joined(parts: &[Tensor], axis: usize) -> Result<Tensor, OpError> {
    let parts: Vec<Option<&Tensor>> = parts.iter().map(Some).collect();
    let op = Op::new(&crate::ops::core::concat::DEF, Attrs::new().with_int("axis", axis as i64));
    Ok(crate::ops::reference::evaluate(&op, &parts, 1)?.swap_remove(0))
}

/// The part of a direction of an operand `[directions, ...]`, without that axis.
fn of_direction(e: &mut Expand<'_, '_>, x: Val, direction: usize) -> Result<Val, OpError> {
    let shape = e.ty(x).shape.0;
    let one = part(e, x, 0, direction as i64, 1)?;
    reshape::to(e, one, shape[1..].to_vec())
}

/// The layer written out. With `codes` its weights are what that makes of operand `slot` for a direction, and
/// activations go through 8 bits.
fn expand(e: &mut Expand<'_, '_>, kind: Kind, codes: Option<&Codes>) -> Result<Vec<Val>, OpError> {
    let (mut x, w, r) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let types = match codes {
        Some(_) => [transposed(&e.ty(w))?, transposed(&e.ty(r))?],
        None => [e.ty(w), e.ty(r)],
    };
    let l = layer(e.attrs, &e.ty(x), &types[0], &types[1], kind)?;
    if l.steps > MAX_STEPS {
        return Err(too_long(l.steps));
    }
    let functions = functions(e.attrs, kind, &l)?;
    let (dtype, gates) = (e.ty(x).dtype, kind.n_gates() * l.hidden);
    let mut initial = [e.optional(5), e.optional(6)];
    if l.batch_first {
        x = movement::transpose(e, x, &[1, 0, 2])?;
        for state in initial.iter_mut().flatten() {
            *state = movement::transpose(e, *state, &[1, 0, 2])?;
        }
    }
    let lengths = e.optional(4).map(|lengths| along(e, lengths, 2, 0)).transpose()?;
    let mut rows = reshape::to(e, x, dims(&[l.steps * l.batch, l.input]))?;
    if codes.is_some() {
        rows = through_8_bits(e, rows)?;
    }
    let (mut all, mut last, mut cells) = (Vec::new(), Vec::new(), Vec::new());
    for (direction, backwards) in l.directions.iter().enumerate() {
        let (w, r) = match codes {
            Some(codes) => (codes.of(e, 1, direction)?, codes.of(e, 2, direction)?),
            None => (of_direction(e, w, direction)?, of_direction(e, r, direction)?),
        };
        let reset_after = kind == Kind::Gru && e.attrs.int("linear_before_reset").unwrap_or(0) != 0;
        let mut given = matmul(e, rows, w, true)?;
        let mut r_bias = None;
        if let Some(bias) = e.optional(3) {
            let bias = of_direction(e, bias, direction)?;
            let (w_bias, recurrent) =
                (part(e, bias, 0, 0, gates as i64)?, part(e, bias, 0, gates as i64, gates as i64)?);
            r_bias = Some(recurrent);
            // With the reset after it, the bias of the candidate's recurrent part is added later.
            let early = if reset_after {
                let mut factors = vec![1.0f32; gates];
                factors[2 * l.hidden..].fill(0.0);
                let factors = crate::ops::compose::floats(e, &[gates], &factors)?;
                pointwise::add(e, arg(0) + arg(1) * arg(2), dtype, &[w_bias, recurrent, factors])?
            } else {
                pointwise::add(e, arg(0) + arg(1), dtype, &[w_bias, recurrent])?
            };
            given = pointwise::add(e, arg(0) + arg(1), dtype, &[given, early])?;
        }
        let given = reshape::to(e, given, dims(&[l.steps, l.batch, gates]))?;
        let cell = Cell {
            kind,
            dtype,
            hidden: l.hidden as i64,
            functions: functions[direction].clone(),
            clip: e.attrs.float("clip").filter(|clip| *clip > 0.0),
            r,
            r_bias,
            peepholes: e.optional(7).map(|p| of_direction(e, p, direction)).transpose()?,
            input_forget: e.attrs.int("input_forget").unwrap_or(0) != 0,
            reset_after,
            is_quantized: codes.is_some(),
        };
        let mut states = [initial[0], initial[1]];
        for state in &mut states {
            *state = Some(match *state {
                Some(state) => of_direction(e, state, direction)?,
                None => {
                    let zero = Tensor::from_f32s(dtype, &[1], &[0.0])?;
                    let zero = e.constant(zero);
                    movement::broadcast_to(e, zero, dims(&[l.batch, l.hidden]))?
                }
            });
        }
        let [Some(mut h), Some(mut c)] = states else { return Err(OpError::MissingOperand { slot: 5 }) };
        let mut results = vec![h; l.steps];
        let order: Vec<usize> = if *backwards { (0..l.steps).rev().collect() } else { (0..l.steps).collect() };
        for step in order {
            let x = part(e, given, 0, step as i64, 1)?;
            let x = reshape::to(e, x, dims(&[l.batch, gates]))?;
            let (mut next, mut next_cell) = cell.step(e, x, h, c)?;
            let mut result = next;
            if let Some(lengths) = lengths {
                // Behind its end a sequence gives zeros and keeps its state.
                let (ended, kept) =
                    (select(arg(0).above(step as i64), arg(1), 0.0), select(arg(0).above(step as i64), arg(1), arg(2)));
                result = pointwise::add(e, ended, dtype, &[lengths, next])?;
                next = pointwise::add(e, kept.clone(), dtype, &[lengths, next, h])?;
                if kind == Kind::Lstm {
                    next_cell = pointwise::add(e, kept, dtype, &[lengths, next_cell, c])?;
                }
            }
            (h, c) = (next, next_cell);
            results[step] = reshape::to(e, result, dims(&[1, 1, l.batch, l.hidden]))?;
        }
        all.push(concat(e, &results, 0)?);
        last.push(reshape::to(e, h, dims(&[1, l.batch, l.hidden]))?);
        cells.push(reshape::to(e, c, dims(&[1, l.batch, l.hidden]))?);
    }
    let mut results = vec![concat(e, &all, 1)?, concat(e, &last, 0)?];
    if kind == Kind::Lstm {
        results.push(concat(e, &cells, 0)?);
    }
    if l.batch_first {
        results[0] = movement::transpose(e, results[0], &[2, 0, 1, 3])?;
        for state in results.iter_mut().skip(1) {
            *state = movement::transpose(e, *state, &[1, 0, 2])?;
        }
    }
    Ok(results)
}

/// `dynamic_quantize_lstm(x, w, r, bias?, lengths?, initial_h?, initial_c?, peepholes?, w_scale, w_zero, r_scale,
/// r_zero) {...}`: DynamicQuantizeLSTM of com.microsoft, version 1: an LSTM whose weights `[directions, input, 4 *
/// hidden]` are constant codes, with a scale a direction or a column. Input and hidden state are quantized to 8 bits
/// where they are multiplied.
pub static DYNAMIC_QUANTIZE_LSTM: OpDef = OpDef {
    name: "dynamic_quantize_lstm",
    onnx: "com.microsoft::DynamicQuantizeLSTM",
    levels: ONNX,
    attrs: &[
        attr::int("hidden_size"),
        attr::text("direction"),
        attr::texts("activations"),
        attr::floats("activation_alpha"),
        attr::floats("activation_beta"),
        attr::float("clip"),
        attr::int("input_forget"),
    ],
    arity: (12, 12),
    infer: &infer_quantized,
    eval: None,
    expand: Some(&|e| expand(e, Kind::Lstm, Some(&Codes))),
    weights: None,
    gradient: None,
};

/// The weights of a DynamicQuantizeLSTM.
struct Codes;

impl Codes {
    /// Operand `slot` (1 or 2: w or r) of a direction as floats `[4 * hidden, ...]`: views of a DequantizeLinear, which
    /// kernels read packed.
    fn of(&self, e: &mut Expand<'_, '_>, slot: usize, direction: usize) -> Result<Val, OpError> {
        let of = |e: &mut Expand<'_, '_>, slot: usize| -> Result<Val, OpError> {
            let tensor =
                e.inputs[slot].and_then(|v| e.edit.constant(v).cloned()).ok_or(OpError::NotConstant { slot })?;
            let own = tensor.dims();
            let each: usize = own[1..].iter().product();
            let first = direction * each;
            let one = if tensor.dtype().is_float() {
                Tensor::from_f32s(tensor.dtype(), &own[1..], &tensor.to_f32s()?[first..first + each])?
            } else {
                Tensor::from_i64s(tensor.dtype(), &own[1..], &tensor.to_i64s()?[first..first + each])?
            };
            Ok(e.constant(one))
        };
        let at = 6 + 2 * slot;
        let operands = [of(e, slot)?, of(e, at)?, of(e, at + 1)?];
        let values =
            e.add(&crate::ops::core::quantize_linear::DEQUANTIZE, Attrs::new().with_int("axis", 1), &operands)?;
        movement::transpose(e, values, &[1, 0])
    }
}

/// The type of an LSTM's weights for codes in transposed layout.
fn transposed(codes: &TensorType) -> Result<TensorType, OpError> {
    let [directions, rows, columns] = sizes(1, codes)?[..] else {
        return Err(OpError::operand(1, codes, "[directions, input, 4 * hidden]"));
    };
    Ok(TensorType::of(DType::F32, &[directions, columns, rows]))
}

fn infer_quantized(given: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    for slot in [1, 2, 8, 9, 10, 11] {
        let ty = given.ty(slot)?;
        if given.constant(slot).is_none() {
            return Err(OpError::NotConstant { slot });
        }
        let directions = given.ty(1)?.shape.0.first();
        let columns = given.ty(if slot == 1 || (8..10).contains(&slot) { 1 } else { 2 })?.shape.0.last();
        let fits = match (slot, &ty.shape.0[..]) {
            (1 | 2, [_, _, _]) => matches!(ty.dtype, DType::U8 | DType::I8),
            (_, [d]) => Some(d) == directions,
            (_, [d, n]) => Some(d) == directions && Some(n) == columns,
            _ => false,
        };
        if !fits
            || slot > 7 && slot % 2 == 0 && !ty.dtype.is_float()
            || slot > 7 && slot % 2 == 1 && ty.dtype != given.ty((slot - 7) / 2)?.dtype
        {
            return Err(OpError::operand(
                slot,
                ty,
                "codes of 8 bits [directions, input, 4 * hidden], or one scale or zero point a direction or column of them",
            ));
        }
    }
    let (w, r) = (transposed(given.ty(1)?)?, transposed(given.ty(2)?)?);
    // In parts, what 8 bits hold of the input would be another.
    if let Some(steps) = given.ty(0)?.shape.0.first().and_then(Dim::known).filter(|steps| *steps > MAX_STEPS as i64) {
        return Err(too_long(steps as usize));
    }
    let mut inputs = given.inputs[..8].to_vec();
    (inputs[1], inputs[2]) = (Some(&w), Some(&r));
    infer(
        &Infer { attrs: given.attrs, inputs: &inputs, consts: &[None; 8], sizes: &[], n_outputs: given.n_outputs },
        Kind::Lstm,
    )
}

/// x as what 8 bits hold of it: DynamicQuantizeLinear and back.
fn through_8_bits(e: &mut Expand<'_, '_>, x: Val) -> Result<Val, OpError> {
    let dtype = e.ty(x).dtype;
    let op = crate::ir::Op::new(&crate::ops::onnx::integer::DYNAMIC_QUANTIZE, Attrs::new());
    let quantized = e.edit.add_all(op, &[Some(x)], 3).map_err(|e| OpError::Edit(Box::new(e)))?;
    pointwise::add(e, (arg(0) - arg(2)).to_float() * arg(1), dtype, &[quantized[0], quantized[1], quantized[2]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(dims: &[usize], seed: usize) -> Tensor {
        let n: usize = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|i| (((i + 1) * (seed + 3) * 7919) % 199) as f32 / 99.0 - 1.0).collect();
        Tensor::from_f32s(DType::F32, dims, &values).unwrap()
    }

    #[test]
    fn parts_of_a_layer_are_the_layer() {
        let (steps, batch, input, hidden) = (10, 3, 2, 4);
        for (def, kind) in [(&RNN, Kind::Rnn), (&GRU, Kind::Gru), (&LSTM, Kind::Lstm)] {
            for direction in ["forward", "reverse", "bidirectional"] {
                for layout in [0, 1] {
                    let (n, gates) = (1 + usize::from(direction == "bidirectional"), kind.n_gates() * hidden);
                    let transpose = |mut dims: [usize; 3]| {
                        if layout == 1 {
                            dims.swap(0, 1);
                        }
                        dims
                    };
                    let state = transpose([n, batch, hidden]);
                    let (x, w, r, bias) = (
                        noise(&transpose([steps, batch, input]), 1),
                        noise(&[n, gates, input], 2),
                        noise(&[n, gates, hidden], 3),
                        noise(&[n, 2 * gates], 4),
                    );
                    let lengths = Tensor::from_i64s(DType::I32, &[batch], &[10, 2, 7]).unwrap();
                    let (h, c) = (noise(&state, 5), noise(&state, 6));
                    let attrs = Attrs::new()
                        .with_int("hidden_size", hidden as i64)
                        .with_str("direction", direction)
                        .with_int("layout", layout);
                    let few = [Some(&x), Some(&w), Some(&r)];
                    let all = [Some(&x), Some(&w), Some(&r), Some(&bias), Some(&lengths), Some(&h), Some(&c)];
                    for inputs in [&few[..], &all[..if kind == Kind::Lstm { 7 } else { 6 }]] {
                        let whole = eval(def, &attrs, inputs, kind, steps).unwrap();
                        for most in [1, 3, 4] {
                            let parts = eval(def, &attrs, inputs, kind, most).unwrap();
                            assert_eq!(parts.len(), whole.len());
                            for (part, whole) in parts.iter().zip(&whole) {
                                assert_eq!(part.ty(), whole.ty());
                                // Products of few rows may add in another order.
                                let (part, whole) = (part.to_f32s().unwrap(), whole.to_f32s().unwrap());
                                let far = part.iter().zip(whole.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                                assert!(far < 1e-5, "{kind:?} {direction} {layout} {most}: {far:e}");
                            }
                        }
                    }
                }
            }
        }
    }
}
