//! A SPIR-V module read word by word (SPIR-V 1.6, sections 2.3 and 3), apart from nyxc's own reader: what it asks of a
//! device, and which buffers it writes.

use nyxc::targets::Target;
use std::collections::{BTreeMap, BTreeSet};

/// What a module says of itself.
#[derive(Debug, Default)]
pub struct Module {
    pub capabilities: BTreeSet<u32>,
    pub extensions: BTreeSet<String>,
    pub local_size: Vec<u32>,
    pub shared_bytes: u64,
    /// Bindings of storage buffers, and those of them that a store or an atomic operation reaches.
    pub storage: BTreeSet<u32>,
    pub written: BTreeSet<u32>,
    pub opcodes: BTreeSet<u32>,
    /// Built-in variables, by their number in section 3.21.
    pub built_ins: BTreeSet<u32>,
    /// Scopes of barriers and atomics, as section 3.27 numbers them.
    pub scopes: BTreeSet<u32>,
    pub version: u32,
    /// Loops that the text had and that were not unrolled (OpLoopMerge).
    pub loops: usize,
}

enum Type {
    Number(u64),
    Many(u32, u32),
    Array(u32, u32),
    Struct(Vec<u32>),
    Pointer(u32),
}

/// Bytes of a type, as small as its members allow.
fn bytes(types: &BTreeMap<u32, Type>, constants: &BTreeMap<u32, u32>, id: u32) -> u64 {
    match &types[&id] {
        Type::Number(n) => *n,
        Type::Many(part, n) => bytes(types, constants, *part) * u64::from(*n),
        Type::Array(part, length) => bytes(types, constants, *part) * u64::from(constants[length]),
        Type::Struct(members) => members.iter().map(|m| bytes(types, constants, *m)).sum(),
        Type::Pointer(target) => bytes(types, constants, *target),
    }
}

impl Module {
    /// Reads a module; panics where it is none.
    pub fn read(words: &[u32]) -> Module {
        assert!(words.len() > 5 && words[0] == 0x0723_0203, "no SPIR-V");
        let mut m = Module { version: words[1], ..Module::default() };
        let (mut types, mut constants) = (BTreeMap::new(), BTreeMap::new());
        let (mut bindings, mut shared, mut roots) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        let (mut storage, mut stored, mut scopes) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 5;
        while at < words.len() {
            let (n, opcode) = ((words[at] >> 16) as usize, words[at] & 0xffff);
            assert!(
                n > 0 && at + n <= words.len(),
                "instruction {opcode} at word {at} has {n} words of {}",
                words.len() - at
            );
            let w = &words[at + 1..at + n];
            m.opcodes.insert(opcode);
            match opcode {
                17 => {
                    m.capabilities.insert(w[0]);
                }
                10 => {
                    m.extensions.insert(string(w));
                }
                16 if w[1] == 17 => m.local_size = w[2..5].to_vec(),
                71 if w[1] == 33 => {
                    bindings.insert(w[0], w[2]);
                }
                71 if w[1] == 11 => {
                    m.built_ins.insert(w[2]);
                }
                20 => {
                    types.insert(w[0], Type::Number(4));
                }
                21 | 22 => {
                    types.insert(w[0], Type::Number(u64::from(w[1] / 8)));
                }
                23 | 24 => {
                    types.insert(w[0], Type::Many(w[1], w[2]));
                }
                28 => {
                    types.insert(w[0], Type::Array(w[1], w[2]));
                }
                30 => {
                    types.insert(w[0], Type::Struct(w[1..].to_vec()));
                }
                32 => {
                    types.insert(w[0], Type::Pointer(w[2]));
                }
                43 => {
                    constants.insert(w[1], w[2]);
                }
                59 => match w[2] {
                    4 => shared.push(w[0]),
                    12 => storage.push(w[1]),
                    2 => assert!(types.contains_key(&w[0])),
                    _ => {}
                },
                // OpAccessChain, OpInBoundsAccessChain and OpCopyObject lead from one pointer to another.
                65 | 66 | 83 => {
                    roots.insert(w[1], w[2]);
                }
                62 => stored.push(w[0]),
                246 => m.loops += 1,
                228 => {
                    stored.push(w[0]);
                    scopes.push(w[1]);
                }
                229..=242 => stored.push(w[2]),
                // Execution and memory scope of OpControlBarrier, memory scope of OpMemoryBarrier.
                224 => scopes.extend([w[0], w[1]]),
                225 => scopes.push(w[0]),
                _ => {}
            }
            if (229..=242).contains(&opcode) {
                scopes.push(w[3]);
            }
            at += n;
        }
        // Without calls every pointer is found by following chains.
        assert!(!m.opcodes.contains(&57), "a function is called: not all was inlined");
        let root = |mut id: u32| {
            while let Some(&next) = roots.get(&id) {
                id = next;
            }
            id
        };
        m.storage = storage.iter().map(|id| bindings[id]).collect();
        let written: BTreeSet<u32> = stored.into_iter().map(root).collect();
        m.written = storage.iter().filter(|id| written.contains(id)).map(|id| bindings[id]).collect();
        m.shared_bytes = shared.into_iter().map(|ty| bytes(&types, &constants, ty).next_multiple_of(4)).sum();
        m.scopes = scopes.into_iter().map(|id| constants[&id]).collect();
        m
    }

