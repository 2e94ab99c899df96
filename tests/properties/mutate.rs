//! One change of a graph or a program, of whatever kind: each must be seen by `diff`, and nothing else.

use crate::random::Random;
use crate::{generate, say};
use nyxc::diff::{Diff, Side};
use nyxc::ir::{
    Attr, DType, Dim, Expr, Format, Graph, Level, Node, NodeId, NodeKind, Op, Shape, Tensor, Unary, ValueId,
};
use nyxc::ops;
use nyxc::passes::{DEFAULT, Pipeline, Settings};
use nyxc::program::{Plan, Program};
use nyxc::session::{Compile, compile};
use nyxc::targets::Target;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a node reads, by slot.
type Operands = Vec<Option<(usize, usize)>>;

/// A graph in parts that can be changed at will: values are a node's place in the list and one of its outputs.
#[derive(Clone)]
struct Parts {
    name: String,
    level: Level,
    nodes: Vec<(Node, Operands)>,
    outputs: Vec<(String, (usize, usize))>,
}

impl Parts {
    fn of(graph: &Graph) -> Parts {
        let order = graph.order();
        let places: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let value = |v: ValueId| (places[&v.node], v.out);
        let node = |id: &NodeId| {
            (graph.node(*id).clone(), graph.operands(*id).into_iter().map(|v| v.map(value)).collect::<Vec<_>>())
        };
        Parts {
            name: graph.name.clone(),
            level: graph.level,
            nodes: order.iter().map(node).collect(),
            outputs: graph.outputs().iter().map(|o| (o.name.clone(), value(o.value))).collect(),
        }
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new(&self.name, self.level);
        let mut ids: Vec<NodeId> = Vec::new();
        for (node, operands) in &self.nodes {
            ids.push(match &node.kind {
                NodeKind::Input => graph.add_input(&node.name, node.outputs[0].ty.clone()).node,
                _ => {
                    let operands: Vec<_> = operands.iter().map(|v| v.map(|(at, out)| ids[at].out(out))).collect();
                    graph.insert(node.clone(), &operands)
                }
            });
        }
        self.outputs.iter().for_each(|(name, (at, out))| graph.add_output(name, ids[*at].out(*out)));
        graph
    }

    /// The places of the nodes of which something holds; a random one of them.
    fn pick(&self, random: &mut Random, is: impl Fn(&Node, &[Option<(usize, usize)>]) -> bool) -> Option<usize> {
        let places: Vec<usize> = (0..self.nodes.len()).filter(|&at| is(&self.nodes[at].0, &self.nodes[at].1)).collect();
        (!places.is_empty()).then(|| random.pick(&places))
    }

    /// A value of a node before place `at`.
    fn earlier(&self, at: usize, random: &mut Random) -> Option<(usize, usize)> {
        let node = (at > 0).then(|| random.below(at))?;
        Some((node, random.below(self.nodes[node].0.outputs.len())))
    }

    /// Takes a node out; who read it reads what it read, or nothing.
    fn drop_node(&mut self, at: usize) {
        let instead = self.nodes[at].1.iter().flatten().next().copied();
        let moved = |(node, out): (usize, usize)| (if node > at { node - 1 } else { node }, out);
        let redirect = |v: (usize, usize)| if v.0 == at { instead } else { Some(v) };
        self.nodes.remove(at);
        for (_, operands) in &mut self.nodes {
            operands.iter_mut().for_each(|v| *v = v.and_then(redirect).map(moved));
        }
        self.outputs = self.outputs.drain(..).filter_map(|(name, v)| Some((name, moved(redirect(v)?)))).collect();
    }
}

fn is_op(node: &Node) -> bool {
    node.op().is_some()
}

const KINDS: &[&str] = &[
    "swap operands",
    "change attribute",
    "drop attribute",
    "change an element of a constant",
    "change element type",
    "change a dim",
    "rename node",
    "rename value",
    "rename output",
    "reorder outputs",
    "reorder inputs",
    "drop a node",
    "splice in a node",
    "add a dead node",
    "change format",
    "redirect operand",
    "drop operand",
    "add output",
    "drop output",
    "redirect output",
    "change origin",
    "change operator",
    "exchange names",
    "rename graph",
    "change level",
    "give a dim a range",
];

