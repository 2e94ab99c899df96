//! The memory of a program, checked from its dispatches alone: whatever a dispatch reads was last written by the node
//! whose result it reads.

use nyxc::ir::{Graph, NodeId, NodeKind, ValueId};
use nyxc::program::{AllocationKind, Dispatch, Entry, Plan, Region, Sizes, Step};
use std::collections::{BTreeMap, BTreeSet};

/// Who wrote which bytes last.
#[derive(Default)]
struct Memory {
    /// Not overlapping: start and end of each, and the node or input that wrote it.
    owned: Vec<((u32, u64, u64), String)>,
}

impl Memory {
    fn write(&mut self, region: &Region, owner: &str) {
        let (allocation, start, end) = (region.allocation, region.offset, region.offset + region.bytes);
        let mut rest = Vec::new();
        for ((a, s, e), who) in self.owned.drain(..) {
            if a != allocation || e <= start || end <= s {
                rest.push(((a, s, e), who));
                continue;
            }
            if s < start {
                rest.push(((a, s, start), who.clone()));
            }
            if end < e {
                rest.push(((a, end, e), who));
            }
        }
        if start < end {
            rest.push(((allocation, start, end), owner.to_owned()));
        }
        self.owned = rest;
    }

    /// Fails where a byte was last written by somebody not in `owners`, or by nobody.
    fn read(&self, region: &Region, owners: &BTreeSet<String>, reader: &str) -> Result<(), String> {
        let (start, end) = (region.offset, region.offset + region.bytes);
        let mut covered = 0;
        for ((a, s, e), who) in &self.owned {
            let (from, to) = (start.max(*s), end.min(*e));
            if *a != region.allocation || from >= to {
                continue;
            }
            if !owners.contains(who) {
                return Err(format!(
                    "{reader} reads bytes {from}..{to} of {region:?}, which {who} wrote over: only {owners:?} may"
                ));
            }
            covered += to - from;
        }
        if covered == region.bytes {
            Ok(())
        } else {
            Err(format!("{reader} reads {region:?}, of which {covered} bytes were written"))
        }
    }
}

fn overlap(a: &Region, b: &Region) -> bool {
    a.allocation == b.allocation && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

/// The node that makes the bytes of a value: views have none of their own.
fn maker(graph: &Graph, value: ValueId) -> NodeId {
    let mut id = value.node;
    while graph.node(id).op().is_some_and(|op| op.def.name == "reshape") {
        let Some(Some(source)) = graph.operands(id).first().copied() else { break };
        id = source.node;
    }
    id
}

fn is_constant(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).kind, NodeKind::Const(_))
}

