use std::sync::Arc;

use assay_ops::*;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};

use crate::attention::layout;
use crate::compare::tensor;

#[test]
fn shapes_that_do_not_fit_are_named() {
    let x = tensor(&[3, 8], 1);
    let error = rms_norm(&x, &tensor(&[7], 2), 1e-5).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rms_norm: weight has shape [7], expected [8]"
    );
    let error = linear(&x, &Matrix::Dense(tensor(&[5, 9], 2)), None, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "linear: x has shape [3, 8], expected [rows, 9]"
    );
    let (a, b) = (tensor(&[2, 8], 1), tensor(&[5, 3], 1));
    let lora = Lora {
        a: &a,
        b: &b,
        scale: 1.0,
        laid_out: None,
    };
    assert!(matches!(
        linear(&x, &Matrix::Dense(tensor(&[5, 8], 2)), None, Some(lora)),
        Err(OpsError::Shape { argument: "B", .. })
    ));
    assert!(swiglu(&x, &tensor(&[3, 9], 1)).is_err());
    assert!(reward_head(&x, &tensor(&[8], 1), &tensor(&[2], 1)).is_err());
    assert!(matches!(
        rms_norm(&x.to_dtype(DType::F64).unwrap(), &tensor(&[8], 2), 1e-5),
        Err(OpsError::ElementType { .. })
    ));
}

#[test]
fn indices_outside_are_named() {
    let table = Matrix::Dense(tensor(&[5, 4], 1));
    let ids: Arc<[u32]> = vec![0, 5].into();
    assert_eq!(
        embedding(&table, &ids).unwrap_err().to_string(),
        "embedding: token id 5 at row 1 is outside 0..5"
    );
    assert!(matches!(
        token_logprobs(&tensor(&[2, 4], 1), &table, &ids),
        Err(OpsError::Index {
            row: 1,
            index: 5,
            ..
        })
    ));
    assert!(matches!(
        token_logprobs(&tensor(&[3, 4], 1), &table, &ids),
        Err(OpsError::Length {
            expected: 3,
            found: 2,
            ..
        })
    ));
    let angles = RopeTable::new(&[1.0, 0.5], 5, &Device::Cpu).unwrap();
    assert!(matches!(
        rope(&tensor(&[2, 4], 1), &ids, &angles),
        Err(OpsError::Index {
            index: 5,
            limit: 5,
            ..
        })
    ));
    assert!(matches!(
        rope(&tensor(&[2, 6], 1), &ids, &angles),
        Err(OpsError::Shape { .. })
    ));
}

#[test]
fn attention_refuses_what_does_not_fit() {
    let shape = HeadShape {
        heads: 3,
        kv_heads: 2,
        head_dim: 4,
    };
    let spans = layout(&[(3, &[])]);
    let (q, k) = (tensor(&[3, 12], 1), tensor(&[3, 8], 1));
    assert!(matches!(
        grouped_attention(&q, &k, &k, &spans, shape),
        Err(OpsError::Heads { .. })
    ));
    let shape = HeadShape {
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
    };
    assert!(matches!(
        grouped_attention(&q, &k, &k, &spans, shape),
        Err(OpsError::Shape { argument: "q", .. })
    ));
    let mut cache = KvCache::new(2, 3, 8, &Device::Cpu, DType::F32).unwrap();
    let one = tensor(&[1, 8], 1);
    let row = |prompt, slot, len| CacheRows::new(vec![CacheRow { prompt, slot, len }]);
    assert!(matches!(
        cache.append(&one, &one, &row(0..3, 1, 0)),
        Err(OpsError::Index {
            index_of: "token",
            ..
        })
    ));
    assert!(matches!(
        cache.append(&one, &one, &row(0..3, 2, 1)),
        Err(OpsError::Index {
            index_of: "slot",
            ..
        })
    ));
    assert!(matches!(
        cache.append(&one, &one, &row(0..3, 1, 4)),
        Err(OpsError::Index {
            index_of: "token",
            ..
        })
    ));
    assert!(matches!(
        cached_attention(
            &one,
            PromptKeyValues {
                keys: &k,
                values: &k
            },
            &cache,
            &row(0..4, 0, 1),
            shape
        ),
        Err(OpsError::Index {
            index_of: "prompt row",
            ..
        })
    ));
    let var = candle_core::Var::from_tensor(&one).unwrap();
    assert!(matches!(
        cached_attention(
            &var,
            PromptKeyValues {
                keys: &k,
                values: &k
            },
            &cache,
            &row(0..3, 0, 1),
            shape
        ),
        Err(OpsError::Untracked { argument: "q", .. })
    ));
}

#[test]
fn quantised_matrices_refuse_bytes_that_do_not_fit() {
    assert!(matches!(
        QuantisedMatrix::new(GgmlDType::Q4_0, 2, 33, vec![0; 36]),
        Err(OpsError::PartialBlock { .. })
    ));
    let error = QuantisedMatrix::new(GgmlDType::Q4_0, 2, 32, vec![0; 35]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "quantised matrix Q4_0 [2, 32]: 35 bytes, expected 36"
    );
    let matrix = QuantisedMatrix::new(GgmlDType::Q4_0, 2, 32, vec![0; 36]).unwrap();
    assert!(matrix.select_rows(&[2]).is_err());
    assert!(matrix.dequantise_rows(1..3, &mut [0.0; 64]).is_err());
    assert!(matrix.dequantise_rows(0..1, &mut [0.0; 64]).is_err());
}
