//! What a plan says of itself.

use serde::{Deserialize, Serialize};

/// Every device byte at the instant of the planned peak, by kind. The entries other than `reserve` add up to the peak.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Packed weights: codes, scales, padding.
    pub weights: u64,
    /// Other constants, and parameters of dispatches.
    pub constants: u64,
    /// Values between kernels.
    pub activations: u64,
    /// Scratch of kernels: quantized activations and their scales.
    pub workspace: u64,
    /// Inputs and outputs.
    pub io: u64,
    /// Tensors that outlive a run.
    pub state: u64,
    /// The staging ring, where it shares the heap.
    pub staging: u64,
    /// Held back by `--reserve`; not part of the peak.
    pub reserve: u64,
}

impl Ledger {
    /// The planned peak: all entries but the reserve.
    pub fn peak_bytes(&self) -> u64 {
        [self.weights, self.constants, self.activations, self.workspace, self.io, self.state, self.staging]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// What proves an assignment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The predicted error of the chosen formats, as a variance relative to that of the outputs: variances add up over
    /// nodes.
    pub objective: f64,
    /// No assignment that fits has a smaller predicted error than this.
    pub bound: f64,
    /// `(objective - bound) / max(objective, 1e-6 x that of uniform w4a16)`.
    pub gap: f64,
    /// What found it.
    pub solver: String,
    /// Search nodes.
    pub n_nodes: u64,
    /// How often assignment ran, because the plan of its first answer exceeded the budget: 1 to 6.
    pub rounds: u32,
    /// Error that one more byte would save, at the margin.
    pub shadow_price: f64,
    /// BLAKE3 of the tuning table that chose among kernels, in hexadecimal; absent where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<String>,
}

impl Certificate {
    /// The predicted relative error of the outputs: the square root of the objective, which is a variance relative to
    /// that of the outputs.
    pub fn relative_error(&self) -> f64 {
        self.objective.max(0.0).sqrt()
    }
}

/// What became of one imported node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// ONNX operator, or composite.
    pub op: String,
    /// Its format; empty for nodes without floats.
    pub format: String,
    /// `device` or `host`.
    #[serde(rename = "where")]
    pub place: String,
    /// The kernel that computes it, perhaps with others; empty where it was folded or is only a view.
    pub kernel: String,
    /// Bytes of its weights as packed.
    pub weight_bytes: u64,
    /// Bytes of its weights in f32.
    pub f32_weight_bytes: u64,
    /// Why this format, or why on the host.
    pub reason: String,
}
