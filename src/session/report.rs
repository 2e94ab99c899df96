//! What a compilation says of itself, as one document.

use super::{Compile, Compiled};
use serde_json::{Value, json};

impl Compiled {
    /// The report of this compilation: budget, ledger, certificate, a row a node with its format and the reason, times
    /// of passes. `seconds` is how long it took.
    pub fn report(&self, options: &Compile, seconds: f64) -> Value {
        let Some(plan) = self.program.plans.first() else { return Value::Null };
        let mut certificate = json!(plan.certificate);
        certificate["seconds"] = json!(self.solve_time.as_secs_f64());
        let pass =
            |t: &crate::passes::Timing| json!({"name": t.pass, "ms": t.time.as_secs_f64() * 1e3, "changed": t.changed});
        json!({
            "model": self.program.model,
            "target": options.target.name,
            "policy": plan.policy,
            "budget_bytes": plan.budget_bytes,
            "planned_peak_bytes": plan.planned_peak_bytes,
            "ledger": plan.ledger,
            "lower_bound_bytes": plan.lower_bound_bytes,
            "min_feasible_bytes": plan.min_feasible_bytes,
            "f32_bytes": plan.f32_bytes,
            "arena": {
                "bytes": self.arena_bytes,
                "max_live_bytes": self.max_live_bytes,
                "imported_max_live_bytes": self.imported_max_live_bytes,
            },
            "default_inputs": plan.entries.first().map(|e| e.defaults.keys().collect::<Vec<_>>()),
            "constant_inputs": plan.entries.first().map(|e| &e.fixed),
            "nodes": plan.nodes,
            "certificate": certificate,
            "predicted_error": plan.certificate.relative_error(),
            "passes": self.timings.iter().map(pass).collect::<Vec<_>>(),
            "seconds": seconds,
        })
    }
}