/// Checks the only entry of a plan, whose kernels are `graph`.
pub fn check(plan: &Plan, graph: &Graph, target_unified: bool) -> Result<(), String> {
    let entry = &plan.entries[0];
    let kind = |region: &Region| plan.allocations[region.allocation as usize].kind;
    let by_name: BTreeMap<&str, NodeId> =
        graph.order().into_iter().map(|id| (graph.node(id).name.as_str(), id)).collect();
    let owners_of = |value: ValueId| graph.node(maker(graph, value)).name.clone();
    let inside = |region: &Region| {
        let fits = region.offset + region.bytes <= plan.allocations[region.allocation as usize].bytes;
        if fits { Ok(()) } else { Err(format!("{region:?} is outside its allocation")) }
    };
    let mut memory = Memory::default();
    for upload in &plan.uploads {
        inside(&upload.region)?;
        if plan.uploads.iter().any(|other| other != upload && overlap(&other.region, &upload.region)) {
            return Err(format!("{upload:?} overlaps another constant"));
        }
    }
    for (port, id) in entry.inputs.iter().zip(graph.inputs()) {
        inside(&port.region)?;
        memory.write(&port.region, &graph.node(*id).name);
    }
    let sizes = sampled(entry);
    for step in &entry.steps {
        match step {
            Step::Host(step) => {
                let id = by_name[step.node.as_str()];
                for (port, value) in step.inputs.iter().zip(graph.operands(id)) {
                    let (Some(port), Some(value)) = (port, value) else { continue };
                    if is_constant(graph, maker(graph, value)) {
                        let covers = |upload: &Region| {
                            upload.offset <= port.region.offset
                                && port.region.offset + port.region.bytes <= upload.offset + upload.bytes
                        };
                        if !plan
                            .uploads
                            .iter()
                            .any(|u| u.region.allocation == port.region.allocation && covers(&u.region))
                        {
                            return Err(format!(
                                "{} reads {:?}, to which no constant is uploaded",
                                step.node, port.region
                            ));
                        }
                    } else {
                        memory.read(&port.region, &BTreeSet::from([owners_of(value)]), &step.node)?;
                    }
                }
                step.outputs.iter().for_each(|port| memory.write(&port.region, &step.node));
            }
            Step::Device(dispatches) => {
                // Segments are submitted one after the other, and waited for.
                let mut since: Vec<&Dispatch> = Vec::new();
                for dispatch in dispatches {
                    one(dispatch, &by_name, graph, &mut memory, &kind, &inside)?;
                    order(dispatch, &mut since, &sizes)?;
                }
            }
        }
    }
    notes(plan)?;
    for (port, output) in entry.outputs.iter().zip(graph.outputs()) {
        if !is_constant(graph, maker(graph, output.value)) {
            memory.read(&port.region, &BTreeSet::from([owners_of(output.value)]), &format!("output {}", port.name))?;
        }
    }
    let allocated: u64 =
        plan.allocations.iter().filter(|a| a.kind != AllocationKind::Staging || target_unified).map(|a| a.bytes).sum();
    let l = &plan.ledger;
    let ledger = l.weights + l.constants + l.activations + l.workspace + l.io + l.state + l.staging;
    if allocated != plan.planned_peak_bytes
        || ledger != plan.planned_peak_bytes
        || plan.lower_bound_bytes > plan.planned_peak_bytes
    {
        return Err(format!(
            "planned {}, allocated {allocated}, ledger {ledger}, bound {}",
            plan.planned_peak_bytes, plan.lower_bound_bytes
        ));
    }
    if plan.planned_peak_bytes + plan.reserve_bytes > plan.budget_bytes {
        return Err(format!(
            "planned {} with {} in reserve, the budget is {}",
            plan.planned_peak_bytes, plan.reserve_bytes, plan.budget_bytes
        ));
    }
    Ok(())
}

/// What a dispatch notes of indices out of range is read when the run is over: nothing else touches it, and it is
/// written by its own dispatch.
fn notes(plan: &Plan) -> Result<(), String> {
    let entry = &plan.entries[0];
    let (mut notes, mut others): (Vec<Region>, Vec<Region>) = (Vec::new(), Vec::new());
    others.extend(entry.inputs.iter().chain(&entry.outputs).map(|port| port.region));
    others.extend(plan.uploads.iter().map(|upload| upload.region));
    for step in &entry.steps {
        match step {
            Step::Host(step) => {
                others.extend(step.inputs.iter().flatten().chain(&step.outputs).map(|port| port.region))
            }
            Step::Device(dispatches) => {
                for dispatch in dispatches {
                    let own = dispatch.check.as_ref().map(|check| check.binding);
                    if own.is_some_and(|binding| !dispatch.writes.contains(&binding)) {
                        return Err(format!("{} does not write what it notes", dispatch.node));
                    }
                    for (i, region) in dispatch.bindings.iter().enumerate() {
                        if own == Some(i as u32) { notes.push(*region) } else { others.push(*region) }
                    }
                }
            }
        }
    }
    for (i, note) in notes.iter().enumerate() {
        if let Some(other) = others.iter().chain(&notes[..i]).find(|other| overlap(note, other)) {
            return Err(format!("{other:?} overlaps the note {note:?}"));
        }
    }
    Ok(())
}

/// The dispatch that clears what magnitudes are noted in.
const CLEAR: &str = "magnitudes";