    /// What the module asks for that `target` does not have, and of subgroups everything but arithmetic over all of
    /// one, where it has no cooperative matrices, which are those of subgroups.
    pub fn faults(&self, target: &Target) -> Vec<String> {
        let (f, l) = (&target.features, &target.limits);
        let mut faults = Vec::new();
        let has_matrices = self.capabilities.contains(&6022);
        for &capability in &self.capabilities {
            let has = match capability {
                1 => true,
                9 => f.f16_arithmetic,
                39 => f.int8_arithmetic,
                4433 => f.storage_16bit,
                4448 => f.storage_8bit,
                6017..=6019 => f.integer_dot_product,
                61 => f.subgroup_arithmetic || has_matrices,
                63 => f.subgroup_arithmetic,
                65 => has_matrices,
                5345 | 6022 => f.cooperative_matrix,
                _ => false,
            };
            faults.extend((!has).then(|| format!("capability {capability}")));
        }
        for extension in &self.extensions {
            let has = match extension.as_str() {
                "SPV_KHR_storage_buffer_storage_class" => true,
                "SPV_KHR_16bit_storage" => f.storage_16bit,
                "SPV_KHR_8bit_storage" => f.storage_8bit,
                "SPV_KHR_integer_dot_product" => f.integer_dot_product,
                "SPV_KHR_cooperative_matrix" | "SPV_KHR_vulkan_memory_model" => f.cooperative_matrix,
                _ => false,
            };
            faults.extend((!has).then(|| format!("extension {extension}")));
        }
        if self.version > 0x0001_0300 {
            faults.push(format!("SPIR-V version {:#x}", self.version));
        }
        let invocations: u64 = self.local_size.iter().map(|&n| u64::from(n)).product();
        if self.local_size.len() != 3 || invocations > u64::from(l.max_compute_work_group_invocations) {
            faults.push(format!("{invocations} invocations, {} are allowed", l.max_compute_work_group_invocations));
        }
        if self.local_size.iter().zip(&l.max_compute_work_group_size).any(|(n, most)| n > most) {
            faults.push(format!("a workgroup of {:?}, at most {:?}", self.local_size, l.max_compute_work_group_size));
        }
        if self.shared_bytes > u64::from(l.max_compute_shared_memory_size) {
            faults.push(format!(
                "{} bytes of shared memory, at most {}",
                self.shared_bytes, l.max_compute_shared_memory_size
            ));
        }
        if self.storage.len() > l.max_per_stage_descriptor_storage_buffers as usize {
            faults.push(format!(
                "{} storage buffers, at most {}",
                self.storage.len(),
                l.max_per_stage_descriptor_storage_buffers
            ));
        }
        if has_matrices {
            return faults;
        }
        // OpSubgroup..., OpGroup... and OpGroupNonUniform... instructions of the core and of the extensions before it.
        let of_extension = |op: u32| matches!(op, 4421..=4432 | 5000..=5007 | 5296 | 5571..=5581 | 6401..=6408);
        let group = |op: &&u32| matches!(op, 259..=271 | 333..=366) || of_extension(**op);
        // OpGroupNonUniformElect, and OpGroupNonUniformIAdd to OpGroupNonUniformLogicalXor.
        let granted = |op: &&u32| !(f.subgroup_arithmetic && matches!(op, 333 | 349..=364));
        faults.extend(self.opcodes.iter().filter(group).filter(granted).map(|op| format!("subgroup instruction {op}")));
        // NumSubgroups, SubgroupId, SubgroupSize, SubgroupMaxSize, SubgroupLocalInvocationId and the masks.
        let built_in = |b: &&u32| match b {
            36 | 38 | 40 | 41 => !f.subgroup_arithmetic,
            37 | 39 | 4416..=4420 => true,
            _ => false,
        };
        faults.extend(
            self.built_ins.iter().filter(built_in).map(|b| format!("built-in {b}, which depends on the subgroup")),
        );
        // What a barrier of a subgroup orders depends on its size.
        faults.extend(self.scopes.contains(&3).then(|| "a barrier or atomic of the scope Subgroup".to_owned()));
        faults
    }
}

fn string(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).take_while(|b| *b != 0).collect();
    String::from_utf8(bytes).unwrap()
}
