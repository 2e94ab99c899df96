//! Rules of activation functions.

use super::{Case, Recipe};
use crate::ir::expr::build::{arg, float, select};
use crate::ir::{DType, OpError};
use crate::ops::core::pointwise::zero;

pub(super) fn prelu(c: &Case<'_>) -> Recipe {
    let zero = zero(c.dtype()?);
    c.same(select(arg(0).below(zero), arg(0) * arg(1), arg(0)))
}

pub(super) fn gelu(c: &Case<'_>) -> Recipe {
    match c.attrs.str("approximate").unwrap_or("none") {
        // Numbers of expressions are f32: in f64 others are computed from exact ones.
        "none" if c.dtype()? == DType::F64 => c.same(arg(0) * 0.5 * ((arg(0) / float(2.0).sqrt()).erf() + 1.0)),
        "tanh" if c.dtype()? == DType::F64 => c.same(
            arg(0)
                * 0.5
                * (((0.5 / float(1.0).atan()).sqrt()
                    * (arg(0) + float(44715.0) / 1000000.0 * (arg(0) * (arg(0) * arg(0)))))
                .tanh()
                    + 1.0),
        ),
        "none" => c.same(arg(0) * 0.5 * ((arg(0) * 0.70710677).erf() + 1.0)),
        "tanh" => {
            c.same(arg(0) * 0.5 * ((0.7978846 * (arg(0) + 0.044715 * (arg(0) * (arg(0) * arg(0))))).tanh() + 1.0))
        }
        other => Err(OpError::attribute("approximate", format!("is {other:?}"))),
    }
}

pub(super) fn hard_swish(c: &Case<'_>) -> Recipe {
    let sixth = if c.dtype()? == DType::F64 { arg(0) / 6.0 } else { arg(0) * 0.166_666_67 };
    c.same(arg(0) * (sixth + 0.5).min(1.0).max(0.0))
}

pub(super) fn elu(c: &Case<'_>) -> Recipe {
    let alpha = c.float("alpha", 1.0);
    c.same(select(arg(0).below(0.0), alpha * (arg(0).exp() - 1.0), arg(0)))
}

pub(super) fn celu(c: &Case<'_>) -> Recipe {
    let alpha = c.float("alpha", 1.0);
    c.same(select(arg(0).below(0.0), alpha * ((arg(0) / alpha).exp() - 1.0), arg(0)))
}

pub(super) fn selu(c: &Case<'_>) -> Recipe {
    let (alpha, gamma) = (c.float("alpha", 1.673_263_2), c.float("gamma", 1.050_701));
    c.same(gamma * select(arg(0).above(0.0), arg(0), alpha * (arg(0).exp() - 1.0)))
}

pub(super) fn leaky_relu(c: &Case<'_>) -> Recipe {
    c.same(select(arg(0).below(0.0), arg(0) * (c.float("alpha", 0.01)), arg(0)))
}

pub(super) fn hard_sigmoid(c: &Case<'_>) -> Recipe {
    let (alpha, beta) = (c.float("alpha", 0.2), c.float("beta", 0.5));
    c.same((arg(0) * alpha + beta).min(1.0).max(0.0))
}

pub(super) fn swish(c: &Case<'_>) -> Recipe {
    match c.float("alpha", 1.0) {
        1.0 => c.same(arg(0) * arg(0).sigmoid()),
        alpha => c.same(arg(0) * (arg(0) * alpha).sigmoid()),
    }
}

pub(super) fn swi_glu(c: &Case<'_>) -> Recipe {
    c.same(arg(0) * (arg(0) * (c.float("alpha", 1.0))).sigmoid() * arg(1))
}

pub(super) fn thresholded_relu(c: &Case<'_>) -> Recipe {
    c.same(select(arg(0).above(c.float("alpha", 1.0)), arg(0), 0.0))
}

pub(super) fn shrink(c: &Case<'_>) -> Recipe {
    let (lambd, bias) = (c.float("lambd", 0.5), c.float("bias", 0.0));
    c.same(select(arg(0).below(-lambd), arg(0) + bias, select(arg(0).above(lambd), arg(0) - bias, 0.0)))
}