fn one(
    dispatch: &Dispatch,
    by_name: &BTreeMap<&str, NodeId>,
    graph: &Graph,
    memory: &mut Memory,
    kind: &dyn Fn(&Region) -> AllocationKind,
    inside: &dyn Fn(&Region) -> Result<(), String>,
) -> Result<(), String> {
    let mut owners = BTreeSet::new();
    match by_name.get(dispatch.node.as_str()) {
        Some(id) => {
            for made in graph.operands(*id).into_iter().flatten().map(|v| maker(graph, v)) {
                owners.insert(graph.node(made).name.clone());
                // The kernels that make a value note its magnitude, each in the same word.
                if graph.node(made).op().is_some_and(|op| op.def.name == "magnitude") {
                    let of = graph.operands(made).into_iter().flatten().map(|v| maker(graph, v));
                    owners.extend(of.map(|noted| graph.node(noted).name.clone()));
                }
            }
        }
        // What magnitudes are noted in begins at 0: of no node, and it reads nothing.
        None if dispatch.node == CLEAR && dispatch.writes.len() == dispatch.bindings.len() => {}
        None => return Err(format!("the graph has no node {:?}", dispatch.node)),
    }
    // A node of several dispatches goes on with what it wrote.
    owners.insert(dispatch.node.clone());
    let is_write = |i: usize| dispatch.writes.contains(&(i as u32));
    for (i, region) in dispatch.bindings.iter().enumerate() {
        inside(region)?;
        for (j, other) in dispatch.bindings.iter().enumerate() {
            if is_write(i) && i != j && overlap(region, other) {
                return Err(format!("{} writes {region:?} and binds {other:?} as well", dispatch.node));
            }
        }
        if !is_write(i) && kind(region) == AllocationKind::Arena {
            memory.read(region, &owners, &dispatch.node)?;
        }
    }
    for (i, region) in dispatch.bindings.iter().enumerate().filter(|(i, _)| is_write(*i)) {
        if kind(region) != AllocationKind::Arena {
            return Err(format!("{} writes binding {i} outside the arena", dispatch.node));
        }
        memory.write(region, &dispatch.node);
    }
    Ok(())
}

/// Sizes of an entry to look at: the ends of each range, and on either side of where kernels take turns.
fn sampled(entry: &Entry) -> Vec<Sizes> {
    const TURNS: [i64; 19] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 63, 64, 65, 128, 256, 257, 1024, 16_384];
    let mut all = vec![Sizes::new()];
    for range in &entry.sizes {
        let within = TURNS.iter().copied().filter(|n| (range.min..=range.max).contains(n));
        let values: BTreeSet<i64> = within.chain([range.min, range.max]).collect();
        all = all
            .into_iter()
            .flat_map(|sizes| {
                values.iter().map(move |n| {
                    let mut sizes = sizes.clone();
                    sizes.insert(range.name.clone(), *n);
                    sizes
                })
            })
            .take(5000)
            .collect();
    }
    all
}

/// Whether a dispatch has workgroups.
fn runs(dispatch: &Dispatch, sizes: &Sizes) -> bool {
    dispatch.groups.iter().all(|n| n.eval(&|name| sizes.get(name).copied()).is_none_or(|n| n > 0))
}

/// Whether two dispatches write different elements of one result: of the same pitch, in slices that are within it, and
/// one behind the other.
fn different(a: &Dispatch, b: &Dispatch, sizes: &Sizes) -> bool {
    let numbers = |d: &Dispatch| {
        let result_slice = d.result_slice.as_ref()?;
        let number = |dim: &nyxc::ir::Dim| dim.eval(&|name| sizes.get(name).copied());
        let (pitch, first, end) = (
            number(&result_slice.pitch)?,
            number(&result_slice.first)?,
            number(&(&result_slice.first + &result_slice.width))?,
        );
        (0 <= first && first <= end && end <= pitch).then_some((pitch, first, end))
    };
    match (numbers(a), numbers(b)) {
        (Some((pitch, first, end)), Some((other_pitch, other_first, other_end))) => {
            pitch == other_pitch && (end <= other_first || other_end <= first)
        }
        _ => false,
    }
}

/// Dispatches that touch the same bytes, one of them writing, have a barrier between them, unless they write different
/// elements of one result, or at no sizes run both.
fn order<'a>(dispatch: &'a Dispatch, since: &mut Vec<&'a Dispatch>, sizes: &[Sizes]) -> Result<(), String> {
    if dispatch.barrier {
        since.clear();
    }
    let writes = |d: &Dispatch, i: usize| d.writes.contains(&(i as u32));
    for earlier in since.iter() {
        for (i, region) in dispatch.bindings.iter().enumerate() {
            for (j, other) in earlier.bindings.iter().enumerate() {
                if !overlap(region, other) || !(writes(dispatch, i) || writes(earlier, j)) {
                    continue;
                }
                let both_write = writes(dispatch, i) && writes(earlier, j) && region == other;
                let is_fine = |sizes: &Sizes| {
                    let together = runs(dispatch, sizes) && runs(earlier, sizes);
                    !together || (both_write && different(dispatch, earlier, sizes))
                };
                if !sizes.iter().all(is_fine) {
                    return Err(format!(
                        "{} needs a barrier before it, for {region:?} that {} touches",
                        dispatch.node, earlier.node
                    ));
                }
            }
        }
    }
    since.push(dispatch);
    Ok(())
}
