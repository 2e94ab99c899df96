//! Products and convolutions with what follows them, and operators on images whose channels are last.

use super::{Known, Results, Writer, form};
use crate::import::error::{ImportError, Kind};
use crate::ir::Attrs;

/// Activations that are operators of ONNX, and their parameters in the order of `activation_params`.
const ACTIVATIONS: &[(&str, &[&str])] = &[
    ("Celu", &["alpha"]),
    ("Elu", &["alpha"]),
    ("Gelu", &[]),
    ("HardSigmoid", &["alpha", "beta"]),
    ("HardSwish", &[]),
    ("Identity", &[]),
    ("LeakyRelu", &["alpha"]),
    ("Mish", &[]),
    ("Relu", &[]),
    ("Selu", &["alpha", "gamma"]),
    ("Sigmoid", &[]),
    ("Softplus", &[]),
    ("Softsign", &[]),
    ("Tanh", &[]),
    ("ThresholdedRelu", &["alpha"]),
];

impl Writer<'_, '_> {
    /// The activation that attribute `activation` names, with `activation_params` or `activation_alpha` and so on; none
    /// where it is not given.
    fn activated(&mut self, y: Known) -> Result<Known, ImportError> {
        let Some(name) = self.raw.attrs.str("activation").filter(|name| !name.is_empty()).map(str::to_owned) else {
            return Ok(y);
        };
        let listed = self.raw.attrs.floats("activation_params").map(<[f32]>::to_vec);
        let parameter = |w: &Self, at: usize, of: &str| match &listed {
            Some(list) => list.get(at).copied(),
            None => w.raw.attrs.float(&format!("activation_{of}")),
        };
        let check = |n: usize| match &listed {
            Some(list) if list.len() != n => Err(ImportError::from(Kind::Attribute {
                name: "activation_params".to_owned(),
                problem: format!("has {} numbers, {name} has {n}", list.len()),
            })),
            _ => Ok(()),
        };
        if let Some((_, names)) = ACTIVATIONS.iter().find(|(known, _)| *known == name) {
            check(names.len())?;
            let attrs = names.iter().enumerate().fold(Attrs::new(), |attrs, (at, of)| match parameter(self, at, of) {
                Some(value) => attrs.with_float(of, value),
                None => attrs,
            });
            return self.op(&name, &[y], attrs);
        }
        let both = |w: &Self, defaults: [f32; 2]| {
            [("alpha", 0), ("beta", 1)].map(|(of, at)| parameter(w, at, of).unwrap_or(defaults[at]))
        };
        match name.as_str() {
            "Clip" => {
                check(2)?;
                let [low, high] = [("min", 0, f32::MIN), ("max", 1, f32::MAX)]
                    .map(|(of, at, default)| parameter(self, at, of).unwrap_or(default));
                let (low, high) = (self.float_like(y, low)?, self.float_like(y, high)?);
                self.plain("Clip", &[y, low, high])
            }
            // alpha * x + beta, alpha * tanh(beta * x), alpha * log(1 + exp(beta * x)): operators of ONNX before its
            // opset 6.
            "Affine" => {
                check(2)?;
                let [alpha, beta] = both(self, [1.0, 0.0]);
                let y = self.times(y, alpha)?;
                let beta = self.float_like(y, beta)?;
                self.plain("Add", &[y, beta])
            }
            "ScaledTanh" | "ParametricSoftplus" => {
                check(2)?;
                let [alpha, beta] = both(self, [1.0, 1.0]);
                let y = self.times(y, beta)?;
                let y = self.plain(if name == "ScaledTanh" { "Tanh" } else { "Softplus" }, &[y])?;
                self.times(y, alpha)
            }
            _ => {
                let names: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
                let problem = format!(
                    "is {name:?}, which is not supported: {}, Clip, Affine, ScaledTanh and ParametricSoftplus are; write the \
                     activation as a node of its own",
                    names.join(", ")
                );
                Err(Kind::Attribute { name: "activation".to_owned(), problem }.into())
            }
        }
    }

    fn times(&mut self, x: Known, factor: f32) -> Result<Known, ImportError> {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.float_like(x, factor)?;
        self.plain("Mul", &[x, factor])
    }

    /// `FusedConv(x, w, b?, z?) {activation, activation_params, ...}`: the activation of Conv and a sum; NhwcConv and
    /// NhwcFusedConv with channels last.
    pub(super) fn fused_conv(&mut self, channels_last: bool) -> Results {
        let (x, w, b, z) = (self.required(0)?, self.required(1)?, self.operand(2)?, self.operand(3)?);
        self.convolved(x, w, b, z, channels_last)
    }

