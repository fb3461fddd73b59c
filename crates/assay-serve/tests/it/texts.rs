//! Scores, token rewards and rankings against the offline critic.

use std::sync::Arc;

use assay_evals::scores::sigmoid;
use assay_serve::{Batching, ServeSettings};
use assay_tasks::trace::ScoredTrace;
use assay_testkit::wave_reward;
use serde_json::{Value, json};

use crate::http::{answered, get, post, refused};
use crate::world::{
    POSITIONS, Running, models, models_of, offline, offline_by, poisoned, questions, tiny,
};

fn as_f32(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

/// Fails unless an entry has the bits of the offline trace.
fn assert_same(entry: &Value, trace: &ScoredTrace) {
    assert_scores(entry, trace);
    assert_eq!(
        as_f32(&entry["score"]).to_bits(),
        trace.scores["mean"].to_bits()
    );
}

fn assert_scores(entry: &Value, trace: &ScoredTrace) {
    assert!(!trace.scores.is_empty());
    for (name, score) in &trace.scores {
        let served = as_f32(&entry["scores"][name]);
        assert_eq!(
            served.to_bits(),
            score.to_bits(),
            "{name}: {served} {score}"
        );
    }
}

/// Texts of the same or of other questions, alone or together, always have the offline bits.
#[test]
fn scores_are_the_offline_bits_in_any_batch() {
    let pairs = questions();
    let expected = offline(&pairs);
    for (token_budget, requests) in [(4096, 64), (70, 64), (4096, 1)] {
        let settings = ServeSettings {
            batching: Batching {
                token_budget,
                requests,
            },
            ..ServeSettings::default()
        };
        let server = Arc::new(Running::new(models(None), settings));
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (server, pairs, expected) =
                    (Arc::clone(&server), pairs.clone(), expected.clone());
                std::thread::spawn(move || {
                    for round in 0..4 {
                        let first = (client + round) % pairs.len();
                        let count = 1 + (client * 3 + round) % 5;
                        let places: Vec<usize> =
                            (0..count).map(|i| (first + i) % pairs.len()).collect();
                        let traces: Vec<Value> = places
                            .iter()
                            .map(|&p| json!({ "question": pairs[p].0, "text": pairs[p].1 }))
                            .collect();
                        let answer = answered(&server, "/v1/score", &json!({ "traces": traces }));
                        for (entry, &place) in
                            answer["data"].as_array().unwrap().iter().zip(&places)
                        {
                            assert_same(entry, &expected[place]);
                        }
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
    }
}

#[test]
fn texts_come_alone_listed_or_by_other_names() {
    let server = Running::default_of(models(None));
    let pairs = questions();
    let (question, text) = &pairs[0];
    let wrong = text.replace("#### ", "#### 1");
    let expected = offline(&[
        (question.clone(), text.clone()),
        (question.clone(), wrong.clone()),
    ]);
    let one = answered(
        &server,
        "/v1/score",
        &json!({ "question": question, "text": text }),
    );
    assert_same(&one["data"][0], &expected[0]);
    assert_eq!(one["model"], "reward");
    let body = json!({ "text_1": question, "text_2": [text, wrong], "model": "reward" });
    let two = answered(&server, "/v1/score", &body);
    assert_same(&two["data"][1], &expected[1]);
    let prompt = expected[0].prompt_token_ids.len();
    let own: usize = expected.iter().map(|trace| trace.token_ids.len()).sum();
    assert_eq!(two["usage"]["total_tokens"], prompt + own);
    let last = json!({ "question": question, "text": text, "score": "last" });
    let last = answered(&server, "/v1/score", &last);
    assert_eq!(
        as_f32(&last["data"][0]["score"]),
        expected[0].scores["last"]
    );
}

#[test]
fn token_rewards_are_the_offline_bits() {
    let server = Running::default_of(models(None));
    let pairs = questions();
    let traces: Vec<Value> = pairs
        .iter()
        .map(|(question, text)| json!({ "question": question, "text": text }))
        .collect();
    for (name, factor) in [("reward", 1.0), ("other", 2.0)] {
        let model = tiny();
        let expected = offline_by(&model, &wave_reward(&model, factor), &pairs);
        let body = json!({ "traces": traces, "model": name });
        let answer = answered(&server, "/v1/rewards", &body);
        for (entry, trace) in answer["data"].as_array().unwrap().iter().zip(&expected) {
            assert_scores(entry, trace);
            let served = entry["rewards"].as_array().unwrap().iter().map(as_f32);
            let rewards: Vec<f32> = trace.token_rewards.iter().map(|r| r.unwrap()).collect();
            assert_eq!(served.collect::<Vec<_>>(), rewards);
            assert_eq!(entry["offsets"], json!(trace.token_offsets));
            let tokens: Vec<&str> = entry["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t.as_str().unwrap())
                .collect();
            assert_eq!(tokens.concat(), trace.text);
            let drops = rewards
                .windows(2)
                .map(|pair| f64::from(pair[0]) - f64::from(pair[1]));
            let largest = drops
                .enumerate()
                .reduce(|a, b| if b.1 > a.1 { b } else { a })
                .unwrap();
            assert_eq!(entry["predicted_error"]["token"], largest.0 + 1);
            assert_eq!(
                entry["predicted_error"]["suspicion"].as_f64().unwrap(),
                largest.1
            );
            if name == "other" {
                let last = f64::from(trace.scores["last"]);
                assert_eq!(entry["score"], json!(trace.scores["last"]));
                let expected = 1.0 / (1.0 + (1.0 - 2.0 * last).exp());
                assert!((entry["probability"].as_f64().unwrap() - expected).abs() < 1e-12);
            } else {
                assert_eq!(entry["probability"], Value::Null);
            }
        }
    }
}

#[test]
fn rerank_has_its_shape_on_every_route() {
    let server = Running::default_of(models(None));
    let (question, text) = questions()[0].clone();
    let texts: Vec<String> = (0..5).map(|n| format!("{text}{n}")).collect();
    let pairs: Vec<(String, String)> = texts
        .iter()
        .map(|t| (question.clone(), t.clone()))
        .collect();
    let expected = offline(&pairs);
    let mut order: Vec<usize> = (0..5).collect();
    order.sort_by(|&a, &b| expected[b].scores["mean"].total_cmp(&expected[a].scores["mean"]));
    for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
        let documents = json!([texts[0], { "text": texts[1] }, texts[2], texts[3], { "text": texts[4], "id": 4 }]);
        let body = json!({
            "model": "reward", "query": question, "documents": documents, "top_n": 3,
            "return_documents": true, "max_tokens_per_doc": 4096,
        });
        let answer = answered(&server, path, &body);
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), 3);
        for (result, &place) in results.iter().zip(&order) {
            assert_eq!(result["index"], place);
            let score = f64::from(expected[place].scores["mean"]);
            assert_eq!(result["relevance_score"].as_f64().unwrap(), sigmoid(score));
            assert_eq!(f64::from(as_f32(&result["score"])), score);
            assert_eq!(result["document"]["text"], texts[place]);
        }
        let plain = json!({ "query": question, "documents": texts, "top_n": 99 });
        let plain = answered(&server, path, &plain);
        assert_eq!(plain["results"].as_array().unwrap().len(), 5);
        assert!(plain["results"][0].get("document").is_none());
    }
}

#[test]
fn unusable_texts_are_refused_by_name() {
    let server = Running::default_of(models(None));
    let long = "1+".repeat(POSITIONS);
    let many: Vec<&str> = vec!["1"; 257];
    let huge = "1".repeat((1 << 16) + 1);
    for (path, body, status, code, param) in [
        (
            "/v1/score",
            json!({ "question": "1" }),
            400,
            "missing_field",
            "text",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": "1", "traces": [] }),
            400,
            "missing_field",
            "text",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": [] }),
            400,
            "invalid_value",
            "text",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": ["1", " \n"] }),
            400,
            "invalid_value",
            "text[1]",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": 5 }),
            400,
            "invalid_value",
            "text",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": many }),
            400,
            "invalid_value",
            "text",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": huge }),
            400,
            "invalid_value",
            "text",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": long }),
            400,
            "context_length_exceeded",
            "text",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": "1", "model": "gpt" }),
            404,
            "model_not_found",
            "model",
        ),
        (
            "/v1/score",
            json!({ "question": "1", "text": "1", "score": "length" }),
            400,
            "invalid_value",
            "score",
        ),
        (
            "/v1/rewards",
            json!({ "question": "1", "text": "1", "predictor": "entropy" }),
            400,
            "invalid_value",
            "predictor",
        ),
        (
            "/v1/rerank",
            json!({ "documents": ["1"] }),
            400,
            "invalid_value",
            "query",
        ),
        (
            "/v1/rerank",
            json!({ "query": "1", "documents": [] }),
            400,
            "invalid_value",
            "documents",
        ),
        (
            "/v1/rerank",
            json!({ "query": "1", "documents": ["1"], "top_n": 0 }),
            400,
            "invalid_value",
            "top_n",
        ),
        (
            "/v1/rerank",
            json!({ "query": "1", "documents": ["1"], "top_n": -1 }),
            400,
            "invalid_value",
            "top_n",
        ),
    ] {
        assert_eq!(
            refused(&server, path, &body),
            (status, code.to_owned(), json!(param)),
            "{path}"
        );
    }
}

/// One request's text makes the model fail; requests that share its pass still get the right
/// numbers.
#[test]
fn a_failing_request_does_not_harm_its_neighbours() {
    let pairs: Vec<(String, String)> = questions()
        .into_iter()
        .filter(|(question, text)| !question.contains('6') && !text.contains('6'))
        .collect();
    assert!(pairs.len() >= 2);
    let model = poisoned("6");
    let expected = offline_by(&model, &wave_reward(&model, 1.0), &pairs);
    let server = Arc::new(Running::default_of(models_of(poisoned("6"), None)));
    for round in 0..50 {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (server, pair) = (Arc::clone(&server), pairs[client % pairs.len()].clone());
                std::thread::spawn(move || {
                    let text = if client == 2 {
                        format!("{}6", pair.1)
                    } else {
                        pair.1
                    };
                    post(
                        &server,
                        "/v1/score",
                        &json!({ "question": pair.0, "text": text }),
                    )
                })
            })
            .collect();
        for (client, answer) in clients.into_iter().enumerate() {
            let answer = answer.join().unwrap();
            if client == 2 {
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (500, "model_failed")
                );
            } else {
                assert_eq!(answer.status, 200, "{}", answer.text);
                assert_same(&answer.json()["data"][0], &expected[client % pairs.len()]);
            }
        }
        let text = get(&server, "/metrics").text;
        let count = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let alone = count("assay_batch_requests_bucket{kind=\"score\",le=\"1\"}");
        if round >= 2 && count("assay_batch_requests_count{kind=\"score\"}") > alone {
            return;
        }
    }
    panic!("no pass was ever shared");
}
