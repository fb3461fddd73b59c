//! A digest that identifies weight files by their contents, without reading all of a large one.

use std::ops::Range;

use sha2::{Digest, Sha256};

/// Maximum size in bytes of a file that is digested completely.
const WHOLE: usize = 64 << 20;
/// Bytes of each block of a longer one.
const BLOCK: usize = 1 << 20;
/// Number of blocks of a longer one, at equal distances from its first byte to its last.
const BLOCKS: usize = 32;

/// SHA-256, as lower-case hexadecimal, over the length and the blocks of every file in turn.
pub(super) fn fingerprint<'f>(files: impl Iterator<Item = &'f [u8]>) -> String {
    let mut hasher = Sha256::new();
    for bytes in files {
        hasher.update((bytes.len() as u64).to_le_bytes());
        for block in blocks(bytes.len()) {
            hasher.update(&bytes[block]);
        }
    }
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of a file of this length that are digested: header, first and last tensors among them.
fn blocks(length: usize) -> Vec<Range<usize>> {
    if length <= WHOLE {
        return std::iter::once(0..length).collect();
    }
    let starts = (0..BLOCKS).map(|index| (length - BLOCK) / (BLOCKS - 1) * index);
    let mut blocks: Vec<Range<usize>> = starts.map(|start| start..start + BLOCK).collect();
    blocks[BLOCKS - 1] = length - BLOCK..length;
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_files_are_digested_whole() {
        let known = Sha256::digest([&3_u64.to_le_bytes()[..], b"abc"].concat());
        let known: String = known.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(fingerprint([&b"abc"[..]].into_iter()), known);
        let two = |a, b| fingerprint([a, b].into_iter());
        assert_ne!(two(b"ab", b"c"), two(b"a", b"bc"));
    }

    #[test]
    fn digested_blocks_cover_both_ends() {
        let whole = blocks(WHOLE);
        assert_eq!((whole.len(), &whole[0]), (1, &(0..WHOLE)));
        let length = WHOLE + 12_345;
        let found = blocks(length);
        assert_eq!(found.len(), 32);
        assert_eq!((found[0].start, found[31].end), (0, length));
        assert!(found.iter().all(|block| block.len() == BLOCK));
        assert_eq!(found[1].start, (length - BLOCK) / 31);
        assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
