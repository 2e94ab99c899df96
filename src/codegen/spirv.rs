//! Reading back what a shader asks of a device.

/// `OpCapability`'s number, SPIR-V 1.6 section 3.42.9.
const OP_CAPABILITY: u32 = 17;
/// Words of the header before the first instruction.
const HEADER_WORDS: usize = 5;

/// Capabilities that need a feature of the device, by their number in SPIR-V 1.6 section 3.31.
#[allow(missing_docs, reason = "SPIR-V's names")]
pub mod capability {
    pub const FLOAT16: u32 = 9;
    pub const FLOAT64: u32 = 10;
    pub const INT64: u32 = 11;
    pub const INT16: u32 = 22;
    pub const INT8: u32 = 39;
    pub const GROUP_NON_UNIFORM: u32 = 61;
    pub const GROUP_NON_UNIFORM_ARITHMETIC: u32 = 63;
    pub const STORAGE_BUFFER_16BIT_ACCESS: u32 = 4433;
    pub const STORAGE_BUFFER_8BIT_ACCESS: u32 = 4448;
    pub const DOT_PRODUCT_INPUT_4X8_BIT_PACKED: u32 = 6018;
    pub const DOT_PRODUCT: u32 = 6019;
    pub const SHADER: u32 = 1;
    pub const GROUP_NON_UNIFORM_SHUFFLE: u32 = 65;
    pub const VULKAN_MEMORY_MODEL: u32 = 5345;
    pub const COOPERATIVE_MATRIX: u32 = 6022;
}

/// The capabilities that a module declares, in its order.
pub fn capabilities(words: &[u32]) -> Vec<u32> {
    let mut found = Vec::new();
    let mut rest = words.get(HEADER_WORDS..).unwrap_or_default();
    while let [head, tail @ ..] = rest {
        let (n_words, opcode) = ((head >> 16) as usize, head & 0xffff);
        // Capabilities come before everything else.
        if opcode != OP_CAPABILITY || n_words < 2 {
            break;
        }
        found.extend(tail.first());
        rest = rest.get(n_words..).unwrap_or_default();
    }
    found
}
