//! Every operator of floats on operands from 1e-4 to 60,000: where its result fits f16, a program that stores f16 has
//! it to within f16's rounding.

use super::{program, sessions};
use nyxc::ir::{Attrs, DType, Graph, Level, ONNX, Op, Tensor, TensorType};
use nyxc::ops::reference::evaluate;
use nyxc::ops::registry;
use std::collections::BTreeSet;

/// An operand of a case.
#[derive(Clone, Copy)]
enum Of {
    /// Floats of either sign, up to the scale of the case.
    X(&'static [usize]),
    /// Positive ones.
    P(&'static [usize]),
    /// Between -1 and 1 at every scale.
    U(&'static [usize]),
    /// A constant of integers.
    I(&'static [usize], &'static [i64]),
    /// A constant of floats.
    F(&'static [usize], &'static [f32]),
    /// Left out.
    None,
}
use Of::{F, I, P, U, X};

/// Magnitudes that operands are up to.
const SCALES: &[f32] = &[1e-4, 0.01, 1.0, 20.0, 300.0, 6000.0, 60000.0];

/// Operators that have no arithmetic of floats here: they move, compare, count, convert, quantize or make values, or
/// need what a case cannot have (states, sequences, random numbers); what only reads f16 as it is has tests of its own.
const OTHERS: &[&str] = &[
    "AffineGrid",
    "And",
    "ArgMax",
    "ArgMin",
    "Bernoulli",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "Cast",
    "CastLike",
    "CenterCropPad",
    "Compress",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "ConvInteger",
    "DepthToSpace",
    "DequantizeLinear",
    "Dropout",
    "DynamicQuantizeLinear",
    "Equal",
    "Expand",
    "EyeLike",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Greater",
    "GreaterOrEqual",
    "HammingWindow",
    "HannWindow",
    "Hardmax",
    "Identity",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "MatMulInteger",
    "MaxUnpool",
    "MelWeightMatrix",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "OneHot",
    "OptionalGetElement",
    "OptionalHasElement",
    "Or",
    "Pad",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "Reshape",
    "ReverseSequence",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "StringNormalizer",
    "TensorScatter",
    "TfIdfVectorizer",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unique",
    "Unsqueeze",
    "Xor",
];

fn attrs() -> Attrs {
    Attrs::new()
}

/// Every other operator of the default domain, at least once.
fn cases() -> Vec<(&'static str, Attrs, Vec<Of>)> {
    let mut cases: Vec<(&'static str, Attrs, Vec<Of>)> = Vec::new();
    let mut case = |onnx, attrs: Attrs, operands: &[Of]| cases.push((onnx, attrs, operands.to_vec()));
    for onnx in [
        "Abs",
        "Acosh",
        "Asinh",
        "Atan",
        "Ceil",
        "Celu",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Softsign",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "Cosh",
        "Sinh",
    ] {
        case(onnx, attrs(), &[X(&[4, 8])]);
    }
    for onnx in ["Log", "Sqrt"] {
        case(onnx, attrs(), &[P(&[4, 8])]);
    }
    for onnx in ["Acos", "Asin", "Atanh"] {
        case(onnx, attrs(), &[U(&[4, 8])]);
    }
    for onnx in ["Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Sub", "Sum", "SwiGLU"] {
        case(onnx, attrs(), &[X(&[4, 8]), X(&[8])]);
    }
    // Numbers that f16 does not hold beside values that it does.
    case("Mul", attrs(), &[X(&[4, 8]), F(&[], &[1e6])]);
    case("Mul", attrs(), &[X(&[4, 8]), F(&[8], &[1e6, 1e-6, 3e-9, 1e9, 1e5, 1e-5, 2.0, 7e4])]);
    case("Div", attrs(), &[F(&[], &[1e-7]), P(&[4, 8])]);
    case("Add", attrs(), &[X(&[4, 8]), F(&[], &[-70000.0])]);
    case("Pow", attrs(), &[P(&[4, 8]), F(&[], &[0.5])]);
    case("Pow", attrs(), &[P(&[4, 8]), F(&[], &[2.0])]);
    case("Mean", attrs(), &[X(&[40]); 12]);
    case("Sum", attrs(), &[X(&[40]); 12]);
    case("Clip", attrs(), &[X(&[4, 8]), F(&[], &[-1e9]), F(&[], &[40000.0])]);
    case("Mod", attrs().with_int("fmod", 1), &[X(&[4, 8]), F(&[], &[0.75])]);
    case("Where", attrs(), &[Of::I(&[8], &[0, 1, 1, 0, 0, 1, 0, 1]), X(&[4, 8]), X(&[8])]);
    for onnx in [
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ] {
        case(onnx, attrs(), &[X(&[4, 96]), I(&[1], &[1])]);
        case(onnx, attrs().with_int("keepdims", 0), &[X(&[5, 4, 3]), I(&[2], &[0, 2])]);
    }
    case("ReduceLogSum", attrs(), &[P(&[4, 96]), I(&[1], &[1])]);
    case("CumSum", attrs(), &[X(&[4, 8]), I(&[], &[1])]);
    case("CumProd", attrs(), &[X(&[4, 3]), I(&[], &[1])]);
    for onnx in ["Softmax", "LogSoftmax"] {
        case(onnx, attrs().with_int("axis", 1), &[X(&[4, 24, 2])]);
    }
    let planes: &[Of] = &[X(&[2, 4, 6, 6])];
    for (onnx, p) in [("GlobalAveragePool", None), ("GlobalMaxPool", None), ("GlobalLpPool", Some(2))] {
        case(onnx, p.map_or_else(attrs, |p| attrs().with_int("p", p)), planes);
    }
    for onnx in ["AveragePool", "LpPool", "MaxPool"] {
        case(onnx, attrs().with_ints("kernel_shape", [3, 2]), planes);
    }
    case("LpPool", attrs().with_ints("kernel_shape", [2]).with_int("p", 3), &[X(&[2, 3, 9])]);
    case("LRN", attrs().with_int("size", 3), planes);
    case("LRN", attrs().with_int("size", 3).with_float("alpha", 0.5).with_float("beta", 0.5), planes);
    for p in [1, 2] {
        case("LpNormalization", attrs().with_int("p", p), &[X(&[4, 96])]);
    }
    case("MeanVarianceNormalization", attrs(), planes);
    case("LayerNormalization", attrs(), &[X(&[4, 96]), U(&[96]), U(&[96])]);
    case("LayerNormalization", attrs().with_int("axis", 1), &[X(&[4, 6, 16]), U(&[16]), U(&[16])]);
    case("RMSNormalization", attrs(), &[X(&[4, 96]), U(&[96])]);
    case("SimplifiedLayerNormalization", attrs(), &[X(&[4, 96]), U(&[96])]);
    case("InstanceNormalization", attrs(), &[X(&[2, 4, 6, 6]), U(&[4]), U(&[4])]);
    case("GroupNormalization", attrs().with_int("num_groups", 2), &[X(&[2, 4, 6, 6]), U(&[4]), U(&[4])]);
    case("BatchNormalization", attrs(), &[X(&[2, 3, 4]), U(&[3]), U(&[3]), X(&[3]), P(&[3])]);
    let (unit, variance) = (F(&[3], &[1.5, -0.5, 1.0]), F(&[3], &[160_000.0, 1e-9, 4.0]));
    case("BatchNormalization", attrs(), &[X(&[2, 3, 4]), unit, unit, unit, variance]);
    case("MatMul", attrs(), &[X(&[4, 24]), U(&[24, 5])]);
    case("Gemm", attrs().with_float("alpha", 1e-3).with_int("transB", 1), &[X(&[4, 24]), X(&[5, 24]), X(&[5])]);
    case("Einsum", attrs().with_str("equation", "bij,bjk->bk"), &[X(&[2, 3, 4]), U(&[2, 4, 5])]);
    case("Conv", attrs().with_ints("pads", [1, 1, 1, 1]), &[X(&[1, 4, 6, 6]), U(&[3, 4, 3, 3]), X(&[3])]);
    case("ConvTranspose", attrs().with_ints("strides", [2, 2]), &[X(&[1, 4, 5, 5]), U(&[4, 3, 3, 3]), X(&[3])]);
    case("DeformConv", attrs(), &[X(&[1, 2, 4, 4]), U(&[2, 2, 2, 2]), U(&[1, 8, 3, 3])]);
    case("Attention", attrs(), &[X(&[1, 2, 5, 8]), X(&[1, 2, 6, 8]), X(&[1, 2, 6, 8])]);
    case("Attention", attrs().with_float("softcap", 30.0), &[U(&[1, 2, 5, 8]), X(&[1, 2, 6, 8]), X(&[1, 2, 6, 8])]);
    case("RotaryEmbedding", attrs(), &[X(&[1, 2, 5, 8]), U(&[1, 5, 4]), U(&[1, 5, 4])]);
    case("NegativeLogLikelihoodLoss", attrs(), &[X(&[3, 5, 2]), I(&[3, 2], &[0, 4, 2, 1, 3, 3]), P(&[5])]);
    case("SoftmaxCrossEntropyLoss", attrs(), &[X(&[3, 5, 2]), I(&[3, 2], &[0, 4, 2, 1, 3, 3])]);
    case("Resize", attrs().with_str("mode", "linear"), &[X(&[1, 2, 4, 4]), Of::None, F(&[4], &[1.0, 1.0, 1.5, 2.0])]);
    case("Resize", attrs().with_str("mode", "cubic"), &[X(&[1, 2, 4, 4]), Of::None, F(&[4], &[1.0, 1.0, 1.5, 2.0])]);
    case("GridSample", attrs(), &[X(&[1, 2, 4, 4]), U(&[1, 3, 3, 2])]);
    case("RoiAlign", attrs(), &[X(&[1, 2, 4, 4]), F(&[1, 4], &[0.0, 0.5, 3.0, 2.5]), I(&[1], &[0])]);
    case("Col2Im", attrs(), &[X(&[1, 4, 4]), I(&[2], &[3, 3]), I(&[2], &[2, 2])]);
    case("Det", attrs(), &[X(&[2, 2, 2])]);
    case("DFT", attrs(), &[X(&[1, 16, 1]), I(&[], &[]), I(&[], &[1])]);
    case("STFT", attrs(), &[X(&[1, 32, 1]), I(&[], &[8]), U(&[16]), I(&[], &[16])]);
    let recurrent = |gates: usize| -> [Of; 3] {
        match gates {
            1 => [X(&[3, 2, 4]), U(&[1, 5, 4]), U(&[1, 5, 5])],
            3 => [X(&[3, 2, 4]), U(&[1, 15, 4]), U(&[1, 15, 5])],
            _ => [X(&[3, 2, 4]), U(&[1, 20, 4]), U(&[1, 20, 5])],
        }
    };
    for (onnx, gates) in [("RNN", 1), ("GRU", 3), ("LSTM", 4)] {
        case(onnx, attrs().with_int("hidden_size", 5), &recurrent(gates));
    }
    case("CausalConvWithState", attrs(), &[X(&[1, 3, 8]), U(&[3, 1, 4])]);
    let linear = attrs().with_int("q_num_heads", 2).with_int("kv_num_heads", 2).with_str("update_rule", "linear");
    case("LinearAttention", linear, &[U(&[1, 4, 8]), U(&[1, 4, 8]), X(&[1, 4, 8])]);
    cases
}

/// Numbers up to `scale`, most of them near it, as f16 holds them.
fn values(n: usize, scale: f32, positive: bool, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let one = |v: f32| if positive { 0.25 + 0.75 * v.abs() } else { v };
    (0..n).map(|_| half::f16::from_f32(one(next()) * scale).to_f32()).collect()
}

/// A case: its graph, in which operands and result are read through another operator, so that they are stored as
/// formats say.
struct Made {
    graph: Graph,
    op: Op,
    /// Constants, absent operands and where inputs stand among them.
    operands: Vec<Operand>,
}

enum Operand {
    Constant(Tensor),
    Input(TensorType, Of),
    Absent,
}

fn constant(dims: &[usize], values: Of, onnx: &str) -> Option<Tensor> {
    match values {
        I(_, ints) if ints.len() == dims.iter().product::<usize>() => {
            // Where's condition is the only one of truth values.
            let dtype = if onnx == "Where" { DType::Bool } else { DType::I64 };
            Tensor::from_i64s(dtype, dims, ints).ok()
        }
        F(_, floats) => Tensor::from_f32s(DType::F32, dims, floats).ok(),
        _ => None,
    }
}

fn made(onnx: &str, attrs: Attrs, operands: &[Of]) -> Made {
    let registry = registry();
    let op = |onnx: &str, attrs: Attrs| Op::new(registry.by_onnx(onnx).unwrap(), attrs);
    let mut graph = Graph::new("g", Level::Onnx);
    let (mut given, mut all) = (Vec::new(), Vec::new());
    for (at, &operand) in operands.iter().enumerate() {
        match operand {
            X(dims) | P(dims) | U(dims) => {
                let ty = TensorType::of(DType::F32, dims);
                let mut value = graph.add_input(&format!("x{at}"), ty.clone());
                for name in [format!("x{at}.minus"), format!("x{at}.again")] {
                    let node = op("Neg", Attrs::new());
                    value = graph.add_op(&name, node, &[Some(value)], std::slice::from_ref(&name)).unwrap().out(0);
                }
                given.push(Some(value));
                all.push(Operand::Input(ty, operand));
            }
            I(dims, _) | F(dims, _) if constant(dims, operand, onnx).is_some() => {
                let tensor = constant(dims, operand, onnx).unwrap();
                given.push(Some(graph.add_const(&format!("c{at}"), tensor.clone())));
                all.push(Operand::Constant(tensor));
            }
            _ => {
                given.push(None);
                all.push(Operand::Absent);
            }
        }
    }
    let op_made = op(onnx, attrs);
    let node =
        graph.add_op("made", op_made.clone(), &given, &["made".to_owned()]).unwrap_or_else(|e| panic!("{onnx}: {e}"));
    let y = graph.add_op("y", op("Neg", Attrs::new()), &[Some(node.out(0))], &["y".to_owned()]).unwrap();
    graph.add_output("y", y.out(0));
    Made { graph, op: op_made, operands: all }
}

impl Made {
    /// Inputs up to `scale`, and what the operator alone makes of them.
    fn at(&self, scale: f32) -> (Vec<Tensor>, Vec<f32>) {
        let (mut inputs, mut all) = (Vec::new(), Vec::new());
        for (at, operand) in self.operands.iter().enumerate() {
            all.push(match operand {
                Operand::Absent => None,
                Operand::Constant(tensor) => Some(tensor.clone()),
                Operand::Input(ty, of) => {
                    let dims = ty.shape.known().unwrap();
                    let scale = if matches!(of, U(_)) { 1.0 } else { scale };
                    let data = values(dims.iter().product(), scale, matches!(of, P(_)), 7 + at as u64);
                    inputs.push(Tensor::from_f32s(DType::F32, &dims, &data).unwrap());
                    inputs.last().cloned()
                }
            });
        }
        let borrowed: Vec<_> = all.iter().map(Option::as_ref).collect();
        let result = evaluate(&self.op, &borrowed, 1).unwrap_or_else(|e| panic!("{}: {e}", self.op.def.onnx)).remove(0);
        (inputs, result.to_f32s().unwrap().iter().map(|v| -v).collect())
    }
}

/// The first element that fits f16 and is off by more than f16's rounding, and by more than `others` of the largest.
fn fault(given: &[f32], expected: &[f32], others: f32) -> Option<String> {
    let most = expected.iter().filter(|v| v.abs() <= 65504.0).fold(0.0f32, |m, v| m.max(v.abs()));
    let is_off = |(_, (given, expected)): &(usize, (&f32, &f32))| {
        // Operands are exact; the result is rounded once, or is between two that are.
        let bound = expected.abs() / 1024.0 + 1.2e-7 + most * others;
        expected.abs() <= 65504.0 && ((*given - *expected).abs() > bound || given.is_nan())
    };
    let (at, (given, expected)) = given.iter().zip(expected).enumerate().find(is_off)?;
    Some(format!("element {at} is {given:e}, expected {expected:e}"))
}

#[test]
fn a_result_that_fits_f16_is_right_whatever_lies_between() {
    let mut faults = Vec::new();
    let mut n_large = 0;
    for (onnx, attrs, operands) in cases() {
        let made = made(onnx, attrs, &operands);
        let scales: Vec<_> = SCALES
            .iter()
            .map(|&scale| (scale, made.at(scale)))
            .filter(|(_, (_, expected))| expected.iter().any(|v| v.abs() <= 65504.0))
            .collect();
        assert!(!scales.is_empty(), "{onnx} fits at no scale");
        n_large += scales.iter().filter(|(scale, _)| *scale >= 300.0).count();
        // Probabilities are stored as f16 too, and what they are multiplied with may cancel.
        let others = if onnx == "Attention" { 2e-3 } else { 2e-5 };
        for policy in ["uniform:f16", "budget"] {
            let program = program(&made.graph, policy);
            for (name, mut session) in sessions(&program) {
                for (scale, (inputs, expected)) in &scales {
                    let outputs = session.run(inputs).unwrap().outputs;
                    if let Some(fault) = fault(&outputs[0].to_f32s().unwrap(), expected, others) {
                        faults.push(format!(
                            "{onnx} at {scale:e}, {policy} on {name}: {fault}\n{}",
                            program.plans[0].graph
                        ));
                    }
                }
            }
        }
    }
    assert!(n_large > 150, "{n_large}");
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_operator_has_a_case_or_no_arithmetic() {
    let tested: BTreeSet<&str> = cases().iter().map(|case| case.0).collect();
    let others: BTreeSet<&str> = OTHERS.iter().copied().collect();
    let missing: Vec<&str> = registry()
        .iter()
        .filter(|def| def.levels & ONNX != 0 && !def.onnx.is_empty() && !def.onnx.contains("::"))
        .map(|def| def.onnx)
        .filter(|onnx| !tested.contains(onnx) && !others.contains(onnx))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
