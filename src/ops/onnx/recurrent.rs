//! ONNX's recurrent layers, step by step: RNN, GRU, LSTM. What depends on the input alone is one product for all steps.
//! Layers of more than [`MAX_STEPS`] are not written out: they are `deferred`, and the host computes them in parts of
//! so many steps.

mod cell;
mod expand;
mod parts;
mod quantized;

pub use parts::is_long;
pub use quantized::DYNAMIC_QUANTIZE_LSTM;

use crate::ir::expr::build::{arg, select};
use crate::ir::{Attr, Attrs, Dim, Expr, Infer, ONNX, OpDef, OpError, Shape, TensorType, attr};
use crate::ops::compose::sizes;
use crate::ops::onnx::linear_attention::MAX_STEPS;
use crate::ops::util::agree;

macro_rules! layers {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal $arity:tt [$($attr:expr),*] $kind:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[attr::int("hidden_size"), attr::text("direction"), attr::int("layout"), attr::texts("activations"), attr::floats("activation_alpha"), attr::floats("activation_beta"), attr::float("clip"), $($attr),*],
            arity: $arity,
            infer: &|i| infer(i, $kind),
            eval: Some(&|attrs, inputs| parts::eval(&$def, attrs, inputs, $kind, MAX_STEPS)),
            expand: Some(&|e| expand::expand(e, $kind, None)),
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

fn too_long(steps: usize) -> OpError {
    OpError::over_limit("steps of a recurrent layer, written out one after the other", steps as u64, MAX_STEPS as u64)
}
