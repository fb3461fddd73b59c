//! Number formats of GGUF files: those read as blocks, those expanded, and unsupported ones.

use candle_core::quantized::GgmlDType;
use half::f16;

use crate::weights::FloatType;

/// The number format of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BlockType {
    /// Plain numbers.
    Float(FloatType),
    /// Blocks that matrix products use directly.
    Quantised(GgmlDType),
    /// Blocks that are expanded to f32 when they are read.
    Expanded(Expanded),
}

/// Four-bit formats whose values are entries of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expanded {
    /// 32 values: an f16 scale and 16 bytes.
    Iq4Nl,
    /// 256 values: an f16 scale, eight six-bit scales and 128 bytes.
    Iq4Xs,
    /// 32 values: a power of two and 16 bytes.
    Mxfp4,
}

/// Values of four bits in IQ4_NL and IQ4_XS.
const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];
/// Twice the values of four bits in MXFP4.
const FP4: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];
/// Unsupported types by code, for messages.
const UNREAD: [(u32, &str); 19] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
];

/// The message about an unsupported tensor type, with an alternative.
pub(super) fn refusal(code: u32) -> String {
    let name = UNREAD.iter().find(|(unread, _)| *unread == code);
    let name = name.map_or_else(|| code.to_string(), |(_, name)| (*name).to_owned());
    format!("tensor type {name} is not read; take the model in Q4_K_M, Q8_0, IQ4_NL, bf16 or f16")
}

impl BlockType {
    pub(super) fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Float(FloatType::F32),
            1 => Self::Float(FloatType::F16),
            30 => Self::Float(FloatType::Bf16),
            2 => Self::Quantised(GgmlDType::Q4_0),
            3 => Self::Quantised(GgmlDType::Q4_1),
            6 => Self::Quantised(GgmlDType::Q5_0),
            7 => Self::Quantised(GgmlDType::Q5_1),
            8 => Self::Quantised(GgmlDType::Q8_0),
            10 => Self::Quantised(GgmlDType::Q2K),
            11 => Self::Quantised(GgmlDType::Q3K),
            12 => Self::Quantised(GgmlDType::Q4K),
            13 => Self::Quantised(GgmlDType::Q5K),
            14 => Self::Quantised(GgmlDType::Q6K),
            20 => Self::Expanded(Expanded::Iq4Nl),
            23 => Self::Expanded(Expanded::Iq4Xs),
            39 => Self::Expanded(Expanded::Mxfp4),
            _ => return None,
        })
    }

    /// Values and bytes of one block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::Float(float) => (1, float.bytes()),
            Self::Quantised(dtype) => (dtype.block_size(), dtype.type_size()),
            Self::Expanded(Expanded::Iq4Nl) => (32, 18),
            Self::Expanded(Expanded::Iq4Xs) => (256, 136),
            Self::Expanded(Expanded::Mxfp4) => (32, 17),
        }
    }
}

impl Expanded {
    /// The values of whole blocks, f32.
    pub(crate) fn expand(self, bytes: &[u8]) -> Vec<f32> {
        let (count, size) = BlockType::Expanded(self).block();
        let mut values = Vec::with_capacity(bytes.len() / size * count);
        for block in bytes.chunks_exact(size) {
            match self {
                Self::Iq4Nl => pairs(&block[2..], half(block), &IQ4, &mut values),
                Self::Mxfp4 => pairs(&block[1..], half_power(block[0]), &FP4, &mut values),
                Self::Iq4Xs => iq4_xs(block, &mut values),
            }
        }
        values
    }
}

/// 16 bytes, two values each: low bits are the first 16 values, high bits the second.
fn pairs(bytes: &[u8], scale: f32, table: &[f32; 16], values: &mut Vec<f32>) {
    let bytes = &bytes[..16];
    values.extend(
        bytes
            .iter()
            .map(|byte| scale * table[usize::from(byte & 15)]),
    );
    values.extend(
        bytes
            .iter()
            .map(|byte| scale * table[usize::from(byte >> 4)]),
    );
}

/// Scale, high bits of eight scales, low bits of eight scales, eight times 16 bytes.
fn iq4_xs(block: &[u8], values: &mut Vec<f32>) {
    let scale = half(block);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for index in 0..8 {
        let low = block[4 + index / 2] >> (4 * (index % 2)) & 15;
        let scale_bits = u16::from(low) | (high >> (2 * index) & 3) << 4;
        let own = scale * (f32::from(scale_bits) - 32.0);
        pairs(&block[8 + 16 * index..], own, &IQ4, values);
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// 2^(exponent - 128): half of the power that the byte encodes, since the table has doubled values.
fn half_power(exponent: u8) -> f32 {
    let bits = match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => (u32::from(exponent) - 1) << 23,
    };
    f32::from_bits(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scale of 1/2 and every byte 0xf0: low bits -127, high bits 113.
    #[test]
    fn a_block_by_hand() {
        let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend([0xf0; 16]);
        let values = Expanded::Iq4Nl.expand(&block);
        assert_eq!(values[..16], [-63.5; 16]);
        assert_eq!(values[16..], [56.5; 16]);
        // Exponent 129 means 4; 0x72 is 2 x 1 and 2 x 6.
        let mut block = vec![129];
        block.extend([0x72; 16]);
        let values = Expanded::Mxfp4.expand(&block);
        assert_eq!((values[0], values[31]), (4.0, 24.0));
    }

    #[test]
    fn refusals_name_the_type_and_another() {
        assert!(refusal(16).contains("IQ2_XXS is not read; take the model in Q4_K_M"));
        assert!(refusal(99).contains("tensor type 99"));
        assert!(
            UNREAD
                .iter()
                .all(|(code, _)| BlockType::from_code(*code).is_none())
        );
    }
}