fn changed_attr(attr: &Attr, random: &mut Random) -> Attr {
    match attr {
        Attr::Int(v) => Attr::Int(v.wrapping_add(random.pick(&[-1, 1]))),
        Attr::Float(v) => Attr::Float(random.pick(&[f32::from_bits(v.to_bits() ^ 1), -v])),
        Attr::Str(v) => Attr::Str(format!("{v}x")),
        Attr::Ints(v) if v.is_empty() || random.chance(20) => Attr::Ints([&v[..], &[1]].concat()),
        Attr::Ints(v) => {
            let (mut v, at) = (v.clone(), random.below(v.len()));
            v[at] = v[at].wrapping_add(1);
            Attr::Ints(v)
        }
        Attr::Floats(v) => Attr::Floats([&v[..], &[0.5]].concat()),
        Attr::Strs(v) => Attr::Strs([&v[..], &["s".to_owned()]].concat()),
        Attr::Dims(v) => Attr::Dims([&v[..], &[Dim::Known(2)]].concat()),
        Attr::DType(v) => Attr::DType(if *v == DType::F16 { DType::F32 } else { DType::F16 }),
        Attr::Expr(v) => Attr::Expr(Expr::unary(Unary::Neg, v.clone())),
        Attr::Tensor(v) => Attr::Tensor(
            changed_element(v, random).unwrap_or_else(|| Tensor::from_i64s(DType::I64, &[1], &[7]).unwrap()),
        ),
        Attr::Graph(v) => {
            let mut body = (**v).clone();
            body.name.push('x');
            Attr::Graph(Box::new(body))
        }
    }
}

/// One bit of one element is another.
fn changed_element(tensor: &Tensor, random: &mut Random) -> Option<Tensor> {
    let mut bytes = tensor.bytes().ok()?.to_vec();
    let at = (!bytes.is_empty()).then(|| random.below(bytes.len()))?;
    bytes[at] ^= 1 << random.below(if tensor.dtype() == DType::Bool { 1 } else { 8 });
    Tensor::from_bytes(tensor.ty().clone(), bytes).ok()
}

