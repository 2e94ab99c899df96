//! The answer to `nyxc compile --explain NODE`, as text and as JSON.

use crate::passes::{Candidate, Choice, Explanation};
use serde_json::{Value, json};

/// Names that a line gives.
const MAX_NAMES: usize = 6;

/// The text behind the summary.
pub(super) fn text(explanation: &Explanation) -> String {
    let mut text = format!("{:?}: {}\n", explanation.asked, explanation.meaning);
    for choice in &explanation.choices {
        text += &one(choice, explanation.shadow_price);
    }
    if explanation.choices.is_empty() {
        text += "  no node of the program computes it\n";
    }
    if explanation.near_misses.is_empty() {
        text += "  no pattern nearly matched\n";
    }
    for why in &explanation.near_misses {
        text += &format!("  {}: {}: not matched: {}\n", why.pass, why.pattern, why.because);
    }
    text
}

fn one(choice: &Choice, shadow_price: f64) -> String {
    let some = |names: &[String]| {
        let more =
            if names.len() > MAX_NAMES { format!(" and {} more", names.len() - MAX_NAMES) } else { String::new() };
        names.iter().take(MAX_NAMES).cloned().collect::<Vec<_>>().join(", ") + &more
    };
    let format = if choice.format.is_empty() { "none" } else { &choice.format };
    let mut text = format!("  format    {}: {format}; {}\n", some(&choice.nodes), choice.reason);
    if !choice.others.is_empty() {
        text +=
            &format!("  together  with {}: one kernel, views of each other or shared weights\n", some(&choice.others));
    }
    if choice.candidates.is_empty() {
        return text;
    }
    let price = "price/B";
    text += &format!(
        "  {:<14} {:>12} {:>12} {:>12} {:>10} {:>14} {price:>10}  why not\n",
        "candidate", "weights B", "activ. B", "peak B", "error", "program error"
    );
    for c in &choice.candidates {
        let price = c.price.map_or("-".to_owned(), |p| format!("{p:.2e}"));
        let why = if c.is_chosen { "chosen" } else { &c.why_not };
        text += &format!(
            "  {:<14} {:>12} {:>12} {:>12} {:>10.3e} {:>14.3e} {price:>10}  {why}\n",
            c.format, c.weight_bytes, c.activation_bytes, c.peak_bytes, c.error, c.program_error
        );
    }
    if choice.n_splits > 0 {
        text += &format!(
            "  and {} further ways to store the first rows in one way and the others in another\n",
            choice.n_splits
        );
    }
    if shadow_price > 0.0 {
        text += &format!("  at the margin of the budget one byte saves {shadow_price:.2e} of the program's error\n");
    }
    for (format, why) in &choice.excluded {
        text += &format!("  {format:<14} not considered: {why}\n");
    }
    text
}

/// The key `explanation` of the report.
pub(super) fn json(explanation: &Explanation) -> Value {
    let candidate = |c: &Candidate| {
        json!({
            "format": c.format,
            "chosen": c.is_chosen,
            "weight_bytes": c.weight_bytes,
            "activation_bytes": c.activation_bytes,
            "peak_bytes": c.peak_bytes,
            "error": c.error,
            "program_error": c.program_error,
            "price": c.price,
            "why_not": c.why_not,
        })
    };
    let excluded = |(format, why): &(String, String)| json!({"format": format, "why": why});
    let choice = |c: &Choice| {
        json!({
            "nodes": c.nodes,
            "others": c.others,
            "format": c.format,
            "reason": c.reason,
            "candidates": c.candidates.iter().map(candidate).collect::<Vec<_>>(),
            "n_splits": c.n_splits,
            "excluded": c.excluded.iter().map(excluded).collect::<Vec<_>>(),
        })
    };
    let near = explanation.near_misses.iter();
    let near = near.map(|w| json!({"pass": w.pass, "pattern": w.pattern, "because": w.because}));
    json!({
        "asked": explanation.asked,
        "meaning": explanation.meaning,
        "choices": explanation.choices.iter().map(choice).collect::<Vec<_>>(),
        "shadow_price": explanation.shadow_price,
        "near_misses": near.collect::<Vec<_>>(),
    })
}
