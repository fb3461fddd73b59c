//! Matrices of safetensors files with less than 16 bits per weight, converted to f32 when they are
//! read.
//!
//! | `quant_method` | weight | packed as |
//! |---|---|---|
//! | `bitsandbytes` (NF4, FP4) | `map[q] absmax[block]` | two 4-bit values per byte, high bits first, row after row |
//! | `gptq` (2, 4 or 8 bits) | `scale[g, o] (q - zero[g, o])`, `g = g_idx[i]` | along the inputs, low bits first |
//! | `awq` (4 bits, `gemm`) | `scale[g, o] (q - zero[g, o])`, `g = i / group` | along the outputs, in the order 0 2 4 6 1 3 5 7 |
//!
//! Values are rounded to the type of the scales, or to the type that bitsandbytes names, as the
//! programs that wrote the files do. `tools/golden/packed_weights.py` makes the references.

use serde::Deserialize;
use serde_json::Value;

use super::{FloatType, SafetensorsDirectory};
use crate::LmError;

/// Bits of the 32-bit words that `gptq` and `awq` pack values into.
const WORD_BITS: usize = 32;
/// Bits of a value of `awq`.
const AWQ_BITS: usize = 4;
/// The place of each of the eight columns of a word of `awq`.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
/// Maximum length of bitsandbytes' description of a matrix in bytes.
const MAX_STATE_BYTES: usize = 1 << 16;

/// How the matrices of a directory are packed, from the `quantization_config` of its `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// 4 bits of bitsandbytes.
    BitsAndBytes,
    /// GPTQ. Version 1 stores zero points less one.
    Gptq {
        /// What is added to a stored zero point.
        zero_offset: u32,
    },
    /// AWQ in the layout `gemm`.
    Awq,
}

impl Packing {
    /// Reads a `quantization_config`.
    ///
    /// # Errors
    /// The reason why weights of this kind are not read.
    pub(crate) fn parse(settings: &Value) -> Result<Self, String> {
        let text = |name: &str| settings.get(name).and_then(Value::as_str);
        let method = text("quant_method").unwrap_or("unknown");
        let refused = |detail: &str| {
            Err(format!(
                "weights quantised with {method}{detail} are not read; use f32, f16, bf16, 4 bits of bitsandbytes, GPTQ, \
                 AWQ or a .gguf file"
            ))
        };
        match method {
            "bitsandbytes" => match settings.get("load_in_4bit").and_then(Value::as_bool) {
                Some(true) => Ok(Self::BitsAndBytes),
                _ => refused(" in 8 bits"),
            },
            "gptq" => match text("checkpoint_format") {
                None | Some("gptq") => Ok(Self::Gptq { zero_offset: 1 }),
                Some("gptq_v2") => Ok(Self::Gptq { zero_offset: 0 }),
                Some(other) => refused(&format!(" in the format {other}")),
            },
            "awq" => match text("version").map(str::to_ascii_lowercase).as_deref() {
                None | Some("gemm") => Ok(Self::Awq),
                Some(other) => refused(&format!(" in the layout {other}")),
            },
            _ => refused(""),
        }
    }
}

/// A packed matrix of a directory.
pub(super) struct PackedMatrix<'d> {
    directory: &'d SafetensorsDirectory,
    /// The matrix's name, with `.weight`.
    name: &'d str,
    /// Number of rows.
    outputs: usize,
    /// Number of columns.
    inputs: usize,
}

/// bitsandbytes' description of a matrix.
#[derive(Deserialize)]
struct QuantState {
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    #[serde(default)]
    nested_offset: f32,
}

/// Words of packed values, row after row.
struct Words<'d> {
    bytes: &'d [u8],
    columns: usize,
}

impl Words<'_> {
    fn at(&self, row: usize, column: usize) -> u32 {
        let from = (row * self.columns + column) * 4;
        match self.bytes.get(from..from + 4) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }
}

impl<'d> PackedMatrix<'d> {
    pub(super) fn new(
        directory: &'d SafetensorsDirectory,
        name: &'d str,
        shape: [usize; 2],
    ) -> Self {
        let [outputs, inputs] = shape;
        Self {
            directory,
            name,
            outputs,
            inputs,
        }
    }