/// One change of this kind, where the graph has what it takes.
fn mutated(parts: &Parts, kind: &str, random: &mut Random) -> Option<Parts> {
    let mut parts = parts.clone();
    match kind {
        "swap operands" => {
            let at = parts.pick(random, |_, operands| operands.windows(2).any(|w| w[0] != w[1]))?;
            let operands = &mut parts.nodes[at].1;
            let places: Vec<usize> = (1..operands.len()).filter(|&i| operands[i] != operands[i - 1]).collect();
            let i = random.pick(&places);
            operands.swap(i - 1, i);
        }
        "change attribute" | "drop attribute" => {
            let at = parts.pick(random, |node, _| node.op().is_some_and(|op| !op.attrs.0.is_empty()))?;
            let NodeKind::Op(op) = &mut parts.nodes[at].0.kind else { return None };
            let name = random.pick(&op.attrs.0.keys().cloned().collect::<Vec<_>>());
            let attr = op.attrs.0.remove(&name)?;
            if kind == "change attribute" {
                op.attrs.0.insert(name, changed_attr(&attr, random));
            }
        }
        "change an element of a constant" => {
            let at = parts.pick(random, |node, _| node.constant().is_some())?;
            let changed = changed_element(parts.nodes[at].0.constant()?, random)?;
            parts.nodes[at].0.kind = NodeKind::Const(changed);
        }
        "change element type" => {
            let at = parts.pick(random, |node, _| node.constant().is_none())?;
            let outputs = &mut parts.nodes[at].0.outputs;
            let out = random.below(outputs.len());
            let dtype = outputs[out].ty.dtype;
            outputs[out].ty.dtype = if dtype == DType::F32 { DType::F16 } else { DType::F32 };
        }
        "change a dim" | "give a dim a range" => {
            let at = parts.pick(random, |node, _| {
                node.constant().is_none() && node.outputs.iter().any(|v| v.ty.shape.rank() > 0)
            })?;
            let value = parts.nodes[at].0.outputs.iter_mut().find(|v| v.ty.shape.rank() > 0)?;
            let mut dims = value.ty.shape.0.clone();
            let axis = random.below(dims.len());
            dims[axis] = match kind {
                "change a dim" => &dims[axis] + &Dim::Known(1),
                _ => Dim::ranged("of_its_own", 1, random.int(2, 99)),
            };
            value.ty.shape = Shape(dims);
        }
        "rename node" => {
            let at = random.below(parts.nodes.len());
            let node = &mut parts.nodes[at].0;
            let old = node.name.clone();
            node.name.push_str(".renamed");
            node.outputs.iter_mut().filter(|v| v.name == old).for_each(|v| v.name.push_str(".renamed"));
        }
        "rename value" => {
            let at = parts.pick(random, |node, _| is_op(node))?;
            let outputs = &mut parts.nodes[at].0.outputs;
            let out = random.below(outputs.len());
            outputs[out].name.push_str(".value");
        }
        "rename output" => {
            let at = random.below(parts.outputs.len());
            parts.outputs[at].0.push_str(".port");
        }
        "reorder outputs" => {
            let at = (parts.outputs.len() > 1).then(|| random.below(parts.outputs.len() - 1))?;
            parts.outputs.swap(at, at + 1);
        }
        "reorder inputs" => {
            let n = parts.nodes.iter().filter(|(node, _)| matches!(node.kind, NodeKind::Input)).count();
            let at = (n > 1).then(|| random.below(n - 1))?;
            parts.nodes.swap(at, at + 1);
            let moved = |node: &mut usize| {
                *node = if *node == at {
                    at + 1
                } else if *node == at + 1 {
                    at
                } else {
                    *node
                }
            };
            parts.nodes.iter_mut().flat_map(|(_, operands)| operands).flatten().for_each(|v| moved(&mut v.0));
            parts.outputs.iter_mut().for_each(|(_, v)| moved(&mut v.0));
        }
        "drop a node" => {
            let at = parts.pick(random, |node, _| !matches!(node.kind, NodeKind::Input))?;
            parts.drop_node(at);
        }
        "splice in a node" | "add a dead node" => {
            let (at, out) = parts.earlier(parts.nodes.len(), random)?;
            let def = ops::registry().by_name("relu")?;
            let value = &parts.nodes[at].0.outputs[out];
            let new = nyxc::ir::Value { name: format!("{}.new", value.name), ty: value.ty.clone() };
            let node = Node::new(&new.name.clone(), NodeKind::Op(Op::new(def, Default::default())), vec![new]);
            if kind == "add a dead node" {
                parts.nodes.push((node, vec![Some((at, out))]));
            } else {
                let port = random.below(parts.outputs.len());
                let old = std::mem::replace(&mut parts.outputs[port].1, (parts.nodes.len(), 0));
                parts.nodes.push((node, vec![Some(old)]));
            }
        }
        "change format" => {
            let at = parts.pick(random, |node, _| is_op(node))?;
            let formats = [None, Some(Format::F32), Some(Format::F16), "w4a16".parse().ok(), "f16/w4:r3".parse().ok()];
            parts.nodes[at].0.format = random.pick(&formats);
        }
        "redirect operand" | "drop operand" => {
            let at = parts.pick(random, |_, operands| operands.iter().flatten().next().is_some())?;
            let slot = random.below(parts.nodes[at].1.len());
            parts.nodes[at].1[slot] = if kind == "drop operand" { None } else { parts.earlier(at, random) };
        }
        "add output" => {
            let value = parts.earlier(parts.nodes.len(), random)?;
            parts.outputs.push(("another".to_owned(), value));
        }
        "drop output" => {
            let at = (parts.outputs.len() > 1).then(|| random.below(parts.outputs.len()))?;
            parts.outputs.remove(at);
        }
        "redirect output" => {
            let at = random.below(parts.outputs.len());
            parts.outputs[at].1 = parts.earlier(parts.nodes.len(), random)?;
        }
        "change origin" => {
            let at = parts.pick(random, |node, _| is_op(node))?;
            parts.nodes[at].0.origin.push("elsewhere".to_owned());
        }
        "change operator" => {
            let at = parts.pick(random, |node, _| is_op(node))?;
            let NodeKind::Op(op) = &mut parts.nodes[at].0.kind else { return None };
            let all: Vec<_> = ops::registry().iter().collect();
            op.def = random.pick(&all);
        }
        "exchange names" => {
            let (a, b) = (parts.pick(random, |node, _| is_op(node))?, parts.pick(random, |node, _| is_op(node))?);
            let (x, y) = (parts.nodes[a].0.name.clone(), parts.nodes[b].0.name.clone());
            (parts.nodes[a].0.name, parts.nodes[b].0.name) = (y, x);
        }
        "rename graph" => parts.name.push('x'),
        "change level" => parts.level = if parts.level == Level::Core { Level::Kernel } else { Level::Core },
        _ => return None,
    }
    Some(parts)
}

