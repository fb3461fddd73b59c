//! An HTTP client, and raw sockets for malformed requests. Every JSON response is checked against
//! the description at `/openapi.json`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::contract;
use crate::world::Running;

/// Longest wait of a test for an answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The error's code.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .build()
        .into()
}

fn finish(path: &str, method: &str, mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let headers = response.headers().iter().map(|(name, value)| {
        let value = value.to_str().unwrap().to_owned();
        (name.as_str().to_owned(), value)
    });
    let answer = Answer {
        status: response.status().as_u16(),
        headers: headers.collect(),
        text: response.body_mut().read_to_string().unwrap(),
    };
    if answer.header("content-type") == Some("application/json") {
        contract::check(method, path, answer.status, &answer.json());
    }
    answer
}

pub(crate) fn get(server: &Running, path: &str) -> Answer {
    let url = format!("http://{}{path}", server.address);
    finish(path, "get", agent().get(url).call().unwrap())
}

pub(crate) fn post(server: &Running, path: &str, body: &Value) -> Answer {
    post_with(server, path, body, &[])
}

pub(crate) fn post_with(
    server: &Running,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> Answer {
    let url = format!("http://{}{path}", server.address);
    let mut request = agent().post(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    finish(path, "post", request.send_json(body).unwrap())
}

/// The JSON of a response; fails if it is not JSON.
pub(crate) fn answered(server: &Running, path: &str, body: &Value) -> Value {
    let answer = post(server, path, body);
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// Status, code and field of a refused request.
pub(crate) fn refused(server: &Running, path: &str, body: &Value) -> (u16, String, Value) {
    let answer = post(server, path, body);
    assert!(answer.status >= 400, "{body} was answered: {}", answer.text);
    (
        answer.status,
        answer.code(),
        answer.json()["error"]["param"].clone(),
    )
}

/// The message of a refused request.
pub(crate) fn message(server: &Running, path: &str, body: &Value) -> String {
    let answer = post(server, path, body);
    assert_eq!(answer.status, 400, "{body}: {}", answer.text);
    answer.json()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// A connection over which anything can be sent.
pub(crate) fn connect(server: &Running) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// All bytes until the other side closes; `None` if it does not close.
pub(crate) fn read_all(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    for _ in 0..10_000 {
        match stream.read(&mut part) {
            Ok(0) => return Some(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            Err(_) => return None,
        }
    }
    None
}

/// The status of the response to raw bytes; 0 if the connection was closed without a response.
pub(crate) fn raw(server: &Running, request: &[u8]) -> (u16, String) {
    let mut stream = connect(server);
    // The server may refuse and close before everything is sent.
    let _ = stream.write_all(request);
    let text = read_all(&mut stream).expect("the server closes the connection");
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.unwrap_or(0), text)
}

/// A request with a body, closing the connection after it.
pub(crate) fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
