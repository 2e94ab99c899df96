//! What a compilation says of itself, as one document.

#[cfg(feature = "codegen")]
use super::{Compile, Compiled};
use crate::program::Program;
use serde_json::{Value, json};

impl Program {
    /// What the first plan says of itself: budget, ledger, certificate, a row a node with its format and the reason.
    pub fn report(&self) -> Value {
        let Some(plan) = self.plans.first() else { return Value::Null };
        json!({
            "model": self.model,
            "target": self.target.name,
            "policy": plan.policy,
            "budget_bytes": plan.budget_bytes,
            "planned_peak_bytes": plan.planned_peak_bytes,
            "ledger": plan.ledger,
            "lower_bound_bytes": plan.lower_bound_bytes,
            "min_feasible_bytes": plan.min_feasible_bytes,
            "f32_bytes": plan.f32_bytes,
            "default_inputs": plan.entries.first().map(|e| e.defaults.keys().collect::<Vec<_>>()),
            "constant_inputs": plan.entries.first().map(|e| &e.fixed),
            "nodes": plan.nodes,
            "certificate": plan.certificate,
            "predicted_error": plan.certificate.relative_error(),
        })
    }
}

#[cfg(feature = "codegen")]
impl Compiled {
    /// The report of this compilation: that of the program, with the target that was asked for, the arena and times.
    /// `seconds` is how long it took.
    pub fn report(&self, options: &Compile, seconds: f64) -> Value {
        let mut report = self.program.report();
        if report.is_null() {
            return report;
        }
        let pass =
            |t: &crate::passes::Timing| json!({"name": t.pass, "ms": t.time.as_secs_f64() * 1e3, "changed": t.changed});
        report["target"] = json!(options.target.name);
        report["certificate"]["seconds"] = json!(self.solve_time.as_secs_f64());
        report["arena"] = json!({
            "bytes": self.arena_bytes,
            "max_live_bytes": self.max_live_bytes,
            "imported_max_live_bytes": self.imported_max_live_bytes,
        });
        report["passes"] = self.timings.iter().map(pass).collect();
        report["seconds"] = json!(seconds);
        report
    }
}