    /// The values, row after row; `None` if the directory has no packed matrix of this name.
    ///
    /// # Errors
    /// A part is missing, or its type or shape does not fit.
    pub(super) fn values(&self, packing: Option<Packing>) -> Result<Option<Vec<f32>>, LmError> {
        let holds = |part: &str| self.directory.holds(&self.part(part));
        match packing {
            Some(Packing::BitsAndBytes) => match self.state_name() {
                Some(state) => self.bits_and_bytes(&state).map(Some),
                None => Ok(None),
            },
            Some(Packing::Gptq { zero_offset }) if holds("qweight") => {
                self.gptq(zero_offset).map(Some)
            }
            Some(Packing::Awq) if holds("qweight") => self.awq().map(Some),
            _ => Ok(None),
        }
    }

    /// Name of a part of this matrix's layer.
    fn part(&self, part: &str) -> String {
        let layer = self.name.strip_suffix("weight").unwrap_or(self.name);
        format!("{layer}{part}")
    }

    /// Name of bitsandbytes' description of this matrix.
    fn state_name(&self) -> Option<String> {
        let kinds = ["nf4", "fp4"].into_iter();
        kinds
            .map(|kind| format!("{}.quant_state.bitsandbytes__{kind}", self.name))
            .find(|name| self.directory.holds(name))
    }

    fn bits_and_bytes(&self, state_name: &str) -> Result<Vec<f32>, LmError> {
        let text = self.directory.bytes(state_name, None)?;
        let parsed = (text.len() <= MAX_STATE_BYTES).then(|| serde_json::from_slice(text));
        let Some(Ok(state)): Option<Result<QuantState, _>> = parsed else {
            return Err(self
                .directory
                .fault(state_name, "is no description of bitsandbytes"));
        };
        if state.shape != [self.outputs, self.inputs] {
            let reason = format!(
                "describes a matrix of {:?}, where {:?} is needed",
                state.shape,
                [self.outputs, self.inputs]
            );
            return Err(self.directory.fault(state_name, &reason));
        }
        let rounding = match state.dtype.as_str() {
            "float32" => FloatType::F32,
            "float16" => FloatType::F16,
            "bfloat16" => FloatType::Bf16,
            _ => return Err(self.directory.fault(state_name, "names an unknown type")),
        };
        if state.blocksize == 0 {
            return Err(self.directory.fault(state_name, "has blocks of 0 values"));
        }
        let count = self.outputs.saturating_mul(self.inputs);
        let packed = self.directory.bytes(self.name, Some(count.div_ceil(2)))?;
        let map = self.floats("weight.quant_map", 16)?;
        let scales = self.block_scales(&state, count.div_ceil(state.blocksize))?;
        let value = |index: usize| {
            let byte = packed[index / 2];
            let code = if index.is_multiple_of(2) {
                byte >> 4
            } else {
                byte & 15
            };
            rounding.round(map[usize::from(code)] * scales[index / state.blocksize])
        };
        Ok((0..count).map(value).collect())
    }

    /// The scale of each block of bitsandbytes. Nested scales are 8-bit codes themselves.
    fn block_scales(&self, state: &QuantState, blocks: usize) -> Result<Vec<f32>, LmError> {
        let Some(nested) = state.nested_blocksize.filter(|&size| size > 0) else {
            return self.floats("weight.absmax", blocks);
        };
        let codes = self
            .directory
            .bytes(&self.part("weight.absmax"), Some(blocks))?;
        let map = self.floats("weight.nested_quant_map", 256)?;
        let outer = self.floats("weight.nested_absmax", blocks.div_ceil(nested))?;
        let scale = |(block, &code): (usize, &u8)| {
            map[usize::from(code)] * outer[block / nested] + state.nested_offset
        };
        Ok(codes.iter().enumerate().map(scale).collect())
    }