    /// A convolution with these operands, as the attributes have it.
    pub(super) fn convolved(
        &mut self,
        mut x: Known,
        w: Known,
        b: Option<Known>,
        z: Option<Known>,
        channels_last: bool,
    ) -> Results {
        if channels_last {
            x = self.channels_first(x)?;
        }
        let attrs = self.without(&["activation", "activation_params"]);
        let mut y = self.main("Conv", &[Some(x), Some(w), b], attrs)?;
        if channels_last {
            y = self.channels_behind(y)?;
        }
        if let Some(z) = z {
            y = self.plain("Add", &[y, z])?;
        }
        Ok(vec![Some(self.activated(y)?)])
    }

    /// `FusedGemm(a, b, c?) {alpha, beta, transA, transB, activation, activation_alpha, activation_beta,
    /// activation_gamma}`.
    pub(super) fn fused_gemm(&mut self) -> Results {
        let operands = self.operands()?;
        self.only(&[
            "alpha",
            "beta",
            "transA",
            "transB",
            "activation",
            "activation_alpha",
            "activation_beta",
            "activation_gamma",
        ])?;
        let attrs = self.with(&["alpha", "beta", "transA", "transB"]);
        let y = self.main("Gemm", &operands, attrs)?;
        Ok(vec![Some(self.activated(y)?)])
    }

    /// `FusedMatMul(a, b) {alpha, transA, transB, transBatchA, transBatchB}`: `alpha * a x b`, the last two axes
    /// exchanged where `trans` says so, before that the first moved behind the other batch axes where `transBatch`
    /// does. TransposeMatMul is its old name; FusedMatMulActivation has an activation.
    pub(super) fn fused_mat_mul(&mut self) -> Results {
        self.only(&[
            "alpha",
            "transA",
            "transB",
            "transBatchA",
            "transBatchB",
            "activation",
            "activation_alpha",
            "activation_beta",
            "activation_gamma",
            "activation_axis",
        ])?;
        let mut operands = [None; 2];
        for (slot, [last, batch]) in [["transA", "transBatchA"], ["transB", "transBatchB"]].into_iter().enumerate() {
            let x = self.required(slot)?;
            let rank = self.rank(x);
            let mut order: Vec<usize> = (0..rank).collect();
            if rank >= 3 && self.int(batch, 0) != 0 {
                order[..rank - 1].rotate_left(1);
            }
            if rank >= 2 && self.int(last, 0) != 0 {
                order.swap(rank - 1, rank - 2);
            }
            operands[slot] = Some(if order.is_sorted() { x } else { self.transpose(x, &order)? });
        }
        let y = self.main("MatMul", &operands, Attrs::new())?;
        let y = self.times(y, self.raw.attrs.float("alpha").unwrap_or(1.0))?;
        Ok(vec![Some(self.activated(y)?)])
    }

    /// `GemmFastGelu(x, w, bias?)`: Gelu by the hyperbolic tangent of a product and a bias.
    pub(super) fn gemm_fast_gelu(&mut self) -> Results {
        let (x, w, bias) = (self.required(0)?, self.required(1)?, self.operand(2)?);
        let mut y = self.main("MatMul", &[Some(x), Some(w)], Attrs::new())?;
        if let Some(bias) = bias {
            y = self.plain("Add", &[y, bias])?;
        }
        Ok(vec![Some(self.op("Gelu", &[y], Attrs::new().with_str("approximate", "tanh"))?)])
    }

    /// An operator of one operand, of images whose channels are last.
    pub(super) fn channels_last(&mut self, op: &str) -> Results {
        let x = self.required(0)?;
        let x = self.channels_first(x)?;
        let y = self.main(op, &[Some(x)], self.raw.attrs.clone())?;
        Ok(vec![Some(self.channels_behind(y)?)])
    }

    /// `QLinearConv(...) {channels_last, ...}`: ONNX's, of images whose channels may be last.
    pub(super) fn q_linear_conv(&mut self) -> Results {
        let mut operands = self.operands()?;
        let attrs = self.without(&["channels_last"]);
        let is_last = self.int("channels_last", 0) != 0;
        if let Some(Some(x)) = operands.first_mut().filter(|_| is_last) {
            *x = self.channels_first(*x)?;
        }
        let y = self.main("QLinearConv", &operands, attrs)?;
        Ok(vec![Some(if is_last { self.channels_behind(y)? } else { y })])
    }

    /// `BiasSoftmax(x, bias) {axis, is_inner_broadcast}`: Softmax of a sum along the last axis.
    pub(super) fn bias_softmax(&mut self) -> Results {
        self.only(&["axis", "is_inner_broadcast"])?;
        let (x, bias) = (self.required(0)?, self.required(1)?);
        let axis = self.int("axis", 1);
        let rank = self.rank(x);
        if crate::ir::resolve_axis(axis, rank) != rank.checked_sub(1) {
            return Err(form(format!("attribute axis is {axis}, which is not supported: only the last axis is")));
        }
        let sum = self.plain("Add", &[x, bias])?;
        Ok(vec![Some(self.main("Softmax", &[Some(sum)], Attrs::new().with_int("axis", -1))?)])
    }
}
