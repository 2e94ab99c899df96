//! What a SPIR-V module asks of its surroundings: read from the words, so that no driver ever sees a module that does
//! not fit its dispatch.
//!
//! Only the instructions that say so are looked at (SPIR-V 1.6, section 3.3: capabilities, entry points, execution
//! modes, annotations). A module is not validated here: that is the generator's duty, and the content hash holds what
//! it made.

use crate::targets::{Features, MatrixTypes};
use std::collections::{BTreeMap, BTreeSet};

/// What a module declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Descriptor bindings of set 0.
    pub bindings: BTreeSet<u32>,
    /// Numbers of the capabilities (SPIR-V 1.6, section 3.31).
    pub capabilities: BTreeSet<u32>,
    /// Invocations along x, y, z, where they are literal.
    pub local_size: Option<[u32; 3]>,
    /// Bytes of shared memory: the variables of the storage class Workgroup, without padding between their members.
    pub shared_bytes: u64,
    /// Cooperative matrices of a subgroup: bits of a component, rows, columns, use (0 and 1 for the operands, 2 for
    /// sums).
    pub matrices: BTreeSet<[u32; 4]>,
    /// SPIR-V version, major and minor.
    pub version: [u32; 2],
}

/// Why a module cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum SpirvError {
    #[error("no SPIR-V: {n_words} words that begin with {magic:#010x}")]
    Magic { n_words: usize, magic: u32 },
    #[error("the SPIR-V instruction at word {at} has {length} words of {left} left")]
    Length { at: usize, length: usize, left: usize },
    #[error("there is no compute entry point named main")]
    EntryPoint,
    #[error("a descriptor is in set {set}, only set 0 is bound")]
    Set { set: u32 },
    #[error("it needs {capability}, which the target lacks")]
    Capability { capability: String },
    #[error("it needs a cooperative matrix of {rows} x {columns} components of {bits} bits, which the target lacks")]
    Matrix { rows: u32, columns: u32, bits: u32 },
}

const MAGIC: u32 = 0x0723_0203;
const ENTRY_POINT: u32 = 15;
const EXECUTION_MODE: u32 = 16;
const CAPABILITY: u32 = 17;
const DECORATE: u32 = 71;
const VARIABLE: u32 = 59;
const GL_COMPUTE: u32 = 5;
const LOCAL_SIZE: u32 = 17;
const BINDING: u32 = 33;
const DESCRIPTOR_SET: u32 = 34;
const WORKGROUP: u32 = 4;
const TYPE_COOPERATIVE_MATRIX: u32 = 4456;
const SCOPE_SUBGROUP: u64 = 3;

impl Interface {
    /// Reads what a module declares.
    ///
    /// # Errors
    /// The words are no SPIR-V, or not a compute shader with `main` and descriptors in set 0 alone.
    pub fn read(words: &[u32]) -> Result<Interface, SpirvError> {
        let magic = words.first().copied().unwrap_or(0);
        if magic != MAGIC || words.len() < 5 {
            return Err(SpirvError::Magic { n_words: words.len(), magic });
        }
        let mut interface =
            Interface { version: [(words[1] >> 16) & 255, (words[1] >> 8) & 255], ..Interface::default() };
        let (mut at, mut main, mut bindings) = (5, false, BTreeMap::new());
        let mut sizes = Sizes::default();
        while let Some(&first) = words.get(at) {
            let (length, opcode) = ((first >> 16) as usize, first & 0xffff);
            let Some(operands) = words.get(at + 1..at + length).filter(|_| length > 0) else {
                return Err(SpirvError::Length { at, length, left: words.len() - at });
            };
            match (opcode, operands) {
                (CAPABILITY, [number]) => {
                    interface.capabilities.insert(*number);
                }
                (ENTRY_POINT, [GL_COMPUTE, _, name @ ..]) => {
                    main |= name.starts_with(&[u32::from_le_bytes(*b"main"), 0])
                }
                (EXECUTION_MODE, [_, LOCAL_SIZE, x, y, z]) => interface.local_size = Some([*x, *y, *z]),
                (DECORATE, [id, BINDING, number]) => {
                    bindings.insert(*id, *number);
                }
                (DECORATE, [_, DESCRIPTOR_SET, set]) if *set != 0 => return Err(SpirvError::Set { set: *set }),
                (VARIABLE, [pointer, _, WORKGROUP, ..]) => {
                    interface.shared_bytes = interface
                        .shared_bytes
                        .saturating_add(sizes.of(*pointer).checked_next_multiple_of(4).unwrap_or(u64::MAX));
                }
                (TYPE_COOPERATIVE_MATRIX, [_, component, scope, parts @ ..]) => {
                    let number = |id: &u32| sizes.constants.get(id).and_then(|&n| u32::try_from(n).ok()).unwrap_or(0);
                    let [rows, columns, role] = parts else {
                        return Err(SpirvError::Length { at, length, left: words.len() - at });
                    };
                    // Of another scope there are none here: no target has it.
                    let is_of_subgroup = sizes.constants.get(scope) == Some(&SCOPE_SUBGROUP);
                    let bits = if is_of_subgroup { sizes.of(*component).min(64) as u32 * 8 } else { 0 };
                    interface.matrices.insert([bits, number(rows), number(columns), number(role)]);
                }
                _ => sizes.note(opcode, operands),
            }
            at += length;
        }
        interface.bindings = bindings.into_values().collect();
        if main { Ok(interface) } else { Err(SpirvError::EntryPoint) }
    }