/// All of a graph that its text has, and the content of its constants.
fn witness(graph: &Graph) -> String {
    let mut text = graph.to_string();
    let mut hashes: Vec<String> = Vec::new();
    graph.for_each_constant(&mut |t| hashes.push(nyxc::program::hex(t.hash())));
    hashes.sort();
    text.push_str(&hashes.join("\n"));
    text
}

/// A graph of a seed: as it was made or as a pass of the pipeline left it, some nodes with formats.
fn graph_of(seed: u64, random: &mut Random) -> Graph {
    let mut graph = generate::generate(seed).graph();
    let target = Target::shipped("lavapipe").unwrap();
    let n_passes = if random.chance(40) { 0 } else { random.below(DEFAULT.len() + 1) };
    let settings = Settings { policy: "uniform:w8a16".parse().unwrap(), ..Settings::default() };
    Pipeline::of(&DEFAULT[..n_passes], settings).unwrap().run(&mut graph, &target).map(|_| ()).unwrap();
    graph
}

/// What is wrong with a difference: a cause that is not there, or a text or document that says otherwise.
fn sound(diff: &Diff) -> Result<(), String> {
    for list in [&diff.nodes, &diff.kernels] {
        for change in list.iter().filter_map(|change| change.follows.as_ref()) {
            let is_cause = |c: &nyxc::diff::NodeChange| {
                c.follows.is_none() && (c.name == *change || c.renamed_from.as_ref() == Some(change))
            };
            if !diff.nodes.iter().any(is_cause) {
                return Err(format!("{change} is a cause and not there"));
            }
        }
    }
    let text = diff.to_string();
    let equal = text.ends_with("no difference\n");
    if equal != diff.is_empty() || diff.to_json()["equal"] != diff.is_empty() {
        return Err(format!("{} differences, but the text is\n{text}", diff.nodes.len()));
    }
    Ok(())
}

/// Changes graphs `n` times, and panics where one is not seen. Gives how often each kind was.
pub fn graphs(n: usize, from_seed: u64) -> BTreeMap<&'static str, usize> {
    let mut seen = BTreeMap::new();
    let mut total = 0;
    for seed in from_seed.. {
        let mut random = Random::new(seed ^ 0xd1ff);
        let parts = Parts::of(&graph_of(seed, &mut random));
        let (graph, again) = (parts.graph(), parts.graph());
        let text = witness(&graph);
        let same = Diff::of_graphs(&graph, &again);
        assert!(same.is_empty(), "seed {seed}: a graph differs from itself\n{same}");
        // The text reads back as the same.
        sound(&same).unwrap();
        for _ in 0..20 {
            let kind = random.pick(KINDS);
            let Some(changed) = mutated(&parts, kind, &mut random).map(|parts| parts.graph()) else { continue };
            if witness(&changed) == text {
                continue;
            }
            for (a, b) in [(&graph, &changed), (&changed, &graph)] {
                let diff = Diff::of_graphs(a, b);
                assert!(!diff.is_empty(), "seed {seed}: {kind} is not seen\n{a}\n{b}");
                sound(&diff).unwrap_or_else(|e| panic!("seed {seed}: {kind}: {e}\n{diff}"));
            }
            *seen.entry(kind).or_insert(0) += 1;
            total += 1;
            if total % 1000 == 0 && n > 1000 {
                say(&format!("{total} changes of graphs seen\n"));
            }
            if total == n {
                return seen;
            }
        }
    }
    seen
}

