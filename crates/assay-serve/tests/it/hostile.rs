//! Slow, huge, deeply nested, malformed, aborted and unauthorised requests: each is refused, and
//! the next one is answered.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use assay_serve::{Limits, ServeSettings, Token};
use serde_json::json;

use crate::http::{answered, connect, get, post, post_with, raw, read_all, request};
use crate::world::{Running, models, policy};

const SCORE: &str = r#"{"question": "1+1=", "text": "2"}"#;

fn server(change: impl FnOnce(&mut Limits)) -> Running {
    let mut settings = ServeSettings::default();
    change(&mut settings.limits);
    Running::new(models(policy()), settings)
}

fn is_alive(server: &Running) {
    answered(
        server,
        "/v1/score",
        &json!({ "question": "1+1=", "text": "2" }),
    );
}

fn code(text: &str) -> String {
    let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}"));
    value["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn endless_headers_are_closed() {
    let server = server(|limits| limits.header_timeout = Duration::from_millis(200));
    let mut silent = connect(&server);
    let mut slow = connect(&server);
    slow.write_all(b"POST /v1/score HTTP/1.1\r\nHost: 127")
        .unwrap();
    is_alive(&server);
    assert!(
        read_all(&mut slow).is_some(),
        "half a header is held for ever"
    );
    assert!(
        read_all(&mut silent).is_some(),
        "a silent connection is held for ever"
    );
    is_alive(&server);
}

#[test]
fn a_body_that_never_comes_is_refused() {
    let server = server(|limits| limits.body_timeout = Duration::from_millis(200));
    let whole = request("/v1/score", SCORE.as_bytes());
    let mut slow = connect(&server);
    slow.write_all(&whole[..whole.len() - 5]).unwrap();
    is_alive(&server);
    let text = read_all(&mut slow).unwrap();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert_eq!(code(&text), "body_timeout");
}

#[test]
fn large_bodies_are_refused_however_announced() {
    let server = server(|limits| limits.body_bytes = 1000);
    let large = vec![b' '; 1001];
    let (status, text) = raw(&server, &request("/v1/score", &large));
    assert_eq!((status, code(&text).as_str()), (413, "body_too_large"));
    // Announced but never sent: refused before waiting for it.
    let head = "POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n\
                Content-Length: 99999999999\r\n\r\n";
    assert_eq!(raw(&server, head.as_bytes()).0, 413);
    let mut chunked = b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n\
                        Transfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        chunked.extend(format!("64\r\n{}\r\n", " ".repeat(100)).bytes());
    }
    chunked.extend(b"0\r\n\r\n");
    assert_eq!(raw(&server, &chunked).0, 413);
    is_alive(&server);
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let server = server(|_| ());
    let deep = "[".repeat(500_000);
    let nested = format!("{{\"question\": {}1{}}}", "[".repeat(40), "]".repeat(40));
    for (body, expected) in [
        (deep.as_bytes(), "json_too_deep"),
        (nested.as_bytes(), "json_too_deep"),
        (b"{\"question\": \"\xff\"}".as_slice(), "invalid_utf8"),
        (b"{\"question\": \"1\"", "invalid_json"),
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b"{\"question\": NaN}", "invalid_json"),
        (b"{\"question\": 1e999}", "invalid_json"),
        (b"{\"question\": \"\\ud800\"}", "invalid_json"),
        (b"{} {}", "invalid_json"),
    ] {
        let (status, text) = raw(&server, &request("/v1/score", body));
        assert_eq!(status, 400, "{text}");
        assert_eq!(code(&text), expected);
    }
    is_alive(&server);
}