    /// Checks that every capability is one that Vulkan 1.1 has everywhere or that `features` grant, and every
    /// cooperative matrix one of its shapes.
    ///
    /// # Errors
    /// The first that is not.
    pub fn granted(&self, features: &Features) -> Result<(), SpirvError> {
        match self.capabilities.iter().find(|&&number| !granted(number, features)) {
            None => {}
            Some(&number) => return Err(SpirvError::Capability { capability: name(number) }),
        }
        let is_there = |[bits, rows, columns, role]: [u32; 4]| {
            features.matrix_shapes.iter().any(|shape| {
                let operand = if shape.types == MatrixTypes::F16 { 16 } else { 8 };
                [
                    [operand, shape.m, shape.k, 0],
                    [operand, shape.k, shape.n, 1],
                    [operand, shape.m, shape.n, 2],
                    [32, shape.m, shape.n, 2],
                ]
                .contains(&[bits, rows, columns, role])
            })
        };
        match self.matrices.iter().find(|matrix| !is_there(**matrix)) {
            None => Ok(()),
            Some(&[bits, rows, columns, _]) => Err(SpirvError::Matrix { rows, columns, bits }),
        }
    }
}

/// Bytes of types, and values of constants, by their number. A module defines each before its use, so one pass
/// suffices.
#[derive(Default)]
struct Sizes {
    bytes: BTreeMap<u32, u64>,
    constants: BTreeMap<u32, u64>,
}

impl Sizes {
    /// Looks at a type or a constant (SPIR-V 1.6, sections 3.42.6 and 3.42.7). A pointer has the size of what it points
    /// to.
    fn note(&mut self, opcode: u32, operands: &[u32]) {
        let (id, bytes) = match (opcode, operands) {
            // A truth value has no size of its own; drivers take a word.
            (20, [id]) => (id, 4),
            (21 | 22, [id, bits, ..]) => (id, u64::from(bits.div_ceil(8))),
            (23 | 24, [id, part, n]) => (id, self.of(*part).saturating_mul(u64::from(*n))),
            (28, [id, part, n]) => {
                (id, self.of(*part).saturating_mul(self.constants.get(n).copied().unwrap_or(u64::MAX)))
            }
            (30, [id, members @ ..]) => {
                (id, members.iter().fold(0, |n: u64, member| n.saturating_add(self.of(*member))))
            }
            (32, [id, _, target]) => (id, self.of(*target)),
            // Constants, and specialization constants at their default, which nobody changes here.
            (43 | 50, [_, id, low, high @ ..]) => {
                self.constants.insert(*id, u64::from(*low) | high.first().map_or(0, |high| u64::from(*high) << 32));
                return;
            }
            _ => return,
        };
        self.bytes.insert(*id, bytes);
    }

    fn of(&self, ty: u32) -> u64 {
        self.bytes.get(&ty).copied().unwrap_or(0)
    }
}

/// Capabilities that features grant: (number, name, feature). Those of subgroups beside arithmetic hang on
/// `VkPhysicalDeviceSubgroupProperties`, which the runtime checks; here they are granted.
type Grant = fn(&Features) -> bool;
const CAPABILITIES: &[(u32, &str, Grant)] = &[
    (0, "Matrix", |_| true),
    (1, "Shader", |_| true),
    (9, "Float16 (shaderFloat16)", |f| f.f16_arithmetic),
    (39, "Int8 (shaderInt8)", |f| f.int8_arithmetic),
    (50, "ImageQuery", |_| true),
    (61, "GroupNonUniform", |_| true),
    (62, "GroupNonUniformVote", |_| true),
    (63, "GroupNonUniformArithmetic", |f| f.subgroup_arithmetic),
    (64, "GroupNonUniformBallot", |_| true),
    (65, "GroupNonUniformShuffle", |_| true),
    (66, "GroupNonUniformShuffleRelative", |_| true),
    (67, "GroupNonUniformClustered", |_| true),
    (68, "GroupNonUniformQuad", |_| true),
    (4433, "StorageBuffer16BitAccess", |f| f.storage_16bit),
    (4448, "StorageBuffer8BitAccess", |f| f.storage_8bit),
    (5345, "VulkanMemoryModel", |f| f.cooperative_matrix),
    (6016, "DotProductInputAll", |f| f.integer_dot_product),
    (6017, "DotProductInput4x8Bit", |f| f.integer_dot_product),
    (6018, "DotProductInput4x8BitPacked", |f| f.integer_dot_product),
    (6019, "DotProduct", |f| f.integer_dot_product),
    (6022, "CooperativeMatrixKHR", |f| f.cooperative_matrix),
];

fn granted(number: u32, features: &Features) -> bool {
    CAPABILITIES.iter().any(|(n, _, grant)| *n == number && grant(features))
}

fn name(number: u32) -> String {
    CAPABILITIES
        .iter()
        .find(|(n, ..)| *n == number)
        .map_or_else(|| format!("capability {number}"), |(_, name, _)| (*name).to_owned())
}