/// Every place of a document that is no list and no object.
fn leaves(value: &Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    let pointer =
        |path: &[String]| path.iter().map(|p| format!("/{}", p.replace('~', "~0").replace('/', "~1"))).collect();
    match value {
        Value::Array(items) => {
            found.push(pointer(path));
            for (i, item) in items.iter().enumerate() {
                path.push(i.to_string());
                leaves(item, path, found);
                path.pop();
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                path.push(key.clone());
                leaves(item, path, found);
                path.pop();
            }
        }
        _ => found.push(pointer(path)),
    }
}

/// A plan in which one field is another; `None` where no plan has that.
fn changed_plan(plan: &Plan, random: &mut Random) -> Option<(String, Plan)> {
    let before = serde_json::to_value(plan).ok()?;
    let mut places = Vec::new();
    leaves(&before, &mut Vec::new(), &mut places);
    // The text of the graph is that of a graph, whose changes are another test.
    places.retain(|place| place != "/graph");
    let place = random.pick(&places);
    let mut after = before.clone();
    let leaf = after.pointer_mut(&place)?;
    *leaf = match &*leaf {
        Value::Number(n) if n.is_u64() => Value::from(n.as_u64()? ^ (1 << random.below(4))),
        Value::Number(n) => Value::from(n.as_f64()? * 1.5 + 0.25),
        Value::String(text) => Value::from(format!("{text}x")),
        Value::Bool(b) => Value::from(!b),
        Value::Array(items) if !items.is_empty() => {
            let mut items = items.clone();
            let at = random.below(items.len());
            if random.chance(50) && items.len() > 1 {
                items.swap(at, random.below(at + 1));
            } else {
                items.remove(at);
            }
            Value::from(items)
        }
        _ => return None,
    };
    let plan: Plan = serde_json::from_value(after).ok()?;
    (serde_json::to_value(&plan).ok()? != before).then_some((place, plan))
}

/// Changes programs `n` times, and panics where one is not seen.
pub fn programs(n: usize, from_seed: u64) {
    let mut total = 0;
    let target = Target::shipped("lavapipe").unwrap();
    for seed in from_seed.. {
        let mut random = Random::new(seed ^ 0xd1ff);
        let policy = random.pick(&["uniform:w4a16", "budget", "uniform:f32"]);
        let settings = Settings { policy: policy.parse().unwrap(), ..Settings::default() };
        let options = Compile { settings, target: target.clone(), n_threads: 1 };
        let graph = generate::generate(seed).graph();
        let Ok(compiled) = compile(&graph, &options, &|_, _, _| {}, None) else { continue };
        let (program, graph) = (&compiled.program, &compiled.kernels);
        let differs = |other: &Program, what: &str| {
            let side = |program| Side { graph, program: Some(program), file: None };
            let diff = Diff::of(&side(program), &side(other));
            sound(&diff).unwrap_or_else(|e| panic!("seed {seed}: {what}: {e}\n{diff}"));
            !diff.is_empty()
        };
        assert!(!differs(program, "itself"), "seed {seed}: a program differs from itself");
        for _ in 0..50 {
            let mut other = program.clone();
            let what = match random.below(20) {
                0 => {
                    other.model.push('x');
                    "the model".to_owned()
                }
                1 => {
                    other.target.memory.heap_bytes += 1;
                    "the target".to_owned()
                }
                2 if !other.constants.is_empty() => {
                    let at = random.below(other.constants.len());
                    let Some((_, tensor)) = other.constants.shift_remove_index(at) else { continue };
                    if let Some(tensor) = changed_element(&tensor, &mut random).filter(|_| random.chance(70)) {
                        other.constants.insert(tensor.hash(), tensor);
                    }
                    "a constant".to_owned()
                }
                3 if !other.shaders.is_empty() => {
                    let at = random.below(other.shaders.len());
                    let Some((_, mut shader)) = other.shaders.shift_remove_index(at) else { continue };
                    shader.spirv.push(0);
                    other.shaders.insert(shader.hash(), shader);
                    "a shader".to_owned()
                }
                _ => {
                    let Some((place, plan)) = changed_plan(&other.plans[0], &mut random) else { continue };
                    other.plans[0] = plan;
                    place
                }
            };
            assert!(differs(&other, &what), "seed {seed}: a change of {what} is not seen");
            total += 1;
            if total == n {
                return;
            }
        }
    }
}
