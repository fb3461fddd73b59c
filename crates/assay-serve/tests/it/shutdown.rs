//! During shutdown no new request is accepted, and accepted requests are answered.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use assay_serve::ServeSettings;
use serde_json::json;

use crate::http::{connect, read_all, request};
use crate::world::{Running, models, policy};

#[test]
fn shutdown_answers_old_requests_and_takes_no_new() {
    let mut server = Running::default_of(models(policy()));
    let body = json!({ "prompt": "1+1=", "max_tokens": 60, "assay": { "n": 16 } }).to_string();
    let whole = request("/v1/completions", body.as_bytes());
    let mut clients: Vec<TcpStream> = (0..6).map(|_| connect(&server)).collect();
    for client in &mut clients {
        client.write_all(&whole[..whole.len() - 1]).unwrap();
    }
    // Wait until all of them are being answered.
    let in_flight = || {
        crate::http::get(&server, "/metrics")
            .text
            .contains("assay_requests_in_flight 7")
    };
    assert!((0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        in_flight()
    }));
    server.tell_to_stop();
    let refused = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        TcpStream::connect(server.address).is_err()
    });
    assert!(refused, "the server still listens");
    for client in &mut clients {
        client.write_all(&whole[whole.len() - 1..]).unwrap();
    }
    for client in &mut clients {
        let text = read_all(client).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    server.join();
}

#[test]
fn the_grace_period_is_bounded() {
    let mut settings = ServeSettings::default();
    settings.limits.shutdown_grace = Duration::from_millis(100);
    let mut server = Running::new(models(None), settings);
    let mut held = connect(&server);
    held.write_all(b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
        .unwrap();
    std::thread::sleep(Duration::from_millis(50));
    server.tell_to_stop();
    server.join();
    assert!(read_all(&mut held).is_some());
}