#[test]
fn floods_of_headers_are_refused() {
    let server = server(|_| ());
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let head = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n{many}\r\n");
    assert_eq!(raw(&server, head.as_bytes()).0, 431);
    let long = "a".repeat(100_000);
    let head = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {long}\r\n\r\n");
    assert!([0, 400, 431].contains(&raw(&server, head.as_bytes()).0));
    let head = format!("GET /{long} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert!([0, 400, 414, 431].contains(&raw(&server, head.as_bytes()).0));
    for garbage in [
        b"\0\0\0\0".as_slice(),
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ] {
        assert!([0, 400].contains(&raw(&server, garbage).0));
    }
    is_alive(&server);
}

#[test]
fn clients_that_leave_do_not_hold_the_model() {
    let server = server(|_| ());
    let long = json!({ "prompt": "1+1=", "max_tokens": 120, "assay": { "n": 64 } }).to_string();
    for round in 0..8 {
        let mut leaving = connect(&server);
        let whole = request("/v1/completions", long.as_bytes());
        let sent = if round % 2 == 0 {
            whole.len()
        } else {
            whole.len() / 2
        };
        leaving.write_all(&whole[..sent]).unwrap();
        leaving.shutdown(Shutdown::Both).unwrap();
    }
    is_alive(&server);
    let text = get(&server, "/metrics").text;
    assert!(text.contains("assay_queue_requests 0"), "{text}");
}

/// A permit is held while a body is awaited, so the next request is refused with the time to wait.
#[test]
fn a_full_service_says_when_to_come_again() {
    let server = server(|limits| limits.requests = 1);
    let whole = request("/v1/score", SCORE.as_bytes());
    let mut full = None;
    // The server may accept the second request before the first. Then the first is refused, and
    // both start again.
    for _ in 0..200 {
        let mut first = connect(&server);
        first.write_all(&whole[..whole.len() - 1]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let next = post(
            &server,
            "/v1/score",
            &json!({ "question": "1", "text": "1" }),
        );
        if next.status == 429 {
            full = Some((first, next));
            break;
        }
    }
    let (mut first, answer) = full.expect("the service is full");
    assert_eq!(answer.code(), "queue_full");
    assert!(
        answer
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert_eq!(get(&server, "/health").status, 200);
    first.write_all(&whole[whole.len() - 1..]).unwrap();
    let mut status = [0; 12];
    first.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[test]
fn requests_beyond_the_token_bound_are_refused() {
    let server = server(|limits| limits.request_tokens = 50);
    let texts: Vec<String> = (0..6).map(|n| format!("1+{n}=1\n").repeat(5)).collect();
    let answer = post(
        &server,
        "/v1/score",
        &json!({ "question": "1+1=", "text": texts }),
    );
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "too_many_tokens")
    );
    let sampled = json!({ "prompt": "1+1=", "max_tokens": 20 });
    let answer = post(&server, "/v1/completions", &sampled);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "too_many_tokens")
    );
    is_alive(&server);
}

#[test]
fn a_long_question_is_not_multiplied() {
    let server = server(|_| ());
    let question = "1+".repeat(30_000);
    let texts = vec!["1"; 200];
    let answer = post(
        &server,
        "/v1/score",
        &json!({ "question": question, "text": texts }),
    );
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "too_many_bytes")
    );
}

#[test]
fn an_answer_that_takes_too_long_ends() {
    let server = server(|limits| limits.request_timeout = Duration::from_millis(1));
    let body = json!({ "prompt": "1+1=", "max_tokens": 120, "assay": { "n": 60 } });
    let answer = post(&server, "/v1/completions", &body);
    assert_eq!((answer.status, answer.code().as_str()), (504, "timeout"));
}

#[test]
fn the_token_is_required_for_work() {
    let settings = ServeSettings {
        token: Some(Token::parse("a long enough-token".replace(' ', "-").as_str()).unwrap()),
        ..ServeSettings::default()
    };
    let server = Running::new(models(None), settings);
    let body = json!({ "question": "1+1=", "text": "2" });
    for path in [
        "/v1/score",
        "/v1/rewards",
        "/rerank",
        "/v1/chat/completions",
    ] {
        let answer = post(&server, path, &body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_api_key")
        );
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        let wrong = [("authorization", "Bearer a-long-enough-tokem")];
        assert_eq!(post_with(&server, path, &body, &wrong).status, 401);
    }
    for path in ["/v1/models", "/metrics"] {
        assert_eq!(get(&server, path).status, 401, "{path}");
    }
    for path in ["/health", "/", "/openapi.json"] {
        assert_eq!(get(&server, path).status, 200, "{path}");
    }
    let right = [("authorization", "Bearer a-long-enough-token")];
    assert_eq!(post_with(&server, "/v1/score", &body, &right).status, 200);
    // With a token, any host name is accepted.
    let head = "GET /health HTTP/1.1\r\nHost: critic.example\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&server, head.as_bytes()).0, 200);
}

/// Requests that a page of another origin could make a browser send.
#[test]
fn strangers_in_a_browser_are_refused() {
    let server = server(|_| ());
    let head = "GET /health HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n";
    let (status, text) = raw(&server, head.as_bytes());
    assert_eq!((status, code(&text).as_str()), (403, "foreign_host"));
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ] {
        let head = format!(
            "POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{SCORE}",
            SCORE.len()
        );
        assert_eq!(raw(&server, head.as_bytes()).0, 415, "{kind}");
    }
    let preflight = "OPTIONS /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n";
    let (status, text) = raw(&server, preflight.as_bytes());
    assert_eq!(status, 405);
    assert!(!text.to_lowercase().contains("access-control-allow"));
}

#[test]
fn no_file_is_served_or_named() {
    let server = server(|_| ());
    for path in [
        "/etc/passwd",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/viewer.js/../../Cargo.toml",
        "/src",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        let (status, text) = raw(&server, head.as_bytes());
        assert_eq!(
            (status, code(&text).as_str()),
            (404, "unknown_route"),
            "{path}"
        );
    }
    let odd = json!({ "question": "{% raise %} ../ \u{0}", "text": "\u{feff}\u{202e} 1 <|end|>" });
    let answer = post(&server, "/v1/rewards", &odd);
    assert_eq!(answer.status, 200);
}
