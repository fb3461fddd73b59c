//! A run's metrics as a TensorBoard event file.
//!
//! An event file is a sequence of TFRecords: length (u64), its masked CRC-32C, the bytes, their
//! masked CRC-32C, all little-endian. The bytes are an `Event` message in protobuf's wire format:
//! `wall_time` (1, double), `step` (2, int64), `file_version` (3, string) or `summary` (5), whose
//! `value` (1) has `tag` (1, string) and `simple_value` (2, float).

use crate::metrics::IterationMetrics;

const VERSION: &[u8] = b"brain.Event:2";

/// The bytes of an event file: one event an iteration, one scalar per metric, the iteration as
/// step.
///
/// `end` is the time at which the last iteration ended, in seconds since 1970. The times of earlier
/// iterations follow from their `seconds`.
pub fn event_file(metrics: &[IterationMetrics], end: f64) -> Vec<u8> {
    let took = |row: &IterationMetrics| row.values.get("seconds").copied().unwrap_or(0.0);
    let mut time = end - metrics.iter().map(took).sum::<f64>();
    let mut file = Vec::new();
    let mut version = wall_time(time);
    bytes_field(&mut version, 3, VERSION);
    record(&mut file, &version);
    for row in metrics {
        time += took(row);
        let mut event = wall_time(time);
        varint(&mut event, 2 << 3);
        varint(&mut event, row.iteration as u64);
        let mut summary = Vec::new();
        for (tag, value) in &row.values {
            let mut scalar = Vec::new();
            bytes_field(&mut scalar, 1, tag.as_bytes());
            varint(&mut scalar, 2 << 3 | 5);
            scalar.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &scalar);
        }
        bytes_field(&mut event, 5, &summary);
        record(&mut file, &event);
    }
    file
}

fn wall_time(seconds: f64) -> Vec<u8> {
    let mut event = Vec::new();
    varint(&mut event, 1 << 3 | 1);
    event.extend(seconds.to_le_bytes());
    event
}

/// A length-delimited field.
fn bytes_field(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(message, number << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_crc(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked_crc(data).to_le_bytes());
}

/// A masked CRC-32C: rotated and shifted, because the CRC of data that contains CRCs is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record that TensorFlow writes first in an event file at time 0, checksums included.
    #[test]
    fn the_first_record_is_the_published_one() {
        let file = event_file(&[], 0.0);
        let mut expected = vec![24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22, 9];
        expected.extend([0; 8]);
        expected.extend([0x1a, 13]);
        expected.extend(b"brain.Event:2");
        assert_eq!(file[..expected.len()], expected);
        assert_eq!(file.len(), 12 + 24 + 4);
    }

    /// Iteration 300 (varint ac 02) with one metric a/b = 0.5; the event ends at second 7 after 2
    /// seconds.
    #[test]
    fn an_iteration_is_one_event_by_hand() {
        let mut row = IterationMetrics {
            iteration: 300,
            ..IterationMetrics::default()
        };
        row.set("seconds", 2.0).unwrap();
        row.set("a/b", 0.5).unwrap();
        let file = event_file(&[row], 7.0);
        assert_eq!(file[13..21], 5.0_f64.to_le_bytes());
        let event = &file[40 + 12..file.len() - 4];
        let mut expected = vec![9];
        expected.extend(7.0_f64.to_le_bytes());
        expected.extend([0x10, 0xac, 0x02, 0x2a, 28, 0x0a, 10, 0x0a, 3]);
        expected.extend(b"a/b");
        expected.push(0x15);
        expected.extend(0.5_f32.to_le_bytes());
        expected.extend([0x0a, 14, 0x0a, 7]);
        expected.extend(b"seconds");
        expected.push(0x15);
        expected.extend(2.0_f32.to_le_bytes());
        assert_eq!(event, expected);
        let crc = masked_crc(event).to_le_bytes();
        assert_eq!(file[file.len() - 4..], crc);
    }
}