    fn gptq(&self, zero_offset: u32) -> Result<Vec<f32>, LmError> {
        let (name, [rows, _]) = self.grid("qweight")?;
        let bits = rows * WORD_BITS / self.inputs.max(1);
        if ![2, 4, 8].contains(&bits) || rows * WORD_BITS != self.inputs * bits {
            let reason = format!(
                "has {rows} rows: not 2, 4 or 8 bits for each of {} inputs",
                self.inputs
            );
            return Err(self.directory.fault(&name, &reason));
        }
        let words = self.words("qweight", [rows, self.outputs])?;
        let (_, [groups, _]) = self.grid("scales")?;
        let (scales, rounding) = self.scales(groups)?;
        let per_word = WORD_BITS / bits;
        let zeros = self.words("qzeros", [groups, self.outputs.div_ceil(per_word)])?;
        let group_of = self.groups(groups)?;
        let mask = (1u32 << bits) - 1;
        let value = |index: usize| {
            let (output, input) = (index / self.inputs, index % self.inputs);
            let group = group_of[input];
            let code = words.at(input / per_word, output) >> (input % per_word * bits) & mask;
            let zero = zeros.at(group, output / per_word) >> (output % per_word * bits) & mask;
            let zero = (zero + zero_offset) & mask;
            rounding.round(scales[group * self.outputs + output] * (code as f32 - zero as f32))
        };
        Ok((0..self.outputs * self.inputs).map(value).collect())
    }

    fn awq(&self) -> Result<Vec<f32>, LmError> {
        let per_word = WORD_BITS / AWQ_BITS;
        let columns = self.outputs.div_ceil(per_word);
        let words = self.words("qweight", [self.inputs, columns])?;
        let (name, [groups, _]) = self.grid("scales")?;
        if groups == 0 || !self.inputs.is_multiple_of(groups) {
            let reason = format!("has {groups} groups for {} inputs", self.inputs);
            return Err(self.directory.fault(&name, &reason));
        }
        let (scales, rounding) = self.scales(groups)?;
        let zeros = self.words("qzeros", [groups, columns])?;
        let size = self.inputs / groups;
        let code = |words: &Words<'_>, row: usize, output: usize| {
            let shift = AWQ_PLACES[output % per_word] * AWQ_BITS;
            (words.at(row, output / per_word) >> shift & 15) as f32
        };
        let value = |index: usize| {
            let (output, input) = (index / self.inputs, index % self.inputs);
            let group = input / size;
            let difference = code(&words, input, output) - code(&zeros, group, output);
            rounding.round(scales[group * self.outputs + output] * difference)
        };
        Ok((0..self.outputs * self.inputs).map(value).collect())
    }

    /// The group of each input, from `g_idx` or, without it, in order.
    fn groups(&self, groups: usize) -> Result<Vec<usize>, LmError> {
        let name = self.part("g_idx");
        if !self.directory.holds(&name) {
            let size = self.inputs.div_ceil(groups.max(1)).max(1);
            return Ok((0..self.inputs).map(|input| input / size).collect());
        }
        let words = Words {
            bytes: self.directory.bytes(&name, Some(self.inputs * 4))?,
            columns: self.inputs,
        };
        let group_of: Vec<usize> = (0..self.inputs).map(|i| words.at(0, i) as usize).collect();
        match group_of.iter().find(|&&group| group >= groups) {
            Some(group) => {
                let reason = format!("names group {group} of {groups}");
                Err(self.directory.fault(&name, &reason))
            }
            None => Ok(group_of),
        }
    }

    /// Name and shape of a part with two dimensions.
    fn grid(&self, part: &str) -> Result<(String, [usize; 2]), LmError> {
        let name = self.part(part);
        match *self.directory.shape(&name)? {
            [rows, columns] => Ok((name, [rows, columns])),
            _ => Err(self.directory.fault(&name, "has not two dimensions")),
        }
    }

    fn words(&self, part: &str, shape: [usize; 2]) -> Result<Words<'d>, LmError> {
        let name = self.part(part);
        self.directory.check_shape(&name, &shape)?;
        Ok(Words {
            bytes: self.directory.bytes(&name, Some(shape[0] * shape[1] * 4))?,
            columns: shape[1],
        })
    }

    fn scales(&self, groups: usize) -> Result<(Vec<f32>, FloatType), LmError> {
        let name = self.part("scales");
        self.directory.check_shape(&name, &[groups, self.outputs])?;
        self.directory.floats(&name)
    }

    /// A part with `count` floating-point values.
    fn floats(&self, part: &str, count: usize) -> Result<Vec<f32>, LmError> {
        let name = self.part(part);
        let (values, _) = self.directory.floats(&name)?;
        match values.len() == count {
            true => Ok(values),
            false => {
                let reason = format!("has {} values, where {count} are needed", values.len());
                Err(self.directory.fault(&name, &reason))
            }
        }
    }
}
